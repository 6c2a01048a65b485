//! The protocol: which steps are possible, and what each changes.
//!
//! A step is what the code does at one moment, as seen from outside. No step has to follow another soon, so
//! other steps may happen in between. A message that is never delivered is lost.

use crate::state::{
    AUTHOR, BOOK, Contents, Entry, FlightState, GROUPS, Generation, Generations, Left, LoadContext,
    LoadPermit, LookupGroups, Message, Minting, Phase, Reader, State, Target, Writer,
};
use crate::variants::Variant;

/// One protocol within bounds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Protocol {
    pub(crate) variant: Variant,
    pub(crate) bounds: Bounds,
    /// Searches for the goals of this scene instead of a stale read. Not for both at once, so that the
    /// checker ends with the first stale read.
    pub(crate) goals_of: Option<&'static str>,
}

/// How many readers, writers, processes and faults there are.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    /// Each reader reads once.
    pub(crate) readers: usize,
    pub(crate) processes: u8,
    /// Each writer writes one group once, and invalidates it.
    pub(crate) writers: usize,
    /// After how many lookups a reader loads for itself.
    pub(crate) rounds: u8,
    pub(crate) steps: Steps,
    /// Whether a process loads the key once at a time, and its other readers wait for the next load. Without,
    /// the readers load at once that may not share: those that load on their own do so in any case.
    pub(crate) queues: bool,
    pub(crate) faults: Left,
}

/// How much happens in one step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Steps {
    /// Anything that another step can come between.
    Fine,
    /// Merges two steps where the second does most harm if it follows at once. A read that starts later
    /// must see more, an earlier acknowledgement demands more, and data that was read earlier is older. The
    /// reply to a mint is immediate: a late reply equals a slow reader, and a lost one a cancelled mint.
    Coarse,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    // A writer.
    Write(usize, usize),
    SendBump(usize),
    BumpAgain(usize),
    Commit(usize),
    // A reader.
    Start(usize, u8, LookupGroups),
    LookUp(usize, LookupGroups),
    /// The reader has no vector. In coarse steps it may start with this.
    FailLookUp(usize),
    MintAgain(usize),
    CancelMint(usize),
    Join(usize),
    TakeOver(usize),
    /// It is the turn of a queued reader.
    Promote(usize),
    /// A follower waits no longer, and loads.
    GiveUp(usize),
    Read(usize, usize),
    Depend(usize),
    DiscoverLate(usize),
    Finish(usize),
    Cancel(usize),
    Check(usize),
    EndFlight(usize),
    // The network and the store.
    Deliver(usize),
    Duplicate(usize),
    EvictEntry,
    EvictGeneration(usize),
    Replicate,
    FailOver,
    BeginMigration,
    MoveKey,
    CancelMigration,
}

impl Protocol {
    pub(crate) fn starts(&self) -> Vec<State> {
        let empty = Contents::default();
        let tokens = [Some(1), Some(2)];
        let known = Contents { entry: None, tokens };
        let entry =
            |vector: Generations| Entry { vector, data: vector.map(|generation| generation.and(Some(0))) };
        let [book, author] = tokens.map(|token| token.map(|token| Generation { token, incarnation: 0 }));
        let one = Contents { entry: Some(entry([book, None])), tokens };
        let both = Contents { entry: Some(entry([book, author])), tokens };
        [empty, known, one, both].into_iter().map(|store| self.start_with(store)).collect()
    }

    fn start_with(&self, store: Contents) -> State {
        let mut state = State {
            store,
            incarnation: 0,
            replica: store,
            target: Target::default(),
            database: [0; GROUPS],
            acknowledged: [0; GROUPS],
            writers: vec![Writer::Idle; self.bounds.writers],
            readers: vec![Reader::IDLE; self.bounds.readers],
            flights: Vec::new(),
            network: Vec::new(),
            left: self.bounds.faults,
        };
        state.forget_replica();
        state
    }

    pub(crate) fn next(&self, state: &State, action: Action) -> State {
        let mut next = state.clone();
        self.apply(&mut next, action);
        // The value of a counter matters. Of a token, only equality with others does.
        if self.variant != Variant::SmallCounter {
            next.normalise();
        }
        next
    }

