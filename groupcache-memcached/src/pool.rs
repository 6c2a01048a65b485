//! The connections to one server. One carries one exchange at a time, and is kept for the next.

use std::net::SocketAddr;
use std::time::Duration;

use deadpool::Runtime;
use deadpool::managed::{
    Manager, Metrics, PoolError, QueueMode, RecycleError, RecycleResult, TimeoutType, Timeouts,
};
use groupcache_core::ErrorKind;
use memcache::exp::{
    AsyncMetaConnection, MetaCommand, MetaCommandResult as Answer, MetaResponse, ReturnCode,
    parse_meta_result,
};
use tokio::net::lookup_host;
use tokio::time::timeout;

use crate::error::Failure;
use crate::server::Settings;

/// Networks forget connections on which nothing is sent for some minutes, and tell nobody.
const IDLE_MAX: Duration = Duration::from_secs(90);

/// How many commands go out before their answers are read. A server that cannot get rid of its answers reads
/// no more, so what is sent must find room on the way: the longest names make about 150 kB of these.
const BATCH_MAX: usize = 500;

/// Cheap to clone; clones are the same connections.
#[derive(Clone)]
pub(crate) struct Pool {
    connections: deadpool::managed::Pool<Connector>,
    connect_time_limit: Duration,
    response_time_limit: Duration,
}

/// Connects to this address, as long as the name still leads there: behind it may be another server by now,
/// and it would take invalidations that are not its own.
struct Connector {
    name: String,
    address: SocketAddr,
}

struct Connection {
    /// None if an answer may still come on it: then it is closed.
    stream: Option<AsyncMetaConnection>,
    /// How many commands were sent on it.
    sent: u64,
}

impl Pool {
    /// Connects when it is first used, and as often as it is used at the same time.
    pub(crate) fn new(name: String, address: SocketAddr, settings: &Settings) -> Result<Self, Failure> {
        let Settings { connect_time_limit, response_time_limit, .. } = *settings;
        let limit = Some(connect_time_limit);
        let connections = deadpool::managed::Pool::builder(Connector { name, address })
            .max_size(settings.max_connections)
            .timeouts(Timeouts { wait: limit, create: limit, recycle: None })
            .queue_mode(QueueMode::Lifo)
            .runtime(Runtime::Tokio1)
            .build()
            .map_err(|error| Failure::protocol(error.to_string()))?;
        Ok(Self { connections, connect_time_limit, response_time_limit })
    }

    /// Sends all commands in one write, or in some if there are very many, and waits for the answers, one for
    /// each. If the server refuses one of them, or does not answer one in time, all fail.
    pub(crate) async fn exchange(&self, commands: Vec<MetaCommand>) -> Result<Vec<Answer>, Failure> {
        let mut connection = self.connections.get().await.map_err(|error| self.not_connected(error))?;
        let is_new = connection.sent == 0;
        let answers = if commands.len() <= BATCH_MAX {
            self.exchange_on(&mut connection, commands).await
        } else {
            // In a box: few need it, and all others should not carry it along.
            Box::pin(self.exchange_in_parts(&mut connection, commands)).await
        };
        if !is_new && answers.as_ref().is_err_and(|failure| failure.retry) {
            // What closed this one while it waited has closed those that wait beside it. A new one may have
            // been closed because there are too many.
            drop(self.connections.retain(|_, _| false));
        }
        answers
    }

    async fn exchange_in_parts(
        &self,
        connection: &mut Connection,
        mut commands: Vec<MetaCommand>,
    ) -> Result<Vec<Answer>, Failure> {
        let mut answers = Vec::with_capacity(commands.len());
        while !commands.is_empty() {
            let rest = commands.split_off(commands.len().min(BATCH_MAX));
            answers.extend(self.exchange_on(connection, commands).await?);
            commands = rest;
        }
        Ok(answers)
    }

    async fn exchange_on(
        &self,
        connection: &mut Connection,
        commands: Vec<MetaCommand>,
    ) -> Result<Vec<Answer>, Failure> {
        let limit = self.response_time_limit;
        let answers = timeout(limit, connection.exchange(commands)).await;
        answers.unwrap_or_else(|_| Err(Failure::timeout(limit, "response_time_limit")))
    }

    fn not_connected(&self, error: PoolError<Failure>) -> Failure {
        let limit = self.connect_time_limit;
        match error {
            PoolError::Backend(failure) => failure,
            PoolError::Timeout(TimeoutType::Wait) => {
                let all = self.connections.status().max_size;
                let message = format!(
                    "all connections in use; `connect_time_limit` is {limit:?}, `max_connections` {all}"
                );
                // Nothing was sent.
                Failure::new(ErrorKind::Unavailable, message)
            }
            PoolError::Timeout(_) => Failure::timeout(limit, "connect_time_limit"),
            other => Failure::protocol(other.to_string()),
        }
    }
}

