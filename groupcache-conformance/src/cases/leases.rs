//! Cases about leases, for stores that grant them and for stores that use the provided methods.

#![expect(clippy::missing_errors_doc, reason = "the error of every case is the broken promise")]

use std::sync::Arc;
use std::time::Duration;

use groupcache_core::backend::{
    CurrentGenerations, GenerationVector, LeaseHolder, LeaseName, LeaseOwner, LeaseRequest, Leased,
};
use groupcache_core::{Backend, Group, Key, Result};
use tokio::sync::Barrier;
use tokio::time::Instant;

use crate::kit::{Kit, Violation, key, promised};

const MINUTE: Duration = Duration::from_secs(60);
const CONCURRENT_REQUESTS: usize = 16;

impl<B: Backend> Kit<B> {
    /// Requests a lease on `key` under the current generations of `groups`.
    async fn lease(&self, key: &Key, groups: &[Group], owner: LeaseOwner) -> Result<Leased, Violation> {
        let current = self.lookup(key, groups).await?.current;
        self.lease_under(&self.backend, key, groups, &current, owner, MINUTE).await
    }

    async fn lease_under(
        &self,
        backend: &B,
        key: &Key,
        groups: &[Group],
        current: &CurrentGenerations,
        owner: LeaseOwner,
        duration: Duration,
    ) -> Result<Leased, Violation> {
        let request = LeaseRequest::new(key, groups, current, owner, duration);
        let request = request.ok_or_else(|| {
            self.violation("a lookup returns a generation, or none, for each group", format!("{current:?}"))
        })?;
        let leased = self.answered("lease", backend.lease(&request).await)?;
        promised!(
            self,
            "a lease returns one generation for each group",
            leased.vector.len() == groups.len(),
            "{} generations for {} groups",
            leased.vector.len(),
            groups.len()
        );
        Ok(leased)
    }

    /// Returns the holder after `owner` requested the lease on `key` under a complete vector.
    async fn holder(
        &self,
        key: &Key,
        vector: &GenerationVector,
        groups: &[Group],
        owner: LeaseOwner,
    ) -> Result<LeaseHolder, Violation> {
        let current = vector.iter().copied().map(Some).collect();
        Ok(self.lease_under(&self.backend, key, groups, &current, owner, MINUTE).await?.holder)
    }
}

/// A lease gives generations to the groups that have none and keeps those of the others.
pub async fn a_lease_completes_the_vector<B: Backend>(kit: &Kit<B>) -> Result<(), Violation> {
    const PROMISE: &str =
        "a lease gives a generation only to groups that have none, and returns all in order";
    let key = key("k");
    let groups = [Group::new("a"), Group::new("b"), Group::new("c"), Group::new("d")];
    // `minted` has the guard, which keeps these generations.
    let minted = kit.mint(&[groups[1].clone(), groups[3].clone()]).await?;
    let known = &minted.vector;
    let before = kit.lookup(&key, &groups).await?;
    let leased = kit.lease(&key, &groups, LeaseOwner::random()).await?;
    let after = kit.lookup(&key, &groups).await?;
    promised!(
        kit,
        PROMISE,
        after.current.equals(&leased.vector)
            && leased.vector[1] == known[0]
            && leased.vector[3] == known[1]
            && before.current[0].is_none(),
        "{:?}; a lookup returns {:?}; before: {known:?}",
        leased.vector,
        after.current
    );
    // No generation of the request is missing. The lease mints nothing, although the groups were bumped.
    kit.bump(&groups).await?;
    let current: CurrentGenerations = leased.vector.iter().copied().map(Some).collect();
    let bumped = kit.lookup(&key, &groups).await?.current;
    let again = kit.lease_under(&kit.backend, &key, &groups, &current, LeaseOwner::random(), MINUTE).await?;
    let unchanged = kit.lookup(&key, &groups).await?.current;
    promised!(
        kit,
        PROMISE,
        again.vector == leased.vector && unchanged == bumped,
        "{:?} for {:?}; the lookup changed from {bumped:?} to {unchanged:?}",
        again.vector,
        leased.vector
    );
    Ok(())
}

