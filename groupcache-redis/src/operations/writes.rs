//! Writes: the commands that mint, lease, bump, store and delete.

use std::sync::atomic::Ordering;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use groupcache_core::backend::{
    Generation, LeaseHolder, LeaseName, LeaseOwner, LeaseRequest, Leased, Minted,
};
use groupcache_core::{Entry, ErrorKind, Group, Key};
use redis::{Pipeline, Value};

use crate::error::Failure;
use crate::operations::Operations;
use crate::route::node::{RequestKind, Response};
use crate::server::{Server, TOKEN_BYTES};

type Token = [u8; TOKEN_BYTES];

impl Operations {
    pub(crate) async fn mint(&self, groups: &[Group]) -> Result<Minted, Failure> {
        let names: Vec<_> = groups.iter().map(|group| self.names.generation(group)).collect();
        let millis = self.generation_millis(Duration::ZERO);
        #[cfg(groupcache_mutants)]
        let mutant = crate::operations::mutants::Mint::default();
        let compose = |index: usize, server: &Server, pipeline: &mut Pipeline| {
            let token = random_token();
            #[cfg(groupcache_mutants)]
            let token = mutant.sent(index, server, token);
            put_mint(pipeline, server, &names[index], token, millis);
            token
        };
        let responses = self.route.send(RequestKind::Generations, &names, compose).await;
        #[cfg(groupcache_mutants)]
        if let (Err(_), Some(minted)) = (&responses, mutant.unacknowledged(groups.len())) {
            return Ok(minted);
        }
        let responses = responses?;
        let minted = groups.iter().zip(responses).map(|(group, response)| take_minted(group, response));
        Ok(Minted::new(minted.collect::<Result<_, _>>()?))
    }

    /// Mints the missing groups and requests the lease in the same round.
    ///
    /// A lease is named after a complete vector, which is not known yet. So its name is that of the vector
    /// which results if every proposed token wins, on the servers as they are known now.
    pub(crate) async fn lease(&self, request: &LeaseRequest<'_>) -> Result<Leased, Failure> {
        let missing: Vec<_> = request.missing().collect();
        let mut names: Vec<_> = missing.iter().map(|group| self.names.generation(group)).collect();
        let connections = self.route.connections_for(&names).await?;
        let proposed: Vec<_> = connections.iter().map(|_| random_token()).collect();
        let expected =
            connections.iter().zip(&proposed).filter_map(|(to, token)| to.server.generation(token));
        let expected = request.vector(expected).ok_or_else(|| Failure::unexpected("SET"))?;
        let lease = names.len();
        names.push(self.names.lease(&request.name(&expected)));
        let (owner, lease_millis) = (*request.owner().as_bytes(), millis(request.duration()));
        let generation_millis = self.generation_millis(Duration::ZERO);
        // Each proposed token is sent once. A retry sends another, whose vector is not the expected one.
        let proposed = Mutex::new(proposed.into_iter().map(Some).collect::<Vec<_>>());
        let compose = |index: usize, server: &Server, pipeline: &mut Pipeline| {
            if index == lease {
                put_set_nx_get(pipeline, server, &names[index], &owner, lease_millis);
                return owner;
            }
            let first = proposed.lock().unwrap_or_else(PoisonError::into_inner)[index].take();
            let token = first.unwrap_or_else(random_token);
            put_mint(pipeline, server, &names[index], token, generation_millis);
            token
        };
        let mut responses = self.route.send(RequestKind::Generations, &names, compose).await?;
        let mut leased = responses.pop().ok_or_else(|| Failure::unexpected("SET"))?;
        let minted = missing.into_iter().zip(responses).map(|(group, response)| take_minted(group, response));
        let vector = request.vector(minted.collect::<Result<Vec<_>, _>>()?);
        let vector = vector.ok_or_else(|| Failure::unexpected("SET"))?;
        let holder = match take_current(&mut leased)? {
            _ if vector != expected => LeaseHolder::Unknown,
            Value::BulkString(current) if current == owner => LeaseHolder::Ours,
            _ => LeaseHolder::Other,
        };
        Ok(Leased::new(vector, holder))
    }

