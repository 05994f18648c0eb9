//! Threads that load chunks of files that are read in order, before they are asked for.

use crate::view::View;
use crossbeam_channel::{Sender, TrySendError, bounded};
use repo_format::ChunkId;
use std::sync::Arc;

/// Chunks loaded by one thread in a row: about two segments of 64 KiB chunks.
const BATCH_CHUNKS: usize = 8;
/// Batches that may wait; what comes on top is dropped, as reading it later works as well.
const QUEUED_BATCHES: usize = 64;

/// Takes chunk ids and loads them. The threads end when this is dropped.
pub(super) struct Ahead(Sender<Vec<ChunkId>>);

impl Ahead {
    /// Starts `threads` threads.
    pub(super) fn start(view: &Arc<View>, threads: usize) -> std::io::Result<Self> {
        let (send, receive) = bounded::<Vec<ChunkId>>(QUEUED_BATCHES);
        for number in 0..threads {
            let (view, receive) = (Arc::clone(view), receive.clone());
            let work = move || receive.iter().for_each(|ids| view.prefetch(&ids));
            std::thread::Builder::new().name(format!("ahead-{number}")).spawn(work)?;
        }
        Ok(Self(send))
    }

    /// Asks for chunks, never waiting.
    pub(super) fn load(&self, ids: &[ChunkId]) {
        for batch in ids.chunks(BATCH_CHUNKS) {
            if let Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) = self.0.try_send(batch.to_vec()) {
                return;
            }
        }
    }
}
