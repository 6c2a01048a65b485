//! Keys of values: every kind of value that serde knows has distinct keys.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::convert::Infallible;

use groupcache_core::Key;
use serde::{Deserialize, Serialize, Serializer};

use crate::*;

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

/// Two types whose fields are alike.
#[derive(Serialize)]
struct UserKey {
    id: u32,
}

#[derive(Serialize)]
struct OrderKey {
    id: u32,
}

#[test]
fn keys_of_two_types_differ() {
    assert_ne!(Key::of(&UserKey { id: 1 }).unwrap(), Key::of(&OrderKey { id: 1 }).unwrap());
    #[derive(Serialize)]
    enum One {
        Of(u8),
    }
    #[derive(Serialize)]
    enum Other {
        Of(u8),
    }
    assert_ne!(Key::of(&One::Of(1)).unwrap(), Key::of(&Other::Of(1)).unwrap());
    #[derive(Serialize)]
    #[serde(rename = "UserKey")]
    struct Renamed {
        id: u64,
    }
    assert_eq!(Key::of(&UserKey { id: 1 }).unwrap(), Key::of(&Renamed { id: 1 }).unwrap());
}

/// With equal groups, an order was decoded as a user.
#[tokio::test]
async fn a_value_is_not_found_under_the_key_of_another_type() {
    #[derive(Serialize, Deserialize)]
    struct Order {
        id: u32,
        total: u32,
    }
    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct User {
        id: u32,
        #[serde(default)]
        name: String,
    }
    let cache = memory();
    let order = async || Ok::<_, Infallible>(Order { id: 1, total: 9 });
    cache.get_or_load(&OrderKey { id: 1 }, Groups::none(), order).await.unwrap();
    let user = async || Ok::<_, Infallible>(User { id: 1, name: "Ann".into() });
    let user = cache.get_or_load(&UserKey { id: 1 }, Groups::none(), user).await.unwrap();
    assert_eq!(user.name, "Ann");
}

#[test]
fn a_named_key_is_that_of_no_other_name_and_of_no_value() {
    let named = Key::named("page", &5).unwrap();
    assert_ne!(named, Key::named("pages", &5).unwrap());
    assert_ne!(named, Key::of(&("page", 5)).unwrap());
    #[derive(Serialize)]
    #[serde(rename = "page")]
    struct Page(u8);
    assert_ne!(named, Key::of(&Page(5)).unwrap());
    assert_eq!(named, Key::named("page", &5_u64).unwrap());
}

#[test]
fn a_hash_set_is_one_key_in_any_order_of_iteration() {
    #[derive(Serialize)]
    struct Filter {
        tags: HashSet<String>,
    }
    let tags = || (0..20).map(|tag| tag.to_string()).collect::<HashSet<String>>();
    let filter = || Key::of(&("filter", Filter { tags: tags() })).unwrap();
    assert_eq!(filter(), filter());
    assert_eq!(Key::of(&tags()).unwrap(), Key::of(&tags()).unwrap());
    assert_eq!(Key::of(&Some(&tags())).unwrap(), Key::of(&Some(&tags())).unwrap());
    #[derive(Serialize)]
    struct Tags(HashSet<String>);
    let sets = || Key::of(&[Tags(tags()), Tags(HashSet::new())]).unwrap();
    assert_eq!(sets(), sets());
    // A list is another key in another order.
    assert_ne!(Key::of(&[1, 2]).unwrap(), Key::of(&[2, 1]).unwrap());
}