    /// Removes the lease if `owner` holds it, in one atomic script.
    pub(crate) async fn release(&self, lease: &LeaseName, owner: LeaseOwner) -> Result<(), Failure> {
        let name = [self.names.lease(lease)];
        let compose = |_: usize, _: &Server, pipeline: &mut Pipeline| {
            pipeline.cmd("EVAL").arg(UNLINK_IF_EQUAL).arg(1).arg(&name[0]).arg(owner.as_bytes());
        };
        let responses = self.route.send(RequestKind::Other, &name, compose).await?;
        responses.into_iter().try_for_each(Response::finish)
    }

    pub(crate) async fn bump(&self, groups: &[Group]) -> Result<(), Failure> {
        let names: Vec<_> = groups.iter().map(|group| self.names.generation(group)).collect();
        #[cfg(groupcache_mutants)]
        let same = groupcache_core::mutants::is_on("same_bump_token").then(random_token);
        let compose = |index: usize, _: &Server, pipeline: &mut Pipeline| {
            let token = random_token();
            #[cfg(groupcache_mutants)]
            let token = same.unwrap_or(token);
            // The time to live follows the entries, and a bump stores none.
            pipeline.cmd("SET").arg(&names[index]).arg(&token).arg("XX").arg("KEEPTTL");
        };
        let responses = self.route.send(RequestKind::Bump, &names, compose).await?;
        let mut refused = Vec::new();
        for (name, mut response) in names.iter().zip(responses) {
            match response.next() {
                Ok(Value::Okay | Value::Nil) => {}
                Ok(_) => return Err(Failure::unexpected("SET")),
                Err(failure) if failure.is_out_of_memory() => refused.push(name.clone()),
                Err(failure) => return Err(failure),
            }
        }
        // Without a generation, a group is as stale as with a new one, and removing it needs no memory.
        if refused.is_empty() { Ok(()) } else { self.unlink(RequestKind::Bump, &refused).await }
    }

    pub(crate) async fn store(&self, entry: &Entry, time_to_live: Duration) -> Result<(), Failure> {
        if entry.body().len() > self.max_entry_bytes {
            let message = format!(
                "the entry has {} bytes, and `max_entry_bytes` is {}",
                entry.body().len(),
                self.max_entry_bytes
            );
            return Err(Failure::new(ErrorKind::Capacity, message));
        }
        let entry_millis = millis(time_to_live);
        let generation_millis = self.generation_millis(time_to_live);
        let bytes = entry.encode();
        if bytes.len() > VALUE_BYTES_MAX {
            let message = format!("the entry has {} bytes with its key and groups", bytes.len());
            return Err(Failure::new(ErrorKind::Capacity, message));
        }
        let generations = entry.groups().iter().map(|group| self.names.generation(group));
        let names: Vec<_> = std::iter::once(self.names.entry(entry.key())).chain(generations).collect();
        let compose = |index: usize, server: &Server, pipeline: &mut Pipeline| {
            if index == 0 {
                pipeline.cmd("SET").arg(&names[index]).arg(&bytes).arg("PX").arg(entry_millis);
            } else {
                put_extend(pipeline, server, &names[index], generation_millis);
            }
        };
        let responses = self.route.send(RequestKind::Store, &names, compose).await?;
        responses.into_iter().try_for_each(Response::finish)
    }

    pub(crate) async fn delete(&self, key: &Key) -> Result<(), Failure> {
        self.unlink(RequestKind::Delete, &[self.names.entry(key)]).await
    }

    async fn unlink(&self, kind: RequestKind, names: &[Vec<u8>]) -> Result<(), Failure> {
        let compose = |index: usize, _: &Server, pipeline: &mut Pipeline| {
            pipeline.cmd("UNLINK").arg(&names[index]);
        };
        let responses = self.route.send(kind, names, compose).await?;
        responses.into_iter().try_for_each(Response::finish)
    }

