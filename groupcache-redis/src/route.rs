//! Which server a command goes to: the only one there is, or the one that has its key.

use std::sync::Arc;
use std::time::Duration;

use groupcache_core::backend::Generation;

use groupcache_core::ErrorKind;
use redis::{Pipeline, ServerErrorKind, Value};

use crate::cluster::Cluster;
use crate::connection::{Connected, Line, Request};
use crate::error::Failure;
use crate::server::Server;

pub(crate) enum Route {
    Node(Node),
    Cluster(Cluster),
}

/// The way to one server.
#[derive(Clone)]
pub(crate) struct Node {
    pub(crate) line: Line,
    /// For bumps that wait for replicas: a connection is deaf while it waits.
    pub(crate) waiting: Option<Waiting>,
}

/// How a bump makes sure that replicas have it.
#[derive(Clone)]
pub(crate) struct Waiting {
    pub(crate) line: Line,
    pub(crate) replicas: u32,
    pub(crate) time_limit: Duration,
}

/// What commands are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Aim {
    /// To know generations, which takes a server that is still in the life that is known of it.
    Generations,
    /// To invalidate, which may wait for replicas.
    Bump,
    Other,
}

/// Some commands about one key.
pub(crate) struct Part {
    /// Which of those that were asked for.
    pub(crate) at: usize,
    /// Whether another server said that it is to be sent to this one.
    pub(crate) redirected: bool,
    /// Who has the key's slot, if the server has the key only, and is told that this is known.
    pub(crate) asked_by: Option<Arc<Connected>>,
}

/// What a server said to the commands about one key.
pub(crate) struct Answer<X> {
    pub(crate) connected: Arc<Connected>,
    asked_by: Option<Arc<Connected>>,
    line: Line,
    values: std::vec::IntoIter<Value>,
    /// What was put into the commands.
    pub(crate) sent: X,
}

impl Route {
    /// Sends the commands that `make` puts together for each of `names`, all at the same time, and
    /// returns the answers in order. `make` is asked for each attempt, so that no token is ever sent
    /// twice.
    pub(crate) async fn run<X: Send>(
        &self,
        aim: Aim,
        names: &[Vec<u8>],
        make: impl Fn(usize, &Server, &mut Pipeline) -> X + Send + Sync,
    ) -> Result<Vec<Answer<X>>, Failure> {
        match self {
            Self::Node(node) => {
                let parts: Vec<_> =
                    (0..names.len()).map(|at| Part { at, redirected: false, asked_by: None }).collect();
                node.send(aim, &parts, &make).await
            }
            Self::Cluster(cluster) => cluster.run(aim, names, &make).await,
        }
    }

    /// The servers that have these names, as far as is known now.
    pub(crate) async fn servers(&self, names: &[Vec<u8>]) -> Result<Vec<Arc<Connected>>, Failure> {
        let mut servers = Vec::with_capacity(names.len());
        match self {
            Self::Node(node) => {
                let connected = node.line.connected().await?;
                servers.resize(names.len(), connected);
            }
            Self::Cluster(cluster) => {
                for name in names {
                    servers.push(cluster.node_of(name).await?.line.connected().await?);
                }
            }
        }
        Ok(servers)
    }

    /// Connections to all servers.
    pub(crate) async fn all(&self) -> Result<Vec<Arc<Connected>>, Failure> {
        match self {
            Self::Node(node) => Ok(vec![node.line.connected().await?]),
            Self::Cluster(cluster) => {
                let mut all = Vec::new();
                for node in cluster.nodes().await? {
                    all.push(node.line.connected().await?);
                }
                Ok(all)
            }
        }
    }

    pub(crate) fn waits_for_replicas(&self) -> bool {
        match self {
            Self::Node(node) => node.waiting.is_some(),
            Self::Cluster(cluster) => cluster.waits_for_replicas(),
        }
    }
}

