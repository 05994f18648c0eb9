//! stub
use super::context::Context;
use super::exit::Outcome;
use crate::error::Result;
use clap::Args;
/// Mount
#[derive(Debug, Args)]
pub struct MountArgs {}
pub fn run(_: &Context, _: &MountArgs) -> Result<Outcome> { Ok(Outcome::Complete) }
