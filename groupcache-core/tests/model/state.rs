//! The state at one moment: the store, the network, the database, and the progress of each reader and
//! writer.

/// Every reader names this group.
pub(crate) const BOOK: usize = 0;
/// Some loads discover this group.
pub(crate) const AUTHOR: usize = 1;
pub(crate) const GROUPS: usize = 2;

/// One value for each group.
pub(crate) type PerGroup<T> = [T; GROUPS];
/// A generation as the store has it.
pub(crate) type Token = u8;
/// How often a group's data was written.
pub(crate) type Version = u8;
/// Generations of some groups. `None` for a missing one, and for a group that does not matter.
pub(crate) type Generations = PerGroup<Option<Generation>>;
/// The versions of data that a load has read.
pub(crate) type Data = PerGroup<Option<Version>>;

/// A token and the incarnation of the store in which it was seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Generation {
    pub(crate) token: Token,
    pub(crate) incarnation: u8,
}

/// The generation in a placeholder of the group that its load found too late. No group ever has it.
pub(crate) const UNKNOWN: Generation = Generation { token: Token::MAX, incarnation: u8::MAX };

/// The entry under the one key. It depends on the groups of its vector.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Entry {
    pub(crate) vector: Generations,
    pub(crate) data: Data,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(crate) struct Contents {
    pub(crate) entry: Option<Entry>,
    pub(crate) tokens: PerGroup<Option<Token>>,
}

/// Another store, to which the slot of `book` may move.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(crate) struct Target {
    /// Whether a migration was begun and not cancelled. The store then redirects for what it has not.
    pub(crate) importing: bool,
    pub(crate) token: Option<Token>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct State {
    pub(crate) store: Contents,
    pub(crate) incarnation: u8,
    /// Older contents, which a failover restores.
    pub(crate) replica: Contents,
    pub(crate) target: Target,
    /// How often each group's data was written.
    pub(crate) database: PerGroup<Version>,
    /// The newest write of each group whose invalidation was acknowledged.
    pub(crate) acknowledged: PerGroup<Version>,
    pub(crate) writers: Vec<Writer>,
    pub(crate) readers: Vec<Reader>,
    pub(crate) flights: Vec<Flight>,
    pub(crate) network: Vec<Message>,
    pub(crate) left: Left,
}

