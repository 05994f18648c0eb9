//! What becomes of the bytes of huge files after they are written: on to the disk, and out of the page cache.
//!
//! A restored disk image is larger than what memory is good for. Left to itself, the kernel fills all memory that is free with
//! it, before it writes anything; on a virtual machine, memory that was not used before comes from the host and takes up to ten
//! times as long to write to. So what was written is written out at once, and its memory is used again for what comes next.
//!
//! All of it is a hint. A thread of its own waits for the disk, never a worker: where the disk is slower than the restore, some
//! ranges stay in the page cache as they always did, and at the end nobody waits for the rest.

use crate::os::{begin_writing, fadvise_dontneed, finish_writing};
use crossbeam_channel::{Receiver, Sender, bounded};
use std::collections::VecDeque;
use std::fs::File;
use std::sync::{Arc, Weak};

/// Bytes of content from which on a file is huge.
const HUGE_FILE_BYTES: u64 = 1 << 30;
/// Bytes that the disk is to have at a time.
const UNDER_WAY_BYTES: u64 = 32 << 20;
/// Ranges that may wait for the thread.
const WAITING: usize = 16;

/// Whether the pages of a file with so many bytes of content are let go.
pub(super) const fn is_huge(data_bytes: u64) -> bool {
    data_bytes >= HUGE_FILE_BYTES
}

/// A range of a file that was written.
pub(super) struct Written {
    pub file: Arc<File>,
    pub start: u64,
    pub end: u64,
}

/// A worker's way to the thread.
#[derive(Clone)]
pub(super) struct Behind(Arc<Sender<Written>>);

impl Behind {
    /// Hands a range over, if there is room.
    pub fn push(&self, range: Written) {
        let _ = self.0.try_send(range);
    }
}

/// The thread's end.
pub(super) struct WriteOut {
    ranges: Receiver<Written>,
    workers: Weak<Sender<Written>>,
}

pub(super) fn channel() -> (Behind, WriteOut) {
    let (sender, ranges) = bounded(WAITING);
    let sender = Arc::new(sender);
    let workers = Arc::downgrade(&sender);
    (Behind(sender), WriteOut { ranges, workers })
}

/// Writes ranges out and lets them go, until all workers are gone.
pub(super) fn write_out(WriteOut { ranges, workers }: &WriteOut) {
    let (mut under_way, mut bytes) = (VecDeque::new(), 0);
    for range in ranges {
        if workers.strong_count() == 0 {
            return;
        }
        begin_writing(&range.file, range.start, range.end - range.start);
        bytes += range.end - range.start;
        under_way.push_back(range);
        while bytes > UNDER_WAY_BYTES
            && let Some(Written { file, start, end }) = under_way.pop_front()
        {
            finish_writing(&file, start, end - start);
            fadvise_dontneed(&file, start, end - start);
            bytes -= end - start;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::os::tests::{cache_is_left_or_skip, cached_bytes};
    use std::os::unix::fs::FileExt;

    #[test]
    fn what_is_written_out_leaves_the_page_cache() {
        let dir = tempfile::tempdir().unwrap();
        if !cache_is_left_or_skip(dir.path(), "what is written out leaves the page cache") {
            return;
        }
        const RANGE: u64 = 4 << 20;
        let path = dir.path().join("file");
        let file = Arc::new(File::options().create_new(true).read(true).write(true).open(&path).unwrap());
        let (behind, out) = channel();
        let thread = std::thread::spawn(move || write_out(&out));
        for start in (0..24 * RANGE).step_by(RANGE as usize) {
            file.write_all_at(&vec![1; RANGE as usize], start).unwrap();
            behind.0.send(Written { file: Arc::clone(&file), start, end: start + RANGE }).unwrap();
        }
        while !behind.0.is_empty() {
            std::thread::yield_now();
        }
        drop(behind);
        thread.join().unwrap();
        assert!(cached_bytes(&path) <= UNDER_WAY_BYTES + RANGE);
        assert!(std::fs::read(&path).unwrap().iter().all(|byte| *byte == 1));
    }
}
