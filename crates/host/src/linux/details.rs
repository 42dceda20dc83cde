//! What a description of a network device shows.

use super::LinuxHost;
use crate::{HostError, Netdev, NetdevDetails, Operation};

impl LinuxHost {
    pub(super) fn details_of(&self, netdev: &Netdev) -> Result<NetdevDetails, HostError> {
        let details = self.netlink.details(netdev.index);
        let mut details = self.tell(Operation::ReadNetdev, netdev.index, details)?;
        details.speed = self.speed_of(netdev);
        Ok(details)
    }

    /// Mbit/s. Without carrier the kernel refuses to tell, and of what has no speed it tells -1.
    fn speed_of(&self, netdev: &Netdev) -> Option<u32> {
        let path = self.paths.sysfs.join("class/net").join(netdev.name.as_str());
        let speed = std::fs::read_to_string(path.join("speed")).ok()?;
        let speed: i64 = speed.trim().parse().ok()?;
        u32::try_from(speed).ok().filter(|&speed| speed > 0 && speed < u32::MAX)
    }
}
