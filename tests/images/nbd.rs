//! The NBD client against real servers: content of every format, holes, bitmaps, errors, silence.

use crate::rig::{Random, Rig};
use crate::tools::{Server, corpus, have, refused, run, scribble, write_sparse};
use relict::ingest::image::nbd::session::{ALLOCATION, Session};
use relict::ingest::image::nbd::{connect, uri::NbdUri};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

const SILENCE: Duration = Duration::from_secs(20);
const DISK_BYTES: usize = (24 << 20) + 512 * 7;

fn open(uri: &str, contexts: &[&str]) -> Session<relict::ingest::image::nbd::Socket> {
    connect(&NbdUri::parse(uri).unwrap(), contexts, SILENCE).unwrap()
}

/// Reads everything in pieces of odd sizes, and a few places on their own.
fn read_all(uri: &str, random: &mut Random) -> Vec<u8> {
    let mut session = open(uri, &[ALLOCATION]);
    let mut out = vec![0xee; usize::try_from(session.size()).unwrap()];
    let mut at = 0;
    while at < out.len() {
        let len = (1 + random.below(9 << 20) as usize).min(out.len() - at);
        session.read(at as u64, &mut out[at..at + len]).unwrap();
        at += len;
    }
    session.close();
    out
}

fn scribbled(random: &mut Random) -> Vec<u8> {
    let mut disk = vec![0; DISK_BYTES];
    scribble(random, &mut disk, 40, 600_000);
    disk
}

fn convert(from: &Path, format: &str, options: &[&str]) -> PathBuf {
    let to = from.with_extension(format);
    run(
        "qemu-img",
        &[&["convert", "-f", "raw", "-O", format], options, &[from.to_str().unwrap(), to.to_str().unwrap()]].concat(),
    );
    to
}

#[test]
fn content_of_every_format_that_qemu_makes() {
    if !have(&["qemu-img", "qemu-nbd"]) {
        return;
    }
    let mut random = Random::from_env();
    let dir = tempfile::tempdir().unwrap();
    let raw = dir.path().join("disk.raw");
    let disk = scribbled(&mut random);
    write_sparse(&raw, &disk);
    let formats: [(&str, &[&str]); 6] =
        [("raw", &[]), ("qcow2", &[]), ("qcow2", &["-c"]), ("vmdk", &[]), ("vhdx", &[]), ("vdi", &[])];
    for (format, options) in formats {
        let image = if format == "raw" { raw.clone() } else { convert(&raw, format, options) };
        let server = Server::qemu_nbd(&image, format, None);
        let mut content = read_all(&server.uri, &mut random);
        // Some formats round the size up.
        assert!(content.len() >= disk.len() && content[disk.len()..].iter().all(|byte| *byte == 0), "{format}");
        content.truncate(disk.len());
        assert!(content == disk, "{format} {options:?}");
        // What is said to be zeros is zeros.
        let mut session = open(&server.uri, &[ALLOCATION]);
        let maps = session.map(&[ALLOCATION], &|| Ok(())).unwrap();
        let zeros: Vec<_> = maps[0].iter().filter(|run| run.flags & 2 != 0).collect();
        assert!(!zeros.is_empty() || !["raw", "qcow2"].contains(&format), "{format} knows of no zeros");
        for run in zeros {
            let end = ((run.offset + run.len) as usize).min(disk.len());
            assert!(disk[run.offset as usize..end].iter().all(|byte| *byte == 0), "{format}: {run:?}");
        }
    }
}

#[test]
fn over_tcp() {
    if !have(&["qemu-nbd"]) {
        return;
    }
    let mut random = Random::from_env();
    let dir = tempfile::tempdir().unwrap();
    let raw = dir.path().join("disk.raw");
    let disk = scribbled(&mut random);
    write_sparse(&raw, &disk);
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut server = Command::new("qemu-nbd")
        .args(["-r", "-t", "-e", "2", "-f", "raw", "-x", "a b", "-b", "127.0.0.1", "-p", &port.to_string()])
        .arg(&raw)
        .spawn()
        .unwrap();
    let begun = std::time::Instant::now();
    while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
        assert!(begun.elapsed() < SILENCE);
        std::thread::sleep(Duration::from_millis(20));
    }
    let mut content = read_all(&format!("nbd://localhost:{port}/a%20b"), &mut random);
    server.kill().unwrap();
    server.wait().unwrap();
    content.truncate(disk.len());
    assert!(content == disk);
}

