//! The Redis backend keeps every promise of a backend.

use groupcache_conformance::{Expectations, lost_generation, rollback, violations};
use groupcache_tests::redis_server::RedisServer;

use crate::patient;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_case_of_the_kit_holds() {
    let Some(server) = RedisServer::start(&[]) else { return };
    let url = server.url();
    let redis = |key_prefix: String| {
        let backend = patient(&url).key_prefix(key_prefix).build().expect("builds");
        async move { Some(backend) }
    };
    let found = violations(&redis, Expectations::new().shared().leases()).await;
    assert!(found.is_empty(), "{found:#?}");
}

#[tokio::test]
async fn a_generation_that_the_server_loses_is_missing() {
    let Some(server) = RedisServer::start(&[]) else { return };
    let backend = patient(&server.url()).build().expect("builds");
    let lose = async |group: &groupcache_core::Group| {
        let hex: String = group.hash().iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(server.run_command::<u64>(&format!("DEL groupcache:g:{hex}")), 1);
    };
    lost_generation(&backend, lose).await.expect("keeps the promise");
}

#[tokio::test]
async fn an_old_snapshot_revives_no_entry() {
    let Some(mut server) = RedisServer::start(&[]) else { return };
    let backend = patient(&server.url()).build().expect("builds");
    let url = server.url();
    let save = async || {
        let client = groupcache_redis::redis::Client::open(url).expect("a client");
        let mut connection = client.get_connection().expect("connects");
        groupcache_redis::redis::cmd("SAVE").exec(&mut connection).expect("saves");
    };
    rollback(&backend, save, async |()| server.restart()).await.expect("keeps the promise");
}
