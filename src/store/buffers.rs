//! Memory of decompressed segments, used again and again.
//!
//! A cache that is full gives a segment back for each it takes. Through the allocator that costs a page fault for
//! every 4096 bytes, and holes between blocks of many sizes: measured, a third on top of what the cache counts.

use std::ops::Deref;
use std::sync::{Mutex, PoisonError};

/// Capacities are multiples of this, so that few sizes serve all segments.
const STEP_BYTES: usize = 64 << 10;
/// Larger buffers go back to the allocator; segments are that large only for a chunk of megabytes.
const KEPT_CAPACITY: usize = 1 << 20;
/// Bytes that wait to be used again, at most.
const KEPT_BYTES: usize = 8 << 20;

static FREE: Mutex<Free> = Mutex::new(Free { buffers: Vec::new(), bytes: 0 });

struct Free {
    buffers: Vec<Vec<u8>>,
    bytes: usize,
}

/// Bytes in memory that serves again when this is dropped.
pub(super) struct Buffer(Vec<u8>);

impl Buffer {
    /// An empty buffer with room for `bytes`, and for no more than a step or half as much again.
    pub(super) fn with_room(bytes: usize) -> Self {
        Self(reused(bytes).unwrap_or_else(|| Vec::with_capacity(bytes.next_multiple_of(STEP_BYTES))))
    }

    /// To be filled; its capacity should stay.
    pub(super) fn vec(&mut self) -> &mut Vec<u8> {
        &mut self.0
    }

    /// Bytes of memory it holds.
    pub(super) fn capacity(&self) -> usize {
        self.0.capacity()
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let capacity = self.0.capacity();
        if capacity == 0 || capacity > KEPT_CAPACITY {
            return;
        }
        let mut free = FREE.lock().unwrap_or_else(PoisonError::into_inner);
        if free.bytes + capacity <= KEPT_BYTES {
            free.bytes += capacity;
            self.0.clear();
            free.buffers.push(std::mem::take(&mut self.0));
        }
    }
}

/// The smallest free buffer with room, unless it would waste too much.
fn reused(bytes: usize) -> Option<Vec<u8>> {
    let most = (bytes + bytes / 2).max(bytes.next_multiple_of(STEP_BYTES));
    let mut free = FREE.lock().unwrap_or_else(PoisonError::into_inner);
    let sizes = free.buffers.iter().map(Vec::capacity).enumerate();
    let (index, capacity) = sizes.filter(|(_, has)| (bytes..=most).contains(has)).min_by_key(|(_, has)| *has)?;
    free.bytes -= capacity;
    Some(free.buffers.swap_remove(index))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_enough_and_not_much_more() {
        let mut held = Vec::new();
        for round in 0..3 {
            for bytes in [1, 100, 65_536, 65_537, 300_000, 524_288, 700_001, 9 << 20] {
                let mut buffer = Buffer::with_room(bytes);
                assert!(buffer.is_empty(), "what was in it before must not be seen");
                assert!(buffer.capacity() >= bytes && buffer.capacity() < bytes + bytes / 2 + STEP_BYTES);
                let before = buffer.capacity();
                buffer.vec().resize(bytes, 7);
                assert_eq!(buffer.capacity(), before);
                held.push(buffer);
            }
            if round == 1 {
                held.clear();
            }
        }
        drop(held);
        let free = FREE.lock().unwrap();
        assert!(free.bytes <= KEPT_BYTES, "{}", free.bytes);
        assert_eq!(free.bytes, free.buffers.iter().map(Vec::capacity).sum::<usize>());
    }
}
