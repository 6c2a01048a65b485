//! The simplest complete backend, and its variants with a bug.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use groupcache_core::backend::{
    CurrentGenerations, EntryView, Found, Generation, LeaseHolder, LeaseName, LeaseOwner, LeaseRequest,
    Leased, Lookup, Minted, TimeLeft,
};
use groupcache_core::{Backend, Clock, Entry, Error, ErrorKind, Group, Groups, Key, Result, SystemClock};
use parking_lot::Mutex;

use crate::doubles::bug::Bug;

/// A complete backend: maps in a mutex.
///
/// Behaves like a store in another process. It keeps entries encoded, shows nothing to `lookup_now`,
/// grants leases, and returns the time left only where the caller needs it. It has no size limit. Clones
/// share the store.
///
/// ```
/// use groupcache_conformance::doubles::PlainBackend;
/// use groupcache_core::{Cache, Error, Group};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Error> {
/// let backend = PlainBackend::new();
/// let cache = Cache::builder(backend.clone()).build();
/// cache.insert("page", Group::new("book"), || async { Ok::<_, Error>(1) }).await?;
/// backend.lose_group(&Group::new("book"));
/// assert_eq!(cache.get::<u32, _, _>("page", Group::new("book")).await, None);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct PlainBackend {
    contents: Arc<Mutex<Contents>>,
    clock: Arc<dyn Clock>,
    bug: Option<Bug>,
}

#[derive(Debug, Default, Clone)]
struct Contents {
    entries: HashMap<Vec<u8>, Stored>,
    generations: HashMap<Vec<u8>, Generation>,
    leases: HashMap<Option<LeaseName>, (LeaseOwner, Option<Instant>)>,
    // The fields below serve bugs only.
    lost: HashMap<Vec<u8>, Generation>,
    bumped: Vec<Vec<u8>>,
    bump_later: Vec<Vec<u8>>,
}

/// The contents of a [`PlainBackend`] at one moment. See [`PlainBackend::snapshot`].
#[derive(Debug)]
pub struct Snapshot(Contents);

#[derive(Debug, Clone)]
struct Stored {
    bytes: Vec<u8>,
    expires_at: Option<Instant>,
}

impl PlainBackend {
    /// Makes an empty store.
    #[must_use]
    pub fn new() -> Self {
        Self { contents: Arc::default(), clock: Arc::new(SystemClock), bug: None }
    }

    /// Makes an empty store whose entries expire by `clock`.
    #[must_use]
    pub fn with_clock(clock: impl Clock) -> Self {
        Self { clock: Arc::new(clock), ..Self::new() }
    }

    /// Makes an empty store with a bug.
    #[must_use]
    pub fn with_bug(bug: Bug) -> Self {
        Self { bug: Some(bug), ..Self::new() }
    }

    /// Returns the store of this name. Every call in this process with the same name returns the same store.
    #[must_use]
    pub fn shared(name: &str) -> Self {
        static STORES: LazyLock<Mutex<HashMap<String, PlainBackend>>> = LazyLock::new(Mutex::default);
        STORES.lock().entry(name.to_owned()).or_default().clone()
    }

