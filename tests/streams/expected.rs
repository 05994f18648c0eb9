//! The corpus' manifests (JSON lines, one item each), and how a mounted tree differs from one.

use crate::walker::manifest;
use ring::digest::{SHA256, digest};
use serde_json::Value;
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// What an item must be, field by field, as text.
type Fields = BTreeMap<&'static str, String>;

fn unhex(value: &Value) -> Vec<u8> {
    let text = value.as_str().unwrap_or_default();
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The items of a manifest by path, and the space that each file takes at most, in units of 512 bytes.
fn expected(path: &Path) -> BTreeMap<Vec<u8>, (Fields, u64)> {
    let text = std::fs::read_to_string(path).unwrap();
    let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let items: Vec<Value> = lines.filter(|item| item.get("path_hex").is_some()).collect();
    let first_name = |item: &Value| {
        let same = items.iter().filter(|other| other["hl"] == item["hl"]);
        same.map(|other| unhex(&other["path_hex"])).min().unwrap()
    };
    let one = |item: &Value| {
        let mut fields = Fields::new();
        let kind = item["type"].as_str().unwrap();
        fields.insert("kind", kind.to_owned());
        for field in ["uid", "gid", "mtime"] {
            fields.insert(field, item[field].to_string());
        }
        if kind != "l" {
            fields.insert("mode", item["mode"].to_string());
        }
        if kind == "f" {
            fields.insert("size", item["size"].to_string());
            fields.insert("sha256", item["sha256"].as_str().unwrap().to_owned());
        }
        if kind == "l" {
            fields.insert("target", hex(&unhex(&item["target_hex"])));
        }
        if kind == "b" || kind == "c" {
            fields.insert("rdev", format!("{}:{}", item["major"], item["minor"]));
        }
        if kind != "d" {
            fields.insert("names", item["nlink"].to_string());
            fields.insert("link of", hex(&first_name(item)));
        }
        let xattrs = item["xattrs"].as_object().unwrap();
        let xattrs: BTreeMap<&String, &str> =
            xattrs.iter().map(|(name, value)| (name, value.as_str().unwrap())).collect();
        fields.insert("xattrs", format!("{xattrs:?}"));
        (unhex(&item["path_hex"]), (fields, item["blocks512"].as_u64().unwrap_or(u64::MAX)))
    };
    items.iter().map(one).collect()
}

fn found(root: &Path) -> BTreeMap<Vec<u8>, (Fields, u64)> {
    let one = |(path, entry): (Vec<u8>, crate::walker::Entry)| {
        let mut fields = Fields::new();
        fields.insert("kind", entry.kind.to_string());
        fields.insert("uid", entry.uid.to_string());
        fields.insert("gid", entry.gid.to_string());
        fields.insert("mtime", entry.mtime.to_string());
        if entry.kind != 'l' {
            fields.insert("mode", entry.mode.to_string());
        }
        if entry.kind == 'f' {
            fields.insert("size", entry.size.unwrap().to_string());
            let content = std::fs::read(root.join(OsStr::from_bytes(&path))).unwrap();
            fields.insert("sha256", hex(digest(&SHA256, &content).as_ref()));
        }
        if let Some(target) = &entry.target {
            fields.insert("target", hex(target));
        }
        if matches!(entry.kind, 'b' | 'c') {
            fields.insert("rdev", format!("{}:{}", entry.rdev.0, entry.rdev.1));
        }
        if entry.kind != 'd' {
            fields.insert("names", entry.nlink.unwrap().to_string());
            fields.insert("link of", hex(entry.link_of.as_ref().unwrap()));
        }
        let xattrs: BTreeMap<String, String> =
            entry.xattrs.iter().map(|(name, value)| (hex(name), hex(value))).collect();
        fields.insert("xattrs", format!("{xattrs:?}"));
        (path, (fields, entry.blocks.unwrap_or(0)))
    };
    manifest(root).into_iter().map(one).collect()
}

/// How the tree at `root` differs from what a manifest says, one line each.
pub fn differences(root: &Path, manifest: &Path) -> Vec<String> {
    let (want, got) = (expected(manifest), found(root));
    assert!(want.len() > 10, "{} says almost nothing", manifest.display());
    let mut lines = Vec::new();
    for path in want.keys().chain(got.keys()).collect::<std::collections::BTreeSet<_>>() {
        let shown = path.escape_ascii();
        match (want.get(path), got.get(path)) {
            (Some((want, most)), Some((got, blocks))) => {
                let fields = want.iter().filter(|(field, value)| got.get(*field) != Some(value));
                lines.extend(
                    fields.map(|(field, value)| format!("{shown}: {field} is {:?}, not {value}", got.get(field))),
                );
                if blocks > most {
                    lines.push(format!("{shown}: takes {blocks} blocks, and {most} in the source"));
                }
            }
            (Some(_), None) => lines.push(format!("{shown}: is missing")),
            _ => lines.push(format!("{shown}: should not be there")),
        }
    }
    lines
}
