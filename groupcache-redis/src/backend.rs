//! Entries and tokens in one Redis server.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use groupcache_core::{
    Backend, BreakerCall, CircuitBreaker, Clock, Current, Entry, Error, ErrorKind, Found, Generation, Group,
    Groups, Hold, Key, Lookup, Minted, Result, TimeLeft,
};
use redis::{Cmd, Pipeline, Value};

use crate::advice::{self, Advice};
use crate::builder::RedisBackendBuilder;
use crate::connection::{Connected, Line, Request};
use crate::error::{Failure, NAME};
use crate::server::{Server, TOKEN_BYTES};

/// What a computation may take beyond the life of the entry that it makes.
const FILL_TIME: Duration = Duration::from_secs(24 * 3600);
/// A hundred years: longer times to live are cut to this, which the server can count.
const TIME_TO_LIVE_MAX: Duration = Duration::from_secs(100 * 365 * 24 * 3600);
/// A hash in hexadecimal digits, and what stands before it.
const SUFFIX_BYTES: usize = 64 + 3;

const ENTRY: &[u8; 3] = b":e:";
const GENERATION: &[u8; 3] = b":g:";

/// A backend in a Redis or Valkey server. Cheap to clone; clones are the same backend and share its
/// connection.
#[derive(Clone)]
pub struct RedisBackend(Arc<Inner>);

pub(crate) struct Inner {
    pub(crate) key_prefix: String,
    pub(crate) line: Line,
    /// For bumps that wait for replicas: a connection is deaf while it waits.
    pub(crate) waiting: Option<Waiting>,
    pub(crate) breaker: CircuitBreaker,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) default_time_to_live: Duration,
    pub(crate) max_entry_bytes: usize,
    /// The longest time to live of an entry of this process, in milliseconds.
    pub(crate) longest_millis: AtomicU64,
    pub(crate) description: String,
}

/// How a bump makes sure that replicas have it.
pub(crate) struct Waiting {
    pub(crate) line: Line,
    pub(crate) replicas: u32,
    pub(crate) time_limit: Duration,
}

struct Answer<X> {
    connected: Arc<Connected>,
    values: Vec<Value>,
    sent: X,
}

impl RedisBackend {
    /// Sets up a backend: `redis://`, `rediss://` (feature `tls`) or `unix://`, with user, password
    /// and database where needed, as the client's
    /// [`IntoConnectionInfo`](redis::IntoConnectionInfo) describes them.
    pub fn builder(url: impl Into<String>) -> RedisBackendBuilder {
        RedisBackendBuilder::new(url.into())
    }

    pub(crate) fn from_inner(inner: Inner) -> Self {
        Self(Arc::new(inner))
    }

    /// Connects now instead of at the first use, for applications that would rather not start with a
    /// wrong address or password. One attempt; a later one is made by whatever uses the backend.
    ///
    /// # Errors
    ///
    /// Why there is no connection: the message names the setting to look at.
    pub async fn connect(&self) -> Result<()> {
        self.0.line.connected().await.map(drop).map_err(Error::from)
    }

    /// What is dangerous, or a waste, in how this server is configured. Logged at the first
    /// connection as well. Four round trips.
    ///
    /// # Errors
    ///
    /// If the server did not answer.
    pub async fn advice(&self) -> Result<Vec<Advice>> {
        let connected = self.0.line.connected().await?;
        Ok(advice::of(&connected, self.0.waiting.is_some()).await?)
    }

    /// Whether the circuit breaker keeps reads away from the server at the moment.
    #[must_use]
    pub fn is_circuit_open(&self) -> bool {
        self.0.breaker.is_open()
    }
}

impl Inner {
    /// Sends what `build` makes and waits for the answer: once, and once more on a new connection if
    /// this one turns out to be closed. `build` is asked each time, so that no token is ever sent
    /// twice.
    async fn ask<X>(
        &self,
        line: &Line,
        build: impl Fn(&Server) -> (Request, X) + Send,
    ) -> Result<Answer<X>, Failure> {
        let mut retried = false;
        loop {
            let connected = line.connected().await?;
            let (request, sent) = build(&connected.server);
            match connected.send(&request).await {
                Ok(values) => return Ok(Answer { connected, values, sent }),
                Err(failure) => {
                    if failure.disconnects {
                        line.discard(&connected);
                    }
                    if retried || !failure.retry {
                        return Err(failure);
                    }
                    retried = true;
                }
            }
        }
    }

