//! The cases on leases: what a store that gives them promises, and what one that does not.

// As of the other cases: each breaks off with the promise that is broken.
#![expect(clippy::missing_errors_doc, reason = "see above")]

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Barrier;

use super::kit::{Kit, Violation, key, promised};
use groupcache_core::Backend;
use groupcache_core::Group;
use groupcache_core::Key;
use groupcache_core::Result;
use groupcache_core::backend::CurrentGenerations;
use groupcache_core::backend::GenerationVector;
use groupcache_core::backend::{LeaseHolder, LeaseName, LeaseOwner, LeaseRequest, Leased};

const MINUTE: Duration = Duration::from_secs(60);
const ASKING_AT_ONCE: usize = 16;

impl<B: Backend> Kit<B> {
    /// Asks for a lease on `key` under what a lookup says of `groups` now.
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
            self.violation("a lookup tells of each group that was asked for", format!("{current:?}"))
        })?;
        let leased = self.answered("lease", backend.lease(&request).await)?;
        promised!(
            self,
            "a lease tells one generation for each group",
            leased.vector.len() == groups.len(),
            "{} generations for {} groups",
            leased.vector.len(),
            groups.len()
        );
        Ok(leased)
    }

    /// The lease on `key` under a complete vector, asked for by `owner`.
    async fn holder(
        &self,
        key: &Key,
        vector: &GenerationVector,
        groups: &[Group],
        owner: LeaseOwner,
    ) -> Held {
        let current = vector.iter().copied().map(Some).collect();
        Ok(self.lease_under(&self.backend, key, groups, &current, owner, MINUTE).await?.holder)
    }
}

type Held = Result<LeaseHolder, Violation>;

/// A lease gives generations to the groups that have none and keeps those of the others.
pub async fn a_lease_completes_the_vector<B: Backend>(kit: &Kit<B>) -> Result<(), Violation> {
    let key = key("k");
    let groups = [Group::new("a"), Group::new("b"), Group::new("c"), Group::new("d")];
    // With its hold, which keeps them.
    let minted = kit.mint(&[groups[1].clone(), groups[3].clone()]).await?;
    let known = &minted.vector;
    let before = kit.lookup(&key, &groups).await?;
    let leased = kit.lease(&key, &groups, LeaseOwner::random()).await?;
    let after = kit.lookup(&key, &groups).await?;
    promised!(
        kit,
        "a lease gives a generation only to groups that have none, and tells all of them in order",
        after.current.equals(&leased.vector)
            && leased.vector[1] == known[0]
            && leased.vector[3] == known[1]
            && before.current[0].is_none(),
        "told {:?}; a lookup finds {:?}; known before: {known:?}",
        leased.vector,
        after.current
    );
    // Nothing is missing: nothing is minted, whatever has become of the groups.
    kit.bump(&groups).await?;
    let current: CurrentGenerations = leased.vector.iter().copied().map(Some).collect();
    let bumped = kit.lookup(&key, &groups).await?.current;
    let again = kit.lease_under(&kit.backend, &key, &groups, &current, LeaseOwner::random(), MINUTE).await?;
    let unchanged = kit.lookup(&key, &groups).await?.current;
    promised!(
        kit,
        "a lease gives a generation only to groups that have none, and tells all of them in order",
        again.vector == leased.vector && unchanged == bumped,
        "told {:?} for {:?}; the lookup changed from {bumped:?} to {unchanged:?}",
        again.vector,
        leased.vector
    );
    Ok(())
}

/// Concurrent requests for a lease on the same vector have one winner; its owner may ask again.
pub async fn a_lease_has_one_holder<B: Backend>(kit: &Kit<B>) -> Result<(), Violation> {
    let groups = [Group::new("a")];
    for round in 0..10_u8 {
        let key = key(&format!("k{round}"));
        let vector = kit.mint(&groups).await?.vector;
        let owners: Vec<_> = (0..ASKING_AT_ONCE).map(|_| LeaseOwner::random()).collect();
        let start = Arc::new(Barrier::new(ASKING_AT_ONCE));
        let mut asking = tokio::task::JoinSet::new();
        for owner in owners.clone() {
            let (start, backend) = (Arc::clone(&start), Arc::clone(&kit.backend));
            let (key, groups, vector) = (key.clone(), groups.clone(), vector.clone());
            asking.spawn(async move {
                start.wait().await;
                let current = vector.iter().copied().map(Some).collect();
                let request = LeaseRequest::new(&key, &groups, &current, owner, MINUTE)?;
                Some((owner, backend.lease(&request).await))
            });
        }
        let mut winners = Vec::new();
        for (owner, leased) in asking.join_all().await.into_iter().flatten() {
            if kit.answered("lease", leased)?.holder == LeaseHolder::Ours {
                winners.push(owner);
            }
        }
        // A store of one process has nobody to keep away.
        let expected = if kit.expectations.leases { 1 } else { ASKING_AT_ONCE };
        promised!(
            kit,
            "a lease has one owner at a time",
            winners.len() == expected,
            "{} of {ASKING_AT_ONCE} owners have it",
            winners.len()
        );
        for owner in owners {
            let holder = kit.holder(&key, &vector, &groups, owner).await?;
            let expected = if winners.contains(&owner) { LeaseHolder::Ours } else { LeaseHolder::Other };
            promised!(
                kit,
                "who asks for a lease again is told the same",
                holder == expected,
                "{holder:?} instead of {expected:?}"
            );
        }
    }
    Ok(())
}

