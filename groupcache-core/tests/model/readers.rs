//! The steps of a reader: `read/` and `load_context.rs` of the crate.

use crate::protocol::{Protocol, Steps};
use crate::state::{
    AUTHOR, BOOK, Contents, Data, Entry, Flight, FlightId, FlightState, GROUPS, Generations, LoadContext,
    LoadPermit, LookupGroups, Message, Minting, Phase, Reader, State, Version,
};
use crate::store::{Verdict, has_all, is_current, judge};
use crate::variants::Variant;

impl Protocol {
    pub(crate) fn look_up(&self, state: &mut State, at: usize, groups: LookupGroups) {
        let mut vector = self.current(state);
        match judge(state.store.entry.as_ref(), groups, &vector) {
            Verdict::Hit(data) => return state.answer(at, data),
            Verdict::MoreGroups => {
                state.readers[at].phase = Phase::LookingUp(LookupGroups::All);
                return;
            }
            Verdict::Miss => {}
        }
        if groups == LookupGroups::Named {
            vector[AUTHOR] = None;
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
            for waiter in self.land(state, id, None) {
                self.load_alone(state, waiter);
            }
        }
        state.answer_from_database(at);
    }

    pub(crate) fn join(&self, state: &mut State, at: usize) {
        let Phase::Ready(permit) = state.readers[at].phase else { unreachable!() };
        let id = self.flight(&state.readers[at], &permit);
        match state.flights.iter().find(|flight| flight.id == id).map(|flight| flight.state) {
            Some(FlightState::Landed(entry)) => self.take(state, at, permit, entry),
            Some(FlightState::Loading | FlightState::Vacant) => {
                state.readers[at].phase = Phase::Following(permit)
            }
            None => {
                state.flights.push(Flight { id, state: FlightState::Loading });
                self.load(state, at, permit, true);
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
        let none = LoadPermit { groups: LookupGroups::Named, vector: [None; GROUPS], seen: [None; GROUPS] };
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

    /// The load read the data of the group before its generation, so the value is served and not stored.
    pub(crate) fn discover_late(&self, state: &mut State, at: usize) {
        if let Phase::Loading(permit, LoadContext { leads: true, .. }) = state.readers[at].phase {
            let id = self.flight(&state.readers[at], &permit);
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
        if context.leads {
            let id = self.flight(&state.readers[at], &permit);
            for waiter in self.land(state, id, Some(entry)) {
                let Phase::Following(permit) = state.readers[waiter].phase else { unreachable!() };
                self.take(state, waiter, permit, entry);
            }
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
            if self.waiters(state, id).is_empty() {
                state.flights.retain(|flight| flight.id != id);
            } else {
                state.flight_mut(id).state = FlightState::Vacant;
            }
        }
        state.left.cancellations -= 1;
        state.answer_from_database(at);
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