    /// Returns the contents, to [`restore`](Self::restore) them later.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        Snapshot(self.contents.lock().clone())
    }

    /// Returns to older contents, and forgets all generations, as their tokens must not be current again.
    pub fn restore(&self, mut snapshot: Snapshot) {
        if !self.has(Bug::RollbackUnnoticed) {
            snapshot.0.generations.clear();
        }
        *self.contents.lock() = snapshot.0;
    }

    /// Loses the generation of `group`, as by an eviction.
    pub fn lose_group(&self, group: &Group) {
        let mut contents = self.contents.lock();
        if let Some(generation) = contents.generations.remove(&self.name_of(group)) {
            contents.lost.insert(self.name_of(group), generation);
        }
    }

    /// Evicts the entry under `key`.
    pub fn evict(&self, key: &Key) {
        self.contents.lock().entries.remove(&self.name_of_key(key));
    }

    /// Replaces the entry under `key` with bytes that do not decode.
    pub fn corrupt(&self, key: &Key) {
        let stored = Stored { bytes: b"no entry".to_vec(), expires_at: None };
        self.contents.lock().entries.insert(self.name_of_key(key), stored);
    }

    /// Returns the number of entries and the number of generations.
    #[must_use]
    pub fn size(&self) -> (usize, usize) {
        let contents = self.contents.lock();
        (contents.entries.len(), contents.generations.len())
    }

    fn has(&self, bug: Bug) -> bool {
        self.bug == Some(bug)
    }

    fn name_of_key(&self, key: &Key) -> Vec<u8> {
        let bytes = key.as_bytes();
        let cut = if self.has(Bug::LongKeysCut) { bytes.len().min(250) } else { bytes.len() };
        bytes[..cut].to_vec()
    }

    fn name_of(&self, group: &Group) -> Vec<u8> {
        match self.bug {
            Some(Bug::FieldsIgnored) => group.name().as_bytes().to_vec(),
            Some(Bug::CaseIgnored) => group.encoded().to_ascii_lowercase(),
            _ => group.encoded().to_vec(),
        }
    }

    fn fresh(&self, previous: Option<Generation>) -> Generation {
        if self.has(Bug::GenerationsRepeat) {
            let next = Generation::new(previous.map_or(1, |previous| previous.get() + 1));
            return next.unwrap_or_else(Generation::random);
        }
        Generation::random()
    }

    fn current(&self, contents: &Contents, groups: &[Group]) -> CurrentGenerations {
        let find = |at: usize, group: &Group| {
            let at = if self.has(Bug::OneGroupOfSeveral) && at > 0 { 0 } else { at };
            let name = if at == 0 { self.name_of(&groups[0]) } else { self.name_of(group) };
            let lost = contents.lost.get(&name).filter(|_| self.has(Bug::LostIsGuessed));
            contents.generations.get(&name).or(lost).copied()
        };
        groups.iter().enumerate().map(|(at, group)| find(at, group)).collect()
    }

    fn look(&self, key: &Key, groups: &[Group], time_left: TimeLeft) -> Lookup {
        let mut contents = self.contents.lock();
        if self.has(Bug::LookupMints) {
            for group in groups {
                contents.generations.entry(self.name_of(group)).or_insert_with(Generation::random);
            }
        }
        let now = self.clock.now();
        let stored = contents.entries.get(&self.name_of_key(key));
        let alive = stored.filter(|stored| {
            self.has(Bug::TimeToLiveIgnored) || stored.expires_at.is_none_or(|expires_at| expires_at > now)
        });
        let found = match alive {
            None => Found::Absent,
            Some(stored) => match Entry::decode(&stored.bytes.clone().into()) {
                // A store that shortens names can find the entry of another key.
                Ok(entry) if entry.key() != key && !self.has(Bug::LongKeysCut) => Found::Absent,
                Ok(entry) => {
                    let needed = time_left == TimeLeft::Needed && !self.has(Bug::TimeLeftMissing);
                    Found::Entry(Arc::new(entry), stored.expires_at.filter(|_| needed))
                }
                Err(_) => Found::Undecodable,
            },
        };
        Lookup::new(found, self.current(&contents, groups))
    }

    /// The bug [`Bug::MintReadsFirst`].
    async fn mint_in_two_steps(&self, groups: &[Group]) -> Minted {
        let seen = self.current(&self.contents.lock(), groups);
        tokio::task::yield_now().await;
        let mut contents = self.contents.lock();
        let mint = |(group, known): (&Group, &Option<Generation>)| {
            let generation = known.unwrap_or_else(Generation::random);
            contents.generations.insert(self.name_of(group), generation);
            generation
        };
        Minted::new(groups.iter().zip(seen.iter()).map(mint).collect())
    }

    fn expiry(&self, time_to_live: Option<Duration>) -> Option<Instant> {
        let time_to_live = match time_to_live {
            Some(time) if self.has(Bug::TimeToLiveInWholeSeconds) && time.as_secs() == 0 => None,
            Some(time) if self.has(Bug::TimeToLiveBecomesADate) && time.as_secs() > 30 * 86_400 => {
                Some(Duration::ZERO)
            }
            Some(time) if self.has(Bug::TimeToLiveInWholeSeconds) => {
                Some(Duration::from_secs(time.as_secs()))
            }
            time => time,
        };
        time_to_live.and_then(|time| self.clock.now().checked_add(time))
    }

    fn as_kept(&self, entry: &Entry) -> Vec<u8> {
        let body = match entry.body().iter().position(|byte| *byte == 0) {
            Some(end) if self.has(Bug::BodyEndsAtZero) => entry.body().slice(..end),
            _ => entry.body().clone(),
        };
        let grace = if self.has(Bug::GraceForgotten) { Duration::ZERO } else { entry.grace() };
        Entry::new(entry.key().clone(), entry.groups().clone(), entry.vector().clone(), body, grace).encode()
    }
}

