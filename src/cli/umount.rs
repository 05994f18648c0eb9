//! `relict umount`: ends a mount.

use super::context::Context;
use super::exit::Outcome;
use crate::error::Result;
use crate::mount::umount;
use clap::Args;
use std::path::PathBuf;

/// Unmount what 'relict mount' mounted
#[derive(Debug, Args)]
pub struct UmountArgs {
    /// Where it is mounted
    #[arg(value_name = "MOUNTPOINT")]
    mountpoint: PathBuf,
    /// Take it out of the directory tree at once, and end it when the last file in it is closed
    #[arg(short, long)]
    lazy: bool,
}

/// Runs the command.
///
/// # Errors
/// When nothing is mounted there, or files in it are still open.
pub fn run(_: &Context, args: &UmountArgs) -> Result<Outcome> {
    umount(&args.mountpoint, args.lazy)?;
    Ok(Outcome::Complete)
}
