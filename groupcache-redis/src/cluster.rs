//! A Redis Cluster: which node has which slot, and what is sent to which of them.
//!
//! The client's own cluster connection does not say which node answered, and a generation is nothing
//! without that. So each primary has a connection of its own here, with the life that it leads to, and
//! all that is taken from the cluster's topology is where to ask first: a node answers for slots that it
//! has and points to another one for all others
//! (<https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/>).

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::join_all;
use groupcache_core::ErrorKind;
use redis::{Cmd, ConnectionAddr, ConnectionInfo, Pipeline, ServerErrorKind, Value};
use tokio::time::Instant;

use crate::connection::{Connected, Line, Request, Settings, Target, open};
use crate::error::Failure;
use crate::names::{SLOTS, slot};
use crate::route::{Aim, Answer, Node, Part, Waiting};
use crate::sentinel::at;
use crate::server::Server;

/// How often commands are sent on before the cluster is given up as too restless.
const ROUNDS: u32 = 5;
/// The least time between two looks at the topology.
const LOOK_PAUSE: Duration = Duration::from_millis(50);

/// Host and port.
type Address = (String, u16);

/// All primaries of a cluster. Cheap to clone; clones are the same.
#[derive(Clone)]
pub(crate) struct Cluster(Arc<Inner>);

struct Inner {
    /// Where to begin, and how to talk to every node.
    seeds: Vec<ConnectionInfo>,
    settings: Arc<Settings>,
    /// How many replicas a bump waits for, and for how long.
    wait: Option<(u32, Duration)>,
    state: Mutex<State>,
    looking: tokio::sync::Mutex<()>,
    looks_in_background: AtomicBool,
}

#[derive(Default)]
struct State {
    topology: Option<Arc<Topology>>,
    nodes: HashMap<Address, Node>,
    looked_at: Option<Instant>,
    outdated: bool,
}

/// Who has which slot, as one node told.
struct Topology {
    primaries: Vec<Address>,
    /// For each slot an index into them.
    owners: Vec<Option<usize>>,
}

/// One look at the topology that nobody waits for. Another may begin when this is dropped, however it ended.
struct LooksInBackground(Arc<Inner>);

/// A refusal that says who has the key.
struct Redirect {
    to: Address,
    /// Who has the slot, where only the key is there.
    asked_by: Option<Arc<Connected>>,
}

/// A part that is still to be sent, and where to if not to whom the topology names.
struct Pending {
    at: usize,
    redirect: Option<Redirect>,
}

impl Cluster {
    pub(crate) fn new(
        seeds: Vec<ConnectionInfo>,
        settings: Arc<Settings>,
        wait: Option<(u32, Duration)>,
    ) -> Self {
        Self(Arc::new(Inner {
            seeds,
            settings,
            wait,
            state: Mutex::default(),
            looking: tokio::sync::Mutex::default(),
            looks_in_background: AtomicBool::new(false),
        }))
    }

    pub(crate) fn waits_for_replicas(&self) -> bool {
        self.0.wait.is_some()
    }

    /// See [`Route::run`](crate::route::Route::run). One wave to all nodes concerned; another one for
    /// what was answered with where to look instead.
    pub(crate) async fn run<X: Send>(
        &self,
        aim: Aim,
        names: &[Vec<u8>],
        make: &(impl Fn(usize, &Server, &mut Pipeline) -> X + Send + Sync),
    ) -> Result<Vec<Answer<X>>, Failure> {
        let mut answers: Vec<Option<Answer<X>>> = names.iter().map(|_| None).collect();
        let mut pending: Vec<_> = (0..names.len()).map(|at| Pending { at, redirect: None }).collect();
        let mut lost: Option<Failure> = None;
        for _ in 0..ROUNDS {
            let topology = self.topology().await?;
            let mut waves: BTreeMap<Address, Vec<Part>> = BTreeMap::new();
            for Pending { at, redirect } in pending.drain(..) {
                let redirected = redirect.is_some();
                let (to, asked_by) = match redirect {
                    Some(Redirect { to, asked_by }) => (to, asked_by),
                    None => (topology.owner(&names[at])?.clone(), None),
                };
                waves.entry(to).or_default().push(Part { at, redirected, asked_by });
            }
            let sent = waves.into_iter().map(|(to, parts)| {
                let node = self.0.node(&to);
                async move {
                    let answered = node.send(aim, &parts, make).await;
                    (parts, answered)
                }
            });
            for (parts, answered) in join_all(sent).await {
                let answered = match answered {
                    Ok(answered) => answered,
                    Err(failure) => {
                        self.0.lock().outdated = true;
                        // Sent to nobody, or to a connection that was closed: somebody else may have the
                        // slot by now. Not after a time limit, and not twice.
                        if !failure.retry || lost.is_some() {
                            return Err(failure);
                        }
                        lost = Some(failure);
                        pending.extend(parts.iter().map(|part| Pending { at: part.at, redirect: None }));
                        continue;
                    }
                };
                for (part, answer) in parts.iter().zip(answered) {
                    match answer.find_redirect(|value| Redirect::parse(value, &answer)) {
                        None => answers[part.at] = Some(answer),
                        Some(redirect) => {
                            if redirect.asked_by.is_none() {
                                self.0.lock().outdated = true;
                            }
                            pending.push(Pending { at: part.at, redirect: Some(redirect) });
                        }
                    }
                }
            }
            if pending.is_empty() {
                return answers.into_iter().map(|answer| answer.ok_or_else(restless)).collect();
            }
        }
        Err(lost.unwrap_or_else(restless))
    }

