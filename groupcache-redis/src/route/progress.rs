//! What a request to a cluster still has to send, and where.

use std::collections::BTreeMap;

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
    /// Whether the node is only importing the slot, which the redirecting node still owns.
    importing: bool,
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
            let Redirect { to, importing } = match redirect {
                Some(redirect) => redirect,
                None => Redirect { to: topology.owner(&names[index])?.clone(), importing: false },
            };
            round.entry(to).or_default().push(Part { index, redirected, importing });
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
                    if !redirect.importing {
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
    fn parse(reply: &Value, connection: &Connection) -> Option<Self> {
        let Value::ServerError(error) = reply else { return None };
        let importing = match error.kind()? {
            ServerErrorKind::Moved => false,
            ServerErrorKind::Ask => true,
            _ => return None,
        };
        let (host, port) = error.details()?.split_ascii_whitespace().nth(1)?.rsplit_once(':')?;
        let host = match host {
            "" => connection.host()?.to_owned(),
            host => host.to_owned(),
        };
        Some(Self { to: (host, port.parse().ok()?), importing })
    }
}

fn unstable() -> Failure {
    Failure::new(ErrorKind::Unavailable, "the slots of the cluster move too fast")
}
