//! The reads from one server. Concurrent readers share requests; see [`SharedReads`].

use std::sync::Arc;

use groupcache_core::ErrorKind;
use groupcache_core::backend::{ReadExchange, ReadLimits, SharedReads};
use redis::{Cmd, Pipeline, Value};

use crate::connection::Connection;
use crate::error::Failure;
use crate::route::connector::Connector;
use crate::route::node::{Attempt, RequestKind, accept, attempt};

/// The values of some keys on one server.
#[derive(Debug, Clone)]
pub(crate) struct Read {
    /// The names of the keys, one after the other, each of the same length.
    pub(crate) names: Vec<u8>,
    pub(crate) name_bytes: usize,
    /// For each key, whether to read its time left before and after its value. Empty if for none. Only in a
    /// cluster.
    pub(crate) times_left: Vec<bool>,
    /// Whether the server is importing the slots of the keys, so that each command follows an `ASKING`.
    pub(crate) importing: bool,
    /// Whether some keys are those of generations.
    pub(crate) generations: bool,
    /// Whether another node redirected to this one, which may have received the slot a moment ago.
    pub(crate) redirected: bool,
}

/// The replies to the commands of one [`Read`].
#[derive(Clone)]
pub(crate) struct Replies {
    pub(crate) connection: Arc<Connection>,
    pub(crate) values: Vec<Value>,
}

/// How the keys of one server are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ReadMode {
    /// With one `MGET`.
    Together,
    /// With a `GET` for each key: in a cluster, a command for several keys fails if their slots differ.
    OneByOne,
}

/// Performs the reads from one server.
pub(crate) struct NodeReads {
    connector: Connector,
    mode: ReadMode,
    #[cfg(groupcache_mutants)]
    joined: crate::route::mutants::JoinedReads<Replies>,
}

impl NodeReads {
    pub(crate) fn shared(connector: Connector, mode: ReadMode) -> Arc<SharedReads<Self>> {
        let limits = match mode {
            ReadMode::Together => TOGETHER,
            ReadMode::OneByOne => ONE_BY_ONE,
        };
        let reads = Self {
            connector,
            mode,
            #[cfg(groupcache_mutants)]
            joined: crate::route::mutants::JoinedReads::new(),
        };
        SharedReads::new(reads, limits)
    }

    pub(crate) async fn read(shared: &Arc<SharedReads<Self>>, read: Read) -> Result<Replies, Failure> {
        #[cfg(groupcache_mutants)]
        if groupcache_core::mutants::is_on("joined_read") {
            return shared.exchange().joined.read(read.names.clone(), shared.read(read)).await;
        }
        shared.read(read).await
    }

    pub(crate) const fn connector(&self) -> &Connector {
        &self.connector
    }

    /// Sends one attempt, and another if the connection turns out to be closed or to lead to another
    /// incarnation of the server.
    async fn send(&self, reads: &[Read]) -> Result<(Arc<Connection>, Vec<Value>), Failure> {
        let generations = reads.iter().any(|read| read.generations);
        let kind = if generations { RequestKind::Lookup } else { RequestKind::Entries };
        let mut check = reads.iter().any(|read| read.generations && read.redirected);
        let mut retried = false;
        loop {
            let connection = self.connector.connection().await?;
            let sent = if let (ReadMode::Together, [read]) = (self.mode, reads) {
                self.send_alone(&connection, read).await
            } else {
                check |= connection.confirms_every_request() || generations && connection.is_check_due();
                // A time limit for each exchange: no caller ends one that many share.
                attempt(&self.connector, &connection, self.compose(reads), kind, check).await
            };
            match sent? {
                Attempt::Replied(replies) => return Ok((connection, replies)),
                Attempt::ConnectionLost(failure) if retried => return Err(failure),
                Attempt::ConnectionLost(_) => retried = true,
                Attempt::CheckNeeded => check = true,
            }
        }
    }

    /// Sends the read of one caller, without a time limit, and confirms the role of the server.
    async fn send_alone(&self, connection: &Arc<Connection>, read: &Read) -> Result<Attempt, Failure> {
        match connection.query(mget(std::slice::from_ref(read))).await {
            Ok(reply) => Ok(Attempt::Replied(vec![reply])),
            Err(failure) => {
                if failure.disconnects {
                    self.connector.discard(connection);
                }
                if failure.may_retry { Ok(Attempt::ConnectionLost(failure)) } else { Err(failure) }
            }
        }
    }

