//! The client against a scripted server that does everything a server may do and much that it may not, and
//! against random bytes. Real servers: tests/image/.

use super::session::{ALLOCATION, Session};
use super::*;
use crate::ingest::image::source::{BlockSource, NbdDisk};
use proptest::prelude::*;
use std::io::Cursor;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

const BITMAP: &str = "qemu:dirty-bitmap:b";

/// Answers that were written before the questions are known; what is asked goes nowhere.
#[derive(Debug)]
struct Script(Cursor<Vec<u8>>);

impl Read for Script {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        self.0.read(out)
    }
}

impl Write for Script {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn reply(option: u32, kind: u32, data: &[u8]) -> Vec<u8> {
    let head = [option, kind, data.len() as u32].map(u32::to_be_bytes).concat();
    [&0x0003_e889_0455_65a9_u64.to_be_bytes()[..], &head, data].concat()
}

fn context(id: u32, name: &str) -> Vec<u8> {
    reply(10, 4, &[&id.to_be_bytes()[..], name.as_bytes()].concat())
}

fn export(size: u64, min: u32, max: u32) -> Vec<u8> {
    let block = [&3_u16.to_be_bytes()[..], &min.to_be_bytes(), &4096_u32.to_be_bytes(), &max.to_be_bytes()].concat();
    let export = [&0_u16.to_be_bytes()[..], &size.to_be_bytes(), &1_u16.to_be_bytes()].concat();
    [reply(7, 3, &block), reply(7, 3, b"\0\x01name"), reply(7, 3, &export), reply(7, 1, b"")].concat()
}

const HELLO: &[u8] = b"NBDMAGICIHAVEOPT\0\x03";

fn handshake(size: u64) -> Vec<u8> {
    let contexts = [context(0, ALLOCATION), context(7, BITMAP), reply(10, 1, b"")].concat();
    [HELLO, &reply(8, 1, b""), &contexts, &export(size, 1, 1 << 25)].concat()
}

fn open(answers: &[u8]) -> Result<Session<Script>> {
    Session::open(Script(Cursor::new(answers.to_vec())), b"sda", &[ALLOCATION, BITMAP])
}

fn part(flags: u16, kind: u16, cookie: u64, data: &[u8]) -> Vec<u8> {
    let head =
        [&0x668e_33ef_u32.to_be_bytes()[..], &flags.to_be_bytes(), &kind.to_be_bytes(), &cookie.to_be_bytes()].concat();
    [&head[..], &(data.len() as u32).to_be_bytes(), data].concat()
}

fn data(flags: u16, cookie: u64, offset: u64, bytes: &[u8]) -> Vec<u8> {
    part(flags, 1, cookie, &[&offset.to_be_bytes()[..], bytes].concat())
}

fn hole(flags: u16, cookie: u64, offset: u64, len: u32) -> Vec<u8> {
    part(flags, 2, cookie, &[&offset.to_be_bytes()[..], &len.to_be_bytes()].concat())
}

fn status(flags: u16, cookie: u64, id: u32, extents: &[(u32, u32)]) -> Vec<u8> {
    let extents: Vec<u8> =
        extents.iter().flat_map(|(len, flags)| [len.to_be_bytes(), flags.to_be_bytes()].concat()).collect();
    part(flags, 5, cookie, &[&id.to_be_bytes()[..], &extents].concat())
}

fn error(flags: u16, cookie: u64, number: u32, message: &[u8]) -> Vec<u8> {
    part(flags, 0x8001, cookie, &[&number.to_be_bytes()[..], &(message.len() as u16).to_be_bytes(), message].concat())
}

/// One read of the whole disk.
fn read(size: u64, answers: &[Vec<u8>]) -> Result<Vec<u8>> {
    let mut session = open(&[handshake(size), answers.concat()].concat())?;
    let mut out = vec![0xee; size as usize];
    session.read(0, &mut out).map(|()| out)
}

#[test]
fn answers_in_parts_and_out_of_order_are_put_together() {
    let size = 512 * 1024 + 100;
    let first = vec![1; 512 * 1024 - 4096];
    let out = read(
        size,
        &[
            data(1, 1, 512 * 1024, &[2; 100]),
            hole(0, 0, first.len() as u64, 4096),
            data(0, 0, 0, &first),
            part(1, 0, 0, b""),
        ],
    );
    let out = out.unwrap();
    assert!(
        out[..first.len()] == first
            && out[512 * 1024..] == [2; 100]
            && out[first.len()..512 * 1024].iter().all(|b| *b == 0)
    );
}

#[test]
fn answers_to_reads_that_are_refused() {
    let cases: [(Vec<Vec<u8>>, &str); 13] = [
        (vec![data(1, 0, 0, &[1; 99])], "the NBD server's answer to a read has gaps or overlaps"),
        (
            vec![data(0, 0, 0, &[1; 60]), data(1, 0, 50, &[1; 50])],
            "the NBD server's answer to a read has gaps or overlaps",
        ),
        (
            vec![data(0, 0, 0, &[1; 50]), data(0, 0, 0, &[1; 50]), hole(1, 0, 0, 50)],
            "the NBD server's answer to a read has gaps or overlaps",
        ),
        (vec![data(1, 0, 0, &[1; 101])], "the NBD server sends 101 bytes at 0, which were not asked for"),
        (vec![hole(1, 0, 1, 100)], "the NBD server sends 100 bytes at 1, which were not asked for"),
        (
            vec![hole(1, 0, u64::MAX, 2)],
            "the NBD server sends 2 bytes at 18446744073709551615, which were not asked for",
        ),
        (vec![hole(1, 0, 0, 0)], "the NBD server sends 0 bytes at 0, which were not asked for"),
        (vec![data(1, 9, 0, &[1; 100])], "the NBD server answers what it was not asked"),
        (vec![status(1, 0, 0, &[(100, 0)])], "the NBD server answers a read with something else"),
        (
            vec![b"\x67\x44\x66\x98\0\0\0\0\0\0\0\0\0\0\0\0".to_vec()],
            "the NBD server answers a read with something else",
        ),
        (vec![part(1, 1, 0, &[0; 8])], "part 0x1 of an NBD answer has 8 bytes"),
        (vec![b"GET / HTTP".to_vec()], "the NBD server's answer begins with 0x47455420"),
        (vec![data(0, 0, 0, &[1; 100])], "the NBD server ended the connection"),
    ];
    for (answers, message) in cases {
        assert_eq!(read(100, &answers).unwrap_err().to_string(), message);
    }
}

#[test]
fn what_a_server_cannot_read_is_said_and_does_not_end_the_conversation() {
    let answers = [error(0, 0, 5, b"bad sector"), part(1, 0, 0, b""), data(1, 1, 0, &[3; 100])];
    let mut session = open(&[handshake(100), answers.concat()].concat()).unwrap();
    let mut out = [0; 100];
    let said = session.read(0, &mut out).unwrap_err().to_string();
    assert_eq!(said, "the NBD server could not read 100 bytes at 0: input/output error (bad sector)");
    session.read(0, &mut out).unwrap();
    assert_eq!(out, [3; 100]);
    assert!(session.read(1, &mut out).unwrap_err().to_string().contains("past the disk's end"));
    // The script is over.
    assert!(session.status(ALLOCATION, 0).is_err());
    assert_eq!(session.read(0, &mut out).unwrap_err().to_string(), "the conversation with the NBD server ended before");
}

#[test]
fn what_follows_is_asked_for_before_it_is_wanted() {
    const REQUEST: usize = 512 * 1024;
    let size = 3 * REQUEST;
    // The last answer comes first; a question for block status waits for what is due.
    let late = [data(1, 2, 2 * REQUEST as u64, &vec![3; REQUEST]), data(1, 0, 0, &vec![1; REQUEST])].concat();
    let rest = [
        data(1, 1, REQUEST as u64, &vec![2; REQUEST]),
        status(0, 3, 7, &[(9, 1)]),
        status(1, 3, 0, &[(size as u32, 0)]),
    ]
    .concat();
    let mut session = open(&[handshake(size as u64), late, rest].concat()).unwrap();
    let mut out = vec![0; 100];
    session.read_ahead(0, &mut out, size as u64).unwrap();
    assert_eq!(out, [1; 100]);
    assert_eq!(session.status(BITMAP, 0).unwrap(), [session::Run { offset: 0, len: 9, flags: 1 }]);
    // Nothing more is sent for what follows: the script is over.
    session.read_ahead(REQUEST as u64 - 50, &mut out, size as u64).unwrap();
    assert_eq!((&out[..50], &out[50..]), (&[1; 50][..], &[2; 50][..]));
    session.read(2 * REQUEST as u64 + 7, &mut out).unwrap();
    assert_eq!(out, [3; 100]);
    assert!(session.read(0, &mut out).is_err());
}

#[test]
fn requests_keep_to_the_servers_blocks() {
    let hello = [HELLO, &reply(8, 1, b""), &reply(10, 1, b""), &reply(9, 1, b""), &export(10_000, 4096, 8192)].concat();
    // Bytes 5000 to 6000 are asked for as one block.
    let mut session = open(&[hello, data(1, 0, 4096, &[4; 4096])].concat()).unwrap();
    let mut out = [0; 1000];
    session.read(5000, &mut out).unwrap();
    assert_eq!(out, [4; 1000]);
}

#[test]
fn maps_follow_the_shortest_answer() {
    let first = [status(0, 0, 7, &[(1000, 1)]), status(1, 0, 0, &[(400, 3), (200, 0)])].concat();
    let second = [status(0, 1, 0, &[(9000, 0)]), status(1, 1, 7, &[(400, 1), (4000, 0)])].concat();
    let mut session = open(&[handshake(1024), first, second].concat()).unwrap();
    let maps = session.map(&[BITMAP, ALLOCATION], &|| Ok(())).unwrap();
    let runs = |map: &Vec<session::Run>| map.iter().map(|run| (run.offset, run.len, run.flags)).collect::<Vec<_>>();
    assert_eq!(runs(&maps[0]), [(0, 1000, 1), (1000, 24, 0)]);
    assert_eq!(runs(&maps[1]), [(0, 400, 3), (400, 624, 0)]);
}

#[test]
fn maps_that_are_refused() {
    let cases: [(Vec<u8>, &str); 6] = [
        (status(1, 0, 0, &[(1024, 0)]), "the NBD server does not answer for every context"),
        (status(1, 0, 9, &[(1024, 0)]), "the NBD server tells of a context that is not known"),
        (status(0, 0, 0, &[(0, 0)]), "the NBD server tells of an extent without bytes"),
        (
            [status(0, 0, 0, &[(1, 0)]), status(0, 0, 0, &[(1, 0)])].concat(),
            "the NBD server answers twice for the context 'base:allocation'",
        ),
        (part(0, 5, 0, &[0; 13]), "part 0x5 of an NBD answer has 13 bytes"),
        (
            error(1, 0, 22, b""),
            "the NBD server could not say what it knows of 1024 bytes at 0: it finds the request invalid",
        ),
    ];
    for (answers, message) in cases {
        let mut session = open(&[handshake(1024), answers].concat()).unwrap();
        assert_eq!(session.map(&[BITMAP, ALLOCATION], &|| Ok(())).unwrap_err().to_string(), message);
    }
}

#[test]
fn servers_that_are_refused() {
    let structured = reply(8, 1, b"");
    let refused = [
        reply(10, 1, b""),
        reply(9, 1, b""),
        reply(7, (1 << 31) + 6, b""),
        reply(3, 2, b"\0\0\0\x02vm"),
        reply(3, 1, b""),
    ]
    .concat();
    let cases: [(Vec<u8>, &str); 9] = [
        (b"HTTP/1.1 400 Bad Request".to_vec(), "what answers there is no NBD server"),
        (
            b"NBDMAGIC\x00\x00\x42\x02\x81\x86\x12\x53".to_vec(),
            "the NBD server speaks the handshake from before 2007 only",
        ),
        (b"NBDMAGICIHAVEOPT\0\0".to_vec(), "the NBD server does not speak the fixed newstyle handshake"),
        (
            [HELLO, &structured, &refused].concat(),
            "the NBD server does not open the export 'sda': it has no such export",
        ),
        (
            [HELLO, &structured, &context(0, "x")].concat(),
            "the NBD server gives the context 'x', which it was not asked for, or twice",
        ),
        ([HELLO, &reply(7, 1, b"")].concat(), "the NBD server answers option 7; it was asked for option 8"),
        ([HELLO, &reply(8, 1, b"x")].concat(), "the NBD server's answer 1 to option 8 makes no sense"),
        ([HELLO, &reply(8, 1, &[0; 20_000])].concat(), "the NBD server's answer to option 8 has 20000 bytes"),
        (
            [HELLO, &structured, &reply(10, 1, b""), &reply(9, 1, b""), &export(5, 3, 9)].concat(),
            "the NBD server wants requests of 3 to 9 bytes",
        ),
    ];
    for (answers, message) in cases {
        let error = open(&answers).unwrap_err();
        assert_eq!(error.to_string(), message);
        if message.ends_with("export") {
            assert_eq!(error.advice(), Some("it has these exports: 'vm'"));
        }
    }
    assert!(
        open(&[HELLO, &structured, &reply(10, 1, b""), &reply(9, 1, b""), &export(1 << 63, 1, 512)].concat()).is_err()
    );
}

#[test]
fn a_server_without_structured_replies_can_be_read() {
    let hello = [HELLO, &reply(8, (1 << 31) + 1, b""), &export(100, 1, 4096)].concat();
    let answer = [&b"\x67\x44\x66\x98\0\0\0\0\0\0\0\0\0\0\0\0"[..], &[5; 100]].concat();
    let mut session = open(&[hello, answer].concat()).unwrap();
    assert!(!session.has_context(ALLOCATION));
    let mut out = [0; 100];
    session.read(0, &mut out).unwrap();
    assert_eq!(out, [5; 100]);
}

#[test]
fn a_silent_server_is_left() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let uri = NbdUri { address: Address::Unix(path), export: Vec::new() };
    let error = connect(&uri, &[], Duration::from_millis(50)).unwrap_err();
    assert!(error.to_string().contains("is silent"), "{error}");
    drop(listener);
    let error = connect(&uri, &[], Duration::from_millis(50)).unwrap_err();
    assert!(error.to_string().starts_with("connecting to the NBD server at"), "{error}");
}