    fn call(&self) -> Result<BreakerCall<'_>> {
        self.breaker.try_call().ok_or_else(|| self.breaker.refusal())
    }

    fn entry_key(&self, key: &Key) -> Vec<u8> {
        self.key(ENTRY, key.hash())
    }

    fn generation_key(&self, group: &Group) -> Vec<u8> {
        self.key(GENERATION, group.hash())
    }

    /// The last 67 bytes say what it is, so different prefixes never meet.
    fn key(&self, kind: &[u8; 3], hash: [u8; 32]) -> Vec<u8> {
        let mut key = Vec::with_capacity(self.key_prefix.len() + SUFFIX_BYTES);
        key.extend_from_slice(self.key_prefix.as_bytes());
        put_suffix(&mut key, kind, hash);
        key
    }

    fn question(&self, key: &Key, groups: &[Group]) -> Cmd {
        let keys = 1 + groups.len();
        let mut command = Cmd::with_capacity(1 + keys, 4 + keys * (self.key_prefix.len() + SUFFIX_BYTES));
        let mut name = self.entry_key(key);
        command.arg("MGET").arg(&name);
        for group in groups {
            // Every hit does this: one buffer for all.
            name.truncate(self.key_prefix.len());
            put_suffix(&mut name, GENERATION, group.hash());
            command.arg(&name);
        }
        command
    }

    async fn look(&self, key: &Key, groups: &[Group]) -> Result<Lookup, Failure> {
        let build = |_: &Server| (Request::Command(self.question(key, groups)), ());
        let answer = self.ask(&self.line, build).await?;
        let answered = self.checked(&answer.connected, answer.values.into_iter().next())?;
        found(&answer.connected.server, answered, groups.len())
    }

    /// The same, with the time that is left, both at one moment.
    async fn look_at_time_left(&self, key: &Key, groups: &[Group]) -> Result<Lookup, Failure> {
        let before = self.clock.now();
        let build = |_: &Server| {
            let mut pipeline = Pipeline::with_capacity(2);
            pipeline.atomic().add_command(self.question(key, groups));
            pipeline.cmd("PTTL").arg(self.entry_key(key));
            (Request::Commands(pipeline), ())
        };
        let answer = self.ask(&self.line, build).await?;
        let executed = self.checked(&answer.connected, answer.values.into_iter().next())?;
        let Value::Array(answers) = executed else {
            return Err(unexpected("EXEC"));
        };
        let mut answers = answers.into_iter();
        let answered = self.checked(&answer.connected, answers.next())?;
        let left = self.checked(&answer.connected, answers.next())?;
        let mut lookup = found(&answer.connected.server, answered, groups.len())?;
        if let (Found::Entry(_, expires_at), Value::Int(millis)) = (&mut lookup.found, left) {
            // Negative: no time to live, or no entry.
            *expires_at =
                u64::try_from(millis).ok().and_then(|left| before.checked_add(Duration::from_millis(left)));
        }
        Ok(lookup)
    }

    async fn look_many(&self, questions: &[(Key, Groups)]) -> Result<Vec<Lookup>, Failure> {
        let build = |_: &Server| {
            let mut pipeline = Pipeline::with_capacity(questions.len());
            for (key, groups) in questions {
                pipeline.add_command(self.question(key, groups));
            }
            (Request::Commands(pipeline), ())
        };
        let answer = self.ask(&self.line, build).await?;
        let mut values = answer.values.into_iter();
        let lookup = |(_, groups): &(Key, Groups)| {
            let answered = self.checked(&answer.connected, values.next())?;
            found(&answer.connected.server, answered, groups.len())
        };
        questions.iter().map(lookup).collect()
    }

    async fn mint(&self, groups: &[Group]) -> Result<Minted, Failure> {
        let millis = self.generation_millis(Duration::ZERO);
        #[cfg(groupcache_mutants)]
        let mutant = crate::mutants::Mint::default();
        let build = |server: &Server| {
            let mut pipeline = Pipeline::with_capacity(3 * groups.len());
            let tokens: Vec<_> = groups.iter().map(|_| token()).collect();
            #[cfg(groupcache_mutants)]
            let tokens = mutant.sent(server, tokens);
            for (group, token) in groups.iter().zip(&tokens) {
                let key = self.generation_key(group);
                pipeline.cmd("SET").arg(&key).arg(token).arg("NX");
                if server.has_set_nx_get() {
                    pipeline.arg("GET").arg("PX").arg(millis);
                } else {
                    pipeline.arg("PX").arg(millis).cmd("GET").arg(&key);
                }
                extend(&mut pipeline, server, &key, millis);
            }
            (Request::Commands(pipeline), tokens)
        };
        let answer = self.ask(&self.line, build).await;
        #[cfg(groupcache_mutants)]
        if let (Err(_), Some(minted)) = (&answer, mutant.unacknowledged()) {
            return Ok(minted);
        }
        let answer = answer?;
        let server = &answer.connected.server;
        let mut values = answer.values.into_iter();
        let mut vector = Vec::with_capacity(groups.len());
        for (group, token) in groups.iter().zip(&answer.sent) {
            let set = self.checked(&answer.connected, values.next())?;
            let there = if server.has_set_nx_get() {
                // The value from before; there was none where ours was set.
                match set {
                    Value::Nil => Value::BulkString(token.to_vec()),
                    before => before,
                }
            } else {
                self.checked(&answer.connected, values.next())?
            };
            self.checked(&answer.connected, values.next())?;
            vector.push(minted(server, group, &there)?);
        }
        Ok(Minted { vector: vector.into_iter().collect(), hold: Hold::none() })
    }

    async fn bump(&self, groups: &[Group]) -> Result<(), Failure> {
        let line = self.waiting.as_ref().map_or(&self.line, |waiting| &waiting.line);
        let keys: Vec<_> = groups.iter().map(|group| self.generation_key(group)).collect();
        #[cfg(groupcache_mutants)]
        let once = groupcache_core::mutants::is_on("same_bump_token").then(token);
        let build = |_: &Server| {
            let mut pipeline = Pipeline::with_capacity(keys.len() + 1);
            for key in &keys {
                let token = token();
                #[cfg(groupcache_mutants)]
                let token = once.unwrap_or(token);
                // The time to live is that of the entries, which a bump does not lengthen.
                pipeline.cmd("SET").arg(key).arg(&token).arg("XX").arg("KEEPTTL");
            }
            self.then_wait(&mut pipeline);
            (Request::Commands(pipeline), ())
        };
        let answer = self.ask(line, build).await?;
        let mut values = answer.values.into_iter();
        let mut refused = Vec::new();
        for (key, value) in keys.iter().zip(values.by_ref()) {
            match self.checked_on(line, &answer.connected, Some(value)) {
                Ok(Value::Okay | Value::Nil) => {}
                Ok(_) => return Err(unexpected("SET")),
                Err(failure) if failure.is_out_of_memory() => refused.push(key.as_slice()),
                Err(failure) => return Err(failure),
            }
        }
        if refused.is_empty() {
            return self.check_wait(line, &answer.connected, values.next());
        }
        self.remove(line, &refused).await
    }

    /// Removes generations where the server has no memory for new ones. A group without one is as
    /// stale as one with a new one.
    async fn remove(&self, line: &Line, keys: &[&[u8]]) -> Result<(), Failure> {
        let build = |_: &Server| {
            let mut pipeline = Pipeline::with_capacity(2);
            pipeline.cmd("UNLINK").arg(keys);
            self.then_wait(&mut pipeline);
            (Request::Commands(pipeline), ())
        };
        let answer = self.ask(line, build).await?;
        let mut values = answer.values.into_iter();
        self.checked_on(line, &answer.connected, values.next())?;
        self.check_wait(line, &answer.connected, values.next())
    }

    fn then_wait(&self, pipeline: &mut Pipeline) {
        if let Some(waiting) = &self.waiting {
            pipeline.cmd("WAIT").arg(waiting.replicas).arg(millis(waiting.time_limit));
        }
    }

    fn check_wait(
        &self,
        line: &Line,
        connected: &Arc<Connected>,
        value: Option<Value>,
    ) -> Result<(), Failure> {
        let Some(waiting) = &self.waiting else { return Ok(()) };
        match self.checked_on(line, connected, value)? {
            Value::Int(replicas) if replicas >= i64::from(waiting.replicas) => Ok(()),
            Value::Int(replicas) => Err(Failure::new(
                ErrorKind::Unavailable,
                format!(
                    "{replicas} replicas acknowledged within {:?}, `wait_for_replicas` asks for {}",
                    waiting.time_limit, waiting.replicas
                ),
            )),
            _ => Err(unexpected("WAIT")),
        }
    }

    async fn store(&self, entry: &Entry, time_to_live: Duration) -> Result<(), Failure> {
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
        let key = self.entry_key(entry.key());
        let bytes = entry.encode();
        let build = |server: &Server| {
            let mut pipeline = Pipeline::with_capacity(1 + entry.groups().len());
            pipeline.cmd("SET").arg(&key).arg(&bytes).arg("PX").arg(entry_millis);
            for group in entry.groups() {
                extend(&mut pipeline, server, &self.generation_key(group), generation_millis);
            }
            (Request::Commands(pipeline), ())
        };
        let answer = self.ask(&self.line, build).await?;
        for value in answer.values {
            self.checked(&answer.connected, Some(value))?;
        }
        Ok(())
    }

    async fn delete(&self, key: &Key) -> Result<(), Failure> {
        let build = |_: &Server| {
            let mut command = Cmd::new();
            command.arg("UNLINK").arg(self.entry_key(key));
            (Request::Command(command), ())
        };
        let answer = self.ask(&self.line, build).await?;
        self.checked(&answer.connected, answer.values.into_iter().next()).map(drop)
    }

    /// How long a generation must live for entries of this time to live, and for those of this
    /// process so far.
    fn generation_millis(&self, time_to_live: Duration) -> u64 {
        let this = millis(time_to_live.max(self.default_time_to_live));
        let longest = self.longest_millis.fetch_max(this, Ordering::Relaxed).max(this);
        longest.saturating_add(millis(FILL_TIME))
    }

    fn checked(&self, connected: &Arc<Connected>, value: Option<Value>) -> Result<Value, Failure> {
        self.checked_on(&self.line, connected, value)
    }

    /// An answer that is no refusal. A refusal may mean that the connection leads nowhere useful.
    #[expect(clippy::unused_self, reason = "reads as what it is, one of the steps of an operation")]
    fn checked_on(
        &self,
        line: &Line,
        connected: &Arc<Connected>,
        value: Option<Value>,
    ) -> Result<Value, Failure> {
        let value = value.ok_or_else(|| unexpected("a command"))?;
        value.extract_error().map_err(|error| {
            let failure = Failure::from(error);
            if failure.disconnects {
                line.discard(connected);
            }
            failure
        })
    }
}

