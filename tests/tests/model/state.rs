//! What there is at one moment: the store, the network, the database, and how far each reader and
//! writer has come.

/// Every reader names this group.
pub(crate) const BOOK: usize = 0;
/// Some computations find out that they depend on this one too.
pub(crate) const AUTHOR: usize = 1;
pub(crate) const GROUPS: usize = 2;

/// What each group has of something.
pub(crate) type PerGroup<T> = [T; GROUPS];
/// The value of a generation in the store.
pub(crate) type Token = u8;
/// How often a group's data was written.
pub(crate) type Version = u8;
/// Generations of some groups; `None` for one that is missing, or is none of those meant.
pub(crate) type Generations = PerGroup<Option<Generation>>;
/// What was read of the data of some groups.
pub(crate) type Data = PerGroup<Option<Version>>;

/// A token, and the life of the store in which it was seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Generation {
    pub(crate) token: Token,
    pub(crate) incarnation: u8,
}

/// What is stored under the one key. It depends on the groups that its vector has.
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
    /// Older contents, which a failover brings back.
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
    /// A bump, or a mint, that is sent once more because its reply is long in coming.
    pub(crate) bumps_again: u8,
    pub(crate) mints_again: u8,
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
    /// Only where the order is wrong: acknowledged, and not committed yet.
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
    /// The data when the read started; only kept where it is wrongly used.
    pub(crate) began_at: PerGroup<Version>,
    pub(crate) round: u8,
    pub(crate) phase: Phase,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Phase {
    Idle,
    Looking(Asks),
    Minting(Ticket, Minting),
    /// Has a complete vector.
    Ready(Ticket),
    /// Waits for a flight.
    Aboard(Ticket),
    /// Looks whether the vector of a flight that it waited for is current.
    Checking(Ticket, Entry),
    Computing(Ticket, LoadContext),
    Done {
        stale: bool,
    },
}

/// The groups that a lookup asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Asks {
    /// Those that the reader names.
    Named,
    /// Also those that this process has learned of, or the entry has told.
    All,
}

/// A mint that waits for its reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Minting {
    pub(crate) sent: PerGroup<Option<Token>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Ticket {
    pub(crate) asks: Asks,
    pub(crate) vector: Generations,
    /// What the lookup found, missing ones included; only kept where it is wrongly used.
    pub(crate) looked: Generations,
}

/// A computation under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct LoadContext {
    pub(crate) leads: bool,
    pub(crate) vector: Generations,
    pub(crate) data: Data,
    /// It waits for the generation of the group that it found out.
    pub(crate) minting: Option<Minting>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct FlightId {
    pub(crate) process: u8,
    pub(crate) asks: Asks,
    pub(crate) vector: Generations,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Flight {
    pub(crate) id: FlightId,
    pub(crate) course: Course,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Course {
    Computing,
    /// The leader is gone; one of those who wait takes over.
    Vacant,
    /// There until its entry is stored, for those who come meanwhile.
    Landed(Entry),
}

/// On its way. One that never arrives is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Message {
    /// The reply is on its way once it has been `executed`.
    Bump {
        writer: usize,
        group: usize,
        waits: bool,
        /// The store redirected it to where the slot is moving.
        redirected: bool,
        executed: bool,
        token: Token,
    },
    /// The groups are minted one by one; the reply is on its way once all have been `got`. Nobody
    /// waits for a mint without a reader.
    Mint {
        reader: Option<usize>,
        sent: PerGroup<Option<Token>>,
        got: Generations,
    },
    Store(Entry),
}

impl State {
    /// Renumbers tokens by where they stand, so that states that differ only in the names of tokens
    /// are one; and forgets the order in which messages were sent.
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

    /// A token that nobody has seen.
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
                Phase::Idle | Phase::Looking(_) | Phase::Done { .. } => {}
                Phase::Minting(ticket, minting) => {
                    in_ticket(ticket, visit);
                    minting.sent.iter_mut().flatten().for_each(&mut *visit);
                }
                Phase::Ready(ticket) | Phase::Aboard(ticket) => in_ticket(ticket, visit),
                Phase::Checking(ticket, entry) => {
                    in_ticket(ticket, visit);
                    in_generations(&mut entry.vector, visit);
                }
                Phase::Computing(ticket, fill) => {
                    in_ticket(ticket, visit);
                    in_generations(&mut fill.vector, visit);
                    let sent = fill.minting.iter_mut().flat_map(|minting| &mut minting.sent);
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
            if let Course::Landed(entry) = &mut flight.course {
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

fn in_ticket(ticket: &mut Ticket, visit: &mut impl FnMut(&mut Token)) {
    in_generations(&mut ticket.vector, visit);
    in_generations(&mut ticket.looked, visit);
}

fn in_generations(generations: &mut Generations, visit: &mut impl FnMut(&mut Token)) {
    generations.iter_mut().flatten().for_each(|generation| visit(&mut generation.token));
}
