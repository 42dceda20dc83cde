//! Which CPUs a thread runs on, and which NUMA nodes its memory comes from.

use std::io;
use std::path::Path;

use rustix::io::Errno;

/// Where a process's memory comes from (`set_mempolicy`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemoryPolicy {
    /// How the nodes are used.
    pub mode: MemoryMode,
    /// NUMA nodes of the host, one at least.
    pub nodes: Vec<u16>,
}

/// How NUMA nodes are used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MemoryMode {
    /// Only they (`MPOL_BIND`).
    Bind,
    /// They first, as long as they have any (`MPOL_PREFERRED_MANY`, Linux 5.15).
    Preferred,
    /// In turn, page by page (`MPOL_INTERLEAVE`).
    Interleave,
}

/// Lets one thread of a process run on those CPUs only; the CPUs that the host lacks don't count.
///
/// # Errors
/// `NotFound` if the process has no such thread; else the kernel's.
pub fn pin_thread(process: u32, thread: u32, cpus: &[u16]) -> io::Result<()> {
    // Who names a thread may be mistaken, and another process's must not be moved.
    if !Path::new(&format!("/proc/{process}/task/{thread}")).exists() {
        let message = format!("process {process} has no thread {thread}");
        return Err(io::Error::new(io::ErrorKind::NotFound, message));
    }
    let thread = i32::try_from(thread).map_err(io::Error::other)?;
    set_affinity(thread, &Mask::of(cpus)).map_err(io::Error::from)
}

/// The CPUs that this process may run on.
///
/// # Errors
/// The kernel's.
pub fn own_cpus() -> io::Result<Vec<u16>> {
    let mut mask = Mask(vec![0; MASK_WORDS]);
    #[expect(unsafe_code, reason = "rustix's set of CPUs ends at 1024")]
    // SAFETY: the kernel writes at most as many bytes as it is told, and those are the vector's.
    let result = unsafe {
        libc::sched_getaffinity(
            0,
            mask.bytes(),
            mask.0.as_mut_ptr().cast::<libc::cpu_set_t>(),
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(mask.numbers())
}

/// One bit a CPU or node, as the kernel takes it.
#[derive(Debug)]
pub(crate) struct Mask(Vec<libc::c_ulong>);

const WORD_BITS: usize = libc::c_ulong::BITS as usize;

/// For 16384 CPUs, twice as many as any kernel for x86-64 is built for.
const MASK_WORDS: usize = 16_384 / WORD_BITS;

impl Mask {
    pub(crate) fn of(numbers: &[u16]) -> Self {
        let greatest = numbers.iter().copied().max().unwrap_or(0);
        let mut words = vec![0; usize::from(greatest) / WORD_BITS + 1];
        for &number in numbers {
            let number = usize::from(number);
            words[number / WORD_BITS] |= 1 << (number % WORD_BITS);
        }
        Self(words)
    }

    fn numbers(&self) -> Vec<u16> {
        let is_set = |number: &u16| {
            let number = usize::from(*number);
            let word = self.0.get(number / WORD_BITS);
            word.is_some_and(|word| (word >> (number % WORD_BITS)) & 1 == 1)
        };
        (0..=u16::MAX).filter(is_set).collect()
    }

    fn bytes(&self) -> usize {
        size_of_val(self.0.as_slice())
    }
}

/// Sets the CPUs of a thread; 0 is the calling one. Fit to be called between fork and exec.
pub(crate) fn set_affinity(thread: i32, cpus: &Mask) -> Result<(), Errno> {
    #[expect(unsafe_code, reason = "rustix's set of CPUs ends at 1024")]
    // SAFETY: the kernel reads at most as many bytes as it is told, and those are the vector's;
    // its alignment is that of `cpu_set_t`, an array of the same words.
    let result = unsafe {
        libc::sched_setaffinity(
            thread,
            cpus.bytes(),
            cpus.0.as_ptr().cast::<libc::cpu_set_t>(),
        )
    };
    outcome(result.into())
}

/// Sets the calling thread's memory policy. Fit to be called between fork and exec.
pub(crate) fn set_memory_policy(mode: MemoryMode, nodes: &Mask) -> Result<(), Errno> {
    let mode = match mode {
        MemoryMode::Bind => libc::MPOL_BIND,
        MemoryMode::Preferred => MPOL_PREFERRED_MANY,
        MemoryMode::Interleave => libc::MPOL_INTERLEAVE,
    };
    // The kernel takes one bit fewer than it is told.
    let bits = nodes.0.len() * WORD_BITS + 1;
    #[expect(unsafe_code, reason = "neither std nor rustix has set_mempolicy")]
    // SAFETY: the kernel reads as many bits as it is told less one, and those are the vector's.
    let result = unsafe { libc::syscall(libc::SYS_set_mempolicy, mode, nodes.0.as_ptr(), bits) };
    outcome(result)
}

/// `MPOL_PREFERRED_MANY` of `linux/mempolicy.h`.
const MPOL_PREFERRED_MANY: libc::c_int = 5;

fn outcome(result: libc::c_long) -> Result<(), Errno> {
    match result {
        0 => Ok(()),
        // The library just set it, so there is one.
        _ => Err(Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::INVAL)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mask_is_as_long_as_its_greatest_number_needs() {
        assert_eq!(Mask::of(&[0, 2]).0, [0b101]);
        assert_eq!(Mask::of(&[64]).0, [0, 1]);
        let numbers = [3, 63, 64, 16_383];
        assert_eq!(Mask::of(&numbers).numbers(), numbers);
    }

    #[test]
    fn only_a_thread_of_that_process_is_pinned() {
        let me = std::process::id();
        let cpus = own_cpus().unwrap();
        pin_thread(me, me, &cpus).unwrap();
        let error = pin_thread(me, 1, &cpus).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        assert_eq!(error.to_string(), format!("process {me} has no thread 1"));
    }

    #[test]
    fn cpus_that_no_host_has_are_the_kernels_refusal() {
        let me = std::process::id();
        let error = pin_thread(me, me, &[16_383]).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EINVAL));
    }
}
