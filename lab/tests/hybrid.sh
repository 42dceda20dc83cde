#!/bin/bash
# lab: pfs=1 timeout=1500 group=hybrid
# Pairs of a VF and virtio, with real guests and a station outside of the host: from one element, the VF taken and given back
# under a running ping, in VLANs, between guests, over a reboot, and with the guest's own bond.
. "$(dirname "$0")/lib.sh"
pf=$LAB_PF0

outside() { ip netns exec "$LAB_STATION" "$@"; }
ip -n "$LAB_STATION" address add 10.8.0.254/24 dev wire0

# answers IP [SECONDS]: the station gets an answer from there
answers() {
    for _ in $(seq "${2:-60}"); do
        outside ping -c1 -W1 "$1" >/dev/null 2>&1 && return
    done
    return 1
}

mkdir consoles
declare -A typed

# start GUEST: starts a defined guest, and keeps what its console says in consoles/GUEST
start() {
    local fd
    virsh -q start "$1"
    exec {fd}<>"$(virsh -q ttyconsole "$1")"
    stty raw -echo <&"$fd"
    cat <&"$fd" >"consoles/$1" 2>/dev/null & # its end is an error
    typed[$1]=$fd
}

# forget GUEST: the end of it
forget() {
    virsh -q destroy "$1"
    virsh -q undefine "$1"
    local fd=${typed[$1]}
    exec {fd}>&-
}

# pair_xml NAME NUMBER INTERFACES [WORDS OF THE COMMAND LINE]: a small guest with MAC …:NUMBER and address 10.8.0.NUMBER
pair_xml() {
    cat <<END
<domain type='${LAB_GUEST_TYPE:-qemu}'>
  <name>$1</name>
  <memory unit='MiB'>128</memory>
  <os>
    <type arch='x86_64' machine='q35'>hvm</type>
    <kernel>$LAB_GUEST_KERNEL</kernel>
    <initrd>$LAB_GUEST_INITRD</initrd>
    <cmdline>console=ttyS0 quiet ip.$(mac_of "$2")=10.8.0.$2/24 ${4:-}</cmdline>
  </os>
  <features><acpi/><apic/></features>
  <devices>
    <controller type='usb' model='none'/>
    $3
    <serial type='pty'/>
    <memballoon model='none'/>
  </devices>
</domain>
END
}
mac_of() { echo "52:54:00:aa:dd:$(printf %02x "$1")"; }

# one_element NUMBER [CHILDREN] [ATTRIBUTES OF virtnic:hybrid]
one_element() {
    echo "<interface type='hostdev-hybrid' xmlns:virtnic='urn:virtnic:1'><mac address='$(mac_of "$1")'/><source dev='$pf'/>" \
        "${2:-}${3:+<virtnic:hybrid $3/>}</interface>"
}

# count GUEST DRIVER STATE: how often the guest said that of a card
count() { command grep -cE "NET \S+ \S+ $2 $3" "consoles/$1" 2>/dev/null || :; }

# has_lines NUMBER PATTERN FILE: at least so many
has_lines() { [ "$(command grep -cE "$2" "$3")" -ge "$1" ]; }

# wait_for WHAT COMMAND…: waits until it succeeds
wait_for() {
    local what=$1 left=1200
    shift
    until "$@"; do
        [ $((left -= 1)) -gt 0 ] || fail "$what: not so after two minutes"
        read -rt 0.1 <> <(:) || :
    done
}

# until_more NUMBER GUEST DRIVER STATE: waits until it has said that more often
until_more() {
    local before=$1 left=1200
    shift
    until [ "$(count "$@")" -gt "$before" ]; do
        [ $((left -= 1)) -gt 0 ] || fail "guest $1 does not say '$2 $3': $(tail -5 "consoles/$1")"
        read -rt 0.1 <> <(:) || :
    done
}

# take GUEST, give GUEST: its VF, and waits until the guest has seen it
take() {
    local before
    before=$(count "$1" '\S+' gone)
    virtnic demote "$1" >/dev/null
    until_more "$before" "$1" '\S+' gone
}
give() {
    local before
    before=$(count "$1" igbvf up)
    virtnic promote "$1" >/dev/null
    until_more "$before" "$1" igbvf up
}

