//! `relict-maint rebuild`: a new index from nothing but packages and keys.

use clap::Args;
use relict::Result;
use relict::cli::context::Context;
use relict::cli::exit::Outcome;
use relict::cli::text;
use relict::store::Rebuilt;
use serde_json::json;

/// Options of `rebuild`.
#[derive(Args)]
pub struct Options {}

/// Makes the new index and says what is in it.
pub fn run(context: &Context, _: &Options) -> Result<Outcome> {
    let path = context.repo_path()?.to_path_buf();
    let mut work = None;
    let rebuilt = relict::store::rebuild(&path, &mut || {
        let password = context.password.read()?;
        // Not over the question for the password.
        work = Some(crate::maint::Work::start(context, "rebuild", None));
        Ok(password)
    })?;
    drop(work);
    if context.json {
        say!("{}", summary(&rebuilt));
    } else {
        show(context, &rebuilt);
    }
    Ok(if rebuilt.damage.is_empty() { Outcome::Complete } else { Outcome::Partial })
}

fn summary(rebuilt: &Rebuilt) -> serde_json::Value {
    json!({
        "message_type": "summary",
        "packages": rebuilt.packages,
        "chunks": rebuilt.chunks,
        "points": rebuilt.points,
        "damage": rebuilt.damage,
        "old_index": rebuilt.old_index.as_ref().map(|p| p.display().to_string()),
    })
}

fn show(context: &Context, rebuilt: &Rebuilt) {
    rebuilt.damage.iter().for_each(|what| say!("{}", text::escape_lines(what).trim_end()));
    if context.chatty() {
        say!(
            "a new index of {} packages, {} chunks, {} restore points",
            rebuilt.packages,
            rebuilt.chunks,
            rebuilt.points
        );
        if let Some(old) = &rebuilt.old_index {
            say!("the old index is kept in {}; remove it when 'relict-maint check' is content", old.display());
        }
    }
}
