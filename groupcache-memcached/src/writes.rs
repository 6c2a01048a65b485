//! Minting, leasing, bumping, storing, deleting.

use std::sync::atomic::Ordering;
use std::time::Duration;

use groupcache_core::backend::{
    Generation, LeaseHolder, LeaseName, LeaseOwner, LeaseRequest, Leased, Minted,
};

use groupcache_core::{Entry, Error, ErrorKind, Group, Result};
use memcache::exp::{MetaCommand, MetaCommandResult as Answer};

use crate::backend::{Inner, Share};
use crate::commands::{self, added, gone, stored};
use crate::error::Failure;
use crate::expiry::whole_seconds;
use crate::greeting::About;
use crate::place::{Item, Place};
use crate::server::Ask;

/// What a computation may take beyond the life of the entry that it makes.
const FILL_TIME: Duration = Duration::from_secs(24 * 3600);
/// What an item has beside its name and value, rounded up.
const ITEM_OVERHEAD_BYTES: usize = 64;
const TOKEN_BYTES: usize = 16;

impl Inner {
    /// The commands that mint: adds the token where there is none, and gets what is there then.
    fn mint_one(&self, item: &Item, token: Generation, about: &About, commands: &mut Vec<MetaCommand>) {
        let expiry = about.time.expiry(self.generation_life(Duration::ZERO), self.clock.now());
        commands.push(commands::add(&item.name, bytes(token), expiry));
        commands.push(commands::get_with_life(&item.name));
    }

    pub(crate) async fn mint(&self, groups: &[Group]) -> Result<Minted> {
        let items: Vec<_> = groups.iter().map(|group| self.place.generation(group)).collect();
        let build = |position: usize, _: u32, about: &About, commands: &mut Vec<MetaCommand>| {
            self.mint_one(&items[position], Generation::random(), about, commands);
        };
        let shares = self.ask(Ask::Write, &items, build).await;
        let minted = self.minted(&items, shares).await?;
        Ok(Minted::new(minted.into_iter().collect()))
    }

    /// What [`mint_one`](Self::mint_one) found for each of the items, in order.
    async fn minted(&self, items: &[Item], shares: Vec<Share>) -> Result<Vec<Generation>> {
        let mut minted: Vec<Option<Generation>> = items.iter().map(|_| None).collect();
        let mut short_lived = Vec::new();
        for share in shares {
            let results = share.answers?;
            for (position, pair) in share.positions.iter().zip(results.chunks(2)) {
                let [_, there] = pair else {
                    return Err(Failure::unexpected("ms, mg").into());
                };
                minted[*position] = Some(self.token_of(share.server, there.value.as_deref())?);
                if self.is_short_lived(share.server, there.ttl, Duration::ZERO) {
                    short_lived.push(items[*position].clone());
                }
            }
        }
        self.lengthen(&short_lived, Duration::ZERO).await?;
        minted.into_iter().collect::<Option<_>>().ok_or_else(|| Failure::unexpected("ms, mg").into())
    }

    fn token_of(&self, server: usize, value: Option<&[u8]>) -> Result<Generation> {
        let failure = match value {
            Some(value) => match generation(value) {
                Some(generation) => return Ok(generation),
                None => Failure::protocol(
                    "the key of a group guards no generation; another application writes under the same \
                     `key_prefix`",
                ),
            },
            None => Failure::new(ErrorKind::Unavailable, "a generation was evicted while it was minted"),
        };
        Err(failure.at(self.servers[server].name()).into())
    }

    pub(crate) async fn lease(&self, request: &LeaseRequest<'_>) -> Result<Leased> {
        let mut items: Vec<_> = request.missing().map(|group| self.place.generation(group)).collect();
        let proposals: Vec<_> = items.iter().map(|_| Generation::random()).collect();
        let expected = request.vector(proposals.iter().copied());
        let expected = expected.ok_or_else(|| Failure::unexpected("a lookup"))?;
        items.push(self.place.lease(&request.name(&expected)));
        let build = |position: usize, attempt: u32, about: &About, commands: &mut Vec<MetaCommand>| {
            let item = &items[position];
            match proposals.get(position) {
                // A proposal is sent once; another one makes another vector.
                Some(proposal) => {
                    let token = if attempt == 0 { *proposal } else { Generation::random() };
                    self.mint_one(item, token, about, commands);
                }
                None => {
                    let expiry = about.time.expiry(request.duration(), self.clock.now());
                    commands.push(commands::add(&item.name, request.owner().as_bytes(), expiry));
                    commands.push(commands::get(&item.name));
                }
            }
        };
        let mut shares = self.ask(Ask::Write, &items, build).await;
        let holder = take_holder(&mut shares, proposals.len(), request);
        let minted = self.minted(&items[..proposals.len()], shares).await?;
        let vector = request.vector(minted).ok_or_else(|| Failure::unexpected("ms, mg"))?;
        let holder = if vector == expected { holder } else { LeaseHolder::Unknown };
        Ok(Leased::new(vector, holder))
    }

