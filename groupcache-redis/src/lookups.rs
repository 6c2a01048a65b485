//! What reads the store: lookups.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use groupcache_core::backend::{CurrentGenerations, Found, Generation, Lookup, TimeLeft};
use groupcache_core::{Entry, Group, Groups, Key};
use redis::{Cmd, Pipeline, Value};

use crate::backend::Inner;
use crate::cluster::Cluster;
use crate::error::Failure;
use crate::route::{Aim, Answer, Node, Route, checked};
use crate::server::Server;

impl Inner {
    pub(crate) async fn look(
        &self,
        key: &Key,
        groups: &[Group],
        time_left: TimeLeft,
    ) -> Result<Lookup, Failure> {
        match (&self.route, time_left) {
            (Route::Node(node), TimeLeft::NotNeeded) => self.look_at_node(node, key, groups).await,
            (Route::Node(_), TimeLeft::Needed) => self.look_at_time_left(key, groups).await,
            (Route::Cluster(cluster), _) => {
                let looked = self.look_at_cluster(cluster, &[(key, groups)], time_left).await?;
                looked.into_iter().next().ok_or_else(|| Failure::unexpected("GET"))
            }
        }
    }

    /// Every hit goes through here.
    async fn look_at_node(&self, node: &Node, key: &Key, groups: &[Group]) -> Result<Lookup, Failure> {
        let mut retried = false;
        loop {
            let connected = node.line.connected().await?;
            match connected.ask(&self.question(key, groups)).await {
                // Nothing that `MGET` finds is a refusal.
                Ok(answer @ Value::Array(_)) => return found(&connected.server, answer, groups.len()),
                Ok(refusal) => {
                    let answer = checked(&node.line, &connected, Some(refusal))?;
                    return found(&connected.server, answer, groups.len());
                }
                Err(failure) => {
                    if failure.disconnects {
                        node.line.discard(&connected);
                    }
                    if retried || !failure.retry {
                        return Err(failure);
                    }
                    retried = true;
                }
            }
        }
    }

    /// With the time that is left, both at one moment.
    async fn look_at_time_left(&self, key: &Key, groups: &[Group]) -> Result<Lookup, Failure> {
        let before = self.clock.now();
        let name = [self.names.entry(key)];
        let put = |_: usize, _: &Server, pipeline: &mut Pipeline| {
            pipeline.cmd("MULTI").add_command(self.question(key, groups));
            pipeline.cmd("PTTL").arg(&name[0]).cmd("EXEC");
        };
        let mut answer = first(self.route.run(Aim::Generations, &name, put).await?)?;
        for _queued in 0..3 {
            answer.next()?;
        }
        let Value::Array(answers) = answer.next()? else {
            return Err(Failure::unexpected("EXEC"));
        };
        let mut answers = answers.into_iter().map(Value::extract_error);
        let mut next = || answers.next().unwrap_or(Ok(Value::Nil));
        let (answered, left) = (next()?, next()?);
        let mut lookup = found(&answer.connected.server, answered, groups.len())?;
        if let (Found::Entry(_, expires_at), Value::Int(millis)) = (&mut lookup.found, left) {
            // Negative: no time to live, or no entry.
            *expires_at =
                u64::try_from(millis).ok().and_then(|left| before.checked_add(Duration::from_millis(left)));
        }
        Ok(lookup)
    }

    pub(crate) async fn look_many(&self, questions: &[(Key, Groups)]) -> Result<Vec<Lookup>, Failure> {
        if let Route::Cluster(cluster) = &self.route {
            let questions: Vec<(&Key, &[Group])> =
                questions.iter().map(|(key, groups)| (key, &**groups)).collect();
            return self.look_at_cluster(cluster, &questions, TimeLeft::NotNeeded).await;
        }
        // One server has them all, whatever they are called.
        let nameless = vec![Vec::new(); questions.len()];
        let put = |at: usize, _: &Server, pipeline: &mut Pipeline| {
            let (key, groups) = &questions[at];
            pipeline.add_command(self.question(key, groups));
        };
        let answers = self.route.run(Aim::Generations, &nameless, put).await?;
        let lookup = |((_, groups), mut answer): (&(Key, Groups), Answer<()>)| {
            let answered = answer.next()?;
            found(&answer.connected.server, answered, groups.len())
        };
        questions.iter().zip(answers).map(lookup).collect()
    }

