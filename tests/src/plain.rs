//! A backend as somebody might write one who follows the documentation of `Backend`, one sentence
//! at a time; and the mistakes one might make, one at a time.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex};
use std::time::{Duration, Instant};

use groupcache_core::backend::{
    CurrentGenerations, EntryView, Found, Generation, LeaseHolder, LeaseName, LeaseOwner, LeaseRequest,
    Leased, Lookup, Minted, TimeLeft,
};

use groupcache_core::{Backend, Clock, Entry, Error, ErrorKind, Group, Groups, Key, Result, SystemClock};

/// Maps in a mutex. Knows no bounds; keeps entries encoded, as a store in another process does, and
/// tells the time left only where it is needed. Clones are the same store.
#[derive(Debug, Clone)]
pub struct PlainBackend {
    contents: Arc<Mutex<Contents>>,
    clock: Arc<dyn Clock>,
    bug: Option<Bug>,
}

/// One mistake. Each breaks one promise of `Backend`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "tests go through all of them")]
pub enum Bug {
    /// A mint gives a fresh generation to a group that has one.
    MintOverwrites,
    /// A mint answers with a generation of its own, not with the one that is there.
    MintReturnsItsOwn,
    /// A mint looks first and writes later, with others in between.
    MintLooksFirst,
    /// A bump is lost on a group that was bumped before, as if it were missing.
    BumpOnlyOnce,
    /// A bump is acknowledged and does nothing to the second and later groups.
    BumpOnlyTheFirst,
    /// A bump of a group without a generation gives it one.
    BumpMints,
    /// A bump is acknowledged before it takes effect, which is with the next delete.
    BumpLater,
    /// Generations count from one in each life of a group.
    GenerationsRepeat,
    /// Entries never expire.
    TimeToLiveIgnored,
    /// A time to live is cut to whole seconds, and none left means for ever.
    TimeToLiveInWholeSeconds,
    /// A time to live of more than 30 days is a date, long past.
    TimeToLiveBecomesADate,
    /// Overwriting an entry keeps the old one's expiry.
    OverwriteKeepsExpiry,
    /// Of several groups, only the first one's generation is looked up.
    OneGroupOfSeveral,
    /// Answers to several lookups come in the wrong order.
    BatchOutOfOrder,
    /// An answer to several lookups is left out where there is no entry.
    BatchLeavesOutMisses,
    /// Keys are cut to 250 bytes.
    LongKeysCut,
    /// Groups are told apart by their names only.
    FieldsIgnored,
    /// Names are compared without regard to case.
    CaseIgnored,
    /// Deleting reports success and does nothing.
    DeleteIgnored,
    /// Bodies end at the first zero byte.
    BodyEndsAtZero,
    /// The grace of an entry is forgotten.
    GraceForgotten,
    /// The time left is never told.
    TimeLeftNotTold,
    /// A lookup gives a generation to groups that have none.
    LookupMints,
    /// Storing an entry makes its generations current where there are none.
    StoreAdopts,
    /// A glance takes the generations of the entry for the current ones.
    GlanceGuesses,
    /// A lease is given to everybody who asks.
    LeaseForAll,
    /// A lease never runs out.
    LeaseNeverEnds,
    /// Asking for a lease gives a fresh generation to every group.
    LeaseMintsAll,
    /// There is one lease for all.
    LeasesMeet,
    /// Releasing a lease reports success and does nothing.
    ReleaseIgnored,
    /// Anybody can release a lease.
    ReleaseByAnybody,
    /// A lease lasts longer when its owner asks again.
    LeaseExtends,
    /// A lease of more than 30 days has run out long ago.
    LeaseBecomesADate,
    /// Who was told of other generations than expected has the lease on the expected ones.
    LeaseGuesses,
    /// What was lost is reported as the last generation that was known.
    LostIsGuessed,
    /// A store that comes back with older contents counts their generations as current.
    RollbackUnnoticed,
}

