//! Lookups: the commands that read entries and generations.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use groupcache_core::backend::{CurrentGenerations, Found, Generation, Lookup, SharedReads, TimeLeft};
use groupcache_core::{Entry, Group, Groups, Key};
use redis::{Cmd, Pipeline, Value};

use crate::error::Failure;
use crate::operations::Operations;
use crate::route::Route;
use crate::route::cluster::Cluster;
use crate::route::member::Keys;
use crate::route::node::{RequestKind, Response};
use crate::route::reads::{NodeReads, Read, Replies};
use crate::server::Server;

impl Operations {
    pub(crate) async fn lookup(
        &self,
        key: &Key,
        groups: &[Group],
        time_left: TimeLeft,
    ) -> Result<Lookup, Failure> {
        match (&self.route, time_left) {
            (Route::Node(node), TimeLeft::NotNeeded) => self.lookup_on_node(&node.reads, key, groups).await,
            (Route::Node(_), TimeLeft::Needed) => self.lookup_with_time_left(key, groups).await,
            (Route::Cluster(cluster), _) => {
                let lookups = self.lookup_in_cluster(cluster, &[(key, groups)], time_left).await?;
                lookups.into_iter().next().ok_or_else(|| Failure::unexpected("GET"))
            }
        }
    }

    pub(crate) async fn lookup_many(
        &self,
        questions: &[(Key, Groups)],
        time_left: TimeLeft,
    ) -> Result<Vec<Lookup>, Failure> {
        if let Route::Cluster(cluster) = &self.route {
            let questions: Vec<(&Key, &[Group])> =
                questions.iter().map(|(key, groups)| (key, &**groups)).collect();
            return self.lookup_in_cluster(cluster, &questions, time_left).await;
        }
        let before = self.clock.now();
        // With one server, names do not decide where commands go.
        let names = vec![Vec::new(); questions.len()];
        let compose = |index: usize, _: &Server, pipeline: &mut Pipeline| {
            let (key, groups) = &questions[index];
            self.put_lookup(pipeline, key, groups, time_left);
        };
        let responses = self.route.send(RequestKind::Lookup, &names, compose).await?;
        let lookup = |((_, groups), response): (&(Key, Groups), Response<()>)| {
            take_lookup(response, groups.len(), before, time_left)
        };
        questions.iter().zip(responses).map(lookup).collect()
    }

    /// Every hit on a single server goes through here.
    async fn lookup_on_node(
        &self,
        reads: &Arc<SharedReads<NodeReads>>,
        key: &Key,
        groups: &[Group],
    ) -> Result<Lookup, Failure> {
        let name_bytes = self.names.name_bytes();
        // One buffer for all names, because every hit writes them.
        let mut names = Vec::with_capacity((1 + groups.len()) * name_bytes);
        self.names.put_entry(&mut names, key);
        for group in groups {
            self.names.put_generation(&mut names, group);
        }
        let read = Read {
            names,
            name_bytes,
            times_left: Vec::new(),
            importing: false,
            generations: !groups.is_empty(),
            redirected: false,
        };
        let Replies { connection, values } = NodeReads::read(reads, read).await?;
        parse_values(&connection.server, values, groups.len())
    }

    async fn lookup_with_time_left(&self, key: &Key, groups: &[Group]) -> Result<Lookup, Failure> {
        let before = self.clock.now();
        let name = [self.names.entry(key)];
        let compose = |_: usize, _: &Server, pipeline: &mut Pipeline| {
            self.put_lookup(pipeline, key, groups, TimeLeft::Needed);
        };
        let responses = self.route.send(RequestKind::Lookup, &name, compose).await?;
        let response = responses.into_iter().next().ok_or_else(|| Failure::unexpected("PTTL"))?;
        take_lookup(response, groups.len(), before, TimeLeft::Needed)
    }

