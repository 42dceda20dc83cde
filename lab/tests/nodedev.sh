#!/bin/bash
# lab: pfs=2 timeout=300 group=nodedev
# Node devices: what clients choose a card by; and taking one from the host, for a guest or for nobody.
. "$(dirname "$0")/lib.sh"
pf=$LAB_PF0

# node ADDRESS: its name among node devices
node() {
    echo "pci_${1//[:.]/_}"
}

# driver ADDRESS
driver() {
    basename "$(readlink "/sys/bus/pci/devices/$1/driver")"
}

# says TEXT COMMAND…: the command succeeds, and says that
says() {
    local wanted=$1
    shift
    "$@" >said.out 2>&1 || fail "'$*' failed: $(cat said.out)"
    grep -qF -- "$wanted" said.out || fail "'$*' should say '$wanted', and says: $(cat said.out)"
}

# is_on DRIVER ADDRESS
is_on() {
    [ "$(driver "$2")" = "$1" ] || fail "$2 should have driver $1, and has '$(driver "$2")'"
}

pf_address=$(basename "$(readlink "/sys/class/net/$pf/device")")
vf=$(vf_address "$pf" 0)
pf_node=$(node "$pf_address")
vf_node=$(node "$vf")

echo "A card is told with its names, its place and its link"
virsh -q nodedev-dumpxml "$pf_node" >pf.xml
for wanted in "<vendor id='0x8086'>Intel" "<product id='0x10c9'>82576" "<link validity='cap' port=" \
    "<link validity='sta'" "<path>/sys/devices/pci0000:00/" "<parent>pci_0000_00_" "<name>igb</name>" \
    "<capability type='virt_functions' maxCount='7'>" "<iommuGroup number="; do
    grep -qF -- "$wanted" pf.xml || fail "no $wanted in: $(cat pf.xml)"
done
[ "$(grep -c "<address domain='0x0000'" pf.xml)" -ge 8 ] || fail "seven VFs, and its group: $(cat pf.xml)"
[ -d "$(sed -n 's|.*<path>\(.*\)</path>|\1|p' pf.xml)" ] || fail "its path is not there: $(cat pf.xml)"
says "<capability type='phys_function'>" virsh -q nodedev-dumpxml "$vf_node"
says "<product id='0x10ca'>82576 Virtual Function" virsh -q nodedev-dumpxml "$vf_node"
net_node=$(virsh -q nodedev-list --cap net | grep "^net_${pf}_")
virsh -q nodedev-dumpxml "$net_node" >net.xml
for wanted in "<parent>$pf_node</parent>" "<link speed='1000' state='up'/>" "<feature name='tso'/>" \
    "<feature name='rxvlan'/>" "<capability type='80203'/>"; do
    grep -qF -- "$wanted" net.xml || fail "no $wanted in: $(cat net.xml)"
done

echo "Everything hangs on the host in one tree"
virsh -q nodedev-list --tree >tree
[ "$(grep -c '^[^ ]' tree)" = 1 ] || fail "several roots: $(grep '^[^ ]' tree)"
grep -A3 -F "+- $vf_node" tree | grep -qF "+- net_" || fail "a VF's network device is not on it: $(cat tree)"
[ -z "$(virsh -q nodedev-list --inactive)" ] || fail "inactive: $(virsh -q nodedev-list --inactive)"
says "$vf_node" virsh -q nodedev-info "$vf_node"

echo "libvirt-python, with the older calls and the newer; and Nova's way to find PCI devices"
python3 - <<'END' || fail "the Python client"
import libvirt
import xml.etree.ElementTree as ET

conn = libvirt.openReadOnly("qemu:///system")
for cap, flag in ((None, 0), ("pci", libvirt.VIR_CONNECT_LIST_NODE_DEVICES_CAP_PCI_DEV),
                  ("net", libvirt.VIR_CONNECT_LIST_NODE_DEVICES_CAP_NET),
                  ("usb_device", libvirt.VIR_CONNECT_LIST_NODE_DEVICES_CAP_USB_DEV)):
    newer = sorted(device.name() for device in conn.listAllDevices(flag))
    assert sorted(conn.listDevices(cap, 0)) == newer, cap
    assert conn.numOfDevices(cap, 0) == len(newer), cap

def address(element):
    part = lambda name: int(element.get(name), 16)
    return "%04x:%02x:%02x.%x" % (part("domain"), part("bus"), part("slot"), part("function"))

kinds = {"type-PCI": [], "type-PF": [], "type-VF": []}
for name in conn.listDevices("pci", 0):
    device = conn.nodeDeviceLookupByName(name)
    assert device.listCaps() == ["pci"] and device.numOfCaps() == 1
    pci = ET.fromstring(device.XMLDesc(0)).find("capability[@type='pci']")
    number = lambda tag: int(pci.findtext(tag))
    own = "%04x:%02x:%02x.%x" % tuple(number(tag) for tag in ("domain", "bus", "slot", "function"))
    kind, parent = "type-PCI", None
    for function in pci.findall("capability"):
        if function.get("type") == "virt_functions":
            # A PF without VFs is a plain device to Nova.
            kind = "type-PF" if function.findall("address") or function.get("maxCount") else kind
        if function.get("type") == "phys_function":
            kind, parent = "type-VF", address(function.find("address"))
    kinds[kind].append((own, parent, pci.find("vendor").get("id"), pci.find("product").get("id")))
