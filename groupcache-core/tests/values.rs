//! Values come back as they were loaded, or are refused.

#![allow(clippy::unwrap_used, reason = "a test that panics has failed, as it should")]

use std::collections::{BTreeMap, HashMap, HashSet};
use std::convert::Infallible;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use groupcache_core::{Backend, Cache, Entry, Error, ErrorKind, Group, Groups, Key, Stats};
use groupcache_memory::MemoryBackend;
use proptest::prelude::*;
use serde::de::{DeserializeOwned, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

fn memory() -> Cache<MemoryBackend> {
    Cache::builder(MemoryBackend::with_max_bytes(1 << 20)).build()
}

fn run<T>(test: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test)
}

/// Loads `value`, and returns what the next reader gets, if it is a hit.
async fn hit_after<T>(value: T) -> Option<T>
where
    T: Serialize + DeserializeOwned + Send,
{
    let cache = memory();
    let group = || Groups::from(Group::new("g"));
    cache.get_or_load("k", group(), || async { Ok::<_, Infallible>(value) }).await.unwrap();
    cache.get("k", group()).await
}

async fn comes_back<T>(value: T)
where
    T: Serialize + DeserializeOwned + Send + Clone + PartialEq + fmt::Debug,
{
    assert_eq!(hit_after(value.clone()).await, Some(value));
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type")]
enum Event {
    Login { ip: IpAddr },
    Logout,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Flat {
    id: u8,
    #[serde(flatten)]
    kind: Kind,
    #[serde(flatten)]
    rest: HashMap<String, IpAddr>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
enum Kind {
    Unit,
    New(Option<Option<u8>>),
    Pair(i8, char),
    Named { a: (), b: f32 },
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
enum Untagged {
    Number(i64),
    Text(String),
    Kinds(Vec<Kind>),
    By(BTreeMap<u8, Option<()>>),
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "t", content = "c")]
enum Adjacent {
    Unit,
    New(Option<()>),
    Named { ip: IpAddr, wide: i128 },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Nothing;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct New(Option<Nothing>);

#[derive(Debug, Clone, PartialEq)]
struct Bytes(Vec<u8>);

impl Serialize for Bytes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct BytesVisitor;
        impl Visitor<'_> for BytesVisitor {
            type Value = Bytes;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("bytes")
            }
            fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Bytes, E> {
                Ok(Bytes(bytes.to_vec()))
            }
        }
        deserializer.deserialize_byte_buf(BytesVisitor)
    }
}

/// A number that is equal to itself, NaN included.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Float(f64);

impl PartialEq for Float {
    fn eq(&self, other: &Self) -> bool {
        self.0.to_bits() == other.0.to_bits()
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Scalars {
    nested: Option<Option<Option<u8>>>,
    unit: Option<()>,
    new: New,
    small: i8,
    natural: u64,
    integer: i64,
    wide: i128,
    wider: u128,
    float: Float,
    text: String,
    letter: char,
    bytes: Bytes,
    octets: Vec<u8>,
    time: Duration,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Compounds {
    scalars: Vec<Scalars>,
    event: Event,
    kind: Kind,
    untagged: Untagged,
    adjacent: Option<Adjacent>,
    json: Option<serde_json::Value>,
    result: Result<u8, String>,
    by_pair: BTreeMap<(i32, char), Vec<Option<()>>>,
    by_number: HashMap<i64, String>,
    set: HashSet<u32>,
    sets: BTreeMap<u8, HashSet<String>>,
}

fn scalars() -> impl Strategy<Value = Scalars> {
    let numbers = (any::<i8>(), any::<u64>(), any::<i64>(), any::<i128>(), any::<u128>(), any::<u64>());
    let options = (any::<Option<Option<Option<u8>>>>(), any::<Option<()>>(), any::<bool>());
    let texts = (any::<String>(), any::<char>(), any::<Vec<u8>>(), any::<Vec<u8>>(), any::<Duration>());
    (numbers, options, texts).prop_map(|(numbers, (nested, unit, is_new), texts)| {
        let (small, natural, integer, wide, wider, bits) = numbers;
        let (text, letter, bytes, octets, time) = texts;
        Scalars {
            nested,
            unit,
            new: New(is_new.then_some(Nothing)),
            small,
            natural,
            integer,
            wide,
            wider,
            float: Float(f64::from_bits(bits)),
            text,
            letter,
            bytes: Bytes(bytes),
            octets,
            time,
        }
    })
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![any::<IpAddr>().prop_map(|ip| Event::Login { ip }), Just(Event::Logout)]
}

fn kind() -> impl Strategy<Value = Kind> {
    prop_oneof![
        Just(Kind::Unit),
        any::<Option<Option<u8>>>().prop_map(Kind::New),
        any::<(i8, char)>().prop_map(|(one, other)| Kind::Pair(one, other)),
        (-1000..1000_i16).prop_map(|number| Kind::Named { a: (), b: f32::from(number) / 3.0 }),
    ]
}

fn untagged() -> impl Strategy<Value = Untagged> {
    prop_oneof![
        any::<i64>().prop_map(Untagged::Number),
        any::<String>().prop_map(Untagged::Text),
        prop::collection::vec(kind(), 0..3).prop_map(Untagged::Kinds),
        prop::collection::btree_map(any::<u8>(), any::<Option<()>>(), 0..3).prop_map(Untagged::By),
    ]
}

fn adjacent() -> impl Strategy<Value = Adjacent> {
    prop_oneof![
        Just(Adjacent::Unit),
        any::<Option<()>>().prop_map(Adjacent::New),
        any::<(IpAddr, i128)>().prop_map(|(ip, wide)| Adjacent::Named { ip, wide }),
    ]
}

fn json() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(serde_json::Value::from),
        any::<i64>().prop_map(serde_json::Value::from),
        any::<u64>().prop_map(serde_json::Value::from),
        (-1e9..1e9).prop_map(serde_json::Value::from),
        any::<String>().prop_map(serde_json::Value::from),
    ];
    leaf.prop_recursive(3, 12, 3, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3).prop_map(serde_json::Value::from),
            prop::collection::hash_map("[a-z]{0,2}", inner, 0..3)
                .prop_map(|map| serde_json::Value::Object(map.into_iter().collect())),
        ]
    })
}

