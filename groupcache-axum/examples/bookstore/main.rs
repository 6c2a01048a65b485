//! A small bookstore: HTML pages, a JSON API and feeds over SQLite or PostgreSQL.
//!
//! Its pages are cached until the data they show changes. `routes.rs` declares what each page depends on, and
//! `watches` in `model.rs` what each row concerns. Triggers in the database invalidate the pages, whichever
//! program wrote. This file starts the program and shuts it down.

mod api;
mod arguments;
mod cache_control;
mod database;
mod error;
mod feeds;
mod layout;
mod model;
mod open;
mod pages;
mod render;
mod routes;
mod state;

use std::fmt::Display;
use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::process::ExitCode;
use std::time::Duration;

use axum::Router;
use groupcache_axum::Pages;
use groupcache_core::{BoxBackend, Cache};
use groupcache_memcached::MemcachedBackend;
use groupcache_memory::MemoryBackend;
use groupcache_redis::RedisBackend;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::arguments::{Arguments, Backend, Command};
use crate::open::{Location, OpenError, Opened};
use crate::state::AppState;

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = match arguments::parse(std::env::args_os()) {
        Ok(Command::Run(arguments)) => arguments,
        Ok(Command::Help) => {
            print_line(arguments::HELP.trim_end());
            return ExitCode::SUCCESS;
        }
        Err(error) => return exit_with(&error),
    };
    match run(arguments).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => exit_with(&error),
    }
}

/// Why the program cannot run. Names the option to change, if there is one.
#[derive(Debug, thiserror::Error)]
enum RunError {
    #[error("--listen {address}: {source}")]
    Listen { address: SocketAddr, source: io::Error },
    #[error("--database {location}: {source}")]
    Database { location: Location, source: OpenError },
    #[error("--backend: {0}")]
    Backend(groupcache_core::Error),
    #[error("invalid routes: {0}")]
    Routes(#[from] groupcache_core::Error),
    #[error("listening for the shutdown signal failed: {0}")]
    Signal(io::Error),
}

async fn run(arguments: Arguments) -> Result<(), RunError> {
    let unable_to_listen = |source| RunError::Listen { address: arguments.listen, source };
    let listener = TcpListener::bind(arguments.listen).await.map_err(unable_to_listen)?;
    let listen_url = listen_url(listener.local_addr().map_err(unable_to_listen)?);

    let shutdown = shutdown_signal().map_err(RunError::Signal)?;
    let (sender, is_shutting_down) = watch::channel(false);
    tokio::spawn(async move {
        shutdown.await;
        sender.send_replace(true);
    });

    let (backend, memory) = backend(&arguments.backend).await?;
    let backend_name = groupcache_core::Backend::name(&backend);
    let cache = Cache::builder(backend).build();
    let Opened { database, relay } =
        open::open(&arguments.database, &cache, memory, shut_down(is_shutting_down.clone()))
            .await
            .map_err(|source| RunError::Database { location: arguments.database.clone(), source })?;

    print_line(format_args!("Bookstore: {listen_url}/"));
    print_line(format_args!("Database:  {}", arguments.database));
    print_line(format_args!("Backend:   {backend_name}"));

    let state = AppState { database, pages: Pages::new(cache), listen_url: listen_url.into() };
    let router = routes::router(state.clone())?;
    serve(listener, router, &state, relay, is_shutting_down).await.map_err(unable_to_listen)
}

/// Completes when the program is to shut down.
async fn shut_down(mut is_shutting_down: watch::Receiver<bool>) {
    drop(is_shutting_down.wait_for(|is_shutting_down| *is_shutting_down).await);
}

/// Opens the backend. If its server cannot be reached, the program starts nevertheless: every request runs
/// its handler until the server can be reached. Returns the backend a second time if it is in this process.
async fn backend(chosen: &Backend) -> Result<(BoxBackend, Option<MemoryBackend>), RunError> {
    let redis = match chosen {
        Backend::Memory => {
            let memory = MemoryBackend::with_max_bytes(CACHE_BYTES_MAX);
            return Ok((BoxBackend::new(memory.clone()), Some(memory)));
        }
        Backend::Redis(url) => RedisBackend::builder(url),
        Backend::RedisCluster(nodes) => RedisBackend::builder(&nodes[0]).cluster(&nodes[1..]),
        Backend::Memcached(servers) => {
            let memcached = MemcachedBackend::builder(servers).key_prefix("bookstore").build();
            let memcached = memcached.map_err(RunError::Backend)?;
            tolerate_transient(memcached.connect().await)?;
            return Ok((BoxBackend::new(memcached), None));
        }
    };
    let redis = redis.key_prefix("bookstore").build().map_err(RunError::Backend)?;
    tolerate_transient(redis.connect().await)?;
    Ok((BoxBackend::new(redis), None))
}

/// Logs a transient error, and returns any other one.
fn tolerate_transient(connected: groupcache_core::Result<()>) -> Result<(), RunError> {
    match connected {
        Err(error) if error.is_transient() => {
            error::log(format_args!("bookstore: starting without the backend: {error}"))
        }
        connected => connected.map_err(RunError::Backend)?,
    }
    Ok(())
}

/// Serves until the program is to shut down, then lets open requests and the relay finish within
/// [`GRACE_PERIOD`].
///
/// A write whose client has disconnected needs no care: if it is committed, its pages are invalidated, by the
/// relay of the next start if need be.
async fn serve(
    listener: TcpListener,
    router: Router,
    state: &AppState,
    relay: JoinHandle<()>,
    is_shutting_down: watch::Receiver<bool>,
) -> io::Result<()> {
    let server = axum::serve(listener, router)
        .with_graceful_shutdown(shut_down(is_shutting_down.clone()))
        .into_future();
    let finish = async {
        server.await?;
        relay.await.map_err(io::Error::other)?;
        state.database.close().await;
        Ok(())
    };
    let grace_period_over = async {
        shut_down(is_shutting_down).await;
        tokio::time::sleep(GRACE_PERIOD).await;
    };
    tokio::select! {
        result = finish => result,
        () = grace_period_over => Ok(()),
    }
}

/// Returns a future that completes on ctrl-c or SIGTERM. Registers for both at once, so that a signal before
/// the first poll is not lost.
#[cfg(unix)]
fn shutdown_signal() -> io::Result<impl Future<Output = ()> + Send> {
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

/// Returns a future that completes on ctrl-c.
#[cfg(not(unix))]
fn shutdown_signal() -> io::Result<impl Future<Output = ()> + Send> {
    Ok(async {
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending().await
        }
    })
}

/// Returns the URL to use in links: one that can be visited even if the server listens on every address.
fn listen_url(mut address: SocketAddr) -> String {
    if address.ip().is_unspecified() {
        address.set_ip(match address.ip() {
            IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        });
    }
    format!("http://{address}")
}

/// Prints an error in one line, and returns the exit code of a program that could not run.
fn exit_with(error: &dyn Display) -> ExitCode {
    let line = error.to_string().replace(['\n', '\r'], " ");
    error::log(format_args!("bookstore: {line}"));
    ExitCode::from(2)
}

/// Prints a line to standard output. Unlike `println!`, does not panic if it is closed.
fn print_line(line: impl Display) {
    let _written = writeln!(io::stdout(), "{line}");
}

/// How long open requests may take to finish during a shutdown.
const GRACE_PERIOD: Duration = Duration::from_secs(10);

/// The memory limit of the cached pages.
const CACHE_BYTES_MAX: u64 = 64 << 20;
