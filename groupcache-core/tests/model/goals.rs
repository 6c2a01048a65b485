//! Moments that the exploration of a scene must reach, as it would prove little without them.

use stateright::Property;

use crate::protocol::Protocol;
use crate::scenes::{BUMPS, CROWD, FAILOVERS, FLIGHTS, MIGRATIONS, MINTS, QUEUES, RACES, Scene};
use crate::state::{
    AUTHOR, BOOK, Entry, FlightId, FlightState, GROUPS, LoadPermit, LookupGroups, Message, PerGroup, Phase,
    Reader, State, Token, UNKNOWN,
};
use crate::store::{Verdict, is_current};

type Condition = fn(&Protocol, &State) -> bool;

/// The purpose of each scene.
pub(crate) const GOALS: [(Scene, &str, Condition); 24] = [
    (RACES, "a hit on a value loaded after an invalidation", |protocol, state| {
        would_look_up(state) && of_acknowledged(state) && matches!(verdict(protocol, state), Verdict::Hit(_))
    }),
    (RACES, "a stale entry is refused", |protocol, state| {
        would_look_up(state)
            && is_old(state)
            && is_refused(protocol, state)
            && state.store.tokens[BOOK].is_some()
    }),
    (RACES, "an entry has more groups than were looked up", |_, state| {
        any(state, |reader| reader.phase == Phase::LookingUp(LookupGroups::All))
    }),
    (RACES, "a mint and a bump of one group are in flight at once", |_, state| {
        mints(state).any(|(_, sent)| bumps(state).any(|(group, _)| sent[group].is_some()))
    }),
    (RACES, "a mint is executed after its reader has cancelled it", |_, state| {
        mints(state).any(|(waits, sent)| !waits && sent[BOOK].is_some() && state.store.tokens[BOOK].is_none())
    }),
    (RACES, "a flight is shared", shared),
    (RACES, "a value may not be shared because of a discovered group", |protocol, state| {
        checks(protocol, state, false)
    }),
    (RACES, "a value may be shared despite a discovered group", |protocol, state| {
        checks(protocol, state, true)
    }),
    (RACES, "a load begins with the generation of a group that an earlier one found too late", |_, state| {
        any(state, |reader| match reader.phase {
            Phase::Loading(_, context) => {
                context.vector[AUTHOR].is_some() && is_placeholder(state.store.entry.as_ref())
            }
            _ => false,
        })
    }),
    (MINTS, "an entry whose generation was lost is refused", |protocol, state| {
        would_look_up(state)
            && is_old(state)
            && is_refused(protocol, state)
            && state.store.tokens[BOOK].is_none()
    }),
    (MINTS, "a mint was sent again and both are in flight", |_, state| {
        mints(state).any(|(waits, _)| waits)
            && mints(state).any(|(waits, _)| !waits)
            && state.left.mints_again == 0
    }),
    (BUMPS, "a bump is in flight whose repetition was acknowledged already", |_, state| {
        bumps(state).any(|(group, waits)| !waits && state.acknowledged[group] > 0)
    }),
    (BUMPS, "two bumps of one group are in flight at once", |_, state| {
        bumps(state).filter(|(group, _)| *group == BOOK).count() > 1
    }),
    (FAILOVERS, "a failover restores an old entry together with its token", |_, state| {
        let same_token =
            |entry: &Entry| entry.vector[BOOK].map(|generation| generation.token) == state.store.tokens[BOOK];
        would_look_up(state)
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
            let of_entry =
                |entry: &Entry| entry.vector[BOOK].map(|generation| generation.token) == state.target.token;
            would_look_up(state)
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
    (FLIGHTS, "a leader is cancelled and others wait", |protocol, state| {
        following(protocol, state, FlightState::Vacant)
    }),
    (FLIGHTS, "a reader finds a flight that has landed", |protocol, state| {
        any(state, |reader| match &reader.phase {
            Phase::Ready(permit) => state.flights.iter().any(|flight| {
                flight.id == protocol.flight(reader, permit) && matches!(flight.state, FlightState::Landed(_))
            }),
            _ => false,
        })
    }),
    (CROWD, "two readers wait for a third", |protocol, state| {
        let waits = |reader: &&Reader| matches!(reader.phase, Phase::Following(_));
        shared(protocol, state) && state.readers.iter().filter(waits).count() == 2
    }),
    (QUEUES, "two readers wait for the next load, one of them without a vector", |_, state| {
        let queued = |permit: &LoadPermit| any(state, |reader| reader.phase == Phase::Queued(*permit));
        queued(&LoadPermit::NONE)
            && any(
                state,
                |reader| matches!(reader.phase, Phase::Queued(permit) if permit != LoadPermit::NONE),
            )
    }),
    (QUEUES, "a reader is aboard a load that reads what its vector is too old for", |protocol, state| {
        let outdated = |id: &FlightId| id.vector[BOOK] != protocol.current(state)[BOOK];
        any(state, |reader| matches!(&reader.phase, Phase::Aboard(id) if outdated(id)))
            && state.acknowledged[BOOK] > 0
    }),
    (QUEUES, "a leader goes on alone while another flight has its place", |_, state| {
        let loads = |reader: &Reader, leads: bool| matches!(&reader.phase, Phase::Loading(_, context) if context.leads == leads);
        any(state, |reader| loads(reader, true)) && any(state, |reader| loads(reader, false))
    }),
];

/// The goals of one scene, for the checker to find.
pub(crate) fn properties(scene: &str) -> Vec<Property<Protocol>> {
    let of_scene = GOALS.into_iter().filter(|(goal_of, ..)| goal_of.name == scene);
    of_scene.map(|(_, name, condition)| Property::sometimes(name, condition)).collect()
}

fn any(state: &State, condition: impl Fn(&Reader) -> bool) -> bool {
    state.readers.iter().any(condition)
}

fn would_look_up(state: &State) -> bool {
    any(state, |reader| matches!(reader.phase, Phase::Idle | Phase::LookingUp(_)))
}

fn verdict(protocol: &Protocol, state: &State) -> Verdict {
    protocol.judge(state.store.entry.as_ref(), LookupGroups::All, &protocol.current(state))
}

fn is_refused(protocol: &Protocol, state: &State) -> bool {
    matches!(verdict(protocol, state), Verdict::Miss)
}

fn is_placeholder(entry: Option<&Entry>) -> bool {
    entry.is_some_and(|entry| entry.vector[AUTHOR] == Some(UNKNOWN))
}

fn is_old(state: &State) -> bool {
    state.store.entry.is_some_and(|entry| entry.data[BOOK] < Some(state.acknowledged[BOOK]))
}

fn of_acknowledged(state: &State) -> bool {
    let newest = Some(state.acknowledged[BOOK]).filter(|version| *version > 0);
    newest.is_some() && state.store.entry.is_some_and(|entry| entry.data[BOOK] == newest)
}

/// Mints that are not executed yet: whether a reader waits, and what it sent.
fn mints(state: &State) -> impl Iterator<Item = (bool, PerGroup<Option<Token>>)> {
    state.network.iter().filter_map(|message| match message {
        Message::Mint { reader, sent, got } if *got == [None; GROUPS] => Some((reader.is_some(), *sent)),
        _ => None,
    })
}

/// Bumps that are not executed yet: their group, and whether a writer waits.
fn bumps(state: &State) -> impl Iterator<Item = (usize, bool)> {
    state.network.iter().filter_map(|message| match message {
        Message::Bump { group, waits, executed: false, .. } => Some((*group, *waits)),
        _ => None,
    })
}

fn following(protocol: &Protocol, state: &State, flight_state: FlightState) -> bool {
    let on_it = |reader: &Reader, permit: &LoadPermit| {
        state
            .flights
            .iter()
            .any(|flight| flight.id == protocol.flight(reader, permit) && flight.state == flight_state)
    };
    any(state, |reader| matches!(&reader.phase, Phase::Following(permit) if on_it(reader, permit)))
}

fn shared(protocol: &Protocol, state: &State) -> bool {
    following(protocol, state, FlightState::Loading)
}

fn checks(protocol: &Protocol, state: &State, passes: bool) -> bool {
    let current = protocol.current(state);
    any(
        state,
        |reader| matches!(&reader.phase, Phase::Checking(_, entry) if is_current(entry, &current) == passes),
    )
}
