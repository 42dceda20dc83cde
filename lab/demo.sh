#!/bin/bash
# The main job, told step by step: a guest is lent a VF of an SR-IOV card, and gives it back as it was; and a pair of a VF
# and virtio, whose VF comes and goes while the guest goes on.
#
# Runs as root in an emulated host (`cargo xtask demo`); the lab tier runs it as a test. Each line that begins with "$" is
# the command that was run, with its own output below it; each "ok" is something that was checked. The last line is the
# verdict.
set -uo pipefail
export LIBVIRT_DEFAULT_URI=qemu:///system

pf=$LAB_PF0
vf=/sys/class/net/$pf/device/virtfn0
vf_address=$(basename "$(readlink -f "$vf")")
mac=52:54:00:aa:bb:01
host_ip=10.0.42.1
guest_ip=10.0.42.2
# Two emulations on top of each other are slow; this is for a machine that is busy, too.
patience=200

# ---- how it is told ---------------------------------------------------------------------------------------------------

broken=()
checks=0
verdict=
pings=
dir=$(mktemp -d)
chmod 755 "$dir" # QEMU, without root's rights, writes the console here
cd "$dir" || exit 1

# title TEXT: what comes next
title() { printf '\n%s%s%s\n' "${DEMO_BOLD:-}" "$*" "${DEMO_PLAIN:-}"; }

# run COMMAND: shows a command, and its output, which it also keeps in $output; ends the demo if the command fails
run() {
    echo "\$ $1"
    eval "$1" >output 2>&1
    local status=$?
    output=$(<output)
    [ -z "${output//[[:space:]]/}" ] || sed '/^$/d' output
    [ $status -eq 0 ] || give_up "'$1' failed with status $status"
}

# document FILE: shows a document that is read from standard input, and writes it
document() {
    tee "$1" | sed 's/^/    /'
}

# check TEXT COMMAND…: notes whether it is so
check() {
    local text=$1
    shift
    checks=$((checks + 1))
    if "$@"; then
        echo "  ok: $text"
    else
        echo "  NOT SO: $text"
        broken+=("$text")
    fi
}

# shows TEXT: the last command's output has it
shows() { grep -qiF -- "$1" <<<"$output"; }

# fails COMMAND…: shows a command that must not succeed
fails() {
    echo "\$ $*"
    ! "$@" 2>&1 | sed '/^$/d'
}

# wait_for_line FILE TEXT [NUMBER]: waits until so many lines of a growing file have it (1), and shows the last of them
wait_for_line() {
    grep -m"${3:-1}" -- "$2" < <(exec timeout "$patience" tail -n +1 -F "$1" 2>/dev/null) | sed -n "${3:-1}p"
}

# answered: how many pings of the station's were answered
answered() { grep -c 'bytes from' pings; }

# goes_on: waits until ten more are
goes_on() {
    local wanted=$(($(answered) + 10)) left=$((patience * 10))
    until [ "$(answered)" -ge $wanted ]; do
        [ $((left -= 1)) -gt 0 ] || return 1
        read -rt 0.1 <> <(:) || :
    done
}

# vf_state: all that a user of the host would notice of its VFs, two lines for each. The card's own note of a VF's MAC is
# looked at apart: it begins empty, and later holds what the VF's driver told the card.
vf_state() {
    local device name
    for device in "/sys/class/net/$pf/device/virtfn"*; do
        name=$(ls "$device/net" 2>/dev/null)
        echo "${device##*virtfn} $(basename "$(readlink "$device/driver")") override=$(<"$device/driver_override")" \
            "$name $(cat "$device/net/$name/address" 2>/dev/null)"
    done
    ip link show dev "$pf" | sed -n 's/ link\/ether .*:ff,//; / vf /p'
}

give_up() {
    broken+=("$1")
    exit 1
}

