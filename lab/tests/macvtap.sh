#!/bin/bash
# lab: pfs=1 timeout=300 group=macvtap
# Guests on macvtap and bridges: over a NIC, over a VF, with their filters, and nothing left behind.
. "$(dirname "$0")/lib.sh"
pf=$LAB_PF0

# A wire of our own: the NIC 'p0' here, a station at its other end.
ip netns add station
ip link add p0 type veth peer name p1 netns station
ip -n station addr add 10.7.0.1/24 dev p1
ip -n station link set p1 up

# answers IP [SECONDS]: the station gets an answer from there
answers() {
    for _ in $(seq "${2:-60}"); do
        ip netns exec station ping -c1 -W1 "$1" >/dev/null 2>&1 && return
    done
    return 1
}

# Without it the guest's first program does not come up.
console="<serial type='pty'/>"

# links: macvtaps and taps that are there
links() {
    ip -br link show | grep -E '^(macvtap|vnet)' || :
}

cat >nic.xml <<END
<network><name>nic</name><forward mode='bridge'><interface dev='p0'/></forward></network>
END
virsh -q net-define nic.xml
virsh -q net-start nic

echo "A guest on macvtap over a NIC that was down"
[ "$(cat /sys/class/net/p0/operstate)" = down ] || fail "p0 should be down at first"
guest_xml g1 52:54:00:aa:dd:01 nic 10.7.0.2/24 "$console" "<model type='virtio'/>" >g1.xml
virsh -q create g1.xml
virsh domiflist g1 | grep -q "macvtap0 *direct" || fail "domiflist: $(virsh domiflist g1)"
virtnic who | grep -q macvtap0 || fail "who: $(virtnic who)"
answers 10.7.0.2 || fail "the guest does not answer"
virsh net-dumpxml nic | grep -q "<interface dev='p0' connections='1'/>" || fail "$(virsh net-dumpxml nic)"
ip -d link show macvtap0 | grep -q "mode bridge" || fail "$(ip -d link show macvtap0)"

echo "It has no right of its own to it"
pid=$(pgrep -f 'guest=g1')
[ "$(stat -c %U "/proc/$pid")" != root ] || fail "QEMU runs as root"

echo "Multicast reaches it, and its MAC is not its own to change"
ip link show macvtap0 | grep -q ALLMULTI || fail "not all multicasts are let in: $(ip link show macvtap0)"

echo "A paused guest's link is off, and the guest comes back"
virsh -q suspend g1
ip link show macvtap0 | grep -q '<.*[<,]UP[,>]' && fail "the link is on while the guest is paused"
virsh -q resume g1
answers 10.7.0.2 || fail "it does not answer after its pause"

echo "The daemon dies; the guest goes on, and nothing is lost"
kill_daemon
answers 10.7.0.2 5 || fail "the guest lost its connection with the daemon"
start_daemon
virsh net-dumpxml nic | grep -q "<interface dev='p0' connections='1'/>" || fail "$(virsh net-dumpxml nic)"
virsh domifstat g1 macvtap0 | grep -q 'rx_bytes [1-9]' || fail "$(virsh domifstat g1 macvtap0)"

echo "net-destroy with a guest on it"
virsh -q net-destroy nic
answers 10.7.0.2 5 || fail "the guest lost its connection with the network"
virsh -q net-start nic
virsh net-dumpxml nic | grep -q "<interface dev='p0' connections='1'/>" || fail "$(virsh net-dumpxml nic)"

echo "Its end leaves nothing behind"
virsh -q destroy g1
[ -z "$(links)" ] || fail "left behind: $(links)"
ip link show p0 | grep -q '<.*[<,]UP[,>]' && fail "p0 was down, and is up now"
nothing_lent

echo "Its start is told once"
virsh event --event lifecycle --loop --timeout 100 >told 2>&1 &
listener=$!
until grep -q Started told; do
    virsh -q create g1.xml
    virsh -q destroy g1
