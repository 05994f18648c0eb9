//! Names of things: chunk, package, point and repository ids, and the short checksum of records.

use core::fmt;

/// Bytes of a record checksum: the first 16 of the BLAKE3 of what it covers.
pub const CHECK_BYTES: usize = 16;

/// A record checksum (SPEC.md section 1).
pub type CheckSum = [u8; CHECK_BYTES];

/// The first 16 bytes of the unkeyed BLAKE3 of `bytes`.
#[must_use]
pub fn check_of(bytes: &[u8]) -> CheckSum {
    let mut out = [0; CHECK_BYTES];
    out.iter_mut().zip(blake3::hash(bytes).as_bytes()).for_each(|(o, b)| *o = *b);
    out
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $bytes:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(pub [u8; $bytes]);

        impl $name {
            /// Length in bytes.
            pub const BYTES: usize = $bytes;

            /// Reads lower-case hexadecimal of exactly the right length.
            #[must_use]
            pub fn from_hex(text: &str) -> Option<Self> {
                let mut out = [0; $bytes];
                parse_hex(text, &mut out).then_some(Self(out))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({self})", stringify!($name))
            }
        }
    };
}

id!(
    /// The name of a chunk: BLAKE3 of its bytes, keyed when the repository is encrypted (SPEC.md section 5).
    ChunkId, 32
);
id!(
    /// A package's random id.
    PackageId, 16
);
id!(
    /// A restore point's random id.
    PointId, 16
);
id!(
    /// A repository's random id.
    RepoId, 16
);

impl ChunkId {
    /// The id of `bytes` under `key`, or unkeyed.
    #[must_use]
    pub fn of(key: Option<&[u8; 32]>, bytes: &[u8]) -> Self {
        Self(match key {
            Some(key) => *blake3::keyed_hash(key, bytes).as_bytes(),
            None => *blake3::hash(bytes).as_bytes(),
        })
    }
}

fn parse_hex(text: &str, out: &mut [u8]) -> bool {
    let digit = |c: u8| match c {
        b'0'..=b'9' => Some(c - b'0'),
        b'a'..=b'f' => Some(c - b'a' + 10),
        _ => None,
    };
    let text = text.as_bytes();
    text.len() == out.len() * 2
        && text.chunks_exact(2).zip(out).all(|(pair, byte)| match *pair {
            [high, low] => digit(high).zip(digit(low)).map(|(h, l)| *byte = h << 4 | l).is_some(),
            _ => false,
        })
}
