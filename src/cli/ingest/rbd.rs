//! `relict ingest rbd`: what `rbd export-diff` and `rbd export` of Ceph write.

use super::super::context::Context;
use super::super::exit::Outcome;
use super::super::text::parse_size;
use super::{CommonArgs, conduct, open_input};
use crate::error::Result;
use crate::ingest::change::Decode;
use crate::ingest::image::disk::file_name;
use crate::ingest::image::rbd::{DiffDecoder, RawDecoder, snapshot_id};
use crate::ingest::image::source::plain_disk;
use crate::ingest::stream::{Scope, run as ingest};
use clap::Args;
use repo_format::SourceKind;
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

/// Read an RBD export or export-diff into restore points
///
/// Takes 'rbd export-diff' (versions 1 and 2), 'rbd export --export-format 2', and with --raw a plain 'rbd export'. The
/// image becomes the file NAME.raw of the restore points, NAME being the last part of the source's name.
#[derive(Debug, Args)]
#[command(after_help = CHAINS)]
pub struct RbdArgs {
    /// The stream [default: standard input]
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
    /// The stream is the image's bytes and nothing else
    #[arg(long)]
    raw: bool,
    /// With --raw: the snapshot that it is of
    #[arg(long, value_name = "NAME", requires = "raw")]
    snapshot: Option<OsString>,
    /// With --raw: the size of the image, so that a stream that was cut is refused
    #[arg(long, value_name = "SIZE", requires = "raw")]
    size: Option<String>,
    #[command(flatten)]
    common: CommonArgs,
}

const CHAINS: &str = "\
  rbd export-diff pool/vm@a - | relict ingest rbd --source ceph:pool/vm
  rbd export-diff --from-snap a pool/vm@b - | relict ingest rbd --source ceph:pool/vm
A diff is applied to the newest restore point of the source that is of the snapshot it starts from.";

/// Runs the command.
///
/// # Errors
/// As those of `conduct`.
pub fn run(context: &Context, args: RbdArgs) -> Result<Outcome> {
    let options = args.common.options(SourceKind::Rbd, Scope::Chain)?;
    let disk = plain_disk(file_name(&options.source)?, options.time);
    let size = args.size.as_deref().map(parse_size).transpose().map_err(|e| e.context("--size"))?;
    let mut input = open_input(args.file.as_deref())?;
    let mut decoder: Box<dyn Decode> = if args.raw {
        let snapshot = args.snapshot.as_ref().map(|name| name.as_bytes());
        Box::new(RawDecoder::new(snapshot_id(snapshot)?, disk, size))
    } else {
        Box::new(DiffDecoder::new(disk))
    };
    conduct(context, |writer, progress| {
        ingest(writer, &mut *decoder, &mut *input, None, &options, progress, &context.stop)
    })
}
