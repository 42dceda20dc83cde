//! How much memory a process may lock (`RLIMIT_MEMLOCK`).
//!
//! vfio counts what a device reaches of a guest's memory as locked by the process that gave it the
//! device, and refuses what goes beyond the limit.

use std::io;

use rustix::io::Errno;
use rustix::process::{Pid, Resource, Rlimit};

/// A limit on locked memory (`RLIMIT_MEMLOCK`). A limit that is higher already stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MemoryLock {
    /// Bytes.
    AtLeast(u64),
    /// No limit.
    Unlimited,
}

impl MemoryLock {
    /// The kernel's form, in which `None` is no limit.
    fn bytes(self) -> Option<u64> {
        match self {
            Self::AtLeast(bytes) => Some(bytes),
            Self::Unlimited => None,
        }
    }

    /// Whether a process with this limit may lock as much as one with that.
    #[must_use]
    pub fn covers(self, wanted: Self) -> bool {
        match (self.bytes(), wanted.bytes()) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(bytes), Some(wanted)) => bytes >= wanted,
        }
    }
}

/// Raises the limit of a process that runs, soft and hard; never lowers it. It counts at once, also
/// for what the process locks later.
///
/// The process is known by its number alone: whoever calls this holds it in another way, too.
///
/// # Errors
/// The kernel's: `ESRCH` if it is gone, `EPERM` without `CAP_SYS_RESOURCE`.
pub fn raise_memory_lock(process: u32, wanted: MemoryLock) -> io::Result<()> {
    let pid = i32::try_from(process).ok().and_then(Pid::from_raw);
    let pid = pid.ok_or(Errno::SRCH)?;
    let now = limit_of(pid)?;
    if let Some(new) = raised(now, wanted) {
        rustix::process::prlimit(Some(pid), Resource::Memlock, new)?;
    }
    Ok(())
}

/// Raises the calling process's. Fit to be called between fork and exec.
pub(crate) fn raise_own(wanted: MemoryLock) -> Result<(), Errno> {
    match raised(rustix::process::getrlimit(Resource::Memlock), wanted) {
        Some(new) => rustix::process::setrlimit(Resource::Memlock, new),
        None => Ok(()),
    }
}

/// The limit to set; `None`: it is high enough.
fn raised(now: Rlimit, wanted: MemoryLock) -> Option<Rlimit> {
    let wanted = wanted.bytes();
    let higher = |a: Option<u64>| a.zip(wanted).map(|(a, b)| a.max(b));
    let new = Rlimit {
        current: higher(now.current),
        maximum: higher(now.maximum),
    };
    (new != now).then_some(new)
}

fn limit_of(pid: Pid) -> io::Result<Rlimit> {
    let mut limit = libc::rlimit64 {
        rlim_cur: 0,
        rlim_max: 0,
    };
    #[expect(unsafe_code, reason = "rustix asks only for what it also sets")]
    // SAFETY: nothing is set, and the kernel writes one limit where there is room for one.
    let result = unsafe {
        libc::prlimit64(
            pid.as_raw_nonzero().get(),
            libc::RLIMIT_MEMLOCK,
            std::ptr::null(),
            &raw mut limit,
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    let known = |bytes| (bytes != libc::RLIM64_INFINITY).then_some(bytes);
    Ok(Rlimit {
        current: known(limit.rlim_cur),
        maximum: known(limit.rlim_max),
    })
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command};

    use super::*;

    /// A process that waits, ended with its test.
    struct Waiting(Child);

    impl Waiting {
        fn new() -> Self {
            Self(Command::new("sleep").arg("60").spawn().unwrap())
        }

        /// Soft and hard limit as `/proc` prints them.
        fn limits(&self) -> (String, String) {
            let path = format!("/proc/{}/limits", self.0.id());
            let text = std::fs::read_to_string(path).unwrap();
            let line = text.lines().find(|line| line.contains("locked memory"));
            let mut words = line.unwrap().split_whitespace().skip(3);
            let mut next = || words.next().unwrap().to_owned();
            (next(), next())
        }
    }

    impl Drop for Waiting {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    fn both(text: &str) -> (String, String) {
        (text.to_owned(), text.to_owned())
    }

    #[test]
    fn a_running_process_gets_more_and_never_less() {
        let child = Waiting::new();
        let pid = child.0.id();
        let raw = Pid::from_child(&child.0);
        let limit = |current, maximum| {
            let low = Rlimit {
                current: Some(current),
                maximum: Some(maximum),
            };
            rustix::process::prlimit(Some(raw), Resource::Memlock, low).unwrap();
        };
        limit(4 << 20, 8 << 20);
        raise_memory_lock(pid, MemoryLock::AtLeast(6 << 20)).unwrap();
        assert_eq!(child.limits(), ("6291456".to_owned(), "8388608".to_owned()));
        limit(8 << 20, 8 << 20);
        raise_memory_lock(pid, MemoryLock::AtLeast(1 << 20)).unwrap();
        assert_eq!(child.limits(), both("8388608"), "it is high enough");

        let capabilities = rustix::thread::capabilities(None).unwrap().effective;
        if !capabilities.contains(rustix::thread::CapabilitySet::SYS_RESOURCE) {
            let error = raise_memory_lock(pid, MemoryLock::Unlimited).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::EPERM));
            eprintln!("SKIPPED: raising a hard limit needs CAP_SYS_RESOURCE");
            return;
        }
        raise_memory_lock(pid, MemoryLock::AtLeast(3 << 30)).unwrap();
        assert_eq!(child.limits(), both("3221225472"));
        raise_memory_lock(pid, MemoryLock::Unlimited).unwrap();
        assert_eq!(child.limits(), both("unlimited"));
        raise_memory_lock(pid, MemoryLock::AtLeast(1)).unwrap();
        assert_eq!(child.limits(), both("unlimited"), "never lowered");
    }

    #[test]
    fn a_process_that_is_gone_is_said_to_be() {
        let child = Waiting::new();
        let pid = child.0.id();
        drop(child);
        let error = raise_memory_lock(pid, MemoryLock::Unlimited).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ESRCH));
        let error = raise_memory_lock(u32::MAX, MemoryLock::Unlimited).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ESRCH));
    }

    #[test]
    fn a_limit_covers_what_is_not_above_it() {
        use MemoryLock::{AtLeast, Unlimited};
        for (limit, wanted, covers) in [
            (AtLeast(2), AtLeast(2), true),
            (AtLeast(1), AtLeast(2), false),
            (AtLeast(u64::MAX), Unlimited, false),
            (Unlimited, Unlimited, true),
            (Unlimited, AtLeast(2), true),
        ] {
            assert_eq!(limit.covers(wanted), covers, "{limit:?} {wanted:?}");
        }
    }
}
