//! Snapshots of any storage: commands of the user make, show and remove them.
//!
//! There is no list of what was made, so a snapshot's name is always the same for a source, and whatever has this name
//! when a run begins was left by a run that was killed.

use crate::ingest::backup::StandIn;
use crate::{Error, ErrorKind, Result};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// Shell commands, and what they are about.
#[derive(Debug, Clone)]
pub struct Commands {
    /// Makes the snapshot.
    pub create: String,
    /// Its directory, absolute, or a command that prints it.
    pub show: String,
    /// Removes it.
    pub delete: String,
    /// The directory that is backed up.
    pub path: PathBuf,
    /// The snapshot's name.
    pub name: String,
}

/// A snapshot that is there. Removed when it is dropped.
#[derive(Debug)]
pub struct Held<'c> {
    commands: &'c Commands,
    snapshot: PathBuf,
    removed: bool,
}

impl Commands {
    /// Removes what a killed run left, and makes the snapshot.
    ///
    /// # Errors
    /// When a command fails, or the snapshot is not where it should be. It is removed then.
    pub fn create(&self) -> Result<Held<'_>> {
        // Mostly there is nothing to remove: that this fails says nothing.
        let _ = self.output(&self.delete, Stdio::null());
        let mut held = Held { commands: self, snapshot: PathBuf::new(), removed: true };
        if let Err(error) = self.run(&self.create, "create") {
            // Half made, perhaps.
            let _ = self.output(&self.delete, Stdio::null());
            return Err(error);
        }
        held.removed = false;
        held.snapshot = self.find()?;
        Ok(held)
    }

    fn find(&self) -> Result<PathBuf> {
        let given = Path::new(&self.show);
        let path = if given.is_absolute() && given.is_dir() {
            given.to_owned()
        } else {
            let printed = self.run(&self.show, "path")?;
            let line = printed.split(|byte| *byte == b'\n').next().unwrap_or_default();
            PathBuf::from(OsStr::from_bytes(line))
        };
        if path.is_absolute() && path.is_dir() {
            return Ok(path);
        }
        let what =
            format!("the snapshot's directory is {:?}, which is none, or not absolute", path.display().to_string());
        Err(Error::new(ErrorKind::NotFound, what)
            .advise("path= of --snapshot-command must be it, or a command that prints it"))
    }

    /// Runs a command that must succeed and gives what it printed; its errors go where ours go.
    fn run(&self, command: &str, which: &str) -> Result<Vec<u8>> {
        let output = self
            .output(command, Stdio::inherit())
            .map_err(|e| Error::io(format!("starting the {which} command"), e))?;
        if output.status.success() {
            return Ok(output.stdout);
        }
        let what = format!("the {which} command of --snapshot-command failed ({}): {command}", output.status);
        Err(Error::new(ErrorKind::Io, what))
    }

    fn output(&self, command: &str, errors: Stdio) -> std::io::Result<Output> {
        let mut shell = Command::new("sh");
        shell.args(["-c", command]).env("RELICT_PATH", &self.path).env("RELICT_SNAPSHOT", &self.name);
        shell.stdin(Stdio::null()).stderr(errors).output()
    }
}

impl Held<'_> {
    /// What the scan is to read.
    #[must_use]
    pub fn stand_in(&self) -> StandIn {
        StandIn { path: self.commands.path.clone(), snapshot: self.snapshot.clone() }
    }

    /// Removes the snapshot.
    ///
    /// # Errors
    /// When the command fails; the snapshot is left then, and the next run removes it.
    pub fn remove(mut self) -> Result<()> {
        self.removed = true;
        let removed = self.commands.run(&self.commands.delete, "delete");
        removed.map(drop).map_err(|e| e.context(format!("the snapshot {} is left", self.commands.name)))
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        if !self.removed {
            let _ = self.commands.output(&self.commands.delete, Stdio::null());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn commands(dir: &Path, create: &str, show: &str) -> Commands {
        let log = dir.join("log");
        let with_log = |word: &str, more: &str| format!("echo {word} $RELICT_SNAPSHOT >> {}; {more}", log.display());
        Commands {
            create: with_log("create", create),
            show: show.to_owned(),
            delete: with_log("delete", "true"),
            path: "/data".into(),
            name: "relict-x".into(),
        }
    }

    fn log(dir: &Path) -> String {
        std::fs::read_to_string(dir.join("log")).unwrap()
    }

    #[test]
    fn what_is_made_is_removed_however_it_ends() {
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path().to_str().unwrap();
        let good = commands(dir.path(), "true", at);
        let held = good.create().unwrap();
        assert_eq!((held.stand_in().path, held.stand_in().snapshot), ("/data".into(), at.into()));
        assert_eq!(log(dir.path()), "delete relict-x\ncreate relict-x\n");
        held.remove().unwrap();
        drop(good.create().unwrap());
        assert_eq!(log(dir.path()).matches("delete").count(), 4);
        let printed = commands(dir.path(), "true", &format!("echo {at}"));
        assert_eq!(printed.create().unwrap().snapshot, dir.path());
        for (create, show) in [("false", at), ("true", "echo relative"), ("true", "exit 3"), ("true", "/none/at/all")] {
            std::fs::remove_file(dir.path().join("log")).unwrap();
            assert!(commands(dir.path(), create, show).create().is_err(), "{create} {show}");
            assert_eq!(log(dir.path()), "delete relict-x\ncreate relict-x\ndelete relict-x\n", "{create} {show}");
        }
    }
}