/// Of concurrent requests for a lease on the same vector one wins. Its owner may repeat the request.
pub async fn a_lease_has_one_holder<B: Backend>(kit: &Kit<B>) -> Result<(), Violation> {
    let groups = [Group::new("a")];
    for round in 0..10_u8 {
        let key = key(&format!("k{round}"));
        let vector = kit.mint(&groups).await?.vector;
        let owners: Vec<_> = (0..CONCURRENT_REQUESTS).map(|_| LeaseOwner::random()).collect();
        let start = Arc::new(Barrier::new(CONCURRENT_REQUESTS));
        let mut requests = tokio::task::JoinSet::new();
        for owner in owners.clone() {
            let (start, backend) = (Arc::clone(&start), Arc::clone(&kit.backend));
            let (key, groups, vector) = (key.clone(), groups.clone(), vector.clone());
            requests.spawn(async move {
                start.wait().await;
                let current = vector.iter().copied().map(Some).collect();
                let request = LeaseRequest::new(&key, &groups, &current, owner, MINUTE)?;
                Some((owner, backend.lease(&request).await))
            });
        }
        let mut winners = Vec::new();
        for (owner, leased) in requests.join_all().await.into_iter().flatten() {
            if kit.answered("lease", leased)?.holder == LeaseHolder::Ours {
                winners.push(owner);
            }
        }
        // A store of one process grants every request.
        let expected = if kit.expectations.leases { 1 } else { CONCURRENT_REQUESTS };
        promised!(
            kit,
            "a lease has one owner at a time",
            winners.len() == expected,
            "{} of {CONCURRENT_REQUESTS} owners hold it",
            winners.len()
        );
        for owner in owners {
            let holder = kit.holder(&key, &vector, &groups, owner).await?;
            let expected = if winners.contains(&owner) { LeaseHolder::Ours } else { LeaseHolder::Other };
            promised!(
                kit,
                "a repeated request for a lease has the same holder",
                holder == expected,
                "{holder:?} instead of {expected:?}"
            );
        }
    }
    Ok(())
}

/// A lease is free once its owner released it or its duration is over.
pub async fn a_lease_ends<B: Backend>(kit: &Kit<B>) -> Result<(), Violation> {
    /// How often the duration is doubled on a busy machine.
    const ATTEMPTS: u32 = 8;
    if !kit.expects_leases() {
        return Ok(());
    }
    let groups = [Group::new("a")];
    ends_by_release(kit, &groups).await?;
    let mut duration = kit.expectations.resolution.max(Duration::from_millis(10)) * 4;
    for duration in [Duration::from_millis(1), duration] {
        ends_by_time(kit, &groups, duration).await?;
    }
    for _ in 0..ATTEMPTS {
        if ends_by_time_although_requested_again(kit, &groups, duration).await? {
            break;
        }
        duration *= 2;
    }
    Ok(())
}

async fn ends_by_release<B: Backend>(kit: &Kit<B>, groups: &[Group]) -> Result<(), Violation> {
    let key = key("k");
    let (one, other) = (LeaseOwner::random(), LeaseOwner::random());
    let leased = kit.lease(&key, groups, one).await?;
    let name = LeaseName::new(&key, groups, &leased.vector);
    kit.answered("release", kit.backend.release(&name, other).await)?;
    let holder = kit.holder(&key, &leased.vector, groups, other).await?;
    promised!(
        kit,
        "a release does not end the lease of another owner",
        holder == LeaseHolder::Other,
        "{holder:?} holds it after a release by another owner"
    );
    kit.answered("release", kit.backend.release(&name, one).await)?;
    kit.answered("release", kit.backend.release(&name, one).await)?;
    let holder = kit.holder(&key, &leased.vector, groups, other).await?;
    promised!(kit, "a released lease is free", holder == LeaseHolder::Ours, "{holder:?} holds it");
    Ok(())
}

async fn ends_by_time<B: Backend>(
    kit: &Kit<B>,
    groups: &[Group],
    duration: Duration,
) -> Result<(), Violation> {
    let current = fresh_vector(kit, groups).await?;
    request_first(kit, groups, &current, LeaseOwner::random(), duration).await?;
    kit.outlive(duration).await;
    has_ended(kit, groups, &current, duration).await
}

/// Returns false if the owner requested the lease again only after its end, which proves nothing.
async fn ends_by_time_although_requested_again<B: Backend>(
    kit: &Kit<B>,
    groups: &[Group],
    duration: Duration,
) -> Result<bool, Violation> {
    let owner = LeaseOwner::random();
    let current = fresh_vector(kit, groups).await?;
    let began = Instant::now();
    request_first(kit, groups, &current, owner, duration).await?;
    tokio::time::sleep(duration / 2).await;
    kit.lease_under(&kit.backend, &key("k"), groups, &current, owner, duration).await?;
    if began.elapsed() + kit.expectations.resolution >= duration {
        return Ok(false);
    }
    kit.outlive(duration.saturating_sub(began.elapsed())).await;
    has_ended(kit, groups, &current, duration).await?;
    Ok(true)
}

