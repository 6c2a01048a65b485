//! The steps of a reader: `read/` and `load_context.rs` of the crate.

use crate::protocol::{Protocol, Steps};
use crate::state::{
    AUTHOR, BOOK, Contents, Data, Entry, Flight, FlightId, FlightState, GROUPS, Generations, LoadContext,
    LoadPermit, LookupGroups, Message, Minting, Phase, Reader, State, UNKNOWN, Version,
};
use crate::store::{Verdict, has_all, is_current};
use crate::variants::Variant;

impl Protocol {
    pub(crate) fn look_up(&self, state: &mut State, at: usize, groups: LookupGroups) {
        let mut vector = self.current(state);
        match self.judge(state.store.entry.as_ref(), groups, &vector) {
            Verdict::Hit(data) => return state.answer(at, data),
            Verdict::MoreGroups => {
                state.readers[at].phase = Phase::LookingUp(LookupGroups::All);
                return;
            }
            Verdict::Miss => {}
        }
        let mut groups = groups;
        if groups == LookupGroups::Named {
            vector[AUTHOR] = None;
            // The next load probably depends on the groups of the entry too, so it mints them.
            if state.store.entry.is_some_and(|entry| entry.vector[AUTHOR].is_some()) {
                groups = LookupGroups::All;
            }
        }
        let seen = if self.variant == Variant::FlightOnMissing { vector } else { [None; GROUPS] };
        let permit = LoadPermit { groups, vector, seen };
        let missing = [vector[BOOK].is_none(), vector[AUTHOR].is_none() && groups == LookupGroups::All];
        if missing == [false; GROUPS] {
            state.readers[at].phase = Phase::Ready(permit);
            return;
        }
        let sent = self.tokens(state, missing);
        state.readers[at].phase = Phase::Minting(permit, Minting { sent });
        state.network.push(Message::Mint { reader: Some(at), sent, got: [None; GROUPS] });
    }

    pub(crate) fn mint_again(&self, state: &mut State, at: usize) {
        state.stop_waiting_for_mint(at);
        let mut minting = *state.minting_mut(at);
        if self.variant != Variant::SameMintToken {
            minting.sent = self.tokens(state, minting.sent.map(|token| token.is_some()));
        }
        state.left.mints_again -= 1;
        *state.minting_mut(at) = minting;
        state.network.push(Message::Mint { reader: Some(at), sent: minting.sent, got: [None; GROUPS] });
    }

    /// The mint was not acknowledged, so the value is not stored.
    pub(crate) fn cancel_mint(&self, state: &mut State, at: usize) {
        state.stop_waiting_for_mint(at);
        if self.variant == Variant::UnacknowledgedMint {
            let sent = state.minting_mut(at).sent;
            let taken = sent.map(|token| token.map(|token| self.generation(state, token)));
            return self.minted(state, at, taken);
        }
        if let Phase::Loading(permit, LoadContext { leads: true, .. }) = state.readers[at].phase {
            let id = self.flight(&state.readers[at], &permit);
            self.share_with_aboard(state, id, state.readers[at].data());
            for waiter in self.land(state, id, None) {
                self.load_alone(state, waiter);
            }
        }
        state.answer_from_database(at);
    }

    pub(crate) fn join(&self, state: &mut State, at: usize) {
        let Phase::Ready(permit) = state.readers[at].phase else { unreachable!() };
        let id = self.flight(&state.readers[at], &permit);
        // A reader without a vector shares no load that has begun.
        let found = state.flights.iter().find(|flight| flight.id == id && permit != LoadPermit::NONE);
        match found.map(|flight| flight.state) {
            Some(FlightState::Landed(entry)) => return self.take(state, at, permit, entry),
            Some(FlightState::Loading | FlightState::Vacant) => {
                state.readers[at].phase = Phase::Following(permit);
                return;
            }
            None => {}
        }
        match self.flight_in_progress(state, state.readers[at].process) {
            Some(flight) if self.variant == Variant::LateJoin || flight.state == FlightState::Vacant => {
                state.readers[at].phase = Phase::Aboard(flight.id);
            }
            Some(_) => state.readers[at].phase = Phase::Queued(permit),
            None => self.lead(state, at, permit),
        }
    }

    /// The flight that a process leads or is about to, if it has one flight at a time.
    pub(crate) fn flight_in_progress(&self, state: &State, process: u8) -> Option<Flight> {
        let in_progress = |flight: &&Flight| {
            flight.id.process == process && matches!(flight.state, FlightState::Loading | FlightState::Vacant)
        };
        state.flights.iter().find(in_progress).filter(|_| self.bounds.queues).copied()
    }