    fn compose(&self, reads: &[Read]) -> Pipeline {
        if self.mode == ReadMode::Together {
            let mut pipeline = Pipeline::with_capacity(2);
            pipeline.add_command(mget(reads));
            return pipeline;
        }
        let mut pipeline = Pipeline::with_capacity(1 + reads.iter().map(Read::commands).sum::<usize>());
        for read in reads {
            for (index, name) in read.names().enumerate() {
                let commands: &[&str] =
                    if read.reads_time_left(index) { &["PTTL", "GET", "PTTL"] } else { &["GET"] };
                for command in commands {
                    if read.importing {
                        pipeline.cmd("ASKING");
                    }
                    pipeline.cmd(command).arg(name);
                }
            }
        }
        pipeline
    }

    /// Assigns the replies to the reads that they belong to.
    fn split(
        &self,
        reads: &[Read],
        connection: &Arc<Connection>,
        replies: Vec<Value>,
    ) -> Result<Vec<Replies>, Failure> {
        let replies = if self.mode == ReadMode::Together {
            let reply = accept(&self.connector, connection, replies.into_iter().next())?;
            let Value::Array(values) = reply else { return Err(Failure::unexpected("MGET")) };
            values
        } else {
            replies
        };
        if replies.len() != reads.iter().map(Read::commands).sum::<usize>() {
            return Err(Failure::unexpected("MGET"));
        }
        let mut replies = replies.into_iter();
        let own = reads.iter().map(|read| {
            let commands = replies.by_ref().take(read.commands());
            let values =
                if read.importing { commands.skip(1).step_by(2).collect() } else { commands.collect() };
            Replies { connection: Arc::clone(connection), values }
        });
        Ok(own.collect())
    }
}

impl ReadExchange for NodeReads {
    type Read = Read;
    type Reply = Replies;
    type Failure = Failure;

    async fn exchange(&self, reads: Vec<Read>) -> Result<Vec<Replies>, Failure> {
        let (connection, replies) = self.send(&reads).await?;
        self.split(&reads, &connection, replies)
    }

    fn keys(read: &Read) -> usize {
        read.keys()
    }

    fn bytes(replies: &Replies) -> usize {
        let size = |value: &Value| if let Value::BulkString(bytes) = value { bytes.len() } else { 0 };
        replies.values.iter().map(size).sum()
    }

    fn lost() -> Failure {
        Failure::new(ErrorKind::Unavailable, "the runtime of a shared read was shut down")
    }
}

impl Read {
    pub(crate) const fn keys(&self) -> usize {
        self.names.len() / self.name_bytes
    }

    fn names(&self) -> impl Iterator<Item = &[u8]> {
        self.names.chunks_exact(self.name_bytes)
    }

    fn reads_time_left(&self, index: usize) -> bool {
        self.times_left.get(index).is_some_and(|needed| *needed)
    }

    /// Returns the number of commands of `ReadMode::OneByOne`, which is that of values otherwise.
    fn commands(&self) -> usize {
        let commands = self.keys() + 2 * self.times_left.iter().filter(|needed| **needed).count();
        if self.importing { 2 * commands } else { commands }
    }
}

fn mget(reads: &[Read]) -> Cmd {
    let keys: usize = reads.iter().map(Read::keys).sum();
    let bytes: usize = reads.iter().map(|read| read.names.len()).sum();
    let mut command = Cmd::with_capacity(1 + keys, 4 + bytes);
    command.arg("MGET");
    for name in reads.iter().flat_map(Read::names) {
        command.arg(name);
    }
    command
}

/// One exchange is on its way there while another is on its way back.
const TOGETHER: ReadLimits = ReadLimits { exchanges_max: 2, keys_max: 128, bytes_max: 16 << 10 };

/// Each exchange costs a `CLUSTER INFO`, which takes the server as long as dozens of `GET`. Several nodes keep
/// the client busy meanwhile.
const ONE_BY_ONE: ReadLimits = ReadLimits { exchanges_max: 1, keys_max: 256, bytes_max: 16 << 10 };