    /// Each key of each lookup from the node that has it, all at the same time. One command a key, as
    /// one for several of a slot fails while the slot is on its way to another node.
    async fn look_at_cluster(
        &self,
        cluster: &Cluster,
        questions: &[(&Key, &[Group])],
        time_left: TimeLeft,
    ) -> Result<Vec<Lookup>, Failure> {
        let mut names = Vec::new();
        let mut is_entry = Vec::new();
        for (key, groups) in questions {
            names.push(self.names.entry(key));
            names.extend(groups.iter().map(|group| self.names.generation(group)));
            is_entry.push(true);
            is_entry.extend(groups.iter().map(|_| false));
        }
        let before = self.clock.now();
        let put = |at: usize, _: &Server, pipeline: &mut Pipeline| {
            let with_time = is_entry[at] && time_left == TimeLeft::Needed;
            if with_time {
                pipeline.cmd("PTTL").arg(&names[at]);
            }
            pipeline.cmd("GET").arg(&names[at]);
            if with_time {
                pipeline.cmd("PTTL").arg(&names[at]);
            }
            with_time
        };
        let mut answers = cluster.run(Aim::Generations, &names, &put).await?.into_iter();
        let mut lookups = Vec::with_capacity(questions.len());
        for (_, groups) in questions {
            let mut answer = answers.next().ok_or_else(|| Failure::unexpected("GET"))?;
            let earlier = if answer.sent { answer.next()? } else { Value::Nil };
            let mut found = found_entry(answer.next_or_wrong_type()?);
            if let (Found::Entry(_, expires_at), Value::Int(earlier)) = (&mut found, earlier)
                && let Value::Int(later) = answer.next()?
            {
                // The entry may have been replaced between the two, by one that ends earlier or later.
                let left = u64::try_from(earlier.min(later)).ok();
                *expires_at = left.and_then(|left| before.checked_add(Duration::from_millis(left)));
            }
            let mut current: Vec<Option<Generation>> = Vec::with_capacity(groups.len());
            for mut answer in answers.by_ref().take(groups.len()) {
                current.push(match answer.next_or_wrong_type()? {
                    Value::BulkString(token) => answer.generation(&token),
                    _ => None,
                });
            }
            lookups.push(Lookup::new(found, current.into_iter().collect()));
        }
        Ok(lookups)
    }

    fn question(&self, key: &Key, groups: &[Group]) -> Cmd {
        let keys = 1 + groups.len();
        let mut command = Cmd::with_capacity(1 + keys, 4 + keys * self.names.name_bytes());
        let mut name = self.names.entry(key);
        command.arg("MGET").arg(&name);
        for group in groups {
            // Every hit does this: one buffer for all.
            self.names.rename_to_generation(&mut name, group);
            command.arg(&name);
        }
        command
    }
}

impl<X> Answer<X> {
    /// What `MGET` does with a value that is no string: there is none.
    fn next_or_wrong_type(&mut self) -> Result<Value, Failure> {
        match self.next() {
            Err(failure) if failure.is_wrong_type() => Ok(Value::Nil),
            answer => answer,
        }
    }
}

fn first<X>(answers: Vec<Answer<X>>) -> Result<Answer<X>, Failure> {
    answers.into_iter().next().ok_or_else(|| Failure::unexpected("a command"))
}

fn found(server: &Server, answered: Value, groups: usize) -> Result<Lookup, Failure> {
    let Value::Array(values) = answered else {
        return Err(Failure::unexpected("MGET"));
    };
    if values.len() != groups + 1 {
        return Err(Failure::unexpected("MGET"));
    }
    let mut values = values.into_iter();
    let found = found_entry(values.next().unwrap_or(Value::Nil));
    let current: CurrentGenerations = values.map(|value| generation(server, value)).collect();
    Ok(Lookup::new(found, current))
}

fn found_entry(value: Value) -> Found {
    match value {
        Value::BulkString(bytes) => match Entry::decode(&Bytes::from(bytes)) {
            Ok(entry) => Found::Entry(Arc::new(entry), None),
            Err(_) => Found::Undecodable,
        },
        _ => Found::Absent,
    }
}

fn generation(server: &Server, value: Value) -> Option<Generation> {
    match value {
        Value::BulkString(token) => server.generation(&token),
        _ => None,
    }
}
