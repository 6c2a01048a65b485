//! The counters of the cache, and invalidation by path and by tag.

use axum::Json;
use axum::extract::{Path, State};
use groupcache_core::{ErrorKind, Stats};
use serde::Serialize;
use serde_json::{Value, json};

use crate::error::ApiError;
use crate::state::AppState;

/// The counters of the cache since the start.
#[derive(Serialize)]
pub(crate) struct CacheStats {
    backend: &'static str,
    misses: u64,
    loads_in_flight: usize,
    #[serde(flatten)]
    counters: Stats,
}

pub(crate) async fn stats(State(state): State<AppState>) -> Json<CacheStats> {
    let cache = state.pages.cache();
    let counters = cache.stats();
    Json(CacheStats {
        backend: cache.backend_name(),
        misses: counters.misses(),
        loads_in_flight: cache.loads_in_flight(),
        counters,
    })
}

/// Takes the path as the request's body.
pub(crate) async fn uncache_path(
    State(state): State<AppState>,
    body: String,
) -> Result<Json<Value>, ApiError> {
    let path = body.trim();
    state.pages.uncache_from_path(path).await.map_err(uncache_error)?;
    Ok(Json(json!({ "uncached": { "path": path } })))
}

pub(crate) async fn uncache_tag(
    State(state): State<AppState>,
    Path(tag): Path<String>,
) -> Result<Json<Value>, ApiError> {
    state.pages.uncache_from_tag(&tag).await.map_err(uncache_error)?;
    Ok(Json(json!({ "uncached": { "tag": tag } })))
}

fn uncache_error(error: groupcache_core::Error) -> ApiError {
    match error.kind() {
        ErrorKind::Configuration => ApiError::BadRequest(error.to_string()),
        _ => ApiError::NotInvalidated(error),
    }
}
