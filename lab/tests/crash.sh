#!/bin/bash
# lab: pfs=1 timeout=240 group=crash
# The daemon dies; its guests don't, and nothing that it lent is lost.
. "$(dirname "$0")/lib.sh"
pf=$LAB_PF0

start_network vfs "$pf" "<vlan><tag id='42'/></vlan>"
before=$(as_found "$pf" 0)

echo "The guest goes on, and the next daemon finds it"
guest_xml g1 52:54:00:aa:bb:01 vfs >g1.xml
virsh -q create --paused g1.xml
qemu=$(pgrep -f 'guest=g1')
id=$(virsh -q domid g1)
kill_daemon
kill -0 "$qemu" || fail "the guest died with the daemon"
[ "$(vf_driver "$pf" 0)" = vfio-pci ] || fail "the guest lost its VF"
start_daemon
[ "$(virsh -q domstate g1)" = paused ] || fail "g1 is $(virsh domstate g1)"
[ "$(virsh -q domid g1)" = "$id" ] || fail "g1 has another id"
virtnic who | grep -q '52:54:00:aa:bb:01' || fail "its VF is not known: $(virtnic who)"
virsh net-port-list vfs | grep -q -- - || fail "its port is gone"
virsh -q resume g1
[ "$(virsh -q domstate g1)" = running ] || fail "g1 can't be controlled"
virsh -q destroy g1
nothing_lent
[ "$(as_found "$pf" 0)" = "$before" ] || fail "VF 0 was '$before' and is '$(as_found "$pf" 0)'"

echo "A guest that died meanwhile gives its VF back at once"
virsh -q create --paused g1.xml
qemu=$(pgrep -f 'guest=g1')
kill_daemon
crash "$qemu"
start_daemon
nothing_lent
virsh domstate g1 >/dev/null 2>&1 && fail "g1 is still known"
[ "$(as_found "$pf" 0)" = "$before" ] || fail "VF 0 was '$before' and is '$(as_found "$pf" 0)'"

echo "A guest that crashes gives its VF back, and its end is told"
virsh -q create --paused g1.xml
virsh event --event lifecycle --loop --timeout 100 >events 2>&1 &
events=$!
# The listener is there when it hears of something.
until grep -q Resumed events; do
    virsh -q resume g1
    virsh -q suspend g1
done
crash "$(pgrep -f 'guest=g1')"
until grep -q 'Stopped Failed' events; do
    kill -0 "$events" || fail "no event told of its end: $(cat events)"
    read -rt 0.2 <> <(:) || :
done
kill "$events"
nothing_lent
[ "$(as_found "$pf" 0)" = "$before" ] || fail "VF 0 was '$before' and is '$(as_found "$pf" 0)'"

echo "A record from before a reboot is not believed"
virsh -q create --paused g1.xml
qemu=$(pgrep -f 'guest=g1')
kill_daemon
crash "$qemu"
sed -i 's/"boot[^"]*": *"[^"]*"/"boot": "00000000-0000-0000-0000-000000000000"/' /run/virtnic/domains/*.json
start_daemon
virsh domstate g1 >/dev/null 2>&1 && fail "g1 is still known"
nothing_lent