impl Manager for Connector {
    type Type = Connection;
    type Error = Failure;

    async fn create(&self) -> Result<Connection, Failure> {
        // In a box: whoever finds a connection should not carry this along.
        let stream = Box::pin(self.connect()).await?;
        Ok(Connection { stream: Some(stream), sent: 0 })
    }

    async fn recycle(&self, connection: &mut Connection, metrics: &Metrics) -> RecycleResult<Failure> {
        if connection.stream.is_none() || metrics.last_used() > IDLE_MAX {
            return Err(RecycleError::message("closed"));
        }
        Ok(())
    }
}

impl Connector {
    async fn connect(&self) -> Result<AsyncMetaConnection, Failure> {
        // Costs nothing where the name is an address.
        let mut addresses = lookup_host(&self.name).await.map_err(Failure::io)?;
        if !addresses.any(|address| address == self.address) {
            return Err(Failure::moved());
        }
        AsyncMetaConnection::connect(self.address).await.map_err(Failure::of)
    }
}

impl Connection {
    /// Each command is marked with its number on this connection, which its answer repeats: none is ever
    /// taken for that to another.
    async fn exchange(&mut self, commands: Vec<MetaCommand>) -> Result<Vec<Answer>, Failure> {
        let first = self.sent;
        let numbered = commands.into_iter().zip(first..);
        // The opaque token of the protocol.
        let commands: Vec<_> = numbered.map(|(command, number)| command.flag(format!("O{number}"))).collect();
        self.sent += commands.len() as u64;
        // Dropped, and so closed, unless all answers come: if one does not in time, or nobody waits for it.
        let closed = || Failure::io(std::io::ErrorKind::UnexpectedEof.into());
        let mut stream = self.stream.take().ok_or_else(closed)?;
        let responses = stream.execute_batch(&commands).await.map_err(Failure::of)?;
        let answers: Result<Vec<_>, _> = responses.into_iter().zip(first..).map(answer_to).collect();
        if answers.is_ok() {
            self.stream = Some(stream);
        }
        answers
    }
}

