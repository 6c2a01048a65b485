//! The connection to one server: established when it is first used, and again when it is lost.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};

use groupcache_core::ErrorKind;
use groupcache_core::backend::SharedConnection;

use crate::advice;
use crate::connection::{Connection, probe};
use crate::error::Failure;
use crate::route::left_servers::LeftServers;
use crate::route::sentinel::find_primary;
use crate::settings::{ConnectionSettings, Target};

/// Connects to one server. Does not retry what was sent. Cheap to clone; clones share the connection.
#[derive(Clone)]
pub(crate) struct Connector(Arc<Inner>);

struct Inner {
    target: Target,
    settings: Arc<ConnectionSettings>,
    shared: SharedConnection<Connection, Failure>,
    left: LeftServers,
}

impl Connector {
    pub(crate) fn new(target: Target, settings: Arc<ConnectionSettings>) -> Self {
        let shared = SharedConnection::new().backoff(settings.backoff_min, settings.backoff_max);
        let shared = if target.is_cluster_node() { shared.fail_fast() } else { shared };
        Self(Arc::new(Inner { target, settings, shared, left: LeftServers::default() }))
    }

    /// Returns the connection, and establishes one if there is none.
    pub(crate) async fn connection(&self) -> Result<Arc<Connection>, Failure> {
        self.0.shared.get(|| connect(Arc::clone(&self.0))).await
    }

    /// Returns the connection if there is one.
    pub(crate) fn current(&self) -> Option<Arc<Connection>> {
        self.0.shared.current()
    }

    /// Makes the next caller connect again, unless `connection` was replaced already.
    pub(crate) fn discard(&self, connection: &Arc<Connection>) {
        self.0.shared.discard(connection);
    }
}

/// Connects within the time limit, and starts what follows a connection: the watch and, once per backend,
/// the advice.
async fn connect(connector: Arc<Inner>) -> Result<Arc<Connection>, Failure> {
    let settings = &connector.settings;
    let limit = settings.connect_time_limit;
    let connection = match tokio::time::timeout(limit, establish(&connector.target, settings)).await {
        Ok(connection) => Arc::new(connection?),
        Err(_) => return Err(Failure::timeout(limit, "connect_time_limit")),
    };
    let activity = || format!("connecting to {}", connection.address);
    connector.left.enter(&connection.server).map_err(|failure| failure.while_doing(&activity()))?;
    if !settings.advice_logged.swap(true, Ordering::Relaxed) {
        let connection = Arc::clone(&connection);
        let waits_for_replicas = settings.wait_for_replicas.is_some();
        tokio::spawn(async move { advice::log(&connection, waits_for_replicas).await });
    }
    tokio::spawn(watch(Arc::downgrade(&connector), Arc::downgrade(&connection)));
    Ok(connection)
}

async fn establish(target: &Target, settings: &ConnectionSettings) -> Result<Connection, Failure> {
    let info = match target {
        Target::Node(info) | Target::ClusterNode(info) => (**info).clone(),
        Target::Sentinel(sentinel) => find_primary(settings, sentinel).await?,
    };
    let activity = format!("connecting to {}", info.addr());
    let connection = Connection::establish(settings, info, target.is_cluster_node()).await;
    let connection = connection.map_err(|failure| failure.while_doing(&activity))?;
    if let Target::Sentinel(sentinel) = target {
        // A primary that hung while it was replaced may have answered before it learns of its demotion.
        let primary = find_primary(settings, sentinel).await?;
        if *primary.addr() != connection.address {
            let message = "Sentinel named another primary in the meantime";
            return Err(Failure::new(ErrorKind::Unavailable, message).while_doing(&activity));
        }
    }
    Ok(connection)
}

/// Discards the connection when it notices what the connection itself does not show: the server hangs, its
/// network is gone, the address leads to another server by now, or the sentinels name another primary.
async fn watch(connector: Weak<Inner>, watched: Weak<Connection>) {
    let Some(interval) = connector.upgrade().map(|connector| connector.settings.watch_interval) else {
        return;
    };
    loop {
        tokio::time::sleep(interval).await;
        let Some(connection) = watched.upgrade() else { return };
        let is_current = connection.is_current().await;
        let Some(connector) = connector.upgrade() else { return };
        if !is_current || has_moved(&connector, &connection).await {
            tracing::debug!(address = %connection.address, "the connection is outdated");
            connector.shared.discard(&connection);
            return;
        }
    }
}

/// Returns whether a new connection would lead elsewhere.
///
/// If the name of the server leads to another one, others invalidate there, and the old server does not show
/// it: it can stay a primary. So the name is resolved again, and the server that answers is identified. If no
/// server answers twice, the connection counts as moved.
async fn has_moved(connector: &Inner, connection: &Connection) -> bool {
    let info = match &connector.target {
        Target::Node(info) | Target::ClusterNode(info) => (**info).clone(),
        Target::Sentinel(sentinel) => match find_primary(&connector.settings, sentinel).await {
            Ok(info) if *info.addr() != connection.address => return true,
            Ok(info) => info,
            // Sentinels that do not answer are no evidence.
            Err(_) => sentinel.primary.clone().set_addr(connection.address.clone()),
        },
    };
    #[cfg(groupcache_mutants)]
    if groupcache_core::mutants::is_on("address_unwatched") {
        return false;
    }
    let in_cluster = connector.target.is_cluster_node();
    for _ in 0..2 {
        let probe = probe(&connector.settings, info.clone(), in_cluster);
        let answered = tokio::time::timeout(connector.settings.connect_time_limit, probe).await;
        if let Ok(Ok(server)) = answered {
            return server != connection.server;
        }
    }
    true
}