/// A lease is free again once its owner released it or its time is over, whatever its owner does.
pub async fn a_lease_ends<B: Backend>(kit: &Kit<B>) -> Result<(), Violation> {
    if !kit.expectations.leases {
        return Ok(());
    }
    let (key, groups) = (key("k"), [Group::new("a")]);
    let (one, other) = (LeaseOwner::random(), LeaseOwner::random());
    let leased = kit.lease(&key, &groups, one).await?;
    let name = LeaseName::new(&key, &groups, &leased.vector);
    kit.answered("release", kit.backend.release(&name, other).await)?;
    let holder = kit.holder(&key, &leased.vector, &groups, other).await?;
    promised!(
        kit,
        "a release takes away nobody else's lease",
        holder == LeaseHolder::Other,
        "{holder:?} has it after a release by one who had not"
    );
    kit.answered("release", kit.backend.release(&name, one).await)?;
    kit.answered("release", kit.backend.release(&name, one).await)?;
    let holder = kit.holder(&key, &leased.vector, &groups, other).await?;
    let ours = LeaseHolder::Ours;
    promised!(kit, "a lease that was released is free", holder == ours, "{holder:?} has it");
    // Leases that nobody releases, each under a vector of its own.
    let resolution = kit.expectations.resolution;
    let duration = resolution.max(Duration::from_millis(10)) * 4;
    for (duration, asked_again) in [(Duration::from_millis(1), false), (duration, false), (duration, true)] {
        kit.bump(&groups).await?;
        let minted = kit.mint(&groups).await?;
        let current = minted.vector.iter().copied().map(Some).collect();
        let ask = async |owner| {
            Ok(kit.lease_under(&kit.backend, &key, &groups, &current, owner, duration).await?.holder)
        };
        let holder = ask(one).await?;
        promised!(
            kit,
            "each key and each vector has a lease of its own",
            holder == ours,
            "{holder:?} has the one on a vector that is new"
        );
        if asked_again {
            tokio::time::sleep(duration / 2).await;
            ask(one).await?;
            kit.outlive(duration / 2).await;
        } else {
            kit.outlive(duration).await;
        }
        let holder = ask(other).await?;
        promised!(
            kit,
            "a lease is free once its time is over, whether or not its owner asked again",
            holder == ours,
            "{holder:?} has one that lasts {duration:?} (asked for again: {asked_again})"
        );
    }
    Ok(())
}

/// A lease that lasts long is not cut short.
pub async fn a_long_lease_lasts<B: Backend>(kit: &Kit<B>) -> Result<(), Violation> {
    if !kit.expectations.leases {
        return Ok(());
    }
    let groups = [Group::new("a")];
    let minted = kit.mint(&groups).await?;
    let current = minted.vector.iter().copied().map(Some).collect();
    for duration in [86_400, 30 * 86_400 + 1, 100 * 86_400].map(Duration::from_secs) {
        let key = key(&format!("{duration:?}"));
        for expected in [LeaseHolder::Ours, LeaseHolder::Other] {
            let owner = LeaseOwner::random();
            let asked = kit.lease_under(&kit.backend, &key, &groups, &current, owner, duration).await?;
            promised!(
                kit,
                "a long lease is not cut short",
                asked.holder == expected,
                "{:?} instead of {expected:?} has one of {duration:?}",
                asked.holder
            );
        }
    }
    Ok(())
}

/// Asked for under a vector that did not come out, a lease is not said to be anybody's.
pub async fn a_lease_on_a_vector_that_did_not_come_out_is_nobodys<B: Backend>(
    kit: &Kit<B>,
) -> Result<(), Violation> {
    if !kit.expectations.leases {
        return Ok(());
    }
    let (key, groups) = (key("k"), [Group::new("a"), Group::new("b")]);
    let before = kit.lookup(&key, &groups).await?.current;
    // Somebody else is the first to give one of them a generation, and the first to compute.
    let minted = kit.mint(&groups[..1]).await?;
    let first = kit.lease(&key, &groups, LeaseOwner::random()).await?;
    let second = kit.lease_under(&kit.backend, &key, &groups, &before, LeaseOwner::random(), MINUTE).await?;
    promised!(
        kit,
        "of several concurrent mints of a group one wins, and all return the winner's generation",
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

/// Each key and each vector has a lease of its own, and so has each name space.
pub async fn leases_never_meet<B: Backend>(kit: &Kit<B>) -> Result<(), Violation> {
    let groups = [Group::new("a"), Group::new("b")];
    let vector = kit.mint(&groups).await?.vector;
    let swapped: GenerationVector = vector.iter().rev().copied().collect();
    for (what, name, vector) in
        [("first", "k", &vector), ("other key", "l", &vector), ("other vector", "k", &swapped)]
    {
        let holder = kit.holder(&key(name), vector, &groups, LeaseOwner::random()).await?;
        promised!(
            kit,
            "each key and each vector has a lease of its own",
            holder == LeaseHolder::Ours,
            "{holder:?} has the one on the {what}"
        );
    }
    let current = vector.iter().copied().map(Some).collect();
    let owner = LeaseOwner::random();
    let elsewhere = kit.lease_under(&kit.elsewhere, &key("k"), &groups, &current, owner, MINUTE).await?;
    promised!(
        kit,
        "each key and each vector has a lease of its own",
        elsewhere.holder == LeaseHolder::Ours,
        "{:?} has the one in another name space",
        elsewhere.holder
    );
    Ok(())
}
