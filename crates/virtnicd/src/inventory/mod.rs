//! What the host is and has, as libvirt's clients list it. It is looked at and never changed here.

mod capabilities;
mod describe;
mod devices;
pub(crate) mod interfaces;
