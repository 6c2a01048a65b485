//! What a request to a cluster still has to send, and where.

use std::collections::BTreeMap;
use std::sync::Arc;

use groupcache_core::ErrorKind;
use redis::{ServerErrorKind, Value};

use crate::connection::Connection;
use crate::error::Failure;
use crate::route::node::{Part, Response};
use crate::route::topology::{Address, Topology};

/// One request to the cluster, between its rounds.
pub(crate) struct Progress<X> {
    responses: Vec<Option<Response<X>>>,
    pending: Vec<Pending>,
    /// The first failure that was retried.
    failure: Option<Failure>,
}

/// A part that is to be sent in the next round: where a node redirected it, or to the owner of its slot.
struct Pending {
    index: usize,
    redirect: Option<Redirect>,
}

/// An error reply that names the node which has the key.
struct Redirect {
    to: Address,
    /// The node that still owns the slot, if the other one is only importing it.
    slot_owner: Option<Arc<Connection>>,
}

/// Whether a response shows that the topology is outdated.
#[derive(PartialEq, Eq)]
pub(crate) enum Moved {
    Yes,
    No,
}

impl<X> Progress<X> {
    pub(crate) fn new(count: usize) -> Self {
        Self {
            responses: (0..count).map(|_| None).collect(),
            pending: (0..count).map(|index| Pending { index, redirect: None }).collect(),
            failure: None,
        }
    }

    /// Takes all pending parts, by the node that each is sent to.
    pub(crate) fn next_round(
        &mut self,
        names: &[Vec<u8>],
        topology: &Topology,
    ) -> Result<BTreeMap<Address, Vec<Part>>, Failure> {
        let mut round: BTreeMap<Address, Vec<Part>> = BTreeMap::new();
        for Pending { index, redirect } in self.pending.drain(..) {
            let redirected = redirect.is_some();
            let (to, slot_owner) = match redirect {
                Some(Redirect { to, slot_owner }) => (to, slot_owner),
                None => (topology.owner(&names[index])?.clone(), None),
            };
            round.entry(to).or_default().push(Part { index, redirected, slot_owner });
        }
        Ok(round)
    }

    /// Keeps the responses that are final. Parts that were redirected become pending again.
    pub(crate) fn accept(&mut self, parts: &[Part], responses: Vec<Response<X>>) -> Moved {
        let mut moved = Moved::No;
        for (part, response) in parts.iter().zip(responses) {
            match response.find_redirect(|reply| Redirect::parse(reply, &response.connection)) {
                None => self.responses[part.index] = Some(response),
                Some(redirect) => {
                    if redirect.slot_owner.is_none() {
                        moved = Moved::Yes;
                    }
                    self.pending.push(Pending { index: part.index, redirect: Some(redirect) });
                }
            }
        }
        moved
    }

    /// Makes `parts` pending again if they reached no server: another node may own the slot by now. Fails
    /// after a time limit, and the second time.
    pub(crate) fn retry(&mut self, parts: &[Part], failure: Failure) -> Result<(), Failure> {
        if !failure.may_retry || self.failure.is_some() {
            return Err(failure);
        }
        self.failure = Some(failure);
        self.pending.extend(parts.iter().map(|part| Pending { index: part.index, redirect: None }));
        Ok(())
    }

    pub(crate) fn is_complete(&self) -> bool {
        self.pending.is_empty()
    }

    /// Returns the responses in order. Fails if a part is still pending.
    pub(crate) fn finish(self) -> Result<Vec<Response<X>>, Failure> {
        if !self.is_complete() {
            return Err(self.failure.unwrap_or_else(unstable));
        }
        self.responses.into_iter().map(|response| response.ok_or_else(unstable)).collect()
    }
}

impl Redirect {
    /// Parses `MOVED` or `ASK`, the slot, and an address whose host may be missing.
    fn parse(reply: &Value, connection: &Arc<Connection>) -> Option<Self> {
        let Value::ServerError(error) = reply else { return None };
        let is_importing = match error.kind()? {
            ServerErrorKind::Moved => false,
            ServerErrorKind::Ask => true,
            _ => return None,
        };
        let (host, port) = error.details()?.split_ascii_whitespace().nth(1)?.rsplit_once(':')?;
        let host = match host {
            "" => connection.host()?.to_owned(),
            host => host.to_owned(),
        };
        let slot_owner = is_importing.then(|| Arc::clone(connection));
        Some(Self { to: (host, port.parse().ok()?), slot_owner })
    }
}

fn unstable() -> Failure {
    Failure::new(ErrorKind::Unavailable, "the slots of the cluster move too fast")
}
