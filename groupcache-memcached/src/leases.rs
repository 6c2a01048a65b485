//! Leases on loads.
//!
//! A lease is an item whose value is its owner. It does not use the protocol's own lease flags (vivify, win
//! and stale), for two reasons. They report once that a request has won, and never again who holds the
//! lease, while an owner may request its lease repeatedly. And they replace a stale entry by an empty item,
//! while conditional requests still need the stale entry.

use groupcache_core::Result;
use groupcache_core::backend::{Generation, LeaseHolder, LeaseName, LeaseOwner, LeaseRequest, Leased};
use memcache::exp::{MetaCommand, MetaCommandResult as Response};

use crate::commands;
use crate::error::Failure;
use crate::handshake::ServerInfo;
use crate::server::RequestKind;
use crate::servers::{ServerResponses, Servers};

impl Servers {
    /// Mints the missing groups of `request`, and adds the lease under the vector that comes out if the
    /// proposed generations win.
    pub(crate) async fn lease(&self, request: &LeaseRequest<'_>) -> Result<Leased> {
        let mut items: Vec<_> = request.missing().map(|group| self.placement.generation(group)).collect();
        let proposals: Vec<_> = items.iter().map(|_| Generation::random()).collect();
        let expected = request.vector(proposals.iter().copied());
        let expected =
            expected.ok_or_else(|| Failure::protocol("the lease request has no complete vector"))?;
        items.push(self.placement.lease(&request.name(&expected)));
        let push_commands =
            |position: usize, attempt: u32, info: &ServerInfo, commands: &mut Vec<MetaCommand>| {
                let item = &items[position];
                match proposals.get(position) {
                    // A second attempt must not repeat the proposals. It results in another vector, and
                    // the holder of that lease is unknown.
                    Some(proposal) => {
                        let generation = if attempt == 0 { *proposal } else { Generation::random() };
                        self.push_mint(item, generation, info, commands);
                    }
                    None => {
                        let expiry = info.time.expiry(request.duration(), self.settings.clock.now());
                        commands.push(commands::add(&item.name, request.owner().as_bytes(), expiry));
                        commands.push(commands::get(&item.name));
                    }
                }
            };
        let mut servers = self.send(RequestKind::Write, &items, push_commands).await;
        let holder = take_holder(&mut servers, proposals.len(), request.owner());
        let minted = self.minted(&items[..proposals.len()], servers).await?;
        let vector = request.vector(minted).ok_or_else(|| Failure::unexpected("ms, mg"))?;
        let holder = if vector == expected { holder } else { LeaseHolder::Unknown };
        Ok(Leased::new(vector, holder))
    }

    /// Deletes the lease if `owner` holds it. The deletion compares the CAS number, so that it cannot hit
    /// a lease that another owner added meanwhile.
    pub(crate) async fn release(&self, lease: &LeaseName, owner: LeaseOwner) -> Result<()> {
        let item = self.placement.lease(lease);
        let server = &self.all[item.server];
        let get = |_: u32, _: &ServerInfo, commands: &mut Vec<MetaCommand>| {
            commands.push(commands::get_with_cas(&item.name));
        };
        let responses = server.send(RequestKind::Read, get).await?;
        let own = responses.first().filter(|response| has_owner(response, owner));
        let Some(cas) = own.and_then(|response| response.cas) else { return Ok(()) };
        let delete = |_: u32, _: &ServerInfo, commands: &mut Vec<MetaCommand>| {
            commands.push(commands::delete_if_unchanged(&item.name, cas));
        };
        server.send(RequestKind::Write, delete).await.map(drop)
    }
}

/// Removes the responses to the last item, the lease at position `lease`, and returns its holder.
///
/// If the server of the lease is down, the holder is the owner that requested it: waiting for the lease
/// would be in vain.
fn take_holder(servers: &mut Vec<ServerResponses>, lease: usize, owner: LeaseOwner) -> LeaseHolder {
    let Some(at) = servers.iter().position(|server| server.positions.last() == Some(&lease)) else {
        return LeaseHolder::Ours;
    };
    let server = &mut servers[at];
    server.positions.pop();
    let holder = match &mut server.responses {
        Ok(responses) => {
            let (get, add) = (responses.pop(), responses.pop());
            let is_added = add.is_some_and(|add| commands::was_added(&add));
            if is_added || get.is_some_and(|get| has_owner(&get, owner)) {
                LeaseHolder::Ours
            } else {
                // Or the lease has expired between the two commands, which the next request will show.
                LeaseHolder::Other
            }
        }
        Err(_) => LeaseHolder::Ours,
    };
    if server.positions.is_empty() {
        servers.swap_remove(at);
    }
    holder
}

fn has_owner(response: &Response, owner: LeaseOwner) -> bool {
    response.value.as_deref() == Some(owner.as_bytes())
}
