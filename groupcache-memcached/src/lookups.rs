//! Looking for entries and generations.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use groupcache_core::backend::{CurrentGenerations, Found, Lookup, TimeLeft};
use groupcache_core::{Entry, Group, Key, Result};
use memcache::exp::MetaCommand;

use crate::backend::Inner;
use crate::commands::{self, got};
use crate::handshake::ServerInfo;
use crate::server::RequestKind;
use crate::writes::generation;

impl Inner {
    pub(crate) async fn look(
        &self,
        questions: &[(&Key, &[Group])],
        time_left: TimeLeft,
    ) -> Result<Vec<Lookup>> {
        let asked_at = (time_left == TimeLeft::Needed).then(|| self.clock.now());
        let mut items = Vec::with_capacity(questions.iter().map(|(_, groups)| 1 + groups.len()).sum());
        let get = if time_left == TimeLeft::Needed { commands::get_with_time_left } else { commands::get };
        for (key, groups) in questions {
            items.extend(groups.iter().map(|group| self.placement.generation(group)));
            // Last: what comes behind a large value is another thing to wait for.
            items.push(self.placement.entry(key));
        }
        let build = |position: usize, _: u32, _: &ServerInfo, commands: &mut Vec<MetaCommand>| {
            commands.push(get(&items[position].name));
        };
        let mut failed = None;
        let mut answered = items.is_empty();
        let mut answers: Vec<Option<(Vec<u8>, Option<i64>)>> = items.iter().map(|_| None).collect();
        for share in self.ask(RequestKind::Read, &items, build).await {
            match share.answers {
                Ok(results) => {
                    answered = true;
                    for (position, answer) in share.positions.iter().zip(results) {
                        let seconds = answer.ttl;
                        answers[*position] = got(answer)?.map(|value| (value, seconds));
                    }
                }
                // The keys of a server that is down are misses.
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        if let Some(error) = failed.filter(|_| !answered) {
            return Err(error);
        }
        let mut answers = answers.into_iter();
        let lookups = questions.iter().map(|(_, groups)| {
            let current: CurrentGenerations =
                answers.by_ref().take(groups.len()).map(|answer| generation(&answer?.0)).collect();
            let found = match answers.next().flatten() {
                None => Found::Absent,
                Some((bytes, seconds)) => match Entry::decode(&Bytes::from(bytes)) {
                    // Negative: no time to live.
                    Ok(entry) => {
                        let left = seconds.and_then(|seconds| u64::try_from(seconds).ok());
                        let left = left.map(Duration::from_secs);
                        let expires_at =
                            asked_at.zip(left).and_then(|(asked_at, left)| asked_at.checked_add(left));
                        Found::Entry(Arc::new(entry), expires_at)
                    }
                    Err(_) => Found::Undecodable,
                },
            };
            Lookup::new(found, current)
        });
        Ok(lookups.collect())
    }
}