/// Returns generations under which no lease was requested before.
async fn fresh_vector<B: Backend>(kit: &Kit<B>, groups: &[Group]) -> Result<CurrentGenerations, Violation> {
    kit.bump(groups).await?;
    Ok(kit.mint(groups).await?.vector.iter().copied().map(Some).collect())
}

async fn request_first<B: Backend>(
    kit: &Kit<B>,
    groups: &[Group],
    current: &CurrentGenerations,
    owner: LeaseOwner,
    duration: Duration,
) -> Result<(), Violation> {
    let holder = kit.lease_under(&kit.backend, &key("k"), groups, current, owner, duration).await?.holder;
    promised!(
        kit,
        "each key and vector has its own lease",
        holder == LeaseHolder::Ours,
        "{holder:?} holds the one on a new vector"
    );
    Ok(())
}

async fn has_ended<B: Backend>(
    kit: &Kit<B>,
    groups: &[Group],
    current: &CurrentGenerations,
    duration: Duration,
) -> Result<(), Violation> {
    let other = LeaseOwner::random();
    let holder = kit.lease_under(&kit.backend, &key("k"), groups, current, other, duration).await?.holder;
    promised!(
        kit,
        "a lease ends when its duration is over, whether or not its owner requested it again",
        holder == LeaseHolder::Ours,
        "{holder:?} holds one of {duration:?}"
    );
    Ok(())
}

/// A lease of 30 days or more is not shortened.
pub async fn a_long_lease_is_not_shortened<B: Backend>(kit: &Kit<B>) -> Result<(), Violation> {
    if !kit.expects_leases() {
        return Ok(());
    }
    let groups = [Group::new("a")];
    let minted = kit.mint(&groups).await?;
    let current = minted.vector.iter().copied().map(Some).collect();
    for duration in [86_400, 30 * 86_400 + 1, 100 * 86_400].map(Duration::from_secs) {
        let key = key(&format!("{duration:?}"));
        for expected in [LeaseHolder::Ours, LeaseHolder::Other] {
            let owner = LeaseOwner::random();
            let leased = kit.lease_under(&kit.backend, &key, &groups, &current, owner, duration).await?;
            promised!(
                kit,
                "a long lease is not shortened",
                leased.holder == expected,
                "{:?} instead of {expected:?} holds one of {duration:?}",
                leased.holder
            );
        }
    }
    Ok(())
}

/// If another mint wins a generation of the requested vector, no owner is granted the lease.
pub async fn a_lease_on_an_outdated_vector_is_not_granted<B: Backend>(kit: &Kit<B>) -> Result<(), Violation> {
    if !kit.expects_leases() {
        return Ok(());
    }
    let (key, groups) = (key("k"), [Group::new("a"), Group::new("b")]);
    let before = kit.lookup(&key, &groups).await?.current;
    // Another process mints one of the groups first, and another leads the load.
    let minted = kit.mint(&groups[..1]).await?;
    let first = kit.lease(&key, &groups, LeaseOwner::random()).await?;
    let second = kit.lease_under(&kit.backend, &key, &groups, &before, LeaseOwner::random(), MINUTE).await?;
    promised!(
        kit,
        "of several concurrent mints of a group one wins, and all return its generation",
        second.vector == first.vector && first.vector[0] == minted.vector[0],
        "{:?} and {:?}",
        first.vector,
        second.vector
    );
    promised!(
        kit,
        "a lease has one owner at a time",
        first.holder == LeaseHolder::Ours && second.holder != LeaseHolder::Ours,
        "first {:?}, then {:?}",
        first.holder,
        second.holder
    );
    Ok(())
}

/// Each key and vector has its own lease, and so has each key prefix.
pub async fn each_key_and_vector_has_its_own_lease<B: Backend>(kit: &Kit<B>) -> Result<(), Violation> {
    const PROMISE: &str = "each key and vector has its own lease";
    let groups = [Group::new("a"), Group::new("b")];
    let vector = kit.mint(&groups).await?.vector;
    let swapped: GenerationVector = vector.iter().rev().copied().collect();
    for (what, name, vector) in
        [("first", "k", &vector), ("other key", "l", &vector), ("other vector", "k", &swapped)]
    {
        let holder = kit.holder(&key(name), vector, &groups, LeaseOwner::random()).await?;
        promised!(kit, PROMISE, holder == LeaseHolder::Ours, "{holder:?} holds the one on the {what}");
    }
    let current = vector.iter().copied().map(Some).collect();
    let owner = LeaseOwner::random();
    let other = kit.lease_under(&kit.other_prefix, &key("k"), &groups, &current, owner, MINUTE).await?;
    promised!(
        kit,
        PROMISE,
        other.holder == LeaseHolder::Ours,
        "{:?} holds the one under the other key prefix",
        other.holder
    );
    Ok(())
}
