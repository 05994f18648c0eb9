//! `relict.toml`, when it is lost or damaged: the first thing that is mended, because nothing can be opened without.

use super::Options;
use crate::confirm::confirmed;
use relict::cli::context::Context;
use relict::store::{read_header, recover_header, replace_header};
use relict::{Error, ErrorKind, Result};
use serde_json::json;

/// Makes a new header if there is need of one. False when it was not to be made: then nothing else can be done either.
pub fn mended(context: &Context, options: &Options) -> Result<bool> {
    let path = context.repo_path()?;
    let wrong = match read_header(path) {
        Ok(_) => return Ok(true),
        Err(e) => e,
    };
    let may_be_lost = match wrong.kind() {
        ErrorKind::NoRepository => path.join("packages").is_dir(),
        ErrorKind::Damaged | ErrorKind::NewerFormat => true,
        _ => false,
    };
    if !may_be_lost {
        return Err(wrong);
    }
    let found = match recover_header(path) {
        // A damaged digit can look like a newer format; a newer format is none of our business.
        Err(_) if wrong.kind() == ErrorKind::NewerFormat => return Err(wrong),
        found => found.map_err(|e: Error| e.context("relict.toml cannot be made again"))?,
    };
    let how = if found.exact { "as it was: one byte of it was wrong" } else { "from what packages and key slots say" };
    if context.json {
        say!("{}", json!({"message_type": "plan", "header": how, "why": wrong.to_string()}));
    } else if context.chatty() {
        say!("{wrong}\nmake relict.toml again, {how}; what else is to be done can only be seen then");
    }
    if options.dry_run || !confirmed(context, options.yes, "write relict.toml?")? {
        return Ok(false);
    }
    let kept = replace_header(path, &found.header)?;
    if let Some(kept) = kept.filter(|_| context.chatty() && !context.json) {
        say!("the damaged one is kept as {}", kept.display());
    }
    Ok(true)
}
