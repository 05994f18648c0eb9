//! `relict init`: makes a repository.

use super::context::Context;
use super::exit::Outcome;
use super::out::Out;
use super::text::{escape_path, parse_size, size};
use crate::error::{Error, ErrorKind, Result};
use crate::store::{CreateOptions, create};
use clap::{Args, ValueEnum};
use repo_format::{RepoHeader, StoreKind};

/// Smallest and largest average chunk that can be chosen, in bytes.
const CHUNK_BYTES: std::ops::RangeInclusive<u64> = 4 << 10..=1 << 20;
/// Smallest and largest chunk, as parts and multiples of the average.
const SPREAD: u32 = 4;

/// Make a repository
#[derive(Debug, Args)]
pub struct InitArgs {
    /// Make a repository that needs no password; whoever can read its files can read the data
    #[arg(long)]
    insecure_no_password: bool,
    /// Where the data is kept: in files, or all of it in RocksDB
    #[arg(long, value_name = "KIND", default_value = "files")]
    store: Store,
    /// Average size of a chunk, 4K to 1M; smaller finds more duplicates and needs a larger index
    #[arg(long, value_name = "SIZE", default_value = "64K")]
    chunk_size: String,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Store {
    Files,
    Rocksdb,
}

/// Runs the command.
///
/// # Errors
/// `Usage` when the place is taken or an option is wrong; the medium's.
pub fn run(context: &Context, args: &InitArgs) -> Result<Outcome> {
    let path = context.repo_path()?;
    let options = CreateOptions {
        store: match args.store {
            Store::Files => StoreKind::Files,
            Store::Rocksdb => StoreKind::RocksDb,
        },
        encrypt: !args.insecure_no_password,
        chunk_bytes: chunk_bytes(&args.chunk_size)?,
        ..CreateOptions::default()
    };
    let header = create(path, &mut || context.password.read_new(), &options)?;
    report(context, args, &header)?;
    Ok(Outcome::Complete)
}

fn chunk_bytes(text: &str) -> Result<[u32; 3]> {
    let bytes = parse_size(text).map_err(|e| e.context("--chunk-size"))?;
    let average = u32::try_from(bytes).ok().filter(|b| CHUNK_BYTES.contains(&bytes) && b.is_power_of_two());
    let average = average.ok_or_else(|| {
        Error::new(ErrorKind::Usage, format!("--chunk-size {text} cannot be used"))
            .advise("use a power of two from 4K to 1M; 64K is right for nearly everything")
    })?;
    Ok([average / SPREAD, average, average * SPREAD])
}

fn report(context: &Context, args: &InitArgs, header: &RepoHeader) -> Result<()> {
    let path = escape_path(context.repo_path()?);
    let mut out = Out::new();
    if context.json {
        out.json(&serde_json::json!({
            "message_type": "summary",
            "repository": header.repo.to_string(),
            "path": path,
            "encrypted": !args.insecure_no_password,
            "chunk_bytes": header.chunk_bytes,
        }))?;
    } else if context.chatty() {
        out.line(&format!("made repository {} at {path}", header.repo))?;
        out.line(&format!("  chunks of {} on average", size(u64::from(header.chunk_bytes[1]))))?;
        out.line(if args.insecure_no_password {
            "  not encrypted: whoever can read these files can read what is backed up"
        } else {
            "  encrypted: keep the password in a second place; without it nobody can read the data"
        })?;
    }
    out.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunk_sizes() {
        assert_eq!(chunk_bytes("64K").unwrap(), [16 << 10, 64 << 10, 256 << 10]);
        for wrong in ["0", "63K", "2M", "2K", "x"] {
            assert!(chunk_bytes(wrong).is_err(), "{wrong}");
        }
    }
}
