#!/bin/bash
# lab: pfs=1 timeout=240 group=calls
# Networks, ports and guests that are changed while they run, and what is told of interfaces.
. "$(dirname "$0")/lib.sh"
pf=$LAB_PF0

# A wire of our own: the NIC 'p0' here, a station at its other end.
ip netns add station
ip link add p0 type veth peer name p1 netns station
ip -n station addr add 10.7.0.1/24 dev p1
ip -n station link set p1 up
ip link add p2 type veth peer name p3

# pings: the station asks the guest, and gets an answer
pings() {
    for _ in $(seq 60); do
        ip netns exec station ping -c1 -W1 10.7.0.2 >/dev/null 2>&1 && return
    done
    return 1
}

# told WANTED COMMAND…: the command says that
told() {
    local wanted=$1
    shift
    "$@" >told.out 2>&1 || fail "'$*': $(cat told.out)"
    grep -q -- "$wanted" told.out || fail "'$*' should say '$wanted', and says: $(cat told.out)"
}

cat >nic.xml <<END
<network><name>nic</name><forward mode='bridge'><interface dev='p0'/></forward></network>
END
virsh -q net-define nic.xml
virsh -q net-start nic
# Without a console its first program does not come up.
guest_xml g1 52:54:00:aa:dd:01 nic 10.7.0.2/24 "<serial type='pty'/>" "<model type='virtio'/>" >g1.xml
virsh -q define --validate g1.xml
virsh -q start g1
pings || fail "the guest does not answer"

echo "A network is changed while a guest is on it"
virsh -q net-update nic add forward-interface "<interface dev='p2'/>" --live --config
told "<interface dev='p0' connections='1'/>" virsh net-dumpxml nic
told "<interface dev='p2'/>" virsh net-dumpxml nic --inactive
refused "1 of its guests" virsh net-update nic delete forward-interface "<interface dev='p0'/>" --live
virsh -q net-update nic delete forward-interface "<interface dev='p2'/>" --live --config
virsh -q net-desc nic "the wire" --live
told "the wire" virsh net-desc nic
virsh -q net-metadata nic urn:k --key k --set '<note at="1"/>' --live
told '^<note at="1"/>$' virsh net-metadata nic urn:k
pings || fail "the guest lost its connection"

echo "What went through its interface"
told "rx_bytes [1-9]" virsh domifstat g1 macvtap0
told "tx_packets [1-9]" virsh domifstat g1 52:54:00:aa:dd:01
told "net.0.name=macvtap0" virsh domstats g1 --interface
told "net.0.rx.bytes=[1-9]" virsh domstats --interface

echo "Its cable is pulled out, and put back"
virsh -q domif-setlink g1 macvtap0 down
told "macvtap0 down" virsh domif-getlink g1 macvtap0
ip netns exec station ping -c2 -W1 10.7.0.2 >/dev/null 2>&1 && fail "it answers without a cable"
virsh -q domif-setlink g1 macvtap0 up
pings || fail "it does not answer with its cable back"

echo "It is shaped, read back from the kernel, and let go"
virsh -q domiftune g1 macvtap0 --inbound 1000,2000,64 --outbound 500 --live
told "inbound.average: 1000" virsh domiftune g1 macvtap0
told "outbound.average: 500" virsh domiftune g1 macvtap0
[ -n "$(tc qdisc show dev macvtap0 | grep -v noqueue)" ] || fail "nothing shapes macvtap0: $(tc qdisc show dev macvtap0)"
pings || fail "it does not answer while it is shaped"
virsh -q domiftune g1 macvtap0 --inbound 0 --outbound 0 --live
tc qdisc show dev macvtap0 | grep -Eq 'htb|ingress|clsact' && fail "still shaped: $(tc qdisc show dev macvtap0)"

echo "Ports, as libvirt's Python knows them"
python3 - <<'END' || fail "port parameters"
import libvirt
conn = libvirt.open("qemu:///system")
[port] = conn.networkLookupByName("nic").listAllPorts()
assert port.parameters()["inbound.average"] == 0, port.parameters()
port.setParameters({"inbound.average": 800})
assert port.parameters()["inbound.average"] == 800, port.parameters()
guest = conn.lookupByName("g1")
assert guest.interfaceParameters("macvtap0", 0)["inbound.average"] == 800
END
virsh -q destroy g1

echo "The link of a VF, where its driver has one"
start_network vfs "$pf"
before=$(as_found "$pf" 0)
guest_xml g2 52:54:00:aa:dd:02 vfs >g2.xml
virsh -q create --paused g2.xml
refused "link state of its VFs" virsh domif-setlink g2 52:54:00:aa:dd:02 down
refused "nothing is counted" virsh domifstat g2 52:54:00:aa:dd:02
refused "<virtnic:vf rate=" virsh domiftune g2 52:54:00:aa:dd:02 --inbound 100
virsh -q destroy g2
[ "$(as_found "$pf" 0)" = "$before" ] || fail "VF 0 was '$before' and is '$(as_found "$pf" 0)'"

echo "The host's own interfaces"
ip link add br7 type bridge stp_state 1
ip link add bond7 type bond mode active-backup miimon 100
ip link set bond7 master br7
ip link add link p0 name p0.42 type vlan id 42
told "$pf *active" virsh iface-list
told "br7 *inactive" virsh iface-list --all
told "<bridge stp='on'" virsh iface-dumpxml br7
told "<bond mode='active-backup'>" virsh iface-dumpxml br7
told "<miimon freq='100'" virsh iface-dumpxml bond7
told "<vlan tag='42'>" virsh iface-dumpxml p0.42
told "$pf" virsh iface-name "$(cat "/sys/class/net/$pf/address")"
nothing_lent