    pub(crate) async fn node_of(&self, name: &[u8]) -> Result<Node, Failure> {
        let topology = self.topology().await?;
        Ok(self.0.node(topology.owner(name)?))
    }

    pub(crate) async fn nodes(&self) -> Result<Vec<Node>, Failure> {
        let topology = self.topology().await?;
        Ok(topology.primaries.iter().map(|address| self.0.node(address)).collect())
    }

    /// What is known; asked for where nothing is, or where somebody has found it wrong. Now and then
    /// looked at in the background too, as nodes that are new are not missed by anybody.
    async fn topology(&self) -> Result<Arc<Topology>, Failure> {
        let (known, due) = {
            let state = self.0.lock();
            let age = state.looked_at.map(|looked_at| looked_at.elapsed());
            let due = age
                .is_none_or(|age| age > self.0.settings.watch_interval || state.outdated && age > LOOK_PAUSE);
            (state.topology.clone().map(|topology| (topology, state.outdated)), due)
        };
        match known {
            Some((topology, _)) if !due => Ok(topology),
            Some((topology, false)) => {
                if !self.0.looks_in_background.swap(true, Ordering::SeqCst) {
                    let looking = LooksInBackground(Arc::clone(&self.0));
                    tokio::spawn(async move {
                        // Those who find it wrong will ask again.
                        let _tried = looking.0.look().await;
                    });
                }
                Ok(topology)
            }
            // Wrong, but it will do if nobody has a better one: the nodes themselves know what they have.
            Some((topology, true)) => Ok(self.0.look().await.unwrap_or(topology)),
            None => self.0.look().await,
        }
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn node(&self, address: &Address) -> Node {
        let mut state = self.lock();
        let node = state.nodes.entry(address.clone()).or_insert_with(|| {
            let line = |wait: Duration| {
                let info = at(&self.seeds[0], address.0.clone(), address.1);
                let settings = self.settings.with_target(Target::ClusterNode(Box::new(info)), wait);
                Line::new(Arc::new(settings))
            };
            let waiting = |(replicas, time_limit)| Waiting { line: line(time_limit), replicas, time_limit };
            Node { line: line(Duration::ZERO), waiting: self.wait.map(waiting) }
        });
        node.clone()
    }

    /// Asks the nodes that are known, then those that were named in the beginning, until one answers.
    async fn look(&self) -> Result<Arc<Topology>, Failure> {
        let began = Instant::now();
        let _one_at_a_time = self.looking.lock().await;
        {
            let state = self.lock();
            if let (Some(topology), Some(looked_at)) = (&state.topology, state.looked_at)
                && looked_at > began
            {
                return Ok(Arc::clone(topology));
            }
        }
        let asked_at = Instant::now();
        let found = tokio::time::timeout(self.settings.connect_time_limit, self.ask_around()).await;
        let mut state = self.lock();
        state.looked_at = Some(asked_at);
        match found {
            Ok(Ok(topology)) => {
                let topology = Arc::new(topology);
                state.nodes.retain(|address, _| topology.primaries.contains(address));
                state.topology = Some(Arc::clone(&topology));
                state.outdated = false;
                Ok(topology)
            }
            Ok(Err(failure)) => Err(failure),
            Err(_) => Err(Failure::timeout(self.settings.connect_time_limit, "connect_time_limit")),
        }
    }

    async fn ask_around(&self) -> Result<Topology, Failure> {
        let known: Vec<_> = self.lock().nodes.iter().map(|(to, node)| (to.clone(), node.clone())).collect();
        for (address, node) in known {
            let Some(connected) = node.line.up() else { continue };
            if let Ok(values) = connected.send(&Request::Command(cluster_slots())).await
                && let Some(topology) =
                    values.into_iter().next().and_then(|value| Topology::parse(&value, &address.0))
            {
                return Ok(topology);
            }
        }
        let mut why = None;
        let share =
            self.settings.connect_time_limit / u32::try_from(self.seeds.len() + 1).unwrap_or(u32::MAX);
        for seed in &self.seeds {
            let what = format!("asking {} for the topology of the cluster", seed.addr());
            let asked = match tokio::time::timeout(share, self.ask_seed(seed)).await {
                Ok(asked) => asked,
                Err(_) => Err(Failure::new(ErrorKind::Timeout, format!("no answer within {share:?}"))),
            };
            match asked {
                Ok(topology) => return Ok(topology),
                Err(failure) => why = why.or_else(|| Some(failure.while_doing(&what))),
            }
        }
        Err(why.unwrap_or_else(|| Failure::new(ErrorKind::Configuration, "`cluster` has no addresses")))
    }

    async fn ask_seed(&self, seed: &ConnectionInfo) -> Result<Topology, Failure> {
        let mut connection = open(&self.settings, seed.clone()).await?;
        let answer = connection.send_packed_command(&cluster_slots()).await?.extract_error();
        let answer = answer.map_err(|error| match error.code() {
            Some("ERR") => {
                Failure::new(ErrorKind::Configuration, "`cluster` is set, and this is no node of one")
            }
            _ => Failure::from(error),
        })?;
        let (ConnectionAddr::Tcp(host, _) | ConnectionAddr::TcpTls { host, .. }) = seed.addr() else {
            return Err(Failure::new(ErrorKind::Configuration, "a cluster has no socket files"));
        };
        Topology::parse(&answer, host)
            .ok_or_else(|| Failure::new(ErrorKind::Unavailable, "it knows of no node that has a slot"))
    }
}

impl Topology {
    /// An answer to `CLUSTER SLOTS`: first and last slot, then the primary, then its replicas. A node
    /// that does not know its own name is at the address that it was asked at. `None` if nobody has a slot.
    fn parse(answer: &Value, asked: &str) -> Option<Self> {
        let Value::Array(ranges) = answer else { return None };
        let mut topology = Self { primaries: Vec::new(), owners: vec![None; usize::from(SLOTS)] };
        for range in ranges {
            let Value::Array(range) = range else { return None };
            let [Value::Int(first), Value::Int(last), Value::Array(primary), ..] = range.as_slice() else {
                return None;
            };
            let [host, Value::Int(port), ..] = primary.as_slice() else { return None };
            let host = match host {
                Value::BulkString(host) if !host.is_empty() => String::from_utf8(host.clone()).ok()?,
                Value::SimpleString(host) if !host.is_empty() => host.clone(),
                _ => asked.to_owned(),
            };
            let address = (host, u16::try_from(*port).ok()?);
            let known = topology.primaries.iter().position(|known| *known == address);
            let at = known.unwrap_or_else(|| {
                topology.primaries.push(address);
                topology.primaries.len() - 1
            });
            let range = usize::try_from(*first).ok()?..=usize::try_from(*last).ok()?;
            topology.owners.get_mut(range)?.fill(Some(at));
        }
        (!topology.primaries.is_empty()).then_some(topology)
    }

