#!/bin/bash
# lab: pfs=1 timeout=240 group=control
# A running guest through virsh: states, console, monitor, events, its own power-off.
. "$(dirname "$0")/lib.sh"
pf=$LAB_PF0

start_network vfs "$pf"
guest_xml g1 52:54:00:aa:bb:01 vfs 10.0.0.2/24 \
    "<serial type='pty'/><console type='pty'/><rng model='virtio'><backend model='random'>/dev/urandom</backend></rng>" >g1.xml
virsh -q define g1.xml
virsh event --all --loop --timeout 200 >events 2>&1 &
events=$!

virsh -q start g1
[ "$(virsh -q domstate --reason g1)" = "running (booted)" ] || fail "it is $(virsh domstate --reason g1)"
tty=$(virsh -q ttyconsole g1)
[ -c "$tty" ] || fail "its console is '$tty'"

echo "What the guest says reaches virsh console"
mkfifo keys
script -qfc "virsh -q console g1" /dev/null <keys >console.out 2>&1 &
console=$!
exec 5>keys
deadline=$((SECONDS + 120))
until grep -q "NET .* 52:54:00:aa:bb:01 igbvf up" console.out; do
    [ $SECONDS -lt $deadline ] || fail "the guest did not bring its VF up: $(cat console.out)"
    read -rt 0.5 <> <(:) || :
done
refused "Active console session exists" script -qec "virsh -q console g1" /dev/null

echo "Suspended and resumed"
virsh -q suspend g1
[ "$(virsh -q domstate --reason g1)" = "paused (user)" ] || fail "it is $(virsh domstate --reason g1)"
virsh -q resume g1
[ "$(virsh -q domstate --reason g1)" = "running (unpaused)" ] || fail "it is $(virsh domstate --reason g1)"

echo "QEMU's monitor"
virsh -q qemu-monitor-command g1 '{"execute":"query-status"}' | grep -q '"running"' || fail "QMP does not answer"
virsh -q qemu-monitor-command --hmp g1 'info pci' | grep -qi ethernet || fail "HMP does not show the VF"

echo "The guest's power button"
virsh -q shutdown g1
wait "$events" 2>/dev/null &
deadline=$((SECONDS + 60))
until [ "$(virsh -q domstate g1)" = "shut off" ]; do
    [ $SECONDS -lt $deadline ] || fail "the guest did not switch itself off: $(tail -3 console.out)"
    read -rt 0.5 <> <(:) || :
done
exec 5>&-
wait "$console" || :
nothing_lent
[ "$(virsh -q domstate --reason g1)" = "shut off (shutdown)" ] || fail "it is $(virsh domstate --reason g1)"
kill "$events"
for text in "Resumed Unpaused" "Started Booted" "Suspended Paused" "Stopped Shutdown"; do
    grep -q "event 'lifecycle' for domain 'g1': $text" events || fail "no event '$text': $(cat events)"
done
virsh -q undefine g1
