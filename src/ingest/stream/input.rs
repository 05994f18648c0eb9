//! The bytes of a stream, as a decoder wants them: a window that grows until a step can be said.

use super::Session;
use crate::ingest::change::{Decode, Step};
use crate::{Error, ErrorKind, Result};
use std::io::Read;

/// Bytes asked of the producer at once.
const READ_BYTES: usize = 1024 * 1024;

/// Decodes all of `input` and applies it. Errors say where they happened.
pub(super) fn drive(session: &mut Session<'_>, decoder: &mut dyn Decode, input: &mut dyn Read) -> Result<()> {
    let mut window = Window::new(input, decoder.max_input_bytes());
    while step(session, decoder, &mut window)? {}
    Ok(())
}

/// Takes one step; false at the end of the stream.
fn step(session: &mut Session<'_>, decoder: &mut dyn Decode, window: &mut Window<'_>) -> Result<bool> {
    if window.bytes().is_empty() {
        window.fill(1).map_err(|e| Error::io(format!("reading the stream at byte {}", window.offset), e))?;
    }
    let at = window.offset;
    if window.bytes().is_empty() && decoder.may_end() {
        return Ok(false);
    }
    match decoder.next(window.bytes(), window.ended) {
        Ok(Step::Change(used, change)) => {
            if let Some(change) = change
                && let Err(error) = session.apply(&change)
            {
                return Err(placed(error, at, decoder.doing()));
            }
            window.used(used);
            Ok(true)
        }
        Ok(Step::More(_)) if window.ended => Err(cut_off(window, decoder.doing())),
        Ok(Step::More(bytes)) => {
            let more = bytes.max(window.bytes().len() + 1);
            window.fill(more).map_err(|e| Error::io(format!("reading the stream at byte {}", window.offset), e))?;
            Ok(true)
        }
        Err(error) => Err(placed(error, at, decoder.doing())),
    }
}

/// Says where in the stream an error was.
fn placed(error: Error, at: u64, doing: &str) -> Error {
    error.context(format_args!("byte {at} of the stream, {doing}"))
}

fn cut_off(window: &Window<'_>, doing: &str) -> Error {
    let end = window.offset + window.bytes().len() as u64;
    let what = format!("the stream ends at byte {end}, in the middle of {doing} at byte {}", window.offset);
    Error::new(ErrorKind::BadInput, what).advise("make the stream again, and check that what sent it did not fail")
}

/// A sliding window over the input.
struct Window<'r> {
    input: &'r mut dyn Read,
    buffer: Vec<u8>,
    start: usize,
    filled: usize,
    /// Offset of the window's start in the stream.
    offset: u64,
    /// Nothing follows the window.
    ended: bool,
}

impl<'r> Window<'r> {
    fn new(input: &'r mut dyn Read, max_step_bytes: usize) -> Self {
        let buffer = vec![0; READ_BYTES + max_step_bytes];
        Self { input, buffer, start: 0, filled: 0, offset: 0, ended: false }
    }

    fn bytes(&self) -> &[u8] {
        self.buffer.get(self.start..self.filled).unwrap_or_default()
    }

    fn used(&mut self, bytes: usize) {
        let bytes = bytes.min(self.filled - self.start);
        self.start += bytes;
        self.offset += bytes as u64;
    }

    /// Reads until the window has `bytes`, or the input ends.
    fn fill(&mut self, bytes: usize) -> std::io::Result<()> {
        self.buffer.copy_within(self.start..self.filled, 0);
        (self.start, self.filled) = (0, self.filled - self.start);
        if self.buffer.len() < bytes {
            return Err(std::io::Error::other("a step of the stream is longer than its format allows"));
        }
        while self.filled < bytes && !self.ended {
            match self.input.read(self.buffer.get_mut(self.filled..).unwrap_or_default()) {
                Ok(0) => self.ended = true,
                Ok(got) => self.filled += got,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}
