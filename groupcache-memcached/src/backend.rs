//! Entries and tokens on one or several memcached servers.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use groupcache_core::{
    Backend, Clock, Current, Entry, Error, ErrorKind, Found, Generation, Group, Groups, Hold, Key,
    LeaseHolder, LeaseName, LeaseOwner, LeaseRequest, Leased, Lookup, Minted, Result, TimeLeft,
};
use memcache::exp::{Delete, Get, Meta, MutationStatus, Op, OpResult, Set};

use crate::advice::{self, Advice};
use crate::builder::MemcachedBackendBuilder;
use crate::error::{Failure, NAME};
use crate::expiry::whole_seconds;
use crate::greeting::About;
use crate::place::{Item, Place};
use crate::server::{Ask, Server};

/// What a computation may take beyond the life of the entry that it makes.
const FILL_TIME: Duration = Duration::from_secs(24 * 3600);
/// What an item has beside its name and value, rounded up.
const ITEM_OVERHEAD_BYTES: usize = 64;
const TOKEN_BYTES: usize = 16;

/// A backend on memcached servers. Cheap to clone; clones are the same backend and share its
/// connections.
#[derive(Clone)]
pub struct MemcachedBackend(Arc<Inner>);

pub(crate) struct Inner {
    /// Those of both lists, each once.
    pub(crate) servers: Vec<Server>,
    pub(crate) place: Place,
    /// Where invalidations go as well while the list of servers changes.
    pub(crate) overlap: Option<Place>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) default_time_to_live: Duration,
    pub(crate) max_entry_bytes: Option<usize>,
    /// The longest time to live of an entry of this process, in seconds.
    pub(crate) longest_seconds: AtomicU64,
    pub(crate) too_large_was_said: AtomicBool,
}

/// What one server answered to its share of the items.
struct Share {
    server: usize,
    /// Which of the items.
    positions: Vec<usize>,
    answers: Result<Vec<OpResult>>,
}

impl MemcachedBackend {
    /// Sets up a backend on these servers: `memcached://host:port,host:port`. The port is 11211 if it
    /// is not said.
    ///
    /// The names of the servers, as they are written here, decide which of them has which key: all
    /// processes must write them in the same way. Their order does not matter.
    pub fn builder(servers: impl Into<String>) -> MemcachedBackendBuilder {
        MemcachedBackendBuilder::new(servers.into())
    }

    pub(crate) fn from_inner(inner: Inner) -> Self {
        Self(Arc::new(inner))
    }

    /// Connects to all servers now instead of at the first use, for applications that would rather not
    /// start with a wrong address. One attempt; a later one is made by whatever uses the backend.
    ///
    /// # Errors
    ///
    /// Why there is no connection to the first server to which there is none: the message names it, and
    /// the setting to look at.
    pub async fn connect(&self) -> Result<()> {
        let attempts = join_all(self.0.servers.iter().map(Server::connected)).await;
        attempts.into_iter().try_for_each(|attempt| attempt.map(drop).map_err(Error::from))
    }

    /// What is dangerous, or a waste, in how the servers are configured. Logged at the first
    /// connection to each as well. One round trip.
    ///
    /// # Errors
    ///
    /// If one of the servers did not answer.
    pub async fn advice(&self) -> Result<Vec<Advice>> {
        let all = join_all(self.0.servers.iter().map(advice::of)).await;
        let all = all.into_iter().collect::<Result<Vec<_>, Failure>>()?;
        Ok(all.into_iter().flatten().collect())
    }

    /// The servers that the circuit breakers keep reads away from at the moment.
    #[must_use]
    pub fn open_circuits(&self) -> Vec<&str> {
        let open = self.0.servers.iter().filter(|server| server.breaker().is_open());
        open.map(Server::name).collect()
    }
}

impl Inner {
    /// Asks each server for its share of the items, all at the same time, each in one batch. `build`
    /// makes the operations for one item, the same number for each, and is told how often this share
    /// was sent before: what it makes up must be new each time.
    async fn ask(
        &self,
        how: Ask,
        items: &[Item],
        build: impl Fn(usize, u32, &About, &mut Vec<Op>) + Sync,
    ) -> Vec<Share> {
        let mut shares: Vec<(usize, Vec<usize>)> = Vec::with_capacity(self.servers.len());
        for (position, item) in items.iter().enumerate() {
            match shares.iter_mut().find(|(server, _)| *server == item.server) {
                Some((_, positions)) => positions.push(position),
                None => shares.push((item.server, vec![position])),
            }
        }
        let build = &build;
        let asked = shares.into_iter().map(|(server, positions)| async move {
            let build = |attempt: u32, about: &About, operations: &mut Vec<Op>| {
                positions.iter().for_each(|position| build(*position, attempt, about, operations));
            };
            let answers = self.servers[server].ask(how, build).await;
            Share { server, positions, answers }
        });
        match <[_; 1]>::try_from(asked.collect::<Vec<_>>()) {
            Ok([one]) => vec![one.await],
            Err(several) => join_all(several).await,
        }
    }

