# What the tests share. Sourced by each, in bash.
set -euo pipefail
export LIBVIRT_DEFAULT_URI=qemu:///system
work=$(mktemp -d)
cd "$work"

# grep …: with -q it reads all of its input all the same. One that stops at the first match ends whoever still writes,
# which pipefail takes for a failure. (grep itself stops early, too, if it writes to /dev/null.)
grep() {
    if [[ $1 != -q* ]]; then
        command grep "$@"
        return
    fi
    local options=${1#-q}
    shift
    command grep ${options:+-"$options"} "$@" | cat >/dev/null
}

fail() {
    echo "FAILED: $*" >&2
    exit 1
}

# network_xml NAME PF [CHILDREN]: a pool of a PF's VFs
network_xml() {
    cat <<END
<network>
  <name>$1</name>
  <forward mode='hostdev' managed='yes'><pf dev='$2'/></forward>
  ${3:-}
</network>
END
}

# guest_xml NAME MAC NETWORK [IP] [DEVICES] [CHILDREN OF ITS INTERFACE]: a small guest with a VF
guest_xml() {
    cat <<END
<domain type='${LAB_GUEST_TYPE:-qemu}'>
  <name>$1</name>
  <memory unit='MiB'>128</memory>
  <vcpu>1</vcpu>
  <os>
    <type arch='x86_64' machine='q35'>hvm</type>
    <kernel>$LAB_GUEST_KERNEL</kernel>
    <initrd>$LAB_GUEST_INITRD</initrd>
    <cmdline>console=ttyS0 quiet${4:+ ip.$2=$4}</cmdline>
  </os>
  <devices>
    <controller type='usb' model='none'/>
    <interface type='network'>
      <mac address='$2'/>
      <source network='$3'/>
      ${6:-}
    </interface>
    ${5:-}
    <memballoon model='none'/>
  </devices>
</domain>
END
}

# start_network NAME PF [CHILDREN]: defines and starts it
start_network() {
    network_xml "$@" >"$1.xml"
    virsh -q net-define "$1.xml"
    virsh -q net-start "$1"
}

# vf_state PF NUMBER: what the kernel tells of a VF, in one line
vf_state() {
    ip link show "$1" | sed -n "s/^ *vf $2 *//p"
}

# vf_address PF NUMBER
vf_address() {
    basename "$(readlink -f "/sys/class/net/$1/device/virtfn$2")"
}

# vf_driver PF NUMBER
vf_driver() {
    basename "$(readlink -f "/sys/class/net/$1/device/virtfn$2/driver")"
}

# vf_netdev PF NUMBER
vf_netdev() {
    ls "/sys/class/net/$1/device/virtfn$2/net"
}

# as_found PF NUMBER: all that a user of the host would notice of a VF
as_found() {
    echo "$(vf_driver "$1" "$2") $(cat "/sys/class/net/$1/device/virtfn$2/net/"*/address)" \
        "$(vf_state "$1" "$2" | grep -o 'vlan.*\|spoof.*')"
}

# on_console GUEST LINE ANSWER: types a line, and waits for a line that matches
on_console() {
    local line
    exec 5<>"$(virsh -q ttyconsole "$1")"
    stty raw -echo <&5
    echo "$2" >&5
    while read -rt 60 line <&5; do
        [[ $line =~ $3 ]] && break
        line=
    done
    exec 5>&-
    [ -n "$line" ]
}

# refused TEXT COMMAND…: the command fails, and says that
refused() {
    local wanted=$1
    shift
    if "$@" >refused.out 2>&1; then
        fail "'$*' should be refused with '$wanted', and was carried out"
    fi
    grep -qF -- "$wanted" refused.out ||
        fail "'$*' should say '$wanted', and says: $(cat refused.out)"
}

# nothing_lent: no device is with anybody
nothing_lent() {
    [ "$(virtnic who --json)" = "[]" ] || fail "still lent: $(virtnic who)"
}

# daemon_pid: the process of the daemon
daemon_pid() {
    virtnic status --json | sed -n 's/.*"pid": *\([0-9]*\).*/\1/p'
}

# crash PID: ends a process as a crash would, and waits until it is gone, or waits for its parent only
crash() {
    kill -9 "$1"
    while [ -e "/proc/$1" ] && ! grep -qs '^State:.*Z' "/proc/$1/status"; do
        read -rt 0.05 <> <(:) || :
    done
}

# kill_daemon: ends the daemon as a crash would
kill_daemon() {
    crash "$(daemon_pid)"
}

# start_daemon: starts the daemon as the lab did, and waits until it is ready
start_daemon() {
    coproc NOTIFY { socat -u UNIX-RECVFROM:"$work/notify" STDOUT; }
    until [ -S "$work/notify" ]; do read -rt 0.1 <> <(:) || :; done
    NOTIFY_SOCKET="$work/notify" virtnicd --libvirt-sockets /run/libvirt >>/var/log/virtnicd.log 2>&1 &
    read -rt 60 -u "${NOTIFY[0]}" ready || fail "the daemon was not ready within 60 s: $(tail -5 /var/log/virtnicd.log)"
    wait "$NOTIFY_PID" 2>/dev/null || :
}
