//! The allocator's habits, for processes that run for months.
#![expect(unsafe_code, reason = "system calls")]

/// Blocks from this size on are mapped one by one, so that freeing one gives it back to the system.
const MAPPED_FROM_BYTES: libc::c_int = 64 << 10;
/// Heaps that threads share. The default is eight for each processor, and what is free in one serves no other.
const HEAPS: libc::c_int = 2;

/// Makes what the process holds follow what it uses. Without this, glibc puts blocks of up to 32 MiB into its
/// heaps once it has seen one freed, and a cache of blocks of many sizes leaves holes there. Other allocators
/// do as they like.
pub fn keep_heaps_small() {
    #[cfg(target_env = "gnu")]
    // SAFETY: plain numbers; a value that the allocator does not like changes nothing.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, MAPPED_FROM_BYTES);
        libc::mallopt(libc::M_ARENA_MAX, HEAPS);
    }
}
