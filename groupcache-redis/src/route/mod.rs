//! The way to the server of a key: the only server that there is, or the node of a cluster that owns its
//! slot.

use std::sync::Arc;

use groupcache_core::backend::SharedReads;
use redis::Pipeline;

use crate::connection::Connection;
use crate::error::Failure;
use crate::route::cluster::Cluster;
use crate::route::node::{Node, Part, RequestKind, Response};
use crate::route::reads::{NodeReads, ReadMode};
use crate::server::Server;

pub(crate) mod cluster;
mod connector;
mod left_servers;
pub(crate) mod member;
#[cfg(groupcache_mutants)]
mod mutants;
pub(crate) mod node;
mod progress;
pub(crate) mod reads;
mod sentinel;
mod topology;

pub(crate) enum Route {
    Node(SingleNode),
    Cluster(Cluster),
}

/// The only server that there is.
pub(crate) struct SingleNode {
    node: Node,
    pub(crate) reads: Arc<SharedReads<NodeReads>>,
}

impl Route {
    pub(crate) fn to_node(node: Node) -> Self {
        let reads = NodeReads::shared(node.connector.clone(), ReadMode::Together);
        Self::Node(SingleNode { node, reads })
    }

    /// Sends the commands that `compose` adds for each of the keys `names`, all at the same time, and returns
    /// the responses in order. Costs one round trip, and in a cluster one more for keys whose slot has moved.
    ///
    /// `compose` receives the index of the key and the server. It runs for each attempt, so that no token is
    /// sent twice.
    pub(crate) async fn send<X: Send>(
        &self,
        kind: RequestKind,
        names: &[Vec<u8>],
        compose: impl Fn(usize, &Server, &mut Pipeline) -> X + Send + Sync,
    ) -> Result<Vec<Response<X>>, Failure> {
        match self {
            Self::Node(SingleNode { node, .. }) => {
                let part = |index| Part { index, redirected: false, importing: false };
                let parts: Vec<_> = (0..names.len()).map(part).collect();
                node.send(kind, &parts, &compose).await
            }
            Self::Cluster(cluster) => cluster.send(kind, names, &compose).await.into_iter().collect(),
        }
    }

    /// Returns a connection to the server of each of `names`, as far as the topology is known.
    pub(crate) async fn connections_for(&self, names: &[Vec<u8>]) -> Result<Vec<Arc<Connection>>, Failure> {
        let mut connections = Vec::with_capacity(names.len());
        match self {
            Self::Node(SingleNode { node, .. }) => {
                let connection = node.connector.connection().await?;
                connections.resize(names.len(), connection);
            }
            Self::Cluster(cluster) => {
                for name in names {
                    connections.push(cluster.node_of(name).await?.connector.connection().await?);
                }
            }
        }
        Ok(connections)
    }

    /// Returns a connection to each server.
    pub(crate) async fn all_connections(&self) -> Result<Vec<Arc<Connection>>, Failure> {
        match self {
            Self::Node(SingleNode { node, .. }) => Ok(vec![node.connector.connection().await?]),
            Self::Cluster(cluster) => {
                let mut connections = Vec::new();
                for node in cluster.nodes().await? {
                    connections.push(node.connector.connection().await?);
                }
                Ok(connections)
            }
        }
    }

    /// Returns whether the circuit breaker of a cluster node is open.
    pub(crate) fn is_circuit_open(&self) -> bool {
        match self {
            Self::Node(_) => false,
            Self::Cluster(cluster) => cluster.is_circuit_open(),
        }
    }

    pub(crate) fn waits_for_replicas(&self) -> bool {
        match self {
            Self::Node(SingleNode { node, .. }) => node.waits_for_replicas(),
            Self::Cluster(cluster) => cluster.waits_for_replicas(),
        }
    }
}
