//! One server: sends commands about some keys in one pipeline, and returns the responses.

use std::sync::Arc;

use groupcache_core::ErrorKind;
use groupcache_core::backend::Generation;
use redis::{Pipeline, ServerErrorKind, Value};

use crate::connection::{Channel, Connection, Request};
use crate::error::Failure;
use crate::route::connector::Connector;
use crate::server::Server;
use crate::settings::{ConnectionSettings, ReplicaWait, Target};

/// The connection to one server, and how many replicas bumps wait for.
#[derive(Clone)]
pub(crate) struct Node {
    pub(crate) connector: Connector,
    replica_wait: Option<ReplicaWait>,
}

/// What a request is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RequestKind {
    /// Reads entries and their generations, so the server must still be in the incarnation of the connection.
    Lookup,
    /// Reads entries only.
    Entries,
    /// Reads generations only. The same holds as for lookups.
    Generations,
    /// Invalidates, and waits for replicas if that is set.
    Bump,
    /// Deletes an entry.
    Delete,
    /// Stores an entry.
    Store,
    Other,
}

/// The commands about one key.
pub(crate) struct Part {
    /// The index of the key in the request.
    pub(crate) index: usize,
    /// Whether another node redirected the commands to this one.
    pub(crate) redirected: bool,
    /// Whether another node owns the slot, and this node is only importing it (`ASK`). It then serves the key
    /// if each command follows an `ASKING`.
    pub(crate) importing: bool,
}

/// The replies to the commands about one key.
pub(crate) struct Response<X> {
    pub(crate) connection: Arc<Connection>,
    /// Whether another node owns the slot of the key.
    importing: bool,
    connector: Connector,
    replies: std::vec::IntoIter<Value>,
    /// What was sent in the commands, such as a token.
    pub(crate) sent: X,
}

/// A pipeline and what is needed to assign its replies to parts.
struct Batch<X> {
    pipeline: Pipeline,
    /// For each part, what was sent and in how many commands.
    sent: Vec<(X, usize)>,
}

/// The outcome of one attempt to send a pipeline.
pub(crate) enum Attempt {
    Replied(Vec<Value>),
    /// The connection is closed, or leads to another incarnation than the server is in. A new one may do.
    ConnectionLost(Failure),
    /// The replies took so long that the incarnation of the server is no longer certain.
    CheckNeeded,
}

impl Node {
    pub(crate) fn new(target: Target, settings: Arc<ConnectionSettings>) -> Self {
        let replica_wait = settings.wait_for_replicas;
        Self { connector: Connector::new(target, settings), replica_wait }
    }

    /// Sends the commands that `compose` adds for each of `parts` in one pipeline, and returns the responses
    /// in the same order.
    ///
    /// Retries once, on a new connection, if the connection turns out to be closed or to lead to another
    /// incarnation of the server. `compose` runs for each attempt.
    pub(crate) async fn send<X: Send>(
        &self,
        kind: RequestKind,
        parts: &[Part],
        compose: &(impl Fn(usize, &Server, &mut Pipeline) -> X + Send + Sync),
    ) -> Result<Vec<Response<X>>, Failure> {
        let wait = self.replica_wait.filter(|_| kind == RequestKind::Bump);
        let reads_generations = kind.reads_generations();
        // A redirect may lead to a node that received the slot a moment ago.
        let mut check = reads_generations && parts.iter().any(|part| part.redirected);
        let mut retried = false;
        loop {
            let connection = self.connector.connection().await?;
            check |= connection.confirms_every_request() || reads_generations && connection.is_check_due();
            let mut batch = Batch::compose(parts, &connection.server, compose);
            if let Some(wait) = wait {
                wait.put(&mut batch.pipeline);
            }
            match attempt(&self.connector, &connection, batch.pipeline, kind, check).await? {
                Attempt::Replied(replies) => {
                    let mut replies = replies.into_iter();
                    let responses = assign(parts, batch.sent, &self.connector, &connection, &mut replies);
                    // If every part was redirected, the server did nothing that replicas could acknowledge.
                    if let Some(wait) = wait.filter(|_| responses.iter().any(Response::is_final)) {
                        wait.check(&accept(&self.connector, &connection, replies.next())?)?;
                    }
                    return Ok(responses);
                }
                Attempt::ConnectionLost(failure) if retried => return Err(failure),
                Attempt::ConnectionLost(_) => retried = true,
                Attempt::CheckNeeded => check = true,
            }
        }
    }

    pub(crate) const fn waits_for_replicas(&self) -> bool {
        self.replica_wait.is_some()
    }
}

/// Sends `pipeline`, and with `check` confirms the incarnation of the server.
pub(crate) async fn attempt(
    connector: &Connector,
    connection: &Arc<Connection>,
    mut pipeline: Pipeline,
    kind: RequestKind,
    check: bool,
) -> Result<Attempt, Failure> {
    let asked_at = check.then(|| connection.query_identity(&mut pipeline));
    let mut replies = match connection.send_on(kind.channel(), &Request::Pipeline(pipeline)).await {
        Ok(replies) => replies,
        Err(failure) => {
            if failure.disconnects {
                connector.discard(connection);
            }
            return if failure.may_retry { Ok(Attempt::ConnectionLost(failure)) } else { Err(failure) };
        }
    };
    match asked_at {
        Some(asked_at) => {
            if let Err(failure) = connection.confirm_identity(asked_at, replies.pop()) {
                connector.discard(connection);
                return Ok(Attempt::ConnectionLost(failure));
            }
        }
        None if kind.reads_generations() && connection.is_check_due() => {
            return Ok(Attempt::CheckNeeded);
        }
        None => {}
    }
    Ok(Attempt::Replied(replies))
}