fn put_suffix(key: &mut Vec<u8>, kind: &[u8; 3], hash: [u8; 32]) {
    key.extend_from_slice(kind);
    key.extend_from_slice(blake3::Hash::from_bytes(hash).to_hex().as_bytes());
}

/// 128 random bits, drawn for each attempt on the wire.
fn token() -> [u8; TOKEN_BYTES] {
    Generation::random().get().to_be_bytes()
}

fn extend(pipeline: &mut Pipeline, server: &Server, key: &[u8], millis: u64) {
    pipeline.cmd("PEXPIRE").arg(key).arg(millis);
    if server.has_set_nx_get() {
        pipeline.arg("GT");
    }
}

fn minted(server: &Server, group: &Group, there: &Value) -> Result<Generation, Failure> {
    match there {
        Value::BulkString(token) => server.generation(token).ok_or_else(|| {
            Failure::protocol(format!(
                "the key of the group {group} holds no generation; another application writes under the \
                 same `key_prefix`"
            ))
        }),
        Value::Nil => {
            Err(Failure::new(ErrorKind::Unavailable, "a generation was evicted while it was minted"))
        }
        _ => Err(unexpected("SET")),
    }
}

fn found(server: &Server, answered: Value, groups: usize) -> Result<Lookup, Failure> {
    let Value::Array(values) = answered else {
        return Err(unexpected("MGET"));
    };
    if values.len() != groups + 1 {
        return Err(unexpected("MGET"));
    }
    let mut values = values.into_iter();
    let found = match values.next() {
        Some(Value::BulkString(bytes)) => match Entry::decode(&Bytes::from(bytes)) {
            Ok(entry) => Found::Entry(Arc::new(entry), None),
            Err(_) => Found::Undecodable,
        },
        _ => Found::Absent,
    };
    let current: Current = values
        .map(|value| match value {
            Value::BulkString(token) => server.generation(&token),
            _ => None,
        })
        .collect();
    Ok(Lookup::new(found, current))
}

