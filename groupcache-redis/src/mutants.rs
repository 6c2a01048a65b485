//! Deliberate mistakes about tokens; see `mutants.rs` of the core. Only there with
//! `--cfg groupcache_mutants`.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use groupcache_core::backend::Minted;
use groupcache_core::mutants::is_on;

use crate::server::{Server, TOKEN_BYTES};

type Token = [u8; TOKEN_BYTES];

/// What one mint has sent so far for each group, and to which life of which server.
#[derive(Default)]
pub(crate) struct Mint(Mutex<BTreeMap<usize, (Server, Token)>>);

impl Mint {
    /// `same_mint_token`: what is sent again is sent with the token of the first time.
    pub(crate) fn sent(&self, at: usize, server: &Server, fresh: Token) -> Token {
        let mut sent = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let token = match sent.get(&at) {
            Some((_, first)) if is_on("same_mint_token") => *first,
            _ => fresh,
        };
        sent.insert(at, (server.clone(), token));
        token
    }

    /// `unacknowledged_mint`: what was sent is taken for what is there.
    pub(crate) fn unacknowledged(&self, groups: usize) -> Option<Minted> {
        let sent = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        let vector =
            sent.values().map(|(server, token)| server.generation(token)).collect::<Option<Vec<_>>>()?;
        (is_on("unacknowledged_mint") && vector.len() == groups)
            .then(|| Minted::new(vector.into_iter().collect()))
    }
}