finish() {
    [ -z "$verdict" ] || return
    verdict=told
    virsh -q destroy guest >/dev/null 2>&1
    virsh -q undefine guest >/dev/null 2>&1
    virsh -q net-destroy vfs >/dev/null 2>&1
    virsh -q net-undefine vfs >/dev/null 2>&1
    ip link delete vlan42 2>/dev/null
    [ -z "$pings" ] || kill "$pings" 2>/dev/null
    echo
    if [ ${#broken[@]} -eq 0 ]; then
        echo "All held: $checks of $checks checks, in $SECONDS s."
        exit 0
    fi
    local all
    printf -v all '; %s' "${broken[@]}"
    echo "Did not hold: ${all#; }."
    exit 1
}
trap finish EXIT
trap 'give_up "it was interrupted"' INT TERM

# ---- the story --------------------------------------------------------------------------------------------------------

title "1. The host: a card ($pf) with seven VFs, each an ordinary network device of the host's"
run "lspci | grep -i ethernet"
run "ip link show dev $pf"
run "readlink $vf/driver"
netdev=$(ls "$vf/net")
vf_mac=$(<"$vf/net/$netdev/address")
run "ip -brief link show dev $netdev"
before=$(vf_state)

title "2. A network: a pool of that card's VFs, on VLAN 42"
document vfs.xml <<END
<network>
  <name>vfs</name>
  <forward mode='hostdev' managed='yes'>
    <pf dev='$pf'/>
  </forward>
  <vlan>
    <tag id='42'/>
  </vlan>
</network>
END
run "virsh net-define vfs.xml"
run "virsh net-start vfs"
run "virsh net-list --all"
check "the network is active" shows " vfs    active"

title "3. A guest with an interface on that network"
document guest.xml <<END
<domain type='${LAB_GUEST_TYPE:-qemu}'>
  <name>guest</name>
  <memory unit='MiB'>128</memory>
  <os>
    <type arch='x86_64' machine='q35'>hvm</type>
    <kernel>$LAB_GUEST_KERNEL</kernel>
    <initrd>$LAB_GUEST_INITRD</initrd>
    <cmdline>console=ttyS0 quiet ip.$mac=$guest_ip/24</cmdline>
  </os>
  <features>
    <acpi/>
  </features>
  <devices>
    <controller type='usb' model='none'/>
    <interface type='network'>
      <mac address='$mac'/>
      <source network='vfs'/>
    </interface>
    <serial type='file'>
      <source path='$dir/console'/>
    </serial>
    <memballoon model='none'/>
  </devices>
</domain>
END
run "virsh define guest.xml"
run "virtnic plan guest"
check "the plan names the VF" shows "$vf_address"
check "the plan names the VLAN" shows "VLAN 42"
check "planning changed nothing" diff <(echo "$before") <(vf_state)
run "virsh start guest"
run "virsh list"
check "the guest runs" shows "running"
run "virsh domiflist guest"

title "4. Its VF: MAC and VLAN set through the card, the device with vfio, ready for QEMU"
run "ip link show dev $pf | grep 'vf 0 '"
check "the VF has the guest's MAC" shows "$mac"
check "the VF is on VLAN 42" shows "vlan 42"
run "readlink $vf/driver"
check "the VF is with vfio-pci" shows "/vfio-pci"
run "virsh dumpxml guest | sed -n '/<interface/,/<\/interface/p'"
check "the guest's document names the VF" shows "slot='0x${vf_address:8:2}' function='0x${vf_address: -1}'"

title "5. In the guest: the VF is there, with its own driver"
echo "\$ tail -F console"
line=$(wait_for_line console 'NET .* igbvf up')
echo "$line"
check "the guest's igbvf driver has the VF up, with its MAC" grep -q "$mac igbvf up" <<<"$line"

title "6. Through the VF: the guest answers on VLAN 42, and only there"
run "ip address add $host_ip/24 dev $pf"
check "untagged, the guest is out of reach" fails ping -c 2 -W 1 $guest_ip
run "ip address del $host_ip/24 dev $pf"
run "ip link add link $pf name vlan42 type vlan id 42"
run "ip address add $host_ip/24 dev vlan42"
run "ip link set vlan42 up"
run "ping -c 3 -W 5 -w $patience $guest_ip"
check "on VLAN 42, the guest answers" shows " 3 received"

title "7. Who has what"
run "virtnic who"
for word in vfs guest "$mac" "$pf" "$vf_address" vfio-pci; do
    check "it names $word" shows "$word"
done

title "8. The guest goes; the VF comes back as it was"
run "virsh destroy guest"
run "readlink $vf/driver"
run "ip -brief link show dev $netdev"
run "ip link show dev $pf | grep 'vf 0 '"
check "the card knows the VF by its own MAC again, or by none" grep -qE "$vf_mac|00:00:00:00:00:00" <<<"$output"
run "virtnic who"
check "nothing is lent any more" test "$(virtnic who --json)" = "[]"
run "virtnic reconcile"
check "records, kernel and guests agree" test "$(virtnic reconcile --json)" = "[]"
after=$(vf_state)
check "all VFs have the driver, netdev, MAC, VLAN, spoof check and trust that they had" \
    diff <(echo "$before") <(echo "$after")

title "9. A pair: one element of the document, a VF and virtio for the guest, with one MAC"
document pair.xml <<END
<interface type='hostdev-hybrid'>
  <mac address='$mac'/>
  <source dev='$pf'/>
</interface>
END
# In the place of the interface that the guest has, with a console of its own.
{
    sed '/<interface/,$d' guest.xml
    cat pair.xml
    sed '1,/<\/interface>/d' guest.xml
} | sed "s|/console'|/console-of-pair'|" >guest-with-pair.xml
run "virsh undefine guest"
run "virsh define guest-with-pair.xml"
run "virsh dumpxml guest | grep -E '<(/?interface|mac|teaming)'"
check "they are two interfaces with one MAC" test "$(grep -c "$mac" <<<"$output")" = 2
run "virsh start guest"
echo "\$ tail -F console-of-pair"
line=$(wait_for_line console-of-pair 'NET .* igbvf up')
echo "$line"
check "the guest's own driver has the VF up, once it had said that it can do with one that comes and goes" test -n "$line"
run "virtnic who"

title "10. The VF is taken away and given back, while a station outside of the host pings the guest every 50 ms"
run "ip -n $LAB_STATION address add $host_ip/24 dev wire0"
stdbuf -oL ip netns exec "$LAB_STATION" ping -i 0.05 $guest_ip >pings &
pings=$!
check "the guest answers, through the VF" goes_on
run "virtnic demote guest"
check "the guest answers, over virtio alone" goes_on
check "the VF is the host's again" diff <(echo "$before") <(vf_state)
run "virtnic promote guest"
echo "\$ tail -F console-of-pair"
line=$(wait_for_line console-of-pair 'NET .* igbvf up' 2)
echo "$line"
check "the guest answers, through the VF again" goes_on
kill -INT $pings
wait $pings
pings=
sed -n 's/.*bytes from .*icmp_seq=\([0-9]*\) .*/\1/p' pings | sort -nu |
    awk 'NR == 1 { first = $1 } { last = $1 } END { print last - first + 1 - NR " of " last - first + 1 " pings were lost" }'
run "virsh destroy guest"
run "ip -n $LAB_STATION address del $host_ip/24 dev wire0"
check "nothing is lent any more, and all VFs are as they were" diff <(echo "$before") <(vf_state)
