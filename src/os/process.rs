//! What this process asks of the kernel for itself: how many files it may have open, and large pages.
#![expect(unsafe_code, reason = "getrlimit, setrlimit, madvise")]

use super::sys::check;
use std::io;
use std::mem::MaybeUninit;

/// Bytes of a large page; a range that has none of them whole has no use for the advice.
const LARGE_PAGE_BYTES: usize = 2 << 20;

/// Raises the limit of open files to what the administrator allows, and gives it. The usual 1024 is there for programs
/// that use select(2), which nothing here does.
///
/// # Errors
/// As getrlimit(2) and setrlimit(2); the limit is then as it was.
pub fn raise_open_files() -> io::Result<u64> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is one rlimit structure.
    check(unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) })?;
    if limit.rlim_cur < limit.rlim_max {
        limit.rlim_cur = limit.rlim_max;
        // SAFETY: as above.
        check(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) })?;
    }
    Ok(limit.rlim_cur)
}

/// How many files this process may have open.
#[must_use]
pub fn open_files() -> u64 {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is one rlimit structure.
    let told = unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } == 0;
    // What every Linux system gives.
    if told { limit.rlim_cur } else { 1024 }
}

/// Asks for large pages for memory that was not used yet. A hint: errors do not matter.
pub fn prefer_large_pages<T>(memory: &mut [MaybeUninit<T>]) {
    let start = memory.as_ptr().addr();
    let inside = start.next_multiple_of(LARGE_PAGE_BYTES) - start;
    let bytes = size_of_val(memory).saturating_sub(inside) / LARGE_PAGE_BYTES * LARGE_PAGE_BYTES;
    if bytes > 0 {
        // SAFETY: the range lies within `memory`, and the advice changes no content.
        unsafe { libc::madvise(memory.as_mut_ptr().byte_add(inside).cast(), bytes, libc::MADV_HUGEPAGE) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_of_open_files_is_raised_to_the_hard_one() {
        let raised = raise_open_files().unwrap();
        let text = std::fs::read_to_string("/proc/self/limits").unwrap();
        let line = text.lines().find(|line| line.starts_with("Max open files")).unwrap();
        let numbers: Vec<&str> = line.split_whitespace().filter(|word| word.parse::<u64>().is_ok()).collect();
        assert_eq!(numbers, [raised.to_string(), raised.to_string()], "{line}");
    }

    #[test]
    fn memory_of_any_size_may_be_advised() {
        for bytes in [0, 1, 4096, LARGE_PAGE_BYTES, 3 * LARGE_PAGE_BYTES + 1] {
            let mut memory = Vec::<u8>::with_capacity(bytes);
            prefer_large_pages(memory.spare_capacity_mut());
            memory.resize(bytes, 7);
            assert!(memory.iter().all(|byte| *byte == 7));
        }
    }
}