impl Default for PlainBackend {
    fn default() -> Self {
        Self::new()
    }
}

impl Backend for PlainBackend {
    fn name(&self) -> &'static str {
        "plain"
    }

    async fn lookup(&self, key: &Key, groups: &[Group], time_left: TimeLeft) -> Result<Lookup> {
        Ok(self.look(key, groups, time_left))
    }

    fn lookup_now(&self, key: &Key, visit: &mut dyn FnMut(EntryView<'_>)) {
        // Entries are kept encoded, so there is none to show. Only the bug shows one.
        if self.has(Bug::LookupNowGuesses)
            && let Found::Entry(entry, expires_at) = self.look(key, &[], TimeLeft::Needed).found
        {
            let current: CurrentGenerations = entry.vector().iter().copied().map(Some).collect();
            visit(EntryView::new(&entry, expires_at, &current));
        }
    }

    async fn lookup_many(&self, requests: &[(Key, Groups)]) -> Result<Vec<Lookup>> {
        let mut answers: Vec<_> =
            requests.iter().map(|(key, groups)| self.look(key, groups, TimeLeft::NotNeeded)).collect();
        if self.has(Bug::BatchOutOfOrder) {
            answers.reverse();
        }
        if self.has(Bug::BatchLeavesOutMisses) {
            answers.retain(|answer| !matches!(answer.found, Found::Absent));
        }
        Ok(answers)
    }

    async fn mint(&self, groups: &[Group]) -> Result<Minted> {
        if self.has(Bug::MintReadsFirst) {
            return Ok(self.mint_in_two_steps(groups).await);
        }
        let mut contents = self.contents.lock();
        let mint = |group: &Group| {
            let name = self.name_of(group);
            let known = contents.generations.get(&name).copied();
            match known {
                Some(_) if self.has(Bug::MintReturnsItsOwn) => Generation::random(),
                Some(known) if !self.has(Bug::MintOverwrites) => known,
                previous => {
                    let fresh = self.fresh(previous);
                    contents.generations.insert(name, fresh);
                    fresh
                }
            }
        };
        Ok(Minted::new(groups.iter().map(mint).collect()))
    }

    async fn lease(&self, request: &LeaseRequest<'_>) -> Result<Leased> {
        let missing: Vec<_> = request.missing().cloned().collect();
        // Another process has minted since the lookup. A store in another process would have proposed
        // other generations, and requested the lease under those.
        let is_outdated = {
            let contents = self.contents.lock();
            self.current(&contents, &missing).iter().any(Option::is_some)
        };
        let minted = self.mint(&missing).await?.vector;
        let vector = request.vector(minted.iter().copied());
        let mut vector = vector.ok_or_else(|| Error::new(ErrorKind::Protocol, self.name()))?;
        if is_outdated {
            let guessed = self.has(Bug::LeaseGuesses);
            let holder = if guessed { LeaseHolder::Ours } else { LeaseHolder::Unknown };
            return Ok(Leased::new(vector, holder));
        }
        let mut contents = self.contents.lock();
        if self.has(Bug::LeaseMintsAll) {
            vector = request.groups().iter().map(|_| Generation::random()).collect();
            let names = request.groups().iter().map(|group| self.name_of(group));
            contents.generations.extend(names.zip(vector.iter().copied()));
        }
        let now = self.clock.now();
        let until = match request.duration() {
            _ if self.has(Bug::LeaseNeverEnds) => None,
            duration if self.has(Bug::LeaseBecomesADate) && duration.as_secs() > 30 * 86_400 => Some(now),
            duration => now.checked_add(duration),
        };
        let name = Some(request.name(&vector)).filter(|_| !self.has(Bug::OneLeaseForAll));
        let held = contents
            .leases
            .get(&name)
            .filter(|(_, until)| until.is_none_or(|until| until > now))
            .map(|(owner, _)| *owner);
        let holder = match held {
            Some(owner) if owner != request.owner() && !self.has(Bug::LeaseForEveryOwner) => {
                LeaseHolder::Other
            }
            Some(_) if !self.has(Bug::LeaseExtends) => LeaseHolder::Ours,
            _ => {
                contents.leases.insert(name, (request.owner(), until));
                LeaseHolder::Ours
            }
        };
        Ok(Leased::new(vector, holder))
    }

    async fn release(&self, lease: &LeaseName, owner: LeaseOwner) -> Result<()> {
        let mut contents = self.contents.lock();
        let held = contents.leases.get(&Some(*lease)).is_some_and(|(held, _)| *held == owner);
        if (held || self.has(Bug::ReleaseByAnyOwner)) && !self.has(Bug::ReleaseIgnored) {
            contents.leases.remove(&Some(*lease));
        }
        Ok(())
    }

    async fn bump(&self, groups: &[Group]) -> Result<()> {
        let mut contents = self.contents.lock();
        for (at, group) in groups.iter().enumerate() {
            let name = self.name_of(group);
            let ignored = self.has(Bug::BumpOnlyTheFirst) && at > 0
                || self.has(Bug::BumpOnlyOnce) && contents.bumped.contains(&name);
            let known = contents.generations.get(&name).copied();
            if ignored || known.is_none() && !self.has(Bug::BumpMints) {
                continue;
            }
            if self.has(Bug::BumpLater) {
                contents.bump_later.push(name);
                continue;
            }
            let fresh = self.fresh(known);
            contents.generations.insert(name.clone(), fresh);
            contents.bumped.push(name);
        }
        Ok(())
    }

    async fn store(&self, entry: &Arc<Entry>, time_to_live: Option<Duration>) -> Result<()> {
        let mut contents = self.contents.lock();
        if self.has(Bug::StoreAdopts) {
            for (group, generation) in entry.groups().iter().zip(entry.vector().iter()) {
                contents.generations.entry(self.name_of(group)).or_insert(*generation);
            }
        }
        let name = self.name_of_key(entry.key());
        let mut expires_at = self.expiry(time_to_live);
        if self.has(Bug::OverwriteKeepsExpiry) {
            expires_at = contents.entries.get(&name).map_or(expires_at, |old| old.expires_at);
        }
        contents.entries.insert(name, Stored { bytes: self.as_kept(entry), expires_at });
        Ok(())
    }

    async fn delete(&self, key: &Key) -> Result<()> {
        let mut contents = self.contents.lock();
        for name in std::mem::take(&mut contents.bump_later) {
            contents.generations.insert(name, Generation::random());
        }
        drop(contents);
        if !self.has(Bug::DeleteIgnored) {
            self.contents.lock().entries.remove(&self.name_of_key(key));
        }
        Ok(())
    }
}