    /// Deletes what was seen to be the owner's, and only that: `md` compares the item's CAS number, which
    /// the server changes with every write.
    pub(crate) async fn release(&self, lease: &LeaseName, owner: LeaseOwner) -> Result<()> {
        let item = self.place.lease(lease);
        let server = &self.servers[item.server];
        let look = |_: u32, _: &About, commands: &mut Vec<MetaCommand>| {
            commands.push(commands::get_with_cas(&item.name));
        };
        let looked = server.ask(Ask::Read, look).await?;
        let own = looked.first().filter(|there| there.value.as_deref() == Some(owner.as_bytes()));
        let Some(cas) = own.and_then(|there| there.cas) else { return Ok(()) };
        let delete = |_: u32, _: &About, commands: &mut Vec<MetaCommand>| {
            commands.push(commands::delete_as_seen(&item.name, cas));
        };
        server.ask(Ask::Write, delete).await.map(drop)
    }

    /// In both lists where there are two.
    pub(crate) fn everywhere<T>(&self, things: &[T], item: impl Fn(&Place, &T) -> Item) -> Vec<Item> {
        let mut items: Vec<_> = things.iter().map(|thing| item(&self.place, thing)).collect();
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

    pub(crate) async fn bump(&self, groups: &[Group]) -> Result<()> {
        let items = self.everywhere(groups, |place, group| place.generation(group));
        let build = |position: usize, _: u32, about: &About, commands: &mut Vec<MetaCommand>| {
            let expiry = about.time.expiry(self.generation_life(Duration::ZERO), self.clock.now());
            let token = bytes(Generation::random());
            commands.push(commands::replace(&items[position].name, token, expiry));
        };
        let mut refused = Vec::new();
        for share in self.ask(Ask::Anyway, &items, build).await {
            match share.answers {
                Ok(results) => results.iter().try_for_each(gone)?,
                Err(error) if error.kind() == ErrorKind::Capacity => {
                    refused.extend(share.positions.iter().map(|position| items[*position].clone()));
                }
                Err(error) => return Err(error),
            }
        }
        // Where the server has no memory for a new generation. A group without one is as stale as one
        // with a new one.
        self.remove(&refused).await
    }

    pub(crate) async fn remove(&self, items: &[Item]) -> Result<()> {
        let build = |position: usize, _: u32, _: &About, commands: &mut Vec<MetaCommand>| {
            commands.push(commands::delete(&items[position].name));
        };
        for share in self.ask(Ask::Anyway, items, build).await {
            share.answers?.iter().try_for_each(gone)?;
        }
        Ok(())
    }

    pub(crate) async fn store(&self, entry: &Entry, time_to_live: Duration) -> Result<()> {
        let mut items = vec![self.place.entry(entry.key())];
        items.extend(entry.groups().iter().map(|group| self.place.generation(group)));
        let value = entry.encode();
        self.check_size(&items[0], value.len(), entry.body().len())?;
        let build = |position: usize, _: u32, about: &About, commands: &mut Vec<MetaCommand>| {
            let name = &items[position].name;
            commands.push(if position == 0 {
                let expiry = about.time.expiry(time_to_live, self.clock.now());
                commands::set(name, &*value, expiry)
            } else {
                commands::life(name)
            });
        };
        let mut short_lived = Vec::new();
        for share in self.ask(Ask::Write, &items, build).await {
            let results = share.answers.inspect_err(|error| {
                if error.kind() == ErrorKind::Capacity && error.to_string().contains("too large") {
                    self.say_too_large(error);
                }
            })?;
            for (position, result) in share.positions.iter().zip(results) {
                if *position == 0 {
                    stored(&result)?;
                } else if self.is_short_lived(share.server, result.ttl, time_to_live) {
                    short_lived.push(items[*position].clone());
                }
            }
        }
        self.lengthen(&short_lived, time_to_live).await
    }

    /// Refuses what the server would refuse, without sending it first.
    fn check_size(&self, item: &Item, value: usize, body: usize) -> Result<()> {
        let needed = value.saturating_add(item.name.len()).saturating_add(ITEM_OVERHEAD_BYTES);
        let server = &self.servers[item.server];
        let message = match (self.max_entry_bytes, server.item_bytes_max()) {
            (Some(max), _) if body > max => {
                format!("an entry of {body} bytes is too large, `max_entry_bytes` is {max}")
            }
            (_, Some(max)) if needed > max => {
                format!(
                    "{}: an entry of {body} bytes is too large, the server's `-I` is {max}",
                    server.name()
                )
            }
            _ => return Ok(()),
        };
        let error = Error::from(Failure::new(ErrorKind::Capacity, message));
        self.say_too_large(&error);
        Err(error)
    }

    fn say_too_large(&self, error: &Error) {
        if !self.too_large_was_said.swap(true, Ordering::Relaxed) {
            tracing::warn!(%error, "not stored, and not said again");
        }
    }

    /// Gives generations the life that entries stored from now on need.
    async fn lengthen(&self, items: &[Item], time_to_live: Duration) -> Result<()> {
        let build = |position: usize, _: u32, about: &About, commands: &mut Vec<MetaCommand>| {
            let expiry = about.time.expiry(self.generation_life(time_to_live), self.clock.now());
            commands.push(commands::touch(&items[position].name, expiry));
        };
        for share in self.ask(Ask::Write, items, build).await {
            share.answers?;
        }
        Ok(())
    }

    /// How long a generation must live for entries of this time to live, and for those of this
    /// process so far.
    fn generation_life(&self, time_to_live: Duration) -> Duration {
        let this = whole_seconds(time_to_live.max(self.default_time_to_live));
        let longest = self.longest_seconds.fetch_max(this, Ordering::Relaxed).max(this);
        Duration::from_secs(longest).saturating_add(FILL_TIME)
    }

    /// Whether a generation with so many seconds left is to live longer. Not at every store: one that
    /// was given its life less than half a [`FILL_TIME`] ago will do.
    fn is_short_lived(&self, server: usize, seconds_left: Option<i64>, time_to_live: Duration) -> bool {
        let Some(left) = seconds_left.and_then(|left| u64::try_from(left).ok()) else {
            // Without an end, or not there.
            return false;
        };
        let mut life = self.generation_life(time_to_live);
        if let Some(time) = self.servers[server].time() {
            // What the server cannot count it was not given, and will not be.
            life = life.min(time.longest(self.clock.now()));
        }
        Duration::from_secs(left) < life.saturating_sub(FILL_TIME / 2)
    }
}

/// Takes the answer to the last item, the lease, out of the shares. If its server is down, whoever asks
/// may as well compute.
fn take_holder(shares: &mut Vec<Share>, lease: usize, request: &LeaseRequest<'_>) -> LeaseHolder {
    let Some(at) = shares.iter().position(|share| share.positions.last() == Some(&lease)) else {
        return LeaseHolder::Ours;
    };
    let share = &mut shares[at];
    share.positions.pop();
    let holder = match &mut share.answers {
        Ok(results) => {
            let (there, add) = (results.pop(), results.pop());
            let is_ours = |there: Answer| there.value.as_deref() == Some(request.owner().as_bytes());
            if add.is_some_and(|add| added(&add)) || there.is_some_and(is_ours) {
                LeaseHolder::Ours
            } else {
                // Or nobody any more, as the next time will show.
                LeaseHolder::Other
            }
        }
        Err(_) => LeaseHolder::Ours,
    };
    if share.positions.is_empty() {
        shares.swap_remove(at);
    }
    holder
}

fn bytes(token: Generation) -> [u8; TOKEN_BYTES] {
    token.get().to_be_bytes()
}

pub(crate) fn generation(value: &[u8]) -> Option<Generation> {
    let token: [u8; TOKEN_BYTES] = value.try_into().ok()?;
    Generation::new(u128::from_be_bytes(token))
}