proptest! {
    #[test]
    fn no_answer_makes_the_client_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400), after in 0..4_usize) {
        let fronts = [Vec::new(), HELLO.to_vec(), handshake(3000), [handshake(3000), data(0, 0, 0, &[1; 10])].concat()];
        if let Ok(mut session) = open(&[fronts[after].clone(), bytes].concat()) {
            let _ = session.read(0, &mut [0; 3000]);
            let _ = session.map(&[BITMAP], &|| Ok(()));
        }
    }

    #[test]
    fn a_flipped_bit_never_gives_bytes_that_were_not_sent(at in 0..10_000_usize, bit in 0..8_u32) {
        let mut answers = [handshake(100), data(0, 0, 0, &[1; 60]), hole(1, 0, 60, 40), status(0, 1, 7, &[(100, 1)]), status(1, 1, 0, &[(100, 0)])].concat();
        let at = at % answers.len();
        answers[at] ^= 1 << bit;
        if let Ok(mut session) = open(&answers) {
            let mut out = vec![0xee; 100];
            if session.size() >= 100 && session.read(0, &mut out).is_ok() {
                // One bit of the content may differ; nothing may be left unset.
                prop_assert!(out.iter().filter(|b| **b == 0xee).count() == 0);
            }
            let _ = session.map(&[BITMAP], &|| Ok(()));
        }
    }
}

