//! What changes the store: mint, lease, bump, store, delete.

use std::sync::atomic::Ordering;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use groupcache_core::backend::{
    Generation, LeaseHolder, LeaseName, LeaseOwner, LeaseRequest, Leased, Minted,
};

use groupcache_core::{Entry, ErrorKind, Group, Key};
use redis::{Pipeline, Value};

use crate::backend::Inner;
use crate::error::Failure;
use crate::route::{Aim, Answer};
use crate::server::{Server, TOKEN_BYTES};

/// What a computation may take beyond the life of the entry that it makes.
const FILL_TIME: Duration = Duration::from_secs(24 * 3600);
/// A hundred years: longer times to live are cut to this, which the server can count.
const TIME_TO_LIVE_MAX: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// What a server takes at most (`proto-max-bulk-len`, 512 MiB if that is not set).
const VALUE_BYTES_MAX: usize = 512 << 20;

const UNLINK_IF_EQUAL: &str =
    "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('UNLINK', KEYS[1]) end return 0";

type Token = [u8; TOKEN_BYTES];

impl Inner {
    pub(crate) async fn mint(&self, groups: &[Group]) -> Result<Minted, Failure> {
        let names: Vec<_> = groups.iter().map(|group| self.names.generation(group)).collect();
        let millis = self.generation_millis(Duration::ZERO);
        #[cfg(groupcache_mutants)]
        let mutant = crate::mutants::Mint::default();
        let put = |at: usize, server: &Server, pipeline: &mut Pipeline| {
            let token = token();
            #[cfg(groupcache_mutants)]
            let token = mutant.sent(at, server, token);
            put_mint(pipeline, server, &names[at], token, millis);
            token
        };
        let answers = self.route.run(Aim::Generations, &names, put).await;
        #[cfg(groupcache_mutants)]
        if let (Err(_), Some(minted)) = (&answers, mutant.unacknowledged(groups.len())) {
            return Ok(minted);
        }
        let answers = answers?;
        let minted = groups.iter().zip(answers).map(|(group, answer)| take_minted(group, answer));
        Ok(Minted::new(minted.collect::<Result<_, _>>()?))
    }

    /// Mints what is missing and asks for the lease in the same wave. Its name is that of the vector
    /// which comes out if every proposed token wins, on the servers as they are known now.
    pub(crate) async fn lease(&self, request: &LeaseRequest<'_>) -> Result<Leased, Failure> {
        let missing: Vec<_> = request.missing().collect();
        let mut names: Vec<_> = missing.iter().map(|group| self.names.generation(group)).collect();
        let servers = self.route.servers(&names).await?;
        let proposed: Vec<_> = servers.iter().map(|_| token()).collect();
        let expected = servers.iter().zip(&proposed).filter_map(|(to, token)| to.server.generation(token));
        let expected = request.vector(expected).ok_or_else(|| Failure::unexpected("SET"))?;
        let lease = names.len();
        names.push(self.names.lease(&request.name(&expected)));
        let (owner, lasts) = (*request.owner().as_bytes(), millis(request.duration()));
        let generation_millis = self.generation_millis(Duration::ZERO);
        // Each is sent once; another attempt sends another token, whose vector is not the expected one.
        let proposed = Mutex::new(proposed.into_iter().map(Some).collect::<Vec<_>>());
        let put = |at: usize, server: &Server, pipeline: &mut Pipeline| {
            if at == lease {
                put_set_nx_get(pipeline, server, &names[at], &owner, lasts);
                return owner;
            }
            let first = proposed.lock().unwrap_or_else(PoisonError::into_inner)[at].take();
            let token = first.unwrap_or_else(token);
            put_mint(pipeline, server, &names[at], token, generation_millis);
            token
        };
        let mut answers = self.route.run(Aim::Generations, &names, put).await?;
        let mut leased = answers.pop().ok_or_else(|| Failure::unexpected("SET"))?;
        let minted = missing.into_iter().zip(answers).map(|(group, answer)| take_minted(group, answer));
        let vector = request.vector(minted.collect::<Result<Vec<_>, _>>()?);
        let vector = vector.ok_or_else(|| Failure::unexpected("SET"))?;
        let holder = match take_there(&mut leased)? {
            _ if vector != expected => LeaseHolder::Unknown,
            Value::BulkString(there) if there == owner => LeaseHolder::Ours,
            _ => LeaseHolder::Other,
        };
        Ok(Leased::new(vector, holder))
    }

    /// Compared and removed at one moment.
    pub(crate) async fn release(&self, lease: &LeaseName, owner: LeaseOwner) -> Result<(), Failure> {
        let name = [self.names.lease(lease)];
        let put = |_: usize, _: &Server, pipeline: &mut Pipeline| {
            pipeline.cmd("EVAL").arg(UNLINK_IF_EQUAL).arg(1).arg(&name[0]).arg(owner.as_bytes());
        };
        self.route.run(Aim::Other, &name, put).await?.into_iter().try_for_each(Answer::rest)
    }

