//! What things say of themselves, in a log or in the message of a failed test.

use std::fmt::Debug;

use groupcache_core::backend::{Generation, GenerationGuard, GenerationVector, LeaseOwner, LeaseRequest};

use groupcache_core::{Address, BoxBackend, BoxInvalidator, Entry, EntryOptions, Key, ManualClock};

use crate::*;

fn says(thing: &dyn Debug, what: &[&str]) {
    let said = format!("{thing:?}");
    for what in what {
        assert!(said.contains(what), "`{what}` is missing in: {said}");
    }
}

#[test]
fn entries_and_what_they_are_made_of() {
    let key = Key::of("page").unwrap();
    let groups = Groups::from(Group::new("book").with("id", 5).with_null("shelf"));
    let vector: GenerationVector = Generation::new(0xabc).into_iter().collect();
    says(&groups, &["book{id=5,shelf=null}"]);
    says(&vector, &["Generation(abc)"]);
    assert_eq!(
        format!("{:?} {:?}", GenerationGuard::none(), GenerationGuard::new(())),
        "GenerationGuard(none) GenerationGuard(..)"
    );
    let owner = LeaseOwner::random();
    let current = vector.iter().copied().map(Some).collect();
    let request = LeaseRequest::new(&key, &groups, &current, owner, Duration::from_secs(1)).unwrap();
    let lease = request.name(&vector);
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    says(&lease, &[&format!("LeaseName({})", hex(lease.as_bytes()))]);
    says(&owner, &[&format!("LeaseOwner({})", hex(owner.as_bytes()))]);
    let entry = Entry::new(key, groups, vector, "body".into(), Duration::from_secs(7));
    says(&entry, &["Key(", "page", "book{id=5", "Generation(abc)", "body_bytes: 4", "grace: 7s"]);
    assert_eq!(Group::new("book").to_string(), "book");
    assert_eq!(Group::new("book").with("id", 5).to_string(), "book{id=5}");
}

#[tokio::test]
async fn caches_and_what_is_under_way() {
    let clock = ManualClock::new();
    let backend = MemoryBackend::builder().clock(clock.clone()).build();
    let options =
        EntryOptions::new().time_to_live(Duration::from_secs(1)).stale_while_revalidate(Duration::MAX);
    let cache = Cache::builder(backend).clock(clock.clone()).options(options).build();
    says(&BoxBackend::new(MemoryBackend::with_max_bytes(1)), &["BoxBackend(\"memory\")"]);
    says(&BoxInvalidator::new(cache.clone()), &["BoxInvalidator"]);
    let builder = Cache::builder(MemoryBackend::with_max_bytes(1)).read_time_limit(Duration::from_millis(7));
    says(&builder, &["CacheBuilder", "read_time_limit: 7ms", "write_time_limit: 5s"]);
    says(&cache, &["Cache", "\"memory\"", "stale_while_revalidate"]);
    load(&cache, "k", group("g"), 1).await;
    clock.advance(Duration::from_secs(2));
    let address = Address { key: Key::of("k").unwrap(), groups: group("g") };
    let load = || async { Err::<groupcache_core::Loaded<()>, _>("nobody runs it") };
    let refresh = cache.read(&address, |_| Some(()), load).await.unwrap().refresh;
    says(&refresh.unwrap(), &["Refresh", "Group(g)"]);
}
