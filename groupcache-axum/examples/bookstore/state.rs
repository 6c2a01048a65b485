//! What the handlers share.

use std::sync::Arc;

use axum::http::{HeaderMap, header};
use groupcache_axum::Pages;

use crate::database::Database;

/// The state of the handlers.
#[derive(Clone)]
pub(crate) struct AppState {
    pub(crate) database: Database,
    pub(crate) pages: Pages,
    /// The URL of this server without a trailing slash, for links in responses to requests without a host.
    pub(crate) listen_url: Arc<str>,
}

impl AppState {
    /// Returns the URL at which the client reached this server, without a trailing slash, for absolute links.
    /// Pages may contain it because the host is part of their keys.
    pub(crate) fn base_url(&self, headers: &HeaderMap) -> String {
        let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
        host.map_or_else(|| self.listen_url.to_string(), |host| format!("http://{host}"))
    }
}
