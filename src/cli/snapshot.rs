//! `relict backup --snapshot` and `--snapshot-command`: backups of a snapshot that is made for them.

use super::context::Context;
use super::exit::Outcome;
use super::ingest::conduct;
use crate::error::{Error, ErrorKind, Result};
use crate::ingest::BackupOptions;
use crate::ingest::lifecycle::btrfs::{Subvolume, backup};
use crate::ingest::lifecycle::commands::{Commands, Held};
use crate::ingest::stream::{Scope, StreamOptions};
use repo_format::{SET_TAG, SourceKind};
use std::path::Path;

/// Part of the help of `backup`.
pub const HELP: &str = "\
Snapshots: '--snapshot btrfs PATH' takes a read-only snapshot in PATH/.relict-snapshots, sends what differs from
the last one, and keeps the new one for the next time. The restore point's root is the subvolume.
'--snapshot-command create=CMD path=CMD-OR-PATH delete=CMD PATH' runs create, scans the directory that path names
or prints in the place of PATH, and runs delete, whatever came of it. The commands run in a shell and get
RELICT_PATH and RELICT_SNAPSHOT, a name that is always the same for this source; delete runs before create,
too, to remove what a killed run left, and may fail then.";

/// Backs up the one path by btrfs snapshots.
///
/// # Errors
/// `Usage` for more than one path or one that is no subvolume; as [`backup`].
pub fn btrfs(context: &Context, options: &BackupOptions) -> Result<Outcome> {
    let path = only_path(options)?;
    let stream = StreamOptions {
        host: options.host.clone(),
        source: options.source.clone(),
        tags: options.tags.clone(),
        notes: Vec::new(),
        kind: SourceKind::Btrfs,
        scope: Scope::Repository,
        time: options.time,
        threads: options.threads,
        memory_bytes: options.memory_bytes,
        extra: options.set.iter().map(|set| (SET_TAG, set.0.to_vec())).collect(),
    };
    conduct(context, |writer, progress| {
        let volume = Subvolume::open(path, &writer.repository().header().repo.to_string())?;
        let taken = backup(writer, &volume, &stream, progress, &context.stop)?;
        for warning in &taken.warnings {
            crate::tell!("relict: {warning}; the next run tries again");
        }
        Ok(taken.outcomes)
    })
}

/// The commands of `--snapshot-command`; None where it was not given.
///
/// # Errors
/// `Usage` when one is missing, or there is more than one path.
pub fn commands(given: &[String], options: &BackupOptions) -> Result<Option<Commands>> {
    if given.is_empty() {
        return Ok(None);
    }
    let path = only_path(options)?;
    let find = |name: &str| {
        let found = given.iter().find_map(|text| text.strip_prefix(name)).filter(|command| !command.trim().is_empty());
        found.map(str::to_owned).ok_or_else(|| {
            Error::new(ErrorKind::Usage, format!("--snapshot-command lacks {name}"))
                .advise("give all three: --snapshot-command create=CMD path=CMD-OR-PATH delete=CMD")
        })
    };
    let commands = Commands {
        create: find("create=")?,
        show: find("path=")?,
        delete: find("delete=")?,
        path: path.to_owned(),
        name: name_of(&options.host, &options.source),
    };
    Ok(Some(commands))
}

/// Makes the snapshot, and lets the scan read it in the place of the path.
///
/// # Errors
/// Those of the commands.
pub fn hold<'c>(commands: &'c Commands, options: &mut BackupOptions) -> Result<Held<'c>> {
    let held = commands.create()?;
    options.stand_in = Some(held.stand_in());
    Ok(held)
}

fn only_path(options: &BackupOptions) -> Result<&Path> {
    match &options.paths[..] {
        [path] if path.is_dir() => Ok(path),
        _ => Err(Error::new(ErrorKind::Usage, "a snapshot is made of one directory")
            .advise("name one, and run once for each")),
    }
}

/// A name that storage systems take: `relict-HOST-SOURCE` of letters, digits, `-` and `_`.
fn name_of(host: &[u8], source: &[u8]) -> String {
    let plain = |byte: &u8| if byte.is_ascii_alphanumeric() { char::from(*byte) } else { '_' };
    let part = |bytes: &[u8]| bytes.iter().map(plain).collect::<String>();
    format!("relict-{}-{}", part(host), part(source))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_nothing_that_a_shell_would_mind() {
        assert_eq!(name_of(b"nas1", b"home/ann; rm"), "relict-nas1-home_ann__rm");
    }
}