fn compounds() -> impl Strategy<Value = Compounds> {
    let enums = (event(), kind(), untagged(), prop::option::of(adjacent()), any::<Result<u8, String>>());
    let by_pair = prop::collection::btree_map(any::<(i32, char)>(), any::<Vec<Option<()>>>(), 0..3);
    let by_number = prop::collection::hash_map(any::<i64>(), any::<String>(), 0..5);
    let set = prop::collection::hash_set(any::<u32>(), 0..9);
    let sets = prop::collection::btree_map(any::<u8>(), any::<HashSet<String>>(), 0..3);
    let rest = (prop::collection::vec(scalars(), 0..3), prop::option::of(json()));
    (enums, (by_pair, by_number, set, sets), rest).prop_map(
        |(enums, (by_pair, by_number, set, sets), rest)| {
            let (event, kind, untagged, adjacent, result) = enums;
            let (scalars, json) = rest;
            Compounds {
                scalars,
                event,
                kind,
                untagged,
                adjacent,
                json,
                result,
                by_pair,
                by_number,
                set,
                sets,
            }
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(256) })]

    #[test]
    fn a_hit_is_what_was_loaded(value in compounds()) {
        prop_assert_eq!(run(hit_after(value.clone())), Some(value));
    }

    #[test]
    fn a_flattened_value_is_a_hit(id: u8, kind in kind(), ips in prop::collection::hash_map("[a-z]", any::<IpAddr>(), 0..4)) {
        // A unit variant cannot be flattened, in any format.
        prop_assume!(kind != Kind::Unit);
        let value = Flat { id, kind, rest: ips };
        prop_assert_eq!(run(hit_after(value.clone())), Some(value));
    }
}

#[tokio::test]
async fn what_is_some_stays_some_whatever_is_in_it() {
    comes_back(Some(())).await;
    comes_back(Some(serde_json::Value::Null)).await;
    comes_back(Some(None::<u8>)).await;
    comes_back(None::<Option<u8>>).await;
    comes_back(Some(Some(None::<u8>))).await;
    comes_back(Some(New(None))).await;
    let cache = memory();
    for _ in 0..2 {
        let exists = || async { Ok::<_, Infallible>(Some(())) };
        assert_eq!(cache.get_or_load_optional("k", Groups::none(), exists).await, Ok(Some(())));
    }
    assert_eq!(cache.stats().hits, 1);
}

#[tokio::test]
async fn an_address_in_a_tagged_enum_is_a_hit() {
    comes_back(Event::Login { ip: [1, 2, 3, 4].into() }).await;
    comes_back(Event::Logout).await;
}

