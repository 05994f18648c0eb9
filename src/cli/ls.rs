//! `relict ls`: what is in a restore point.

use super::chains::readable;
use super::context::Context;
use super::exit::Outcome;
use super::out::Out;
use super::text::{escape, json_text, json_time, mode, stands_twice, table_time};
use super::{FilterArgs, POINTS};
use crate::catalog::points::{Filter, split_path};
use crate::catalog::tree::Range;
use crate::error::{Error, ErrorKind, Result};
use crate::restore::lookup::{Head, InoSet, TreeReader, components};
use clap::Args;
use repo_format::{Dirent, FileKind};
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::sync::atomic::Ordering;

const CACHE_BYTES: usize = 64 << 20;

/// List files of a restore point
#[derive(Debug, Args)]
#[command(after_help = POINTS)]
pub struct LsArgs {
    /// The restore point, and a path in it
    #[arg(value_name = "POINT[:PATH]")]
    point: OsString,
    /// Show attributes
    #[arg(short)]
    long: bool,
    /// List everything below, with full paths
    #[arg(short = 'R', long)]
    recursive: bool,
    #[command(flatten)]
    filter: FilterArgs,
}

struct Listing<'a> {
    tree: TreeReader<'a>,
    cursor: Range<'a>,
    out: Out,
    args: &'a LsArgs,
    json: bool,
}

/// Runs the command.
///
/// # Errors
/// When the restore point or the path is not there, or the repository cannot be read.
pub fn run(context: &Context, args: &LsArgs) -> Result<Outcome> {
    let repo = context.repository(CACHE_BYTES)?;
    let (expression, path) = split_path(args.point.as_bytes());
    let (points, _) = readable(&repo)?;
    let point = points.resolve(&expression, &Filter::from(&args.filter))?;
    let tree = TreeReader::new(&*repo, point.root);
    let path = path.unwrap_or_default();
    let entry = tree.find(path)?;
    let mut listing = Listing { tree, cursor: tree.cursor(), out: Out::new(), args, json: context.json };
    let path: Vec<u8> = components(path).flat_map(|part| [b"/", part].concat()).collect();
    if entry.kind == FileKind::Dir {
        listing.directories(context, path, entry.ino)?;
    } else {
        listing.show(&path, &path, entry)?;
    }
    listing.out.finish()?;
    Ok(Outcome::Complete)
}

impl Listing<'_> {
    /// A directory, and with `-R` those below it. Damaged directories come last, as the error.
    fn directories(&mut self, context: &Context, path: Vec<u8>, ino: u64) -> Result<()> {
        let mut seen = InoSet::default();
        let mut pending = vec![(path, ino)];
        let mut damage = None;
        while let Some((path, ino)) = pending.pop() {
            if context.stop.load(Ordering::Relaxed) {
                return Err(Error::new(ErrorKind::Interrupted, "the listing was interrupted").advise("run it again"));
            }
            // A damaged tree may name a directory inside of itself.
            if !seen.insert(ino) {
                damage.get_or_insert(stands_twice(&path));
                continue;
            }
            let below = match self.directory(&path, ino) {
                Ok(below) => below,
                Err(e) if e.kind() == ErrorKind::Damaged && self.args.recursive => {
                    let shown = escape(if path.is_empty() { b"/" } else { &path });
                    damage.get_or_insert(e.context(format!("not everything below {shown} could be listed")));
                    continue;
                }
                Err(e) => return Err(e),
            };
            if self.args.recursive {
                pending.extend(below.into_iter().rev());
            }
        }
        damage.map_or(Ok(()), Err)
    }

    fn directory(&mut self, path: &[u8], ino: u64) -> Result<Vec<(Vec<u8>, u64)>> {
        let mut below = Vec::new();
        for name in self.tree.names(ino) {
            let name = name?;
            let full = [path, b"/", &*name.name].concat();
            self.show(&full, if self.args.recursive { &full } else { &name.name }, name.entry)?;
            if name.entry.kind == FileKind::Dir && self.args.recursive {
                below.push((full, name.entry.ino));
            }
        }
        Ok(below)
    }

    fn show(&mut self, full: &[u8], shown: &[u8], entry: Dirent) -> Result<()> {
        if !self.json && !self.args.long {
            return self.out.line(&escape(shown));
        }
        let head = self.tree.head(&mut self.cursor, entry.ino)?;
        let target = if entry.kind == FileKind::Symlink { Some(self.tree.target(entry.ino)?) } else { None };
        if self.json {
            return self.out.json(&entry_json(full, &head, target.as_deref()));
        }
        let arrow = target.map_or_else(String::new, |t| format!(" -> {}", escape(&t)));
        let inode = &head.inode;
        let size = inode.rdev.map_or_else(|| inode.size.to_string(), |d| format!("{}, {}", d.major, d.minor));
        self.out.line(&format!(
            "{}{} {:>4} {:>5} {:>5} {:>12} {} {}{arrow}",
            mode(inode.mode),
            if head.xattrs.is_empty() { ' ' } else { '+' },
            inode.nlink,
            inode.uid,
            inode.gid,
            size,
            table_time(inode.mtime),
            escape(shown),
        ))
    }
}

fn entry_json(path: &[u8], head: &Head, target: Option<&[u8]>) -> serde_json::Value {
    let inode = &head.inode;
    serde_json::json!({
        "message_type": "entry",
        "path": json_text(path),
        "type": kind_word(inode.kind()),
        "mode": format!("{:04o}", inode.mode & 0o7777),
        "uid": inode.uid,
        "gid": inode.gid,
        "size": inode.size,
        "data_bytes": inode.data_bytes,
        "mtime": json_time(inode.mtime),
        "nlink": inode.nlink,
        "inode": head.ino,
        "target": target.map(json_text),
        "device": inode.rdev.map(|d| [d.major, d.minor]),
        "xattrs": head.xattrs.iter().map(|(name, _)| json_text(name)).collect::<Vec<_>>(),
    })
}

const fn kind_word(kind: FileKind) -> &'static str {
    match kind {
        FileKind::File => "file",
        FileKind::Dir => "dir",
        FileKind::Symlink => "symlink",
        FileKind::Fifo => "fifo",
        FileKind::Socket => "socket",
        FileKind::Char => "char",
        FileKind::Block => "block",
    }
}
