//! `relict version`: which program this is, and which repositories it understands.

use super::context::Context;
use super::exit::Outcome;
use super::out::Out;
use crate::error::Result;
use clap::Args;

/// Show the program's version and the repository format it writes
#[derive(Debug, Args)]
pub struct VersionArgs {}

/// Runs the command.
///
/// # Errors
/// When standard output cannot be written.
pub fn run(context: &Context, _: &VersionArgs) -> Result<Outcome> {
    let (version, format) = (env!("CARGO_PKG_VERSION"), repo_format::FORMAT_VERSION);
    let mut out = Out::new();
    if context.json {
        out.json(&serde_json::json!({ "message_type": "version", "version": version, "format": format }))?;
    } else {
        out.line(&format!("relict {version}, repository format {format}"))?;
    }
    out.finish()?;
    Ok(Outcome::Complete)
}
