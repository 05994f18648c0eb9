//! Swap partitions of a disk: what Linux paged out is no use to anybody after a restore.
//!
//! A partition is taken for swap when its table says so **and** the signature of mkswap(8) stands where it
//! has to. A hibernated system has another signature there, and is kept. Tables are read by crates, which are
//! given only headers whose counts and places were looked at: a disk is input like any other.

use super::source::{BlockSource, Cursor};
use crate::Result;
use gptman::{GPTHeader, GPTPartitionEntry};
use mbrman::{MBRHeader, MBRPartitionEntry};
use std::io::{Seek, SeekFrom};
use std::ops::Range;

/// Type of a swap partition in an MBR.
const MBR_SWAP: u8 = 0x82;
/// Type of the partition that covers a disk with a GPT.
const MBR_PROTECTIVE: u8 = 0xee;
/// 0657FD6D-A4AB-43C4-84E5-0933C84B4F4F as it stands on the disk.
const GPT_SWAP: [u8; 16] =
    [0x6d, 0xfd, 0x57, 0x06, 0xab, 0xa4, 0xc4, 0x43, 0x84, 0xe5, 0x09, 0x33, 0xc8, 0x4b, 0x4f, 0x4f];
/// Ends the first page of swap space.
const SIGNATURE: &[u8; 10] = b"SWAPSPACE2";
/// Pages of Linux machines, in bytes.
const PAGE_BYTES: [u64; 4] = [4096, 16_384, 65_536, 8192];
/// Bytes of an MBR, whatever the sectors are.
const MBR_BYTES: usize = 512;
/// Sectors of disks, in bytes. Units of the tables; a wrong guess finds no signature.
const SECTOR_BYTES: [u64; 2] = [512, 4096];
/// Logical partitions that are looked at.
const MAX_LOGICAL: usize = 128;
/// Length of an entry; the standard allows more, and nobody uses it.
const GPT_ENTRY_BYTES: u32 = 128;
/// Entries of a GPT that are looked at.
const MAX_GPT_ENTRIES: u32 = 1024;

/// A swap partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Swap {
    /// Number of the partition, as Linux counts.
    pub number: u32,
    /// What need not be kept: all but the first page, in which label and UUID are. `/etc/fstab` names swap by them,
    /// and a restored machine finds its swap again.
    pub pages: Range<u64>,
}

/// The swap partitions of a disk, in the order of their places.
///
/// A disk without a table that makes sense has none.
///
/// # Errors
/// When the disk cannot be read.
pub fn find(disk: &mut dyn BlockSource) -> Result<Vec<Swap>> {
    let mut found = Vec::new();
    for sector in SECTOR_BYTES {
        let partitions = match gpt(disk, sector) {
            partitions if !partitions.is_empty() => partitions,
            _ => mbr(disk, sector),
        };
        for (number, range) in partitions {
            if let Some(page) = first_page(disk, &range)? {
                found.push(Swap { number, pages: range.start + page..range.end });
            }
        }
        if !found.is_empty() {
            break;
        }
    }
    found.sort_by_key(|swap| swap.pages.start);
    // Partitions that overlap are no table that anybody uses.
    let apart = found.windows(2).all(|pair| matches!(pair, [a, b] if a.pages.end <= b.pages.start));
    Ok(if apart { found } else { Vec::new() })
}

/// Length of the page that ends in the signature, if there is one.
fn first_page(disk: &mut dyn BlockSource, range: &Range<u64>) -> Result<Option<u64>> {
    for page in PAGE_BYTES {
        let end = range.start.saturating_add(page);
        if end >= range.end || range.end > disk.size() {
            continue;
        }
        let mut bytes = [0; SIGNATURE.len()];
        disk.read(end - SIGNATURE.len() as u64, &mut bytes)?;
        if &bytes == SIGNATURE {
            return Ok(Some(page));
        }
    }
    Ok(None)
}

type Partitions = Vec<(u32, Range<u64>)>;

