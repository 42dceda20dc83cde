#!/bin/bash
# lab: pfs=2 timeout=900 group=hotplug
# Devices plugged into a running guest and taken out of it, by a real virsh and a real QEMU: what libvirt's own QE suite
# asks of that (docs/tp-libvirt.md).
. "$(dirname "$0")/lib.sh"
pf=$LAB_PF0
vf=$(vf_address "$pf" 0)
vf_node="pci_${vf//[:.]/_}"
mac=52:54:00:aa:ee:01
other_mac=52:54:00:aa:ee:02

# soon COMMAND…: it succeeds before long
soon() {
    for _ in $(seq 300); do
        "$@" >soon.out 2>&1 && return
        read -rt 0.2 <> <(:) || :
    done
    fail "'$*' does not come to be: $(cat soon.out)"
}

# sees LINE ANSWER: the guest answers that, be it slow
sees() {
    for _ in 1 2 3 4 5 6; do
        on_console g1 "$1" "$2" && return
    done
    return 1
}

# is_back: nothing is lent, and VF 0 is the host's
is_back() {
    [ "$(virtnic who --json)" = "[]" ] && [ "$(vf_driver "$pf" 0)" = igbvf ]
}

# place ADDRESS: the attributes of a PCI address
place() {
    echo "domain='0x${1:0:4}' bus='0x${1:5:2}' slot='0x${1:8:2}' function='0x${1:11:1}'"
}

# has FORM TEXT: how often the guest's document says that; FORM is empty or --inactive
count_of() {
    virsh -q dumpxml g1 $1 | grep -c -- "$2" || :
}

# shown PATTERN: the interface of the live document that matches it
shown() {
    virsh -q dumpxml g1 | awk -v wanted="$1" '
        /<interface/ { text = ""; inside = 1 }
        inside { text = text $0 "\n" }
        /<\/interface>/ { inside = 0; if (text ~ wanted) { printf "%s", text; exit } }'
}

# connections: how many the network tells of
connections() {
    virsh -q net-dumpxml vfs | sed -n "s/^<network.* connections='\([0-9]*\)'.*/\1/p"
}

# heard KIND ALIAS: an event told of it
heard() {
    grep -q "'device-$1'.*$2\$" events
}

# listen: for events from now on
listen() {
    virsh event g1 --all --loop --timeout 1800 >events 2>&1 &
    listener=$!
    # The listener is there when it hears of something.
    until grep -q Resumed events; do
        virsh -q suspend g1
        virsh -q resume g1
    done
}

# forget: what was heard
forget() {
    : >events
}

# A wire of our own for macvtaps.
ip link add p0 type veth peer name p1
ip link set p0 up
ip link set p1 up

start_network vfs "$pf"
guest_xml g1 52:54:00:aa:ee:ff vfs "" "<serial type='pty'/>" |
    sed "/<interface/,/<\/interface>/d
         s|</devices>|<disk type='file' device='cdrom'><target dev='sda' bus='sata'/><readonly/></disk>&|
         s|</os>|&<features><acpi/></features>|
         s|<devices>|&<controller type='pci' index='0' model='pcie-root'/>$(
        for port in 1 2 3 4 5 6; do echo -n "<controller type='pci' index='$port' model='pcie-root-port'/>"; done)|" >g1.xml
virsh -q define g1.xml

echo "A guest that is off has a definition, and nothing to plug into"
refused "not running" virsh attach-interface g1 network vfs --mac $mac
refused "not running" virsh attach-interface g1 network vfs --mac $mac --live
refused "mutually exclusive" virsh attach-interface g1 network vfs --mac $mac --live --current
for flag in --current --config --persistent; do
    virsh -q attach-interface g1 network vfs --mac $mac $flag
    [ "$(count_of --inactive $mac)" = 1 ] || fail "$flag: $(virsh dumpxml g1)"
    virsh -q detach-interface g1 network --mac $mac $flag
    [ "$(count_of --inactive $mac)" = 0 ] || fail "$flag: $(virsh dumpxml g1)"
done
nothing_lent

# Nothing is typed before it is up: what comes before its serial port is ready can be the last that it hears.
virsh -q start --paused g1
exec 6<>"$(virsh -q ttyconsole g1)"
stty raw -echo <&6
virsh -q resume g1
while read -rt 300 line <&6; do
    [[ $line =~ READY ]] && break
done
exec 6>&-
sees hello 'ERROR hello' || fail "the guest does not answer"
listen

