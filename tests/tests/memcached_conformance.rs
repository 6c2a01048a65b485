//! The memcached backend keeps every promise of a backend.

use std::time::Duration;

use groupcache_conformance::{Expectations, lost_generation, violations};
use groupcache_memcached::MemcachedBackend;
use groupcache_tests::memcached::MemcachedServers;

/// What the documentation of the crate says: whole seconds, and servers that take 8 MiB in these tests.
const EXPECTATIONS: Expectations = Expectations::new().resolution(Duration::from_secs(1)).shared().leases();

async fn every_case_holds_with(servers: usize) {
    let Some(servers) = MemcachedServers::start(servers, &["-I", "8m"]) else { return };
    let url = servers.url();
    let make = |space: String| {
        let backend = MemcachedBackend::builder(&url).key_prefix(space).build().expect("builds");
        async move { Some(backend) }
    };
    let found = violations(&make, EXPECTATIONS).await;
    assert!(found.is_empty(), "{found:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_case_of_the_kit_holds_with_one_server() {
    every_case_holds_with(1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_case_of_the_kit_holds_with_three() {
    every_case_holds_with(3).await;
}

#[tokio::test]
async fn what_a_server_loses_is_missing() {
    let Some(servers) = MemcachedServers::start(3, &[]) else { return };
    let backend = MemcachedBackend::builder(servers.url()).build().expect("builds");
    let lose = async |group: &groupcache_core::Group| {
        let hex: String = group.hash().iter().map(|byte| format!("{byte:02x}")).collect();
        let deleted = servers.0.iter().filter(|server| {
            let said = server.command(&format!("md groupcache:g:{hex}\r\nmn"), "MN");
            said.starts_with("HD")
        });
        assert_eq!(deleted.count(), 1);
    };
    lost_generation(&backend, lose).await.expect("keeps the promise");
}
