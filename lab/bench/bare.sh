#!/bin/bash
# The least that it takes to start a paused guest with a VF: the kernel's steps and QEMU, until its monitor answers.
# Usage: bare.sh PF VF-NUMBER MAC SOCKET QEMU ARGUMENTS…   Prints QEMU's pid.
set -euo pipefail
pf=$1 number=$2 mac=$3 socket=$4
shift 4
coproc QMP { exec socat - "UNIX-LISTEN:$socket"; }
device=$(readlink -f "/sys/class/net/$pf/device/virtfn$number")
ip link set dev "$pf" vf "$number" mac "$mac"
ip link set dev "$pf" vf "$number" vlan 0
echo vfio-pci >"$device/driver_override"
echo "${device##*/}" >"$device/driver/unbind"
echo "${device##*/}" >/sys/bus/pci/drivers_probe
setsid "$@" </dev/null >"$socket.log" 2>&1 &
qemu=$!
read -r greeting <&"${QMP[0]}"
echo '{"execute":"qmp_capabilities"} {"execute":"query-status"}' >&"${QMP[1]}"
until [[ $greeting == *'"status"'* ]]; do read -r greeting <&"${QMP[0]}"; done
echo "$qemu"
