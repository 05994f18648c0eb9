//! stub
use super::context::Context;
use super::exit::Outcome;
use crate::error::Result;
use clap::Args;
/// Backup
#[derive(Debug, Args)]
pub struct BackupArgs {}
pub fn run(_: &Context, _: BackupArgs) -> Result<Outcome> { Ok(Outcome::Complete) }