    pub(crate) fn possible(&self, state: &State, actions: &mut Vec<Action>) {
        if state.readers.iter().all(|reader| matches!(reader.phase, Phase::Done { .. })) {
            return;
        }
        for (at, writer) in state.writers.iter().enumerate() {
            match writer {
                // Writers are interchangeable, so they begin in order.
                Writer::Idle if at == 0 || state.writers[at - 1] != Writer::Idle => {
                    actions.extend([Action::Write(at, BOOK), Action::Write(at, AUTHOR)]);
                }
                Writer::ToBump { .. } => actions.push(Action::SendBump(at)),
                Writer::Waiting { .. } if state.left.bumps_again > 0 => {
                    actions.push(Action::BumpAgain(at));
                }
                Writer::ToCommit { .. } => actions.push(Action::Commit(at)),
                Writer::Idle | Writer::Waiting { .. } | Writer::Done => {}
            }
        }
        for at in 0..state.readers.len() {
            self.possible_for_reader(state, at, actions);
        }
        for (at, flight) in state.flights.iter().enumerate() {
            if matches!(flight.state, FlightState::Landed(_)) {
                actions.push(Action::EndFlight(at));
            }
        }
        for (at, message) in state.network.iter().enumerate() {
            actions.push(Action::Deliver(at));
            if matches!(message, Message::Store(_)) && state.left.duplicates > 0 {
                actions.push(Action::Duplicate(at));
            }
        }
        if state.store.entry.is_some() && state.left.entry_evictions > 0 {
            actions.push(Action::EvictEntry);
        }
        for group in [BOOK, AUTHOR] {
            if state.store.tokens[group].is_some() && state.left.generation_evictions > 0 {
                actions.push(Action::EvictGeneration(group));
            }
        }
        if state.left.failovers > 0 {
            if state.left.replications > 0 && state.replica != state.store {
                actions.push(Action::Replicate);
            }
            actions.push(Action::FailOver);
        }
        if state.target.importing {
            actions.push(Action::CancelMigration);
            if state.store.tokens[BOOK].is_some() {
                actions.push(Action::MoveKey);
            }
        } else if state.left.migrations > 0 {
            actions.push(Action::BeginMigration);
        }
    }

    fn possible_for_reader(&self, state: &State, at: usize, actions: &mut Vec<Action>) {
        let reader = &state.readers[at];
        match &reader.phase {
            // Readers are interchangeable, and so are processes.
            Phase::Idle if at > 0 && state.readers[at - 1].phase == Phase::Idle => {}
            Phase::Idle => {
                let processes = if at == 0 { 1 } else { self.bounds.processes };
                for process in 0..processes {
                    actions.push(Action::Start(at, process, LookupGroups::Named));
                    if self.looks_up_at_once() {
                        actions.push(Action::Start(at, process, LookupGroups::All));
                    }
                }
                if self.looks_up_at_once() && state.left.failed_lookups > 0 {
                    actions.push(Action::FailLookUp(at));
                }
            }
            Phase::LookingUp(groups) => {
                if *groups == LookupGroups::Named {
                    actions.push(Action::LookUp(at, LookupGroups::Named));
                }
                actions.push(Action::LookUp(at, LookupGroups::All));
                if state.left.failed_lookups > 0 {
                    actions.push(Action::FailLookUp(at));
                }
            }
            Phase::Minting(..) => {
                if state.left.mints_again > 0 {
                    actions.push(Action::MintAgain(at));
                }
                actions.push(Action::CancelMint(at));
            }
            Phase::Ready(_) => actions.push(Action::Join(at)),
            Phase::Following(permit) => {
                let id = self.flight(reader, permit);
                if state.flights.iter().any(|flight| flight.id == id && flight.state == FlightState::Vacant) {
                    actions.push(Action::TakeOver(at));
                }
                self.may_give_up(state, at, actions);
            }
            Phase::Aboard(id) => {
                if state.flights.iter().any(|flight| flight.id == *id && flight.state == FlightState::Vacant)
                {
                    actions.push(Action::TakeOver(at));
                }
                self.may_give_up(state, at, actions);
            }
            Phase::Queued(_) => {
                if self.flight_in_progress(state, reader.process).is_none() {
                    actions.push(Action::Promote(at));
                }
                self.may_give_up(state, at, actions);
            }
            Phase::Checking(..) => actions.push(Action::Check(at)),
            Phase::Loading(_, context) => {
                match context {
                    LoadContext { minting: Some(_), .. } => {
                        if state.left.mints_again > 0 {
                            actions.push(Action::MintAgain(at));
                        }
                        actions.push(Action::CancelMint(at));
                    }
                    LoadContext { data: [None, _], .. } => actions.push(Action::Read(at, BOOK)),
                    LoadContext { data: [_, Some(_)], .. } => actions.push(Action::Finish(at)),
                    LoadContext { vector: [_, Some(_)], .. } => {
                        actions.extend([Action::Read(at, AUTHOR), Action::Finish(at)]);
                    }
                    LoadContext { vector: [_, None], .. } => {
                        actions.extend([Action::Depend(at), Action::DiscoverLate(at), Action::Finish(at)]);
                    }
                }
                if state.left.cancellations > 0 {
                    actions.push(Action::Cancel(at));
                }
            }
            Phase::Done { .. } => {}
        }
    }

    fn may_give_up(&self, state: &State, at: usize, actions: &mut Vec<Action>) {
        if state.left.give_ups > 0 && self.flight_in_progress(state, state.readers[at].process).is_some() {
            actions.push(Action::GiveUp(at));
        }
    }

