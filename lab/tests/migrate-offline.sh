#!/bin/bash
# lab: pfs=1 timeout=120 group=control
# A guest that is off moves to another virtnicd, by a real virsh; here that has a root of its own on the same host.
. "$(dirname "$0")/lib.sh"
virtnicd --root "$work/b" >other.log 2>&1 &
other=$!
trap 'kill $other; wait $other || :' EXIT
there="qemu:///system?socket=$work/b/run/virtnic/virtnic-sock"
for _ in $(seq 100); do
    virsh -q -c "$there" list >/dev/null 2>&1 && break
    read -rt 0.2 <> <(:) || :
done

start_network vfs "$LAB_PF0"
guest_xml g1 52:54:00:aa:ef:01 vfs >g1.xml
virsh -q define g1.xml
virsh -q dumpxml g1 --inactive --security-info >before

echo "It needs --persistent, and a guest that is off"
refused "needs --persistent" virsh migrate --offline g1 "$there"
refused "not running" virsh migrate --live g1 "$there"
virsh -q start --paused g1
refused "can't be moved yet" virsh migrate --live g1 "$there"
refused "'g1' runs" virsh migrate --offline --persistent g1 "$there"
virsh -q destroy g1
refused "one virtnicd" virsh migrate --offline --persistent --undefinesource g1 "qemu:///system"

echo "It is there, the same, and here no more"
virsh -q migrate --offline --persistent --undefinesource g1 "$there"
virsh -q -c "$there" dumpxml g1 --inactive --security-info | diff before - || fail "it is another guest there"
refused "failed to get domain 'g1'" virsh dominfo g1

echo "Back under another name; what is there stays"
virsh -q -c "$there" migrate --offline --persistent g1 qemu:///system --dname g2
virsh -q dominfo g2 >/dev/null
virsh -q -c "$there" dominfo g1 >/dev/null
virsh -q start g2
virsh -q destroy g2
virsh -q undefine g2
nothing_lent
