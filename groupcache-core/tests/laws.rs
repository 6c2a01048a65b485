//! The key strategies and invalidators of this crate obey the laws.

#![allow(clippy::unwrap_used, reason = "a test that panics has failed, as it should")]

use std::collections::BTreeMap;

use groupcache_conformance::{laws, scale, seeds};
use groupcache_core::{
    BoxInvalidator, ByArguments, ByModel, ByModels, ByTag, Cache, Key, KeyStrategy, Model, NamedCall,
};
use groupcache_memory::MemoryBackend;
use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Book {
    id: i64,
    author_id: Option<u32>,
    language: String,
    sold: bool,
}

impl Model for Book {
    const NAME: &'static str = "book";
    const GROUPS: &'static [&'static [&'static str]] =
        &[&["id"], &["author_id"], &["language", "sold"], &["language"]];
}

fn call(name: &str, arguments: &BTreeMap<String, String>) -> NamedCall {
    let start = NamedCall::new(name.to_owned());
    arguments.iter().fold(start, |call, (name, value)| call.with(name.clone(), value))
}

/// A nested value of any kind that serde knows.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
enum Tree {
    Nothing,
    Truth(bool),
    Number(i64),
    Text(String),
    List(Vec<Self>),
    Map(BTreeMap<String, Self>),
    Maybe(Option<Box<Self>>),
}

fn tree() -> impl Strategy<Value = Tree> {
    let leaf = prop_oneof![
        Just(Tree::Nothing),
        any::<bool>().prop_map(Tree::Truth),
        (-3..3_i64).prop_map(Tree::Number),
        "[ab:{}]{0,3}".prop_map(Tree::Text),
    ];
    leaf.prop_recursive(3, 12, 3, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3).prop_map(Tree::List),
            prop::collection::btree_map("[ab]{0,2}", inner.clone(), 0..3).prop_map(Tree::Map),
            prop::option::of(inner.prop_map(Box::new)).prop_map(Tree::Maybe),
        ]
    })
}

fn arguments() -> impl Strategy<Value = BTreeMap<String, String>> {
    prop::collection::btree_map("[ab=&]{0,2}", "[ab=&5]{0,2}", 0..4)
}

/// The test harness shows the line that this prints if the test fails.
fn from_a_seed() -> ProptestConfig {
    let seed = seeds(2).pop().unwrap_or_default();
    println!("repeat with `GROUPCACHE_TEST_SEED={seed} cargo test -p groupcache-core --test laws`");
    let cases = 4000 * u32::try_from(scale()).unwrap();
    ProptestConfig { cases, rng_seed: RngSeed::Fixed(seed), ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(from_a_seed())]

    #[test]
    fn structured_keys_are_equal_exactly_if_their_values_are(one in tree(), other in tree()) {
        prop_assert_eq!(Key::of(&one).unwrap() == Key::of(&other).unwrap(), one == other);
        // In a pair, the end of one must not merge with the start of the other.
        let (there, back) = (Key::of(&(&one, &other)).unwrap(), Key::of(&(&other, &one)).unwrap());
        prop_assert_eq!(there == back, one == other);
    }

    #[test]
    fn calls_have_one_key_exactly_if_they_are_equal(
        names in ("[ab=]{0,2}", "[ab=]{0,2}"), one in arguments(), other in arguments(),
    ) {
        let calls = [call(&names.0, &one), call(&names.1, &other)];
        let differ = calls[0] != calls[1];
        prop_assert_eq!(laws::injective(&ByArguments::all(), &calls).is_ok(), differ);
        laws::deterministic(&ByArguments::all(), &calls, Clone::clone).unwrap();
        laws::deterministic(&ByTag::new("t"), &calls, Clone::clone).unwrap();
        // The key has all arguments, whichever of them make up the group.
        prop_assert_eq!(laws::injective(&ByTag::new("t"), &calls).is_ok(), differ);
    }

    #[test]
    fn groups_by_arguments_are_equal_exactly_if_the_arguments_are(
        one in arguments(), other in arguments(),
    ) {
        let groups = |of: &BTreeMap<_, _>| ByArguments::all().groups(&call("view", of)).unwrap();
        prop_assert_eq!(groups(&one) == groups(&other), one == other);
    }

    #[test]
    fn a_change_of_a_row_invalidates_the_groups_of_its_pages(
        id in any::<i64>(), author_id in prop::option::of(any::<u32>()), language in ".{0,5}", sold in any::<bool>(),
    ) {
        let row = Book { id, author_id, language, sold };
        let page = NamedCall::new("book").with("id", id).with("format", "html");
        laws::consistent(&ByModel::<Book>::new().on(["id"]), &page, &row).unwrap();
        // The same number with a sign and a leading zero.
        let padded = NamedCall::new("book").with("number", format!("{}0{}", if id < 0 { "-" } else { "+" },
            id.unsigned_abs()));
        laws::consistent(&ByModel::<Book>::new().rename("number", "id"), &padded, &row).unwrap();
        if let Some(author) = author_id {
            let page = NamedCall::new("author").with("author", author);
            laws::consistent(&ByModel::<Book>::new().rename("author", "author_id"), &page, &row).unwrap();
        }
        let shelf = NamedCall::new("shelf").with("language", &row.language).with("sold", sold);
        laws::consistent(&ByModel::<Book>::new(), &shelf, &row).unwrap();
        laws::consistent(&ByModels::<Book>::new(), &shelf, &row).unwrap();
        laws::consistent(&(ByModel::<Book>::new(), ByModels::<Book>::new()), &shelf, &row).unwrap();
    }
}

