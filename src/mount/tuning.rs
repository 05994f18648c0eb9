//! The kernel's read-ahead of one mount. FUSE mounts start with 128 KiB whatever is negotiated.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Sets the read-ahead of the file system mounted at `mountpoint`, in KiB. Best effort: it needs root.
///
/// The device number comes from `mountinfo`: asking the mount itself would wait for an answer that nobody
/// gives yet.
pub(super) fn set_read_ahead(mountpoint: &Path, kib: u32) {
    let Ok(table) = std::fs::read("/proc/self/mountinfo") else { return };
    if let Some(device) = device_of(&table, mountpoint.as_os_str().as_bytes()) {
        // Without it files are read in smaller pieces, and that is all.
        let _ = std::fs::write(format!("/sys/class/bdi/{device}/read_ahead_kb"), kib.to_string());
    }
}

/// `major:minor` of the last mount at a path.
fn device_of(table: &[u8], mountpoint: &[u8]) -> Option<String> {
    let fields = |line: &[u8]| {
        let mut fields = line.split(|b| *b == b' ');
        let device = String::from_utf8(fields.nth(2)?.to_vec()).ok()?;
        Some((device, unescape(fields.nth(1)?)))
    };
    let mut lines = table.split(|b| *b == b'\n').rev().filter_map(fields);
    lines.find(|(_, path)| path == mountpoint).map(|(device, _)| device)
}

/// Undoes the octal escapes of mountinfo.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((byte, after)) = rest.split_first() {
        let octal = after.first_chunk::<3>().filter(|d| *byte == b'\\' && d.iter().all(|b| (b'0'..=b'7').contains(b)));
        match octal {
            Some(digits) => {
                out.push(digits.iter().fold(0, |n: u8, d| n.wrapping_mul(8).wrapping_add(d - b'0')));
                rest = after.get(3..).unwrap_or_default();
            }
            None => {
                out.push(*byte);
                rest = after;
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_mount_at_a_path_counts() {
        let table = b"22 1 254:0 / / rw - ext4 /dev/vda rw\n\
            40 22 0:41 / /mnt/a\\040b\\134 ro - fuse.relict /r ro\n\
            41 40 0:42 / /mnt/a\\040b\\134 ro - fuse.relict /r ro\n\
            42 22 0:43 / /mnt ro - tmpfs x ro\nshort line\n";
        assert_eq!(device_of(table, b"/mnt/a b\\").as_deref(), Some("0:42"));
        assert_eq!(device_of(table, b"/mnt").as_deref(), Some("0:43"));
        assert_eq!(device_of(table, b"/nothing"), None);
    }
}
