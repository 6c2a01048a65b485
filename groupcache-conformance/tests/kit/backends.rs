//! Runs the cases for every backend and wrapper without a server.

use std::sync::Arc;

use groupcache_conformance::doubles::{CountingBackend, PlainBackend, ScriptedBackend};
use groupcache_conformance::{Expectations, FaultBackend, FaultPlan, violations};
use groupcache_core::BoxBackend;
use groupcache_memory::MemoryBackend;

async fn memory(_: String) -> Option<MemoryBackend> {
    Some(MemoryBackend::with_max_bytes(64 << 20))
}

async fn boxed(key_prefix: String) -> Option<BoxBackend> {
    Some(BoxBackend::new(memory(key_prefix).await?))
}

async fn shared_pointer(key_prefix: String) -> Option<Arc<MemoryBackend>> {
    Some(Arc::new(memory(key_prefix).await?))
}

async fn boxed_pointer_to_plain(_: String) -> Option<BoxBackend> {
    Some(BoxBackend::new(Arc::new(PlainBackend::new())))
}

/// One store for each key prefix, with several connections to it.
async fn plain_and_shared(key_prefix: String) -> Option<PlainBackend> {
    Some(PlainBackend::shared(&key_prefix))
}

async fn wrapped(_: String) -> Option<FaultBackend<ScriptedBackend<CountingBackend<PlainBackend>>>> {
    let wrapped = ScriptedBackend::new(CountingBackend::new(PlainBackend::new()));
    Some(FaultBackend::new(wrapped, FaultPlan::new(1)))
}

mod memory_backend {
    groupcache_conformance::conformance_tests!(super::memory);
}

mod box_backend {
    groupcache_conformance::conformance_tests!(super::boxed);
}

mod arc_of_a_backend {
    groupcache_conformance::conformance_tests!(super::shared_pointer);
}

mod box_of_an_arc {
    groupcache_conformance::conformance_tests!(
        super::boxed_pointer_to_plain,
        super::Expectations::new().leases()
    );
}

mod plain_backend {
    groupcache_conformance::conformance_tests!(
        super::plain_and_shared,
        super::Expectations::new().shared().leases()
    );
}

mod wrappers {
    groupcache_conformance::conformance_tests!(super::wrapped, super::Expectations::new().leases());
}

#[tokio::test]
async fn without_a_server_the_kit_skips_or_fails_where_servers_are_required() {
    let no_server = |_: String| async { None::<PlainBackend> };
    let kit = tokio::spawn(async move { violations(&no_server, Expectations::new()).await });
    match std::env::var("GROUPCACHE_REQUIRE_SERVERS").as_deref() {
        Ok("1") => assert!(kit.await.unwrap_err().is_panic()),
        _ => assert_eq!(kit.await.unwrap(), []),
    }
}