    fn lead(&self, state: &mut State, at: usize, permit: LoadPermit) {
        let id = self.flight(&state.readers[at], &permit);
        // An earlier flight with this vector has landed, and its entry is being stored.
        state.flights.retain(|flight| flight.id != id);
        state.flights.push(Flight { id, state: FlightState::Loading });
        self.load(state, at, permit, true);
    }

    /// Takes the place of a leader that was cancelled.
    pub(crate) fn take_over(&self, state: &mut State, at: usize) {
        let (permit, id) = match state.readers[at].phase {
            Phase::Following(permit) => (permit, self.flight(&state.readers[at], &permit)),
            Phase::Aboard(id) => {
                (LoadPermit { groups: id.groups, vector: id.vector, seen: [None; GROUPS] }, id)
            }
            _ => unreachable!(),
        };
        state.flight_mut(id).state = FlightState::Loading;
        self.load(state, at, permit, true);
    }

    /// Leads the flight that was queued, after a lookup. Whoever waits with this reader is aboard.
    pub(crate) fn promote(&self, state: &mut State, at: usize) {
        let process = state.readers[at].process;
        let vector = self.current(state);
        let permit = match vector[BOOK] {
            Some(_) => {
                LoadPermit { groups: LookupGroups::Named, vector: [vector[BOOK], None], seen: [None; GROUPS] }
            }
            None => LoadPermit::NONE,
        };
        let id = self.flight(&state.readers[at], &permit);
        for reader in &mut state.readers {
            if reader.process == process && matches!(reader.phase, Phase::Queued(_)) {
                reader.phase = Phase::Aboard(id);
            }
        }
        self.lead(state, at, permit);
    }

    /// Another flight takes the place of the one that this reader waits for. The leader goes on alone.
    pub(crate) fn give_up(&self, state: &mut State, at: usize) {
        state.left.give_ups -= 1;
        let process = state.readers[at].process;
        let Some(Flight { id, .. }) = self.flight_in_progress(state, process) else { unreachable!() };
        state.flights.retain(|flight| flight.id != id);
        let permit = match state.readers[at].phase {
            Phase::Following(permit) | Phase::Queued(permit) => permit,
            _ => LoadPermit::NONE,
        };
        for other in 0..state.readers.len() {
            let flight = match &state.readers[other].phase {
                Phase::Following(permit) => self.flight(&state.readers[other], permit),
                Phase::Aboard(id) => *id,
                Phase::Loading(permit, context) if context.leads => {
                    self.flight(&state.readers[other], permit)
                }
                _ => continue,
            };
            if flight != id {
                continue;
            }
            state.readers[other].phase = match state.readers[other].phase {
                Phase::Loading(_, context) => {
                    Phase::Loading(LoadPermit::NONE, LoadContext { leads: false, ..context })
                }
                Phase::Following(permit) => Phase::Queued(permit),
                _ => Phase::Queued(LoadPermit::NONE),
            };
        }
        self.lead(state, at, permit);
        let id = self.flight(&state.readers[at], &permit);
        // The readers that waited join the new flight; in coarse steps its load has begun.
        if self.bounds.steps == Steps::Fine {
            for reader in &mut state.readers {
                if reader.process == process && matches!(reader.phase, Phase::Queued(_)) {
                    reader.phase = Phase::Aboard(id);
                }
            }
        }
    }

    /// The flight that a reader with this permit joins.
    pub(crate) fn flight(&self, reader: &Reader, permit: &LoadPermit) -> FlightId {
        let process = reader.process;
        match self.variant {
            Variant::FlightByKey => FlightId { process, groups: LookupGroups::Named, vector: [None; GROUPS] },
            Variant::FlightOnMissing => FlightId { process, groups: permit.groups, vector: permit.seen },
            _ => FlightId { process, groups: permit.groups, vector: permit.vector },
        }
    }

    /// Shares the value of a flight with a follower, if it may.
    pub(crate) fn take(&self, state: &mut State, at: usize, permit: LoadPermit, entry: Entry) {
        // A follower has the same generations of these groups as the flight.
        let is_in_flight_id = |group: usize| group == BOOK || permit.groups == LookupGroups::All;
        let discovered = |group: usize| entry.vector[group].is_some() && !is_in_flight_id(group);
        let unchecked = self.variant == Variant::UncheckedLateGroups || !discovered(AUTHOR);
        if unchecked {
            state.answer(at, entry.data);
        } else {
            state.readers[at].phase = Phase::Checking(permit, entry);
        }
    }

