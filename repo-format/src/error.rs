//! The one error of the crate: which record, at which byte, and what is wrong with it.

use core::fmt;

/// Result of every decoder here.
pub type Result<T> = core::result::Result<T, FormatError>;

/// A record that is not what SPEC.md says it must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FormatError {
    /// The record, by its SPEC.md name.
    pub record: &'static str,
    /// Byte offset inside the record at which decoding stopped.
    pub at: usize,
    /// What was wrong.
    pub problem: Problem,
}

/// What can be wrong with a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Problem {
    /// The bytes end before the record does.
    Truncated,
    /// Bytes follow where the record should end.
    Trailing,
    /// The magic number is another one.
    Magic,
    /// A version or an incompatible feature this program does not know.
    Version,
    /// The checksum does not match the bytes it covers.
    Check,
    /// A reserved bit or byte is not zero.
    Reserved,
    /// A named field has a value outside its range.
    Field(&'static str),
    /// Entries are not in strictly ascending order.
    Order,
}

impl FormatError {
    pub(crate) const fn new(record: &'static str, at: usize, problem: Problem) -> Self {
        Self { record, at, problem }
    }
}

impl fmt::Display for FormatError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is not valid at byte {}: ", self.record, self.at)?;
        match self.problem {
            Problem::Truncated => f.write_str("it ends too early"),
            Problem::Trailing => f.write_str("bytes follow its end"),
            Problem::Magic => f.write_str("wrong magic number"),
            Problem::Version => f.write_str("version or feature unknown to this program"),
            Problem::Check => f.write_str("checksum mismatch"),
            Problem::Reserved => f.write_str("reserved bits are set"),
            Problem::Field(name) => write!(f, "field '{name}' is out of range"),
            Problem::Order => f.write_str("entries are out of order"),
        }
    }
}

impl core::error::Error for FormatError {}
