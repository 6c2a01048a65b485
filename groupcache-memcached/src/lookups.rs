//! Lookups of entries and generations.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use groupcache_core::backend::{CurrentGenerations, Found, Lookup, TimeLeft};
use groupcache_core::{Entry, Group, Key, Result};
use memcache::exp::MetaCommand;

use crate::commands::{self, decode_generation};
use crate::handshake::ServerInfo;
use crate::placement::Item;
use crate::server::RequestKind;
use crate::servers::{ServerResponses, Servers};

/// The value of an item.
struct Value {
    bytes: Vec<u8>,
    /// The seconds until it expires, if the command read them. Negative if it never expires.
    seconds_left: Option<i64>,
}

impl Servers {
    /// Looks up the entry and the current generations of the groups of each query, in order.
    ///
    /// The items of a server that does not respond are misses, unless no server responds.
    pub(crate) async fn lookup(
        &self,
        queries: &[(&Key, &[Group])],
        time_left: TimeLeft,
    ) -> Result<Vec<Lookup>> {
        let sent_at = (time_left == TimeLeft::Needed).then(|| self.settings.clock.now());
        let items = self.items_of(queries);
        let get = if time_left == TimeLeft::Needed { commands::get_with_time_left } else { commands::get };
        let push_commands = |position: usize, _: u32, _: &ServerInfo, commands: &mut Vec<MetaCommand>| {
            commands.push(get(&items[position].name));
        };
        let responses = self.send(RequestKind::Read, &items, push_commands).await;
        let mut values = values(responses, items.len())?.into_iter();
        let lookups = queries.iter().map(|(_, groups)| {
            let generations = values.by_ref().take(groups.len());
            let current: CurrentGenerations =
                generations.map(|value| decode_generation(&value?.bytes)).collect();
            Lookup::new(found(values.next().flatten(), sent_at), current)
        });
        Ok(lookups.collect())
    }

    /// Returns the items of each query: the generations, then the entry. The entry is last because what
    /// follows a large value arrives later.
    fn items_of(&self, queries: &[(&Key, &[Group])]) -> Vec<Item> {
        let mut items = Vec::with_capacity(queries.iter().map(|(_, groups)| 1 + groups.len()).sum());
        for (key, groups) in queries {
            items.extend(groups.iter().map(|group| self.placement.generation(group)));
            items.push(self.placement.entry(key));
        }
        items
    }
}

/// Returns the value of each of `count` items, `None` for a miss.
///
/// # Errors
///
/// The first failure, if no server responded.
fn values(servers: Vec<ServerResponses>, count: usize) -> Result<Vec<Option<Value>>> {
    let mut values: Vec<Option<Value>> = (0..count).map(|_| None).collect();
    let mut failure = None;
    let mut has_response = count == 0;
    for server in servers {
        match server.responses {
            Ok(responses) => {
                has_response = true;
                for (position, response) in server.positions.iter().zip(responses) {
                    let seconds_left = response.ttl;
                    values[*position] = commands::value(response)?.map(|bytes| Value { bytes, seconds_left });
                }
            }
            Err(error) => failure = failure.or(Some(error)),
        }
    }
    match failure {
        Some(error) if !has_response => Err(error),
        _ => Ok(values),
    }
}

/// Decodes the value of an entry. `sent_at` is when the lookup was sent, if its time left was read.
fn found(value: Option<Value>, sent_at: Option<Instant>) -> Found {
    let Some(value) = value else { return Found::Absent };
    let Ok(entry) = Entry::decode(&Bytes::from(value.bytes)) else { return Found::Undecodable };
    let left = value.seconds_left.and_then(|seconds| u64::try_from(seconds).ok());
    let left = left.map(Duration::from_secs);
    let expires_at = sent_at.zip(left).and_then(|(sent_at, left)| sent_at.checked_add(left));
    Found::Entry(Arc::new(entry), expires_at)
}