echo "A medium is put into the running guest's drive, changed and taken out"
# medium FORM: what the drive has
medium() {
    virsh -q domblklist g1 ${1:-} | sed -n 's/^ *sda *//p'
}
truncate -s 1M a.iso b.iso
refused "No such file" virsh change-media g1 sda "$work/none.iso" --insert --live
virsh -q change-media g1 sda "$work/a.iso" --insert --live --config
[ "$(medium) $(medium --inactive)" = "$work/a.iso $work/a.iso" ] || fail "live $(medium), defined $(medium --inactive)"
virsh -q change-media g1 sda "$work/b.iso" --update --live
[ "$(medium) $(medium --inactive)" = "$work/b.iso $work/a.iso" ] || fail "live $(medium), defined $(medium --inactive)"
virsh -q qemu-monitor-command g1 --hmp info block | grep -q "sata0-0-0" || fail "$(virsh qemu-monitor-command g1 --hmp info block)"
virsh -q change-media g1 sda --eject --live --config
[ "$(medium) $(medium --inactive)" = "- -" ] || fail "live $(medium), defined $(medium --inactive)"

# What is needed is loaded when it is.
modprobe -r vfio_pci vfio_iommu_type1 || fail "vfio's modules can't be taken out"

echo "A VF of a network: plugged in, counted, told, and taken out"
before=$(as_found "$pf" 0)
virsh -q attach-interface g1 network vfs --mac $mac
[ "$(vf_driver "$pf" 0)" = vfio-pci ] || fail "VF 0 has driver $(vf_driver "$pf" 0)"
[ "$(connections)" = 1 ] || fail "$(virsh net-dumpxml vfs)"
[ "$(count_of "" $mac)$(count_of --inactive $mac)" = 10 ] || fail "$(virsh dumpxml g1)"
virsh -q domiflist g1 | grep -q "hostdev .*$mac" || fail "$(virsh domiflist g1)"
# By this the daemon knows a VF that QEMU has plugged in by itself.
host='{"execute":"qom-get","arguments":{"path":"/machine/peripheral/hostdev0","property":"host"}}'
virsh qemu-monitor-command g1 "$host" | grep -qF "\"$vf\"" || fail "$(virsh qemu-monitor-command g1 "$host")"
soon heard added hostdev0
sees net "NET .* $mac igbvf up" || fail "the guest does not have its VF up"
virsh -q suspend g1
virsh -q resume g1
sees net "NET .* $mac igbvf up" || fail "the guest does not have its VF up after a pause"
virsh -q attach-interface g1 network vfs --mac $other_mac --model virtio
[ "$(connections)" = 2 ] || fail "$(virsh net-dumpxml vfs)"
forget
virsh -q detach-interface g1 hostdev --mac $mac
soon heard removed hostdev0
soon eval '[ "$(connections)" = 1 ]'
[ "$(vf_driver "$pf" 0)" = igbvf ] || fail "VF 0 has driver $(vf_driver "$pf" 0)"

echo "The daemon dies: the counts and the device stay, and another comes and goes"
kill_daemon
start_daemon
[ "$(connections)" = 1 ] || fail "$(virsh net-dumpxml vfs)"
soon virsh -q attach-interface g1 network vfs --mac $mac
wait "$listener" || :
listen
virsh -q detach-interface g1 hostdev --mac $mac
# By the only one of its kind, as there is no other.
soon virsh -q detach-interface g1 hostdev
soon is_back
[ -z "$(connections)" ] || fail "$(virsh net-dumpxml vfs)"
[ "$(as_found "$pf" 0)" = "$before" ] || fail "VF 0 was '$before' and is '$(as_found "$pf" 0)'"

echo "A VF by its address: managed or not, and with a VLAN"
refused "must be manually detached from the host" virsh attach-interface g1 hostdev --source "$vf" --mac $mac
virsh -q nodedev-detach "$vf_node"
virsh -q attach-interface g1 hostdev --source "$vf" --mac $mac
virsh -q detach-interface g1 hostdev --mac $mac
soon eval '[ "$(virsh -q domiflist g1)" = "" ]'
[ "$(vf_driver "$pf" 0)" = vfio-pci ] || fail "what was detached by hand was given to the host"
virsh -q nodedev-reattach "$vf_node"
cat >vf.xml <<END
<interface type='hostdev' managed='yes'><mac address='$mac'/>
  <source><address type='pci' $(place "$vf")/></source><vlan><tag id='42'/></vlan><alias name='ua-vf'/>
</interface>
END
virsh -q attach-device g1 vf.xml --live
vf_state "$pf" 0 | grep -q 'vlan 42' || fail "VF 0: $(vf_state "$pf" 0)"

