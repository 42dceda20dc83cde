//! Whether the real kernel gives a network device IPv6 addresses by itself.

use std::fs;
use std::io;

use super::LinuxHost;
use crate::{HostError, Ipv6Autoconf, Operation};

impl LinuxHost {
    pub(super) fn autoconf_of(&self, ifindex: u32) -> Result<Option<Ipv6Autoconf>, HostError> {
        let told = self.netlink.ipv6_autoconf(ifindex);
        self.tell(Operation::ReadIpv6, ifindex, told)
    }

    pub(super) fn change_addr_gen_mode(&self, ifindex: u32, mode: u8) -> Result<(), HostError> {
        let operation = Operation::SetAddrGenMode;
        let set = self.netlink.set_addr_gen_mode(ifindex, mode);
        self.tell(operation, ifindex, set)?;
        let now = self.autoconf_of(ifindex)?.map(|now| now.addr_gen_mode);
        self.tell(operation, ifindex, kept(now == Some(mode)))
    }

    /// By name, since netlink has no word for it. What the index has is read back, so that a name
    /// that moved meanwhile is told.
    pub(super) fn change_accept_ra(&self, ifindex: u32, accept: i32) -> Result<(), HostError> {
        let operation = Operation::SetAcceptRa;
        let device = self.tell(operation, ifindex, self.netlink.device(ifindex))?;
        let conf = self.paths.proc.join("sys/net/ipv6/conf");
        let file = conf.join(&device.name).join("accept_ra");
        self.tell(operation, ifindex, fs::write(file, accept.to_string()))?;
        let now = self.autoconf_of(ifindex)?.map(|now| now.accept_ra);
        self.tell(operation, ifindex, kept(now == Some(accept)))
    }
}

fn kept(kept: bool) -> io::Result<()> {
    if kept {
        return Ok(());
    }
    Err(io::Error::other("the kernel did not keep it"))
}