#[test]
fn keys_that_once_collided_differ() {
    let calls = [
        NamedCall::new("feed").with("a", "bc"),
        NamedCall::new("feed").with("ab", "c"),
        NamedCall::new("feeda").with("", "bc"),
        NamedCall::new("feed").with("a", "b").with("c", ""),
        NamedCall::new("feed").with("a", "b&c="),
        NamedCall::new("feed"),
        NamedCall::new("feed").with("", ""),
    ];
    laws::injective(&ByArguments::all(), &calls).unwrap();
    let keys = [
        Key::of(&1).unwrap(),
        Key::of("1").unwrap(),
        Key::of(&'1').unwrap(),
        Key::of(&Some(1)).unwrap(),
        Key::of(&[1]).unwrap(),
        Key::of(&true).unwrap(),
        Key::of(&("1", "1")).unwrap(),
        Key::of("11").unwrap(),
        Key::of(&["1", "1", ""]).unwrap(),
        Key::of(&()).unwrap(),
        Key::of(&None::<u8>).unwrap(),
        Key::of("").unwrap(),
    ];
    for (at, one) in keys.iter().enumerate() {
        assert!(keys[..at].iter().all(|other| other != one), "{one:?}");
    }
}

#[test]
fn keys_do_not_change_from_release_to_release() {
    let call = NamedCall::new("feed").with("name", "politics").with("entries", 10);
    let golden =
        b"\x0c\x0a\x04feed\x0c\x0c\x0a\x07entries\x0a\x0210\x00\x0c\x0a\x04name\x0a\x08politics\x00\x00\x00";
    laws::stable(&ByArguments::all(), &call, golden).unwrap();
    let hash = ByArguments::all().key(&call).unwrap().hash().map(|byte| format!("{byte:02x}")).concat();
    assert_eq!(hash, "a4526c113e6e4219b383e8007f636b0aaad5f48817fc8f0e655626323fe47089");
}

#[tokio::test]
async fn an_acknowledged_invalidation_is_effective() {
    let cache = Cache::builder(MemoryBackend::with_max_bytes(1 << 20)).build();
    let other = Cache::builder(MemoryBackend::with_max_bytes(1 << 20)).build();
    laws::acknowledged_means_effective(&cache, &cache).await.unwrap();
    laws::acknowledged_means_effective(&(other.clone(), cache.clone()), &cache).await.unwrap();
    laws::acknowledged_means_effective(&vec![cache.clone()], &cache).await.unwrap();
    laws::acknowledged_means_effective(&[other.clone(), cache.clone()], &cache).await.unwrap();
    let boxed = BoxInvalidator::new(std::sync::Arc::new(cache.clone()));
    laws::acknowledged_means_effective(&boxed, &cache).await.unwrap();
}

#[tokio::test]
async fn both_sides_are_notified_and_a_failure_of_either_is_an_error() {
    laws::both_sides_are_notified(|one, other| (one, other)).await.unwrap();
    laws::both_sides_are_notified(|one, other| [one, other]).await.unwrap();
    laws::both_sides_are_notified(|one, other| vec![one, other]).await.unwrap();
    laws::both_sides_are_notified(|one, other| BoxInvalidator::new((one, other))).await.unwrap();
}
