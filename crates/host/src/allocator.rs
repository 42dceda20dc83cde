//! How much of what was freed the C library keeps for this process.

/// Heaps among which threads are spread.
const ARENAS: i32 = 2;
/// Bytes from which on a piece of memory is the kernel's own, given back when it is freed.
const OWN_MAPPING: i32 = 256 << 10;
/// Bytes at the end of a heap that are given back when they are free.
const TRIM: i32 = 1 << 20;

/// Has what was used for a short time given back to the kernel, where the C library is glibc. By
/// itself it gives up to eight heaps for each CPU to threads, each of which stays as large as it
/// ever was: a few clients that ask for costly things would leave a small program large for good.
///
/// To be called before there are threads. See mallopt(3).
pub fn give_memory_back() {
    #[cfg(target_env = "gnu")]
    for (parameter, value) in [
        (libc::M_ARENA_MAX, ARENAS),
        (libc::M_MMAP_THRESHOLD, OWN_MAPPING),
        (libc::M_TRIM_THRESHOLD, TRIM),
    ] {
        #[expect(unsafe_code, reason = "the allocator has no safe form")]
        // SAFETY: mallopt takes two numbers and may be called at any time; it refuses (0) what it
        // does not know, which leaves things as they are.
        unsafe {
            libc::mallopt(parameter, value);
        }
    }
}
