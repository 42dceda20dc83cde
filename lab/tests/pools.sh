#!/bin/bash
# lab: pfs=2 timeout=300 group=pools
# A pool over two PFs: balance, exhaustion, VFs that are made on demand, come and go.
. "$(dirname "$0")/lib.sh"
one=$LAB_PF0
two=$LAB_PF1

# set_vfs PF COUNT: as an administrator would; the PF's link is back when it returns
set_vfs() {
    echo 0 >"/sys/class/net/$1/device/sriov_numvfs"
    [ "$2" = 0 ] || echo "$2" >"/sys/class/net/$1/device/sriov_numvfs"
    until [ "$(cat "/sys/class/net/$1/carrier" 2>/dev/null)" = 1 ]; do read -rt 0.1 <> <(:) || :; done
}

# make_port NUMBER: a port of the network 'two', for a guest of another program
make_port() {
    cat >port.xml <<END
<networkport>
  <uuid>00000000-0000-4000-8000-00000000000$1</uuid>
  <owner><name>g$1</name><uuid>10000000-0000-4000-8000-00000000000$1</uuid></owner>
  <mac address='52:54:00:aa:cc:0$1'/>
</networkport>
END
    virsh -q net-port-create two port.xml
}

delete_port() {
    virsh -q net-port-delete two "00000000-0000-4000-8000-00000000000$1"
}

# lent_of PF: how many of its VFs are spoken for
lent_of() {
    virtnic who --json | grep -c "\"pf\": *\"$1\"" || :
}

set_vfs "$one" 2
set_vfs "$two" 2
cat >two.xml <<END
<network xmlns:virtnic='urn:virtnic:1'>
  <name>two</name>
  <forward mode='hostdev' managed='yes'><pf dev='$one'/><pf dev='$two'/></forward>
  <virtnic:pool spread='balance'/>
</network>
END
virsh -q net-define two.xml
virsh -q net-start two

echo "Balance: each PF lends as many as the other"
make_port 1
make_port 2
[ "$(lent_of "$one") $(lent_of "$two")" = "1 1" ] || fail "not balanced: $(virtnic who)"
make_port 3
make_port 4
[ "$(lent_of "$one") $(lent_of "$two")" = "2 2" ] || fail "not balanced: $(virtnic who)"
virsh net-dumpxml two | grep -q "connections='4'" || fail "connections: $(virsh net-dumpxml two)"

echo "Exhaustion: who has them is told"
refused "2 VFs of $one: 2 lent" make_port 5
grep -q "2 VFs of $two: 2 lent" refused.out || fail "not all PFs are told of: $(cat refused.out)"
grep -q g3 refused.out || fail "the holders are not told: $(cat refused.out)"
delete_port 2
make_port 5
delete_port 5

echo "A PF that is down is passed over"
delete_port 1
delete_port 3
delete_port 4
ip link set "$one" down
make_port 1
make_port 2
[ "$(lent_of "$two")" = 2 ] || fail "a PF that is down lent a VF: $(virtnic who)"
refused "the PF is down" make_port 3
ip link set "$one" up
until [ "$(cat "/sys/class/net/$one/carrier")" = 1 ]; do read -rt 0.1 <> <(:) || :; done
delete_port 1
delete_port 2

echo "VFs that come and go are noticed"
set_vfs "$one" 0
make_port 1
make_port 2
[ "$(lent_of "$two")" = 2 ] || fail "$(virtnic who)"
refused "$one" make_port 3
set_vfs "$one" 3
# The kernel tells of them in its own time.
for _ in $(seq 100); do
    make_port 3 2>/dev/null && break
    read -rt 0.1 <> <(:) || :
done
[ "$(lent_of "$one")" = 1 ] || fail "new VFs are not noticed: $(virtnic who)"
for number in 1 2 3; do delete_port $number; done
nothing_lent
virsh -q net-destroy two
virsh -q net-undefine two

echo "VFs on demand"
set_vfs "$one" 0
cat >made.xml <<END
<network xmlns:virtnic='urn:virtnic:1'>
  <name>made</name>
  <forward mode='hostdev' managed='yes'><pf dev='$one'><virtnic:vfs count='3'/></pf></forward>
</network>
END
virsh -q net-define made.xml
virsh -q net-start made
[ "$(cat "/sys/class/net/$one/device/sriov_numvfs")" = 3 ] || fail "no VFs were made"
[ ! -e "/sys/class/net/$one/device/virtfn0/driver" ] || fail "a driver took the VFs"
[ "$(cat "/sys/class/net/$one/device/sriov_drivers_autoprobe")" = 1 ] || fail "autoprobe stays off"
virsh -q net-destroy made
virsh -q net-undefine made
sed -i "s/count='3'/count='5'/" made.xml
virsh -q net-define made.xml
virsh -q net-start made
[ "$(cat "/sys/class/net/$one/device/sriov_numvfs")" = 3 ] || fail "VFs that are there were changed"
virsh -q net-destroy made
virsh -q net-undefine made
set_vfs "$one" 0
sed -i "s/count='5'/count='9'/" made.xml
virsh -q net-define made.xml
refused "it can have 7 at most" virsh net-start made
[ "$(cat "/sys/class/net/$one/device/sriov_drivers_autoprobe")" = 1 ] || fail "autoprobe stays off"

echo "A guest's VF that vanishes is told, and the guest goes on"
set_vfs "$one" 2
start_network vfs "$one"
# Without a console its first program does not come up, and without ACPI it can't let go of a card.
guest_xml g1 52:54:00:aa:bb:01 vfs "" "<serial type='pty'/>" |
    sed 's|</os>|&<features><acpi/></features>|' >g1.xml
virsh -q create g1.xml
on_console g1 net "NET .* 52:54:00:aa:bb:01 igbvf up" || fail "the guest does not have its VF up"
virsh event --all --loop --timeout 100 >events 2>&1 &
listener=$!
# The listener is there when it hears of something.
until grep -q Resumed events; do
    virsh -q suspend g1
    virsh -q resume g1
done
alias=$(virsh dumpxml g1 | sed -n "s/.*<alias name='\(hostdev[0-9]*\)'.*/\1/p")
echo 0 >"/sys/class/net/$one/device/sriov_numvfs" &
writer=$!
until grep -q "device-removed.*$alias" events; do
    kill -0 "$listener" || fail "no event told of it: $(cat events)"
    read -rt 0.2 <> <(:) || :
done
kill "$listener"
wait "$writer"
nothing_lent
[ "$(virsh -q domstate g1)" = running ] || fail "the guest did not survive: $(virsh domstate g1)"
virsh -q destroy g1
nothing_lent
