//! Writes: mints, bumps, stores and deletions.

use std::sync::atomic::Ordering;
use std::time::Duration;

use groupcache_core::backend::{Generation, Minted};
use groupcache_core::{Entry, Error, ErrorKind, Group, Result};
use memcache::exp::MetaCommand;

use crate::commands::{self, check_replaced_or_absent, check_stored, decode_generation, encode_generation};
use crate::error::Failure;
use crate::expiry::whole_seconds;
use crate::handshake::ServerInfo;
use crate::placement::{Item, Placement};
use crate::server::RequestKind;
use crate::servers::{ServerResponses, Servers};

impl Servers {
    /// Returns the generation of each group, and gives a random one to those that have none.
    pub(crate) async fn mint(&self, groups: &[Group]) -> Result<Minted> {
        let items: Vec<_> = groups.iter().map(|group| self.placement.generation(group)).collect();
        let push_commands = |position: usize, _: u32, info: &ServerInfo, commands: &mut Vec<MetaCommand>| {
            self.push_mint(&items[position], Generation::random(), info, commands);
        };
        let servers = self.send(RequestKind::Write, &items, push_commands).await;
        let minted = self.minted(&items, servers).await?;
        Ok(Minted::new(minted.into_iter().collect()))
    }

    /// Replaces the generation of each group that has one.
    pub(crate) async fn bump(&self, groups: &[Group]) -> Result<()> {
        let items = self.items_in_both_lists(groups, |placement, group| placement.generation(group));
        let push_commands = |position: usize, _: u32, info: &ServerInfo, commands: &mut Vec<MetaCommand>| {
            let expiry = self.generation_expiry(info, Duration::ZERO);
            let value = encode_generation(Generation::random());
            commands.push(commands::replace(&items[position].name, value, expiry));
        };
        let mut refused = Vec::new();
        for server in self.send(RequestKind::Invalidation, &items, push_commands).await {
            match server.responses {
                Ok(responses) => responses.iter().try_for_each(check_replaced_or_absent)?,
                Err(error) if error.kind() == ErrorKind::Capacity => {
                    refused.extend(server.positions.iter().map(|position| items[*position].clone()));
                }
                Err(error) => return Err(error),
            }
        }
        // A server without memory for new generations can still delete the old ones. Either way the entries
        // that depend on them are stale.
        self.delete(&refused).await
    }

    /// Stores the entry, and extends the time to live of its generations where they would expire too
    /// early.
    pub(crate) async fn store(&self, entry: &Entry, time_to_live: Duration) -> Result<()> {
        let mut items = vec![self.placement.entry(entry.key())];
        items.extend(entry.groups().iter().map(|group| self.placement.generation(group)));
        let value = entry.encode();
        self.check_size(&items[0], value.len(), entry.body().len())?;
        let push_commands = |position: usize, _: u32, info: &ServerInfo, commands: &mut Vec<MetaCommand>| {
            let name = &items[position].name;
            commands.push(if position == 0 {
                let expiry = info.time.expiry(time_to_live, self.settings.clock.now());
                commands::set(name, &*value, expiry)
            } else {
                commands::time_left(name)
            });
        };
        let mut expiring = Vec::new();
        for server in self.send(RequestKind::Write, &items, push_commands).await {
            let responses = server.responses.inspect_err(|error| {
                if error.kind() == ErrorKind::Capacity && error.to_string().contains("too large") {
                    self.log_too_large(error);
                }
            })?;
            for (position, response) in server.positions.iter().zip(responses) {
                if *position == 0 {
                    check_stored(&response)?;
                } else if self.expires_too_early(server.server, response.ttl, time_to_live) {
                    expiring.push(items[*position].clone());
                }
            }
        }
        self.extend_generations(&expiring, time_to_live).await
    }

    pub(crate) async fn delete(&self, items: &[Item]) -> Result<()> {
        let push_commands = |position: usize, _: u32, _: &ServerInfo, commands: &mut Vec<MetaCommand>| {
            commands.push(commands::delete(&items[position].name));
        };
        for server in self.send(RequestKind::Invalidation, items, push_commands).await {
            server.responses?.iter().try_for_each(check_replaced_or_absent)?;
        }
        Ok(())
    }

    /// Returns the item of each thing on the backend's own list, and then on that of `overlap` where it
    /// differs.
    pub(crate) fn items_in_both_lists<T>(
        &self,
        things: &[T],
        item: impl Fn(&Placement, &T) -> Item,
    ) -> Vec<Item> {
        let mut items: Vec<_> = things.iter().map(|thing| item(&self.placement, thing)).collect();
        if let Some(overlap) = &self.overlap {
            for (at, thing) in things.iter().enumerate() {
                let other = item(overlap, thing);
                if other != items[at] {
                    items.push(other);
                }
            }
        }
        items
    }

    /// Appends the two commands of a mint: add `generation` if the group has none, and read what it has then.
    pub(crate) fn push_mint(
        &self,
        item: &Item,
        generation: Generation,
        info: &ServerInfo,
        commands: &mut Vec<MetaCommand>,
    ) {
        let expiry = self.generation_expiry(info, Duration::ZERO);
        commands.push(commands::add(&item.name, encode_generation(generation), expiry));
        commands.push(commands::get_with_time_left(&item.name));
    }

