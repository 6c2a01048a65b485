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
    /// The outcome for each key, once it is final.
    outcomes: Vec<Option<Result<Response<X>, Failure>>>,
    pending: Vec<Pending>,
    /// The first failure that was retried.
    retried: Option<Failure>,
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
            outcomes: (0..count).map(|_| None).collect(),
            pending: (0..count).map(|index| Pending { index, redirect: None }).collect(),
            retried: None,
        }
    }

    /// Returns whether a part is sent again because it reached no server, so that the topology is to be
    /// refreshed first.
    pub(crate) const fn needs_refresh(&self) -> bool {
        self.retried.is_some()
    }

    /// Takes all pending parts in order, by the node that each is sent to. Parts fail whose slot has no owner.
    pub(crate) fn next_round(
        &mut self,
        names: &[Vec<u8>],
        topology: &Topology,
    ) -> BTreeMap<Address, Vec<Part>> {
        let mut round: BTreeMap<Address, Vec<Part>> = BTreeMap::new();
        self.pending.sort_unstable_by_key(|pending| pending.index);
        for Pending { index, redirect } in self.pending.drain(..) {
            let redirected = redirect.is_some();
            let owner = || Ok(Redirect { to: topology.owner(&names[index])?.clone(), importing: false });
            match redirect.map_or_else(owner, Ok) {
                Ok(Redirect { to, importing }) => {
                    round.entry(to).or_default().push(Part { index, redirected, importing });
                }
                Err(failure) => self.outcomes[index] = Some(Err(failure)),
            }
        }
        round
    }

    /// Keeps the responses that are final. Parts that were redirected become pending again.
    pub(crate) fn accept(&mut self, parts: &[Part], responses: Vec<Response<X>>) -> Moved {
        let mut moved = Moved::No;
        for (part, response) in parts.iter().zip(responses) {
            match response.find_redirect(|reply| Redirect::parse(reply, &response.connection)) {
                None => self.outcomes[part.index] = Some(Ok(response)),
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

    /// Makes `parts` pending again if they reached no server: another node may own the slot by now. They fail
    /// after a time limit, and the second time.
    pub(crate) fn fail(&mut self, parts: &[Part], failure: Failure) {
        if failure.may_retry && self.retried.is_none() {
            self.pending.extend(parts.iter().map(|part| Pending { index: part.index, redirect: None }));
            self.retried = Some(failure);
        } else {
            for part in parts {
                self.outcomes[part.index] = Some(Err(failure.clone()));
            }
        }
    }

    pub(crate) fn is_complete(&self) -> bool {
        self.pending.is_empty()
    }

    /// Returns the outcome for each key, in order. What is still pending has failed.
    pub(crate) fn finish(self) -> Vec<Result<Response<X>, Failure>> {
        let pending = || self.retried.clone().unwrap_or_else(unstable);
        self.outcomes.into_iter().map(|outcome| outcome.unwrap_or_else(|| Err(pending()))).collect()
    }

    /// Does the same if the request cannot go on.
    pub(crate) fn abort(mut self, failure: Failure) -> Vec<Result<Response<X>, Failure>> {
        self.retried = Some(failure);
        self.finish()
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
