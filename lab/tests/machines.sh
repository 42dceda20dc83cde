#!/bin/bash
# lab: pfs=1 timeout=200 group=machines
# What a guest can be made of: machines, disks, consoles, CPUs; QEMU gets all of it.
. "$(dirname "$0")/lib.sh"
pf=$LAB_PF0
start_network vfs "$pf"

# hmp GUEST COMMAND…: what QEMU's monitor says
hmp() {
    local guest=$1
    shift
    virsh -q qemu-monitor-command --hmp "$guest" "$@"
}

echo "q35 with virtio and sata disks, raw and qcow2, from files and a block device"
mkdir -m 755 /var/lib/images
qemu-img create -q -f raw /var/lib/images/raw.img 16M
qemu-img create -q -f qcow2 /var/lib/images/cow.qcow2 16M
modprobe loop
loop=$(losetup -f --show /var/lib/images/raw.img)
qemu-img create -q -f raw /var/lib/images/cd.img 1M
disks="
<disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='/var/lib/images/cow.qcow2'/><target dev='vda' bus='virtio'/></disk>
<disk type='block' device='disk'><driver name='qemu' type='raw'/><source dev='$loop'/><target dev='sda' bus='sata'/></disk>
<disk type='file' device='cdrom'><driver name='qemu' type='raw'/><source file='/var/lib/images/cd.img'/><target dev='sdb' bus='sata'/><readonly/></disk>
<serial type='file'><source path='$work/serial.log'/></serial>
<rng model='virtio'><backend model='random'>/dev/urandom</backend></rng>"
guest_xml g1 52:54:00:aa:bb:01 vfs "" "$disks" |
    sed "s|<vcpu>1</vcpu>|<vcpu>2</vcpu><cpu mode='custom'><model>qemu64</model></cpu>|
         s|<memballoon model='none'/>|<memballoon model='virtio'/>|" >g1.xml
virsh -q create --paused g1.xml
hmp g1 info block >block
for text in qcow2 virtio-disk0 sata0-0-0 sata0-0-1; do grep -q "$text" block || fail "no $text: $(cat block)"; done
hmp g1 info cpus | grep -q "CPU #1" || fail "there is no second CPU: $(hmp g1 info cpus)"
hmp g1 info balloon | grep -q actual || fail "no balloon: $(hmp g1 info balloon)"
hmp g1 info qtree >tree
for text in virtio-rng-pci virtio-blk-pci ide-hd ide-cd vfio-pci pcie-root-port isa-serial; do
    grep -q "dev: $text" tree || fail "QEMU has no $text"
done
ps -o user= -p "$(pgrep -f guest=g1)" | grep -qv root || fail "QEMU runs as root"
virsh -q destroy g1

echo "pc, with a virtio console"
guest_xml g2 52:54:00:aa:bb:02 vfs "" "<console type='pty'/>" | sed "s/machine='q35'/machine='pc'/" >g2.xml
virsh -q create --paused g2.xml
hmp g2 info qtree | grep -q "dev: vfio-pci" || fail "no VF on pc"
virsh -q dumpxml g2 | grep -q "machine='pc" || fail "another machine: $(virsh dumpxml g2)"
virsh -q destroy g2

echo "Two VFs for one guest, on addresses of its own"
two="<interface type='network'><mac address='52:54:00:aa:bb:04'/><source network='vfs'/></interface>"
guest_xml g3 52:54:00:aa:bb:03 vfs "" "$two" >g3.xml
virsh -q define g3.xml
[ "$(virsh -q dumpxml g3 | grep -c "bus='0x0[12]' slot='0x00'")" -ge 2 ] || fail "$(virsh dumpxml g3)"
virsh -q start --paused g3
[ "$(virtnic who --json | grep -c '"guest": *"g3"')" = 2 ] || fail "$(virtnic who)"
virsh -q destroy g3
losetup -d "$loop"
nothing_lent
