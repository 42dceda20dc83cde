//! How the kernel gives a device IPv6 addresses by itself.
//!
//! Numbers are those of the kernel's `linux/if_link.h` and `linux/ipv6.h`.

use std::io;

use super::attributes::{Attributes, u32_at};
use super::connection::Connections;
use super::device::{IFLA_AF_SPEC, RTM_SETLINK, ignore, link_message, raw};
use super::link::{HEADER, get_link};
use crate::Ipv6Autoconf;

const AF_INET6: u16 = 10;
const IFLA_INET6_CONF: u16 = 2;
const IFLA_INET6_ADDR_GEN_MODE: u16 = 8;
/// Where `accept_ra` stands in the list of settings, four bytes each.
const DEVCONF_ACCEPT_RA: usize = 3;

impl Connections {
    /// What the kernel does by itself; `None`: it has no IPv6, or not on that device.
    pub(crate) fn ipv6_autoconf(&self, ifindex: u32) -> io::Result<Option<Ipv6Autoconf>> {
        let mut found = None;
        self.get(get_link(ifindex, Vec::new()), |_, payload| {
            found = read(payload)?;
            Ok(())
        })?;
        Ok(found)
    }

    /// Sets how addresses are made up. Only future ones: those that are there stay.
    pub(crate) fn set_addr_gen_mode(&self, ifindex: u32, mode: u8) -> io::Result<()> {
        let mut request = link_message(0, ifindex, 0, 0);
        request.nest(IFLA_AF_SPEC, |families| {
            families.nest(AF_INET6, |inet6| {
                inet6.value(IFLA_INET6_ADDR_GEN_MODE, [mode]);
            });
        });
        self.exchange(raw(RTM_SETLINK, 0, &request), ignore)
    }

    /// Keeps the kernel from giving the device an IPv6 address of its own. Fine without IPv6.
    pub(crate) fn set_without_ipv6_address(&self, ifindex: u32) -> io::Result<()> {
        match self.set_addr_gen_mode(ifindex, Ipv6Autoconf::NONE.addr_gen_mode) {
            Err(error) if crate::errno(&error) == Some(EAFNOSUPPORT) => Ok(()),
            set => set,
        }
    }
}

const EAFNOSUPPORT: i32 = rustix::io::Errno::AFNOSUPPORT.raw_os_error();

/// From the payload of an RTM_NEWLINK.
fn read(payload: &[u8]) -> io::Result<Option<Ipv6Autoconf>> {
    let families = Attributes::after(HEADER, payload)?.nested(IFLA_AF_SPEC)?;
    let Some(inet6) = families
        .map(|all| all.nested(AF_INET6))
        .transpose()?
        .flatten()
    else {
        return Ok(None);
    };
    let (Some(conf), Some(mode)) = (
        inet6.find(IFLA_INET6_CONF)?,
        inet6.find(IFLA_INET6_ADDR_GEN_MODE)?,
    ) else {
        return Ok(None);
    };
    let accept_ra = u32_at(conf, DEVCONF_ACCEPT_RA * 4)?.cast_signed();
    Ok(mode.first().map(|mode| Ipv6Autoconf {
        addr_gen_mode: *mode,
        accept_ra,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_settings_are_read_and_a_cut_off_answer_is_no_other_one() {
        let mut message = link_message(0, 7, 0, 0);
        message.nest(IFLA_AF_SPEC, |families| {
            families.nest(AF_INET6, |inet6| {
                let conf = [0_u32, 64, 1500, 2, 1].map(u32::to_ne_bytes).concat();
                inet6
                    .value(IFLA_INET6_CONF, conf)
                    .value(IFLA_INET6_ADDR_GEN_MODE, [1]);
            });
        });
        let whole = read(message.bytes()).unwrap();
        let expected = Ipv6Autoconf {
            addr_gen_mode: 1,
            accept_ra: 2,
        };
        assert_eq!(whole, Some(expected));
        for length in 0..message.bytes().len() - 3 {
            let cut = read(&message.bytes()[..length]);
            assert!(!matches!(cut, Ok(Some(_))), "{length}: {cut:?}");
        }
    }
}