/// An untagged enum whose second variant is read as its first one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
enum Ambiguous {
    Small(u8),
    Large(u32),
}

/// A type that cannot be read where it has left out its field.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct LeftOut {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tags: Vec<u8>,
}

async fn refused<T>(value: T) -> Stats
where
    T: Serialize + DeserializeOwned + Send + Sync + Clone + PartialEq + fmt::Debug,
{
    let cache = memory();
    for _ in 0..3 {
        let load = || async { Ok::<_, Infallible>(value.clone()) };
        assert_eq!(cache.get_or_load("k", Groups::none(), load).await.unwrap(), value);
    }
    cache.stats()
}

#[tokio::test]
async fn a_value_that_would_be_another_one_at_a_hit_is_served_and_not_stored() {
    comes_back(Ambiguous::Small(1)).await;
    let stats = refused(Ambiguous::Large(1)).await;
    assert_eq!((stats.loads, stats.loads_not_stored, stats.values_refused, stats.stores), (3, 3, 3, 0));
    comes_back(Ambiguous::Large(1000)).await;
    comes_back(LeftOut { tags: vec![1] }).await;
    assert_eq!(refused(LeftOut { tags: Vec::new() }).await.values_refused, 3);
    // serde itself cannot read such a number in a tagged enum.
    #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
    #[serde(tag = "type")]
    enum Wide {
        Wide { number: i128 },
    }
    assert_eq!(refused(Wide::Wide { number: i128::MIN }).await.values_refused, 3);
}

#[tokio::test]
async fn a_value_that_is_nested_too_deeply_is_refused_and_overflows_no_stack() {
    #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
    struct Chain(Option<Box<Self>>);
    let chain = |length| (0..length).fold(Chain(None), |chain, _| Chain(Some(Box::new(chain))));
    comes_back(chain(256)).await;
    assert_eq!(refused(chain(257)).await.values_refused, 3);
}

#[tokio::test]
async fn an_insert_of_a_value_that_is_refused_says_why() {
    let cache = memory();
    let insert = |value| cache.insert("k", Groups::none(), async move || Ok::<_, Error>(value));
    let error = insert(Ambiguous::Large(1)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Encode);
    assert!(error.to_string().contains("is decoded as another value"), "{error}");
    let error = cache.insert("k", Groups::none(), async || Ok::<_, Error>(LeftOut { tags: vec![] })).await;
    assert!(error.unwrap_err().to_string().contains("missing field `tags`"));
}

/// Counts the warnings that contain a text.
struct Warnings(&'static str, Arc<AtomicU32>);

impl tracing::Subscriber for Warnings {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        *metadata.level() == tracing::Level::WARN
    }
    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }
    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}
    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
    fn event(&self, event: &tracing::Event<'_>) {
        struct Text(String);
        impl tracing::field::Visit for Text {
            fn record_debug(&mut self, _: &tracing::field::Field, value: &dyn fmt::Debug) {
                self.0 += &format!("{value:?} ");
            }
        }
        let mut text = Text(String::new());
        event.record(&mut text);
        if text.0.contains(self.0) {
            self.1.fetch_add(1, Ordering::Relaxed);
        }
    }
    fn enter(&self, _: &tracing::span::Id) {}
    fn exit(&self, _: &tracing::span::Id) {}
}

#[tokio::test]
async fn the_first_refusal_of_a_type_is_logged() {
    #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
    struct Logged(LeftOut);
    let warnings = Arc::new(AtomicU32::new(0));
    let _guard = tracing::subscriber::set_default(Warnings("missing field `tags`", Arc::clone(&warnings)));
    for _ in 0..2 {
        refused(Logged(LeftOut { tags: Vec::new() })).await;
    }
    assert_eq!(warnings.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn what_an_older_release_stored_is_a_counted_miss() {
    let cache = memory();
    let (key, groups) = (Key::of("k").unwrap(), Groups::none());
    // `Some(7)`, `None` and a struct as MessagePack, which values were stored as.
    for body in [&[0x07][..], &[0xc0], &[0x81, 0xa2, b'i', b'd', 0x07]] {
        let entry = Entry::new(key.clone(), groups.clone(), Default::default(), body.into(), Duration::ZERO);
        cache.backend().store(&Arc::new(entry), None).await.unwrap();
        assert_eq!(cache.get::<Option<u8>, _, _>("k", Groups::none()).await, None);
    }
    assert_eq!(cache.stats().misses_undecodable, 3);
}