/// A server on a socket that says all of this to the first who comes.
fn serve(script: Vec<u8>) -> (tempfile::TempDir, uri::NbdUri) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let _gone = stream.write_all(&script);
        let _gone = io::copy(&mut stream, &mut io::sink());
    });
    (dir, uri::NbdUri::parse(&format!("nbd+unix:///x?socket={}", path.display())).unwrap())
}

/// A disk of so many blocks of 512 bytes; every question about zeros gets an answer of one extent.
fn disk_of(blocks: u64, answers: u64, extent: (u32, u32)) -> (tempfile::TempDir, uri::NbdUri) {
    let contexts = [context(0, ALLOCATION), reply(10, 1, b"")].concat();
    let hello = [HELLO, &reply(8, 1, b""), &contexts, &export(blocks * 512, 512, 1 << 25)].concat();
    let answers: Vec<u8> = (0..answers).flat_map(|cookie| status(1, cookie, 0, &[extent])).collect();
    serve([hello, answers].concat())
}

#[test]
fn an_answer_that_ends_inside_a_block_is_no_circle() {
    let (_dir, uri) = disk_of(64, 1000, (100, 3));
    let stop = AtomicBool::new(false);
    let mut disk = NbdDisk::open(&uri, None, &stop).unwrap();
    let found = disk.next_data(0..64 * 512).unwrap().unwrap();
    assert!(found.start <= 100 && found.end == 64 * 512, "{found:?}");
}

#[test]
fn questions_about_zeros_end_when_the_ingest_is_stopped() {
    let stop = AtomicBool::new(false);
    let (_dir, uri) = disk_of(64, 1, (512, 3));
    let mut disk = NbdDisk::open(&uri, None, &stop).unwrap();
    assert_eq!(disk.next_data(0..512).unwrap(), None);
    stop.store(true, Relaxed);
    // The server has no more answers: who asks waits for a minute.
    assert_eq!(disk.next_data(0..64 * 512).unwrap_err().kind(), ErrorKind::Interrupted);
}