#[test]
fn bitmaps_as_another_client_saw_them() {
    let Some(corpus) = corpus("qcow2-s11") else { return };
    if !have(&["qemu-storage-daemon", "zstd"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("disk.qcow2");
    run("zstd", &["-q", "-d", corpus.join("disk.qcow2.zst").to_str().unwrap(), "-o", image.to_str().unwrap()]);
    let server = Server::storage_daemon(&image, &["bk0", "bk1"]);
    let names = [ALLOCATION, "qemu:dirty-bitmap:bk0", "qemu:dirty-bitmap:bk1"];
    let mut session = open(&server.uri, &names);
    let maps = session.map(&names, &|| Ok(())).unwrap();
    for (name, map) in names.iter().zip(&maps) {
        let file = corpus.join(format!("nbd.{}.json", name.replace(':', "_")));
        let expected: Vec<serde_json::Value> = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
        // nbdinfo does not join runs with the same flags.
        let mut runs: Vec<(u64, u64, u64)> = Vec::new();
        for run in &expected {
            let [offset, length, flags] = ["offset", "length", "type"].map(|field| run[field].as_u64().unwrap());
            match runs.last_mut() {
                Some(last) if last.2 == flags => last.1 += length,
                _ => runs.push((offset, length, flags)),
            }
        }
        let ours: Vec<_> = map.iter().map(|run| (run.offset, run.len, u64::from(run.flags))).collect();
        assert_eq!(ours, runs, "{name}");
    }
    session.close();
    let missing = open(&server.uri, &["qemu:dirty-bitmap:bk7"]);
    assert!(!missing.has_context("qemu:dirty-bitmap:bk7"));
    assert_eq!(missing.offered_bitmaps(), ["bk0", "bk1"]);
}

#[test]
fn an_export_that_is_not_there_is_named_with_those_that_are() {
    if !have(&["qemu-nbd"]) {
        return;
    }
    let rig = Rig::new();
    let raw = rig.path("disk.raw");
    write_sparse(&raw, &[1; 4096]);
    let server = Server::qemu_nbd(&raw, "raw", None);
    let uri = server.uri.replace("/disk?", "/dsk?");
    let (code, said) = refused(&rig, &["image", "--nbd", &uri, "--source", "vm/sda"]);
    assert!(
        code == 1 && said.contains("does not open the export 'dsk'") && said.contains("it has these exports: 'disk'"),
        "{said}"
    );
    let (code, said) = refused(&rig, &["image", "--nbd", "nbd+unix:///x?socket=/nowhere", "--source", "vm/sda"]);
    assert!(code == 1 && said.contains("connecting to the NBD server at /nowhere"), "{said}");
    let (code, said) = refused(&rig, &["image", "--nbd", "nbds://x/y", "--source", "vm/sda"]);
    assert!(code == 2 && said.contains("TLS is not supported"), "{said}");
}

#[test]
fn what_a_server_cannot_read_ends_the_ingest_and_is_named() {
    if !have(&["nbdkit"]) {
        return;
    }
    let rig = Rig::new();
    let socket = rig.path("faulty.sock");
    let mut command = Command::new("nbdkit");
    command.args(["-f", "-U"]).arg(&socket);
    command.args(["--filter=error", "pattern", "8M", "error-pread=EIO", "error-pread-rate=100%"]);
    let server = Server::other(&mut command, &socket, "");
    let (code, said) = refused(&rig, &["image", "--nbd", &server.uri, "--source", "vm/sda"]);
    assert!(
        code == 1 && said.contains("the NBD server could not read") && said.contains("input/output error"),
        "{said}"
    );
}

/// A disk with bad sectors, by QEMU's own fault injection: QEMU ends the connection.
#[test]
fn a_server_that_goes_away_ends_the_ingest() {
    if !have(&["qemu-nbd"]) {
        return;
    }
    let rig = Rig::new();
    let raw = rig.path("disk.raw");
    std::fs::write(&raw, vec![7; 4 << 20]).unwrap();
    let socket = rig.path("faulty.sock");
    let mut command = Command::new("qemu-nbd");
    command.args(["-r", "-t", "-e", "2", "-x", "disk", "-k"]).arg(&socket).arg("--image-opts").arg(format!(
        "driver=raw,file.driver=blkdebug,file.image.driver=file,file.image.filename={},file.inject-error.0.event=read_aio,\
         file.inject-error.0.errno=5,file.inject-error.0.sector=4096,file.inject-error.0.once=off",
        raw.display()
    ));
    let server = Server::other(&mut command, &socket, "disk");
    let (code, said) = refused(&rig, &["image", "--nbd", &server.uri, "--source", "vm/sda"]);
    assert!(code == 1 && said.contains("the NBD server ended the connection"), "{said}");
    assert!(said.contains("QEMU does that when it cannot read its own disk"), "{said}");
}

#[test]
fn a_server_without_structured_replies() {
    if !have(&["nbdkit"]) {
        return;
    }
    let mut random = Random::from_env();
    let dir = tempfile::tempdir().unwrap();
    let (raw, socket) = (dir.path().join("disk.raw"), dir.path().join("s"));
    let disk = scribbled(&mut random);
    write_sparse(&raw, &disk);
    let mut command = Command::new("nbdkit");
    command.args(["-f", "-r", "--no-sr", "-U"]).arg(&socket).arg("file").arg(&raw);
    let server = Server::other(&mut command, &socket, "");
    assert!(!open(&server.uri, &[ALLOCATION]).has_context(ALLOCATION));
    assert!(read_all(&server.uri, &mut random) == disk);
}

#[test]
fn a_server_that_falls_silent_is_left() {
    if !have(&["qemu-nbd"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let raw = dir.path().join("disk.raw");
    write_sparse(&raw, &vec![1; 4 << 20]);
    let server = Server::qemu_nbd(&raw, "raw", None);
    let mut session = connect(&NbdUri::parse(&server.uri).unwrap(), &[], Duration::from_millis(300)).unwrap();
    server.stop_answering();
    let error = session.read(0, &mut vec![0; 1 << 20]).unwrap_err();
    assert!(error.to_string().contains("is silent"), "{error}");
}
