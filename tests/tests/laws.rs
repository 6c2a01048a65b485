//! The laws of key strategies and invalidators, for those that come with the cache; and that the laws
//! find what breaks them.

#![allow(clippy::unwrap_used, reason = "a test that panics has failed, as it should")]

use std::collections::BTreeMap;

use groupcache_conformance::laws;
use groupcache_core::{
    Address, BoxInvalidator, ByArguments, ByModel, ByModels, ByTag, Cache, Call as _, Group, Groups,
    Invalidator, Key, KeyStrategy, Model, NamedCall, RecordingInvalidator, Result, groups_of,
};
use groupcache_memory::MemoryBackend;
use groupcache_tests::{scale, seeds};
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

/// Any value that serde can tell of, nested.
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

/// What is printed here is shown if the test fails.
fn from_a_seed() -> ProptestConfig {
    let seed = seeds(2).pop().unwrap_or_default();
    println!("repeat with `GROUPCACHE_TEST_SEED={seed} cargo test -p groupcache-tests --test laws`");
    let cases = 4000 * u32::try_from(scale()).unwrap();
    ProptestConfig { cases, rng_seed: RngSeed::Fixed(seed), ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(from_a_seed())]

    #[test]
    fn structured_keys_are_equal_exactly_if_their_values_are(one in tree(), other in tree()) {
        prop_assert_eq!(Key::of(&one).unwrap() == Key::of(&other).unwrap(), one == other);
        // In a row, where one could run into the next.
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
        // Which arguments make up the group says nothing about the key.
        prop_assert_eq!(laws::injective(&ByTag::new("t"), &calls).is_ok(), differ);
    }

    #[test]
    fn groups_by_arguments_are_equal_exactly_if_the_arguments_that_count_are(
        one in arguments(), other in arguments(),
    ) {
        let groups = |of: &BTreeMap<_, _>| ByArguments::all().groups(&call("view", of)).unwrap();
        prop_assert_eq!(groups(&one) == groups(&other), one == other);
    }

    #[test]
    fn a_page_of_a_row_is_in_a_group_that_its_change_invalidates(
        id in any::<i64>(), author_id in prop::option::of(any::<u32>()), language in ".{0,5}", sold in any::<bool>(),
    ) {
        let row = Book { id, author_id, language, sold };
        let page = NamedCall::new("book").with("id", id).with("format", "html");
        laws::consistent(&ByModel::<Book>::new().on(["id"]), &page, &row).unwrap();
        // The same number in another spelling.
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
fn historic_collisions_are_none() {
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
    let found = laws::stable(&ByArguments::all(), &call.with("more", 1), golden).unwrap_err();
    assert_eq!(found.promise(), "a key is the same in every release");
}

#[test]
fn strategies_that_break_a_law_are_found() {
    let calls = [NamedCall::new("view").with("id", 1), NamedCall::new("view").with("id", 2)];
    let by_name_only = |call: &NamedCall| -> Result<Address> {
        Ok(Address { key: Key::of(groupcache_core::Call::name(call))?, groups: Groups::none() })
    };
    let found = laws::injective(&by_name_only, &calls).unwrap_err();
    assert_eq!(found.promise(), "calls whose values may differ have different keys");

    let counter = std::sync::atomic::AtomicU64::new(0);
    let by_turn = |_: &NamedCall| -> Result<Address> {
        let turn = counter.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        Ok(Address { key: Key::of(&turn)?, groups: Groups::none() })
    };
    let found = laws::deterministic(&by_turn, &calls, Clone::clone).unwrap_err();
    assert_eq!(found.promise(), "equal calls have equal keys and groups");

    // Undelimited, as django-groupcache hashed them.
    let run_together = |call: &NamedCall| -> Result<Address> {
        let text: String = [call.name().to_owned()]
            .into_iter()
            .chain(call.arguments().iter().flat_map(|(name, value)| [name.to_string(), value.to_string()]))
            .collect();
        Ok(Address { key: Key::of(&text)?, groups: Groups::none() })
    };
    let alike = [NamedCall::new("feed").with("a", "bc"), NamedCall::new("feed").with("ab", "c")];
    laws::injective(&ByArguments::all(), &alike).unwrap();
    let found = laws::injective(&run_together, &alike).unwrap_err();
    assert_eq!(found.promise(), "calls whose values may differ have different keys");

    // One key, and another group every time.
    let groups_by_turn = |call: &NamedCall| -> Result<Address> {
        let turn = counter.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        let key = ByArguments::all().key(call)?;
        Ok(Address { key, groups: Group::new("turn").with("n", turn).into() })
    };
    let found = laws::deterministic(&groups_by_turn, &calls, Clone::clone).unwrap_err();
    assert_eq!(found.promise(), "equal calls have equal keys and groups");

    let row = Book { id: 1, author_id: None, language: "en".into(), sold: false };
    // A group that no change of a book names.
    let found = laws::consistent(&ByArguments::all(), &calls[0], &row).unwrap_err();
    assert!(found.promise().starts_with("the groups named at read"));
    let found = laws::consistent(&ByModel::<Book>::new(), &calls[1], &row).unwrap_err();
    assert!(found.to_string().contains("id=2"), "{found}");
}

#[tokio::test]
async fn what_is_acknowledged_is_effective() {
    let cache = Cache::builder(MemoryBackend::with_max_bytes(1 << 20)).build();
    let other = Cache::builder(MemoryBackend::with_max_bytes(1 << 20)).build();
    laws::acknowledged_means_effective(&cache, &cache).await.unwrap();
    laws::acknowledged_means_effective(&(other.clone(), cache.clone()), &cache).await.unwrap();
    laws::acknowledged_means_effective(&vec![cache.clone()], &cache).await.unwrap();
    laws::acknowledged_means_effective(&[other.clone(), cache.clone()], &cache).await.unwrap();
    let boxed = BoxInvalidator::new(std::sync::Arc::new(cache.clone()));
    laws::acknowledged_means_effective(&boxed, &cache).await.unwrap();
    // Says that it did, and did not.
    laws::acknowledged_means_effective(&RecordingInvalidator::default(), &cache).await.unwrap_err();
    laws::acknowledged_means_effective(&other, &cache).await.unwrap_err();
    // Says so before it does.
    struct Later<I>(I);
    impl<I: Invalidator + Clone + 'static> Invalidator for Later<I> {
        async fn invalidate(&self, groups: &Groups) -> Result<()> {
            let (inner, groups) = (self.0.clone(), groups.clone());
            drop(tokio::spawn(async move { inner.invalidate(&groups).await }));
            Ok(())
        }
    }
    laws::acknowledged_means_effective(&Later(cache.clone()), &cache).await.unwrap_err();
}

#[tokio::test]
async fn both_sides_are_told_and_a_failure_of_either_is_an_error() {
    laws::both_sides_are_told(|one, other| (one, other)).await.unwrap();
    laws::both_sides_are_told(|one, other| [one, other]).await.unwrap();
    laws::both_sides_are_told(|one, other| vec![one, other]).await.unwrap();
    laws::both_sides_are_told(|one, other| BoxInvalidator::new((one, other))).await.unwrap();

    struct FirstOnly(BoxInvalidator);
    impl Invalidator for FirstOnly {
        async fn invalidate(&self, groups: &Groups) -> Result<()> {
            self.0.invalidate(groups).await
        }
    }
    struct InTurn(BoxInvalidator, BoxInvalidator);
    impl Invalidator for InTurn {
        async fn invalidate(&self, groups: &Groups) -> Result<()> {
            self.0.invalidate(groups).await?;
            self.1.invalidate(groups).await
        }
    }
    struct Swallows(BoxInvalidator, BoxInvalidator);
    impl Invalidator for Swallows {
        async fn invalidate(&self, groups: &Groups) -> Result<()> {
            drop((self.0.invalidate(groups).await, self.1.invalidate(groups).await));
            Ok(())
        }
    }
    laws::both_sides_are_told(|one, _| FirstOnly(one)).await.unwrap_err();
    laws::both_sides_are_told(InTurn).await.unwrap_err();
    laws::both_sides_are_told(Swallows).await.unwrap_err();
}

#[tokio::test]
async fn rollbacks_and_moved_rows_are_told_of_as_the_laws_say() {
    laws::nothing_after_a_rollback(async |_| {}).await.unwrap();
    let too_early =
        async |told: RecordingInvalidator| told.invalidate(&Group::new("g").into()).await.unwrap();
    laws::nothing_after_a_rollback(too_early).await.unwrap_err();

    let old = Book { id: 1, author_id: Some(1), language: "en".into(), sold: false };
    let new = Book { author_id: Some(2), ..old.clone() };
    let both = async |told: RecordingInvalidator| {
        told.invalidate(&groups_of(&old).unwrap()).await.unwrap();
        told.invalidate(&groups_of(&new).unwrap()).await.unwrap();
    };
    laws::old_and_new_groups_of_a_moved_row(&old, &new, both).await.unwrap();
    let new_only =
        async |told: RecordingInvalidator| told.invalidate(&groups_of(&new).unwrap()).await.unwrap();
    let found = laws::old_and_new_groups_of_a_moved_row(&old, &new, new_only).await.unwrap_err();
    assert!(found.to_string().contains("author_id=1"), "{found}");
}
