//! Which faults there are, how often each happens, and how often it happened.

use std::collections::HashMap;

/// One kind of fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Fault {
    /// The request is lost: no effect, and an error.
    DropRequest,
    /// The reply is lost: the effect, and an error.
    DropReply,
    /// The operation times out, and its effect happens after later operations have begun.
    Delay,
    /// The request arrives a second time, later.
    Duplicate,
    /// The store has evicted the entry that a lookup wants.
    EvictEntry,
    /// The store has lost a generation, and another process has minted a new one.
    EvictGeneration,
    /// The server restarts with older entries, as another incarnation.
    RollBack,
    /// The store has no memory left: a write has no effect, and an error of kind `Capacity`.
    OutOfMemory,
    /// Only the first half of several groups or requests is processed, and an error.
    PartOfBatch,
    /// One bit of a stored entry has flipped.
    FlipBit,
}

/// Which faults happen, and how often.
///
/// With the same seed, the same sequence of operations suffers the same faults.
///
/// ```
/// use groupcache_conformance::{Fault, FaultPlan};
///
/// // 5 % of the operations are delayed, and 1 % lose their reply.
/// let plan = FaultPlan::new(42).with(Fault::Delay, 50).with(Fault::DropReply, 10);
/// # let _ = plan;
/// ```
#[derive(Debug, Clone)]
#[must_use]
pub struct FaultPlan {
    seed: u64,
    /// Per thousand operations.
    rates: Vec<(Fault, u32)>,
}

/// How often each fault happened.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FaultCounts(HashMap<Fault, u64>);

/// SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, OOPSLA 2014).
///
/// Returns the same numbers in every release, so a seed stays valid.
pub(crate) struct SplitMix(u64);

impl Fault {
    /// All faults.
    pub const ALL: [Self; 10] = [
        Self::DropRequest,
        Self::DropReply,
        Self::Delay,
        Self::Duplicate,
        Self::EvictEntry,
        Self::EvictGeneration,
        Self::RollBack,
        Self::OutOfMemory,
        Self::PartOfBatch,
        Self::FlipBit,
    ];
}

impl FaultPlan {
    /// Makes a plan without faults.
    pub const fn new(seed: u64) -> Self {
        Self { seed, rates: Vec::new() }
    }

    /// Makes a plan in which each fault happens to `per_mille` of a thousand operations.
    pub fn all(seed: u64, per_mille: u32) -> Self {
        Fault::ALL.into_iter().fold(Self::new(seed), |plan, fault| plan.with(fault, per_mille))
    }

    /// Adds a fault that happens to `per_mille` of a thousand operations.
    ///
    /// An operation suffers at most one fault. If the rates add up to more than a thousand, the faults
    /// added last happen less often.
    pub fn with(mut self, fault: Fault, per_mille: u32) -> Self {
        self.rates.push((fault, per_mille));
        self
    }

    pub(crate) const fn seed(&self) -> u64 {
        self.seed
    }

    /// Draws the fault of the next operation, if it suffers one.
    pub(crate) fn draw(&self, random: &mut SplitMix) -> Option<Fault> {
        let mut at = u32::try_from(random.below(1000)).unwrap_or(0);
        for (fault, per_mille) in &self.rates {
            if at < *per_mille {
                return Some(*fault);
            }
            at -= per_mille;
        }
        None
    }
}

impl FaultCounts {
    /// Returns how often `fault` happened.
    #[must_use]
    pub fn count(&self, fault: Fault) -> u64 {
        self.0.get(&fault).copied().unwrap_or(0)
    }

    /// Returns how many faults happened in total.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.0.values().sum()
    }

    pub(crate) fn add(&mut self, fault: Fault) {
        *self.0.entry(fault).or_insert(0) += 1;
    }
}

impl SplitMix {
    pub(crate) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    /// An index below `length`.
    pub(crate) fn index(&mut self, length: usize) -> usize {
        usize::try_from(self.below(length as u64)).unwrap_or(0)
    }
}