    fn owner(&self, name: &[u8]) -> Result<&Address, Failure> {
        let owner = self.owners[usize::from(slot(name))].and_then(|at| self.primaries.get(at));
        owner.ok_or_else(|| Failure::new(ErrorKind::Unavailable, "no node of the cluster has the slot"))
    }
}

impl Redirect {
    /// `MOVED` or `ASK`, the slot, and an address whose host may be left out.
    fn parse<X>(value: &Value, answer: &Answer<X>) -> Option<Self> {
        let Value::ServerError(error) = value else { return None };
        let asking = match error.kind()? {
            ServerErrorKind::Moved => false,
            ServerErrorKind::Ask => true,
            _ => return None,
        };
        let (host, port) = error.details()?.split_ascii_whitespace().nth(1)?.rsplit_once(':')?;
        let host = match host {
            "" => answer.connected.host()?.to_owned(),
            host => host.to_owned(),
        };
        let asked_by = asking.then(|| Arc::clone(&answer.connected));
        Some(Self { to: (host, port.parse().ok()?), asked_by })
    }
}

impl Drop for LooksInBackground {
    fn drop(&mut self) {
        self.0.looks_in_background.store(false, Ordering::SeqCst);
    }
}

fn cluster_slots() -> Cmd {
    let mut command = Cmd::new();
    command.arg("CLUSTER").arg("SLOTS");
    command
}

fn restless() -> Failure {
    Failure::new(ErrorKind::Unavailable, "the slots of the cluster move too fast")
}
