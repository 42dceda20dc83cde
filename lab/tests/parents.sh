#!/bin/bash
# lab: pfs=1 timeout=300 group=parents
# Guests on macvtap over a bond, over a VLAN and through a switch; and what is told of all that.
. "$(dirname "$0")/lib.sh"
pf=$LAB_PF0

# A wire of our own: the NIC 'p0' here; at its other end a switch that has the station's address.
ip netns add station
ip -n station link add switch type bridge
ip -n station addr add 10.7.0.1/24 dev switch
ip -n station link set switch up
# wire NAME: a NIC here, on a port of that switch
wire() {
    ip link add "$1" type veth peer name "$1s" netns station
    ip -n station link set "$1s" master switch up
}
wire p0

# answers IP [SECONDS]: the station gets an answer from there
answers() {
    for _ in $(seq "${2:-60}"); do
        ip netns exec station ping -c1 -W1 "$1" >/dev/null 2>&1 && return
    done
    return 1
}

# shows TEXT COMMAND…: the command says that
shows() {
    local wanted=$1
    shift
    "$@" >shown.out 2>&1 || :
    grep -qF -- "$wanted" shown.out || fail "'$*' should say '$wanted', and says: $(cat shown.out)"
}

# over PARENT [MODE] [CHILDREN]: the network 'over' lends macvtaps on that parent, and nothing else
over() {
    virsh -q net-destroy over 2>/dev/null || :
    virsh -q net-undefine over 2>/dev/null || :
    cat >over.xml <<END
<network xmlns:virtnic='urn:virtnic:1'>
  <name>over</name>
  <forward mode='${2:-bridge}'><interface dev='$1'/></forward>
  ${3:-}
</network>
END
    virsh -q net-define over.xml
    virsh -q net-start over
}

# macvtap_of GUEST: its name
macvtap_of() {
    virsh domiflist "$1" | awk '/direct/ {print $1}'
}

# Without it the guest's first program does not come up.
console="<serial type='pty'/>"

echo "Over a bond: two queues with vhost, the parent's MTU, rates"
wire b0
wire b1
ip link add bond0 type bond mode active-backup miimon 100
ip link set b0 master bond0
ip link set b1 master bond0
ip link set bond0 mtu 1400 up
over bond0
guest_xml g1 52:54:00:aa:ee:01 over 10.7.0.2/24 "$console" "<model type='virtio'/>
    <driver name='vhost' queues='2'/>
    <bandwidth><inbound average='1000' peak='2000' burst='64'/><outbound average='500'/></bandwidth>" >g1.xml
shows "would start" virtnic plan --file g1.xml
for text in "macvtap on bond0 in bridge mode" "open 2 queues" "limit its bandwidth"; do
    grep -qF -- "$text" shown.out || fail "the plan does not say '$text': $(cat shown.out)"
done
[ ! -e /sys/class/net/macvtap0 ] || fail "a plan made something"
virsh -q create g1.xml
answers 10.7.0.2 || fail "the guest over the bond does not answer"
tap=$(macvtap_of g1)
shows "mtu 1400" ip link show "$tap"
shows "$tap@bond0" ip link show "$tap"
qemu=$(pgrep -f 'guest=g1')
vhosts=$(readlink "/proc/$qemu/fd/"* | grep -c '^/dev/vhost-net$' || :)
[ "$vhosts" = 2 ] || fail "QEMU has $vhosts descriptors of vhost-net"
tr '\0' '\n' <"/proc/$qemu/cmdline" | grep -q '"mq":true' || fail "QEMU's device has one queue"
# Seen from a macvtap, what the guest sends goes out.
shows "rate 4096Kbit" tc -s class show dev "$tap"
shows "rate 8192Kbit" tc -s filter show dev "$tap" ingress
shows "inbound.average: 1000" virsh domiftune g1 "$tap"
shows "outbound.average: 500" virsh domiftune g1 "$tap"
virsh -q domiftune g1 "$tap" --outbound 250
shows "rate 2048Kbit" tc -s class show dev "$tap"
answers 10.7.0.2 5 || fail "the guest does not answer within its rates"
ip link set b0 down
answers 10.7.0.2 30 || fail "the guest does not answer by the bond's other member"
ip link set b0 up
shows "bond0" virtnic net over
grep -q "g1" shown.out || fail "the network's borrower is not told: $(cat shown.out)"
virsh -q destroy g1
[ ! -e "/sys/class/net/$tap" ] || fail "$tap is left behind"

echo "A member of a bond is no parent of its own"
over b0
refused "bond0" virsh create g1.xml

echo "Over a VLAN device; the host has a way to its guest, if its network asks for that"
ip link set p0 up
ip link add link p0 name p0.42 type vlan id 42
ip -n station link add link p0s name p0s.42 type vlan id 42 2>/dev/null ||
    ip -n station link add link switch name p0s.42 type vlan id 42
