#!/bin/bash
# lab: pfs=1 timeout=300 group=nodedev
# A guest made by virt-install, with a VF that is named in each of the ways that it knows: by its node device, by its
# address, and by bus, slot and function. It looks the device up itself, among those that the daemon lists.
. "$(dirname "$0")/lib.sh"
pf=$LAB_PF0
number=0

# install SPELLING: a guest with that device starts
install_with() {
    number=$((number + 1))
    virt-install --connect "$LIBVIRT_DEFAULT_URI" --virt-type "${LAB_GUEST_TYPE:-qemu}" --name "g$number" --memory 128 --vcpus 1 \
        --machine q35 --boot "kernel=$LAB_GUEST_KERNEL,initrd=$LAB_GUEST_INITRD,kernel_args=console=ttyS0 quiet" \
        --osinfo detect=on,require=off --disk none --network none --graphics none --noautoconsole \
        --hostdev "$1" >install.out 2>&1 || fail "--hostdev $1: $(cat install.out)"
}

for vf in 0 1 2; do
    address=$(vf_address "$pf" "$vf")
    case $vf in
    0) install_with "pci_${address//[:.]/_}" ;;
    1) install_with "$address" ;;
    2) install_with "${address#0000:}" ;;
    esac
    [ "$(vf_driver "$pf" "$vf")" = vfio-pci ] || fail "VF $vf has driver $(vf_driver "$pf" "$vf")"
    virtnic who | grep -q "g$number .*$address" || fail "$(virtnic who)"
done
for guest in g1 g2 g3; do
    virsh -q destroy $guest
    virsh -q undefine $guest
done
nothing_lent