    pub(crate) fn check(&self, state: &mut State, at: usize) {
        let Phase::Checking(permit, entry) = state.readers[at].phase else { unreachable!() };
        if is_current(&entry, &self.current(state)) {
            state.answer(at, entry.data);
        } else {
            self.again(state, at, permit);
        }
    }

    pub(crate) fn again(&self, state: &mut State, at: usize, permit: LoadPermit) {
        let reader = &mut state.readers[at];
        reader.phase = Phase::Following(permit);
        if reader.round < self.bounds.rounds {
            reader.round += 1;
            reader.phase = Phase::LookingUp(LookupGroups::Named);
        } else {
            self.load_alone(state, at);
        }
    }

    pub(crate) fn load_alone(&self, state: &mut State, at: usize) {
        let Phase::Following(permit) = state.readers[at].phase else { unreachable!() };
        self.load(state, at, permit, false);
    }

    pub(crate) fn load(&self, state: &mut State, at: usize, permit: LoadPermit, leads: bool) {
        let none = LoadPermit::NONE;
        let context = LoadContext { leads, vector: permit.vector, data: [None; GROUPS], minting: None };
        state.readers[at].phase = Phase::Loading(if leads { permit } else { none }, context);
        if self.bounds.steps == Steps::Coarse {
            self.read(state, at, BOOK);
        }
    }

    pub(crate) fn read(&self, state: &mut State, at: usize, group: usize) {
        let version = match self.variant {
            Variant::OldSnapshot => state.readers[at].began_at[group],
            _ => state.database[group],
        };
        state.context_mut(at).data[group] = Some(version);
    }

    pub(crate) fn minted(&self, state: &mut State, at: usize, minted: Generations) {
        let phase = &mut state.readers[at].phase;
        match phase {
            Phase::Minting(permit, _) => {
                for (known, minted) in permit.vector.iter_mut().zip(minted) {
                    *known = known.or(minted);
                }
                *phase = Phase::Ready(*permit);
            }
            Phase::Loading(_, context) => {
                context.vector[AUTHOR] = minted[AUTHOR];
                context.minting = None;
                if self.bounds.steps == Steps::Coarse {
                    self.read(state, at, AUTHOR);
                }
            }
            _ => unreachable!(),
        }
    }

    /// The load read the data of the group before its generation, so the value is served and not stored. A
    /// placeholder is, if the load had a vector: it names the groups.
    pub(crate) fn discover_late(&self, state: &mut State, at: usize) {
        let Phase::Loading(permit, context) = state.readers[at].phase else { unreachable!() };
        if context.vector[BOOK].is_some() {
            let data = [context.data[BOOK], Some(state.database[AUTHOR])];
            let placeholder = Entry { vector: [context.vector[BOOK], Some(UNKNOWN)], data };
            state.network.push(Message::Store(placeholder));
        }
        if context.leads {
            let id = self.flight(&state.readers[at], &permit);
            self.share_with_aboard(state, id, state.readers[at].data());
            for waiter in self.land(state, id, None) {
                let Phase::Following(permit) = state.readers[waiter].phase else { unreachable!() };
                self.again(state, waiter, permit);
            }
        }
        state.answer_from_database(at);
    }

    pub(crate) fn finish(&self, state: &mut State, at: usize) {
        let Phase::Loading(permit, context) = state.readers[at].phase else { unreachable!() };
        let of_those_read = |group: usize| context.vector[group].filter(|_| context.data[group].is_some());
        let entry = Entry { vector: [of_those_read(BOOK), of_those_read(AUTHOR)], data: context.data };
        let is_stored = context.vector[BOOK].is_some();
        if context.leads {
            let id = self.flight(&state.readers[at], &permit);
            self.share_with_aboard(state, id, entry.data);
            for waiter in self.land(state, id, Some(entry).filter(|_| is_stored)) {
                let Phase::Following(permit) = state.readers[waiter].phase else { unreachable!() };
                self.take(state, waiter, permit, entry);
            }
        }
        if !is_stored {
            return state.answer_from_database(at);
        }
        let mut stored = entry;
        if matches!(self.variant, Variant::LateGenerations | Variant::LateGenerationsConditional) {
            stored.vector = self.minted_now(state, entry.data);
        }
        state.network.push(Message::Store(stored));
        state.answer(at, entry.data);
    }