fn unexpected(command: &str) -> Failure {
    Failure::protocol(format!("an answer to {command} that is none; is this a Redis server at `url`?"))
}

/// Whole milliseconds, at least one: the server knows no shorter time to live.
fn millis(duration: Duration) -> u64 {
    let nanos = duration.min(TIME_TO_LIVE_MAX).as_nanos();
    u64::try_from(nanos.div_ceil(1_000_000)).unwrap_or(u64::MAX).max(1)
}

impl Backend for RedisBackend {
    fn name(&self) -> &'static str {
        NAME
    }

    async fn lookup(&self, key: &Key, groups: &[Group], time_left: TimeLeft) -> Result<Lookup> {
        let call = self.0.call()?;
        let looked = match time_left {
            TimeLeft::NotNeeded => self.0.look(key, groups).await,
            TimeLeft::Needed => self.0.look_at_time_left(key, groups).await,
        };
        end(call, looked)
    }

    async fn lookup_many(&self, questions: &[(Key, Groups)]) -> Result<Vec<Lookup>> {
        if questions.is_empty() {
            return Ok(Vec::new());
        }
        let call = self.0.call()?;
        end(call, self.0.look_many(questions).await)
    }

    async fn mint(&self, groups: &[Group]) -> Result<Minted> {
        if groups.is_empty() {
            return Ok(Minted { vector: [].into_iter().collect(), hold: Hold::none() });
        }
        let call = self.0.call()?;
        end(call, self.0.mint(groups).await)
    }

    async fn bump(&self, groups: &[Group]) -> Result<()> {
        if groups.is_empty() {
            return Ok(());
        }
        // Not refused by the breaker: an invalidation is not given up without a try.
        let call = self.0.breaker.call_anyway();
        end(call, self.0.bump(groups).await)
    }

    async fn store(&self, entry: &Arc<Entry>, time_to_live: Option<Duration>) -> Result<()> {
        let call = self.0.call()?;
        let stored = match time_to_live.unwrap_or(self.0.default_time_to_live) {
            Duration::ZERO => self.0.delete(entry.key()).await,
            time_to_live => self.0.store(entry, time_to_live).await,
        };
        end(call, stored)
    }

    async fn delete(&self, key: &Key) -> Result<()> {
        let call = self.0.breaker.call_anyway();
        end(call, self.0.delete(key).await)
    }

    fn default_time_to_live(&self) -> Option<Duration> {
        Some(self.0.default_time_to_live)
    }
}

fn end<T>(call: BreakerCall<'_>, outcome: Result<T, Failure>) -> Result<T> {
    let outcome = outcome.map_err(Error::from);
    call.ended(&outcome);
    outcome
}

impl fmt::Debug for RedisBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisBackend")
            .field("target", &format_args!("{}", self.0.description))
            .field("key_prefix", &self.0.key_prefix)
            .field("circuit_open", &self.0.breaker.is_open())
            .finish_non_exhaustive()
    }
}
