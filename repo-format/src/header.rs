//! `relict.toml`: what a program must know before it touches anything else (SPEC.md section 2).
//!
//! It is TOML for people, but of one canonical form: fixed lines in a fixed order, closed by a
//! checksum over all bytes before it, so that a damaged header is never half believed.

use crate::FORMAT_VERSION;
use crate::error::{FormatError, Problem, Result};
use crate::id::{RepoId, check_of};
use crate::segment::MAX_CHUNK_BYTES;
use alloc::format;
use alloc::string::String;

/// Smallest FastCDC minimum, average and maximum, in bytes; the largest is [`MAX_CHUNK_BYTES`].
pub const MIN_CHUNK_BYTES: [u32; 3] = [64, 256, 1024];

const RECORD: &str = "relict.toml";
const COMMENT: &str = "# A relict repository. Do not edit: the checksum would no longer match.\n";

/// Where package bytes are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoreKind {
    /// One file a package under `packages/`.
    Files,
    /// A BlobDB column family of `db/`.
    RocksDb,
}

/// How segments are protected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encryption {
    /// Not at all; ids are plain BLAKE3.
    None,
    /// AES-256-GCM, ids are keyed BLAKE3.
    Aes256Gcm,
}

/// The three kinds of feature bits. Version 1 defines none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Features {
    /// A program that does not know the bit may read and write.
    pub compat: u64,
    /// A program that does not know the bit may only read.
    pub ro_compat: u64,
    /// A program that does not know the bit must refuse.
    pub incompat: u64,
}

/// The repository header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RepoHeader {
    /// The repository's id.
    pub repo: RepoId,
    /// When it was made, seconds since 1970.
    pub created: i64,
    /// Where package bytes are kept.
    pub store: StoreKind,
    /// How segments are protected.
    pub encryption: Encryption,
    /// FastCDC minimum, average and maximum, in bytes.
    pub chunk_bytes: [u32; 3],
    /// Feature bits.
    pub features: Features,
}

impl RepoHeader {
    /// Feature bits that this crate knows.
    pub const KNOWN: Features = Features { compat: 0, ro_compat: 0, incompat: 0 };

    /// Whether a program that knows [`RepoHeader::KNOWN`] may write here.
    #[must_use]
    pub const fn writable(&self) -> bool {
        self.features.ro_compat & !Self::KNOWN.ro_compat == 0
    }

    /// The header's text.
    #[must_use]
    pub fn encode(&self) -> String {
        let store = match self.store {
            StoreKind::Files => "files",
            StoreKind::RocksDb => "rocksdb",
        };
        let encryption = match self.encryption {
            Encryption::None => "none",
            Encryption::Aes256Gcm => "aes-256-gcm",
        };
        let [min, avg, max] = self.chunk_bytes;
        let f = self.features;
        let body = format!(
            "{COMMENT}format = {FORMAT_VERSION}\nrepository = \"{}\"\ncreated = {}\nstore = \"{store}\"\n\
             encryption = \"{encryption}\"\nchunk_bytes = [{min}, {avg}, {max}]\nfeatures_compat = {}\n\
             features_ro_compat = {}\nfeatures_incompat = {}\n",
            self.repo, self.created, f.compat, f.ro_compat, f.incompat
        );
        let check = hex(&check_of(body.as_bytes()));
        format!("{body}check = \"{check}\"\n")
    }