    /// Returns the generation of each item from the responses to [`push_mint`](Self::push_mint), in order,
    /// and extends the time to live of those that would expire too early.
    pub(crate) async fn minted(
        &self,
        items: &[Item],
        servers: Vec<ServerResponses>,
    ) -> Result<Vec<Generation>> {
        let mut minted: Vec<Option<Generation>> = items.iter().map(|_| None).collect();
        let mut expiring = Vec::new();
        for server in servers {
            let responses = server.responses?;
            for (position, pair) in server.positions.iter().zip(responses.chunks(2)) {
                let [_, get] = pair else {
                    return Err(Failure::unexpected("ms, mg").into());
                };
                minted[*position] = Some(self.minted_generation(server.server, get.value.as_deref())?);
                if self.expires_too_early(server.server, get.ttl, Duration::ZERO) {
                    expiring.push(items[*position].clone());
                }
            }
        }
        self.extend_generations(&expiring, Duration::ZERO).await?;
        minted.into_iter().collect::<Option<_>>().ok_or_else(|| Failure::unexpected("ms, mg").into())
    }

    fn minted_generation(&self, server: usize, value: Option<&[u8]>) -> Result<Generation> {
        let failure = match value.map(decode_generation) {
            Some(Some(generation)) => return Ok(generation),
            Some(None) => Failure::protocol(
                "the item of a group is not a generation; does another application use the same `key_prefix`?",
            ),
            None => Failure::new(ErrorKind::Unavailable, "a generation was evicted while it was minted"),
        };
        Err(failure.at_server(self.all[server].name()).into())
    }

    /// Refuses an entry that its server would refuse, before it is sent.
    fn check_size(&self, item: &Item, value_bytes: usize, body_bytes: usize) -> Result<()> {
        let item_bytes = value_bytes.saturating_add(item.name.len()).saturating_add(ITEM_OVERHEAD_BYTES);
        let server = &self.all[item.server];
        let message = match (self.settings.max_entry_bytes, server.item_bytes_max()) {
            (Some(max), _) if body_bytes > max => {
                format!("an entry of {body_bytes} bytes is too large; `max_entry_bytes` is {max}")
            }
            (_, Some(max)) if item_bytes > max => {
                let name = server.name();
                format!("{name}: an entry of {body_bytes} bytes is too large; the server's `-I` is {max}")
            }
            _ => return Ok(()),
        };
        let error = Error::from(Failure::new(ErrorKind::Capacity, message));
        self.log_too_large(&error);
        Err(error)
    }

    fn log_too_large(&self, error: &Error) {
        if !self.too_large_logged.swap(true, Ordering::Relaxed) {
            tracing::warn!(%error, "entry not stored; further ones are not logged");
        }
    }

    /// Gives generations the time to live that entries stored from now on need.
    async fn extend_generations(&self, items: &[Item], time_to_live: Duration) -> Result<()> {
        let push_commands = |position: usize, _: u32, info: &ServerInfo, commands: &mut Vec<MetaCommand>| {
            let expiry = self.generation_expiry(info, time_to_live);
            commands.push(commands::touch(&items[position].name, expiry));
        };
        for server in self.send(RequestKind::Write, items, push_commands).await {
            server.responses?;
        }
        Ok(())
    }

    /// Returns the expiration time to send for [`generation_time_to_live`](Self::generation_time_to_live).
    fn generation_expiry(&self, info: &ServerInfo, time_to_live: Duration) -> u32 {
        info.time.expiry(self.generation_time_to_live(time_to_live), self.settings.clock.now())
    }

    /// Returns the time to live of a generation on which an entry with `time_to_live` depends: that of the
    /// longest-lived entry of this process, and the time of a load.
    fn generation_time_to_live(&self, time_to_live: Duration) -> Duration {
        let seconds = whole_seconds(time_to_live.max(self.settings.default_time_to_live));
        let longest = self.time_to_live_seconds_max.fetch_max(seconds, Ordering::Relaxed).max(seconds);
        Duration::from_secs(longest).saturating_add(LOAD_TIME_MAX)
    }

    /// Returns whether a generation with so many seconds left must be extended.
    ///
    /// One that was extended less than half of [`LOAD_TIME_MAX`] ago is not, so that few stores extend.
    fn expires_too_early(&self, server: usize, seconds_left: Option<i64>, time_to_live: Duration) -> bool {
        // Without a number it does not exist; with a negative one it never expires.
        let Some(left) = seconds_left.and_then(|left| u64::try_from(left).ok()) else { return false };
        let mut wanted = self.generation_time_to_live(time_to_live);
        if let Some(time) = self.all[server].time() {
            // Beyond that the server cannot extend it.
            wanted = wanted.min(time.time_to_live_max(self.settings.clock.now()));
        }
        Duration::from_secs(left) < wanted.saturating_sub(LOAD_TIME_MAX / 2)
    }
}

/// The time that a load may take, by which a generation outlives the entries that depend on it.
const LOAD_TIME_MAX: Duration = Duration::from_secs(24 * 3600);
/// The size of an item without its name and value, rounded up.
const ITEM_OVERHEAD_BYTES: usize = 64;
