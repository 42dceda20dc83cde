#!/usr/bin/python3
# lab: pfs=1 timeout=120 group=control
"""libvirt-python drives networks, ports and guests."""

import os
import uuid

import libvirt

PF = os.environ["LAB_PF0"]
NETWORK = f"""
<network><name>py</name>
<forward mode='hostdev' managed='yes'><pf dev='{PF}'/></forward></network>
"""
GUEST = f"""
<domain type='{os.environ.get("LAB_GUEST_TYPE", "qemu")}'><name>py</name><memory unit='MiB'>64</memory><vcpu>1</vcpu>
<os><type arch='x86_64' machine='pc'>hvm</type><kernel>{os.environ["LAB_GUEST_KERNEL"]}</kernel></os>
<devices><controller type='usb' model='none'/>
<interface type='network'><mac address='52:54:00:00:00:07'/><source network='py'/></interface>
</devices></domain>
"""


def port(number):
    return f"""
<networkport><uuid>{uuid.UUID(int=number)}</uuid>
<owner><name>borrower</name><uuid>{uuid.UUID(int=99)}</uuid></owner>
<mac address='52:54:00:00:01:{number:02x}'/></networkport>
"""


def refused(code, call, *args):
    try:
        call(*args)
    except libvirt.libvirtError as error:
        assert error.get_error_code() == code, error
        return
    raise AssertionError(f"{call} should be refused with code {code}")


libvirt.registerErrorHandler(lambda *_: None, None)
conn = libvirt.open("qemu:///system")
assert conn.getType() == "QEMU" and conn.isAlive()
assert conn.getVersion() > 10_000_000
assert "<capabilities>" in conn.getCapabilities()

network = conn.networkDefineXML(NETWORK)
network.create()
assert network.isActive() and network.isPersistent()
ports = [network.portCreateXML(port(number)) for number in range(1, 8)]
devices = {line for p in ports for line in p.XMLDesc().splitlines() if "<address" in line}
assert len(devices) == 7, devices
refused(libvirt.VIR_ERR_INTERNAL_ERROR, network.portCreateXML, port(8))
refused(libvirt.VIR_ERR_NETWORK_PORT_EXIST, network.portCreateXML, port(1))
for p in ports:
    p.delete()
assert network.listAllPorts() == []

guest = conn.createXML(GUEST, libvirt.VIR_DOMAIN_START_PAUSED)
assert guest.state() == [libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_USER]
assert guest.ID() > 0 and guest.info()[1] == 64 * 1024
assert len(network.listAllPorts()) == 1
refused(libvirt.VIR_ERR_OPERATION_FAILED, conn.createXML, GUEST, 0)
guest.destroy()
refused(libvirt.VIR_ERR_NO_DOMAIN, conn.lookupByName, "py")

read_only = libvirt.openReadOnly("qemu:///system")
refused(libvirt.VIR_ERR_OPERATION_DENIED, read_only.networkLookupByName("py").destroy)
network.destroy()
network.undefine()
conn.close()
