#!/bin/bash
# lab: hosts=2 pfs=1 timeout=900 group=migrate
# A running guest whose interface is a pair goes to another host and comes back, while a station pings it and talks to it over
# TCP: it is the same guest, its data arrives whole, and it has a VF before and after. `ROUNDS` there and back.
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/lib-migrate.sh"
rounds=${ROUNDS:-${1:-1}}
mac=52:54:00:aa:ee:01
ip=10.8.0.1
ip -n "$LAB_STATION" address add 10.8.0.254/24 dev wire0

cat >pairs.xml <<XML
<network>
  <name>pairs</name>
  <forward mode='hostdev-hybrid' managed='yes'><pf dev='$LAB_PF0'/></forward>
</network>
XML
for host in here there; do
    at "$host" net-define pairs.xml
    at "$host" net-start pairs
done
cat >g.xml <<XML
<domain type='$LAB_GUEST_TYPE'>
  <name>g</name>
  <memory unit='MiB'>128</memory>
  <os>
    <type arch='x86_64' machine='q35'>hvm</type>
    <kernel>$LAB_GUEST_KERNEL</kernel>
    <initrd>$LAB_GUEST_INITRD</initrd>
    <cmdline>console=ttyS0 quiet ip.$mac=$ip/24</cmdline>
  </os>
  <features><acpi/><apic/></features>
  <devices>
    <controller type='usb' model='none'/>
    <interface type='network'><mac address='$mac'/><source network='pairs'/></interface>
    $(serial_xml g)
    <memballoon model='none'/>
  </devices>
</domain>
XML

# nothing_on HOST: nothing of the guest is left there
nothing_on() {
    [ -z "$(at "$1" list --all --name | xargs)" ] || fail "guests on $1"
    [ "$(on "$1" virtnic who --json | python3 -c 'import json,sys; print(len(json.load(sys.stdin)))')" = 0 ] || fail "lent on $1: $(on "$1" virtnic who)"
    on "$1" sh -c "ls /run/virtnic/*/*.json; ip -br link show type macvtap; bridge fdb show dev $LAB_PF0" >left 2>/dev/null || :
    ! grep -e domains/ -e devices/ -e moves/ -e macvtap -e "$mac" left || fail "left on $1: $(cat left)"
}

echo "A guest that runs where it is"
watch_guest g
start=$EPOCHREALTIME
at here define g.xml
at here start g
said console.g "$start" 'NET .* igbvf up' >/dev/null

migrate() { # migrate FROM TO
    virsh -c "${uri[$1]}" migrate --live --verbose --persistent --undefinesource g "${uri[$2]}" --migrateuri "tcp://${address[$2]}"
}
for round in $(seq "$rounds"); do
    echo "There and back, $round of $rounds"
    measure g "$ip" here there migrate here there
    nothing_on here
    measure g "$ip" there here migrate there here
    nothing_on there
done
[ "$(at here domstate --reason g | xargs)" = "running (migrated)" ] || fail "$(at here domstate --reason g)"
at here domjobinfo --completed g >statistics
grep -q 'Incoming migration' statistics || fail "no statistics: $(cat statistics)"
sed -n 's/^\(Total downtime\|Time elapsed\|Data processed\): */  \1: /p' statistics

# sends FILE: waits until memory is on its way; FILE has what the command says that moves the guest
sends() {
    until at here domjobinfo g >job && grep -q 'Memory total: *[1-9]' job; do
        kill -0 "$moving" 2>/dev/null || fail "it did not go on its way: $(cat "$1")"
    done
}

echo "A migration that is aborted"
at here migrate-setspeed g 1
virsh -q -c "${uri[here]}" migrate --live g "${uri[there]}" --migrateuri "tcp://${address[there]}" >aborted 2>&1 &
moving=$!
background+=("$moving")
sends aborted
start=$EPOCHREALTIME
at here domjobabort g
if wait "$moving"; then fail "it was not aborted"; fi
grep -q 'canceled by client' aborted || fail "$(cat aborted)"
said console.g "$start" 'NET .* igbvf up' >/dev/null
nothing_on there

echo "The daemon that it goes to is killed on the way"
virsh -q -c "${uri[here]}" migrate --live g "${uri[there]}" --migrateuri "tcp://${address[there]}" >killed 2>&1 &
moving=$!
background+=("$moving")
sends killed
start=$EPOCHREALTIME
on there pkill -KILL -x virtnicd
at here domjobabort g || : # it may have ended by itself
if wait "$moving"; then fail "it came to an end without that daemon"; fi
said console.g "$start" 'NET .* igbvf up' >/dev/null
on there sh -c 'virtnicd --libvirt-sockets /run/libvirt >>/tmp/again.log 2>&1 & until virsh -q list >/dev/null 2>&1; do :; done'
nothing_on there
at here destroy g
at here undefine g
nothing_on here
