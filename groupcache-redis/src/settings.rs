//! What the builder sets up: where to connect, how, and how entries are kept.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use groupcache_core::{Clock, SystemClock};
use redis::{AsyncConnectionConfig, ConnectionAddr, ConnectionInfo};

/// The server that a connection leads to, and how to log in there.
#[derive(Clone)]
pub(crate) enum Target {
    Node(Box<ConnectionInfo>),
    /// A node of a cluster. Its incarnation also changes when it receives slots.
    ClusterNode(Box<ConnectionInfo>),
    Sentinel(Box<SentinelTarget>),
}

/// The primary that the sentinels name.
#[derive(Clone)]
pub(crate) struct SentinelTarget {
    pub(crate) sentinels: Vec<ConnectionInfo>,
    pub(crate) primary_name: String,
    /// User, password, database and TLS for the primary. The address comes from the sentinels.
    pub(crate) primary: ConnectionInfo,
}

/// How to connect, the same for all connections of a backend.
#[derive(Clone)]
pub(crate) struct ConnectionSettings {
    pub(crate) client_options: AsyncConnectionConfig,
    pub(crate) connect_time_limit: Duration,
    pub(crate) response_time_limit: Duration,
    pub(crate) watch_interval: Duration,
    pub(crate) backoff_min: Duration,
    pub(crate) backoff_max: Duration,
    /// The maximum age of what is known about the incarnation of a cluster node.
    pub(crate) cluster_check_interval: Duration,
    pub(crate) wait_for_replicas: Option<ReplicaWait>,
    /// A name under `key_prefix` that no key has, to try the permissions of the user with.
    pub(crate) trial_key: String,
    /// Whether a connection has logged the advice, which happens once per backend.
    pub(crate) advice_logged: Arc<AtomicBool>,
}

/// How many replicas a bump waits for, and for how long.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ReplicaWait {
    pub(crate) replicas: u32,
    pub(crate) time_limit: Duration,
}

/// How entries are kept.
pub(crate) struct EntrySettings {
    pub(crate) key_prefix: String,
    pub(crate) default_time_to_live: Duration,
    pub(crate) max_entry_bytes: usize,
    pub(crate) clock: Arc<dyn Clock>,
}

impl Target {
    pub(crate) const fn is_cluster_node(&self) -> bool {
        matches!(self, Self::ClusterNode(_))
    }
}

impl ConnectionSettings {
    /// Returns the part of the connect time limit that each of `count` servers gets if they are tried in
    /// turn. One that does not answer leaves time for the others.
    pub(crate) fn connect_share(&self, count: usize) -> Duration {
        self.connect_time_limit / u32::try_from(count + 1).unwrap_or(u32::MAX)
    }

    /// Returns how long each sentinel may take. All are queried at once, before and after the connection to
    /// the primary is made. One that does not answer leaves time for the rest.
    pub(crate) fn sentinel_time_limit(&self) -> Duration {
        self.connect_time_limit / 4
    }
}

impl Default for ConnectionSettings {
    fn default() -> Self {
        Self {
            client_options: AsyncConnectionConfig::new(),
            connect_time_limit: Duration::from_secs(1),
            response_time_limit: Duration::from_millis(500),
            watch_interval: Duration::from_secs(1),
            backoff_min: Duration::from_millis(50),
            backoff_max: Duration::from_secs(2),
            cluster_check_interval: Duration::ZERO,
            wait_for_replicas: None,
            trial_key: String::new(),
            advice_logged: Arc::default(),
        }
    }
}

impl Default for EntrySettings {
    fn default() -> Self {
        Self {
            key_prefix: "groupcache".into(),
            default_time_to_live: Duration::from_secs(30 * 24 * 3600),
            max_entry_bytes: ENTRY_BYTES_DEFAULT,
            clock: Arc::new(SystemClock),
        }
    }
}

/// Returns `info` with another address. TLS settings stay.
pub(crate) fn with_address(info: &ConnectionInfo, host: String, port: u16) -> ConnectionInfo {
    let address = match info.addr() {
        ConnectionAddr::TcpTls { insecure, tls_params, .. } => {
            ConnectionAddr::TcpTls { host, port, insecure: *insecure, tls_params: tls_params.clone() }
        }
        _ => ConnectionAddr::Tcp(host, port),
    };
    info.clone().set_addr(address)
}

/// Shows addresses only: the rest of a `ConnectionInfo` contains passwords.
impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Node(info) | Self::ClusterNode(info) => {
                f.debug_tuple("Node").field(&info.addr().to_string()).finish()
            }
            Self::Sentinel(target) => {
                let addresses: Vec<_> = target.sentinels.iter().map(|info| info.addr().to_string()).collect();
                f.debug_struct("Sentinel")
                    .field("addresses", &addresses)
                    .field("primary_name", &target.primary_name)
                    .finish()
            }
        }
    }
}

/// The longest string of the protocol (`proto-max-bulk-len`), less room for the key, groups and
/// generations that an entry has beside its body.
pub(crate) const ENTRY_BYTES_MAX: usize = (512 << 20) - (1 << 20);

/// A body that even 1 Gbit/s transfers in a quarter of the default read time limit.
pub(crate) const ENTRY_BYTES_DEFAULT: usize = 8 << 20;