pfs = {own for own, *_ in kinds["type-PF"]}
assert len(pfs) == 2, kinds
assert len(kinds["type-VF"]) == 14, kinds
for own, parent, vendor, product in kinds["type-VF"]:
    assert parent in pfs and (vendor, product) == ("0x8086", "0x10ca"), (own, parent, vendor, product)
END

echo "A VF is taken from the host, and given back"
was=$(as_found "$pf" 0)
netdev=$(vf_netdev "$pf" 0)
virsh -q nodedev-event --event lifecycle --loop --timeout 60 >events 2>&1 &
listener=$!
# Whoever listens hears of a device that comes and goes.
until grep -q Created events; do
    ip link add ear0 type dummy
    ip link del ear0
done
says "Device $vf_node detached" virsh nodedev-detach "$vf_node"
is_on vfio-pci "$vf"
for _ in $(seq 100); do
    grep -q "net_${netdev}_.*Deleted" events && break
    read -rt 0.1 <> <(:) || :
done
grep -q "net_${netdev}_.*Deleted" events || fail "nobody heard that its network device went: $(cat events)"
kill $listener
wait $listener 2>/dev/null || :
says "Device $vf_node reset" virsh nodedev-reset "$vf_node"
virtnic who | grep -qF detached || fail "who: $(virtnic who)"
# With differences its status is not 0.
{ virtnic reconcile --json || :; } | grep -qF "virsh nodedev-reattach $vf_node" || fail "reconcile: $(virtnic reconcile)"

echo "It stays so when the daemon is killed"
kill_daemon
start_daemon
is_on vfio-pci "$vf"
virtnic who | grep -qF detached || fail "who, after a restart: $(virtnic who)"

echo "A guest has it, unmanaged; and it is detached again afterwards"
cat >hostdev.xml <<END
<hostdev mode='subsystem' type='pci' managed='no'>
  <source><address domain='0x${vf:0:4}' bus='0x${vf:5:2}' slot='0x${vf:8:2}' function='0x${vf:11:1}'/></source>
</hostdev>
END
cat >g1.xml <<END
<domain type='${LAB_GUEST_TYPE:-qemu}'>
  <name>g1</name><memory unit='MiB'>128</memory><vcpu>1</vcpu>
  <os><type arch='x86_64' machine='q35'>hvm</type><kernel>$LAB_GUEST_KERNEL</kernel><initrd>$LAB_GUEST_INITRD</initrd>
  <cmdline>console=ttyS0 quiet</cmdline></os>
  <devices><controller type='usb' model='none'/>$(cat hostdev.xml)<memballoon model='none'/></devices>
</domain>
END
virsh -q define g1.xml
virsh -q start g1
for command in detach reattach reset; do
    refused "lent to guest 'g1'" virsh -q "nodedev-$command" "$vf_node"
done
refused "lent to guest 'g1'" virsh -q nodedev-detach "$pf_node"
virsh -q destroy g1
is_on vfio-pci "$vf"
virtnic who | grep -qF detached || fail "who, after the guest: $(virtnic who)"
says "re-attached" virsh nodedev-reattach "$vf_node"
is_on igbvf "$vf"
[ "$(as_found "$pf" 0)" = "$was" ] || fail "it was $was, and is $(as_found "$pf" 0)"
nothing_lent
refused "not managed" virsh -q start g1
virsh -q undefine g1

netdev=$(vf_netdev "$pf" 0)
echo "What the host uses is not taken"
ip link set "$netdev" up
ip addr add 10.9.0.1/24 dev "$netdev"
refused "$netdev is up with 10.9.0.1/24" virsh -q nodedev-detach "$vf_node"
refused "$netdev is up with 10.9.0.1/24" virsh -q nodedev-reset "$vf_node"
ip addr flush dev "$netdev"
ip link set "$netdev" down
ip link add br9 type bridge
ip link set "$netdev" master br9
refused "$netdev belongs to br9" virsh -q nodedev-detach "$vf_node"
ip link set "$netdev" nomaster
ip link del br9
refused "it has 7 VFs" virsh -q nodedev-detach "$pf_node"
refused "is not a PCI device" virsh -q nodedev-detach computer
refused "Node device not found" virsh -q nodedev-detach pci_0000_77_00_0

echo "A card without VFs, with an address, and as a plain managed device of a guest"
other=$LAB_PF1
other_address=$(basename "$(readlink "/sys/class/net/$other/device")")
other_node=$(node "$other_address")
echo 0 >"/sys/class/net/$other/device/sriov_numvfs"
ip addr add 10.9.1.1/24 dev "$other"
ip link set "$other" up
refused "$other is up with 10.9.1.1/24" virsh -q nodedev-detach "$other_node"
sed "s/managed='no'/managed='yes'/
     s/bus='0x${vf:5:2}' slot='0x${vf:8:2}' function='0x${vf:11:1}'/bus='0x${other_address:5:2}' slot='0x${other_address:8:2}' function='0x${other_address:11:1}'/" g1.xml >g2.xml
virsh -q define g2.xml
refused "$other is up with 10.9.1.1/24" virsh -q start g1
virsh -q undefine g1
ip addr flush dev "$other"
virsh -q nodedev-detach "$other_node" --driver vfio
is_on vfio-pci "$other_address"
virsh -q nodedev-reattach "$other_node"
is_on igb "$other_address"
nothing_lent
[ "$(virtnic reconcile --json)" = "[]" ] || fail "reconcile: $(virtnic reconcile)"
# As it was found.
other=$(ls "/sys/bus/pci/devices/$other_address/net")
ip link set "$other" up
echo 7 >"/sys/class/net/$other/device/sriov_numvfs"
