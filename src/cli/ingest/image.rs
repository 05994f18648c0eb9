//! `relict ingest image`: a disk image or block device.

use super::super::context::Context;
use super::super::exit::Outcome;
use super::CommonArgs;
use crate::error::{Error, ErrorKind, Result};
use clap::Args;

/// Read a disk image or block device into restore points
#[derive(Debug, Args)]
pub struct ImageArgs {
    #[command(flatten)]
    common: CommonArgs,
}

/// Runs the command.
///
/// # Errors
/// As those of `conduct`.
pub fn run(_context: &Context, args: ImageArgs) -> Result<Outcome> {
    Err(Error::new(ErrorKind::Usage, format!("{:?} cannot be read yet", args.common.source)))
}