/// Swap partitions by the GPT, its backup if the first is damaged.
fn gpt(disk: &mut dyn BlockSource, sector: u64) -> Partitions {
    let last = (disk.size() / sector).saturating_sub(1);
    let entries = [1, last].into_iter().find_map(|place| gpt_entries(disk, sector, place));
    let swap = |(number, entry): (u32, GPTPartitionEntry)| {
        let end = entry.ending_lba.checked_add(1)?.checked_mul(sector)?;
        let start = entry.starting_lba.checked_mul(sector)?;
        (entry.partition_type_guid == GPT_SWAP && start < end).then_some((number, start..end))
    };
    (1..).zip(entries.unwrap_or_default()).filter_map(swap).collect()
}

fn gpt_entries(disk: &mut dyn BlockSource, sector: u64, place: u64) -> Option<Vec<GPTPartitionEntry>> {
    let size = disk.size();
    let mut cursor = Cursor::new(disk);
    cursor.seek(SeekFrom::Start(place.checked_mul(sector)?)).ok()?;
    let header = GPTHeader::read_from(&mut cursor).ok()?;
    let (entries, bytes) = (header.number_of_partition_entries, header.size_of_partition_entry);
    let table = u64::from(entries) * u64::from(bytes);
    let end = header.partition_entry_lba.checked_mul(sector)?.checked_add(table)?;
    let plausible = entries <= MAX_GPT_ENTRIES && bytes == GPT_ENTRY_BYTES && end <= size;
    if plausible { header.read_partitions(&mut cursor, sector).ok() } else { None }
}

/// Swap partitions by the MBR, primary and logical ones.
fn mbr(disk: &mut dyn BlockSource, sector: u64) -> Partitions {
    let Some(header) = mbr_at(disk, 0) else { return Vec::new() };
    let mut out = Vec::new();
    let mut extended = None;
    for (number, entry) in (1..).zip(entries(&header)) {
        match entry.sys {
            MBR_PROTECTIVE => return Vec::new(),
            MBR_SWAP => out.extend(range(entry, 0, sector).map(|range| (number, range))),
            _ if entry.is_extended() => extended = extended.or(Some(u64::from(entry.starting_lba))),
            _ => {}
        }
    }
    out.extend(extended.map(|start| logical(disk, start, sector)).into_iter().flatten());
    out
}

/// A table of four partitions, as at the disk's start, so at the start of each logical partition.
fn mbr_at(disk: &mut dyn BlockSource, offset: u64) -> Option<MBRHeader> {
    let mut bytes = [0; MBR_BYTES];
    offset.checked_add(bytes.len() as u64).filter(|end| *end <= disk.size())?;
    disk.read(offset, &mut bytes).ok()?;
    MBRHeader::read_from(&mut std::io::Cursor::new(bytes)).ok()
}

const fn entries(header: &MBRHeader) -> [&MBRPartitionEntry; 4] {
    [&header.partition_1, &header.partition_2, &header.partition_3, &header.partition_4]
}

/// Sectors of an entry that counts from `base`, as bytes of the disk.
fn range(entry: &MBRPartitionEntry, base: u64, sector: u64) -> Option<Range<u64>> {
    let start = (base + u64::from(entry.starting_lba)) * sector;
    let len = u64::from(entry.sectors) * sector;
    (len > 0).then_some(start..start + len)
}

