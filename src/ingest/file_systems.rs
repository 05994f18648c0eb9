//! The file systems a scan meets, numbered in a way that the next scan agrees with.
//!
//! Device numbers change with every boot, so a file system is known by where it is mounted and of what
//! type it is; numbers go on from those of the parent point. Should another file system take that
//! place, its inodes are taken for changed ones unless size, times and number all agree.

use super::source::Stat;
use repo_format::FileKind;
use std::collections::HashMap;

/// How the kernel names a file system for now: device and mount.
type Device = ((u32, u32), u64);

/// Kinds of file systems that hold no files but the kernel's own state.
const NO_FILES: [&str; 17] = [
    "autofs",
    "binfmt_misc",
    "bpf",
    "cgroup",
    "cgroup2",
    "configfs",
    "debugfs",
    "devpts",
    "efivarfs",
    "fusectl",
    "hugetlbfs",
    "mqueue",
    "proc",
    "pstore",
    "securityfs",
    "sysfs",
    "tracefs",
];

/// A line of the mount table.
struct Mount {
    place: Vec<u8>,
    kind: Vec<u8>,
}

/// File systems met so far and those of the parent point.
pub(super) struct FileSystems {
    texts: Vec<Vec<u8>>,
    numbers: HashMap<Device, u32>,
    mounts: HashMap<u64, Mount>,
}

impl FileSystems {
    /// Numbering that goes on from the parent point's.
    pub(super) fn new(parent: Vec<Vec<u8>>) -> Self {
        // Without a mount table, places are known by the first path at which the device changed.
        let table = std::fs::read("/proc/self/mountinfo").unwrap_or_default();
        Self { texts: parent, numbers: HashMap::new(), mounts: parse_mounts(&table) }
    }

    /// The number of the file system of a file first met at `path`.
    pub(super) fn number(&mut self, stat: &Stat, path: &[u8]) -> u32 {
        let device = device_of(stat);
        if let Some(number) = self.numbers.get(&device) {
            return *number;
        }
        let text = self.text(stat, path);
        // Two devices of one text (the layers below an overlay) are kept apart by counting them.
        let mut name = text.clone();
        let mut count = 1;
        let number = loop {
            match self.texts.iter().position(|known| *known == name) {
                None => {
                    self.texts.push(name);
                    break self.texts.len() - 1;
                }
                Some(at) if self.numbers.values().all(|used| *used as usize != at) => break at,
                Some(_) => {
                    count += 1;
                    name = [&text[..], format!("|{count}").as_bytes()].concat();
                }
            }
        };
        self.numbers.insert(device, number as u32);
        number as u32
    }

    /// `type|mount point`, and for what changes device inside a mount (a btrfs subvolume) its path too.
    fn text(&self, stat: &Stat, path: &[u8]) -> Vec<u8> {
        let Some(mount) = self.mounts.get(&stat.mount) else { return [b"|", path].concat() };
        let mut text = [&mount.kind[..], b"|", &mount.place].concat();
        if self.numbers.keys().any(|(_, other)| *other == stat.mount) {
            text.push(b'|');
            text.extend_from_slice(if stat.kind == FileKind::Dir { path } else { b"" });
        }
        text
    }

    /// Whether a directory is on a file system that holds the kernel's own state only.
    pub(super) fn holds_no_files(&self, stat: &Stat) -> bool {
        let kind = self.mounts.get(&stat.mount).map(|mount| &mount.kind);
        kind.is_some_and(|kind| NO_FILES.iter().any(|name| name.as_bytes() == kind))
    }

    /// The list for the point record.
    pub(super) fn into_texts(self) -> Vec<Vec<u8>> {
        self.texts
    }
}

/// What tells file systems apart during one scan.
pub(super) fn device_of(stat: &Stat) -> Device {
    (stat.dev, stat.mount)
}

/// The mount table of proc(5): `id parent device root place options... - type source ...`.
fn parse_mounts(table: &[u8]) -> HashMap<u64, Mount> {
    let one = |line: &[u8]| {
        let mut words = line.split(|byte| *byte == b' ');
        let id = std::str::from_utf8(words.next()?).ok()?.parse().ok()?;
        let place = words.nth(3)?.to_vec();
        let kind = words.skip_while(|word| *word != b"-").nth(1)?.to_vec();
        Some((id, Mount { place, kind }))
    };
    table.split(|byte| *byte == b'\n').filter_map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_table_lines_are_understood() {
        let table = b"22 27 0:21 / /proc rw,relatime - proc proc rw\n\
            27 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw\nnot a line\n";
        let mounts = parse_mounts(table);
        assert_eq!(mounts.len(), 2);
        assert_eq!((&mounts[&27].place[..], &mounts[&27].kind[..]), (&b"/"[..], &b"ext4"[..]));
        assert_eq!(mounts[&22].kind, b"proc");
    }
}