echo "It is its guest's alone"
cat >hostdev.xml <<END
<hostdev mode='subsystem' type='pci' managed='yes'><source><address $(place "$vf")/></source></hostdev>
END
sed 's|<name>g1|<name>g2|' g1.xml >g2.xml
virsh -q create --paused g2.xml
for guest in g1 g2; do
    for device in vf hostdev; do
        refused "in use" virsh attach-device $guest $device.xml
    done
done
virsh -q destroy g2
for command in detach reattach; do
    refused "in use" virsh -q nodedev-$command "$vf_node"
done
sed "s/managed='yes'/managed='no'/" vf.xml >unmanaged.xml
refused "'hostdev'" virsh update-device g1 unmanaged.xml
sed "s/$vf/x/; s/function='0x0'/function='0x2'/; s/$mac/$other_mac/" vf.xml >second.xml
refused "non unique alias" virsh attach-device g1 second.xml

echo "By its alias"
forget
virsh -q detach-device-alias g1 ua-vf
soon heard removed ua-vf
soon is_back
virsh -q attach-device g1 second.xml
virsh -q detach-device g1 second.xml
soon is_back

echo "A plain host device, and one that is prepared and not shown"
virsh -q attach-device g1 hostdev.xml
sees net "NET .* igbvf " || fail "the guest does not see the host device"
virsh -q detach-device g1 hostdev.xml
soon is_back
sed "s|</hostdev>|<address type='unassigned'/>&|" hostdev.xml >unassigned.xml
virsh -q attach-device g1 unassigned.xml
[ "$(vf_driver "$pf" 0)" = vfio-pci ] || fail "VF 0 has driver $(vf_driver "$pf" 0)"
virsh -q detach-device g1 unassigned.xml
soon is_back

echo "A whole card"
card=$(basename "$(readlink "/sys/class/net/$LAB_PF1/device")")
card_node="pci_${card//[:.]/_}"
sed "s|<address .*/></source>|<address $(place "$card")/></source>|" hostdev.xml >card.xml
# Up it may have an address by now, which is told before anything else.
ip link set "$LAB_PF1" down
refused "it has 7 VFs" virsh attach-device g1 card.xml
echo 0 >"/sys/class/net/$LAB_PF1/device/sriov_numvfs"
ip link set "$LAB_PF1" down
virsh -q attach-device g1 card.xml
# The guest has no driver for it.
[ "$(basename "$(readlink "/sys/bus/pci/devices/$card/driver")")" = vfio-pci ] || fail "the card is not on vfio-pci"
for command in detach reattach; do
    refused "in use" virsh -q nodedev-$command "$card_node"
done
virsh -q detach-device g1 card.xml
soon is_back
sed "s/managed='yes'/managed='no'/" card.xml >unmanaged.xml
refused "must be manually detached from the host" virsh attach-device g1 unmanaged.xml
virsh -q nodedev-detach "$card_node"
virsh -q attach-device g1 unmanaged.xml
virsh -q detach-device g1 unmanaged.xml
soon virsh -q nodedev-reattach "$card_node"
nothing_lent
[ "$(basename "$(readlink "/sys/bus/pci/devices/$card/driver")")" = igb ] || fail "the card is not the host's again"

