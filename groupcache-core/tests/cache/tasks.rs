//! Reads and dependencies in tasks and shared futures of a load.

use std::convert::Infallible;

use futures_util::future::{FutureExt, join_all};
use futures_util::stream::{FuturesUnordered, StreamExt, iter};
use groupcache_core::{LoadContext, depend};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

use crate::*;

/// The value of the key `inner`, of the group `inner`.
async fn inner<B: Backend>(cache: &Cache<B>, value: u32) -> u32 {
    load(cache, "inner", group("inner"), value).await
}

/// Loads `outer` with `load` and returns whether it is stale after an invalidation of the group `inner`.
async fn depends_on_inner<Fut>(load: impl Fn(Cache<MemoryBackend>) -> Fut + Send + Sync) -> bool
where
    Fut: Future<Output = u32> + Send,
{
    let cache = memory();
    assert_eq!(soon(load_with(&cache, "outer", group("outer"), || load(cache.clone()))).await, 1);
    assert_eq!(cache.get("outer", group("outer")).await, Some(1), "it is stored");
    cache.invalidate(group("inner")).await.unwrap();
    cache.get::<u32, _, _>("outer", group("outer")).await.is_none()
}

#[tokio::test]
async fn a_read_in_a_spawned_task_is_a_dependency_if_the_task_inherits_the_load() {
    let spawned =
        |cache: Cache<_>| async move { tokio::spawn(async move { inner(&cache, 1).await }).await.unwrap() };
    assert!(!depends_on_inner(spawned).await, "as documented");
    let inheriting = |cache: Cache<_>| async move {
        tokio::spawn(LoadContext::inherit(async move { inner(&cache, 1).await })).await.unwrap()
    };
    assert!(depends_on_inner(inheriting).await);
    let through_two_tasks = |cache: Cache<_>| async move {
        let within = LoadContext::inherit(async move {
            tokio::spawn(LoadContext::inherit(async move { inner(&cache, 1).await })).await.unwrap()
        });
        tokio::spawn(within).await.unwrap()
    };
    assert!(depends_on_inner(through_two_tasks).await);
    let with_a_set = |cache: Cache<_>| async move {
        let mut set = JoinSet::new();
        set.spawn(LoadContext::inherit(async move { inner(&cache, 1).await }));
        set.join_next().await.unwrap().unwrap()
    };
    assert!(depends_on_inner(with_a_set).await);
    let scoped = |cache: Cache<_>| async move {
        let context = LoadContext::current().unwrap();
        tokio::spawn(context.scope(async move { inner(&cache, 1).await })).await.unwrap()
    };
    assert!(depends_on_inner(scoped).await);
}

#[tokio::test]
async fn depend_in_a_spawned_task_counts_if_the_task_inherits_the_load() {
    let inheriting = |_: Cache<_>| async {
        tokio::spawn(LoadContext::inherit(depend(group("inner")))).await.unwrap();
        1
    };
    assert!(depends_on_inner(inheriting).await);
    let work = async {
        depend(group("inner")).await;
        1
    };
    assert_eq!(LoadContext::inherit(work).await, 1, "outside a load it changes nothing");
    assert!(LoadContext::inherit(async { LoadContext::current().is_none() }).await);
}

/// What a loader polls itself is inside the load.
#[tokio::test]
async fn reads_that_the_loader_polls_are_dependencies() {
    let joined = |cache: Cache<_>| async move { join_all([inner(&cache, 1)]).await[0] };
    assert!(depends_on_inner(joined).await);
    let buffered = |cache: Cache<_>| async move {
        let cache = &cache;
        let found: Vec<_> = iter([1, 1]).map(|value| inner(cache, value)).buffered(2).collect().await;
        found[0]
    };
    assert!(depends_on_inner(buffered).await);
    let unordered = |cache: Cache<_>| async move {
        let mut all: FuturesUnordered<_> = [inner(&cache, 1)].into_iter().collect();
        all.next().await.unwrap()
    };
    assert!(depends_on_inner(unordered).await);
    let selected = |cache: Cache<_>| async move {
        tokio::select! {
            value = inner(&cache, 1) => value,
            () = std::future::pending() => 0,
        }
    };
    assert!(depends_on_inner(selected).await);
}