/// Assigns the replies to the parts that they belong to.
fn assign<X>(
    parts: &[Part],
    sent: Vec<(X, usize)>,
    connector: &Connector,
    connection: &Arc<Connection>,
    replies: &mut std::vec::IntoIter<Value>,
) -> Vec<Response<X>> {
    let mut responses = Vec::with_capacity(parts.len());
    for (part, (sent, commands)) in parts.iter().zip(sent) {
        let mut own = Vec::with_capacity(commands);
        for _ in 0..commands {
            if part.importing {
                let _asking = replies.next();
            }
            own.extend(replies.next());
        }
        responses.push(Response::new(part, connector, connection, own, sent));
    }
    responses
}

impl<X> Batch<X> {
    fn compose(
        parts: &[Part],
        server: &Server,
        compose: &impl Fn(usize, &Server, &mut Pipeline) -> X,
    ) -> Self {
        let mut pipeline = Pipeline::with_capacity(2 * parts.len() + 1);
        let mut sent = Vec::with_capacity(parts.len());
        for part in parts {
            if part.importing {
                let mut commands = Pipeline::new();
                let own = compose(part.index, server, &mut commands);
                for command in commands.cmd_iter() {
                    pipeline.cmd("ASKING").add_command(command.clone());
                }
                sent.push((own, commands.len()));
            } else {
                let before = pipeline.len();
                let own = compose(part.index, server, &mut pipeline);
                sent.push((own, pipeline.len() - before));
            }
        }
        Self { pipeline, sent }
    }
}

impl RequestKind {
    const fn reads_generations(self) -> bool {
        matches!(self, Self::Lookup | Self::Generations)
    }

    const fn channel(self) -> Channel {
        match self {
            Self::Lookup | Self::Entries | Self::Store => Channel::Entries,
            Self::Bump => Channel::Replicated,
            Self::Generations | Self::Delete | Self::Other => Channel::Generations,
        }
    }
}

impl ReplicaWait {
    fn put(self, pipeline: &mut Pipeline) {
        let millis = u64::try_from(self.time_limit.as_millis()).unwrap_or(u64::MAX).max(1);
        pipeline.cmd("WAIT").arg(self.replicas).arg(millis);
    }

    /// Fails unless enough replicas acknowledged.
    fn check(self, reply: &Value) -> Result<(), Failure> {
        let Self { replicas: required, time_limit } = self;
        match reply {
            Value::Int(replicas) if *replicas >= i64::from(required) => Ok(()),
            Value::Int(replicas) => Err(Failure::new(
                ErrorKind::Unavailable,
                format!(
                    "{replicas} replicas acknowledged within {time_limit:?}, but `wait_for_replicas` \
                     requires {required}"
                ),
            )
            .with_server_that_answers()),
            _ => Err(Failure::unexpected("WAIT")),
        }
    }
}

impl<X> Response<X> {
    pub(crate) fn new(
        part: &Part,
        connector: &Connector,
        connection: &Arc<Connection>,
        replies: Vec<Value>,
        sent: X,
    ) -> Self {
        Self {
            connection: Arc::clone(connection),
            importing: part.importing,
            connector: connector.clone(),
            replies: replies.into_iter(),
            sent,
        }
    }

    /// Returns the generation that `token` stands for on the node that sent it, or `None` if the node may not
    /// answer for the group.
    pub(crate) fn generation(&self, token: &[u8]) -> Option<Generation> {
        if self.is_importing() { None } else { self.connection.server.generation(token) }
    }

    /// Returns whether another node owns the slot of the key, so that a token from this node counts as
    /// missing.
    ///
    /// If the migration of the slot is cancelled, invalidations go to the owner again, and the token stays here
    /// as it is. If the migration begins once more, the token is visible again, and no incarnation has changed.
    pub(crate) fn is_importing(&self) -> bool {
        #[cfg(groupcache_mutants)]
        if groupcache_core::mutants::is_on("ask_counts") {
            return false;
        }
        self.importing
    }

    /// Returns the next reply, or a failure if it is an error.
    pub(crate) fn next(&mut self) -> Result<Value, Failure> {
        accept(&self.connector, &self.connection, self.replies.next())
    }

    /// Fails if one of the remaining replies is an error.
    pub(crate) fn finish(mut self) -> Result<(), Failure> {
        while self.replies.len() > 0 {
            self.next()?;
        }
        Ok(())
    }

    /// Returns the first redirect that `parse` finds in the replies.
    pub(crate) fn find_redirect<R>(&self, parse: impl Fn(&Value) -> Option<R>) -> Option<R> {
        self.replies.as_slice().iter().find_map(parse)
    }

    /// Returns whether no reply redirects to another node.
    fn is_final(&self) -> bool {
        let redirect = |reply: &Value| {
            let Value::ServerError(error) = reply else { return None };
            matches!(error.kind()?, ServerErrorKind::Moved | ServerErrorKind::Ask).then_some(())
        };
        self.find_redirect(redirect).is_none()
    }
}

/// Returns the reply, or a failure if it is an error. Discards the connection if the error shows that it
/// leads to the wrong server.
pub(crate) fn accept(
    connector: &Connector,
    connection: &Arc<Connection>,
    reply: Option<Value>,
) -> Result<Value, Failure> {
    let reply = reply.ok_or_else(|| Failure::unexpected("a command"))?;
    reply.extract_error().map_err(|error| {
        let failure = Failure::from(error);
        if failure.disconnects {
            connector.discard(connection);
        }
        failure
    })
}