impl Node {
    /// Sends in one pipeline: once, and once more on a new connection if this one turns out to be closed
    /// or to lead to another life of the server.
    pub(crate) async fn send<X: Send>(
        &self,
        aim: Aim,
        parts: &[Part],
        make: &(impl Fn(usize, &Server, &mut Pipeline) -> X + Send + Sync),
    ) -> Result<Vec<Answer<X>>, Failure> {
        let waiting = self.waiting.as_ref().filter(|_| aim == Aim::Bump);
        let line = waiting.map_or(&self.line, |waiting| &waiting.line);
        // Whoever is sent on may be sent to one that was given the slot a moment ago.
        let sent_on = aim == Aim::Generations && parts.iter().any(|part| part.redirected);
        let (mut retried, mut check) = (false, sent_on);
        loop {
            let connected = line.connected().await?;
            check |= aim == Aim::Generations && connected.is_check_due();
            let mut pipeline = Pipeline::with_capacity(2 * parts.len() + 1);
            let mut sent = Vec::with_capacity(parts.len());
            for part in parts {
                let before = pipeline.len();
                let (with, count) = if part.asked_by.is_some() {
                    let mut commands = Pipeline::new();
                    let with = make(part.at, &connected.server, &mut commands);
                    for command in commands.cmd_iter() {
                        pipeline.cmd("ASKING").add_command(command.clone());
                    }
                    (with, commands.len())
                } else {
                    let with = make(part.at, &connected.server, &mut pipeline);
                    (with, pipeline.len() - before)
                };
                sent.push((with, count));
            }
            if let Some(waiting) = waiting {
                let millis = u64::try_from(waiting.time_limit.as_millis()).unwrap_or(u64::MAX).max(1);
                pipeline.cmd("WAIT").arg(waiting.replicas).arg(millis);
            }
            // After the reads: a slot that was given back before them is known after them.
            let checking = check.then(|| connected.put_check(&mut pipeline));
            let mut values = match connected.send(&Request::Commands(pipeline)).await {
                Ok(values) => values,
                Err(failure) => {
                    if failure.disconnects {
                        line.discard(&connected);
                    }
                    if retried || !failure.retry {
                        return Err(failure);
                    }
                    retried = true;
                    continue;
                }
            };
            match checking {
                Some(asked_at) => {
                    if let Err(failure) = connected.checked(asked_at, values.pop()) {
                        // What was read belongs to another life than the connection.
                        line.discard(&connected);
                        if retried {
                            return Err(failure);
                        }
                        retried = true;
                        continue;
                    }
                }
                // It took too long to be sure that the server is still in the same life.
                None if aim == Aim::Generations && connected.is_check_due() => {
                    check = true;
                    continue;
                }
                None => {}
            }
            let mut values = values.into_iter();
            let mut answers = Vec::with_capacity(parts.len());
            for (part, (sent, count)) in parts.iter().zip(sent) {
                let mut own = Vec::with_capacity(count);
                for _ in 0..count {
                    if part.asked_by.is_some() {
                        values.next();
                    }
                    own.extend(values.next());
                }
                let (connected, line) = (Arc::clone(&connected), line.clone());
                let asked_by = part.asked_by.clone();
                answers.push(Answer { connected, asked_by, line, values: own.into_iter(), sent });
            }
            // Where all were sent on, nothing was done that replicas could have.
            let done = answers.iter().any(|answer| answer.find_redirect(is_redirect).is_none());
            if let Some(waiting) = waiting.filter(|_| done) {
                check_wait(waiting, line, &connected, values.next())?;
            }
            return Ok(answers);
        }
    }
}

fn is_redirect(value: &Value) -> Option<()> {
    let Value::ServerError(error) = value else { return None };
    matches!(error.kind()?, ServerErrorKind::Moved | ServerErrorKind::Ask).then_some(())
}

impl<X> Answer<X> {
    /// The generation that this token stands for where the answer came from.
    pub(crate) fn generation(&self, token: &[u8]) -> Option<Generation> {
        match &self.asked_by {
            None => self.connected.server.generation(token),
            Some(owner) => self.connected.server.importing_from(&owner.server).generation(token),
        }
    }

    /// The next answer that is no refusal.
    pub(crate) fn next(&mut self) -> Result<Value, Failure> {
        checked(&self.line, &self.connected, self.values.next())
    }

    /// All answers, unless one is a refusal.
    pub(crate) fn rest(mut self) -> Result<(), Failure> {
        while self.values.len() > 0 {
            self.next()?;
        }
        Ok(())
    }

    /// The first refusal that says where the key is.
    pub(crate) fn find_redirect<R>(&self, redirect: impl Fn(&Value) -> Option<R>) -> Option<R> {
        self.values.as_slice().iter().find_map(redirect)
    }
}

/// An answer that is no refusal. A refusal may mean that the connection leads nowhere useful.
pub(crate) fn checked(
    line: &Line,
    connected: &Arc<Connected>,
    value: Option<Value>,
) -> Result<Value, Failure> {
    let value = value.ok_or_else(|| Failure::unexpected("a command"))?;
    value.extract_error().map_err(|error| {
        let failure = Failure::from(error);
        if failure.disconnects {
            line.discard(connected);
        }
        failure
    })
}

fn check_wait(
    waiting: &Waiting,
    line: &Line,
    connected: &Arc<Connected>,
    value: Option<Value>,
) -> Result<(), Failure> {
    match checked(line, connected, value)? {
        Value::Int(replicas) if replicas >= i64::from(waiting.replicas) => Ok(()),
        Value::Int(replicas) => Err(Failure::new(
            ErrorKind::Unavailable,
            format!(
                "{replicas} replicas acknowledged within {:?}, `wait_for_replicas` asks for {}",
                waiting.time_limit, waiting.replicas
            ),
        )),
        _ => Err(Failure::unexpected("WAIT")),
    }
}