# answered FILE: how many pings were answered
answered() { command grep -c 'bytes from' "$1" || :; }

# goes_on FILE: waits until 20 more pings are answered
goes_on() {
    local before left=600
    before=$(answered "$1")
    until [ "$(answered "$1")" -ge $((before + 20)) ]; do
        [ $((left -= 1)) -gt 0 ] || fail "the station gets no answers: $(tail -3 "$1")"
        read -rt 0.1 <> <(:) || :
    done
}

# losses GUEST IP COMMAND…: the command being run meanwhile, how many of the pings between the first and the last that were
# answered had no answer; and how many of these requests the host did not hand to the guest's other half either
losses() {
    local macvtap ip=$2 pid dump
    macvtap=$(virsh -q domiflist "$1" | awk '$1 ~ /macvtap/ { print $1 }')
    shift 2
    rm -f reached
    tcpdump -nli "$macvtap" "icmp[icmptype] == icmp-echo and dst host $ip" >reached 2>tcpdump.err &
    dump=$!
    wait_for "tcpdump listens" grep -q listening tcpdump.err
    stdbuf -oL ip netns exec "$LAB_STATION" ping -i 0.05 "$ip" >pings &
    pid=$!
    goes_on pings
    "$@"
    goes_on pings
    kill -INT "$pid"
    wait "$pid" || :
    kill "$dump"
    wait "$dump" || :
    sed -n 's/.*bytes from .*icmp_seq=\([0-9]*\) .*/\1/p' pings >answered
    sed -n 's/.* seq \([0-9]*\),.*/\1/p' reached >reached.seq
    awk 'FILENAME == "answered" { if (!first) first = $1; last = $1; seen[$1] = 1 }
        FILENAME == "reached.seq" { reached[$1] = 1 }
        END {
            for (one = first; one <= last; one++) if (!(one in seen)) { lost++; if (!(one in reached)) never++ }
            print lost + 0, never + 0
        }' answered reached.seq
}

before=$(as_found "$pf" 0)

echo "A pair from one element: two interfaces, one MAC, from define on"
pair_xml g1 1 "$(one_element 1)" >g1.xml
virsh -q define g1.xml
[ "$(virsh dumpxml g1 | grep -c "<mac address='$(mac_of 1)'/>")" = 2 ] || fail "$(virsh dumpxml g1)"
start g1
until_more 0 g1 igbvf up
[ "$(virsh -q domiflist g1 | grep -c "$(mac_of 1)")" = 2 ] || fail "$(virsh domiflist g1)"
[ "$(virtnic who | grep -c g1)" = 2 ] || fail "$(virtnic who)"
answers 10.8.0.1 || fail "the guest does not answer"

echo "Its VF taken away and given back ten times, under a running ping"
unreached=0
for round in $(seq 10); do
    read -r taken never < <(losses g1 10.8.0.1 take g1)
    unreached=$((unreached + never))
    [ "$(vf_driver "$pf" 0)" = igbvf ] || fail "the host has not got its VF back"
    read -r given never < <(losses g1 10.8.0.1 give g1)
    unreached=$((unreached + never))
    echo "$round: $taken pings of 50 ms lost when it was taken, $given when it was given back"
done
# A guest takes nothing from the other half as long as its driver for the VF is there: that is its own.
[ "$unreached" = 0 ] || fail "of the requests without an answer, $unreached were not handed to the other half either"

echo "A second guest on the same PF: both ways, in each state"
pair_xml g2 2 "$(one_element 2)" >g2.xml
virsh -q define g2.xml
start g2
until_more 0 g2 igbvf up
asked=0
for state in "both on VFs" "one on virtio" "both on virtio" "the other on virtio"; do
    case $state in
    one*) take g1 ;;
    both\ on\ virtio) take g2 ;;
    the*) give g1 ;;
    esac
    answers 10.8.0.1 && answers 10.8.0.2 || fail "$state: the station gets no answer"
    echo "ping 10.8.0.2 5" >&"${typed[g1]}"
    asked=$((asked + 1))
    wait_for "$state: a ping from guest to guest" has_lines "$asked" '^PING 10.8.0.2 ' consoles/g1
    has_lines "$asked" '^PING 10.8.0.2 [1-5]/5' consoles/g1 || fail "$state: $(command grep '^PING' consoles/g1)"
