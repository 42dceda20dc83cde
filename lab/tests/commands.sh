#!/bin/bash
# lab: pfs=1 timeout=200 group=control
# Every virsh command for networks, ports and guests, as a user types it.
. "$(dirname "$0")/lib.sh"
pf=$LAB_PF0

# says TEXT COMMAND…: the command succeeds, and says that
says() {
    local wanted=$1
    shift
    "$@" >said.out 2>&1 || fail "'$*' failed: $(cat said.out)"
    grep -qF -- "$wanted" said.out || fail "'$*' should say '$wanted', and says: $(cat said.out)"
}

echo "The host"
says "Running hypervisor: QEMU" virsh version
says "$(hostname)" virsh hostname
says "qemu:///system" virsh uri
says "<capabilities>" virsh capabilities
says "Memory size" virsh nodeinfo
says "qemu:///system" env -u LIBVIRT_DEFAULT_URI virsh uri
says "net_$pf" virsh nodedev-list --cap net
says "virt_functions" virsh nodedev-dumpxml "pci_$(basename "$(readlink "/sys/class/net/$pf/device")" | tr :. __)"

echo "Networks"
# With a uuid of its own, so that it can be defined until the listener hears of it.
network_xml n1 "$pf" "<uuid>6f1c8a52-3f0e-4c5e-9d0b-7a5d3f1e2b01</uuid>" >n1.xml
virsh net-event --event lifecycle --loop --timeout 100 >net-events 2>&1 &
events=$!
until grep -q Defined net-events; do virsh -q net-define n1.xml; done
says "n1" virsh net-list --all --name
says "Network n1 started" virsh net-start n1
says "active" virsh net-list --all
says "Active:         yes" virsh net-info n1
says "<address type='pci'" virsh net-dumpxml n1
virsh net-dumpxml --inactive n1 >inactive
grep -q "<address" inactive && fail "the definition lists VFs that were found: $(cat inactive)"
virsh net-dumpxml --inactive n1 | cmp - inactive || fail "two dumps differ"
uuid=$(virsh -q net-uuid n1)
says n1 virsh net-name "$uuid"
says "marked as autostarted" virsh net-autostart n1
says "unmarked" virsh net-autostart --disable n1
cat >editor <<'END'
#!/bin/sh
sed -i 's|</name>|</name><title>edited</title>|' "$1"
END
chmod +x editor
says "edited" env EDITOR="$work/editor" virsh net-edit n1
says "<title>edited</title>" virsh net-dumpxml --inactive n1
says "created from" virsh net-create <(network_xml n2 "$pf")
says "destroyed" virsh net-destroy n2
refused "Network not found" virsh net-info n2

echo "Ports"
cat >port.xml <<END
<networkport><uuid>11111111-2222-4333-8444-555555555555</uuid>
<owner><name>someone</name><uuid>66666666-2222-4333-8444-555555555555</uuid></owner>
<mac address='52:54:00:00:00:01'/></networkport>
END
says "created from" virsh net-port-create n1 port.xml
says "11111111-2222-4333-8444-555555555555" virsh net-port-list n1
says "<plug type='hostdev-pci' managed='yes'>" virsh net-port-dumpxml n1 11111111-2222-4333-8444-555555555555
says "connections='1'" virsh net-dumpxml n1
says "someone" virtnic who
says "deleted" virsh net-port-delete n1 11111111-2222-4333-8444-555555555555

echo "Guests"
guest_xml g1 52:54:00:aa:bb:01 n1 >g1.xml
says "defined from" virsh define g1.xml
says "shut off" virsh list --all
says "started" virsh start --paused g1
says "paused" virsh list --all
says "g1" virsh domname "$(virsh -q domuuid g1)"
says "g1" virsh domname "$(virsh -q domid g1)"
says "52:54:00:aa:bb:01" virsh domiflist g1
says "State:          paused" virsh dominfo g1
says "<alias name='hostdev0'/>" virsh dumpxml g1
virsh dumpxml --inactive g1 | grep -q "<interface type='network'>" || fail "the definition is not kept"
says "marked as autostarted" virsh autostart g1
says "unmarked" virsh autostart --disable g1
refused "already active" virsh start g1
refused "read only access prevents" virsh -r destroy g1
says "g1" virsh -r list --name
says "has been undefined" virsh undefine g1
says "no" bash -c "virsh dominfo g1 | grep Persistent"
says "destroyed" virsh destroy g1
virsh domstate g1 >/dev/null 2>&1 && fail "a transient guest is still known"

says "destroyed" virsh net-destroy n1
says "undefined" virsh net-undefine n1
kill "$events"
for text in Defined Started Stopped Undefined; do
    grep -q "event 'lifecycle' for network n1: $text" net-events || fail "no event '$text': $(cat net-events)"
done
nothing_lent
