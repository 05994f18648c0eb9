//! `relict ingest rbd`: an RBD export or export-diff.

use super::super::context::Context;
use super::super::exit::Outcome;
use super::CommonArgs;
use crate::error::{Error, ErrorKind, Result};
use clap::Args;

/// Read an RBD export or export-diff into restore points
#[derive(Debug, Args)]
pub struct RbdArgs {
    #[command(flatten)]
    common: CommonArgs,
}

/// Runs the command.
///
/// # Errors
/// As those of `conduct`.
pub fn run(_context: &Context, args: RbdArgs) -> Result<Outcome> {
    Err(Error::new(ErrorKind::Usage, format!("{:?} cannot be read yet", args.common.source)))
}
