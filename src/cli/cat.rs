//! `relict cat`: one file's content to standard output.

use super::chains::readable;
use super::context::Context;
use super::exit::Outcome;
use super::out::Out;
use super::text::escape;
use super::{FilterArgs, POINTS};
use crate::catalog::points::{Filter, split_path};
use crate::error::{Error, ErrorKind, Result};
use crate::restore::lookup::TreeReader;
use crate::store::Repository;
use clap::Args;
use repo_format::{Extent, FileKind};
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::sync::atomic::Ordering;

const CACHE_BYTES: usize = 32 << 20;
static ZEROS: [u8; 64 * 1024] = [0; 64 * 1024];

/// Write a file of a restore point to standard output
#[derive(Debug, Args)]
#[command(after_help = POINTS)]
pub struct CatArgs {
    /// The restore point and the file's path in it
    #[arg(value_name = "POINT:PATH")]
    file: OsString,
    #[command(flatten)]
    filter: FilterArgs,
}

/// Runs the command.
///
/// # Errors
/// When there is no such file, or part of its content is lost: what comes before that part is written.
pub fn run(context: &Context, args: &CatArgs) -> Result<Outcome> {
    let (expression, path) = split_path(args.file.as_bytes());
    let path = path.ok_or_else(|| {
        Error::new(ErrorKind::Usage, "no file was named").advise("write POINT:PATH, such as latest:/etc/passwd")
    })?;
    let repo = context.repository(CACHE_BYTES)?;
    let (points, _) = readable(&repo)?;
    let point = points.resolve(&expression, &Filter::from(&args.filter))?;
    let tree = TreeReader::new(&*repo, point.root);
    let entry = tree.find(path)?;
    if entry.kind != FileKind::File {
        let advice =
            if entry.kind == FileKind::Dir { "'relict ls' lists it" } else { "'relict ls -l' shows what it is" };
        return Err(Error::new(ErrorKind::Usage, format!("{} is not a regular file", escape(path))).advise(advice));
    }
    write(context, &repo, &tree, entry.ino).map_err(|e| e.context(escape(path)))?;
    Ok(Outcome::Complete)
}

fn write(context: &Context, repo: &Repository, tree: &TreeReader<'_>, ino: u64) -> Result<()> {
    let mut out = Out::new();
    let mut cursor = tree.cursor();
    let size = tree.head(&mut cursor, ino)?.inode.size;
    let mut at = 0;
    for extent in tree.extents(&mut cursor, ino, size) {
        let (offset, extent) = extent?;
        zeros(&mut out, offset - at)?;
        if context.stop.load(Ordering::Relaxed) {
            return Err(Error::new(ErrorKind::Interrupted, "interrupted").advise("run it again"));
        }
        content(&mut out, repo, &extent).map_err(|e| e.context(format!("content from byte {offset} on")))?;
        at = offset + u64::from(extent.len);
    }
    zeros(&mut out, size - at)?;
    out.finish()
}

fn content(out: &mut Out, repo: &Repository, extent: &Extent) -> Result<()> {
    let chunk = repo.chunk(&extent.chunk)?;
    let start = extent.skip as usize;
    let part = chunk.get(start..start + extent.len as usize);
    out.bytes(part.ok_or_else(|| Error::damaged(format!("chunk {} is shorter than the file says", extent.chunk)))?)
}

/// A hole, as the bytes it stands for.
fn zeros(out: &mut Out, mut count: u64) -> Result<()> {
    while count > 0 {
        let some = usize::try_from(count).unwrap_or(usize::MAX).min(ZEROS.len());
        out.bytes(ZEROS.get(..some).unwrap_or_default())?;
        count -= some as u64;
    }
    Ok(())
}
