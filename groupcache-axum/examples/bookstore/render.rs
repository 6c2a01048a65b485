//! What is common to all handlers that make pages: counting their runs, and absolute links.

use std::sync::atomic::{AtomicU64, Ordering};

use axum::extract::Request;
use axum::handler::Handler;
use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use axum::middleware::{self, Next};
use axum::response::Response;

use crate::AppState;

/// The header by which an answer tells which run of a handler made it. The same number twice
/// means that the second answer was kept from the first.
pub(crate) const X_RENDER: HeaderName = HeaderName::from_static("x-render");

static RUNS: AtomicU64 = AtomicU64::new(0);

/// The same handler, which counts its runs and marks its answers with [`X_RENDER`].
///
/// It wraps the handler itself, not the route, so that whatever is put around the route comes
/// outside of it and can answer without a run.
pub(crate) fn counted<H, T, S>(handler: H) -> impl Handler<T, S>
where
    H: Handler<T, S>,
    T: 'static,
    S: Clone + Send + Sync + 'static,
{
    handler.layer(middleware::from_fn(count))
}

/// Where the client reached this server, without a slash at the end, for absolute links. Pages are
/// cached for each host apart, so they may say it.
pub(crate) fn base_url(headers: &HeaderMap, state: &AppState) -> String {
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    host.map_or_else(|| state.base_url.to_string(), |host| format!("http://{host}"))
}

async fn count(request: Request, handler: Next) -> Response {
    // Counted before the run, so that one whose client goes away half-way counts too.
    let run = RUNS.fetch_add(1, Ordering::Relaxed) + 1;
    let mut response = handler.run(request).await;
    response.headers_mut().insert(X_RENDER, HeaderValue::from(run));
    response
}
