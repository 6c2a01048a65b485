//! The effect of messages, and the verdict on an entry.

use crate::protocol::{Protocol, Steps};
use crate::state::{
    AUTHOR, BOOK, Data, Entry, GROUPS, Generation, Generations, LookupGroups, Message, PerGroup, State, Token,
};
use crate::variants::Variant;

pub(crate) enum Verdict {
    Hit(Data),
    Miss,
    MoreGroups,
}

impl Protocol {
    pub(crate) fn deliver(&self, state: &mut State, at: usize) {
        match state.network.remove(at) {
            Message::Bump { writer, executed: true, .. } => self.bump_acknowledged(state, writer),
            Message::Bump { writer, group, waits, redirected: false, token, .. }
                if state.is_redirected(group) =>
            {
                let bump = Message::Bump { writer, group, waits, redirected: true, executed: false, token };
                state.network.push(bump);
            }
            // The migration was cancelled: redirected once more, to the store.
            Message::Bump { writer, group, waits, redirected: true, token, .. }
                if !state.target.importing =>
            {
                let bump = Message::Bump { writer, group, waits, redirected: false, executed: false, token };
                state.network.push(bump);
            }
            Message::Bump { writer, group, waits, redirected, token, .. } => {
                let there = match redirected {
                    true => &mut state.target.token,
                    false => &mut state.store.tokens[group],
                };
                // A bump gives no generation to a group that has none.
                if let Some(there) = there {
                    *there = if self.variant == Variant::SmallCounter { *there + 1 } else { token };
                }
                if waits && self.bounds.steps == Steps::Coarse {
                    self.bump_acknowledged(state, writer);
                } else if waits {
                    let executed = true;
                    state.network.push(Message::Bump { writer, group, waits, redirected, executed, token });
                }
            }
            Message::Mint { reader, sent, mut got } => {
                if let Some(group) = (0..GROUPS).find(|group| sent[*group].is_some() && got[*group].is_none())
                {
                    if state.is_redirected(group) {
                        state.target.token = state.target.token.or(sent[group]);
                        if self.variant != Variant::AskCounts {
                            // Refused, so what is computed is not stored.
                            return reader.into_iter().for_each(|reader| self.cancel_mint(state, reader));
                        }
                    } else {
                        state.store.tokens[group] = state.store.tokens[group].or(sent[group]);
                    }
                    got[group] = self.current(state)[group];
                    if !has_all(&sent, &got) || reader.is_some() && self.bounds.steps == Steps::Fine {
                        state.network.push(Message::Mint { reader, sent, got });
                        return;
                    }
                }
                if let Some(reader) = reader {
                    self.minted(state, reader, got);
                }
            }
            Message::Store(entry) => self.store(state, entry),
        }
    }

    pub(crate) fn store(&self, state: &mut State, entry: Entry) {
        if self.variant == Variant::LateGenerationsConditional && !is_current(&entry, &self.current(state)) {
            return;
        }
        state.store.entry = Some(entry);
    }

    pub(crate) fn current(&self, state: &State) -> Generations {
        let mut tokens = state.store.tokens;
        if self.variant == Variant::AskCounts && state.is_redirected(BOOK) {
            tokens[BOOK] = state.target.token;
        }
        tokens.map(|token| token.map(|token| self.generation(state, token)))
    }

    pub(crate) fn generation(&self, state: &State, token: Token) -> Generation {
        Generation { token, incarnation: state.incarnation }
    }

    /// The generations, at this late moment, of the groups whose data was read.
    pub(crate) fn minted_now(&self, state: &mut State, data: Data) -> Generations {
        let missing =
            [BOOK, AUTHOR].map(|group| data[group].is_some() && state.store.tokens[group].is_none());
        let fresh = self.tokens(state, missing);
        for (there, fresh) in state.store.tokens.iter_mut().zip(fresh) {
            *there = there.or(fresh);
        }
        let now = self.current(state);
        [BOOK, AUTHOR].map(|group| now[group].filter(|_| data[group].is_some()))
    }

    /// Fresh tokens for a mint.
    pub(crate) fn tokens(&self, state: &mut State, wanted: PerGroup<bool>) -> PerGroup<Option<Token>> {
        let fresh = state.fresh_token();
        let tokens = if self.variant == Variant::SmallCounter { [1, 1] } else { [fresh, fresh + 1] };
        [BOOK, AUTHOR].map(|group| wanted[group].then_some(tokens[group]))
    }
}

impl State {
    /// Whether the store redirects to where the slot of a group is moving.
    pub(crate) fn is_redirected(&self, group: usize) -> bool {
        group == BOOK && self.target.importing && self.store.tokens[BOOK].is_none()
    }
}

/// Whether an entry is a hit for a lookup of these groups.
pub(crate) fn judge(entry: Option<&Entry>, groups: LookupGroups, current: &Generations) -> Verdict {
    let Some(entry) = entry else { return Verdict::Miss };
    if entry.vector[BOOK] != current[BOOK] {
        return Verdict::Miss;
    }
    match entry.vector[AUTHOR] {
        None => Verdict::Hit(entry.data),
        Some(_) if groups == LookupGroups::Named => Verdict::MoreGroups,
        author if author == current[AUTHOR] => Verdict::Hit(entry.data),
        Some(_) => Verdict::Miss,
    }
}

/// Whether each group of this entry still has the generation of the entry.
pub(crate) fn is_current(entry: &Entry, current: &Generations) -> bool {
    entry.vector.iter().zip(current).all(|(stored, current)| stored.is_none() || stored == current)
}

pub(crate) fn has_all(sent: &PerGroup<Option<Token>>, got: &Generations) -> bool {
    sent.iter().zip(got).all(|(sent, got)| sent.is_some() == got.is_some())
}
