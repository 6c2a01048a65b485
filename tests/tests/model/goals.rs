//! Moments that the exploration must come by: without them it would show little.

use stateright::Property;

use crate::protocol::Protocol;
use crate::scenes::{BUMPS, CROWD, FAILOVERS, FLIGHTS, MIGRATIONS, MINTS, RACES, Scene};
use crate::state::{Asks, BOOK, Course, GROUPS, Message, PerGroup, Phase, Reader, State, Ticket, Token};
use crate::store::{Verdict, is_current, judge};

type Condition = fn(&Protocol, &State) -> bool;

/// What each scene is there for.
pub(crate) const GOALS: [(Scene, &str, Condition); 20] = [
    (RACES, "a hit on what was computed after an invalidation", |protocol, state| {
        would_look(state) && of_acknowledged(state) && matches!(verdict(protocol, state), Verdict::Hit(_))
    }),
    (RACES, "a stale entry is refused", |protocol, state| {
        would_look(state)
            && is_old(state)
            && is_refused(protocol, state)
            && state.store.tokens[BOOK].is_some()
    }),
    (RACES, "an entry turns out to have more groups than were asked for", |_, state| {
        any(state, |reader| reader.phase == Phase::Looking(Asks::All))
    }),
    (RACES, "a mint and a bump of one group are under way at once", |_, state| {
        mints(state).any(|(_, sent)| bumps(state).any(|(group, _)| sent[group].is_some()))
    }),
    (RACES, "a mint is executed when nobody waits for it any more", |_, state| {
        mints(state).any(|(waits, sent)| !waits && sent[BOOK].is_some() && state.store.tokens[BOOK].is_none())
    }),
    (RACES, "a flight is shared", shared),
    (RACES, "a value may not be taken because of a group that was found out", |protocol, state| {
        checks(protocol, state, false)
    }),
    (RACES, "a value may be taken although a group was found out", |protocol, state| {
        checks(protocol, state, true)
    }),
    (MINTS, "an entry whose generation was lost is refused", |protocol, state| {
        would_look(state)
            && is_old(state)
            && is_refused(protocol, state)
            && state.store.tokens[BOOK].is_none()
    }),
    (MINTS, "a mint was sent again and both are under way", |_, state| {
        mints(state).any(|(waits, _)| waits)
            && mints(state).any(|(waits, _)| !waits)
            && state.left.mints_again == 0
    }),
    (BUMPS, "a bump is under way that was acknowledged already when it was sent again", |_, state| {
        bumps(state).any(|(group, waits)| !waits && state.acknowledged[group] > 0)
    }),
    (BUMPS, "two bumps of one group are under way at once", |_, state| {
        bumps(state).filter(|(group, _)| *group == BOOK).count() > 1
    }),
    (FAILOVERS, "a failover brings back an old entry together with its token", |_, state| {
        let same_token = |entry: &crate::state::Entry| {
            entry.vector[BOOK].map(|generation| generation.token) == state.store.tokens[BOOK]
        };
        would_look(state)
            && is_old(state)
            && state.incarnation > 0
            && state.store.entry.as_ref().is_some_and(same_token)
    }),
    (FAILOVERS, "an entry is stored under generations from before a failover", |_, state| {
        state.network.iter().any(|message| match message {
            Message::Store(entry) => {
                entry.vector[BOOK].is_some_and(|generation| generation.incarnation < state.incarnation)
            }
            _ => false,
        })
    }),
    (
        MIGRATIONS,
        "a cancelled migration left a generation that an old entry has, and the next begins",
        |_, state| {
            let of_entry = |entry: &crate::state::Entry| {
                entry.vector[BOOK].map(|generation| generation.token) == state.target.token
            };
            would_look(state)
                && is_old(state)
                && state.left.migrations == 0
                && state.is_redirected(BOOK)
                && state.store.entry.as_ref().is_some_and(of_entry)
        },
    ),
    (MIGRATIONS, "an invalidation is redirected to a generation that has moved", |_, state| {
        state.target.token.is_some()
            && state.target.importing
            && state
                .network
                .iter()
                .any(|message| matches!(message, Message::Bump { redirected: true, executed: false, .. }))
    }),
    (MIGRATIONS, "an invalidation is redirected, and the migration is cancelled", |_, state| {
        !state.target.importing
            && state
                .network
                .iter()
                .any(|message| matches!(message, Message::Bump { redirected: true, executed: false, .. }))
    }),
    (FLIGHTS, "a leader is gone and others wait", |protocol, state| aboard(protocol, state, Course::Vacant)),
    (FLIGHTS, "a flight has landed and is found", |protocol, state| {
        any(state, |reader| match &reader.phase {
            Phase::Ready(ticket) => state.flights.iter().any(|flight| {
                flight.id == protocol.flight(reader, ticket) && matches!(flight.course, Course::Landed(_))
            }),
            _ => false,
        })
    }),
    (CROWD, "two wait for a third", |protocol, state| {
        let waits = |reader: &&Reader| matches!(reader.phase, Phase::Aboard(_));
        shared(protocol, state) && state.readers.iter().filter(waits).count() == 2
    }),
];