    /// Puts the commands of one lookup into `pipeline`. If the time left is needed, the entry is read between two
    /// reads of it, of which the shorter counts.
    ///
    /// A transaction would need one read, and the permission for `MULTI`.
    fn put_lookup(&self, pipeline: &mut Pipeline, key: &Key, groups: &[Group], time_left: TimeLeft) {
        if time_left == TimeLeft::NotNeeded {
            pipeline.add_command(self.mget(key, groups));
            return;
        }
        let name = self.names.entry(key);
        pipeline.cmd("PTTL").arg(&name).add_command(self.mget(key, groups)).cmd("PTTL").arg(&name);
    }

    /// Reads each key from the node that owns its slot, all at the same time.
    ///
    /// What a node has that does not answer is missing, unless no node answers.
    async fn lookup_in_cluster(
        &self,
        cluster: &Cluster,
        questions: &[(&Key, &[Group])],
        time_left: TimeLeft,
    ) -> Result<Vec<Lookup>, Failure> {
        let mut names = Vec::new();
        let mut is_generation = Vec::new();
        for (key, groups) in questions {
            names.push(self.names.entry(key));
            names.extend(groups.iter().map(|group| self.names.generation(group)));
            is_generation.push(false);
            is_generation.extend(groups.iter().map(|_| true));
        }
        let before = self.clock.now();
        let time_left = time_left == TimeLeft::Needed;
        let keys = Keys { names: &names, is_generation: &is_generation, time_left };
        let mut outcomes = cluster.read(&keys).await.into_iter();
        let mut answers = Answers { any: false, failure: None };
        let mut lookups = Vec::with_capacity(questions.len());
        for (_, groups) in questions {
            let entry = outcomes.next().unwrap_or_else(|| Err(Failure::unexpected("GET")));
            let found = answers.keep(entry.and_then(|response| take_entry(response, before)));
            let generations = outcomes.by_ref().take(groups.len());
            let current: CurrentGenerations = generations
                .map(|outcome| answers.keep(outcome.and_then(take_generation)).flatten())
                .collect();
            lookups.push(Lookup::new(found.unwrap_or(Found::Absent), current));
        }
        answers.check().map(|()| lookups)
    }

    fn mget(&self, key: &Key, groups: &[Group]) -> Cmd {
        let keys = 1 + groups.len();
        let mut command = Cmd::with_capacity(1 + keys, 4 + keys * self.names.name_bytes());
        command.arg("MGET").arg(self.names.entry(key));
        for group in groups {
            command.arg(self.names.generation(group));
        }
        command
    }
}

impl<X> Response<X> {
    /// Returns the next reply, or `Nil` as `MGET` does if the key holds a value that is not a string.
    fn next_string(&mut self) -> Result<Value, Failure> {
        match self.next() {
            Err(failure) if failure.is_wrong_type() => Ok(Value::Nil),
            reply => reply,
        }
    }

    /// Returns the next reply, to `PTTL`. It is zero if the user may not use `PTTL`: then nothing is kept for
    /// longer than now because of an entry whose time left is unknown.
    fn next_time_left(&mut self) -> Result<i64, Failure> {
        match self.next() {
            Ok(Value::Int(millis)) => Ok(millis),
            Ok(_) => Err(Failure::unexpected("PTTL")),
            Err(failure) if failure.is_forbidden() => Ok(0),
            Err(failure) => Err(failure),
        }
    }
}

/// The answers of several nodes.
struct Answers {
    any: bool,
    /// The first failure of a node.
    failure: Option<Failure>,
}

impl Answers {
    fn keep<T>(&mut self, outcome: Result<T, Failure>) -> Option<T> {
        match outcome {
            Ok(answer) => {
                self.any = true;
                Some(answer)
            }
            Err(failure) => {
                self.failure.get_or_insert(failure);
                None
            }
        }
    }

    /// Fails if no node answered.
    fn check(self) -> Result<(), Failure> {
        match self.failure {
            Some(failure) if !self.any => Err(failure),
            _ => Ok(()),
        }
    }
}

fn take_generation(mut response: Response<bool>) -> Result<Option<Generation>, Failure> {
    Ok(match response.next_string()? {
        Value::BulkString(token) => response.generation(&token),
        _ => None,
    })
}

