//! All servers of a backend: sends each server its share of a batch of commands.

use std::sync::atomic::{AtomicBool, AtomicU64};

use futures_util::future::join_all;
use groupcache_core::Result;
use memcache::exp::{MetaCommand, MetaCommandResult as Response};

use crate::handshake::ServerInfo;
use crate::placement::{Item, Placement};
use crate::server::{RequestKind, Server};
use crate::settings::Settings;

/// What the clones of a backend share. The operations are in `lookups.rs`, `writes.rs` and `leases.rs`.
pub(crate) struct Servers {
    /// The servers of both lists, each once.
    pub(crate) all: Vec<Server>,
    pub(crate) placement: Placement,
    /// Where invalidations go as well while the list of servers changes.
    pub(crate) overlap: Option<Placement>,
    pub(crate) settings: Settings,
    /// The longest time to live of an entry of this process.
    pub(crate) time_to_live_seconds_max: AtomicU64,
    pub(crate) too_large_logged: AtomicBool,
}

/// The responses of one server to its share of a batch.
pub(crate) struct ServerResponses {
    /// The position of the server in [`Servers::all`].
    pub(crate) server: usize,
    /// The positions of the items in the batch, in the order of the responses.
    pub(crate) positions: Vec<usize>,
    pub(crate) responses: Result<Vec<Response>>,
}

impl Servers {
    pub(crate) fn new(
        all: Vec<Server>,
        placement: Placement,
        overlap: Option<Placement>,
        settings: Settings,
    ) -> Self {
        Self {
            all,
            placement,
            overlap,
            settings,
            time_to_live_seconds_max: AtomicU64::new(0),
            too_large_logged: AtomicBool::new(false),
        }
    }

    /// Sends each server the commands for its share of `items`, to all servers concurrently and to each in
    /// one batch.
    ///
    /// `push_commands` appends the commands for the item at a position, the same number for each item. Its
    /// second argument counts the attempts: random values must be drawn for each attempt.
    pub(crate) async fn send(
        &self,
        kind: RequestKind,
        items: &[Item],
        push_commands: impl Fn(usize, u32, &ServerInfo, &mut Vec<MetaCommand>) + Sync,
    ) -> Vec<ServerResponses> {
        let push_commands = &push_commands;
        let send_share = |(server, positions): (usize, Vec<usize>)| async move {
            let push_share = |attempt: u32, info: &ServerInfo, commands: &mut Vec<MetaCommand>| {
                positions.iter().for_each(|position| push_commands(*position, attempt, info, commands));
            };
            let responses = self.all[server].send(kind, push_share).await;
            ServerResponses { server, positions, responses }
        };
        match <[_; 1]>::try_from(self.shares(items)) {
            Ok([share]) => vec![send_share(share).await],
            Err(shares) => join_all(shares.into_iter().map(send_share)).await,
        }
    }

    /// Returns each server that owns some of `items`, with the positions of those items.
    fn shares(&self, items: &[Item]) -> Vec<(usize, Vec<usize>)> {
        let mut shares: Vec<(usize, Vec<usize>)> = Vec::with_capacity(self.all.len());
        for (position, item) in items.iter().enumerate() {
            match shares.iter_mut().find(|(server, _)| *server == item.server) {
                Some((_, positions)) => positions.push(position),
                None => shares.push((item.server, vec![position])),
            }
        }
        shares
    }
}
