//! The memcached backend keeps every promise of a backend.

use std::time::Duration;

use groupcache_conformance::{Expectations, lost_generation, violations};
use groupcache_tests::memcached_server::MemcachedServers;

use crate::patient;

/// The documented limits of the crate: times to live in whole seconds. The servers of these tests accept
/// 8 MiB.
const EXPECTATIONS: Expectations = Expectations::new().resolution(Duration::from_secs(1)).shared().leases();

async fn every_case_holds_with(servers: usize) {
    let Some(servers) = MemcachedServers::start(servers, &["-I", "8m"]) else { return };
    let url = servers.url();
    let make = |key_prefix: String| {
        let backend = patient(&url).key_prefix(key_prefix).build().expect("builds");
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
async fn every_case_of_the_kit_holds_with_three_servers() {
    every_case_holds_with(3).await;
}

#[tokio::test]
async fn a_generation_that_a_server_loses_is_missing() {
    let Some(servers) = MemcachedServers::start(3, &[]) else { return };
    let backend = patient(&servers.url()).build().expect("builds");
    let lose = async |group: &groupcache_core::Group| {
        let hex: String = group.hash().iter().map(|byte| format!("{byte:02x}")).collect();
        let deleted = servers.0.iter().filter(|server| {
            let reply = server.command(&format!("md groupcache:g:{hex}\r\nmn"), "MN");
            reply.starts_with("HD")
        });
        assert_eq!(deleted.count(), 1);
    };
    lost_generation(&backend, lose).await.expect("keeps the promise");
}
