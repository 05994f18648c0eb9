//! The writer lease: one writer at a time, by `flock` on `lock`, which the kernel lets go when the holder dies.

use crate::error::{Error, ErrorKind, Result};
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// A check that writes down what it has verified holds the lease for less than this; nobody shall fail because of that.
const A_MOMENT: Duration = Duration::from_secs(1);
const ASK_EVERY: Duration = Duration::from_millis(10);

/// Held as long as this value lives.
pub struct Lease {
    _file: File,
}

impl Lease {
    /// Takes the lease at `path`, or says who has it.
    ///
    /// # Errors
    /// `Locked` with host, pid, command and age of the holder; `ReadOnly` or `Io` when the file cannot be written.
    pub fn take(path: &Path) -> Result<Self> {
        let open = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path);
        let mut file = open.map_err(|e| {
            Error::io(format!("the repository cannot be locked for writing ({})", path.display()), e)
                .advise("mount, ls and restore work on a read-only repository; backup and repair need to write")
        })?;
        let begun = Instant::now();
        loop {
            match file.try_lock() {
                Ok(()) => break,
                Err(TryLockError::WouldBlock) if begun.elapsed() < A_MOMENT => std::thread::sleep(ASK_EVERY),
                Err(TryLockError::WouldBlock) => return Err(held(&mut file)),
                Err(TryLockError::Error(e)) => return Err(Error::io(format!("locking {}", path.display()), e)),
            }
        }
        // Who holds it is for people; the lock itself is the kernel's.
        let note = signature();
        let written =
            file.set_len(0).and_then(|()| file.seek(SeekFrom::Start(0))).and_then(|_| file.write_all(note.as_bytes()));
        written.map_err(|e| Error::io(format!("writing {}", path.display()), e))?;
        Ok(Self { _file: file })
    }
}

/// One line that says who we are: host, pid, time, command.
pub(super) fn signature() -> String {
    format!("{} {} {} {}\n", host(), std::process::id(), now(), command())
}

fn held(file: &mut File) -> Error {
    let mut note = String::new();
    let _ = file.take(4096).read_to_string(&mut note);
    let mut words = note.split_whitespace();
    let who = match (words.next(), words.next(), words.next().and_then(|t| t.parse::<u64>().ok())) {
        (Some(host), Some(pid), Some(since)) => {
            let age = now().saturating_sub(since);
            format!("host {host}, pid {pid}, for {age} s ({})", words.collect::<Vec<_>>().join(" "))
        }
        _ => "a holder that has not signed yet".to_owned(),
    };
    Error::new(ErrorKind::Locked, format!("another program is writing to this repository: {who}"))
        .advise("wait for it to end, or stop it; the lock ends with its holder and never has to be removed by hand")
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

fn host() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name = name.trim();
    if name.is_empty() { "unknown".to_owned() } else { name.replace(char::is_whitespace, "_") }
}

fn command() -> String {
    let words: Vec<String> = std::env::args().take(2).collect();
    words.join(" ")
}