/// Takes the entry from the response to `GET`, with the time left if that was sent before and after it.
fn take_entry(mut response: Response<bool>, before: Instant) -> Result<Found, Failure> {
    let earlier = if response.sent { Some(response.next_time_left()?) } else { None };
    let mut found = parse_entry(response.next_string()?);
    if let (Found::Entry(_, expires_at), Some(earlier)) = (&mut found, earlier) {
        *expires_at = expiry(before, earlier, response.next_time_left()?);
    }
    Ok(found)
}

/// Takes the replies to the commands of [`Operations::put_lookup`].
fn take_lookup(
    mut response: Response<()>,
    groups: usize,
    before: Instant,
    time_left: TimeLeft,
) -> Result<Lookup, Failure> {
    if time_left == TimeLeft::NotNeeded {
        let values = response.next()?;
        return parse_mget(&response.connection.server, values, groups);
    }
    let (earlier, values, later) = (response.next_time_left()?, response.next()?, response.next_time_left()?);
    let mut lookup = parse_mget(&response.connection.server, values, groups)?;
    if let Found::Entry(_, expires_at) = &mut lookup.found {
        *expires_at = expiry(before, earlier, later);
    }
    Ok(lookup)
}

/// Parses the reply to [`Operations::mget`].
fn parse_mget(server: &Server, reply: Value, groups: usize) -> Result<Lookup, Failure> {
    let Value::Array(values) = reply else {
        return Err(Failure::unexpected("MGET"));
    };
    parse_values(server, values, groups)
}

fn parse_values(server: &Server, values: Vec<Value>, groups: usize) -> Result<Lookup, Failure> {
    if values.len() != groups + 1 {
        return Err(Failure::unexpected("MGET"));
    }
    let mut values = values.into_iter();
    let found = parse_entry(values.next().unwrap_or(Value::Nil));
    let current: CurrentGenerations = values.map(|value| parse_generation(server, value)).collect();
    Ok(Lookup::new(found, current))
}

fn parse_entry(value: Value) -> Found {
    match value {
        Value::BulkString(bytes) => match Entry::decode(&Bytes::from(bytes)) {
            Ok(entry) => Found::Entry(Arc::new(entry), None),
            Err(_) => Found::Undecodable,
        },
        _ => Found::Absent,
    }
}

fn parse_generation(server: &Server, value: Value) -> Option<Generation> {
    match value {
        Value::BulkString(token) => server.generation(&token),
        _ => None,
    }
}

/// Returns when an entry expires, from the replies to `PTTL` before and after it was read. Both are -1 if it
/// has no time to live.
///
/// The entry may have been replaced between the commands, by one that expires earlier or later. So the shorter
/// time counts, and an entry that did not exist at one of the two moments has none left.
fn expiry(before: Instant, earlier: i64, later: i64) -> Option<Instant> {
    if (earlier, later) == (NO_TIME_TO_LIVE, NO_TIME_TO_LIVE) {
        return None;
    }
    if earlier > 0 && earlier - later == 1 {
        // The same entry, and a millisecond ended between the commands.
        return expiry(before, earlier, earlier);
    }
    let left = |millis| if millis == NO_TIME_TO_LIVE { u64::MAX } else { u64::try_from(millis).unwrap_or(0) };
    before.checked_add(Duration::from_millis(left(earlier).min(left(later))))
}

/// The reply to `PTTL` for a key that exists and has no time to live.
const NO_TIME_TO_LIVE: i64 = -1;

#[cfg(test)]
mod tests {
    use groupcache_core::{Clock, SystemClock};

    use super::*;

    #[test]
    fn an_entry_expires_after_the_shorter_time_left() {
        let before = SystemClock.now();
        let after = |millis| Some(before + Duration::from_millis(millis));
        for (earlier, later, expected) in [
            (500, 499, after(500)),
            (500, 498, after(498)),
            (5, 60_000, after(5)),
            (0, 60_000, after(0)),
            (-2, 60_000, after(0)),
            (500, -2, after(0)),
            (500, -1, after(500)),
            (-1, -1, None),
        ] {
            assert_eq!(expiry(before, earlier, later), expected, "{earlier} {later}");
        }
    }
}