    /// Returns how long a generation must live for an entry of this time to live, and for all entries that
    /// this process has stored so far.
    fn generation_millis(&self, time_to_live: Duration) -> u64 {
        let own = millis(time_to_live.max(self.default_time_to_live));
        let longest = self.longest_millis.fetch_max(own, Ordering::Relaxed).max(own);
        longest.saturating_add(millis(LOAD_TIME_MAX))
    }
}

/// Draws a token. Must be called for each attempt on the wire.
fn random_token() -> Token {
    Generation::random().get().to_be_bytes()
}

fn put_mint(pipeline: &mut Pipeline, server: &Server, name: &[u8], token: Token, millis: u64) {
    put_set_nx_get(pipeline, server, name, &token, millis);
    put_extend(pipeline, server, name, millis);
}

/// Sets the key unless it exists. [`take_current`] then takes the current value from the response.
fn put_set_nx_get(pipeline: &mut Pipeline, server: &Server, name: &[u8], value: &Token, millis: u64) {
    pipeline.cmd("SET").arg(name).arg(value).arg("NX");
    if server.has_set_nx_get() {
        pipeline.arg("GET").arg("PX").arg(millis);
    } else {
        pipeline.arg("PX").arg(millis).cmd("GET").arg(name);
    }
}

fn take_current(response: &mut Response<Token>) -> Result<Value, Failure> {
    let set = response.next()?;
    if !response.connection.server.has_set_nx_get() {
        return response.next();
    }
    // `GET` returns the previous value. If there was none, the value that was sent is current.
    Ok(match set {
        Value::Nil => Value::BulkString(response.sent.to_vec()),
        previous => previous,
    })
}

/// Lengthens the time to live. Before 7.0 there is no `GT`, so this may also shorten what another process
/// set.
fn put_extend(pipeline: &mut Pipeline, server: &Server, name: &[u8], millis: u64) {
    pipeline.cmd("PEXPIRE").arg(name).arg(millis);
    if server.has_set_nx_get() {
        pipeline.arg("GT");
    }
}

fn take_minted(group: &Group, mut response: Response<Token>) -> Result<Generation, Failure> {
    if response.is_importing() {
        let message =
            format!("the slot of the group {group} is moving, and its owner has no generation left");
        return Err(Failure::new(ErrorKind::Unavailable, message));
    }
    let generation = match take_current(&mut response)? {
        Value::BulkString(token) => response.generation(&token).ok_or_else(|| {
            Failure::protocol(format!(
                "the key of the group {group} holds no generation; another application writes under the \
                 same `key_prefix`"
            ))
        })?,
        Value::Nil => {
            let message = "a generation was evicted while it was minted";
            return Err(Failure::new(ErrorKind::Unavailable, message));
        }
        _ => return Err(Failure::unexpected("SET")),
    };
    response.finish()?;
    Ok(generation)
}

/// Returns whole milliseconds, rounded up. At least one: the server rejects a time to live of zero.
fn millis(duration: Duration) -> u64 {
    let nanos = duration.min(TIME_TO_LIVE_MAX).as_nanos();
    u64::try_from(nanos.div_ceil(1_000_000)).unwrap_or(u64::MAX).max(1)
}

/// How much longer than entries generations live: entries are stored only after a load.
const LOAD_TIME_MAX: Duration = Duration::from_secs(24 * 3600);

/// A hundred years. Longer times to live are cut to this, because the server rejects those that overflow.
const TIME_TO_LIVE_MAX: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// The longest string of the protocol (`proto-max-bulk-len`, 512 MiB unless set).
const VALUE_BYTES_MAX: usize = 512 << 20;

const UNLINK_IF_EQUAL: &str =
    "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('UNLINK', KEYS[1]) end return 0";
