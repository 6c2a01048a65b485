//! The `Debug` output, as in a log or in the message of a failed test.

use std::fmt::Debug;

use groupcache_core::backend::{Generation, GenerationGuard, GenerationVector, LeaseOwner, LeaseRequest};
use groupcache_core::{Address, BoxBackend, BoxInvalidator, Entry, EntryOptions, Key, ManualClock};

use crate::*;

fn shows(value: &dyn Debug, parts: &[&str]) {
    let output = format!("{value:?}");
    for part in parts {
        assert!(output.contains(part), "`{part}` is missing in: {output}");
    }
}

#[test]
fn debug_output_of_entries_and_their_parts() {
    let key = Key::of("page").unwrap();
    let groups = Groups::from(Group::new("book").with("id", 5).with_null("shelf"));
    let vector: GenerationVector = Generation::new(0xabc).into_iter().collect();
    shows(&groups, &["book{id=5,shelf=null}"]);
    shows(&vector, &["Generation(abc)"]);
    assert_eq!(
        format!("{:?} {:?}", GenerationGuard::none(), GenerationGuard::new(())),
        "GenerationGuard(none) GenerationGuard(..)"
    );
    let owner = LeaseOwner::random();
    let current = vector.iter().copied().map(Some).collect();
    let request = LeaseRequest::new(&key, &groups, &current, owner, Duration::from_secs(1)).unwrap();
    let lease = request.name(&vector);
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    shows(&lease, &[&format!("LeaseName({})", hex(lease.as_bytes()))]);
    shows(&owner, &[&format!("LeaseOwner({})", hex(owner.as_bytes()))]);
    let entry = Entry::new(key, groups, vector, "body".into(), Duration::from_secs(7));
    shows(&entry, &["Key(", "page", "book{id=5", "Generation(abc)", "body_bytes: 4", "grace: 7s"]);
    assert_eq!(Group::new("book").to_string(), "book");
    assert_eq!(Group::new("book").with("id", 5).to_string(), "book{id=5}");
}

#[tokio::test]
async fn debug_output_of_caches_and_loads() {
    let clock = ManualClock::new();
    let backend = MemoryBackend::builder().clock(clock.clone()).build();
    let options =
        EntryOptions::new().time_to_live(Duration::from_secs(1)).stale_while_revalidate(Duration::MAX);
    let cache = Cache::builder(backend).clock(clock.clone()).options(options).build();
    shows(&BoxBackend::new(MemoryBackend::with_max_bytes(1)), &["BoxBackend(\"memory\")"]);
    shows(&BoxInvalidator::new(cache.clone()), &["BoxInvalidator"]);
    let builder = Cache::builder(MemoryBackend::with_max_bytes(1)).read_time_limit(Duration::from_millis(7));
    shows(&builder, &["CacheBuilder", "read_time_limit: 7ms", "write_time_limit: 5s"]);
    shows(&cache, &["Cache", "\"memory\"", "stale_while_revalidate"]);
    load(&cache, "k", group("g"), 1).await;
    clock.advance(Duration::from_secs(2));
    let address = Address { key: Key::of("k").unwrap(), groups: group("g") };
    let load = || async { Err::<groupcache_core::Loaded<()>, _>("never runs") };
    let refresh = cache.read(&address, |_| Some(()), load).await.unwrap().refresh;
    shows(&refresh.unwrap(), &["Refresh", "Group(g)"]);
}
