//! What the public types are: `Send`, `Sync`, and small enough.

mod common;

use axum::Router;
use axum::handler::Handler;
use groupcache_axum::{
    ByRoute, CacheLayer, CacheService, CachedHandler, Changes, PageCall, PageRouter, Pages, PagesBuilder,
    ViewBuilder,
};
use groupcache_core::ByTag;
use tower::{Layer, Service};

use common::{get, pages};

async fn view() -> &'static str {
    "page"
}

#[test]
fn public_types_are_send_and_sync() {
    fn assert_send_sync<T: Send + Sync>() {}
    assert_send_sync::<ByRoute>();
    assert_send_sync::<CacheLayer>();
    assert_send_sync::<CacheService<Router>>();
    assert_send_sync::<CachedHandler<fn()>>();
    assert_send_sync::<Changes>();
    assert_send_sync::<PageCall>();
    assert_send_sync::<PageRouter>();
    assert_send_sync::<Pages>();
    assert_send_sync::<PagesBuilder>();
    assert_send_sync::<ViewBuilder>();
}

/// The router moves and boxes these futures for every request, hits included: the cost of a hit grows with
/// their size. They hold the response of a hit or the future of the inner service, whichever is larger. A
/// read of the cache, which is much larger than both, is boxed separately.
#[tokio::test]
async fn the_futures_of_a_handler_and_of_a_layer_are_small() {
    fn assert_at_most<F: Future + Send>(bytes_max: usize, future: F) {
        let bytes = size_of_val(&future);
        drop(future);
        assert!(bytes <= bytes_max, "{bytes} bytes");
    }
    let handler = pages().tagged("t").wrap(view);
    assert_at_most(160, Handler::<((),), ()>::call(handler, get("/page"), ()));

    let mut router: Router = Router::new().route("/page", axum::routing::get(view));
    let inner_bytes = size_of_val(&router.call(get("/page")));
    let mut service = pages().layer("site", ByTag::new("t")).unwrap().layer(router);
    assert_at_most(inner_bytes + 64, service.call(get("/page")));
}
