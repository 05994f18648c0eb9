//! Small files that are read one after the other: what will be read next is put into the page cache before it is
//! asked for, by `FUSE_NOTIFY_STORE`.
//!
//! Files of a directory have consecutive inode numbers and lie in one segment, which is decompressed for the first
//! of them. Storing a file costs a copy; a read costs that, a request, and two wake-ups.
//!
//! The kernel locks a page while it waits for its content, and storing waits for that lock. So a thread of its own
//! stores, which answers no request and for which none that does ever waits: what does not fit its queue is dropped.

use super::adapter::RequestCounts;
use crate::view::{Ino, View};
use crossbeam_channel::{Sender, TrySendError, bounded};
use std::fs::File;
use std::io::{self, IoSlice, Write};
use std::os::fd::BorrowedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Readers that are followed.
const TRACES: usize = 8;
/// A reader goes on if it comes to one of the next so many inodes; between them are directories and links.
const NEAR: u64 = 16;
/// Reads in a row before anything is stored, and before segments are loaded for it.
const STREAK: u32 = 2;
const LOAD_STREAK: u32 = 4;
/// Inodes and bytes stored in one go.
const RUN_INODES: u64 = 128;
const RUN_BYTES: usize = 2 << 20;
/// Files in a row that the kernel does not know end a run: another directory begins.
const UNKNOWN: u32 = 16;
const QUEUED: usize = 16;
const NOTIFY_STORE: i32 = 4;

/// Follows readers and feeds them. Its thread ends when this is dropped.
pub(super) struct Neighbours {
    traces: Arc<Mutex<[Trace; TRACES]>>,
    runs: Sender<Run>,
}

#[derive(Clone, Copy, Default)]
struct Trace {
    /// The last inode read or stored.
    last: u64,
    streak: u32,
    /// A run of it is queued or under way.
    busy: bool,
    /// When it was used last, in reads.
    used: u64,
}

struct Run {
    trace: usize,
    after: Ino,
    load: bool,
}

impl Neighbours {
    /// Stores through `device`, the connection to the kernel. `counts` counts the files.
    pub(super) fn start(view: &Arc<View>, device: BorrowedFd<'_>, counts: Arc<RequestCounts>) -> io::Result<Self> {
        let (runs, queue) = bounded::<Run>(QUEUED);
        let device = File::from(device.try_clone_to_owned()?);
        let (view, traces) = (Arc::clone(view), Arc::<Mutex<[Trace; TRACES]>>::default());
        let followed = Arc::clone(&traces);
        let work = move || {
            for run in queue {
                let last = store_run(&view, &device, &run, &counts);
                if let Some(trace) = lock(&followed).get_mut(run.trace) {
                    trace.last = trace.last.max(last);
                    trace.busy = false;
                }
            }
        };
        std::thread::Builder::new().name("neighbours".into()).spawn(work)?;
        Ok(Self { traces, runs })
    }

    /// Notes that a small file was read whole.
    pub(super) fn saw(&self, ino: Ino) {
        let mut traces = lock(&self.traces);
        let clock = traces.iter().map(|trace| trace.used).max().unwrap_or(0) + 1;
        let near = |trace: &Trace| trace.last < ino.0 && ino.0 - trace.last <= NEAR;
        let Some(index) = traces.iter().position(near) else {
            let oldest = traces.iter_mut().filter(|trace| !trace.busy).min_by_key(|trace| trace.used);
            if let Some(oldest) = oldest {
                *oldest = Trace { last: ino.0, streak: 1, busy: false, used: clock };
            }
            return;
        };
        let Some(trace) = traces.get_mut(index) else { return };
        (trace.last, trace.streak, trace.used) = (ino.0, trace.streak.saturating_add(1), clock);
        if trace.streak >= STREAK && !trace.busy {
            let run = Run { trace: index, after: ino, load: trace.streak >= LOAD_STREAK };
            trace.busy = match self.runs.try_send(run) {
                Ok(()) => true,
                Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => false,
            };
        }
    }
}

fn lock(traces: &Mutex<[Trace; TRACES]>) -> MutexGuard<'_, [Trace; TRACES]> {
    traces.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Stores what follows an inode, and gives the last number that was stored.
fn store_run(view: &View, device: &File, run: &Run, counts: &RequestCounts) -> u64 {
    let (mut bytes, mut unknown, mut last) = (0, 0, run.after.0);
    view.small_files_after(run.after, RUN_INODES, run.load, &mut |ino, content| {
        match store(device, ino, content) {
            Ok(()) => {
                counts.add_stored();
                (bytes, unknown, last) = (bytes + content.len(), 0, ino.0);
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => unknown += 1,
            // The mount is ending, or memory is short.
            Err(_) => return false,
        }
        bytes < RUN_BYTES && unknown < UNKNOWN
    });
    last
}

/// Puts a whole file into the page cache. `NotFound`: the kernel does not know the inode. fuser's own call hides that.
fn store(mut device: &File, ino: Ino, content: &[u8]) -> io::Result<()> {
    const FRONT_BYTES: u32 = 16 + 24;
    let size = u32::try_from(content.len()).map_err(io::Error::other)?;
    let mut front = Vec::with_capacity(FRONT_BYTES as usize);
    // struct fuse_out_header: len, error (here the code), unique; struct fuse_notify_store_out: nodeid, offset, size, padding.
    front.extend((FRONT_BYTES + size).to_ne_bytes());
    front.extend(NOTIFY_STORE.to_ne_bytes());
    front.extend(0_u64.to_ne_bytes());
    front.extend(ino.0.to_ne_bytes());
    front.extend(0_u64.to_ne_bytes());
    front.extend(size.to_ne_bytes());
    front.extend(0_u32.to_ne_bytes());
    device.write_vectored(&[IoSlice::new(&front), IoSlice::new(content)]).map(|_| ())
}
