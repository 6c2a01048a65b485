//! Entries and tokens on one or several memcached servers.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::time::Duration;

use futures_util::future::join_all;
use groupcache_core::backend::{LeaseName, LeaseOwner, LeaseRequest, Leased, Lookup, Minted, TimeLeft};
use groupcache_core::{Backend, Clock, Entry, Error, Group, Groups, Key, Result};
use memcache::exp::{MetaCommand, MetaCommandResult as Answer};

use crate::advice::{self, Advice};
use crate::builder::MemcachedBackendBuilder;
use crate::error::{Failure, NAME};
use crate::handshake::ServerInfo;
use crate::placement::{Item, Placement};
use crate::server::{RequestKind, Server};

/// A backend on memcached servers. Cheap to clone; clones are the same backend and share its
/// connections.
#[derive(Clone)]
pub struct MemcachedBackend(Arc<Inner>);

pub(crate) struct Inner {
    /// Those of both lists, each once.
    pub(crate) servers: Vec<Server>,
    pub(crate) placement: Placement,
    /// Where invalidations go as well while the list of servers changes.
    pub(crate) overlap: Option<Placement>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) default_time_to_live: Duration,
    pub(crate) max_entry_bytes: Option<usize>,
    /// The longest time to live of an entry of this process, in seconds.
    pub(crate) max_time_to_live_seconds: AtomicU64,
    pub(crate) too_large_logged: AtomicBool,
}

/// What one server answered to its share of the items.
pub(crate) struct Share {
    pub(crate) server: usize,
    /// Which of the items.
    pub(crate) positions: Vec<usize>,
    pub(crate) answers: Result<Vec<Answer>>,
}

impl MemcachedBackend {
    /// Sets up a backend on these servers: `memcached://host:port,host:port`. The port is 11211 if it
    /// is not said.
    ///
    /// The names of the servers, as they are written here, decide which of them has which key: all
    /// processes must write them in the same way. Their order does not matter.
    pub fn builder(servers: impl Into<String>) -> MemcachedBackendBuilder {
        MemcachedBackendBuilder::new(servers.into())
    }

    pub(crate) fn from_inner(inner: Inner) -> Self {
        Self(Arc::new(inner))
    }

    /// Connects to all servers now instead of at the first use, for applications that would rather not
    /// start with a wrong address. One attempt; a later one is made by whatever uses the backend.
    ///
    /// # Errors
    ///
    /// Why there is no connection to the first server to which there is none: the message names it, and
    /// the setting to look at.
    pub async fn connect(&self) -> Result<()> {
        let attempts = join_all(self.0.servers.iter().map(Server::connected)).await;
        attempts.into_iter().try_for_each(|attempt| attempt.map(drop).map_err(Error::from))
    }

    /// What is dangerous, or a waste, in how the servers are configured. Logged at the first
    /// connection to each as well. One round trip.
    ///
    /// # Errors
    ///
    /// If one of the servers did not answer.
    pub async fn advice(&self) -> Result<Vec<Advice>> {
        let all = join_all(self.0.servers.iter().map(advice::of)).await;
        let all = all.into_iter().collect::<Result<Vec<_>, Failure>>()?;
        Ok(all.into_iter().flatten().collect())
    }

    /// The servers that the circuit breakers keep reads away from at the moment.
    #[must_use]
    pub fn open_circuits(&self) -> Vec<&str> {
        let open = self.0.servers.iter().filter(|server| server.breaker().is_open());
        open.map(Server::name).collect()
    }
}

impl Inner {
    /// Asks each server for its share of the items, all at the same time, each in one batch. `build`
    /// makes the commands for one item, the same number for each, and is told how often this share
    /// was sent before: what it makes up must be new each time.
    pub(crate) async fn ask(
        &self,
        kind: RequestKind,
        items: &[Item],
        build: impl Fn(usize, u32, &ServerInfo, &mut Vec<MetaCommand>) + Sync,
    ) -> Vec<Share> {
        let mut shares: Vec<(usize, Vec<usize>)> = Vec::with_capacity(self.servers.len());
        for (position, item) in items.iter().enumerate() {
            match shares.iter_mut().find(|(server, _)| *server == item.server) {
                Some((_, positions)) => positions.push(position),
                None => shares.push((item.server, vec![position])),
            }
        }
        let build = &build;
        let ask_one = |(server, positions): (usize, Vec<usize>)| async move {
            let build = |attempt: u32, info: &ServerInfo, commands: &mut Vec<MetaCommand>| {
                positions.iter().for_each(|position| build(*position, attempt, info, commands));
            };
            let answers = self.servers[server].ask(kind, build).await;
            Share { server, positions, answers }
        };
        match <[_; 1]>::try_from(shares) {
            Ok([share]) => vec![ask_one(share).await],
            Err(shares) => join_all(shares.into_iter().map(ask_one)).await,
        }
    }
}

impl Backend for MemcachedBackend {
    fn name(&self) -> &'static str {
        NAME
    }

    async fn lookup(&self, key: &Key, groups: &[Group], time_left: TimeLeft) -> Result<Lookup> {
        let looked = self.0.look(&[(key, groups)], time_left).await?;
        looked.into_iter().next().ok_or_else(|| Failure::unexpected("mg").into())
    }

    async fn lookup_many(&self, questions: &[(Key, Groups)]) -> Result<Vec<Lookup>> {
        let questions: Vec<_> = questions.iter().map(|(key, groups)| (key, &**groups)).collect();
        self.0.look(&questions, TimeLeft::NotNeeded).await
    }

    async fn mint(&self, groups: &[Group]) -> Result<Minted> {
        self.0.mint(groups).await
    }

    async fn lease(&self, request: &LeaseRequest<'_>) -> Result<Leased> {
        self.0.lease(request).await
    }

    async fn release(&self, lease: &LeaseName, owner: LeaseOwner) -> Result<()> {
        self.0.release(lease, owner).await
    }

    async fn bump(&self, groups: &[Group]) -> Result<()> {
        self.0.bump(groups).await
    }

    async fn store(&self, entry: &Arc<Entry>, time_to_live: Option<Duration>) -> Result<()> {
        match time_to_live.unwrap_or(self.0.default_time_to_live) {
            Duration::ZERO => self.delete(entry.key()).await,
            time_to_live => self.0.store(entry, time_to_live).await,
        }
    }

    async fn delete(&self, key: &Key) -> Result<()> {
        let items = self.0.everywhere(std::slice::from_ref(key), Placement::entry);
        self.0.remove(&items).await
    }

    fn default_time_to_live(&self) -> Option<Duration> {
        Some(self.0.default_time_to_live)
    }
}

impl fmt::Debug for MemcachedBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemcachedBackend")
            .field("servers", &self.0.placement.list.names())
            .field("key_prefix", &self.0.placement.key_prefix())
            .field("open_circuits", &self.open_circuits())
            .finish_non_exhaustive()
    }
}
