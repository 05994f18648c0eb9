//! Lists as their producers write them, and everything that is nearly one.

use super::*;
use crate::ingest::image::tests::corpus;
use proptest::prelude::*;

const MIB: u64 = 1 << 20;

fn ranges(list: &ExtentList) -> Vec<(u64, u64, bool)> {
    list.ranges.iter().map(|range| (range.offset, range.len, range.zero)).collect()
}

fn ours(changed: &str) -> Vec<u8> {
    format!(r#"{{"format": "relict-extents-1", "base": "mon", "size": 1000, "changed": [{changed}]}}"#).into_bytes()
}

#[test]
fn our_own_lists() {
    let list = parse(&ours(
        r#"{"offset": 0, "length": 10}, {"length": 5, "offset": 10}, {"offset": 15, "length": 985, "zero": true}"#,
    ))
    .unwrap();
    assert_eq!((list.base.as_deref(), list.size), (Some(&b"mon"[..]), Some(1000)));
    assert_eq!(ranges(&list), [(0, 15, false), (15, 985, true)]);
    assert_eq!(parse(&ours("")).unwrap().ranges, []);
}

#[test]
fn lists_that_are_refused() {
    let cases: [(Vec<u8>, &str); 12] = [
        (ours(r#"{"offset": 10, "length": 5}, {"offset": 14, "length": 5}"#), "the range at 14 begins before the end of the one before, 15"),
        (ours(r#"{"offset": 10, "length": 0}"#), "the range at 10 has no bytes"),
        (ours(r#"{"offset": 18446744073709551615, "length": 1}"#), "a range of 1 bytes at 18446744073709551615 is beyond any disk"),
        (ours(r#"{"offset": 999, "length": 2}"#), "the list of changed extents goes to 1001; the disk has 1000 bytes"),
        (ours(r#"{"offset": -1, "length": 2}"#), "the list of changed extents is not valid: "),
        (ours(r#"{"offset": 1, "length": 2, "zeros": true}"#), "the list of changed extents is not valid: unknown field `zeros`"),
        (ours(r#"{"offset": 1}"#), "the list of changed extents is not valid: missing field `length`"),
        ([ours(""), b"x".to_vec()].concat(), "the list of changed extents is not valid: trailing characters"),
        (br#"{"format": "x", "base": "mon", "size": 1, "changed": []}"#.to_vec(), "the list of changed extents is not in the format relict-extents-1"),
        (br#"[{"start": 0, "length": 5, "depth": 0, "zero": false}, {"start": 6, "length": 5, "depth": 0, "zero": false}]"#.to_vec(), "the map of qemu-img has a gap before 6"),
        (b"extents".to_vec(), "it is no list of changed extents: neither JSON nor thin_delta's XML"),
        (Vec::new(), "it is no list of changed extents: neither JSON nor thin_delta's XML"),
    ];
    for (text, message) in cases {
        let said = parse(&text).unwrap_err().to_string();
        assert!(said.starts_with(message), "{said}\nand not: {message}");
    }
}

#[test]
fn the_map_of_an_overlay() {
    let text = br#"[{ "start": 0, "length": 65536, "depth": 0, "present": true, "zero": false, "data": true, "compressed": false, "offset": 327680},
        { "start": 65536, "length": 65536, "depth": 1, "present": true, "zero": false, "data": true, "compressed": false, "offset": 0},
        { "start": 131072, "length": 100, "depth": 0, "present": true, "zero": true, "data": false, "compressed": false}]"#;
    let list = parse(text).unwrap();
    assert_eq!((list.size, &list.base), (Some(131_172), &None));
    assert_eq!(ranges(&list), [(0, 65536, false), (131_072, 100, true)]);
}

#[test]
fn real_maps_and_deltas() {
    let Some(corpus) = corpus("thin") else { return };
    let map = parse(&std::fs::read(corpus.join("qcow2-s11/step0.map.json")).unwrap()).unwrap();
    assert_eq!(map.size, Some(16 * MIB));
    assert_eq!(map.ranges.iter().map(|range| range.len).sum::<u64>(), 16 * MIB);
    let block = 64 * 1024;
    for name in ["delta.xml", "delta-verbose.xml"] {
        let list = parse(&std::fs::read(corpus.join("thin").join(name)).unwrap()).unwrap();
        assert_eq!((list.base.as_deref(), list.size), (Some(&b"1"[..]), None));
        assert_eq!(
            ranges(&list),
            [(5 * block, 3 * block, false), (28 * block, 2 * block, true), (200 * block, 5 * block, false)]
        );
    }
    for name in ["dump.xml", "meta.xml"] {
        assert!(parse(&std::fs::read(corpus.join("thin").join(name)).unwrap()).is_err(), "{name} is no delta");
    }
}

fn thin(inner: &str) -> Vec<u8> {
    format!(r#"<superblock data_block_size="128"><diff left="1" right="2">{inner}</diff></superblock>"#).into_bytes()
}

#[test]
fn deltas_that_are_refused() {
    assert_eq!(parse(&thin("")).unwrap().ranges, []);
    for wrong in [
        thin(r#"<different begin="5"/>"#),
        thin(r#"<different begin="5" length="+1"/>"#),
        thin(r#"<different begin="5" length="0"/>"#),
        thin(r#"<different begin="140737488355328" length="1"/>"#),
        thin(r#"<different begin="18446744073709551616" length="1"/>"#),
        thin(r#"<same begin="0" length="9"/><different begin="5" length="1"/>"#),
        thin(r#"<unknown begin="0" length="9"/>"#),
        thin(r#"<range begin="0" length="9"/>"#),
        thin(r#"<same><same begin="0" length="9"/></same>"#),
        thin("x"),
        thin("&amp;"),
        thin("</diff><diff left=\"1\" right=\"2\">"),
        b"<superblock data_block_size=\"128\">".to_vec(),
        b"<superblock data_block_size=\"128\"></superblock>".to_vec(),
        b"<superblock data_block_size=\"100\"><diff left=\"1\" right=\"2\"/></superblock>".to_vec(),
        b"<superblock data_block_size=\"2097280\"><diff left=\"1\" right=\"2\"/></superblock>".to_vec(),
        b"<superblock><diff left=\"1\" right=\"2\"/></superblock>".to_vec(),
        b"<superblock data_block_size=\"128\"><diff left=\"x\" right=\"2\"/></superblock>".to_vec(),
        b"<diff left=\"1\" right=\"2\"/>".to_vec(),
        [thin(""), thin("")].concat(),
        b"<!DOCTYPE x [<!ENTITY a \"b\">]><superblock data_block_size=\"128\"><diff left=\"1\" right=\"2\"/></superblock>".to_vec(),
        thin("")[..60].to_vec(),
    ] {
        assert!(parse(&wrong).is_err(), "{}", String::from_utf8_lossy(&wrong));
    }
}

/// What every list keeps, however it came about.
fn holds(list: &ExtentList) {
    for pair in list.ranges.windows(2) {
        assert!(pair[0].offset + pair[0].len <= pair[1].offset, "{pair:?}");
    }
    assert!(list.ranges.iter().all(|range| range.len > 0 && range.offset + range.len <= MAX_FILE_BYTES));
}

proptest! {
    #[test]
    fn no_bytes_make_a_parser_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), front in 0..4_usize) {
        let fronts = ["", "{", "[{\"start\":", "<superblock data_block_size=\"128\"><diff left=\"1\" right=\"2\"><same "];
        if let Ok(list) = parse(&[fronts[front].as_bytes(), &bytes].concat()) {
            holds(&list);
        }
    }

    #[test]
    fn a_damaged_list_is_refused_or_still_a_list(at in 0..500_usize, bit in 0..8_u32, cut in 0..500_usize, kind in 0..2_u8) {
        let good = if kind == 0 {
            ours(r#"{"offset": 10, "length": 5}, {"offset": 20, "length": 5, "zero": true}"#)
        } else {
            thin(r#"<same begin="0" length="5"/><different begin="5" length="3"/><left_only begin="28" length="2"/>"#)
        };
        let mut flipped = good.clone();
        let place = at % flipped.len();
        flipped[place] ^= 1 << bit;
        if let Ok(list) = parse(&flipped) {
            holds(&list);
        }
        prop_assert!(parse(&good[..cut % good.len()]).is_err());
    }
}