#[tokio::test]
async fn a_shared_future_is_a_dependency_of_the_load_that_polls_it_and_depend_of_each() {
    for declared in [false, true] {
        let (cache, gate) = (memory(), Gate::new());
        let shared = {
            let (cache, gate) = (cache.clone(), Arc::clone(&gate));
            async move {
                gate.pass().await;
                inner(&cache, 1).await
            }
            .boxed()
            .shared()
        };
        let outer = |key: &'static str| {
            let (cache, shared) = (cache.clone(), shared.clone());
            tokio::spawn(async move {
                load_with(&cache, key, group("outer"), || async {
                    if declared {
                        depend(group("inner")).await;
                    }
                    shared.await
                })
                .await
            })
        };
        let readers = [outer("a"), outer("b")];
        settle().await;
        gate.open();
        for reader in readers {
            assert_eq!(soon(reader).await.unwrap(), 1);
        }
        cache.invalidate(group("inner")).await.unwrap();
        let found: Vec<Option<u32>> = cache.get_many(["a", "b"].map(|key| (key, group("outer")))).await;
        let stale = found.iter().filter(|value| value.is_none()).count();
        assert_eq!(stale, if declared { 2 } else { 1 }, "as documented");
    }
}

/// A task that loads for others, such as a data loader.
fn data_loader(cache: Cache<MemoryBackend>) -> mpsc::UnboundedSender<oneshot::Sender<u32>> {
    let (send, mut requests) = mpsc::unbounded_channel::<oneshot::Sender<u32>>();
    tokio::spawn(async move {
        while let Some(reply) = requests.recv().await {
            reply.send(inner(&cache, 1).await).unwrap();
        }
    });
    send
}

#[tokio::test]
async fn a_data_loader_is_in_no_load_and_its_callers_depend_themselves() {
    for declared in [false, true] {
        let load = |cache: Cache<_>| async move {
            let requests = data_loader(cache);
            if declared {
                depend(group("inner")).await;
            }
            let (reply, value) = oneshot::channel();
            requests.send(reply).unwrap();
            value.await.unwrap()
        };
        assert_eq!(depends_on_inner(load).await, declared, "as documented");
    }
}

#[tokio::test]
async fn what_a_task_declares_after_the_end_of_its_load_is_counted() {
    let (cache, gate) = (memory(), Gate::new());
    let (task, spawned) = (std::sync::Mutex::new(None), &cache);
    load_with(&cache, "outer", group("outer"), || async {
        let (cache, gate) = (spawned.clone(), Arc::clone(&gate));
        let work = async move {
            gate.pass().await;
            depend(groups(["a", "b"])).await;
            LoadContext::current().unwrap().depend_late(group("c"));
            inner(&cache, 1).await
        };
        *task.lock().unwrap() = Some(tokio::spawn(LoadContext::inherit(work)));
        1
    })
    .await;
    assert_eq!(cache.stats().dependencies_after_load, 0);
    gate.open();
    let task = task.lock().unwrap().take().unwrap();
    assert_eq!(soon(task).await.unwrap(), 1);
    assert_eq!(cache.stats().dependencies_after_load, 4);
    cache.invalidate(groups(["a", "b", "c", "inner"])).await.unwrap();
    assert_eq!(cache.get("outer", group("outer")).await, Some(1));
}

#[tokio::test]
async fn a_load_whose_task_is_aborted_during_a_read_is_not_stored() {
    let cache = memory();
    let gate = Gate::new();
    load_with(&cache, "outer", group("outer"), || async {
        let (inner, behind) = (cache.clone(), Arc::clone(&gate));
        let read = async move {
            let load = || async move {
                behind.pass().await;
                Ok::<_, Infallible>(1_u32)
            };
            inner.get_or_load("inner", group("inner"), load).await
        };
        let task = tokio::spawn(LoadContext::inherit(read));
        gate.reached().await;
        task.abort();
        assert!(task.await.unwrap_err().is_cancelled());
        1
    })
    .await;
    assert_eq!(cache.stats().stores, 0);
}
