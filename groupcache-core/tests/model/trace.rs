//! Describes a path through the model in words.

use crate::protocol::{Action, Protocol};
use crate::state::{
    AUTHOR, BOOK, Contents, Data, FlightState, GROUPS, LookupGroups, Message, Phase, State, UNKNOWN,
};

const NAMES: [&str; GROUPS] = ["book", "author"];

/// Returns one line for each step.
pub(crate) fn describe(protocol: &Protocol, path: &[(State, Option<Action>)]) -> Vec<String> {
    let mut lines: Vec<_> = path
        .first()
        .map(|(state, _)| format!("start: {}", describe_contents(&state.store)))
        .into_iter()
        .collect();
    for pair in path.windows(2) {
        let [(before, Some(action)), (after, _)] = pair else { continue };
        let mut line = step(protocol, before, *action, after);
        for at in 0..after.readers.len() {
            if after.readers[at].phase == (Phase::Done { stale: true }) {
                let reader = &before.readers[at];
                let must_see =
                    if reader.phase == Phase::Idle { before.acknowledged } else { reader.must_see };
                line += &format!(
                    "; STALE: reader {} must see {}",
                    at + 1,
                    data(must_see.map(|version| Some(version).filter(|version| *version > 0)))
                );
            }
        }
        lines.push(line);
    }
    lines
}

fn step(protocol: &Protocol, before: &State, action: Action, after: &State) -> String {
    match action {
        Action::Write(at, group) => {
            let what = if before.database == after.database {
                "will write".into()
            } else {
                format!("commits {}", after.database[group])
            };
            format!("writer {} {what} of {}", at + 1, NAMES[group]).replace("write of", "write")
        }
        Action::SendBump(at) => format!("writer {} sends its bump", at + 1),
        Action::BumpAgain(at) => format!("writer {} sends its bump again", at + 1),
        Action::Commit(at) => format!("writer {} commits", at + 1),
        Action::Start(at, process, groups) => {
            let elsewhere = if process > 0 { " in another process" } else { "" };
            let looks_up = if protocol.looks_up_at_once() {
                format!(", looks up {}{}", named(groups), outcome(before, at, after))
            } else {
                String::new()
            };
            format!("reader {} starts{elsewhere}{looks_up}", at + 1)
        }
        Action::LookUp(at, groups) => {
            format!("reader {} looks up {}{}", at + 1, named(groups), outcome(before, at, after))
        }
        Action::FailLookUp(at) => {
            let starts = if before.readers[at].phase == Phase::Idle { " starts," } else { "" };
            format!("reader {}{starts} gets no reply to its lookup", at + 1)
        }
        Action::MintAgain(at) => format!("reader {} sends its mint again", at + 1),
        Action::CancelMint(at) => {
            format!("reader {} cancels its mint{}", at + 1, outcome(before, at, after))
        }
        Action::Promote(at) => format!("it is the turn of reader {}{}", at + 1, reads(after, at)),
        Action::GiveUp(at) => format!("reader {} waits no longer{}", at + 1, reads(after, at)),
        Action::Join(at) | Action::TakeOver(at) => {
            format!("reader {}{}", at + 1, outcome(before, at, after))
        }
        Action::Read(at, group) => format!("reader {} reads the data of {}", at + 1, NAMES[group]),
        Action::Depend(at) => format!("reader {} depends on author", at + 1),
        Action::DiscoverLate(at) => format!("reader {} discovers author too late", at + 1),
        Action::Finish(at) => {
            let Phase::Loading(_, context) = before.readers[at].phase else { return String::new() };
            format!("reader {} ends its load of {} and returns it", at + 1, data(context.data))
        }
        Action::Cancel(at) => format!("reader {} is cancelled", at + 1),
        Action::Check(at) => {
            format!("reader {} checks the flight's vector{}", at + 1, outcome(before, at, after))
        }
        Action::EndFlight(_) => "the flight ends".into(),
        Action::Deliver(at) => delivered(before, at, after),
        Action::Duplicate(_) => "the entry is stored, and once more later".into(),
        Action::EvictEntry => "the entry is evicted".into(),
        Action::EvictGeneration(group) => format!("the generation of {} is evicted", NAMES[group]),
        Action::Replicate => "the replica catches up".into(),
        Action::BeginMigration => "the slot of book begins to move".into(),
        Action::MoveKey => "the generation of book moves".into(),
        Action::CancelMigration => "the migration is cancelled".into(),
        Action::FailOver => format!("the store fails over: {}", describe_contents(&after.store)),
    }
}

