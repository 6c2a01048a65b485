//! The servers that an address led away from, to notice when it leads to one of them again.
//!
//! While the address led elsewhere, invalidations went elsewhere. A server that was neither restarted nor
//! demoted in the meantime would bring back entries that were invalidated.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use groupcache_core::ErrorKind;

use crate::error::Failure;
use crate::server::Server;

/// What one process knows about the servers at one address.
#[derive(Default)]
pub(crate) struct LeftServers(Mutex<State>);

#[derive(Default)]
struct State {
    in_use: Option<Server>,
    left: VecDeque<Server>,
}

impl LeftServers {
    /// Records that a connection to `server` is used from now on. Fails if the address led to the server in the
    /// same incarnation before, and to another one in between.
    pub(crate) fn enter(&self, server: &Server) -> Result<(), Failure> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_back = state.left.contains(server);
        #[cfg(groupcache_mutants)]
        let is_back = is_back && !groupcache_core::mutants::is_on("returned_primary");
        if is_back {
            let message = "the address led to this server before, then elsewhere, and now leads here again, but \
                           the server was neither restarted nor demoted and may lack invalidations";
            return Err(Failure::new(ErrorKind::Configuration, message));
        }
        if let Some(left) = state.in_use.replace(server.clone())
            && left != *server
        {
            state.left.truncate(LEFT_MAX - 1);
            state.left.push_front(left);
        }
        Ok(())
    }
}

/// The number of servers that are remembered.
const LEFT_MAX: usize = 16;
