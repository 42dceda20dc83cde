#!/bin/bash
# lab: pfs=2 timeout=240 group=refusals
# What can't be done is refused in one clear line, and changes nothing.
. "$(dirname "$0")/lib.sh"
pf=$LAB_PF0
before=$(as_found "$pf" 0)

echo "Networks"
network_xml none nosuch0 >none.xml
virsh -q net-define none.xml
refused "there is no network device 'nosuch0'" virsh net-start none
network_xml lo lo >lo.xml
virsh -q net-define lo.xml
refused "network device 'lo' is not a PCI device" virsh net-start lo
echo 0 >"/sys/class/net/$LAB_PF1/device/sriov_numvfs"
network_xml novfs "$LAB_PF1" >novfs.xml
virsh -q net-define novfs.xml
refused "has no VFs" virsh net-start novfs
refused "is not active" virsh net-destroy none
cat >address.xml <<END
<network><name>address</name><forward mode='hostdev' managed='yes'>
<address type='pci' domain='0' bus='1' slot='0' function='0'/></forward></network>
END
refused "0000:01:00.0 is not an SR-IOV Virtual Function" virsh net-define address.xml
start_network vfs "$pf"
refused "already active" virsh net-start vfs
uuid=$(virsh -q net-uuid vfs)
network_xml other "$pf" "<uuid>$uuid</uuid>" >other.xml
refused "is already defined with uuid $uuid" virsh net-define other.xml
network_xml vfs "$pf" "<uuid>11111111-2222-4333-8444-555555555555</uuid>" >same.xml
refused "already exists with uuid $uuid" virsh net-define same.xml

echo "A network that is not active"
guest_xml g1 52:54:00:aa:bb:01 none >g1.xml
refused "network 'none' is not active" virsh create g1.xml

echo "A VLAN trunk"
guest_xml g1 52:54:00:aa:bb:01 vfs "" "" "<vlan trunk='yes'><tag id='1'/><tag id='2'/></vlan>" >g1.xml
refused "no trunk" virsh create g1.xml

echo "A PF where a VF is wanted"
sed "s|<interface type='network'>|<interface type='hostdev' managed='yes'>|
     s|<source network='vfs'/>|<source><address type='pci' domain='0' bus='1' slot='0' function='0'/></source>|" \
    <(guest_xml g1 52:54:00:aa:bb:01 vfs) >g1.xml
refused "0000:01:00.0 is not an SR-IOV Virtual Function" virsh create g1.xml

echo "A PF that is down"
guest_xml g1 52:54:00:aa:bb:01 vfs >g1.xml
ip link set "$pf" down
refused "ip link set $pf up" virsh create g1.xml
ip link set "$pf" up
nothing_lent

echo "QEMU that is missing, or does not start"
sed "s|<devices>|<devices><emulator>/nowhere/qemu</emulator>|" g1.xml >noqemu.xml
refused "/nowhere/qemu" virsh create noqemu.xml
sed "s|$LAB_GUEST_KERNEL|/nowhere/kernel|" g1.xml >nokernel.xml
refused "/nowhere/kernel" virsh create nokernel.xml
nothing_lent
[ "$(as_found "$pf" 0)" = "$before" ] || fail "VF 0 was '$before' and is '$(as_found "$pf" 0)'"

echo "What is not carried out, all of it at once"
guest_xml g1 52:54:00:aa:bb:01 vfs "" "<tpm model='tpm-tis'><backend type='emulator'/></tpm><sound model='ich9'/>" >g1.xml
refused "tpm" virsh create g1.xml
grep -q sound refused.out || fail "the sound card is not named: $(cat refused.out)"

echo "A disk that is full under /run"
guest_xml g1 52:54:00:aa:bb:01 vfs >g1.xml
mount -t tmpfs -o size=4k none /run/virtnic/devices
head -c 4096 /dev/zero >/run/virtnic/devices/full
refused "No space left on device" virsh create g1.xml
umount /run/virtnic/devices
nothing_lent
[ "$(as_found "$pf" 0)" = "$before" ] || fail "VF 0 was '$before' and is '$(as_found "$pf" 0)'"

echo "A VF that the host uses is passed over"
ip addr add 192.0.2.1/24 dev "$(vf_netdev "$pf" 0)"
ip link set "$(vf_netdev "$pf" 0)" up
virsh -q create --paused g1.xml
[ "$(vf_driver "$pf" 0)" = igbvf ] || fail "a VF with an address was lent"
[ "$(vf_driver "$pf" 1)" = vfio-pci ] || fail "the next VF was not lent"
virsh -q destroy g1

echo "A pool that has nothing left"
for number in 1 2 3 4 5 6; do
    cat >port.xml <<END
<networkport><uuid>00000000-0000-4000-8000-00000000000$number</uuid>
<owner><name>borrower$number</name><uuid>00000000-0000-4000-8000-00000000001$number</uuid></owner>
<mac address='52:54:00:00:00:0$number'/></networkport>
END
    virsh -q net-port-create vfs port.xml
done
refused "7 VFs of $pf" virsh create g1.xml
for text in "6 lent" borrower1 192.0.2.1 "stop a guest"; do
    grep -qF "$text" refused.out || fail "the refusal does not say '$text': $(cat refused.out)"
done
for number in 1 2 3 4 5 6; do
    virsh -q net-port-delete vfs "00000000-0000-4000-8000-00000000000$number"
done
nothing_lent
