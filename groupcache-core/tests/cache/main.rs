//! The promises of `Cache`, one test each.
//!
//! `tests/mutants` in the workspace shows that the tests of its guarantees fail on a cache that breaks them.

#![allow(clippy::unwrap_used, reason = "a test that panics has failed, as it should")]

mod clear;
mod debug_output;
mod dependencies;
mod discovered;
mod failures;
mod freshness;
mod herds;
mod keys;
mod leases;
mod limits;
mod load_many;
mod many;
mod many_flights;
mod memory;
mod nested;
mod safety;
mod single_flight;
mod stores;
mod strategies;
mod tasks;
mod values;
mod waits;
mod wrappers;

use std::convert::Infallible;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use groupcache_conformance::doubles::Gate;
use groupcache_core::{Backend, Cache, Group, Groups};
use groupcache_memory::MemoryBackend;
use tokio::task::JoinHandle;

fn memory() -> Cache<MemoryBackend> {
    Cache::builder(MemoryBackend::with_max_bytes(1 << 20)).build()
}

fn group(name: &str) -> Groups {
    Group::new(name).into()
}

fn groups<const COUNT: usize>(names: [&str; COUNT]) -> Groups {
    names.map(Group::new).into()
}

/// Reads `key`. The loader returns `value`.
async fn load<B: Backend>(cache: &Cache<B>, key: &str, groups: impl Into<Groups>, value: u32) -> u32 {
    load_with(cache, key, groups, || async move { value }).await
}

async fn load_with<B, F, Fut>(cache: &Cache<B>, key: &str, groups: impl Into<Groups>, loader: F) -> u32
where
    B: Backend,
    F: FnOnce() -> Fut + Send,
    Fut: Future<Output = u32> + Send,
{
    let loader = || async move { Ok::<_, Infallible>(loader().await) };
    match cache.get_or_load(key, groups, loader).await {
        Ok(value) => value,
        Err(impossible) => match impossible {},
    }
}

/// Starts a read whose load waits at `gate` before it returns `value`.
fn load_behind<B: Backend>(
    cache: &Cache<B>,
    key: &'static str,
    groups: Groups,
    gate: &Arc<Gate>,
    value: u32,
) -> JoinHandle<u32>
where
    Cache<B>: Clone,
{
    let (cache, gate) = (cache.clone(), Arc::clone(gate));
    tokio::spawn(async move {
        load_with(&cache, key, groups, || async move {
            gate.pass().await;
            value
        })
        .await
    })
}

/// Fails if `work` hangs. Most of these tests take less than a millisecond.
async fn soon<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(10), work).await.expect("hangs")
}

/// Lets the other tasks run until all of them wait.
async fn settle() {
    for _ in 0..32 {
        tokio::task::yield_now().await;
    }
}