/// Those of one scene, for the checker to find.
pub(crate) fn properties(scene: &str) -> Vec<Property<Protocol>> {
    let of_scene = GOALS.into_iter().filter(|(goal_of, ..)| goal_of.name == scene);
    of_scene.map(|(_, name, condition)| Property::sometimes(name, condition)).collect()
}

fn any(state: &State, condition: impl Fn(&Reader) -> bool) -> bool {
    state.readers.iter().any(condition)
}

fn would_look(state: &State) -> bool {
    any(state, |reader| matches!(reader.phase, Phase::Idle | Phase::Looking(_)))
}

fn verdict(protocol: &Protocol, state: &State) -> Verdict {
    judge(state.store.entry.as_ref(), Asks::All, &protocol.current(state))
}

fn is_refused(protocol: &Protocol, state: &State) -> bool {
    matches!(verdict(protocol, state), Verdict::Miss)
}

fn is_old(state: &State) -> bool {
    state.store.entry.is_some_and(|entry| entry.data[BOOK] < Some(state.acknowledged[BOOK]))
}

fn of_acknowledged(state: &State) -> bool {
    let newest = Some(state.acknowledged[BOOK]).filter(|version| *version > 0);
    newest.is_some() && state.store.entry.is_some_and(|entry| entry.data[BOOK] == newest)
}

/// Mints that are not executed yet: whether somebody waits, and for what.
fn mints(state: &State) -> impl Iterator<Item = (bool, PerGroup<Option<Token>>)> {
    state.network.iter().filter_map(|message| match message {
        Message::Mint { reader, sent, got } if *got == [None; GROUPS] => Some((reader.is_some(), *sent)),
        _ => None,
    })
}

/// Bumps that are not executed yet: of which group, and whether somebody waits.
fn bumps(state: &State) -> impl Iterator<Item = (usize, bool)> {
    state.network.iter().filter_map(|message| match message {
        Message::Bump { group, waits, executed: false, .. } => Some((*group, *waits)),
        _ => None,
    })
}

fn aboard(protocol: &Protocol, state: &State, course: Course) -> bool {
    let on_it = |reader: &Reader, ticket: &Ticket| {
        state
            .flights
            .iter()
            .any(|flight| flight.id == protocol.flight(reader, ticket) && flight.course == course)
    };
    any(state, |reader| matches!(&reader.phase, Phase::Aboard(ticket) if on_it(reader, ticket)))
}

fn shared(protocol: &Protocol, state: &State) -> bool {
    aboard(protocol, state, Course::Computing)
}

fn checks(protocol: &Protocol, state: &State, passes: bool) -> bool {
    let current = protocol.current(state);
    any(
        state,
        |reader| matches!(&reader.phase, Phase::Checking(_, entry) if is_current(entry, &current) == passes),
    )
}
