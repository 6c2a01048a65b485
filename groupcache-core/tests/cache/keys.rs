//! Keys of values: every kind of value that serde knows has distinct keys.

use std::collections::{BTreeMap, HashMap, HashSet};

use groupcache_core::Key;
use serde::{Serialize, Serializer};

#[derive(Serialize)]
struct Unit;
#[derive(Serialize)]
struct New(i32);
#[derive(Serialize)]
struct Pair(i32, i32);
#[derive(Serialize)]
struct Named {
    b: i32,
    a: i32,
}
#[derive(Serialize)]
enum Variants {
    Unit,
    New(i32),
    Pair(i32, i32),
    Named { b: i32, a: i32 },
}

struct Bytes(&'static [u8]);

impl Serialize for Bytes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(self.0)
    }
}

fn key<T: Serialize + ?Sized>(value: &T) -> Vec<u8> {
    Key::of(value).unwrap().as_bytes().to_vec()
}

fn named<T: Serialize + ?Sized>(name: &str, value: &T) -> Vec<u8> {
    Key::named(name, value).unwrap().as_bytes().to_vec()
}

/// No two are equal, and none changes from release to release.
#[test]
fn values_of_every_kind_have_distinct_keys() {
    let half = 0.5_f64.to_bits().to_be_bytes();
    let golden: &[(Vec<u8>, &[u8])] = &[
        (key(&()), b"\x01"),
        (key(&None::<i32>), b"\x02"),
        (key(&Some(())), b"\x03\x01"),
        (key(&false), b"\x04"),
        (key(&true), b"\x05"),
        (key(&300), b"\x06\xac\x02"),
        (key(&-1), b"\x07\x00"),
        (key(&-300_i64), b"\x07\xab\x02"),
        (key(&0.5), &[b"\x08", &half[..]].concat()),
        (key(&'é'), b"\x09\xe9\x01"),
        (key("é"), b"\x0a\x02\xc3\xa9"),
        (key(&Bytes(b"\xc3\xa9")), b"\x0b\x02\xc3\xa9"),
        (key(&[1, 2]), b"\x0c\x06\x01\x06\x02\x00"),
        (key(&Named { b: 1, a: 2 }), b"\x0f\x05Named\x0d\x0a\x01a\x06\x02\x0a\x01b\x06\x01\x00"),
        (key(&BTreeMap::from([(1, "x")])), b"\x0d\x06\x01\x0a\x01x\x00"),
        (key(&Unit), b"\x0f\x04Unit\x01"),
        (key(&New(1)), b"\x0f\x03New\x06\x01"),
        (key(&Pair(1, 2)), b"\x0f\x04Pair\x0c\x06\x01\x06\x02\x00"),
        (key(&HashSet::from([300, 1])), b"\x0c\x06\x01\x06\xac\x02\x00"),
        (named("New", &1), b"\x10\x03New\x06\x01"),
        (key(&Variants::Unit), b"\x0f\x08Variants\x0e\x04Unit\x01"),
        (key(&Variants::New(1)), b"\x0f\x08Variants\x0e\x03New\x06\x01"),
        (key(&Variants::Pair(1, 2)), b"\x0f\x08Variants\x0e\x04Pair\x0c\x06\x01\x06\x02\x00"),
        (
            key(&Variants::Named { b: 1, a: 2 }),
            b"\x0f\x08Variants\x0e\x05Named\x0d\x0a\x01a\x06\x02\x0a\x01b\x06\x01\x00",
        ),
    ];
    for (at, (key, expected)) in golden.iter().enumerate() {
        assert_eq!(key.escape_ascii().to_string(), expected.escape_ascii().to_string());
        assert!(golden[..at].iter().all(|(other, _)| other != key));
    }
}

/// Widths of numbers, and the order of fields and entries, do not count.
#[test]
fn equal_values_have_equal_keys() {
    assert_eq!(key(&(1, 2)), key(&vec![1, 2]));
    assert_eq!(key(&1_u8), key(&1_i128));
    assert_eq!(key(&0.5_f32), key(&0.5_f64));
    assert_eq!(key(&HashMap::from([("b", 1), ("a", 2)])), key(&BTreeMap::from([("a", 2), ("b", 1)])));
    assert_eq!(key(&Some(1_u8)), key(&Some(1_u64)));
}

/// Encodes a key while another key is being encoded.
#[test]
fn a_value_that_makes_keys_while_it_is_serialized_has_its_own_key() {
    struct NestedRead;
    impl Serialize for NestedRead {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            serializer.serialize_str(&format!("{:?}", Key::of("inner").map_err(serde::ser::Error::custom)?))
        }
    }
    let inner = format!("{:?}", Key::of("inner").unwrap());
    assert_eq!(key(&("outer", NestedRead)), key(&("outer", &*inner)));
}

#[test]
fn the_error_of_a_value_without_a_key_has_the_reason() {
    struct Broken;
    impl Serialize for Broken {
        fn serialize<S: Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
            Err(serde::ser::Error::custom("it is broken"))
        }
    }
    let error = Key::of(&Broken).unwrap_err();
    assert!(error.to_string().contains("it is broken"), "{error}");
}
