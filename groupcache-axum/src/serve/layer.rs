//! A tower layer that caches the responses of the service it wraps.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use bytes::Bytes;
use futures_util::TryFutureExt;
use futures_util::future::MapOk;
use groupcache_core::{Backend, BoxBackend};
use pin_project_lite::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use crate::serve::{Decision, Serving, decide};
use crate::view::View;

/// Caches the responses of a router or of any other service; see [`Pages::layer`](crate::Pages::layer).
///
/// Around a whole router the layer serves hits before routing. Path arguments are not known there, so use it
/// with [`ByRoute`](crate::ByRoute). Inside a router (`Router::layer`, `Router::route_layer`) they are known.
pub struct CacheLayer<B = BoxBackend> {
    view: Arc<View<B>>,
}

/// The service of a [`CacheLayer`]. Its errors are those of the inner service; the cache adds none.
pub struct CacheService<S, B = BoxBackend> {
    inner: S,
    view: Arc<View<B>>,
}

pin_project! {
    /// The future of a [`CacheService`].
    #[must_use = "futures do nothing unless polled"]
    pub struct ResponseFuture<F, E, T> {
        #[pin]
        serving: Serving<MapOk<F, fn(http::Response<T>) -> Response>, E>,
    }
}

impl<B> CacheLayer<B> {
    pub(crate) const fn new(view: Arc<View<B>>) -> Self {
        Self { view }
    }
}

impl<S, B> Layer<S> for CacheLayer<B> {
    type Service = CacheService<S, B>;

    fn layer(&self, inner: S) -> CacheService<S, B> {
        CacheService { inner, view: Arc::clone(&self.view) }
    }
}

impl<S, B, T> Service<Request> for CacheService<S, B>
where
    B: Backend,
    S: Service<Request, Response = http::Response<T>> + Clone + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
    T: http_body::Body<Data = Bytes> + Send + 'static,
    T::Error: Into<axum::BoxError>,
{
    type Response = Response;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future, S::Error, T>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let decision = match decide(&self.view, request) {
            Decision::Hit(response) => return ResponseFuture { serving: Serving::hit(response) },
            decision => decision,
        };
        // Call the service that was polled ready, and keep the clone; see "Be careful when cloning inner
        // services" in the documentation of `tower::Service`.
        let clone = self.inner.clone();
        let mut ready = std::mem::replace(&mut self.inner, clone);
        let into_axum: fn(http::Response<T>) -> Response = |response| response.map(Body::new);
        let call = move |request| ready.call(request).map_ok(into_axum);
        ResponseFuture { serving: decision.serve(&self.view, call) }
    }
}

impl<F, E, T> Future for ResponseFuture<F, E, T>
where
    F: Future<Output = Result<http::Response<T>, E>>,
{
    type Output = Result<Response, E>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        self.project().serving.poll(context)
    }
}

impl<B> Clone for CacheLayer<B> {
    fn clone(&self) -> Self {
        Self { view: Arc::clone(&self.view) }
    }
}

impl<S: Clone, B> Clone for CacheService<S, B> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone(), view: Arc::clone(&self.view) }
    }
}

impl<B> fmt::Debug for CacheLayer<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("CacheLayer").field(&self.view).finish()
    }
}

impl<S: fmt::Debug, B> fmt::Debug for CacheService<S, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CacheService").field("inner", &self.inner).field("view", &self.view).finish()
    }
}

impl<F, E, T> fmt::Debug for ResponseFuture<F, E, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ResponseFuture")
    }
}
