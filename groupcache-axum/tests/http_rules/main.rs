//! The HTTP rules: what is stored, under which key, and what is sent.

#[path = "../common/mod.rs"]
mod common;
mod conditions;
mod keys;
mod stale;
mod store;

use axum::Router;
use axum::extract::State;
use axum::handler::Handler;
use axum::routing::get;
use groupcache_axum::ViewBuilder;
use groupcache_memory::MemoryBackend;

use crate::common::{Runs, TestPages, pages};

/// Returns an application with one view, at `/page` and tagged `t`.
fn app<H, T>(
    handler: H,
    refine: fn(ViewBuilder<MemoryBackend>) -> ViewBuilder<MemoryBackend>,
) -> (TestPages, Router, Runs)
where
    H: Handler<T, Runs>,
    T: 'static,
{
    let (pages, runs) = (pages(), Runs::default());
    let view = refine(pages.tagged("t").named("page")).wrap(handler);
    let router = pages.router().route("/page", get(view)).build().unwrap();
    (pages, router.with_state(runs.clone()), runs)
}

fn plain(builder: ViewBuilder<MemoryBackend>) -> ViewBuilder<MemoryBackend> {
    builder
}

async fn count(State(runs): State<Runs>) -> String {
    runs.next().to_string()
}
