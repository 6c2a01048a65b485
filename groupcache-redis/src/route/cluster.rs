//! A Redis Cluster: sends each command to the node that owns the slot of its key.
//!
//! The cluster connection of the client does not report which node answered, and without that a token is no
//! generation. So each primary has a connection of its own here, with the incarnation that it leads to. The
//! topology only decides which node is tried first: a node serves the slots that it owns, and redirects to
//! another node for the rest
//! (<https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/>).

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::join_all;
use groupcache_core::ErrorKind;
use groupcache_core::backend::CircuitBreaker;
use redis::{ConnectionInfo, Pipeline};
use tokio::time::Instant;

use crate::error::Failure;
use crate::route::member::{Keys, Member};
use crate::route::node::{Node, Part, RequestKind, Response};
use crate::route::progress::{Moved, Progress};
use crate::route::topology::{Address, Topology};
use crate::server::Server;
use crate::settings::{ConnectionSettings, Target, with_address};

/// All primaries of a cluster. Cheap to clone; clones share topology and connections.
#[derive(Clone)]
pub(crate) struct Cluster(Arc<Inner>);

struct Inner {
    /// Where to query the topology at first. The first of them also has the login for every node.
    seeds: Vec<ConnectionInfo>,
    settings: Arc<ConnectionSettings>,
    /// Has the settings for the circuit breakers of the nodes.
    breaker: CircuitBreaker,
    state: Mutex<State>,
    /// Held while the topology is refreshed.
    refreshing: tokio::sync::Mutex<()>,
    refreshing_in_background: AtomicBool,
}

#[derive(Default)]
struct State {
    topology: Option<Arc<Topology>>,
    members: HashMap<Address, Member>,
    /// When the topology was last queried, with or without success.
    queried_at: Option<Instant>,
    /// Whether a redirect or a failure contradicts the topology.
    outdated: bool,
}

/// What is known about the topology, and what to do before it is used.
enum Known {
    Nothing,
    Current(Arc<Topology>),
    /// Old enough for a refresh in the background. Only that finds new nodes.
    Due(Arc<Topology>),
    /// Outdated, and its last refresh was long enough ago.
    Outdated(Arc<Topology>),
}

/// A refresh of the topology that no caller waits for. Another may start when this is dropped.
struct BackgroundRefresh(Arc<Inner>);

/// The parts that one node received in a round, and its responses.
struct Delivery<X> {
    parts: Vec<Part>,
    outcome: Result<Vec<Response<X>>, Failure>,
}

impl Cluster {
    pub(crate) fn new(
        seeds: Vec<ConnectionInfo>,
        settings: Arc<ConnectionSettings>,
        breaker: CircuitBreaker,
    ) -> Self {
        Self(Arc::new(Inner {
            seeds,
            settings,
            breaker,
            state: Mutex::default(),
            refreshing: tokio::sync::Mutex::default(),
            refreshing_in_background: AtomicBool::new(false),
        }))
    }

    pub(crate) fn waits_for_replicas(&self) -> bool {
        self.0.settings.wait_for_replicas.is_some()
    }

    pub(crate) fn is_circuit_open(&self) -> bool {
        self.0.lock().members.values().any(Member::is_circuit_open)
    }

    /// Sends commands to the nodes of some keys, and returns the outcome for each key. See
    /// [`Route::send`](crate::route::Route::send).
    pub(crate) async fn send<X: Send>(
        &self,
        kind: RequestKind,
        names: &[Vec<u8>],
        compose: &(impl Fn(usize, &Server, &mut Pipeline) -> X + Send + Sync),
    ) -> Vec<Result<Response<X>, Failure>> {
        let deliver = |member: Member, parts: Vec<Part>| async move {
            let outcome = member.send(kind, &parts, compose).await;
            Delivery { parts, outcome }
        };
        self.in_rounds(names, deliver).await
    }

    /// Reads the values of some keys from their nodes, and returns the outcome for each key.
    pub(crate) async fn read(&self, keys: &Keys<'_>) -> Vec<Result<Response<bool>, Failure>> {
        let deliver = |member: Member, parts: Vec<Part>| async move {
            let outcome = member.read(&parts, keys).await;
            Delivery { parts, outcome }
        };
        self.in_rounds(keys.names, deliver).await
    }

    /// Delivers one round to all nodes concerned at the same time, and another round of what they redirected
    /// or what did not reach them.
    ///
    /// A node that does not answer fails what it has and nothing else.
    async fn in_rounds<X, Delivering: Future<Output = Delivery<X>>>(
        &self,
        names: &[Vec<u8>],
        deliver: impl Fn(Member, Vec<Part>) -> Delivering,
    ) -> Vec<Result<Response<X>, Failure>> {
        let mut progress = Progress::new(names.len());
        for _ in 0..ROUNDS_MAX {
            let topology = match self.topology(progress.needs_refresh()).await {
                Ok(topology) => topology,
                Err(failure) => return progress.abort(failure),
            };
            let round = progress.next_round(names, &topology);
            let deliveries = round.into_iter().map(|(to, parts)| deliver(self.0.member(&to), parts));
            for Delivery { parts, outcome } in join_all(deliveries).await {
                match outcome {
                    Ok(responses) => {
                        if progress.accept(&parts, responses) == Moved::Yes {
                            self.0.lock().outdated = true;
                        }
                    }
                    Err(failure) => {
                        self.0.lock().outdated = true;
                        progress.fail(&parts, failure);
                    }
                }
            }
            if progress.is_complete() {
                break;
            }
        }
        progress.finish()
    }

