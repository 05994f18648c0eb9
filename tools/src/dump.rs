//! `relict-maint dump`: any record of the repository as JSON, for people who look at bytes.

use clap::{Args, Subcommand};
use relict::catalog::points::{Filter, Points, time_name};
use relict::catalog::tree::range_prefix;
use relict::cli::context::Context;
use relict::cli::exit::Outcome;
use relict::cli::text::json_text;
use relict::store::{Location, Repository, list_slots, read_header, scan_package};
use relict::{Error, ErrorKind, Result};
use repo_format::{
    ChunkId, Encryption, Inode, JournalRecord, Key, KeySlot, Node, PackageId, PointRecord, SegmentHeader, StoreKind,
    Time, Value,
};
use serde_json::{Value as Json, json};

const CACHE_BYTES: usize = 8 << 20;

/// Options of `dump`.
#[derive(Args)]
pub struct Options {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// relict.toml
    Header,
    /// The key slots, without what they wrap
    Key,
    /// A package: header, footer, segments; without an id all packages of the index
    Package { id: Option<String> },
    /// A segment: its header and chunk table
    Segment { package: String, offset: u64 },
    /// Where a chunk is
    Chunk { id: String },
    /// A tree node
    Node { id: String },
    /// A restore point's record
    Point { point: String },
    /// All tree entries of an inode of a restore point
    Entry { point: String, inode: u64 },
    /// The journal
    Journal,
}

/// Shows the record.
pub fn run(context: &Context, options: &Options) -> Result<Outcome> {
    let json = match &options.what {
        What::Header => header(context)?,
        What::Key => Json::Array(
            list_slots(context.repo_path()?)?
                .iter()
                .map(|file| match &file.slot {
                    Ok(slot) => key_slot(&file.name, slot),
                    Err(e) => json!({"name": file.name, "error": e.to_string()}),
                })
                .collect(),
        ),
        other => of_repository(&*context.repository(CACHE_BYTES)?, other)?,
    };
    // One object a line for programs, indented for people.
    let text = if context.json { json.to_string() } else { format!("{json:#}") };
    say!("{text}");
    Ok(Outcome::Complete)
}

fn of_repository(repository: &Repository, what: &What) -> Result<Json> {
    match what {
        What::Package { id: None } => packages(repository),
        What::Package { id: Some(id) } => package(repository, &package_id(id)?),
        What::Segment { package, offset } => segment(repository, &package_id(package)?, *offset),
        What::Chunk { id } => chunk(repository, &chunk_id(id)?),
        What::Node { id } => node(repository, &chunk_id(id)?),
        What::Point { point } => Ok(point_json(&resolve(repository, point)?)),
        What::Entry { point, inode } => entries(repository, &resolve(repository, point)?, *inode),
        What::Journal => Ok(Json::Array(repository.index().journal()?.iter().map(journal).collect())),
        What::Header | What::Key => Ok(Json::Null),
    }
}

fn no_id(what: &str, digits: usize) -> Error {
    Error::new(ErrorKind::Usage, format!("this is not the id of a {what}"))
        .advise(format!("give all {digits} hexadecimal digits, in lower case"))
}

fn package_id(text: &str) -> Result<PackageId> {
    PackageId::from_hex(text).ok_or_else(|| no_id("package", 32))
}

fn chunk_id(text: &str) -> Result<ChunkId> {
    ChunkId::from_hex(text).ok_or_else(|| no_id("chunk", 64))
}