    /// Decodes a header.
    ///
    /// # Errors
    /// `Problem::Version` for a newer format or an unknown incompatible feature, whatever else the
    /// file holds; any other problem for text that [`RepoHeader::encode`] would not make.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let mut lines = Lines { rest: bytes, at: 0 };
        lines.literal(COMMENT)?;
        let version: u32 = lines.number("format")?;
        if version > FORMAT_VERSION {
            return Err(lines.error(Problem::Version));
        }
        let repo = lines.string("repository")?;
        let created = lines.number("created")?;
        let store = match lines.string("store")? {
            "files" => StoreKind::Files,
            "rocksdb" => StoreKind::RocksDb,
            _ => return Err(lines.error(Problem::Field("store"))),
        };
        let encryption = match lines.string("encryption")? {
            "none" => Encryption::None,
            "aes-256-gcm" => Encryption::Aes256Gcm,
            _ => return Err(lines.error(Problem::Field("encryption"))),
        };
        let chunk_bytes = lines.triple("chunk_bytes")?;
        let features = Features {
            compat: lines.number("features_compat")?,
            ro_compat: lines.number("features_ro_compat")?,
            incompat: lines.number("features_incompat")?,
        };
        let repo = RepoId::from_hex(repo).ok_or(lines.error(Problem::Field("repository")))?;
        let header = Self { repo, created, store, encryption, chunk_bytes, features };
        // One encoding for one value: spelling, spacing and checksum are compared in one go.
        if header.encode().as_bytes() != bytes {
            return Err(lines.error(Problem::Check));
        }
        header.validate(&lines)?;
        Ok(header)
    }

    fn validate(&self, lines: &Lines<'_>) -> Result<()> {
        if self.features.incompat & !Self::KNOWN.incompat != 0 {
            return Err(lines.error(Problem::Version));
        }
        let [min, avg, max] = self.chunk_bytes;
        // The bounds of FastCDC v2020, which works on pairs of bytes: an odd number would mean another one.
        let even = (min | avg | max) & 1 == 0;
        let high_enough = min >= MIN_CHUNK_BYTES[0] && avg >= MIN_CHUNK_BYTES[1] && max >= MIN_CHUNK_BYTES[2];
        if !even || !high_enough || min > avg || avg > max || max as usize > MAX_CHUNK_BYTES {
            return Err(lines.error(Problem::Field("chunk_bytes")));
        }
        Ok(())
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// The lines of the header, taken one by one.
struct Lines<'a> {
    rest: &'a [u8],
    at: usize,
}

impl<'a> Lines<'a> {
    const fn error(&self, problem: Problem) -> FormatError {
        FormatError::new(RECORD, self.at, problem)
    }

    fn literal(&mut self, text: &str) -> Result<()> {
        self.rest = self.rest.strip_prefix(text.as_bytes()).ok_or(self.error(Problem::Magic))?;
        self.at += text.len();
        Ok(())
    }

    /// The text behind `name = ` up to the end of the line.
    fn value(&mut self, name: &'static str) -> Result<&'a str> {
        let wrong = self.error(Problem::Field(name));
        let end = self.rest.iter().position(|b| *b == b'\n').ok_or(self.error(Problem::Truncated))?;
        let (line, rest) = self.rest.split_at_checked(end).ok_or(wrong)?;
        let line = core::str::from_utf8(line).map_err(|_| wrong)?;
        let value = line.strip_prefix(name).and_then(|l| l.strip_prefix(" = ")).ok_or(wrong)?;
        self.rest = rest.get(1..).unwrap_or_default();
        self.at += end + 1;
        Ok(value)
    }

    fn number<N: core::str::FromStr>(&mut self, name: &'static str) -> Result<N> {
        self.value(name)?.parse().map_err(|_| self.error(Problem::Field(name)))
    }

    fn string(&mut self, name: &'static str) -> Result<&'a str> {
        let text = self.value(name)?;
        let inner = text.strip_prefix('"').and_then(|t| t.strip_suffix('"'));
        inner.ok_or(self.error(Problem::Field(name)))
    }

    fn triple(&mut self, name: &'static str) -> Result<[u32; 3]> {
        let wrong = FormatError::new(RECORD, self.at, Problem::Field(name));
        let text = self.value(name)?;
        let inner = text.strip_prefix('[').and_then(|t| t.strip_suffix(']')).ok_or(wrong)?;
        let mut parts = inner.split(", ").map(|p| p.parse::<u32>().ok());
        match (parts.next(), parts.next(), parts.next(), parts.next()) {
            (Some(Some(a)), Some(Some(b)), Some(Some(c)), None) => Ok([a, b, c]),
            _ => Err(wrong),
        }
    }
}
