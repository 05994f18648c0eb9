//! Standard output: an error there is an error, not a panic, and a closed pipe ends the program quietly.

use crate::error::{Error, Result};
use std::io::{BufWriter, StdoutLock, Write};

/// Standard output, buffered until [`Out::finish`].
pub struct Out(BufWriter<StdoutLock<'static>>);

impl Out {
    /// Takes standard output.
    #[must_use]
    pub fn new() -> Self {
        Self(BufWriter::with_capacity(64 * 1024, std::io::stdout().lock()))
    }

    /// Writes one line.
    ///
    /// # Errors
    /// When standard output cannot be written.
    pub fn line(&mut self, text: &str) -> Result<()> {
        self.bytes(text.as_bytes())?;
        self.bytes(b"\n")
    }

    /// Writes one JSON object as a line.
    ///
    /// # Errors
    /// When standard output cannot be written.
    pub fn json(&mut self, value: &serde_json::Value) -> Result<()> {
        self.line(&value.to_string())
    }

    /// Writes bytes as they are.
    ///
    /// # Errors
    /// When standard output cannot be written.
    pub fn bytes(&mut self, bytes: &[u8]) -> Result<()> {
        self.0.write_all(bytes).map_err(failed)
    }

    /// Writes what is still buffered.
    ///
    /// # Errors
    /// When standard output cannot be written.
    pub fn finish(mut self) -> Result<()> {
        self.0.flush().map_err(failed)
    }
}

impl Default for Out {
    fn default() -> Self {
        Self::new()
    }
}

fn failed(error: std::io::Error) -> Error {
    Error::io("writing to standard output", error)
}
