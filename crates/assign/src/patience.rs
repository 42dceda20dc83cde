//! Waiting for drivers, where no event tells when they are ready.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use host::HostError;

/// How long to wait for a driver that is not ready, try by try: about a second in all.
const PAUSES: [u64; 7] = [2, 8, 32, 64, 128, 256, 512];

const EAGAIN: i32 = rustix::io::Errno::AGAIN.raw_os_error();
const EBUSY: i32 = rustix::io::Errno::BUSY.raw_os_error();

/// Tries again where the driver says "not now": a VF in reset (i40e, ice) refuses its settings
/// for some milliseconds, and no event tells when that is over; or where udev has just given a
/// network device another name.
pub(crate) fn insist<T>(mut attempt: impl FnMut() -> Result<T, HostError>) -> Result<T, HostError> {
    for pause in PAUSES {
        match attempt() {
            Err(HostError::NoNetdev(_)) => wait(pause),
            Err(error) if matches!(error.errno(), Some(EAGAIN | EBUSY)) => wait(pause),
            settled => return settled,
        }
    }
    attempt()
}

/// Reads until what is read will do, or time is up; then takes what there is. Some drivers take
/// settings over with a delay, and no event tells when.
pub(crate) fn patiently<T>(
    mut read: impl FnMut() -> Result<(T, bool), HostError>,
) -> Result<T, HostError> {
    for pause in &PAUSES[..5] {
        let (value, will_do) = read()?;
        if will_do {
            return Ok(value);
        }
        wait(*pause);
    }
    read().map(|(value, _)| value)
}

fn wait(milliseconds: u64) {
    std::thread::park_timeout(Duration::from_millis(milliseconds));
}

/// Seconds since 1970. A clock before that is shown as 1970.
pub(crate) fn now() -> u64 {
    (SystemTime::now().duration_since(UNIX_EPOCH)).map_or(0, |since| since.as_secs())
}
