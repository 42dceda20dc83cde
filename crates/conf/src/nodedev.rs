//! `<device>`: devices of the host, as `virsh nodedev-dumpxml` shows them.