impl Bug {
    /// Those that show without anything happening to the store.
    pub const ALL_THAT_SHOW_BY_THEMSELVES: &[Self] = &[
        Self::MintOverwrites,
        Self::MintReturnsItsOwn,
        Self::MintLooksFirst,
        Self::BumpOnlyOnce,
        Self::BumpOnlyTheFirst,
        Self::BumpMints,
        Self::BumpLater,
        Self::TimeToLiveIgnored,
        Self::TimeToLiveInWholeSeconds,
        Self::TimeToLiveBecomesADate,
        Self::OverwriteKeepsExpiry,
        Self::OneGroupOfSeveral,
        Self::BatchOutOfOrder,
        Self::BatchLeavesOutMisses,
        Self::LongKeysCut,
        Self::FieldsIgnored,
        Self::CaseIgnored,
        Self::DeleteIgnored,
        Self::BodyEndsAtZero,
        Self::GraceForgotten,
        Self::TimeLeftNotTold,
        Self::LookupMints,
        Self::StoreAdopts,
        Self::GlanceGuesses,
        Self::LeaseForAll,
        Self::LeaseNeverEnds,
        Self::LeaseMintsAll,
        Self::LeasesMeet,
        Self::ReleaseIgnored,
        Self::ReleaseByAnybody,
        Self::LeaseExtends,
        Self::LeaseBecomesADate,
        Self::LeaseGuesses,
    ];
}

#[derive(Debug, Default, Clone)]
struct Contents {
    entries: HashMap<Vec<u8>, Stored>,
    generations: HashMap<Vec<u8>, Generation>,
    leases: HashMap<Option<LeaseName>, (LeaseOwner, Option<Instant>)>,
    /// Only the mistakes use what follows.
    lost: HashMap<Vec<u8>, Generation>,
    bumped: Vec<Vec<u8>>,
    bump_later: Vec<Vec<u8>>,
}

/// The contents of a [`PlainBackend`] at one moment.
#[derive(Debug)]
pub struct Snapshot(Contents);

#[derive(Debug, Clone)]
struct Stored {
    bytes: Vec<u8>,
    expires_at: Option<Instant>,
}

impl PlainBackend {
    /// An empty store.
    #[must_use]
    pub fn new() -> Self {
        Self { contents: Arc::default(), clock: Arc::new(SystemClock), bug: None }
    }

    /// An empty store with its own idea of time.
    #[must_use]
    pub fn with_clock(clock: impl Clock) -> Self {
        Self { clock: Arc::new(clock), ..Self::new() }
    }

    /// An empty store with a mistake.
    #[must_use]
    pub fn with_bug(bug: Bug) -> Self {
        Self { bug: Some(bug), ..Self::new() }
    }

    /// The store of this name, for the whole process.
    #[must_use]
    pub fn shared(name: &str) -> Self {
        static STORES: LazyLock<Mutex<HashMap<String, PlainBackend>>> = LazyLock::new(Mutex::default);
        STORES.lock().unwrap().entry(name.to_owned()).or_default().clone()
    }