fn answer_to((response, number): (MetaResponse, u64)) -> Result<Answer, Failure> {
    let said = |flag: &[u8]| std::str::from_utf8(flag).ok()?.strip_prefix('O')?.parse().ok();
    // A server that keeps values on a disk (extstore) and has lost one forgets the number with it. What is
    // missing is a miss, whoever asked for it.
    let lost = response.rc() == ReturnCode::En && response.flags().next().is_none();
    if lost || response.flags().any(|flag| said(flag) == Some(number)) {
        parse_meta_result(response).map_err(Failure::of)
    } else {
        Err(Failure::protocol("the answer to another request"))
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::sync::Arc;

    use groupcache_core::SystemClock;
    use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
    use tokio::net::TcpListener;

    use super::*;
    use crate::commands;
    use crate::error::Remedy;

    /// Answers all commands on all connections with what `answer` makes of the number of the connection and
    /// of the line. It has one connection at a time.
    async fn pool_to(limits: [Duration; 2], answer: fn(usize, &str) -> String) -> Pool {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            for number in 0.. {
                let (stream, _) = listener.accept().await.unwrap();
                tokio::spawn(async move {
                    let mut stream = BufReader::new(stream);
                    let mut line = String::new();
                    while stream.read_line(&mut line).await.is_ok_and(|bytes| bytes > 0) {
                        let said = answer(number, line.trim_end());
                        stream.write_all(said.as_bytes()).await.unwrap();
                        line.clear();
                    }
                });
            }
        });
        let settings = Settings {
            max_connections: 1,
            connect_time_limit: limits[0],
            response_time_limit: limits[1],
            backoff_min: Duration::from_millis(50),
            backoff_max: Duration::from_secs(2),
            clock: Arc::new(SystemClock),
        };
        Pool::new(address.to_string(), address, &settings).unwrap()
    }

    const LONG: Duration = Duration::from_secs(60);
    const SHORT: Duration = Duration::from_millis(500);

    fn mark_of(line: &str) -> &str {
        line.rsplit(' ').next().unwrap()
    }

    #[tokio::test]
    async fn an_answer_to_an_earlier_command_is_none_to_a_later_one() {
        // As if it had come too late for the exchange before.
        let pool = pool_to([LONG, LONG], |_, _| "EN O0\r\n".to_owned()).await;
        assert!(pool.exchange(vec![commands::get(b"a")]).await.is_ok());
        let failure = pool.exchange(vec![commands::get(b"a")]).await.unwrap_err();
        assert!(failure.to_string().contains("another request"), "{failure:?}");
        // On a connection of its own.
        assert!(pool.exchange(vec![commands::get(b"a")]).await.is_ok());
    }

    #[tokio::test]
    async fn answers_in_another_order_are_refused() {
        let swapped = |_: usize, line: &str| match mark_of(line) {
            "O0" => String::new(),
            _ => "EN O1\r\nEN O0\r\n".to_owned(),
        };
        let pool = pool_to([LONG, LONG], swapped).await;
        let both = vec![commands::get(b"a"), commands::get(b"b")];
        let failure = pool.exchange(both).await.unwrap_err();
        assert!(failure.to_string().contains("another request"), "{failure:?}");
    }

    #[tokio::test]
    async fn what_was_not_answered_in_time_is_never_waited_for_again_on_that_connection() {
        let late = |connection: usize, line: &str| match connection {
            0 => String::new(),
            _ => format!("EN {}\r\n", mark_of(line)),
        };
        let pool = pool_to([LONG, SHORT], late).await;
        let failure = pool.exchange(vec![commands::get(b"a")]).await.unwrap_err();
        assert!(failure.to_string().contains("`response_time_limit`"), "{failure:?}");
        assert!(pool.exchange(vec![commands::get(b"a")]).await.is_ok());
    }

    #[tokio::test]
    async fn whoever_waits_in_vain_for_a_connection_is_told_of_the_limit() {
        let pool = pool_to([SHORT, LONG], |_, _| String::new()).await;
        let never = pool.exchange(vec![commands::get(b"a")]);
        let waits = pool.exchange(vec![commands::get(b"a")]);
        let failure = tokio::select! {
            biased;
            _ = never => unreachable!("nobody answers"),
            waited = waits => waited.unwrap_err(),
        };
        assert!(failure.to_string().contains("`max_connections` 1"), "{failure:?}");
    }

    #[tokio::test]
    async fn very_many_commands_are_sent_in_parts_on_one_connection() {
        // More answers than fit into what lies between, to more commands than do.
        let pool =
            pool_to([LONG, LONG], |_, line| format!("VA 1000 {}\r\n{:1000}\r\n", mark_of(line), 0)).await;
        let count = 40 * BATCH_MAX + 1;
        let answers = pool.exchange(vec![commands::get(&[b'k'; 200]); count]).await.unwrap();
        assert!(answers.len() == count && answers.iter().all(|answer| answer.value.is_some()));
    }

    #[tokio::test]
    async fn a_value_that_the_server_lost_on_its_disk_is_a_miss_and_costs_the_others_nothing() {
        let lost = |_: usize, line: &str| match mark_of(line) {
            "O1" => "EN\r\n".to_owned(),
            mark => format!("VA 1 {mark}\r\nx\r\n"),
        };
        let pool = pool_to([LONG, LONG], lost).await;
        let answers = pool.exchange(vec![commands::get(b"a"); 3]).await.unwrap();
        let values: Vec<_> = answers.into_iter().map(|answer| answer.value).collect();
        assert_eq!(values, [Some(b"x".to_vec()), None, Some(b"x".to_vec())]);
    }

    #[tokio::test]
    async fn no_connection_is_made_to_where_the_name_does_not_lead_any_more() {
        let mut pool = pool_to([LONG, LONG], |_, line| format!("EN {}\r\n", mark_of(line))).await;
        let address = pool.connections.manager().address;
        let moved_to = |host: &str| {
            let connector = Connector { name: format!("{host}:{}", address.port()), address };
            deadpool::managed::Pool::builder(connector).build().unwrap()
        };
        pool.connections = moved_to("localhost");
        assert!(pool.exchange(vec![commands::get(b"a")]).await.is_ok(), "by name");
        pool.connections = moved_to("127.0.0.2");
        let failure = pool.exchange(vec![commands::get(b"a")]).await.unwrap_err();
        assert!(failure.retry && failure.remedy == Remedy::Reconnect, "{failure:?}");
    }

    #[test]
    fn connections_of_a_runtime_that_is_gone_are_made_anew() {
        let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let served = runtime();
        let pool = served.block_on(pool_to([LONG, LONG], |_, line| format!("EN {}\r\n", mark_of(line))));
        let server = std::thread::spawn(move || served.block_on(async { tokio::time::sleep(LONG).await }));
        let first = runtime();
        assert!(first.block_on(pool.exchange(vec![commands::get(b"a")])).is_ok());
        drop(first);
        let failure = runtime().block_on(pool.exchange(vec![commands::get(b"a")])).unwrap_err();
        assert!(failure.retry && failure.remedy == Remedy::Reconnect, "{failure:?}");
        drop(server);
    }
}