fn resolve(repository: &Repository, expression: &str) -> Result<PointRecord> {
    Points::new(crate::check::all_records(repository)?).resolve(expression, &Filter::default()).cloned()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn header(context: &Context) -> Result<Json> {
    let h = read_header(context.repo_path()?)?;
    Ok(json!({
        "repository": h.repo.to_string(),
        "created": h.created,
        "store": match h.store { StoreKind::Files => "files", StoreKind::RocksDb => "rocksdb" },
        "encryption": match h.encryption { Encryption::None => "none", Encryption::Aes256Gcm => "aes-256-gcm" },
        "chunk_bytes": h.chunk_bytes,
        "features": {"compat": h.features.compat, "ro_compat": h.features.ro_compat, "incompat": h.features.incompat},
    }))
}

fn key_slot(name: &str, slot: &KeySlot) -> Json {
    json!({
        "name": name,
        "label": json_text(&slot.label),
        "repository": slot.repo.to_string(),
        "memory_kib": slot.kdf.memory_kib,
        "passes": slot.kdf.passes,
        "lanes": slot.kdf.lanes,
        "salt": hex(&slot.salt),
    })
}

fn packages(repository: &Repository) -> Result<Json> {
    let row = |p: relict::store::PackageInfo| json!({"number": p.number, "id": p.id.to_string(), "kind": format!("{:?}", p.kind), "sealed": p.sealed, "bytes": p.bytes});
    Ok(Json::Array(repository.index().packages()?.into_iter().map(row).collect()))
}

fn package(repository: &Repository, id: &PackageId) -> Result<Json> {
    let scanned = scan_package(&**repository.packages(), id)?;
    let row = |s: &relict::store::FoundSegment| {
        json!({
            "offset": s.offset,
            "bytes": s.header.segment_bytes(),
            "number": s.header.number,
            "kind": format!("{:?}", s.header.kind),
            "codec": format!("{:?}", s.header.codec),
            "chunks": s.header.table.len(),
            "raw_bytes": s.header.raw_bytes(),
        })
    };
    Ok(json!({
        "id": id.to_string(),
        "repository": scanned.header.repo.to_string(),
        "kind": format!("{:?}", scanned.header.kind),
        "encrypted": scanned.header.encrypted,
        "bytes": scanned.bytes,
        "footer": scanned.footer.as_ref().map(|f| f.entries.len()),
        "segments": scanned.segments.iter().map(row).collect::<Vec<_>>(),
        "damage": scanned.damage.iter().map(|(at, e)| json!({"offset": at, "error": e.to_string()})).collect::<Vec<_>>(),
    }))
}

fn segment(repository: &Repository, id: &PackageId, offset: u64) -> Result<Json> {
    let scanned = scan_package(&**repository.packages(), id)?;
    let found = scanned.segments.iter().find(|s| s.offset == offset);
    let found = found.ok_or_else(|| {
        Error::new(ErrorKind::NotFound, format!("package {id} has no segment at byte {offset}"))
            .advise("'relict-maint dump package ID' lists them")
    })?;
    Ok(segment_json(&found.header))
}

fn segment_json(h: &SegmentHeader) -> Json {
    json!({
        "kind": format!("{:?}", h.kind),
        "codec": format!("{:?}", h.codec),
        "number": h.number,
        "raw_bytes": h.raw_bytes(),
        "stored_bytes": h.stored_bytes,
        "payload_check": hex(&h.payload_check),
        "chunks": h.table.iter().map(|row| json!({"id": row.id.to_string(), "raw_bytes": row.raw_bytes})).collect::<Vec<_>>(),
    })
}

fn chunk(repository: &Repository, id: &ChunkId) -> Result<Json> {
    let at: Location = repository
        .locate(id)?
        .ok_or_else(|| Error::new(ErrorKind::NotFound, format!("chunk {id} is not in the index")))?;
    Ok(json!({
        "id": id.to_string(),
        "package": repository.package_id(at.package)?.to_string(),
        "package_number": at.package,
        "offset": at.offset,
        "segment_bytes": at.segment_bytes,
        "skip": at.skip,
        "raw_bytes": at.len,
    }))
}

fn node(repository: &Repository, id: &ChunkId) -> Result<Json> {
    let bytes = repository.chunk(id)?;
    let node = Node::decode(&*bytes)?;
    let rows = (0..node.len()).filter_map(|i| node.entry(i)).enumerate().map(|(i, (key, value))| match node.child(i) {
        Some(child) => json!({"key": key_json(key), "child": child.id.to_string(), "entries": child.entries}),
        None => entry_json(key, value),
    });
    Ok(json!({"id": id.to_string(), "level": node.level(), "bytes": bytes.len(), "entries": rows.collect::<Vec<_>>()}))
}

fn entries(repository: &Repository, point: &PointRecord, inode: u64) -> Result<Json> {
    let rows: Result<Vec<Json>> = range_prefix(repository, &point.root, &inode.to_be_bytes())
        .map(|e| e.map(|e| entry_json(e.key(), e.value())))
        .collect();
    let rows = rows?;
    if rows.is_empty() {
        return Err(Error::new(ErrorKind::NotFound, format!("the restore point has no inode {inode}")));
    }
    Ok(Json::Array(rows))
}

fn key_json(key: &[u8]) -> Json {
    match Key::decode(key) {
        Ok(Key::Inode(ino)) => json!({"kind": "Inode", "ino": ino}),
        Ok(Key::Xattr(ino, name)) => json!({"kind": "Xattr", "ino": ino, "name": json_text(name)}),
        Ok(Key::Dirent(ino, name)) => json!({"kind": "Dirent", "ino": ino, "name": json_text(name)}),
        Ok(Key::Extent(ino, offset)) => json!({"kind": "Extent", "ino": ino, "offset": offset}),
        Ok(Key::Target(ino)) => json!({"kind": "Target", "ino": ino}),
        Ok(Key::SourceIno(fs, ino)) => json!({"kind": "SourceIno", "file_system": fs, "source_ino": ino}),
        Err(e) => json!({"error": e.to_string(), "bytes": hex(key)}),
    }
}

fn entry_json(key: &[u8], value: &[u8]) -> Json {
    let decoded = Key::decode(key).and_then(|key| Value::decode(key.kind(), value));
    let value = match decoded {
        Ok(Value::Inode(inode)) => inode_json(&inode),
        Ok(Value::Xattr(bytes)) => json!({"value": json_text(bytes), "bytes": bytes.len()}),
        Ok(Value::Dirent(d)) => json!({"ino": d.ino, "kind": format!("{:?}", d.kind)}),
        Ok(Value::Extent(e)) => json!({"skip": e.skip, "len": e.len, "chunk": e.chunk.to_string()}),
        Ok(Value::Target(bytes)) => json!({"target": json_text(bytes)}),
        Ok(Value::SourceIno(ino)) => json!({"ino": ino}),
        Err(e) => json!({"error": e.to_string(), "bytes": hex(value)}),
    };
    json!({"key": key_json(key), "value": value})
}

fn time(t: Time) -> Json {
    json!({"sec": t.sec, "nsec": t.nsec, "name": time_name(t)})
}

fn inode_json(i: &Inode) -> Json {
    json!({
        "kind": format!("{:?}", i.kind()),
        "mode": format!("{:o}", i.mode),
        "uid": i.uid,
        "gid": i.gid,
        "nlink": i.nlink,
        "size": i.size,
        "data_bytes": i.data_bytes,
        "mtime": time(i.mtime),
        "ctime": time(i.ctime),
        "btime": i.btime.map(time),
        "rdev": i.rdev.map(|d| json!({"major": d.major, "minor": d.minor})),
        "flags": i.flags,
        "source": i.source.map(|s| json!({"file_system": s.fs, "ino": s.ino, "generation": s.generation})),
    })
}

fn point_json(p: &PointRecord) -> Json {
    let texts = |list: &[Vec<u8>]| list.iter().map(|t| json_text(t)).collect::<Vec<_>>();
    let c = &p.counts;
    json!({
        "id": p.id.to_string(),
        "repository": p.repo.to_string(),
        "kind": format!("{:?}", p.kind),
        "time": time(p.time),
        "sealed": time(p.sealed),
        "root": p.root.to_string(),
        "next_ino": p.next_ino,
        "host": json_text(&p.host),
        "source": json_text(&p.source),
        "parent": p.parent.map(|id| id.to_string()),
        "paths": texts(&p.paths),
        "tags": texts(&p.tags),
        "file_systems": p.file_systems.iter().map(|f| hex(f)).collect::<Vec<_>>(),
        "notes": texts(&p.notes),
        "program": json_text(&p.program),
        "counts": {
            "files": c.files, "dirs": c.dirs, "bytes": c.bytes, "read_bytes": c.read_bytes,
            "new_chunks": c.new_chunks, "new_bytes": c.new_bytes, "stored_bytes": c.stored_bytes, "errors": c.errors,
        },
        "extra": p.extra.iter().map(|(tag, bytes)| json!({"tag": tag, "bytes": hex(bytes)})).collect::<Vec<_>>(),
    })
}

fn journal(record: &JournalRecord) -> Json {
    match record {
        JournalRecord::PackageOpen { package, kind } => {
            json!({"kind": "PackageOpen", "package": package.to_string(), "package_kind": format!("{kind:?}")})
        }
        JournalRecord::PackageFree { package } => json!({"kind": "PackageFree", "package": package.to_string()}),
    }
}
