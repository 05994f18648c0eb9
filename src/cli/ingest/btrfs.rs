//! `relict ingest btrfs`: a btrfs send stream.

use super::super::context::Context;
use super::super::exit::Outcome;
use super::CommonArgs;
use crate::error::{Error, ErrorKind, Result};
use clap::Args;

/// Read a btrfs send stream into restore points
#[derive(Debug, Args)]
pub struct BtrfsArgs {
    #[command(flatten)]
    common: CommonArgs,
}

/// Runs the command.
///
/// # Errors
/// As those of `conduct`.
pub fn run(_context: &Context, args: BtrfsArgs) -> Result<Outcome> {
    Err(Error::new(ErrorKind::Usage, format!("{:?} cannot be read yet", args.common.source)))
}