ip -n station addr add 10.9.0.1/24 dev p0s.42
ip -n station link set p0s.42 up
over p0.42 bridge "<virtnic:direct host-access='yes'/>"
guest_xml g1 52:54:00:aa:ee:01 over 10.9.0.2/24 "$console" "<model type='virtio'/>" >vlan.xml
virsh -q create vlan.xml
answers 10.9.0.2 || fail "the guest on the VLAN does not answer"
[ -d /sys/class/net/h-p0.42 ] || fail "no host access: $(ip -br link)"
ip addr add 10.9.0.3/24 dev h-p0.42
ping -c1 -W5 10.9.0.2 >/dev/null || fail "the host does not reach its guest"
virsh -q destroy g1
virsh -q net-destroy over
[ ! -d /sys/class/net/h-p0.42 ] || fail "host access is left behind"
ip link delete p0.42

echo "vepa: guests reach each other by the switch, if that sends frames back"
over p0 vepa
for number in 1 2; do
    guest_xml "g$number" "52:54:00:aa:ee:0$number" over "10.7.0.$((number + 1))/24" "$console" \
        "<model type='virtio'/>" >"vepa$number.xml"
    virsh -q create "vepa$number.xml"
done
answers 10.7.0.2 || fail "g1 does not answer"
answers 10.7.0.3 || fail "g2 does not answer"
shows "mode vepa" ip -d link show "$(macvtap_of g1)"
on_console g1 "ping 10.7.0.3 2" "PING 10.7.0.3 0/2" || fail "they reach each other past the switch"
ip netns exec station bridge link set dev p0s hairpin on
on_console g1 "ping 10.7.0.3 5" "PING 10.7.0.3 [1-5]/5" || fail "they don't reach each other by the switch"
shows "connections='2'" virsh net-dumpxml over
virsh -q destroy g2

echo "What nobody knows of is found; only what is ours is removed"
own=$(cat "/sys/class/net/$(macvtap_of g1)/ifalias")
[ "$(virtnic reconcile --json)" = "[]" ] || fail "differences: $(virtnic reconcile)"
virsh -q destroy g1
ip link add link p0 name macvtap7 type macvtap mode bridge
ip link set macvtap7 alias "$own"
ip link add link p0 name macvtap8 type macvtap mode bridge
ip link add link p0 name macvtap9 type macvtap mode bridge
ip link set macvtap9 alias "somebody else's"
shows "macvtap7" virtnic reconcile
grep -q 'macvtap[89]' shown.out && fail "others' links are told of: $(cat shown.out)"
[ -e /sys/class/net/macvtap7 ] || fail "it was removed unasked"
virtnic reconcile --apply >applied.out || fail "$(cat applied.out)"
[ ! -e /sys/class/net/macvtap7 ] || fail "our orphan is left: $(cat applied.out)"
[ -e /sys/class/net/macvtap8 ] && [ -e /sys/class/net/macvtap9 ] || fail "others' links were removed"
[ "$(virtnic reconcile --json)" = "[]" ] || fail "differences: $(virtnic reconcile)"
ip link delete macvtap8
ip link delete macvtap9

echo "A lent VF that somebody else sets is told of, and left to people"
start_network vfs "$pf"
before=$(as_found "$pf" 0)
guest_xml g1 52:54:00:aa:bb:01 vfs >vf.xml
virsh -q create --paused vf.xml
[ "$(virtnic reconcile --json)" = "[]" ] || fail "differences: $(virtnic reconcile)"
ip link set "$pf" vf 0 mac 52:54:00:99:99:99
shows "52:54:00:99:99:99" virtnic reconcile
grep -q "g1" shown.out || fail "the guest is not named: $(cat shown.out)"
virtnic reconcile --apply >/dev/null && fail "it was mended unasked"
vf_state "$pf" 0 | grep -q 52:54:00:99:99:99 || fail "it was set back unasked: $(vf_state "$pf" 0)"
virsh -q destroy g1
[ "$(as_found "$pf" 0)" = "$before" ] || fail "VF 0 was '$before' and is '$(as_found "$pf" 0)'"

echo "A card without 802.1Qbh says so, before anything is done"
guest_xml g1 52:54:00:aa:bb:01 vfs "" "" \
    "<virtualport type='802.1Qbh'><parameters profileid='finance'/></virtualport>" >qbh.xml
shows "802.1Qbh" virtnic plan --file qbh.xml
refused "unsupported configuration" virsh create --paused qbh.xml
grep -q "802.1Qbh" refused.out || fail "what is not supported? $(cat refused.out)"
[ "$(as_found "$pf" 0)" = "$before" ] || fail "VF 0 was '$before' and is '$(as_found "$pf" 0)'"
nothing_lent
