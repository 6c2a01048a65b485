//! The topology of a cluster: which node owns which slot.
//!
//! See <https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/>.

use groupcache_core::ErrorKind;
use redis::{Cmd, ConnectionAddr, ConnectionInfo, Value};

use crate::connection::{Connection, Request, open};
use crate::error::Failure;
use crate::permissions;
use crate::server::NOT_A_CLUSTER;
use crate::settings::ConnectionSettings;

/// Host and port of a node.
pub(crate) type Address = (String, u16);

/// The owner of each slot, as one node reported it.
pub(crate) struct Topology {
    pub(crate) primaries: Vec<Address>,
    /// For each slot an index into `primaries`.
    owners: Vec<Option<usize>>,
}

impl Topology {
    /// Queries a node that is connected. Returns `None` if its reply is of no use.
    pub(crate) async fn query(connection: &Connection, host: &str) -> Option<Self> {
        let replies = connection.send(&Request::Command(cluster_slots())).await.ok()?;
        Self::parse(replies.first()?, host)
    }

    /// Connects to a node and queries it.
    pub(crate) async fn query_seed(
        settings: &ConnectionSettings,
        seed: &ConnectionInfo,
    ) -> Result<Self, Failure> {
        let mut connection = open(settings, seed.clone()).await?;
        let reply = connection.send_packed_command(&cluster_slots()).await?.extract_error();
        let reply = reply.map_err(|error| match error.code() {
            Some("ERR") => Failure::new(ErrorKind::Configuration, NOT_A_CLUSTER),
            _ => permissions::explain("CLUSTER SLOTS", error),
        })?;
        let (ConnectionAddr::Tcp(host, _) | ConnectionAddr::TcpTls { host, .. }) = seed.addr() else {
            return Err(Failure::new(ErrorKind::Configuration, "a cluster has no socket files"));
        };
        Self::parse(&reply, host)
            .ok_or_else(|| Failure::new(ErrorKind::Unavailable, "it knows no node that owns a slot"))
    }

    /// Returns the node that owns the slot of a key.
    pub(crate) fn owner(&self, name: &[u8]) -> Result<&Address, Failure> {
        let owner = self.owners[usize::from(slot(name))].and_then(|index| self.primaries.get(index));
        owner.ok_or_else(|| Failure::new(ErrorKind::Unavailable, "no node of the cluster owns the slot"))
    }

    /// Parses the reply to `CLUSTER SLOTS`: ranges of first slot, last slot, primary, replicas. Returns
    /// `None` if no node owns a slot.
    ///
    /// A node that does not know its own host is at `queried_host`.
    fn parse(reply: &Value, queried_host: &str) -> Option<Self> {
        let Value::Array(ranges) = reply else { return None };
        let mut topology = Self { primaries: Vec::new(), owners: vec![None; usize::from(SLOTS)] };
        for range in ranges {
            let Value::Array(range) = range else { return None };
            let [Value::Int(first), Value::Int(last), Value::Array(primary), ..] = range.as_slice() else {
                return None;
            };
            let [host, Value::Int(port), ..] = primary.as_slice() else { return None };
            let host = match host {
                Value::BulkString(host) if !host.is_empty() => String::from_utf8(host.clone()).ok()?,
                Value::SimpleString(host) if !host.is_empty() => host.clone(),
                _ => queried_host.to_owned(),
            };
            let address = (host, u16::try_from(*port).ok()?);
            let known = topology.primaries.iter().position(|known| *known == address);
            let owner = known.unwrap_or_else(|| {
                topology.primaries.push(address);
                topology.primaries.len() - 1
            });
            let range = usize::try_from(*first).ok()?..=usize::try_from(*last).ok()?;
            topology.owners.get_mut(range)?.fill(Some(owner));
        }
        (!topology.primaries.is_empty()).then_some(topology)
    }
}

fn cluster_slots() -> Cmd {
    let mut command = Cmd::new();
    command.arg("CLUSTER").arg("SLOTS");
    command
}

/// Returns the slot of a key: the CRC-16 (XMODEM) of the key, or of its hash tag. The hash tag is what is
/// between the first pair of braces, unless that is empty.
fn slot(name: &[u8]) -> u16 {
    let tag = name.iter().position(|byte| *byte == b'{').and_then(|open| {
        let rest = &name[open + 1..];
        rest.iter().position(|byte| *byte == b'}').filter(|length| *length > 0).map(|length| &rest[..length])
    });
    let mut crc = 0_u16;
    for byte in tag.unwrap_or(name) {
        crc ^= u16::from(*byte) << 8;
        for _ in 0..8 {
            crc = if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ 0x1021 };
        }
    }
    crc % SLOTS
}

/// The number of slots of a cluster.
const SLOTS: u16 = 16_384;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_equal_those_of_the_server() {
        // The replies of `CLUSTER KEYSLOT`.
        for (name, expected) in [
            ("123456789", 0x31c3 % SLOTS),
            ("foo", 12_182),
            ("bar", 5_061),
            ("{foo}bar", 12_182),
            ("x{foo}{bar}", 12_182),
            ("", 0),
        ] {
            assert_eq!(slot(name.as_bytes()), expected, "{name}");
        }
        assert_ne!(slot(b"{}foo"), slot(b"foo"), "empty braces are part of the name");
    }
}
