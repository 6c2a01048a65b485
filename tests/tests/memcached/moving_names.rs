//! No read returns what was invalidated before it began, while the name of a server moves from one server to
//! another; and what comes of a move that the documentation forbids.

use std::net::SocketAddr;
use std::time::Duration;

use groupcache_core::Cache;
use groupcache_memcached::MemcachedBackend;
use groupcache_tests::history::{Plan, Report, finds_stale_reads, operations, run};
use groupcache_tests::memcached_server::{MemcachedServer, MemcachedServers};
use groupcache_tests::shorthand::millis;
use groupcache_tests::turns;
use tokio::time::sleep;

use crate::names::{Name, at};

const RESOLVE_INTERVAL: Duration = millis(50);

fn plan() -> Plan {
    Plan { operations: operations(15_000), time_limit: Duration::from_secs(600), ..Plan::default() }
}

/// The number of moves, about as many as there is time for.
fn moves(plan: &Plan) -> usize {
    usize::try_from(plan.operations / 1_000).expect("fits")
}

/// Three processes that use one name.
fn caches(name: &Name) -> Vec<Cache<MemcachedBackend>> {
    let builder = || name.builder().resolve_interval(RESOLVE_INTERVAL).response_time_limit(millis(100));
    (0..3).map(|_| Cache::builder(builder().build().expect("builds")).build()).collect()
}

fn address(server: &MemcachedServer) -> SocketAddr {
    at(server.port())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_moves_to_another_server_once_the_old_one_has_stopped() {
    let _turn = turns::history().await;
    let Some(MemcachedServers(mut servers)) = MemcachedServers::start(2, &[]) else { return };
    let name = Name::of([address(&servers[0])]);
    let plan = plan();
    let faults = async {
        for round in 0..moves(&plan) {
            let (old, new) = (round % 2, (round + 1) % 2);
            sleep(millis(200)).await;
            servers[old].kill();
            name.lead_to([address(&servers[new])]);
            sleep(millis(100)).await;
            // Empty, for the next move.
            servers[old].restart();
        }
    };
    let report = run(&caches(&name), plan, faults).await;
    report.assert_sound(&plan);
    assert!(report.failed > 0, "no invalidation was caught: {report}");
}

/// As when a network is cut: the old server keeps its memory, and goes on later.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_moves_to_another_server_once_the_old_one_was_cut_off() {
    let _turn = turns::history().await;
    let Some(MemcachedServers(servers)) = MemcachedServers::start(2, &[]) else { return };
    let name = Name::of([address(&servers[0])]);
    let plan = plan();
    let faults = async {
        for round in 0..moves(&plan) {
            let (old, new) = (&servers[round % 2], &servers[(round + 1) % 2]);
            sleep(millis(200)).await;
            old.pause();
            name.lead_to([address(new)]);
            sleep(RESOLVE_INTERVAL + millis(50)).await;
            old.resume();
            sleep(millis(100)).await;
            // Before the name may lead to it again.
            old.flush_all();
        }
    };
    let report = run(&caches(&name), plan, faults).await;
    report.assert_sound(&plan);
    assert!(report.failed > 0, "no invalidation was caught: {report}");
}

mod the_check_finds {
    //! Moves that the documentation forbids.

    use super::*;

    async fn moved(servers: &[MemcachedServer]) -> Report {
        let name = Name::of([address(&servers[0])]);
        servers.iter().for_each(MemcachedServer::flush_all);
        let moves = async {
            for round in 0..8 {
                let new = &servers[(round + 1) % 2];
                sleep(millis(100)).await;
                new.flush_all();
                name.lead_to([address(new)]);
            }
        };
        // Pages that are not looked at for a while, so that what comes back is old.
        let plan = Plan { rows: 60, pages: 16, ..Plan::short() };
        run(&caches(&name), plan, moves).await
    }

    /// Some processes invalidate on the old server what others have loaded on the new one.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_name_that_moves_while_the_old_server_goes_on() {
        let _turn = turns::history().await;
        let Some(MemcachedServers(servers)) = MemcachedServers::start(2, &[]) else { return };
        finds_stale_reads(async || moved(&servers).await).await;
    }
}
