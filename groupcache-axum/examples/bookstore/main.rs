//! A small bookstore: HTML pages, a JSON API and feeds over one SQLite file.
//!
//! Its pages are cached until the data they show changes: `routes.rs` says which page depends on
//! what, and `announce` in `api.rs` tells what a write has changed. This file starts the program
//! and ends it in good order.

mod api;
mod arguments;
mod cache_control;
mod database;
mod error;
mod feeds;
mod layout;
mod model;
mod pages;
mod render;
mod routes;

use std::fmt::Display;
use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use groupcache_axum::Pages;
use groupcache_core::{BoxBackend, Cache};
use groupcache_memcached::MemcachedBackend;
use groupcache_memory::MemoryBackend;
use groupcache_redis::RedisBackend;
use sqlx::SqlitePool;
use tokio::net::TcpListener;
use tokio::sync::{RwLock, watch};

use crate::arguments::{Arguments, Backend, Command};
use crate::database::OpenError;

/// How long open requests may take to finish once the program was told to end.
const GRACE: Duration = Duration::from_secs(10);

/// How much memory the cached pages may take.
const CACHE_BYTES: u64 = 64 << 20;

/// What every handler can reach.
#[derive(Clone)]
pub(crate) struct AppState {
    pub(crate) pool: SqlitePool,
    pub(crate) pages: Pages,
    /// Where this server listens, without a slash at the end: for links in answers to requests that
    /// do not say how they got here.
    pub(crate) base_url: Arc<str>,
    /// Every write guards this for reading until it is wholly done; the end of the program
    /// takes it for writing, and so waits for the writes whose client has already gone.
    pub(crate) writes: Arc<RwLock<()>>,
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = match arguments::parse(std::env::args_os()) {
        Ok(Command::Run(arguments)) => arguments,
        Ok(Command::Help) => {
            print_line(arguments::HELP.trim_end());
            return ExitCode::SUCCESS;
        }
        Err(error) => return refuse(&error),
    };
    match run(arguments).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => refuse(&error),
    }
}

/// Why the program cannot run, with the option to change if there is one.
#[derive(Debug, thiserror::Error)]
enum RunError {
    #[error("--listen {address}: {source}")]
    Listen { address: SocketAddr, source: io::Error },
    #[error("--database {path:?}: {source}")]
    Database { path: PathBuf, source: OpenError },
    #[error("--backend: {0}")]
    Backend(groupcache_core::Error),
    #[error("the routes: {0}")]
    Routes(#[from] groupcache_core::Error),
    #[error("unable to watch for the signal to end: {0}")]
    Signal(io::Error),
}

async fn run(arguments: Arguments) -> Result<(), RunError> {
    let unable_to_listen = |source| RunError::Listen { address: arguments.listen, source };
    let listener = TcpListener::bind(arguments.listen).await.map_err(unable_to_listen)?;
    let base_url = base_url(listener.local_addr().map_err(unable_to_listen)?);

    let pool = database::open(&arguments.database)
        .await
        .map_err(|source| RunError::Database { path: arguments.database.clone(), source })?;

    let end = end_signal().map_err(RunError::Signal)?;
    print_line(format_args!("Bookstore: {base_url}/"));
    print_line(format_args!("Database:  {}", arguments.database.display()));
    let backend = backend(&arguments.backend).await?;
    print_line(format_args!("Backend:   {}", groupcache_core::Backend::name(&backend)));

    let state = AppState {
        pool,
        pages: Pages::new(Cache::builder(backend).build()),
        base_url: base_url.into(),
        writes: Arc::default(),
    };
    let router = routes::router(state.clone())?;
    serve(listener, router, state, end).await.map_err(unable_to_listen)
}

/// Opens the backend. A server that is not there yet is no reason not to start: pages are made anew each
/// time until it is.
async fn backend(chosen: &Backend) -> Result<BoxBackend, RunError> {
    let redis = match chosen {
        Backend::Memory => return Ok(BoxBackend::new(MemoryBackend::with_max_bytes(CACHE_BYTES))),
        Backend::Redis(url) => RedisBackend::builder(url),
        Backend::RedisCluster(nodes) => RedisBackend::builder(&nodes[0]).cluster(&nodes[1..]),
        Backend::Memcached(servers) => {
            let memcached = MemcachedBackend::builder(servers).key_prefix("bookstore").build();
            let memcached = memcached.map_err(RunError::Backend)?;
            go_on_without(memcached.connect().await)?;
            return Ok(BoxBackend::new(memcached));
        }
    };
    let redis = redis.key_prefix("bookstore").build().map_err(RunError::Backend)?;
    go_on_without(redis.connect().await)?;
    Ok(BoxBackend::new(redis))
}

/// Says so if a server is not there yet.
fn go_on_without(connected: groupcache_core::Result<()>) -> Result<(), RunError> {
    match connected {
        Err(error) if error.is_transient() => {
            error::log(format_args!("bookstore: going on without: {error}"))
        }
        connected => connected.map_err(RunError::Backend)?,
    }
    Ok(())
}

/// Serves until `end` comes, then lets open requests and writes finish within [`GRACE`].
async fn serve(
    listener: TcpListener,
    router: Router,
    state: AppState,
    end: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    let (told_to_end, mut ending) = watch::channel(false);
    tokio::spawn(async move {
        end.await;
        told_to_end.send_replace(true);
    });

    let mut end_of_accepting = ending.clone();
    let server = axum::serve(listener, router)
        .with_graceful_shutdown(async move {
            drop(end_of_accepting.wait_for(|told| *told).await);
        })
        .into_future();

    let finish = async {
        server.await?;
        drop(state.writes.write().await);
        state.pool.close().await;
        Ok(())
    };
    let out_of_patience = async {
        drop(ending.wait_for(|told| *told).await);
        tokio::time::sleep(GRACE).await;
    };
    tokio::select! {
        result = finish => result,
        () = out_of_patience => Ok(()),
    }
}

/// Completes on ctrl-c or SIGTERM. Both are watched as soon as this returns, so that one which
/// comes before anybody waits is not lost.
#[cfg(unix)]
fn end_signal() -> io::Result<impl Future<Output = ()> + Send> {
    use tokio::signal::unix::{SignalKind, signal};

    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    })
}

/// Completes on ctrl-c.
#[cfg(not(unix))]
fn end_signal() -> io::Result<impl Future<Output = ()> + Send> {
    Ok(async {
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending().await
        }
    })
}

/// The address to put into links: one that can be visited even if we listen on every address.
fn base_url(mut address: SocketAddr) -> String {
    if address.ip().is_unspecified() {
        address.set_ip(match address.ip() {
            IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        });
    }
    format!("http://{address}")
}

/// Says in one line why the program does not run.
fn refuse(error: &dyn Display) -> ExitCode {
    let line = error.to_string().replace(['\n', '\r'], " ");
    error::log(format_args!("bookstore: {line}"));
    ExitCode::from(2)
}

/// Like `println!`, but a closed standard output is no reason to panic.
fn print_line(line: impl Display) {
    let _written = writeln!(io::stdout(), "{line}");
}