echo "Every flag, with a macvtap"
cat >direct.xml <<END
<interface type='direct'><mac address='$mac'/><source dev='p0' mode='bridge'/><model type='virtio'/></interface>
END
for flags in "|10" "--current|10" "--live|10" "--config|01" "--persistent|11" "--live --config|11"; do
    wanted=${flags#*|}
    flags=${flags%|*}
    virsh -q attach-device g1 direct.xml $flags
    [ "$(count_of "" $mac)$(count_of --inactive $mac)" = "$wanted" ] || fail "attach-device $flags: $(virsh dumpxml g1)"
    virsh -q detach-device g1 direct.xml $flags
    soon is_back
    [ "$(count_of "" $mac)$(count_of --inactive $mac)" = 00 ] || fail "detach-device $flags: $(virsh dumpxml g1)"
done
[ -z "$(ip -br link show type macvtap)" ] || fail "left behind: $(ip -br link show type macvtap)"

echo "Links, and what can't change"
virsh -q attach-device g1 direct.xml
sees net "NET .* $mac virtio_net up" || fail "the guest does not have its macvtap up"
shown $mac >now.xml
sed "s|</interface>|<link state='down'/>&|" now.xml >down.xml
virsh -q update-device g1 down.xml
virsh -q domif-getlink g1 $mac | grep -q down || fail "$(virsh domif-getlink g1 $mac)"
sees net "NET .* $mac virtio_net down" || fail "the guest does not notice that its link is down"
virsh -q update-device g1 now.xml
virsh -q domif-getlink g1 $mac | grep -q up || fail "$(virsh domif-getlink g1 $mac)"
sed "s|</interface>|<tune><sndbuf>1600</sndbuf></tune>&|" now.xml >tuned.xml
refused "<tune>" virsh update-device g1 tuned.xml
sed "s|$mac|$other_mac|" now.xml >nobody.xml
refused "no device found" virsh update-device g1 nobody.xml
refused "no device found" virsh detach-device g1 nobody.xml

echo "Two of one MAC"
refused "is that of 'macvtap" virsh attach-device g1 direct.xml
virsh -q attach-interface g1 network vfs --mac $mac
refused "multiple devices matching" virsh detach-device g1 direct.xml
virsh -q detach-device g1 now.xml
virsh -q detach-interface g1 hostdev --mac $mac
soon is_back

echo "A pair of a client's own: the VF goes and comes, and the other half stays"
cat >standby.xml <<END
<interface type='direct'><mac address='$mac'/><source dev='$pf' mode='bridge'/><model type='virtio'/>
<teaming type='persistent'/><alias name='ua-standby'/></interface>
END
sed "s|<vlan>.*</vlan>|<teaming type='transient' persistent='ua-standby'/>|" vf.xml >primary.xml
virsh -q attach-device g1 standby.xml
sees net "NET .* $mac virtio_net up" || fail "the guest does not have its standby up"
virsh -q attach-device g1 primary.xml
sees net "NET .* $mac igbvf up" || fail "the guest does not have the VF of its pair"
refused "has to go first" virsh detach-device-alias g1 ua-standby
for _ in 1 2; do
    shown transient >now.xml
    virsh -q detach-device g1 now.xml
    soon eval '[ "$(vf_driver "$pf" 0)" = igbvf ]'
    [ "$(count_of "" ua-standby)" -ge 1 ] || fail "the standby went, too: $(virsh dumpxml g1)"
    virsh -q attach-device g1 now.xml
    sees net "NET .* $mac igbvf up" || fail "the VF of the pair does not come back"
done
shown transient >now.xml
virsh -q detach-device g1 now.xml
soon eval '[ "$(virsh -q domiflist g1 | grep -c $mac)" = 1 ]'
virsh -q detach-device-alias g1 ua-standby
soon is_back

echo "A pair from one element"
cat >pair.xml <<END
<interface type='hostdev-hybrid'><mac address='$mac'/><source dev='$pf'/></interface>
END
virsh -q attach-device g1 pair.xml
[ "$(virsh -q domiflist g1 | grep -c $mac)" = 2 ] || fail "$(virsh domiflist g1)"
sees net "NET .* $mac igbvf up" || fail "the guest does not have the VF of its pair"
virtnic who | grep -q macvtap || fail "who: $(virtnic who)"
virsh -q detach-device g1 pair.xml
soon is_back

echo "Fifty times in and out, and nothing is left of it"
# there_is: descriptors of daemon and QEMU, links, records
there_is() {
    echo "$(ls "/proc/$(pgrep -nx virtnicd)/fd" | wc -l) $(ls "/proc/$(pgrep -f guest=g1)/fd" | wc -l)" \
        "$(ip -o link | wc -l) $(find /run/virtnic -type f | wc -l)"
}
# kilobytes: of the daemon's memory
kilobytes() {
    sed -n 's/^VmRSS:[^0-9]*\([0-9]*\).*/\1/p' "/proc/$(pgrep -nx virtnicd)/status"
}
for round in $(seq 51); do
    virsh -q attach-device g1 second.xml
    virsh -q detach-device g1 second.xml
    soon is_back
    [ "$round" -gt 1 ] || had=$(there_is) took=$(kilobytes)
done
has_again() { [ "$(there_is)" = "$had" ]; }
soon has_again || fail "there was $had, and is $(there_is)"
[ "$(kilobytes)" -lt $((took + 4096)) ] || fail "the daemon had $took kB, and has $(kilobytes)"

echo "No place left"
for number in 1 2 3 4 5 6 7; do
    virsh -q attach-interface g1 network vfs --mac 52:54:00:aa:ef:0$number >full 2>&1 || break
done
grep -q 'No more available PCI slots' full || fail "$(cat full)"
grep -q pcie-root-port full || fail "it is not said how to get one: $(cat full)"
virsh -q destroy g1
soon is_back
kill "$listener"
wait "$listener" 2>/dev/null || :
ip link set "$LAB_PF1" up
echo 7 >"/sys/class/net/$LAB_PF1/device/sriov_numvfs"
[ "$(as_found "$pf" 0)" = "$before" ] || fail "VF 0 was '$before' and is '$(as_found "$pf" 0)'"
[ "$(virtnic reconcile --json)" = "[]" ] || fail "reconcile: $(virtnic reconcile)"