    /// What is in it now.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        Snapshot(self.contents.lock().unwrap().clone())
    }

    /// Comes back with older contents. A store that can do so must not know the old generations again.
    pub fn restore(&self, mut snapshot: Snapshot) {
        if !self.has(Bug::RollbackUnnoticed) {
            snapshot.0.generations.clear();
        }
        *self.contents.lock().unwrap() = snapshot.0;
    }

    /// Loses the generation of `group`.
    pub fn lose_group(&self, group: &Group) {
        let mut contents = self.contents.lock().unwrap();
        if let Some(generation) = contents.generations.remove(&self.name_of(group)) {
            contents.lost.insert(self.name_of(group), generation);
        }
    }

    /// Evicts the entry under `key`.
    pub fn evict(&self, key: &Key) {
        self.contents.lock().unwrap().entries.remove(&self.name_of_key(key));
    }

    /// Puts bytes that are no entry under `key`.
    pub fn corrupt(&self, key: &Key) {
        let stored = Stored { bytes: b"no entry".to_vec(), expires_at: None };
        self.contents.lock().unwrap().entries.insert(self.name_of_key(key), stored);
    }

    /// How many entries and generations there are.
    #[must_use]
    pub fn size(&self) -> (usize, usize) {
        let contents = self.contents.lock().unwrap();
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
            return Generation::new(previous.map_or(1, |previous| previous.get() + 1)).unwrap();
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
        let mut contents = self.contents.lock().unwrap();
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
                // Another key under the same name, in stores that shorten names.
                Ok(entry) if entry.key() != key && !self.has(Bug::LongKeysCut) => Found::Absent,
                Ok(entry) => {
                    let needed = time_left == TimeLeft::Needed && !self.has(Bug::TimeLeftNotTold);
                    let told = stored.expires_at.filter(|_| needed);
                    Found::Entry(Arc::new(entry), told)
                }
                Err(_) => Found::Undecodable,
            },
        };
        Lookup::new(found, self.current(&contents, groups))
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

    fn lookup_now(&self, key: &Key, judge: &mut dyn FnMut(EntryView<'_>)) {
        // What is kept encoded is not there to be shown; only the mistake does.
        if self.has(Bug::GlanceGuesses)
            && let Found::Entry(entry, expires_at) = self.look(key, &[], TimeLeft::Needed).found
        {
            let current: CurrentGenerations = entry.vector().iter().copied().map(Some).collect();
            judge(EntryView::new(&entry, expires_at, &current));
        }
    }

    async fn lookup_many(&self, questions: &[(Key, Groups)]) -> Result<Vec<Lookup>> {
        let mut answers: Vec<_> =
            questions.iter().map(|(key, groups)| self.look(key, groups, TimeLeft::NotNeeded)).collect();
        if self.has(Bug::BatchOutOfOrder) {
            answers.reverse();
        }
        if self.has(Bug::BatchLeavesOutMisses) {
            answers.retain(|answer| !matches!(answer.found, Found::Absent));
        }
        Ok(answers)
    }

    async fn mint(&self, groups: &[Group]) -> Result<Minted> {
        let looked = self.current(&self.contents.lock().unwrap(), groups);
        if self.has(Bug::MintLooksFirst) {
            tokio::task::yield_now().await;
            let mut contents = self.contents.lock().unwrap();
            let mint = |(group, known): (&Group, &Option<Generation>)| {
                let generation = known.unwrap_or_else(Generation::random);
                contents.generations.insert(self.name_of(group), generation);
                generation
            };
            let vector = groups.iter().zip(looked.iter()).map(mint).collect();
            return Ok(Minted::new(vector));
        }
        let mut contents = self.contents.lock().unwrap();
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
        let all = self.has(Bug::LeaseMintsAll);
        let missing: Vec<_> = request.missing().cloned().collect();
        // Minted by somebody else since the lookup: as a store answers that had to guess the vector.
        let guessed_wrong = {
            let contents = self.contents.lock().unwrap();
            self.current(&contents, &missing).iter().any(Option::is_some)
        };
        let minted = self.mint(&missing).await?.vector;
        let vector = request.vector(minted.iter().copied());
        let mut vector = vector.ok_or_else(|| Error::new(ErrorKind::Protocol, self.name()))?;
        if guessed_wrong {
            let guessed = self.has(Bug::LeaseGuesses);
            let holder = if guessed { LeaseHolder::Ours } else { LeaseHolder::Unknown };
            return Ok(Leased::new(vector, holder));
        }
        let mut contents = self.contents.lock().unwrap();
        if all {
            vector = request.groups().iter().map(|_| Generation::random()).collect();
            let names = request.groups().iter().map(|group| self.name_of(group));
            contents.generations.extend(names.zip(vector.iter().copied()));
        }
        let now = self.clock.now();
        let until = match request.duration() {
            _ if self.has(Bug::LeaseNeverEnds) => None,
            lasts if self.has(Bug::LeaseBecomesADate) && lasts.as_secs() > 30 * 86_400 => Some(now),
            lasts => now.checked_add(lasts),
        };
        let name = Some(request.name(&vector)).filter(|_| !self.has(Bug::LeasesMeet));
        let held = contents
            .leases
            .get(&name)
            .filter(|(_, until)| until.is_none_or(|until| until > now))
            .map(|(owner, _)| *owner);
        let holder = match held {
            Some(owner) if owner != request.owner() && !self.has(Bug::LeaseForAll) => LeaseHolder::Other,
            Some(_) if !self.has(Bug::LeaseExtends) => LeaseHolder::Ours,
            _ => {
                contents.leases.insert(name, (request.owner(), until));
                LeaseHolder::Ours
            }
        };
        Ok(Leased::new(vector, holder))
    }

    async fn release(&self, lease: &LeaseName, owner: LeaseOwner) -> Result<()> {
        let mut contents = self.contents.lock().unwrap();
        let held = contents.leases.get(&Some(*lease)).is_some_and(|(held, _)| *held == owner);
        if (held || self.has(Bug::ReleaseByAnybody)) && !self.has(Bug::ReleaseIgnored) {
            contents.leases.remove(&Some(*lease));
        }
        Ok(())
    }

    async fn bump(&self, groups: &[Group]) -> Result<()> {
        let mut contents = self.contents.lock().unwrap();
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
        let mut contents = self.contents.lock().unwrap();
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
        let mut contents = self.contents.lock().unwrap();
        for name in std::mem::take(&mut contents.bump_later) {
            contents.generations.insert(name, Generation::random());
        }
        drop(contents);
        if !self.has(Bug::DeleteIgnored) {
            self.contents.lock().unwrap().entries.remove(&self.name_of_key(key));
        }
        Ok(())
    }
}
