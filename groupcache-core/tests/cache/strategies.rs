//! The keys and groups that the key strategies of this crate give a call, and what they refuse.

use groupcache_core::{
    Arguments, ByArguments, ByModel, ByModels, ByTag, Error, ErrorKind, KeyStrategy, Model, NamedCall,
};
use serde::{Deserialize, Serialize};

use crate::*;

#[derive(Serialize, Deserialize)]
struct Book {
    id: i64,
    language: String,
}

impl Model for Book {
    const NAME: &'static str = "book";
    const GROUPS: &'static [&'static [&'static str]] = &[&["id"], &["language", "id"]];
}

/// A model without a name.
#[derive(Serialize, Deserialize)]
struct Wrong {
    id: i64,
}

impl Model for Wrong {
    const NAME: &'static str = "";
    const GROUPS: &'static [&'static [&'static str]] = &[&["id"]];
}

fn call() -> NamedCall {
    NamedCall::new("feed").with("name", "politics").with("entries", 10)
}

const ARGUMENTS: &[&str] = &["name", "entries"];

fn check<S: KeyStrategy<NamedCall>>(strategy: &S) -> Result<(), String> {
    strategy.check(ARGUMENTS).map_err(|error| {
        assert_eq!(error.kind(), ErrorKind::Configuration, "{error}");
        error.to_string()
    })
}

#[test]
fn a_group_has_the_arguments_that_count_by_the_names_they_were_given() {
    let feed = || Group::new("feed");
    let by_name = || ByArguments::of(["name"]);
    for (strategy, group) in [
        (ByArguments::all(), feed().with("name", "politics").with("entries", 10)),
        (ByArguments::none(), feed()),
        (by_name(), feed().with("name", "politics")),
        (["name"].into(), feed().with("name", "politics")),
        (by_name().on(["entries"]), feed().with("entries", 10)),
        (by_name().rename("name", "topic"), feed().with("topic", "politics")),
        (by_name().rename("name", "topic").rename("entries", "count"), feed().with("topic", "politics")),
        (ByArguments::none().shared("topics"), Group::new("topics")),
        (ByArguments::none().shared_or("topics"), Group::new("topics")),
        (ByArguments::none().shared("topics").shared_or("others"), Group::new("topics")),
    ] {
        assert_eq!(strategy.groups(&call()).unwrap(), Groups::from(group), "{strategy:?}");
    }
    assert!(ByArguments::all().is_all());
    assert!(ByArguments::all().rename("name", "topic").is_all());
    assert!(!by_name().is_all());
    assert!(!ByArguments::none().is_all());
    let missing = ByArguments::of(["author"]).groups(&call()).unwrap_err().to_string();
    assert!(missing.contains("`author`") && missing.contains("entries, name"), "{missing}");
}

#[test]
fn a_strategy_that_does_not_fit_the_arguments_is_refused_by_name() {
    for strategy in [
        ByArguments::all(),
        ByArguments::none(),
        ByArguments::of(["name"]),
        ByArguments::of(["name"]).rename("name", "topic").shared("topics"),
    ] {
        assert_eq!(check(&strategy), Ok(()), "{strategy:?}");
    }
    for (strategy, names) in [
        (ByArguments::of(["author"]), "`author`"),
        (ByArguments::all().rename("author", "name"), "`author`"),
        (ByArguments::of(["name"]).rename("entries", "count"), "`entries`"),
        (ByArguments::all().rename("entries", "name"), "`name`"),
        (ByArguments::all().shared(""), "label"),
    ] {
        let error = check(&strategy).unwrap_err();
        assert!(error.contains(names), "{strategy:?}: {error}");
    }
    assert_eq!(check(&ByTag::new("front page")), Ok(()));
    assert!(check(&ByTag::new("")).unwrap_err().contains("tag"));
}

#[test]
fn a_model_is_grouped_by_what_it_declares_only() {
    let by_id = || ByModel::<Book>::new().on(["name"]).rename("name", "id");
    assert_eq!(check(&by_id()), Ok(()));
    assert!(check(&ByModel::<Book>::new().on(["name"]).rename("name", "language")).is_err());
    // In any order.
    let both = ByArguments::all().rename("name", "id").rename("entries", "language");
    assert_eq!(check(&ByModel::<Book>::from(both)), Ok(()));
    let undeclared = check(&ByModel::<Book>::new()).unwrap_err();
    for part in ["`book`", "[entries, name]", "[id]", "[language, id]"] {
        assert!(undeclared.contains(part), "{undeclared}");
    }
    assert!(check(&ByModel::<Book>::default().on(["author"])).unwrap_err().contains("`author`"));
    check(&ByModel::<Wrong>::new().on(["name"]).rename("name", "id")).unwrap_err();
    assert_eq!(check(&ByModels::<(Book,)>::new()), Ok(()));
    check(&ByModels::<(Book, Wrong)>::new()).unwrap_err();

    let call = NamedCall::new("page").with("name", 5).with("entries", 10);
    let group = Group::new("book").with("id", 5);
    assert_eq!(by_id().groups(&call).unwrap(), Groups::from(group));
    // The field is a number, and this argument is not.
    by_id().groups(&self::call()).unwrap_err();
}

/// So a hit in memory is found by the key of the call alone.
#[test]
fn every_strategy_uses_the_key_of_the_call() {
    let is_keyed_by_call = |strategy: &dyn KeyStrategy<NamedCall>| {
        assert_eq!(strategy.key(&call()).unwrap(), ByArguments::all().key(&call()).unwrap());
        strategy.is_keyed_by_call()
    };
    assert!(is_keyed_by_call(&ByArguments::none()));
    assert!(is_keyed_by_call(&ByTag::new("tag")));
    assert!(is_keyed_by_call(&ByModel::<Book>::new()));
    assert!(is_keyed_by_call(&ByModels::<(Book,)>::new()));

    struct Own;
    impl KeyStrategy<NamedCall> for Own {
        fn key(&self, call: &NamedCall) -> groupcache_core::Result<groupcache_core::Key> {
            ByArguments::all().key(call)
        }
        fn groups(&self, _: &NamedCall) -> groupcache_core::Result<Groups> {
            Ok(Groups::none())
        }
    }
    assert!(!is_keyed_by_call(&Own), "the default is no");
    assert_eq!(check(&Own), Ok(()));

    // Of a pair, only if both are.
    let tag = || ByTag::new("tag");
    assert!(is_keyed_by_call(&(tag(), ByArguments::all())));
    assert!(!is_keyed_by_call(&(tag(), Own)));
    assert!(!is_keyed_by_call(&(Own, tag())));
    type Boxed<'a> = Box<dyn KeyStrategy<NamedCall> + 'a>;
    let (boxed, own): (Boxed<'_>, Boxed<'_>) = (Box::new(tag()), Box::new(Own));
    assert!(is_keyed_by_call(&boxed));
    assert!(!is_keyed_by_call(&own));
}

#[test]
fn a_pair_or_a_box_refuses_what_its_parts_refuse() {
    let (sound, empty) = (|| ByTag::new("tag"), || ByTag::new(""));
    assert_eq!(check(&(sound(), ByArguments::all())), Ok(()));
    check(&(sound(), empty())).unwrap_err();
    check(&(empty(), sound())).unwrap_err();
    let boxed = |tag: ByTag| -> Box<dyn KeyStrategy<NamedCall>> { Box::new(tag) };
    assert_eq!(check(&boxed(sound())), Ok(()));
    check(&boxed(empty())).unwrap_err();
    let both = (ByTag::new("one"), ByTag::new("other"));
    let groups = Groups::from([ByTag::group("one"), ByTag::group("other")]);
    assert_eq!(both.groups(&call()).unwrap(), groups);
}

#[test]
fn arguments_are_kept_once_by_name() {
    let none = Arguments::new();
    assert!(none.is_empty());
    assert_eq!((none.len(), none.iter().len(), none.get("a")), (0, 0, None));
    let mut three: Arguments = [("b", 2), ("a", 1), ("c", 3)].into();
    three.insert("b", "two");
    assert!(!three.is_empty());
    assert_eq!(three.len(), 3);
    assert_eq!(three.iter().collect::<Vec<_>>(), [("a", "1"), ("b", "two"), ("c", "3")]);
    assert_eq!(three.get("b"), Some("two"));
    assert_eq!(format!("{three:?}"), r#"{"a": "1", "b": "two", "c": "3"}"#);
}

#[tokio::test]
async fn a_keyed_cache_does_for_calls_what_a_cache_does_for_keys_and_groups() {
    let cache = memory();
    let reports = cache.keyed(ByArguments::of(["year"]), &["year"]).unwrap();
    let [short, long, other] = [("2026", "short"), ("2026", "long"), ("2027", "short")]
        .map(|(year, form)| NamedCall::new("report").with("year", year).with("form", form));
    let load = |value: u32| move || async move { Ok::<_, Error>(value) };
    assert_eq!(reports.get_or_load(&short, load(1)).await.unwrap(), 1);
    assert_eq!(reports.get_or_load(&short, load(2)).await.unwrap(), 1);
    assert_eq!(reports.insert(&other, load(3)).await.unwrap(), 3);
    assert_eq!(reports.get_many(&[&other, &long, &short]).await, [Some(3), None, Some(1)]);
    assert_eq!(reports.get_or_load(&long, load(4)).await.unwrap(), 4);
    reports.delete(&short).await.unwrap();
    assert_eq!(reports.get::<u32>(&short).await, None);
    assert_eq!(reports.get(&long).await, Some(4));
    // The group of one call is that of all reports of the year.
    reports.invalidate(&short).await.unwrap();
    assert_eq!(reports.get_many::<u32>(&[&long, &other]).await, [None, Some(3)]);
    cache.invalidate(Group::new("report").with("year", 2027)).await.unwrap();
    assert_eq!(reports.get::<u32>(&other).await, None);
    // A call without the argument is an error.
    let wrong = NamedCall::new("report");
    reports.invalidate(&wrong).await.unwrap_err();
    assert!(format!("{reports:?}").contains("\"memory\""));
}

#[test]
fn debug_output_of_strategies() {
    let model = ByModel::<Book>::new().on(["name"]);
    let (model, models) = (format!("{model:?}"), format!("{:?}", ByModels::<(Book,)>::new()));
    assert!(model.contains("\"book\"") && model.contains("name"), "{model}");
    assert!(models.contains("Group(book)"), "{models}");
}
