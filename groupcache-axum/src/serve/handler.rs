//! A cached axum handler, which is itself an axum handler.

use std::cell::RefCell;
use std::convert::Infallible;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::extract::Request;
use axum::handler::Handler;
use axum::response::Response;
use futures_util::FutureExt;
use futures_util::future::Map;
use groupcache_core::{Backend, BoxBackend};
use pin_project_lite::pin_project;

use crate::serve::{Serving, decide};
use crate::view::View;

/// A handler whose responses are cached; see [`ViewBuilder::wrap`](crate::ViewBuilder::wrap).
///
/// Implements [`Handler`] with the extractors and the state of the wrapped handler, so it can be routed in
/// its place.
pub struct CachedHandler<H, B = BoxBackend> {
    handler: H,
    view: Arc<View<B>>,
}

pin_project! {
    /// The future of a [`CachedHandler`].
    #[must_use = "futures do nothing unless polled"]
    pub struct HandlerFuture<F> {
        #[pin]
        serving: Serving<Map<F, fn(Response) -> Result<Response, Infallible>>, Infallible>,
    }
}

impl<H, B> CachedHandler<H, B> {
    pub(crate) const fn new(handler: H, view: Arc<View<B>>) -> Self {
        Self { handler, view }
    }

    /// Returns the view's name, for [`uncache`](crate::Pages::uncache).
    #[must_use]
    pub fn name(&self) -> &str {
        &self.view.name
    }
}

impl<H, T, S, B> Handler<T, S> for CachedHandler<H, B>
where
    H: Handler<T, S>,
    S: Send + 'static,
    B: Backend,
{
    type Future = HandlerFuture<H::Future>;

    fn call(self, request: Request, state: S) -> Self::Future {
        let handler = self.handler;
        let infallible: fn(Response) -> Result<Response, Infallible> = Ok;
        let call = move |request| handler.call(request, state).map(infallible);
        HandlerFuture { serving: decide(&self.view, request).serve(&self.view, call) }
    }
}

impl<F: Future<Output = Response>> Future for HandlerFuture<F> {
    type Output = Response;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Response> {
        self.project().serving.poll(context).map(|served| match served {
            Ok(response) => response,
            Err(never) => match never {},
        })
    }
}

thread_local! {
    /// Collects the views of cloned handlers during [`views_in`].
    static REPORT: RefCell<Option<Vec<Arc<dyn RoutedView>>>> = const { RefCell::new(None) };
}

/// A view of any backend, as a router checks it.
pub(crate) trait RoutedView: Send + Sync {
    fn check(&self, route: &str) -> groupcache_core::Result<()>;
}

impl<B: Backend> RoutedView for View<B> {
    fn check(&self, route: &str) -> groupcache_core::Result<()> {
        Self::check(self, route)
    }
}

/// Returns the views of the cached handlers in a method router. axum erases the types of its handlers, but
/// cloning the router clones each handler, and a [`CachedHandler`] reports its view when it is cloned.
pub(crate) fn views_in<T: Clone>(routes: &T) -> Vec<Arc<dyn RoutedView>> {
    struct Reset;
    impl Drop for Reset {
        fn drop(&mut self) {
            REPORT.take();
        }
    }
    REPORT.set(Some(Vec::new()));
    let _reset = Reset;
    drop(routes.clone());
    REPORT.take().unwrap_or_default()
}

impl<H: Clone, B: Backend> Clone for CachedHandler<H, B> {
    fn clone(&self) -> Self {
        REPORT.with_borrow_mut(|report| {
            if let Some(views) = report {
                views.push(Arc::clone(&self.view) as Arc<dyn RoutedView>);
            }
        });
        Self { handler: self.handler.clone(), view: Arc::clone(&self.view) }
    }
}

impl<H, B> fmt::Debug for CachedHandler<H, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("CachedHandler").field(&self.view).finish()
    }
}

impl<F> fmt::Debug for HandlerFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HandlerFuture")
    }
}
