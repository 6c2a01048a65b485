//! Numbers the runs of handlers.

use std::sync::atomic::{AtomicU64, Ordering};

use axum::extract::Request;
use axum::handler::Handler;
use axum::http::{HeaderName, HeaderValue};
use axum::middleware::{self, Next};
use axum::response::Response;

/// The header with the number of the handler run that made a response. If two responses have the same number,
/// the second one came from the cache.
pub(crate) const X_RENDER: HeaderName = HeaderName::from_static("x-render");

static RUNS: AtomicU64 = AtomicU64::new(0);

/// Wraps a handler so that it counts its runs and marks its responses with [`X_RENDER`].
///
/// Wraps the handler, not the route: the cache around the handler can then respond without a run.
pub(crate) fn counted<H, T, S>(handler: H) -> impl Handler<T, S>
where
    H: Handler<T, S>,
    T: 'static,
    S: Clone + Send + Sync + 'static,
{
    handler.layer(middleware::from_fn(count))
}

async fn count(request: Request, handler: Next) -> Response {
    // Counted before the run, so that a run that is cancelled counts too.
    let run = RUNS.fetch_add(1, Ordering::Relaxed) + 1;
    let mut response = handler.run(request).await;
    response.headers_mut().insert(X_RENDER, HeaderValue::from(run));
    response
}
