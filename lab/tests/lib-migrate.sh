# What tests that move a guest between two hosts share (`hosts=2`). Sourced after lib.sh, in bash.
#
# `here` is this host, `there` the second one. All times are this host's clock, in seconds.

there=$LAB_HOST2_URI
declare -A uri=([here]=$LIBVIRT_DEFAULT_URI [there]=$there)
declare -A address=([here]=$LAB_HOST1 [there]=$LAB_HOST2)
guests=/tmp/guests # where serial ports of guests are written to, in both hosts
helpers=${BASH_SOURCE[0]%/*}
background=()

# What runs in the background ends with the script; it may have ended by itself.
trap 'kill "${background[@]}" 2>/dev/null || :' EXIT

outside() { ip netns exec "$LAB_STATION" "$@"; }

# on HOST COMMAND…: runs it here or there, without input
on() {
    local host=$1
    shift
    case $host in here) "$@" ;; there) on2 "$@" ;; esac </dev/null
}

# at HOST WORDS…: virsh on the daemon of that host
at() {
    local host=$1
    shift
    virsh -q -c "${uri[$host]}" "$@"
}

# stamp WORD: each line with the time at which it came, and the word
stamp() {
    local line
    while IFS= read -r line; do echo "$EPOCHREALTIME $1 ${line%$'\r'}"; done
}

# serial_xml GUEST: the serial port of a guest that is watched
serial_xml() {
    echo "<serial type='file'><source path='$guests/$1' append='on'/></serial>"
}

# moving_xml KIND MAC IP INTERFACES: the document of a small guest `g` that can be moved
moving_xml() {
    cat <<XML
<domain type='$1'>
  <name>g</name>
  <memory unit='MiB'>128</memory>
  <os>
    <type arch='x86_64' machine='q35'>hvm</type>
    <kernel>$LAB_GUEST_KERNEL</kernel>
    <initrd>$LAB_GUEST_INITRD</initrd>
    <cmdline>console=ttyS0 quiet ip.$2=$3/24</cmdline>
  </os>
  <features><acpi/><apic/></features>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    <controller type='usb' model='none'/>
    $4
    $(serial_xml g)
    <memballoon model='none'/>
  </devices>
</domain>
XML
}

# watch_guest GUEST: from now on, console.GUEST is what the guest says on either host, events.GUEST what the daemons say of it
watch_guest() {
    local host
    : >"console.$1" >"events.$1"
    for host in here there; do
        on "$host" sh -c "mkdir -p -m 777 $guests; : >$guests/$1"
        on "$host" tail -qF -n +1 "$guests/$1" 2>/dev/null > >(stamp "$host" >>"console.$1") &
        background+=($!)
        stdbuf -oL virsh -c "${uri[$host]}" event --loop --event lifecycle > >(stamp "$host" >>"events.$1") &
        background+=($!)
    done
}

# said FILE SINCE PATTERN [SECONDS]: waits for a stamped line of after that time that matches; prints it
said() {
    local time line patience=${4:-150} tail
    exec {tail}< <(exec tail -n +1 -f "$1" 2>/dev/null)
    local reader=$!
    while read -rt "$patience" -u "$tail" time line; do
        if [[ ! $time < $2 && $line =~ $3 ]]; then
            echo "$time $line"
            break
        fi
        line=
    done
    exec {tail}<&-
    kill "$reader" 2>/dev/null || : # it may have noticed by itself
    [ -n "$line" ] || fail "no '$3' in $1 within $patience s; its end: $(tail -n 5 "$1")"
}

# seen FILE SINCE PATTERN: the time of the first such line that is there already, or nothing
seen() {
    awk -v since="$2" -v pattern="$3" '$1 >= since && $0 ~ pattern { print $1; exit }' "$1"
}

# start_pings FILE IP: the station pings the guest each 20 ms, until stop_pings
start_pings() {
    stdbuf -oL ip netns exec "$LAB_STATION" ping -D -O -i 0.02 "$2" >"$1" 2>&1 &
    pings=$!
    background+=("$pings")
}

stop_pings() {
    kill -INT "$pings"
    wait "$pings" || : # its status is whether all were answered
}

# answered FILE: how many pings were
answered() { command grep -c 'bytes from' "$1" || :; }

# goes_on FILE [NUMBER]: waits until so many (25) more pings are answered
goes_on() {
    local line left=${2:-25} patience=0 tail
    exec {tail}< <(exec tail -n 0 -f "$1")
    local reader=$!
    while [ "$left" -gt 0 ] && read -rt 60 -u "$tail" line && [ $((patience += 1)) -lt 6000 ]; do
        [[ $line != *'bytes from'* ]] || left=$((left - 1))
    done
    exec {tail}<&-
    kill "$reader" 2>/dev/null || : # as above
    [ "$left" = 0 ] || fail "the station gets no answers: $(tail -n 3 "$1")"
}

# losses FILE FROM TO: of the pings sent in that time, how many had no answer; and the longest time without any answer whose
# middle lies in it, in seconds
losses() {
    awk -v from="$2" -v to="$3" '
        { time = substr($1, 2, length($1) - 2) + 0 }
        !match($0, /icmp_seq=[0-9]+/) { next }
        { seq = substr($0, RSTART + 9, RLENGTH - 9) + 0 }
        /bytes from/ {
            if (!match($0, /time=[0-9.]+/)) next
            if (!(seq in answered)) sent[seq] = time - substr($0, RSTART + 5, RLENGTH - 5) / 1000
            answered[seq] = 1
            middle = (time + last) / 2
            if (last && time - last > gap && middle >= from && middle < to) gap = time - last
            last = time
            next
        }
        # It is said when the next one is sent, or later.
        !(seq in sent) { sent[seq] = time - 0.02 }
        END {
            for (seq in sent) if (!(seq in answered) && sent[seq] >= from && sent[seq] < to) lost++
            printf "%d %.2f\n", lost, gap
        }' "$1"
}

# start_talk FILE IP: a TCP connection from the station to the guest, until stop_talk
start_talk() {
    ip netns exec "$LAB_STATION" python3 -B "$helpers/talk.py" "$2" >"$1" 2>&1 &
    talk=$!
    background+=("$talk")
    said_plain "$1" CONNECTED
}

# said_plain FILE TEXT: waits for a line that is this
said_plain() {
    local line= tail
    exec {tail}< <(exec tail -n +1 -f "$1")
    local reader=$!
    while read -rt 60 -u "$tail" line && [ "$line" != "$2" ]; do :; done
    exec {tail}<&-
    kill "$reader" 2>/dev/null || : # as above
    [ "$line" = "$2" ] || fail "no '$2' in $1: $(cat "$1")"
}

# stop_talk FILE: ends it; sets `silence`, the longest one in seconds. Fails unless all that was sent came back, in order.
stop_talk() {
    kill -TERM "$talk"
    wait "$talk" || fail "the connection to the guest: $(cat "$1")"
    silence=$(sed -n 's/^WHOLE .* silence \([0-9.]*\) s$/\1/p' "$1")
}

# uptime_of IP: how long the guest there is up, and its boot's id
uptime_of() { outside socat -u "TCP:$1:13" STDOUT; }

# measure GUEST IP FROM TO COMMAND…: runs the command, which moves the guest with its VF from one host to the other, here or
# there; prints one line of what it cost:
#
#   total     seconds of the command
#   unplug    pings lost and longest gap around the VF's end: from the start to half-way between that and the suspension
#             (its event comes after it)
#   switch    … from then until the VF is there again
#   plug      … from then on, for 50 answers
#   down      seconds from suspended to resumed, by the daemons' events
#   no_vf     seconds from the VF's end to its being up again
#   tcp       the longest silence of a connection all of whose data arrived
#   dups      pings answered twice
measure() {
    local guest=$1 ip=$2 from=$3 to=$4 start end gone suspended resumed up silence last
    shift 4
    local log=$guest.$to
    start_pings "pings.$log" "$ip"
    start_talk "talk.$log" "$ip"
    goes_on "pings.$log"
    local before after
    before=$(uptime_of "$ip")
    start=$EPOCHREALTIME
    "$@" >"command.$log" 2>&1 || fail "$*: $(cat "command.$log")"
    end=$EPOCHREALTIME
    up=$(said "console.$guest" "$start" "^$to NET .* igbvf up")
    goes_on "pings.$log" 50
    last=$EPOCHREALTIME
    after=$(uptime_of "$ip")
    stop_pings
    stop_talk "talk.$log"
    [ "${before#* }" = "${after#* }" ] || fail "the guest was booted anew: '$before', then '$after'"
    up=${up%% *}
    gone=$(seen "console.$guest" "$start" "^[^ ]+ $from NET .* gone")
    suspended=$(seen "events.$guest" "$start" "^[^ ]+ $from .*'$guest'.* Suspended")
    resumed=$(seen "events.$guest" "$start" "^[^ ]+ $to .*'$guest'.* Resumed")
    [ -n "$gone" ] || fail "the guest did not lose its VF first: $(cat "console.$guest")"
    [ -n "$suspended" ] && [ -n "$resumed" ] || fail "events are missing: $(cat "events.$guest")"
    local half dups
    local -a unplug switch plug
    half=$(awk -v a="$gone" -v b="$suspended" 'BEGIN { printf "%.6f", (a + b) / 2 }')
    read -ra unplug < <(losses "pings.$log" "$start" "$half")
    read -ra switch < <(losses "pings.$log" "$half" "$up")
    read -ra plug < <(losses "pings.$log" "$up" "$last")
    dups=$(command grep -c 'DUP!' "pings.$log" || :)
    awk -v start="$start" -v end="$end" -v gone="$gone" -v suspended="$suspended" -v resumed="$resumed" -v up="$up" \
        -v figures="unplug_lost=${unplug[0]} unplug_gap=${unplug[1]} switch_lost=${switch[0]} switch_gap=${switch[1]} plug_lost=${plug[0]} plug_gap=${plug[1]}" \
        -v silence="$silence" -v dups="$dups" -v route="from=$from to=$to" 'BEGIN {
            printf "moved %s total=%.2f %s down=%.2f no_vf=%.2f tcp=%s dups=%d", route, end - start, figures, resumed - suspended, up - gone, silence, dups
            printf " at: gone=%.2f suspended=%.2f resumed=%.2f up=%.2f\n", gone - start, suspended - start, resumed - start, up - start
        }'
}