    /// Returns the node that owns the slot of a key.
    pub(crate) async fn node_of(&self, name: &[u8]) -> Result<Node, Failure> {
        let topology = self.topology(false).await?;
        Ok(self.0.member(topology.owner(name)?).node)
    }

    /// Returns all primaries.
    pub(crate) async fn nodes(&self) -> Result<Vec<Node>, Failure> {
        let topology = self.topology(true).await?;
        Ok(topology.primaries.iter().map(|address| self.0.member(address).node).collect())
    }

    /// Returns the topology. If a request needs a refresh and one is due, waits for it. Otherwise the refresh
    /// happens in the background: one node that does not answer must not delay requests to the others.
    async fn topology(&self, needs_refresh: bool) -> Result<Arc<Topology>, Failure> {
        match self.0.known_topology() {
            Known::Nothing => self.0.refresh().await,
            Known::Current(topology) => Ok(topology),
            // The old one will do if there is no other: nodes redirect what they do not own.
            Known::Outdated(topology) if needs_refresh => Ok(self.0.refresh().await.unwrap_or(topology)),
            Known::Due(topology) | Known::Outdated(topology) => {
                self.refresh_in_background();
                Ok(topology)
            }
        }
    }

    fn refresh_in_background(&self) {
        if !self.0.refreshing_in_background.swap(true, Ordering::SeqCst) {
            let refresh = BackgroundRefresh(Arc::clone(&self.0));
            tokio::spawn(async move {
                // If this fails and the topology is wrong, the next redirect marks it as outdated.
                let _result = refresh.0.refresh().await;
            });
        }
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn known_topology(&self) -> Known {
        let state = self.lock();
        let Some(topology) = state.topology.clone() else { return Known::Nothing };
        let age = state.queried_at.map(|queried_at| queried_at.elapsed());
        let is_due = age.is_none_or(|age| {
            age > self.settings.watch_interval || state.outdated && age > REFRESH_PAUSE_MIN
        });
        match (is_due, state.outdated) {
            (false, _) => Known::Current(topology),
            (true, false) => Known::Due(topology),
            (true, true) => Known::Outdated(topology),
        }
    }

    fn member(&self, address: &Address) -> Member {
        let mut state = self.lock();
        if let Some(member) = state.members.get(address) {
            return member.clone();
        }
        let info = with_address(&self.seeds[0], address.0.clone(), address.1);
        let node = Node::new(Target::ClusterNode(Box::new(info)), Arc::clone(&self.settings));
        let member = Member::new(node, self.breaker.for_another_server());
        state.members.insert(address.clone(), member.clone());
        member
    }

    /// Queries the topology, unless a concurrent caller has done so since this call began.
    async fn refresh(&self) -> Result<Arc<Topology>, Failure> {
        let began = Instant::now();
        let _one_at_a_time = self.refreshing.lock().await;
        {
            let state = self.lock();
            if let (Some(topology), Some(queried_at)) = (&state.topology, state.queried_at)
                && queried_at > began
            {
                return Ok(Arc::clone(topology));
            }
        }
        let queried_at = Instant::now();
        let limit = self.settings.connect_time_limit;
        let topology = tokio::time::timeout(limit, self.query_topology()).await;
        let mut state = self.lock();
        state.queried_at = Some(queried_at);
        match topology {
            Ok(Ok(topology)) => {
                let topology = Arc::new(topology);
                state.members.retain(|address, _| topology.primaries.contains(address));
                state.topology = Some(Arc::clone(&topology));
                state.outdated = false;
                Ok(topology)
            }
            Ok(Err(failure)) => Err(failure),
            Err(_) => Err(Failure::timeout(limit, "connect_time_limit")),
        }
    }

    /// Queries the nodes that are connected, those last that did not answer before, and then the seeds, until
    /// one answers.
    async fn query_topology(&self) -> Result<Topology, Failure> {
        let mut known: Vec<_> =
            self.lock().members.iter().map(|(to, member)| (to.clone(), member.clone())).collect();
        known.sort_by_cached_key(|(_, member)| member.is_circuit_open());
        let share = self.settings.connect_share(known.len() + self.seeds.len());
        for (address, member) in known {
            let Some(connection) = member.node.connector.current() else { continue };
            let query = Topology::query(&connection, &address.0);
            if let Ok(Some(topology)) = tokio::time::timeout(share, query).await {
                return Ok(topology);
            }
        }
        let mut first_failure = None;
        for seed in &self.seeds {
            let activity = format!("querying the topology of the cluster at {}", seed.addr());
            let query = Topology::query_seed(&self.settings, seed);
            let topology = match tokio::time::timeout(share, query).await {
                Ok(topology) => topology,
                Err(_) => Err(Failure::new(ErrorKind::Timeout, format!("no reply within {share:?}"))),
            };
            match topology {
                Ok(topology) => return Ok(topology),
                Err(failure) => {
                    first_failure = first_failure.or_else(|| Some(failure.while_doing(&activity)));
                }
            }
        }
        Err(first_failure
            .unwrap_or_else(|| Failure::new(ErrorKind::Configuration, "`cluster` has no addresses")))
    }
}

impl Drop for BackgroundRefresh {
    fn drop(&mut self) {
        self.0.refreshing_in_background.store(false, Ordering::SeqCst);
    }
}

/// How many rounds a request may take.
const ROUNDS_MAX: u32 = 5;

/// The minimum time between two queries of an outdated topology.
const REFRESH_PAUSE_MIN: Duration = Duration::from_millis(50);