done
until grep -q Stopped told; do read -rt 0.1 <> <(:) || :; done
kill "$listener"
[ "$(grep -c Resumed told)" = "$(grep -c Started told)" ] || fail "told: $(cat told)"

echo "A QEMU that is killed leaves nothing behind either"
virsh -q create g1.xml
crash "$(pgrep -f 'guest=g1')"
until [ "$(virtnic who --json)" = "[]" ]; do read -rt 0.2 <> <(:) || :; done
[ -z "$(links)" ] || fail "left behind: $(links)"

echo "Modes that a network does not offer are refused"
sed "s|</forward>|</forward><virtnic:direct modes='bridge private'/>|
     s|<network>|<network xmlns:virtnic='urn:virtnic:1'>|" nic.xml >narrow.xml
virsh -q net-destroy nic
virsh -q net-undefine nic
virsh -q net-define narrow.xml
virsh -q net-start nic
sed "s|<model type='virtio'/>|&<virtnic:direct mode='vepa'/>|
     s|<domain |<domain xmlns:virtnic='urn:virtnic:1' |" g1.xml >vepa.xml
refused "macvtap mode 'vepa' is not offered, only bridge, private" virsh create vepa.xml
sed "s/vepa/private/" vepa.xml >private.xml
virsh -q create --paused private.xml
ip -d link show macvtap0 | grep -q "mode private" || fail "$(ip -d link show macvtap0)"
virsh -q destroy g1

echo "Passthrough on a VF: MAC and VLAN through the PF, and back"
before=$(as_found "$pf" 0)
cat >whole.xml <<END
<network><name>whole</name><forward mode='passthrough'><pf dev='$pf'/></forward>
<vlan><tag id='42'/></vlan></network>
END
virsh -q net-define whole.xml
virsh -q net-start whole
guest_xml g2 52:54:00:aa:dd:02 whole "" "" "<model type='virtio'/>" >g2.xml
virsh -q create --paused g2.xml
vf_state "$pf" 0 | grep -q 'vlan 42' || fail "VF 0: $(vf_state "$pf" 0)"
[ "$(cat "/sys/class/net/$(vf_netdev "$pf" 0)/address")" = 52:54:00:aa:dd:02 ] || fail "the VF has not the guest's MAC"
virsh -q destroy g2
[ -z "$(links)" ] || fail "left behind: $(links)"
[ "$(as_found "$pf" 0)" = "$before" ] || fail "VF 0 was '$before' and is '$(as_found "$pf" 0)'"

echo "A bridge, with VLANs and isolated ports"
ip link add br7 type bridge vlan_filtering 1
ip link set br7 up
ip link set p0 master br7
ip link set p0 up
cat >br.xml <<END
<network><name>br</name><forward mode='bridge'/><bridge name='br7'/></network>
END
virsh -q net-define br.xml
virsh -q net-start br
guest_xml g3 52:54:00:aa:dd:03 br 10.7.0.3/24 "$console" "<model type='virtio'/><port isolated='yes'/>" >g3.xml
virsh -q create g3.xml
answers 10.7.0.3 || fail "the guest on the bridge does not answer"
tap=$(virsh domiflist g3 | awk '/52:54/ {print $1}')
bridge -d link show dev "$tap" | grep -q 'isolated on' || fail "$(bridge -d link show dev "$tap")"
refused "p0 belongs to br7" virsh create g1.xml
guest_xml g4 52:54:00:aa:dd:04 br "" "" "<model type='virtio'/><vlan><tag id='42'/></vlan>" >g4.xml
virsh -q create --paused g4.xml
tap=$(virsh domiflist g4 | awk '/52:54/ {print $1}')
bridge vlan show dev "$tap" | grep -q '42 PVID Egress Untagged' || fail "$(bridge vlan show dev "$tap")"
bridge vlan show dev "$tap" | grep -qw 1 && fail "still in VLAN 1: $(bridge vlan show dev "$tap")"
virsh -q destroy g4
virsh -q destroy g3
[ -z "$(links)" ] || fail "left behind: $(links)"
nothing_lent