/// How often each fault may still happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(crate) struct Left {
    pub(crate) entry_evictions: u8,
    pub(crate) generation_evictions: u8,
    pub(crate) replications: u8,
    pub(crate) failovers: u8,
    pub(crate) cancellations: u8,
    /// A store that is executed more than once.
    pub(crate) duplicates: u8,
    /// A bump, or a mint, that is sent again because its reply is late.
    pub(crate) bumps_again: u8,
    pub(crate) mints_again: u8,
    /// A lookup that fails because the store is unavailable.
    pub(crate) failed_lookups: u8,
    /// A follower that waits no longer for its leader.
    pub(crate) give_ups: u8,
    /// Migrations that begin.
    pub(crate) migrations: u8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Writer {
    Idle,
    /// Has not sent a bump yet; `version` is what it committed.
    ToBump {
        group: usize,
        version: Version,
    },
    Waiting {
        group: usize,
        version: Version,
        token: Token,
    },
    /// Only in the variant with the wrong order: acknowledged, and not committed yet.
    ToCommit {
        group: usize,
    },
    Done,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Reader {
    pub(crate) process: u8,
    /// What was acknowledged when the read started.
    pub(crate) must_see: PerGroup<Version>,
    /// The data when the read started, only for the variant that uses it.
    pub(crate) began_at: PerGroup<Version>,
    pub(crate) round: u8,
    pub(crate) phase: Phase,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Phase {
    Idle,
    LookingUp(LookupGroups),
    Minting(LoadPermit, Minting),
    /// Has a complete vector.
    Ready(LoadPermit),
    /// Waits for a flight.
    Following(LoadPermit),
    /// Waits for the flight behind the one that its process has.
    Queued(LoadPermit),
    /// Waits for a flight whose load had not begun when it joined.
    Aboard(FlightId),
    /// Checks whether the vector of the flight that it joined is current.
    Checking(LoadPermit, Entry),
    Loading(LoadPermit, LoadContext),
    Done {
        stale: bool,
    },
}

/// The groups of a lookup.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum LookupGroups {
    /// The groups that the reader names.
    Named,
    /// Also those that this process has discovered or that the entry has.
    All,
}

/// A mint that waits for its reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Minting {
    pub(crate) sent: PerGroup<Option<Token>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct LoadPermit {
    pub(crate) groups: LookupGroups,
    pub(crate) vector: Generations,
    /// The generations of the lookup with the missing ones, only for the variant that uses them.
    pub(crate) seen: Generations,
}

/// A load in flight.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct LoadContext {
    pub(crate) leads: bool,
    pub(crate) vector: Generations,
    pub(crate) data: Data,
    /// Waits for the generation of the discovered group.
    pub(crate) minting: Option<Minting>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct FlightId {
    pub(crate) process: u8,
    pub(crate) groups: LookupGroups,
    pub(crate) vector: Generations,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Flight {
    pub(crate) id: FlightId,
    pub(crate) state: FlightState,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum FlightState {
    Loading,
    /// The leader was cancelled, and a follower takes over.
    Vacant,
    /// The load has ended. Readers that come before its entry is stored share it.
    Landed(Entry),
}

/// A message in flight. One that is never delivered is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Message {
    /// The reply is in flight once the bump is `executed`.
    Bump {
        writer: usize,
        group: usize,
        waits: bool,
        /// The store redirected it to where the slot is moving.
        redirected: bool,
        executed: bool,
        token: Token,
    },
    /// Groups are minted one by one, and the reply is in flight once all are `got`. A mint without a
    /// reader was cancelled.
    Mint {
        reader: Option<usize>,
        sent: PerGroup<Option<Token>>,
        got: Generations,
    },
    Store(Entry),
}

impl State {
    /// Merges equivalent states: renumbers tokens by their position, and sorts messages and flights.
    pub(crate) fn normalise(&mut self) {
        let mut names = [0; 256];
        let mut next = 0;
        self.each_token(&mut |token| {
            let name = &mut names[usize::from(*token)];
            if *name == 0 {
                next += 1;
                *name = next;
            }
            *token = *name;
        });
        self.flights.sort_unstable();
        self.network.sort_unstable();
    }

    /// A token that is used nowhere.
    pub(crate) fn fresh_token(&mut self) -> Token {
        let mut highest = 0;
        self.each_token(&mut |token| highest = highest.max(*token));
        highest + 1
    }

    fn each_token(&mut self, visit: &mut impl FnMut(&mut Token)) {
        for contents in [&mut self.store, &mut self.replica] {
            contents.tokens.iter_mut().flatten().for_each(&mut *visit);
            if let Some(entry) = &mut contents.entry {
                in_generations(&mut entry.vector, visit);
            }
        }
        self.target.token.iter_mut().for_each(&mut *visit);
        for reader in &mut self.readers {
            match &mut reader.phase {
                Phase::Idle | Phase::LookingUp(_) | Phase::Done { .. } => {}
                Phase::Minting(permit, minting) => {
                    in_permit(permit, visit);
                    minting.sent.iter_mut().flatten().for_each(&mut *visit);
                }
                Phase::Ready(permit) | Phase::Following(permit) | Phase::Queued(permit) => {
                    in_permit(permit, visit);
                }
                Phase::Aboard(id) => in_generations(&mut id.vector, visit),
                Phase::Checking(permit, entry) => {
                    in_permit(permit, visit);
                    in_generations(&mut entry.vector, visit);
                }
                Phase::Loading(permit, context) => {
                    in_permit(permit, visit);
                    in_generations(&mut context.vector, visit);
                    let sent = context.minting.iter_mut().flat_map(|minting| &mut minting.sent);
                    sent.flatten().for_each(&mut *visit);
                }
            }
        }
        for writer in &mut self.writers {
            if let Writer::Waiting { token, .. } = writer {
                visit(token);
            }
        }
        for flight in &mut self.flights {
            in_generations(&mut flight.id.vector, visit);
            if let FlightState::Landed(entry) = &mut flight.state {
                in_generations(&mut entry.vector, visit);
            }
        }
        for message in &mut self.network {
            match message {
                Message::Bump { token, .. } => visit(token),
                Message::Mint { sent, got, .. } => {
                    sent.iter_mut().flatten().for_each(&mut *visit);
                    in_generations(got, visit);
                }
                Message::Store(entry) => in_generations(&mut entry.vector, visit),
            }
        }
    }
}

impl Reader {
    pub(crate) const IDLE: Self =
        Self { process: 0, must_see: [0; GROUPS], began_at: [0; GROUPS], round: 0, phase: Phase::Idle };
}

impl LoadPermit {
    /// A permit to load without the store.
    pub(crate) const NONE: Self =
        Self { groups: LookupGroups::Named, vector: [None; GROUPS], seen: [None; GROUPS] };
}

fn in_permit(permit: &mut LoadPermit, visit: &mut impl FnMut(&mut Token)) {
    in_generations(&mut permit.vector, visit);
    in_generations(&mut permit.seen, visit);
}

fn in_generations(generations: &mut Generations, visit: &mut impl FnMut(&mut Token)) {
    let known = generations.iter_mut().flatten().filter(|generation| **generation != UNKNOWN);
    known.for_each(|generation| visit(&mut generation.token));
}
