#!/bin/bash
# lab: hosts=2 pfs=1 timeout=180 group=two-hosts
# What tests with two hosts count on: each reaches the other, and the station's bridge learns where somebody is.
. "$(dirname "$0")/lib.sh"
outside() { ip netns exec "$LAB_STATION" "$@"; }

echo "A command in the second host: its input, its outputs, its status"
[ "$(hostname) $(on2 hostname)" = "lab lab2" ] || fail "$(hostname), $(on2 hostname)"
[ "$(echo 'echo $((6 * 7))' | on2 bash -s)" = 42 ] || fail "a script through standard input"
status=0
on2 sh -c 'echo out; echo err >&2; exit 7' >out 2>err || status=$?
[ "$status $(cat out err | xargs)" = "7 out err" ] || fail "status $status: $(cat out err)"
head -c 3000000 /dev/urandom >much
on2 cat <much | cmp - much || fail "what goes there does not come back whole"

echo "A command there ends with its client"
coproc LONG { exec on2 sh -c 'echo $$; exec sleep 1000'; }
read -rt 60 pid <&"${LONG[0]}"
on2 test -e "/proc/$pid" </dev/null || fail "it does not run"
kill "$LONG_PID"
left=300
while on2 test -e "/proc/$pid" </dev/null; do
    [ $((left -= 1)) -gt 0 ] || fail "process $pid is still there"
done

echo "Each daemon is reached from either host"
[ "$(virsh -q -c "$LAB_HOST2_URI" hostname | xargs)" = lab2 ] || fail "$LAB_HOST2_URI"
[ "$(virsh -q -c "${LAB_HOST2_URI/qemu:/qemu+unix:}" hostname | xargs)" = lab2 ] || fail "with a transport"
back=$(on2 printenv LAB_HOST1_URI </dev/null)
[ "$(on2 virsh -q -c "$back" hostname </dev/null | xargs)" = lab ] || fail "$back"
uuid() { virsh -c "$1" capabilities | sed -n 's/.*<uuid>\(.*\)<.*/\1/p' | head -n 1; }
[ "$(uuid qemu:///system)" != "$(uuid "$LAB_HOST2_URI")" ] || fail "both hosts have the UUID $(uuid qemu:///system)"

echo "By TCP, both ways, by name"
ping -c1 -W20 lab2 >/dev/null || fail "lab2 does not answer"
on2 ping -c1 -W20 lab </dev/null >/dev/null || fail "lab does not answer"

echo "A MAC address that moves from one host to the other"
ip -n "$LAB_STATION" address add 10.8.0.254/24 dev wire0
mac=52:54:00:aa:ee:99
appears() { # appears here|on2: somebody with that address, who says that he is there now
    set -- ${1#here}
    "$@" ip link add moving link "$LAB_PF0" address "$mac" type macvlan mode bridge
    "$@" sysctl -qw net.ipv4.conf.moving.arp_notify=1
    "$@" ip address add 10.8.0.99/24 dev moving
    "$@" ip link set moving up
} </dev/null
port() { bridge -n "$LAB_STATION" fdb show br wire0 | sed -n "s/^$mac dev \([a-z0-9]*\) .*/\1/p"; }
appears here
outside ping -c1 -W20 10.8.0.99 >/dev/null || fail "no answer from the first host"
[ "$(port)" = near0 ] || fail "learned at '$(port)'"
ip link del moving
appears on2
outside ping -c1 -W20 10.8.0.99 >/dev/null || fail "no answer from the second host"
[ "$(port)" = far0 ] || fail "learned at '$(port)'"
on2 ip link del moving </dev/null