done
forget g2

echo "A reboot of the guest: it has its VF again"
ups=$(count g1 igbvf up)
virsh -q reset g1
until_more "$ups" g1 igbvf up
answers 10.8.0.1 || fail "the guest does not answer after its reboot"

echo "A VF that was taken does not come back with a reboot"
take g1
readies=$(command grep -c READY consoles/g1)
virsh -q reset g1
wait_for "the guest's reboot" has_lines $((readies + 1)) READY consoles/g1
answers 10.8.0.1 || fail "the guest does not answer over virtio"
[ "$(vf_driver "$pf" 0)" = igbvf ] || fail "its VF was taken from the host again"
give g1

echo "The VF by its alias, as any client does it"
vf_alias=$(virsh dumpxml g1 | sed -n "s/.*<alias name='\(ua-hybrid-.*-vf\)'.*/\1/p")
gone=$(count g1 '\S+' gone)
virsh -q detach-device-alias g1 "$vf_alias" --live
until_more "$gone" g1 '\S+' gone
answers 10.8.0.1 || fail "the guest does not answer over virtio"
forget g1
[ "$(as_found "$pf" 0)" = "$before" ] || fail "VF 0 was '$before' and is '$(as_found "$pf" 0)'"
nothing_lent

echo "In a VLAN: tagged on both halves, and the station in another hears nothing"
ip -n "$LAB_STATION" link add link wire0 name wire0.42 type vlan id 42
ip -n "$LAB_STATION" link add link wire0 name wire0.43 type vlan id 43
ip -n "$LAB_STATION" link set wire0.42 up
ip -n "$LAB_STATION" link set wire0.43 up
ip -n "$LAB_STATION" address flush dev wire0
ip -n "$LAB_STATION" address add 10.8.0.254/24 dev wire0.42
pair_xml g3 3 "$(one_element 3 "<vlan><tag id='42'/></vlan>")" >g3.xml
# Untagged or in VLAN 43, nothing of the guest's may be heard; of what is tagged, wire0 itself shows the tag.
ip netns exec "$LAB_STATION" tcpdump -lnei wire0 "ether src $(mac_of 3) and not vlan 42" >untagged 2>/dev/null &
tcpdump=$!
virsh -q define g3.xml
start g3
until_more 0 g3 igbvf up
answers 10.8.0.3 || fail "no answer in VLAN 42, through the VF"
take g3
answers 10.8.0.3 || fail "no answer in VLAN 42, through virtio"
ip -n "$LAB_STATION" address flush dev wire0.42
ip -n "$LAB_STATION" address add 10.8.0.254/24 dev wire0.43
outside ping -c3 -W1 10.8.0.3 >/dev/null && fail "the guest answers in VLAN 43, through virtio"
give g3
outside ping -c3 -W1 10.8.0.3 >/dev/null && fail "the guest answers in VLAN 43, through the VF"
kill "$tcpdump"
wait "$tcpdump" || :
if grep -q '>' untagged; then fail "heard outside of VLAN 42: $(cat untagged)"; fi
forget g3
[ "$(as_found "$pf" 0)" = "$before" ] || fail "VF 0 was '$before' and is '$(as_found "$pf" 0)'"
ip -br link | grep -q "$pf\.42\|@$pf" && fail "left behind: $(ip -br link)"
nothing_lent

echo "A guest that bonds the two itself"
ip -n "$LAB_STATION" address flush dev wire0.43
ip -n "$LAB_STATION" address add 10.8.0.254/24 dev wire0
pair_xml g4 4 "$(one_element 4 "" "guest='bond'")" "bond.$(mac_of 4)" >g4.xml
virsh -q define g4.xml
start g4
until_more 0 g4 igbvf up
answers 10.8.0.4 || fail "the guest's bond does not answer"
read -r taken never < <(losses g4 10.8.0.4 take g4)
read -r given never < <(losses g4 10.8.0.4 give g4)
echo "bond: $taken pings of 50 ms lost when its VF was taken, $given when it was given back"
forget g4
[ "$(as_found "$pf" 0)" = "$before" ] || fail "VF 0 was '$before' and is '$(as_found "$pf" 0)'"
nothing_lent