    pub(crate) fn cancel(&self, state: &mut State, at: usize) {
        state.stop_waiting_for_mint(at);
        let Phase::Loading(permit, context) = state.readers[at].phase else { unreachable!() };
        if context.leads {
            let id = self.flight(&state.readers[at], &permit);
            let has_aboard = state.readers.iter().any(|reader| reader.phase == Phase::Aboard(id));
            if self.waiters(state, id).is_empty() && !has_aboard {
                state.flights.retain(|flight| flight.id != id);
            } else {
                state.flight_mut(id).state = FlightState::Vacant;
            }
        }
        state.left.cancellations -= 1;
        state.answer_from_database(at);
    }

    /// Whoever joined before the load began shares its value, stored or not.
    fn share_with_aboard(&self, state: &mut State, id: FlightId, data: Data) {
        for at in 0..state.readers.len() {
            if state.readers[at].phase == Phase::Aboard(id) {
                state.answer(at, data);
            }
        }
    }

    /// Ends a load and returns its followers.
    fn land(&self, state: &mut State, id: FlightId, entry: Option<Entry>) -> Vec<usize> {
        match entry {
            Some(entry) => state.flight_mut(id).state = FlightState::Landed(entry),
            None => state.flights.retain(|flight| flight.id != id),
        }
        self.waiters(state, id)
    }

    fn waiters(&self, state: &State, id: FlightId) -> Vec<usize> {
        let waits = |reader: &Reader| matches!(&reader.phase, Phase::Following(permit) if self.flight(reader, permit) == id);
        (0..state.readers.len()).filter(|at| waits(&state.readers[*at])).collect()
    }
}

impl Reader {
    /// What a load has read so far. What it reads later is new enough for all readers that wait.
    fn data(&self) -> Data {
        match &self.phase {
            Phase::Loading(_, context) => context.data,
            _ => unreachable!(),
        }
    }
}

impl State {
    pub(crate) fn flight_mut(&mut self, id: FlightId) -> &mut Flight {
        self.flights.iter_mut().find(|flight| flight.id == id).unwrap_or_else(|| unreachable!())
    }

    pub(crate) fn context_mut(&mut self, at: usize) -> &mut LoadContext {
        let Phase::Loading(_, context) = &mut self.readers[at].phase else { unreachable!() };
        context
    }

    pub(crate) fn minting_mut(&mut self, at: usize) -> &mut Minting {
        match &mut self.readers[at].phase {
            Phase::Minting(_, minting) | Phase::Loading(_, LoadContext { minting: Some(minting), .. }) => {
                minting
            }
            _ => unreachable!(),
        }
    }

    /// A request that is not executed yet stays in flight. A reply is dropped.
    pub(crate) fn stop_waiting_for_mint(&mut self, at: usize) {
        self.network.retain_mut(|message| match message {
            Message::Mint { reader, sent, got } if *reader == Some(at) => {
                *reader = None;
                !has_all(sent, got)
            }
            _ => true,
        });
    }

    pub(crate) fn stop_waiting_for_bump(&mut self, at: usize) {
        self.network.retain_mut(|message| match message {
            Message::Bump { writer, waits, executed, .. } if *writer == at => {
                *waits = false;
                !*executed
            }
            _ => true,
        });
    }

    fn answer(&mut self, at: usize, data: Data) {
        let must_see = self.readers[at].must_see;
        let is_old = |group: usize| data[group].is_some_and(|version: Version| version < must_see[group]);
        let stale = is_old(BOOK) || is_old(AUTHOR);
        self.readers[at] = Reader { phase: Phase::Done { stale }, ..Reader::IDLE };
    }

    /// Data read from the database after the read began is new enough. A cancelled reader needs none.
    fn answer_from_database(&mut self, at: usize) {
        self.readers[at] = Reader { phase: Phase::Done { stale: false }, ..Reader::IDLE };
    }

    /// Without a migration to come, no reader will ever see what is there.
    pub(crate) fn forget_target(&mut self) {
        if self.left.migrations == 0 {
            self.target.token = None;
        }
    }

    /// Without a failover to come, the contents of the replica do not matter.
    pub(crate) fn forget_replica(&mut self) {
        if self.left.failovers == 0 {
            self.replica = Contents::default();
            self.left.replications = 0;
        }
    }
}