fn delivered(before: &State, at: usize, after: &State) -> String {
    match &before.network[at] {
        Message::Bump { writer, executed: true, .. } => {
            format!("writer {} receives the acknowledgement", writer + 1)
        }
        Message::Bump { writer, redirected, .. } if is_redirected_now(before, *redirected, after) => {
            format!("the bump of writer {} is redirected", writer + 1)
        }
        Message::Bump { writer, group, waits, redirected, .. } => {
            let there = if *redirected { before.target.token } else { before.store.tokens[*group] };
            let effect = if there.is_some() { "executed" } else { "executed, there is nothing to replace" };
            let reply = match (waits, after.network.len() < before.network.len()) {
                (false, _) => ", no writer waits",
                (true, true) => ", acknowledged",
                // The reply is in flight.
                (true, false) => "",
            };
            format!("the bump of writer {} is {effect}{reply}", writer + 1)
        }
        Message::Mint { reader, sent, got } => {
            if after.network.len() < before.network.len()
                && before.store == after.store
                && (0..GROUPS).all(|group| sent[group].is_some() == got[group].is_some())
            {
                return format!("reader {} receives the reply to its mint", reader.map_or(0, |at| at + 1));
            }
            let effect = if before.target != after.target {
                "creates a generation where the slot is moving"
            } else if before.store == after.store {
                "finds a generation"
            } else {
                "creates a generation"
            };
            match reader {
                Some(at) => format!("the mint of reader {} {effect}", at + 1),
                None => format!("a mint without a reader {effect}"),
            }
        }
        Message::Store(entry) if entry.vector[AUTHOR] == Some(UNKNOWN) => "the placeholder is stored".into(),
        Message::Store(entry) => format!("the entry of {} is stored", data(entry.data)),
    }
}

/// Whether a bump that was delivered is on its way to the other store now.
fn is_redirected_now(before: &State, redirected: bool, after: &State) -> bool {
    let on_its_way = |state: &State| {
        let is = |message: &&Message| matches!(message, Message::Bump { redirected: other, executed: false, .. } if *other != redirected);
        state.network.iter().filter(is).count()
    };
    on_its_way(after) > on_its_way(before)
}

/// What a step meant for its reader.
fn outcome(before: &State, at: usize, after: &State) -> String {
    let entry = before.store.entry.map_or_else(String::new, |entry| data(entry.data));
    match (&before.readers[at].phase, &after.readers[at].phase) {
        (Phase::Ready(_), Phase::Loading(..)) => format!(" leads a flight{}", reads(after, at)),
        (Phase::Ready(_), Phase::Following(_)) => " waits for the flight".into(),
        (Phase::Ready(_), Phase::Queued(_)) => " waits for the next flight".into(),
        (Phase::Ready(_), Phase::Aboard(_)) => " joins the flight".into(),
        (Phase::Ready(_), Phase::Done { .. }) => {
            let landed = before.flights.iter().find_map(|flight| match flight.state {
                FlightState::Landed(entry) => Some(data(entry.data)),
                _ => None,
            });
            format!(" shares {} of the flight that has landed", landed.unwrap_or_default())
        }
        (Phase::Following(_) | Phase::Aboard(_), _) => format!(" takes over{}", reads(after, at)),
        (Phase::Idle | Phase::LookingUp(_), Phase::Done { .. }) => format!(": a hit, {entry}"),
        (_, Phase::Done { .. }) => String::new(),
        (_, Phase::Minting(..)) => ": a miss, sends a mint".into(),
        (_, Phase::Ready(_)) => ": a miss, has a vector".into(),
        (_, Phase::LookingUp(_)) => ": the entry has more groups".into(),
        (_, Phase::Checking(..)) => ": a group was discovered".into(),
        _ => String::new(),
    }
}

fn reads(after: &State, at: usize) -> String {
    match &after.readers[at].phase {
        Phase::Loading(_, context) if context.data[BOOK].is_some() => {
            format!(" and reads {}", data(context.data))
        }
        _ => String::new(),
    }
}

const fn named(groups: LookupGroups) -> &'static str {
    match groups {
        LookupGroups::Named => "book",
        LookupGroups::All => "book and author",
    }
}

fn data(data: Data) -> String {
    let parts = data
        .iter()
        .zip(NAMES)
        .filter_map(|(version, name)| version.map(|version| format!("{name} {version}")));
    parts.collect::<Vec<_>>().join(", ")
}

fn describe_contents(contents: &Contents) -> String {
    let known = contents.tokens.iter().zip(NAMES).filter_map(|(token, name)| token.map(|_| name));
    let known: Vec<_> = known.collect();
    match (contents.entry, known.is_empty()) {
        (Some(entry), _) => {
            format!("an entry of {}, generations of {}", data(entry.data), known.join(" and "))
        }
        (None, false) => format!("generations of {}", known.join(" and ")),
        (None, true) => "nothing".into(),
    }
}