    async fn look(&self, questions: &[(&Key, &[Group])], time_left: TimeLeft) -> Result<Vec<Lookup>> {
        let asked_at = (time_left == TimeLeft::Needed).then(|| self.clock.now());
        let mut items = Vec::with_capacity(questions.iter().map(|(_, groups)| 1 + groups.len()).sum());
        let meta = if time_left == TimeLeft::Needed { Meta::NONE.ttl() } else { Meta::NONE };
        for (key, groups) in questions {
            items.push(self.place.entry(key));
            items.extend(groups.iter().map(|group| self.place.generation(group)));
        }
        let build = |position: usize, _: u32, _: &About, operations: &mut Vec<Op>| {
            operations.push(Get::new(&items[position].name).meta(meta).into());
        };
        let mut failed = None;
        let mut answered = items.is_empty();
        let mut answers: Vec<Option<(Vec<u8>, Option<i64>)>> = items.iter().map(|_| None).collect();
        for share in self.ask(Ask::Read, &items, build).await {
            match share.answers {
                Ok(results) => {
                    answered = true;
                    for (position, result) in share.positions.iter().zip(results) {
                        if let OpResult::Get(got) = result {
                            answers[*position] = got.value.map(|value| (value, got.item.ttl));
                        }
                    }
                }
                // The keys of a server that is down are misses.
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        if let Some(error) = failed.filter(|_| !answered) {
            return Err(error);
        }
        let mut answers = answers.into_iter();
        let lookups = questions.iter().map(|(_, groups)| {
            let found = match answers.next().flatten() {
                None => Found::Absent,
                Some((bytes, seconds)) => match Entry::decode(&Bytes::from(bytes)) {
                    // Negative: no time to live.
                    Ok(entry) => {
                        let left = seconds.and_then(|seconds| u64::try_from(seconds).ok());
                        let left = left.map(Duration::from_secs);
                        let expires_at =
                            asked_at.zip(left).and_then(|(asked_at, left)| asked_at.checked_add(left));
                        Found::Entry(Arc::new(entry), expires_at)
                    }
                    Err(_) => Found::Undecodable,
                },
            };
            let current: Current =
                answers.by_ref().take(groups.len()).map(|answer| generation(&answer?.0)).collect();
            Lookup::new(found, current)
        });
        Ok(lookups.collect())
    }

    /// The operations that mint: adds the token where there is none, and gets what is there then.
    fn mint_one(&self, item: &Item, token: Generation, about: &About, operations: &mut Vec<Op>) {
        let expiry = about.time.expiry(self.generation_life(Duration::ZERO), self.clock.now());
        operations.push(Set::new(&item.name, bytes(token)).add().ttl_raw(expiry).into());
        operations.push(Get::new(&item.name).meta(Meta::NONE.ttl()).into());
    }

    async fn mint(&self, groups: &[Group]) -> Result<Minted> {
        let items: Vec<_> = groups.iter().map(|group| self.place.generation(group)).collect();
        let build = |position: usize, _: u32, about: &About, operations: &mut Vec<Op>| {
            self.mint_one(&items[position], Generation::random(), about, operations);
        };
        let shares = self.ask(Ask::Write, &items, build).await;
        let minted = self.minted(&items, shares).await?;
        Ok(Minted { vector: minted.into_iter().collect(), hold: Hold::none() })
    }

    /// What [`mint_one`](Self::mint_one) found for each of the items, in order.
    async fn minted(&self, items: &[Item], shares: Vec<Share>) -> Result<Vec<Generation>> {
        let mut minted: Vec<Option<Generation>> = items.iter().map(|_| None).collect();
        let mut short_lived = Vec::new();
        for share in shares {
            let results = share.answers?;
            for (position, pair) in share.positions.iter().zip(results.chunks(2)) {
                let [_, OpResult::Get(got)] = pair else {
                    return Err(unexpected("ms, mg"));
                };
                minted[*position] = Some(self.token_of(share.server, got.value.as_deref())?);
                if self.is_short_lived(got.item.ttl, Duration::ZERO) {
                    short_lived.push(items[*position].clone());
                }
            }
        }
        self.lengthen(&short_lived, Duration::ZERO).await?;
        minted.into_iter().collect::<Option<_>>().ok_or_else(|| unexpected("ms, mg"))
    }

    fn token_of(&self, server: usize, value: Option<&[u8]>) -> Result<Generation> {
        let failure = match value {
            Some(value) => match generation(value) {
                Some(generation) => return Ok(generation),
                None => Failure::protocol(
                    "the key of a group holds no generation; another application writes under the same \
                     `key_prefix`",
                ),
            },
            None => Failure::new(ErrorKind::Unavailable, "a generation was evicted while it was minted"),
        };
        Err(failure.at(self.servers[server].name()).into())
    }

    async fn lease(&self, request: &LeaseRequest<'_>) -> Result<Leased> {
        let mut items: Vec<_> = request.missing().map(|group| self.place.generation(group)).collect();
        let proposals: Vec<_> = items.iter().map(|_| Generation::random()).collect();
        let expected = request.vector(proposals.iter().copied());
        let expected = expected.ok_or_else(|| unexpected("a lookup"))?;
        items.push(self.place.lease(&request.name(&expected)));
        let build = |position: usize, attempt: u32, about: &About, operations: &mut Vec<Op>| {
            let item = &items[position];
            match proposals.get(position) {
                // A proposal is sent once; another one makes another vector.
                Some(proposal) => {
                    let token = if attempt == 0 { *proposal } else { Generation::random() };
                    self.mint_one(item, token, about, operations);
                }
                None => {
                    let expiry = about.time.expiry(request.lasts(), self.clock.now());
                    let owner = request.owner();
                    operations.push(Set::new(&item.name, owner.as_bytes()).add().ttl_raw(expiry).into());
                    operations.push(Get::new(&item.name).into());
                }
            }
        };
        let mut shares = self.ask(Ask::Write, &items, build).await;
        let holder = take_holder(&mut shares, proposals.len(), request);
        let minted = self.minted(&items[..proposals.len()], shares).await?;
        let vector = request.vector(minted).ok_or_else(|| unexpected("ms, mg"))?;
        let holder = if vector == expected { holder } else { LeaseHolder::NotAsked };
        Ok(Leased { vector, hold: Hold::none(), holder })
    }

    /// Deletes what was seen to be the owner's, and only that: `md` compares the item's CAS number, which
    /// the server changes with every write.
    async fn release(&self, lease: &LeaseName, owner: LeaseOwner) -> Result<()> {
        let item = self.place.lease(lease);
        let server = &self.servers[item.server];
        let look = |_: u32, _: &About, operations: &mut Vec<Op>| {
            operations.push(Get::new(&item.name).meta(Meta::NONE.cas()).into());
        };
        let looked = server.ask(Ask::Read, look).await?;
        let got = looked.first().and_then(OpResult::as_get);
        let own = got.filter(|got| got.value.as_deref() == Some(owner.as_bytes()));
        let Some(cas) = own.and_then(|got| got.item.cas) else { return Ok(()) };
        let delete = |_: u32, _: &About, operations: &mut Vec<Op>| {
            operations.push(Delete::new(&item.name).compare_cas(cas).into());
        };
        server.ask(Ask::Write, delete).await.map(drop)
    }

    /// In both lists where there are two.
    fn everywhere<T>(&self, things: &[T], item: impl Fn(&Place, &T) -> Item) -> Vec<Item> {
        let mut items: Vec<_> = things.iter().map(|thing| item(&self.place, thing)).collect();
        if let Some(overlap) = &self.overlap {
            for (at, thing) in things.iter().enumerate() {
                let other = item(overlap, thing);
                if other != items[at] {
                    items.push(other);
                }
            }
        }
        items
    }

    async fn bump(&self, groups: &[Group]) -> Result<()> {
        let items = self.everywhere(groups, |place, group| place.generation(group));
        let build = |position: usize, _: u32, about: &About, operations: &mut Vec<Op>| {
            let expiry = about.time.expiry(self.generation_life(Duration::ZERO), self.clock.now());
            let token = bytes(Generation::random());
            operations.push(Set::new(&items[position].name, token).replace().ttl_raw(expiry).into());
        };
        let mut refused = Vec::new();
        for share in self.ask(Ask::Anyway, &items, build).await {
            match share.answers {
                Ok(results) => results.iter().try_for_each(replaced)?,
                Err(error) if error.kind() == ErrorKind::Capacity => {
                    refused.extend(share.positions.iter().map(|position| items[*position].clone()));
                }
                Err(error) => return Err(error),
            }
        }
        // Where the server has no memory for a new generation. A group without one is as stale as one
        // with a new one.
        self.remove(&refused).await
    }

    async fn remove(&self, items: &[Item]) -> Result<()> {
        let build = |position: usize, _: u32, _: &About, operations: &mut Vec<Op>| {
            operations.push(Delete::new(&items[position].name).into());
        };
        for share in self.ask(Ask::Anyway, items, build).await {
            share.answers?.iter().try_for_each(replaced)?;
        }
        Ok(())
    }

    async fn store(&self, entry: &Entry, time_to_live: Duration) -> Result<()> {
        let mut items = vec![self.place.entry(entry.key())];
        items.extend(entry.groups().iter().map(|group| self.place.generation(group)));
        let value = entry.encode();
        self.check_size(&items[0], value.len(), entry.body().len())?;
        let build = |position: usize, _: u32, about: &About, operations: &mut Vec<Op>| {
            let name = &items[position].name;
            operations.push(if position == 0 {
                let expiry = about.time.expiry(time_to_live, self.clock.now());
                Set::new(name, &value).ttl_raw(expiry).into()
            } else {
                Get::new(name).without_value().meta(Meta::NONE.ttl()).into()
            });
        };
        let mut short_lived = Vec::new();
        for share in self.ask(Ask::Write, &items, build).await {
            let results = share.answers.inspect_err(|error| {
                if error.kind() == ErrorKind::Capacity && error.to_string().contains("too large") {
                    self.say_too_large(error);
                }
            })?;
            for (position, result) in share.positions.iter().zip(results) {
                match result {
                    OpResult::Mutation(stored) if stored.applied() => {}
                    OpResult::Get(got) if self.is_short_lived(got.item.ttl, time_to_live) => {
                        short_lived.push(items[*position].clone());
                    }
                    OpResult::Get(_) => {}
                    _ => return Err(unexpected("ms")),
                }
            }
        }
        self.lengthen(&short_lived, time_to_live).await
    }

    /// Refuses what the server would refuse, without sending it first.
    fn check_size(&self, item: &Item, value: usize, body: usize) -> Result<()> {
        let needed = value.saturating_add(item.name.len()).saturating_add(ITEM_OVERHEAD_BYTES);
        let server = &self.servers[item.server];
        let message = match (self.max_entry_bytes, server.item_bytes_max()) {
            (Some(max), _) if body > max => {
                format!("an entry of {body} bytes is too large, `max_entry_bytes` is {max}")
            }
            (_, Some(max)) if needed > max => {
                format!(
                    "{}: an entry of {body} bytes is too large, the server's `-I` is {max}",
                    server.name()
                )
            }
            _ => return Ok(()),
        };
        let error = Error::from(Failure::new(ErrorKind::Capacity, message));
        self.say_too_large(&error);
        Err(error)
    }

    fn say_too_large(&self, error: &Error) {
        if !self.too_large_was_said.swap(true, Ordering::Relaxed) {
            tracing::warn!(%error, "not stored, and not said again");
        }
    }

    /// Gives generations the life that entries stored from now on need.
    async fn lengthen(&self, items: &[Item], time_to_live: Duration) -> Result<()> {
        let build = |position: usize, _: u32, about: &About, operations: &mut Vec<Op>| {
            let expiry = about.time.expiry(self.generation_life(time_to_live), self.clock.now());
            operations.push(Get::new(&items[position].name).without_value().touch_raw(expiry).into());
        };
        for share in self.ask(Ask::Write, items, build).await {
            share.answers?;
        }
        Ok(())
    }

    /// How long a generation must live for entries of this time to live, and for those of this
    /// process so far.
    fn generation_life(&self, time_to_live: Duration) -> Duration {
        let this = whole_seconds(time_to_live.max(self.default_time_to_live));
        let longest = self.longest_seconds.fetch_max(this, Ordering::Relaxed).max(this);
        Duration::from_secs(longest).saturating_add(FILL_TIME)
    }

    /// Whether a generation with so many seconds left is to live longer. Not at every store: one that
    /// was given its life less than half a [`FILL_TIME`] ago will do.
    fn is_short_lived(&self, seconds_left: Option<i64>, time_to_live: Duration) -> bool {
        let Some(left) = seconds_left.and_then(|left| u64::try_from(left).ok()) else {
            // Without an end, or not there.
            return false;
        };
        Duration::from_secs(left) < self.generation_life(time_to_live).saturating_sub(FILL_TIME / 2)
    }
}

/// Takes the answer to the last item, the lease, out of the shares. If its server is down, whoever asks
/// may as well compute.
fn take_holder(shares: &mut Vec<Share>, lease: usize, request: &LeaseRequest<'_>) -> LeaseHolder {
    let Some(at) = shares.iter().position(|share| share.positions.last() == Some(&lease)) else {
        return LeaseHolder::Ours;
    };
    let share = &mut shares[at];
    share.positions.pop();
    let holder = match &mut share.answers {
        Ok(results) => {
            let got = results.pop();
            let added = results.pop();
            match (added, got) {
                (Some(OpResult::Mutation(added)), _) if added.applied() => LeaseHolder::Ours,
                (_, Some(OpResult::Get(got))) if got.value.as_deref() == Some(request.owner().as_bytes()) => {
                    LeaseHolder::Ours
                }
                // Or nobody any more, as the next time will show.
                _ => LeaseHolder::Other,
            }
        }
        Err(_) => LeaseHolder::Ours,
    };
    if share.positions.is_empty() {
        shares.swap_remove(at);
    }
    holder
}

/// There being nothing to replace or to delete is fine.
fn replaced(result: &OpResult) -> Result<()> {
    match result.as_mutation().map(|mutation| mutation.status) {
        Some(MutationStatus::Applied | MutationStatus::NotFound) => Ok(()),
        _ => Err(unexpected("ms or md")),
    }
}

fn bytes(token: Generation) -> [u8; TOKEN_BYTES] {
    token.get().to_be_bytes()
}

fn generation(value: &[u8]) -> Option<Generation> {
    let token: [u8; TOKEN_BYTES] = value.try_into().ok()?;
    Generation::new(u128::from_be_bytes(token))
}

fn unexpected(command: &str) -> Error {
    Failure::protocol(format!("an answer to {command} that is none; is this a memcached server?")).into()
}

impl Backend for MemcachedBackend {
    fn name(&self) -> &'static str {
        NAME
    }

    async fn lookup(&self, key: &Key, groups: &[Group], time_left: TimeLeft) -> Result<Lookup> {
        let looked = self.0.look(&[(key, groups)], time_left).await?;
        looked.into_iter().next().ok_or_else(|| unexpected("mg"))
    }

    async fn lookup_many(&self, questions: &[(Key, Groups)]) -> Result<Vec<Lookup>> {
        let questions: Vec<_> = questions.iter().map(|(key, groups)| (key, &**groups)).collect();
        self.0.look(&questions, TimeLeft::NotNeeded).await
    }

    async fn mint(&self, groups: &[Group]) -> Result<Minted> {
        self.0.mint(groups).await
    }

    async fn lease(&self, request: &LeaseRequest<'_>) -> Result<Leased> {
        self.0.lease(request).await
    }

    async fn release(&self, lease: &LeaseName, owner: LeaseOwner) -> Result<()> {
        self.0.release(lease, owner).await
    }

    async fn bump(&self, groups: &[Group]) -> Result<()> {
        self.0.bump(groups).await
    }

    async fn store(&self, entry: &Arc<Entry>, time_to_live: Option<Duration>) -> Result<()> {
        match time_to_live.unwrap_or(self.0.default_time_to_live) {
            Duration::ZERO => self.delete(entry.key()).await,
            time_to_live => self.0.store(entry, time_to_live).await,
        }
    }

    async fn delete(&self, key: &Key) -> Result<()> {
        let items = self.0.everywhere(std::slice::from_ref(key), Place::entry);
        self.0.remove(&items).await
    }

    fn default_time_to_live(&self) -> Option<Duration> {
        Some(self.0.default_time_to_live)
    }
}

impl fmt::Debug for MemcachedBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemcachedBackend")
            .field("servers", &self.0.place.list.names())
            .field("key_prefix", &self.0.place.key_prefix())
            .field("open_circuits", &self.open_circuits())
            .finish_non_exhaustive()
    }
}
