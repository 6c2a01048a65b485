//! A node of a cluster: its connections, its circuit breaker, and the reads that concurrent callers share.

use std::sync::Arc;

use futures_util::future::try_join_all;
use groupcache_core::Error;
use groupcache_core::backend::{BreakerCall, CircuitBreaker, SharedReads};
use redis::Pipeline;

use crate::error::Failure;
use crate::route::node::{Node, Part, RequestKind, Response};
use crate::route::reads::{NodeReads, Read, ReadMode};
use crate::server::Server;

/// A node of a cluster. Cheap to clone; clones are the same node.
#[derive(Clone)]
pub(crate) struct Member {
    pub(crate) node: Node,
    reads: Arc<SharedReads<NodeReads>>,
    breaker: Arc<CircuitBreaker>,
}

/// The keys of a lookup.
pub(crate) struct Keys<'a> {
    pub(crate) names: &'a [Vec<u8>],
    pub(crate) is_generation: &'a [bool],
    /// Whether the time left of each entry is read as well.
    pub(crate) time_left: bool,
}

impl Member {
    pub(crate) fn new(node: Node, breaker: CircuitBreaker) -> Self {
        let reads = NodeReads::shared(node.connector.clone(), ReadMode::OneByOne);
        Self { node, reads, breaker: Arc::new(breaker) }
    }

    pub(crate) fn is_circuit_open(&self) -> bool {
        self.breaker.is_open()
    }

    /// Sends commands; see [`Node::send`]. Invalidations and deletions are sent even while the breaker is open.
    pub(crate) async fn send<X: Send>(
        &self,
        kind: RequestKind,
        parts: &[Part],
        compose: &(impl Fn(usize, &Server, &mut Pipeline) -> X + Send + Sync),
    ) -> Result<Vec<Response<X>>, Failure> {
        let call = match kind {
            RequestKind::Bump | RequestKind::Delete => self.breaker.force_call(),
            _ => self.call()?,
        };
        let outcome = self.node.send(kind, parts, compose).await;
        record(call, &outcome);
        outcome
    }

    /// Reads the values of some of the keys, in requests that concurrent callers share.
    pub(crate) async fn read(&self, parts: &[Part], keys: &Keys<'_>) -> Result<Vec<Response<bool>>, Failure> {
        let call = self.call()?;
        // Keys that are on their way to this node are asked for in another way. Mostly there are none.
        let runs = parts.chunk_by(|one, next| one.importing == next.importing);
        let reads = runs.map(|run| NodeReads::read(&self.reads, keys.read(run)));
        let outcome = try_join_all(reads).await;
        record(call, &outcome);
        let outcome = outcome?;
        let connections: Vec<_> = outcome.iter().map(|replies| Arc::clone(&replies.connection)).collect();
        let runs = parts.chunk_by(|one, next| one.importing == next.importing);
        let mut responses = Vec::with_capacity(parts.len());
        for ((run, replies), connection) in runs.zip(outcome).zip(connections) {
            let mut values = replies.values.into_iter();
            for part in run {
                let time_left = keys.reads_time_left(part);
                let own = values.by_ref().take(if time_left { 3 } else { 1 }).collect();
                let connector = self.reads.exchange().connector();
                responses.push(Response::new(part, connector, &connection, own, time_left));
            }
        }
        Ok(responses)
    }

    fn call(&self) -> Result<BreakerCall<'_>, Failure> {
        self.breaker.try_call().ok_or_else(Failure::circuit_open)
    }
}

impl Keys<'_> {
    fn reads_time_left(&self, part: &Part) -> bool {
        self.time_left && !self.is_generation[part.index]
    }

    /// Returns what to read for parts in the order of their keys.
    fn read(&self, parts: &[Part]) -> Read {
        let name_bytes = self.names[parts[0].index].len();
        let mut names = Vec::with_capacity(parts.len() * name_bytes);
        for part in parts {
            names.extend_from_slice(&self.names[part.index]);
        }
        Read {
            names,
            name_bytes,
            times_left: if self.time_left {
                parts.iter().map(|part| self.reads_time_left(part)).collect()
            } else {
                Vec::new()
            },
            importing: parts[0].importing,
            generations: parts.iter().any(|part| self.is_generation[part.index]),
            redirected: parts.iter().any(|part| part.redirected),
        }
    }
}

fn record<T>(call: BreakerCall<'_>, outcome: &Result<T, Failure>) {
    match outcome {
        Ok(_) => call.succeeded(),
        Err(failure) if failure.server_answers => call.succeeded(),
        Err(failure) => call.record::<()>(&Err(Error::from(failure.clone()))),
    }
}
