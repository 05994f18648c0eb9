//! `relict ingest btrfs`: what `btrfs send` writes.

use super::super::context::Context;
use super::super::exit::Outcome;
use super::{CommonArgs, conduct, open_input};
use crate::error::Result;
use crate::ingest::btrfs::{BtrfsDecoder, SnapshotDir};
use crate::ingest::lifecycle::btrfs::snapshot_id;
use crate::ingest::stream::{ReadSource, Scope, run as ingest};
use clap::Args;
use repo_format::SourceKind;
use std::path::{Path, PathBuf};

/// Read a btrfs send stream into restore points
///
/// Takes full streams, increments (-p), clone sources (-c), several subvolumes in one stream (-e) and streams that
/// follow each other, of versions 1 to 3, compressed or not. Every subvolume becomes a restore point.
#[derive(Debug, Args)]
#[command(after_help = CHAINS)]
pub struct BtrfsArgs {
    /// The stream [default: standard input]
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
    /// Where content is read that a stream of 'btrfs send --no-data' leaves out: the snapshot it was made of
    #[arg(long, value_name = "PATH")]
    read_from: Option<PathBuf>,
    #[command(flatten)]
    common: CommonArgs,
}

const CHAINS: &str = "\
  btrfs send /data/.snap/mon | relict ingest btrfs --source nas1:data
  btrfs send -p /data/.snap/mon /data/.snap/tue | relict ingest btrfs --source nas1:data
The parent of an increment may be any snapshot that the repository has; it is found by its uuid.
'relict backup --snapshot btrfs PATH' does all this by itself.";

/// Runs the command.
///
/// # Errors
/// As those of `conduct`.
pub fn run(context: &Context, args: BtrfsArgs) -> Result<Outcome> {
    let options = args.common.options(SourceKind::Btrfs, Scope::Repository)?;
    let mut input = open_input(args.file.as_deref())?;
    let open = |path: &Path| SnapshotDir::open(path).map(|source| source.with_id(snapshot_id(path)));
    let mut source = args.read_from.as_deref().map(open).transpose()?;
    conduct(context, |writer, progress| {
        let source = source.as_mut().map(|source| source as &mut dyn ReadSource);
        ingest(writer, &mut BtrfsDecoder::new(), &mut *input, source, &options, progress, &context.stop)
    })
}
