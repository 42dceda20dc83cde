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
moving_xml "$LAB_GUEST_TYPE" "$mac" "$ip" "<interface type='network'><mac address='$mac'/><source network='pairs'/></interface>" >g.xml

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

# back: where this host's daemon is for the other one
back=$(on there printenv LAB_HOST1_URI)

# Driven by the client; and by the daemon that it leaves, in several compressed streams.
go() {
    virsh -c "${uri[here]}" migrate --live --verbose --persistent --undefinesource g "${uri[there]}" --migrateuri "tcp://${address[there]}"
}
come_back() {
    virsh -c "${uri[there]}" migrate --live --p2p --persistent --undefinesource g "${back/qemu:/qemu+unix:}" --migrateuri "tcp://${address[here]}" \
        --parallel --parallel-connections 2 --compressed --comp-methods zlib --auto-converge
}
for round in $(seq "$rounds"); do
    echo "There and back, $round of $rounds"
    measure g "$ip" here there go
    nothing_on here
    measure g "$ip" there here come_back
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
