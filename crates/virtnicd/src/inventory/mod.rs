//! What the host is and has, as libvirt's clients list it. It is looked at; what is changed is who has a
//! PCI function, the host or nobody.

mod capabilities;
mod describe;
mod detach;
mod devices;
pub(crate) mod interfaces;
mod news;
