//! What a reader does: `groupcache_core::cache`, `compute`, `fill` and `single_flight`.

use crate::protocol::{Protocol, Steps};
use crate::state::{
    AUTHOR, Asks, BOOK, Contents, Course, Data, Entry, Flight, FlightId, GROUPS, Generations, LoadContext,
    Message, Minting, Phase, Reader, State, Ticket, Version,
};
use crate::store::{Verdict, has_all, is_current, judge};
use crate::variants::Variant;

impl Protocol {
    pub(crate) fn look(&self, state: &mut State, at: usize, asks: Asks) {
        let mut vector = self.current(state);
        match judge(state.store.entry.as_ref(), asks, &vector) {
            Verdict::Hit(data) => return state.answer(at, data),
            Verdict::AskAlso => {
                state.readers[at].phase = Phase::Looking(Asks::All);
                return;
            }
            Verdict::Miss => {}
        }
        if asks == Asks::Named {
            vector[AUTHOR] = None;
        }
        let looked = if self.variant == Variant::FlightOnMissing { vector } else { [None; GROUPS] };
        let ticket = Ticket { asks, vector, looked };
        let missing = [vector[BOOK].is_none(), vector[AUTHOR].is_none() && asks == Asks::All];
        if missing == [false; GROUPS] {
            state.readers[at].phase = Phase::Ready(ticket);
            return;
        }
        let sent = self.tokens(state, missing);
        state.readers[at].phase = Phase::Minting(ticket, Minting { sent });
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

    /// A mint was not acknowledged: what is computed is not stored.
    pub(crate) fn give_up(&self, state: &mut State, at: usize) {
        state.stop_waiting_for_mint(at);
        if self.variant == Variant::UnacknowledgedMint {
            let sent = state.minting_mut(at).sent;
            let taken = sent.map(|token| token.map(|token| self.generation(state, token)));
            return self.minted(state, at, taken);
        }
        if let Phase::Computing(ticket, LoadContext { leads: true, .. }) = state.readers[at].phase {
            let id = self.flight(&state.readers[at], &ticket);
            for waiter in self.land(state, id, None) {
                self.compute_alone(state, waiter);
            }
        }
        state.answer_from_database(at);
    }

    pub(crate) fn board(&self, state: &mut State, at: usize) {
        let Phase::Ready(ticket) = state.readers[at].phase else { unreachable!() };
        let id = self.flight(&state.readers[at], &ticket);
        match state.flights.iter().find(|flight| flight.id == id).map(|flight| flight.course) {
            Some(Course::Landed(entry)) => self.take(state, at, ticket, entry),
            Some(Course::Computing | Course::Vacant) => state.readers[at].phase = Phase::Aboard(ticket),
            None => {
                state.flights.push(Flight { id, course: Course::Computing });
                self.compute(state, at, ticket, true);
            }
        }
    }

    /// Who waits for the same flight as a reader with this ticket.
    pub(crate) fn flight(&self, reader: &Reader, ticket: &Ticket) -> FlightId {
        let process = reader.process;
        match self.variant {
            Variant::FlightByKey => FlightId { process, asks: Asks::Named, vector: [None; GROUPS] },
            Variant::FlightOnMissing => FlightId { process, asks: ticket.asks, vector: ticket.looked },
            _ => FlightId { process, asks: ticket.asks, vector: ticket.vector },
        }
    }

    /// The value of a flight that this reader waited for, if it may take it.
    pub(crate) fn take(&self, state: &mut State, at: usize, ticket: Ticket, entry: Entry) {
        // Being aboard says that these are equal.
        let came_aboard_with = |group: usize| group == BOOK || ticket.asks == Asks::All;
        let found_out = |group: usize| entry.vector[group].is_some() && !came_aboard_with(group);
        let unchecked = self.variant == Variant::UncheckedLateGroups || !found_out(AUTHOR);
        if unchecked {
            state.answer(at, entry.data);
        } else {
            state.readers[at].phase = Phase::Checking(ticket, entry);
        }
    }

    pub(crate) fn check(&self, state: &mut State, at: usize) {
        let Phase::Checking(ticket, entry) = state.readers[at].phase else { unreachable!() };
        if is_current(&entry, &self.current(state)) {
            state.answer(at, entry.data);
        } else {
            self.again(state, at, ticket);
        }
    }

    pub(crate) fn again(&self, state: &mut State, at: usize, ticket: Ticket) {
        let reader = &mut state.readers[at];
        reader.phase = Phase::Aboard(ticket);
        if reader.round < self.bounds.rounds {
            reader.round += 1;
            reader.phase = Phase::Looking(Asks::Named);
        } else {
            self.compute_alone(state, at);
        }
    }

    pub(crate) fn compute_alone(&self, state: &mut State, at: usize) {
        let Phase::Aboard(ticket) = state.readers[at].phase else { unreachable!() };
        self.compute(state, at, ticket, false);
    }

    pub(crate) fn compute(&self, state: &mut State, at: usize, ticket: Ticket, leads: bool) {
        let nobodys = Ticket { asks: Asks::Named, vector: [None; GROUPS], looked: [None; GROUPS] };
        let fill = LoadContext { leads, vector: ticket.vector, data: [None; GROUPS], minting: None };
        state.readers[at].phase = Phase::Computing(if leads { ticket } else { nobodys }, fill);
        if self.bounds.steps == Steps::Coarse {
            self.read(state, at, BOOK);
        }
    }

    pub(crate) fn read(&self, state: &mut State, at: usize, group: usize) {
        let version = match self.variant {
            Variant::OldSnapshot => state.readers[at].began_at[group],
            _ => state.database[group],
        };
        state.fill_mut(at).data[group] = Some(version);
    }

    pub(crate) fn minted(&self, state: &mut State, at: usize, minted: Generations) {
        let phase = &mut state.readers[at].phase;
        match phase {
            Phase::Minting(ticket, _) => {
                for (known, minted) in ticket.vector.iter_mut().zip(minted) {
                    *known = known.or(minted);
                }
                *phase = Phase::Ready(*ticket);
            }
            Phase::Computing(_, fill) => {
                fill.vector[AUTHOR] = minted[AUTHOR];
                fill.minting = None;
                if self.bounds.steps == Steps::Coarse {
                    self.read(state, at, AUTHOR);
                }
            }
            _ => unreachable!(),
        }
    }

    /// The group's data was read before anybody thought of its generation: served, not stored.
    pub(crate) fn find_late(&self, state: &mut State, at: usize) {
        if let Phase::Computing(ticket, LoadContext { leads: true, .. }) = state.readers[at].phase {
            let id = self.flight(&state.readers[at], &ticket);
            for waiter in self.land(state, id, None) {
                let Phase::Aboard(ticket) = state.readers[waiter].phase else { unreachable!() };
                self.again(state, waiter, ticket);
            }
        }
        state.answer_from_database(at);
    }

    pub(crate) fn finish(&self, state: &mut State, at: usize) {
        let Phase::Computing(ticket, fill) = state.readers[at].phase else { unreachable!() };
        let of_those_read = |group: usize| fill.vector[group].filter(|_| fill.data[group].is_some());
        let entry = Entry { vector: [of_those_read(BOOK), of_those_read(AUTHOR)], data: fill.data };
        if fill.leads {
            let id = self.flight(&state.readers[at], &ticket);
            for waiter in self.land(state, id, Some(entry)) {
                let Phase::Aboard(ticket) = state.readers[waiter].phase else { unreachable!() };
                self.take(state, waiter, ticket, entry);
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
        let Phase::Computing(ticket, fill) = state.readers[at].phase else { unreachable!() };
        if fill.leads {
            let id = self.flight(&state.readers[at], &ticket);
            if self.waiters(state, id).is_empty() {
                state.flights.retain(|flight| flight.id != id);
            } else {
                state.flight_mut(id).course = Course::Vacant;
            }
        }
        state.left.cancellations -= 1;
        state.answer_from_database(at);
    }

    /// Ends a computation for all who wait; they are returned.
    fn land(&self, state: &mut State, id: FlightId, entry: Option<Entry>) -> Vec<usize> {
        match entry {
            Some(entry) => state.flight_mut(id).course = Course::Landed(entry),
            None => state.flights.retain(|flight| flight.id != id),
        }
        self.waiters(state, id)
    }

    fn waiters(&self, state: &State, id: FlightId) -> Vec<usize> {
        let waits = |reader: &Reader| matches!(&reader.phase, Phase::Aboard(ticket) if self.flight(reader, ticket) == id);
        (0..state.readers.len()).filter(|at| waits(&state.readers[*at])).collect()
    }
}

impl State {
    pub(crate) fn flight_mut(&mut self, id: FlightId) -> &mut Flight {
        self.flights.iter_mut().find(|flight| flight.id == id).unwrap_or_else(|| unreachable!())
    }

    pub(crate) fn fill_mut(&mut self, at: usize) -> &mut LoadContext {
        let Phase::Computing(_, fill) = &mut self.readers[at].phase else { unreachable!() };
        fill
    }

    pub(crate) fn minting_mut(&mut self, at: usize) -> &mut Minting {
        match &mut self.readers[at].phase {
            Phase::Minting(_, minting) | Phase::Computing(_, LoadContext { minting: Some(minting), .. }) => {
                minting
            }
            _ => unreachable!(),
        }
    }

    /// A request that is not yet executed stays on its way; a reply reaches nobody.
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

    /// What is read of the database after the read started is new enough; or nobody waits any more.
    fn answer_from_database(&mut self, at: usize) {
        self.readers[at] = Reader { phase: Phase::Done { stale: false }, ..Reader::IDLE };
    }

    /// Without a migration to come, nobody will ever see what is there.
    pub(crate) fn forget_target(&mut self) {
        if self.left.migrations == 0 {
            self.target.token = None;
        }
    }

    /// Without a failover to come, nobody will ever see it.
    pub(crate) fn forget_replica(&mut self) {
        if self.left.failovers == 0 {
            self.replica = Contents::default();
            self.left.replications = 0;
        }
    }
}
