//! Mutants of how tokens are drawn and used. Compiled only with `--cfg groupcache_mutants`; see `mutants.rs`
//! of the core.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use groupcache_core::backend::Minted;
use groupcache_core::mutants::is_on;

use crate::server::{Server, TOKEN_BYTES};

type Token = [u8; TOKEN_BYTES];

/// For each group, the token that one mint sent last, and the incarnation that it was sent to.
#[derive(Default)]
pub(crate) struct Mint(Mutex<BTreeMap<usize, (Server, Token)>>);

impl Mint {
    /// `same_mint_token`: a retry sends the token of the first attempt.
    pub(crate) fn sent(&self, index: usize, server: &Server, fresh: Token) -> Token {
        let mut sent = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let token = match sent.get(&index) {
            Some((_, first)) if is_on("same_mint_token") => *first,
            _ => fresh,
        };
        sent.insert(index, (server.clone(), token));
        token
    }

    /// `unacknowledged_mint`: the tokens that were sent count as minted without a reply.
    pub(crate) fn unacknowledged(&self, groups: usize) -> Option<Minted> {
        let sent = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        let vector =
            sent.values().map(|(server, token)| server.generation(token)).collect::<Option<Vec<_>>>()?;
        (is_on("unacknowledged_mint") && vector.len() == groups)
            .then(|| Minted::new(vector.into_iter().collect()))
    }
}
