#!/bin/bash
# What a live migration costs libvirt's guest whose interface is a pair of a VF and virtio: there and back, a station
# pinging it each 20 ms and talking to it over TCP.
#
#   cargo xtask lab exec --hosts 2 --with-libvirt --timeout 1200 -- lab/bench/migrate-libvirt.sh [KIND OF DOMAIN] [ROUNDS]
. "$(dirname "$0")/../tests/lib.sh"
. /checkout/lab/tests/lib-migrate.sh
kind=${1:-$LAB_GUEST_TYPE}
rounds=${2:-1}
mac=52:54:00:aa:ee:01
ip=10.8.0.1
ip -n "$LAB_STATION" address add 10.8.0.254/24 dev wire0

network_xml vfs "$LAB_PF0" >vfs.xml
echo "<network><name>wire</name><forward mode='bridge'><interface dev='$LAB_PF0'/></forward></network>" >wire.xml
for host in here there; do
    for network in vfs wire; do
        at "$host" net-define "$network.xml"
        at "$host" net-start "$network"
    done
    # Once, a libvirtd starts several QEMUs to see what they can do.
    at "$host" domcapabilities --virttype "$kind" >/dev/null
done

moving_xml "$kind" "$mac" "$ip" "
    <interface type='network'>
      <mac address='$mac'/>
      <source network='wire'/>
      <model type='virtio'/>
      <teaming type='persistent'/>
      <alias name='ua-standby'/>
    </interface>
    <interface type='network'>
      <mac address='$mac'/>
      <source network='vfs'/>
      <teaming type='transient' persistent='ua-standby'/>
      <alias name='ua-vf'/>
    </interface>" >g.xml

watch_guest g
start=$EPOCHREALTIME
at here define g.xml
at here start g
said console.g "$start" 'NET .* igbvf up' >/dev/null
echo "a guest of type $kind is up with its VF after $(awk -v a="$start" -v b="$EPOCHREALTIME" 'BEGIN { printf "%.1f", b - a }') s"

migrate() { # migrate FROM TO
    virsh -c "${uri[$1]}" migrate --live --verbose g "${uri[$2]}" --migrateuri "tcp://${address[$2]}"
}
for _ in $(seq "$rounds"); do
    measure g "$ip" here there migrate here there
    measure g "$ip" there here migrate there here
done
at here destroy g