    pub(crate) async fn bump(&self, groups: &[Group]) -> Result<(), Failure> {
        let names: Vec<_> = groups.iter().map(|group| self.names.generation(group)).collect();
        #[cfg(groupcache_mutants)]
        let once = groupcache_core::mutants::is_on("same_bump_token").then(token);
        let put = |at: usize, _: &Server, pipeline: &mut Pipeline| {
            let token = token();
            #[cfg(groupcache_mutants)]
            let token = once.unwrap_or(token);
            // The time to live is that of the entries, which a bump does not lengthen.
            pipeline.cmd("SET").arg(&names[at]).arg(&token).arg("XX").arg("KEEPTTL");
        };
        let answers = self.route.run(Aim::Bump, &names, put).await?;
        let mut refused = Vec::new();
        for (name, mut answer) in names.iter().zip(answers) {
            match answer.next() {
                Ok(Value::Okay | Value::Nil) => {}
                Ok(_) => return Err(Failure::unexpected("SET")),
                Err(failure) if failure.is_out_of_memory() => refused.push(name.clone()),
                Err(failure) => return Err(failure),
            }
        }
        // A group without a generation is as stale as one with a new one.
        if refused.is_empty() { Ok(()) } else { self.unlink(Aim::Bump, &refused).await }
    }

    pub(crate) async fn store(&self, entry: &Entry, time_to_live: Duration) -> Result<(), Failure> {
        if entry.body().len() > self.max_entry_bytes {
            let message = format!(
                "an entry of {} bytes, `max_entry_bytes` is {}",
                entry.body().len(),
                self.max_entry_bytes
            );
            return Err(Failure::new(ErrorKind::Capacity, message));
        }
        let entry_millis = millis(time_to_live);
        let generation_millis = self.generation_millis(time_to_live);
        let bytes = entry.encode();
        if bytes.len() > VALUE_BYTES_MAX {
            let message = format!("an entry of {} bytes with its key and groups", bytes.len());
            return Err(Failure::new(ErrorKind::Capacity, message));
        }
        let generations = entry.groups().iter().map(|group| self.names.generation(group));
        let names: Vec<_> = std::iter::once(self.names.entry(entry.key())).chain(generations).collect();
        let put = |at: usize, server: &Server, pipeline: &mut Pipeline| {
            if at == 0 {
                pipeline.cmd("SET").arg(&names[at]).arg(&bytes).arg("PX").arg(entry_millis);
            } else {
                put_extend(pipeline, server, &names[at], generation_millis);
            }
        };
        self.route.run(Aim::Other, &names, put).await?.into_iter().try_for_each(Answer::rest)
    }

    pub(crate) async fn delete(&self, key: &Key) -> Result<(), Failure> {
        self.unlink(Aim::Other, &[self.names.entry(key)]).await
    }

    async fn unlink(&self, aim: Aim, names: &[Vec<u8>]) -> Result<(), Failure> {
        let put = |at: usize, _: &Server, pipeline: &mut Pipeline| {
            pipeline.cmd("UNLINK").arg(&names[at]);
        };
        self.route.run(aim, names, put).await?.into_iter().try_for_each(Answer::rest)
    }

    /// How long a generation must live for entries of this time to live, and for those of this
    /// process so far.
    fn generation_millis(&self, time_to_live: Duration) -> u64 {
        let this = millis(time_to_live.max(self.default_time_to_live));
        let longest = self.longest_millis.fetch_max(this, Ordering::Relaxed).max(this);
        longest.saturating_add(millis(FILL_TIME))
    }
}

/// 128 random bits, drawn for each attempt on the wire.
fn token() -> Token {
    Generation::random().get().to_be_bytes()
}

fn put_mint(pipeline: &mut Pipeline, server: &Server, name: &[u8], token: Token, millis: u64) {
    put_set_nx_get(pipeline, server, name, &token, millis);
    put_extend(pipeline, server, name, millis);
}

/// Sets it unless it is there; what is there then is found by [`take_there`].
fn put_set_nx_get(pipeline: &mut Pipeline, server: &Server, name: &[u8], value: &Token, millis: u64) {
    pipeline.cmd("SET").arg(name).arg(value).arg("NX");
    if server.has_set_nx_get() {
        pipeline.arg("GET").arg("PX").arg(millis);
    } else {
        pipeline.arg("PX").arg(millis).cmd("GET").arg(name);
    }
}

fn take_there(answer: &mut Answer<Token>) -> Result<Value, Failure> {
    let set = answer.next()?;
    if !answer.connected.server.has_set_nx_get() {
        return answer.next();
    }
    // The value from before; there was none where ours was set.
    Ok(match set {
        Value::Nil => Value::BulkString(answer.sent.to_vec()),
        before => before,
    })
}

fn put_extend(pipeline: &mut Pipeline, server: &Server, name: &[u8], millis: u64) {
    pipeline.cmd("PEXPIRE").arg(name).arg(millis);
    if server.has_set_nx_get() {
        pipeline.arg("GT");
    }
}

fn take_minted(group: &Group, mut answer: Answer<Token>) -> Result<Generation, Failure> {
    let there = take_there(&mut answer)?;
    let generation = match there {
        Value::BulkString(token) => answer.generation(&token).ok_or_else(|| {
            Failure::protocol(format!(
                "the key of the group {group} guards no generation; another application writes under the \
                 same `key_prefix`"
            ))
        })?,
        Value::Nil => {
            let message = "a generation was evicted while it was minted";
            return Err(Failure::new(ErrorKind::Unavailable, message));
        }
        _ => return Err(Failure::unexpected("SET")),
    };
    answer.rest()?;
    Ok(generation)
}

/// Whole milliseconds, at least one: the server knows no shorter time to live.
fn millis(duration: Duration) -> u64 {
    let nanos = duration.min(TIME_TO_LIVE_MAX).as_nanos();
    u64::try_from(nanos.div_ceil(1_000_000)).unwrap_or(u64::MAX).max(1)
}
