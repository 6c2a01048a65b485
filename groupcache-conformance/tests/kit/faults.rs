//! The fault injection works as documented, and finds unsound backends.

use std::sync::Arc;
use std::time::Duration;

use groupcache_conformance::doubles::{Bug, PlainBackend};
use groupcache_conformance::{Fault, FaultBackend, FaultPlan, under_faults};
use groupcache_core::{Backend, Entry, Group, Groups, Key};

#[tokio::test]
async fn an_unsound_store_is_found_and_the_same_seed_finds_it_again() {
    for bug in [Bug::BumpOnlyOnce, Bug::BumpLater] {
        let run = |seed| async move {
            let plan = FaultPlan::all(seed, 2);
            under_faults(PlainBackend::with_bug(bug), plan, seed, 500, "cargo test again").await
        };
        let found = run(11).await.unwrap_err().to_string();
        assert!(found.contains("(seed 11; repeat with `cargo test again`"), "{found}");
        assert_eq!(run(11).await.unwrap_err().to_string(), found);
    }
}

#[tokio::test]
async fn each_fault_happens_as_planned_and_a_sound_store_survives_it() {
    for fault in Fault::ALL {
        let plan = FaultPlan::new(5).with(fault, 200);
        let run = under_faults(PlainBackend::new(), plan, 5, 1000, "").await.unwrap();
        assert!(run.faults.count(fault) > 10, "{fault:?}: {:?}", run.faults);
        assert_eq!(run.faults.total(), run.faults.count(fault));
    }
}

#[tokio::test]
async fn an_empty_plan_causes_no_faults() {
    let run = under_faults(PlainBackend::new(), FaultPlan::new(1), 1, 1000, "").await.unwrap();
    assert_eq!(run.faults.total(), 0);
    assert_eq!(run.stats.invalidation_failures + run.stats.store_failures, 0);
}

fn always(fault: Fault) -> (PlainBackend, FaultBackend<PlainBackend>) {
    let inner = PlainBackend::new();
    (inner.clone(), FaultBackend::new(inner, FaultPlan::new(1).with(fault, 1000)))
}

#[tokio::test]
async fn a_lost_request_has_no_effect_and_a_lost_reply_has_one() {
    let group = Groups::from(Group::new("g"));
    for (fault, generations) in [(Fault::DropRequest, 0), (Fault::DropReply, 1), (Fault::OutOfMemory, 0)] {
        let (inner, faulty) = always(fault);
        faulty.mint(&group).await.unwrap_err();
        assert_eq!(inner.size().1, generations, "{fault:?}");
    }
}

#[tokio::test]
async fn a_delayed_write_takes_effect_after_later_ones() {
    let (inner, faulty) = always(Fault::Delay);
    let key = Key::of("k").unwrap();
    let entry = Entry::new(key, Groups::none(), Default::default(), "late".into(), Duration::ZERO);
    faulty.store(&Arc::new(entry), None).await.unwrap_err();
    assert_eq!(inner.size().0, 0);
    faulty.stop().await.unwrap();
    assert_eq!(inner.size().0, 1);
}

#[tokio::test]
async fn half_a_batch_is_processed_and_the_rest_is_not() {
    let (inner, faulty) = always(Fault::PartOfBatch);
    let groups: Groups = (0..10).map(|id| Group::new("g").with("id", id)).collect();
    faulty.mint(&groups).await.unwrap_err();
    assert_eq!(inner.size().1, 5);
}