/// Logical partitions: a chain of tables, each with one partition and a link to the next, that begins at
/// sector `start`. Links count from there, partitions from their own table.
fn logical(disk: &mut dyn BlockSource, start: u64, sector: u64) -> Partitions {
    let (mut out, mut table) = (Vec::new(), start);
    for number in (5..).take(MAX_LOGICAL) {
        let Some(header) = mbr_at(disk, table * sector) else { break };
        let [partition, link, ..] = entries(&header);
        if partition.sys == MBR_SWAP {
            out.extend(range(partition, table, sector).map(|range| (number, range)));
        }
        let next = start + u64::from(link.starting_lba);
        // The chain goes forwards: else it could go on for ever.
        if !link.is_extended() || next <= table {
            break;
        }
        table = next;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ingest::image::source::RawDisk;
    use proptest::prelude::*;
    use std::fs::File;
    use std::io::Write;
    use std::os::unix::fs::FileExt;
    use std::process::{Command, Stdio};

    const MIB: u64 = 1 << 20;

    /// A disk of 64 MiB with a table as sfdisk(8) makes it; None, said loudly, where that is not installed.
    fn disk(script: &str) -> Option<tempfile::NamedTempFile> {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(64 * MIB).unwrap();
        let sfdisk = Command::new("sfdisk").arg("-q").arg(file.path()).stdin(Stdio::piped()).spawn();
        let Ok(mut sfdisk) = sfdisk else {
            eprintln!("SKIPPED: there is no sfdisk (package fdisk)");
            return None;
        };
        sfdisk.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
        assert!(sfdisk.wait().unwrap().success(), "{script}");
        Some(file)
    }

    /// Makes swap space of a part of the file by mkswap(8).
    fn mkswap(file: &File, range: Range<u64>, page: &str) {
        let space = tempfile::NamedTempFile::new().unwrap();
        space.as_file().set_len(range.end - range.start).unwrap();
        let made = Command::new("mkswap").args(["-q", "-p", page, "-L", "pages"]).arg(space.path()).output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let bytes = std::fs::read(space.path()).unwrap();
        file.write_all_at(&bytes, range.start).unwrap();
    }

    fn found(file: &tempfile::NamedTempFile) -> Vec<(u32, Range<u64>)> {
        let swaps = find(&mut RawDisk::open(file.path()).unwrap()).unwrap();
        swaps.into_iter().map(|swap| (swap.number, swap.pages)).collect()
    }

    #[test]
    fn swap_in_every_kind_of_table() {
        let gpt = "label: gpt\nstart=2048, size=16384, type=L\nstart=20480, size=32768, type=S\n";
        let mbr = "label: dos\nstart=2048, size=16384, type=83\nstart=20480, size=32768, type=82\n";
        let logical = "label: dos\nstart=2048, size=2048, type=83\nstart=4096, size=126976, type=5\n\
            start=6144, size=2048, type=83\nstart=10240, size=4096, type=83\nstart=20480, size=32768, type=82\n";
        for (script, number) in [(gpt, 2), (mbr, 2), (logical, 7)] {
            let Some(file) = disk(script) else { return };
            assert_eq!(found(&file), [], "not made yet");
            let range = 20480 * 512..(20480 + 32768) * 512;
            mkswap(file.as_file(), range.clone(), "4096");
            assert_eq!(found(&file), [(number, range.start + 4096..range.end)], "{script}");
            mkswap(file.as_file(), range.clone(), "65536");
            file.as_file().write_all_at(&[0; 10], range.start + 4086).unwrap();
            assert_eq!(found(&file), [(number, range.start + 65536..range.end)], "{script}");
            // A hibernated system.
            file.as_file().write_all_at(b"S1SUSPEND\0", range.start + 65526).unwrap();
            assert_eq!(found(&file), [], "{script}");
        }
    }

    #[test]
    fn swap_of_a_disk_with_large_sectors_and_by_the_backup_table() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(64 * MIB).unwrap();
        let mut writer = file.reopen().unwrap();
        let mut table = gptman::GPT::new_from(&mut writer, 4096, [7; 16]).unwrap();
        let ends = GPTPartitionEntry { starting_lba: 256, ending_lba: 256 + 2047, ..GPTPartitionEntry::empty() };
        table[1] = GPTPartitionEntry { partition_type_guid: GPT_SWAP, unique_partition_guid: [9; 16], ..ends };
        table.write_into(&mut writer).unwrap();
        let range = 256 * 4096..(256 + 2048) * 4096;
        mkswap(file.as_file(), range.clone(), "4096");
        assert_eq!(found(&file), [(1, range.start + 4096..range.end)]);
        file.as_file().write_all_at(&[0; 100], 4096).unwrap();
        assert_eq!(found(&file), [(1, range.start + 4096..range.end)], "by the backup");
    }

    #[test]
    fn the_signature_alone_is_not_enough() {
        let Some(file) = disk("label: dos\nstart=2048, size=16384, type=83\n") else { return };
        mkswap(file.as_file(), 2048 * 512..(2048 + 16384) * 512, "4096");
        assert_eq!(found(&file), []);
        let whole = tempfile::NamedTempFile::new().unwrap();
        whole.as_file().set_len(MIB).unwrap();
        mkswap(whole.as_file(), 0..MIB, "4096");
        assert_eq!(found(&whole), [], "swap without a table");
    }

    /// A logical chain that leads back must end.
    #[test]
    fn a_chain_of_tables_that_goes_in_a_circle() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(MIB).unwrap();
        let table = |kind: u8, start: u32| {
            let mut bytes = [0; 512];
            bytes[446 + 16 + 4] = kind;
            bytes[446 + 16 + 8..446 + 16 + 12].copy_from_slice(&start.to_le_bytes());
            bytes[446 + 16 + 12] = 1;
            bytes[510..].copy_from_slice(&[0x55, 0xaa]);
            bytes
        };
        for (at, link) in [(0, 4), (4, 8), (12, 0), (8, 4)] {
            file.as_file().write_all_at(&table(5, link), at * 512).unwrap();
        }
        assert_eq!(found(&file), []);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]
        #[test]
        fn no_table_makes_it_panic(flips in proptest::collection::vec((0..3_u64, 0..512_u64, any::<u8>()), 1..20), numbers in proptest::array::uniform4(any::<u32>())) {
            let file = tempfile::NamedTempFile::new().unwrap();
            file.as_file().set_len(MIB).unwrap();
            let mut bytes = [0; 512];
            bytes[510..].copy_from_slice(&[0x55, 0xaa]);
            for (entry, number) in numbers.iter().enumerate() {
                let at = 446 + entry * 16;
                bytes[at + 4] = [MBR_SWAP, 5, 0x0f, 0x83][*number as usize % 4];
                bytes[at + 8..at + 12].copy_from_slice(&number.to_le_bytes());
                bytes[at + 12..at + 16].copy_from_slice(&number.rotate_left(9).to_le_bytes());
            }
            file.as_file().write_all_at(&bytes, 0).unwrap();
            for (sector, at, byte) in flips {
                file.as_file().write_all_at(&[byte], sector * 512 + at).unwrap();
            }
            found(&file);
        }

        #[test]
        fn no_gpt_makes_it_panic(entries in prop_oneof![0..200_u32, any::<u32>()], bytes in prop_oneof![Just(128_u32), any::<u32>()], place in prop_oneof![0..100_u64, any::<u64>()]) {
            let mut header = gptman::GPTHeader {
                signature: *b"EFI PART", revision: [0, 0, 1, 0], header_size: 92, crc32_checksum: 0, reserved: [0; 4],
                primary_lba: 1, backup_lba: 2, first_usable_lba: 3, last_usable_lba: 4, disk_guid: [1; 16],
                partition_entry_lba: place, number_of_partition_entries: entries, size_of_partition_entry: bytes,
                partition_entry_array_crc32: 0,
            };
            header.update_crc32_checksum();
            let mut space = vec![0; 512];
            space.extend(header.signature.iter().chain(&header.revision));
            [header.header_size, header.crc32_checksum, 0].iter().for_each(|n| space.extend(n.to_le_bytes()));
            [1, 2, 3, 4_u64].iter().for_each(|n| space.extend(n.to_le_bytes()));
            space.extend(header.disk_guid);
            space.extend(place.to_le_bytes());
            [entries, bytes, 0].iter().for_each(|n| space.extend(n.to_le_bytes()));
            space.resize(1 << 16, 0);
            let file = tempfile::NamedTempFile::new().unwrap();
            file.as_file().write_all_at(&space, 0).unwrap();
            found(&file);
        }
    }
}
