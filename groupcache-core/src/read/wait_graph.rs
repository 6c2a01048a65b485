//! Which load waits for which, so that no load waits for itself.
//!
//! A node is a flight, or a load without one. An edge leads from a load to what it cannot end without: a
//! flight that a read inside the load waits for, or a load that such a read has begun. Load contexts know
//! the node of their load, so a load in another task of the application is known only if that task has the
//! context.

use std::fmt;
use std::sync::Arc;

use crate::sync::Mutex;

/// A load, and what it waits for.
pub(crate) struct WaitNode {
    waits_for: Mutex<Vec<Arc<Self>>>,
}

/// An edge of the graph, until it is dropped.
#[derive(Debug)]
pub(crate) struct WaitEdge {
    from: Arc<WaitNode>,
    to: Arc<WaitNode>,
}

impl WaitNode {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self { waits_for: Mutex::new(Vec::new()) })
    }

    /// Notes that this load cannot end before `other` does.
    pub(crate) fn needs(self: &Arc<Self>, other: &Arc<Self>) -> WaitEdge {
        self.waits_for.lock().push(Arc::clone(other));
        WaitEdge { from: Arc::clone(self), to: Arc::clone(other) }
    }

    /// Notes that this load waits for `other`, or returns `None` if `other` waits for this load.
    ///
    /// The edge is there before the search begins. Of two loads that begin to wait for each other at the same
    /// time, at least one finds the cycle.
    pub(crate) fn wait_for(self: &Arc<Self>, other: &Arc<Self>) -> Option<WaitEdge> {
        let edge = self.needs(other);
        #[cfg(groupcache_mutants)]
        if crate::mutants::is_on("unseen_cycle") {
            return Some(edge);
        }
        (!other.reaches(self)).then_some(edge)
    }

    fn reaches(self: &Arc<Self>, goal: &Arc<Self>) -> bool {
        let mut seen = vec![Arc::clone(self)];
        let mut at = 0;
        while let Some(node) = seen.get(at).map(Arc::clone) {
            if Arc::ptr_eq(&node, goal) {
                return true;
            }
            let next = node.waits_for.lock().clone();
            let unseen = next.into_iter().filter(|next| !seen.iter().any(|seen| Arc::ptr_eq(seen, next)));
            let unseen: Vec<_> = unseen.collect();
            seen.extend(unseen);
            at += 1;
        }
        false
    }
}

impl Drop for WaitEdge {
    fn drop(&mut self) {
        let mut waits_for = self.from.waits_for.lock();
        let at = waits_for.iter().position(|other| Arc::ptr_eq(other, &self.to));
        let removed = at.map(|at| waits_for.swap_remove(at));
        // Outside the lock: the node may be the last one of a chain.
        drop(waits_for);
        drop(removed);
    }
}

impl fmt::Debug for WaitNode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Nodes may refer to each other.
        f.debug_struct("WaitNode").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cycle_is_found_wherever_it_closes_and_gone_with_one_of_its_edges() {
        let [a, b, c] = [(); 3].map(|()| WaitNode::new());
        assert!(a.wait_for(&a).is_none());
        let ab = a.wait_for(&b).unwrap();
        let _bc = b.wait_for(&c).unwrap();
        assert!(c.wait_for(&a).is_none() && c.wait_for(&b).is_none() && b.wait_for(&a).is_none());
        drop(ab);
        let _ca = c.wait_for(&a).unwrap();
        assert!(a.wait_for(&b).is_none());
    }

    #[test]
    fn each_of_equal_edges_counts() {
        let [a, b] = [(); 2].map(|()| WaitNode::new());
        let [one, other] = [(); 2].map(|()| a.needs(&b));
        drop(one);
        assert!(b.wait_for(&a).is_none());
        drop(other);
        assert!(b.wait_for(&a).is_some());
        assert!(a.waits_for.lock().is_empty() && b.waits_for.lock().is_empty());
    }
}