    fn apply(&self, state: &mut State, action: Action) {
        match action {
            Action::Write(writer, group) => {
                state.writers[writer] = if self.variant == Variant::BumpBeforeCommit {
                    Writer::ToBump { group, version: 0 }
                } else {
                    state.database[group] += 1;
                    Writer::ToBump { group, version: state.database[group] }
                };
            }
            Action::SendBump(writer) | Action::BumpAgain(writer) => self.send_bump(state, writer),
            Action::Commit(writer) => {
                let Writer::ToCommit { group } = state.writers[writer] else { unreachable!() };
                state.database[group] += 1;
                state.acknowledged[group] = state.database[group];
                state.writers[writer] = Writer::Done;
            }
            Action::Start(reader, process, groups) => {
                let began_at =
                    if self.variant == Variant::OldSnapshot { state.database } else { [0; GROUPS] };
                let must_see = state.acknowledged;
                let phase = Phase::LookingUp(LookupGroups::Named);
                state.readers[reader] = Reader { process, must_see, began_at, round: 1, phase };
                if self.looks_up_at_once() {
                    self.look_up(state, reader, groups);
                }
            }
            Action::LookUp(reader, groups) => self.look_up(state, reader, groups),
            Action::MintAgain(reader) => self.mint_again(state, reader),
            Action::CancelMint(reader) => self.cancel_mint(state, reader),
            Action::Join(reader) => self.join(state, reader),
            Action::TakeOver(reader) => self.take_over(state, reader),
            Action::Promote(reader) => self.promote(state, reader),
            Action::GiveUp(reader) => self.give_up(state, reader),
            Action::FailLookUp(reader) => {
                state.left.failed_lookups -= 1;
                let phase = Phase::Ready(LoadPermit::NONE);
                state.readers[reader] = match state.readers[reader] {
                    idle if idle.phase == Phase::Idle => {
                        Reader { must_see: state.acknowledged, round: 1, phase, ..Reader::IDLE }
                    }
                    looking_up => Reader { phase, ..looking_up },
                };
            }
            Action::Read(reader, group) => self.read(state, reader, group),
            Action::Depend(reader) => {
                let sent = self.tokens(state, [false, true]);
                state.context_mut(reader).minting = Some(Minting { sent });
                state.network.push(Message::Mint { reader: Some(reader), sent, got: [None; GROUPS] });
            }
            Action::DiscoverLate(reader) => self.discover_late(state, reader),
            Action::Finish(reader) => self.finish(state, reader),
            Action::Cancel(reader) => self.cancel(state, reader),
            Action::Check(reader) => self.check(state, reader),
            Action::EndFlight(flight) => {
                state.flights.remove(flight);
            }
            Action::Deliver(message) => self.deliver(state, message),
            Action::Duplicate(message) => {
                let Message::Store(entry) = state.network[message] else { unreachable!() };
                self.store(state, entry);
                state.left.duplicates -= 1;
            }
            Action::EvictEntry => {
                state.store.entry = None;
                state.left.entry_evictions -= 1;
            }
            Action::EvictGeneration(group) => {
                state.store.tokens[group] = None;
                state.left.generation_evictions -= 1;
            }
            Action::Replicate => {
                state.replica = state.store;
                state.left.replications -= 1;
            }
            Action::FailOver => {
                state.store = state.replica;
                if self.variant != Variant::NoIncarnation {
                    state.incarnation += 1;
                }
                state.left.failovers -= 1;
                state.forget_replica();
            }
            Action::BeginMigration => {
                state.target.importing = true;
                state.left.migrations -= 1;
            }
            // What the target has is replaced.
            Action::MoveKey => state.target.token = state.store.tokens[BOOK].take(),
            Action::CancelMigration => {
                state.target.importing = false;
                state.forget_target();
            }
        }
    }

    pub(crate) fn looks_up_at_once(&self) -> bool {
        self.bounds.steps == Steps::Coarse && self.variant != Variant::OldSnapshot
    }

    // Writers.

    pub(crate) fn send_bump(&self, state: &mut State, at: usize) {
        let fresh = state.fresh_token();
        let (group, version, token) = match state.writers[at] {
            Writer::ToBump { group, version } => (group, version, fresh),
            Writer::Waiting { group, version, token } => {
                state.stop_waiting_for_bump(at);
                state.left.bumps_again -= 1;
                (group, version, if self.variant == Variant::SameBumpToken { token } else { fresh })
            }
            _ => unreachable!(),
        };
        state.writers[at] = Writer::Waiting { group, version, token };
        state.network.push(Message::Bump {
            writer: at,
            group,
            waits: true,
            redirected: false,
            executed: false,
            token,
        });
    }

    pub(crate) fn bump_acknowledged(&self, state: &mut State, at: usize) {
        let Writer::Waiting { group, version, .. } = state.writers[at] else { unreachable!() };
        state.writers[at] = if self.variant == Variant::BumpBeforeCommit {
            Writer::ToCommit { group }
        } else {
            state.acknowledged[group] = state.acknowledged[group].max(version);
            Writer::Done
        };
    }
}
