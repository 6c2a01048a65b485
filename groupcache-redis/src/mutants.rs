//! Deliberate mistakes about tokens; see `mutants.rs` of the core. Only there with
//! `--cfg groupcache_mutants`.

use std::sync::{Mutex, PoisonError};

use groupcache_core::mutants::is_on;
use groupcache_core::{Hold, Minted};

use crate::server::{Server, TOKEN_BYTES};

type Tokens = Vec<[u8; TOKEN_BYTES]>;

/// What one mint has sent so far, and to which life of which server.
#[derive(Default)]
pub(crate) struct Mint(Mutex<Option<(Server, Tokens)>>);

impl Mint {
    /// `same_mint_token`: what is sent again is sent with the tokens of the first time.
    pub(crate) fn sent(&self, server: &Server, fresh: Tokens) -> Tokens {
        let mut sent = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let tokens = match &*sent {
            Some((_, first)) if is_on("same_mint_token") => first.clone(),
            _ => fresh,
        };
        *sent = Some((server.clone(), tokens.clone()));
        tokens
    }

    /// `unacknowledged_mint`: what was sent is taken for what is there.
    pub(crate) fn unacknowledged(&self) -> Option<Minted> {
        let (server, tokens) = self.0.lock().unwrap_or_else(PoisonError::into_inner).take()?;
        let vector = tokens.iter().map(|token| server.generation(token)).collect::<Option<Vec<_>>>()?;
        is_on("unacknowledged_mint")
            .then(|| Minted { vector: vector.into_iter().collect(), hold: Hold::none() })
    }
}
