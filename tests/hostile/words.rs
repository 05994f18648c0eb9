//! Names, hosts, tags, notes and messages that would give orders to a terminal: they are shown, in a pipe and on a terminal,
//! as what they are.

use super::forge::{Forge, dir, extent, file, name, target, xattr};
use super::trial::{command, survives};
use repo_format::{ChunkId, Extent, FileKind, ROOT_INO};
use std::process::{Command, Stdio};

/// Clears the screen, sets the title, asks the terminal to answer, and what else is no text: C1 in UTF-8 and alone, a
/// right-to-left override, line ends, a bell, bytes that are no UTF-8.
const ORDERS: &[u8] = b"\x1b[2J\x1b]0;owned\x07\x1b[6n\xc2\x9b31m\x9b\xe2\x80\xae\r\nline\x08\x7f\xff";

fn forge() -> Forge {
    let mut forge = Forge::new();
    let mut entries = vec![
        dir(ROOT_INO, 3),
        name(ROOT_INO, ORDERS, 2, FileKind::File),
        file(2, 6),
        forge.content(2, 0, b"hidden"),
        xattr(2, &[b"user.", ORDERS].concat(), ORDERS),
        name(ROOT_INO, &[ORDERS, b"d"].concat(), 3, FileKind::Dir),
        dir(3, 2),
        name(3, ORDERS, 4, FileKind::Symlink),
        // Content that is not there, so that its name is in errors.
        name(3, &[ORDERS, b"lost"].concat(), 5, FileKind::File),
        file(5, 9),
        extent(5, 0, Extent { skip: 0, len: 9, chunk: ChunkId([4; 32]) }),
        // An inode that is not there, and an attribute that cannot be set.
        name(3, &[ORDERS, b"none"].concat(), 6, FileKind::File),
        xattr(3, &[b"nonsense", ORDERS].concat(), b"v"),
    ];
    entries.extend(target(4, ORDERS));
    let root = forge.tree(entries);
    for n in 0..2 {
        let older = forge.tree(vec![dir(ROOT_INO, 2), name(ROOT_INO, b"was", 2, FileKind::File), file(2, 0)]);
        forge.seal(if n == 0 { older } else { root }, |point| {
            point.host = ORDERS.to_vec();
            point.source = ORDERS.to_vec();
            point.tags = vec![ORDERS.to_vec()];
            point.notes = vec![ORDERS.to_vec()];
            point.paths = vec![ORDERS.to_vec()];
            point.program = ORDERS.to_vec();
        });
    }
    forge
}

#[test]
fn orders_to_a_terminal_in_a_pipe() {
    let (checked, said) = survives(&mut forge());
    assert_eq!(checked.code, Some(1), "{said}");
    // They are shown, and not left out.
    assert!(said.contains("\\x1b[2J") && said.contains("owned"), "{said}");
}

#[test]
fn orders_to_a_terminal_on_a_terminal() {
    let mut forge = forge();
    forge.close();
    let out = forge.path("out");
    let lines = [
        "relict snapshots".to_owned(),
        "relict ls -lR latest".to_owned(),
        "relict find --all *".to_owned(),
        "relict diff latest~1 latest".to_owned(),
        format!("relict restore latest -t {}", out.display()),
        "relict-maint check --read-data".to_owned(),
        "relict-maint stats".to_owned(),
        "relict-maint health".to_owned(),
        "relict-maint forget --keep-last 1 --dry-run".to_owned(),
        "relict-maint repair --dry-run".to_owned(),
    ];
    for line in lines {
        // script(1) gives the command a terminal of its own.
        let plain = command(&forge, &line);
        let words: Vec<_> = plain.get_args().map(|word| format!("'{}'", word.to_string_lossy())).collect();
        let mut script = Command::new("script");
        script.args(["-q", "-e", "-c", &format!("timeout {}", words.join(" ")), "/dev/null"]).stdin(Stdio::null());
        script.envs(plain.get_envs().filter_map(|(key, value)| Some((key, value?)))).env("TERM", "xterm");
        let output = script.output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(matches!(output.status.code(), Some(0 | 1 | 3)), "{line}: {} {text}", output.status);
        // Progress bars draw with control sequences of their own; what names would do must not be among them.
        for order in ["\x1b[2J", "\x1b]0;", "\x1b[6n", "\x07", "\u{9b}", "\u{202e}", "\x08"] {
            assert!(!text.contains(order), "{line} sends {order:?}: {text:?}");
        }
        // Alone it is the same order on terminals that do not know UTF-8; as a part of a letter it is none.
        assert!(!text.contains(char::REPLACEMENT_CHARACTER), "{line} sends bytes that are no text: {text:?}");
    }
}
