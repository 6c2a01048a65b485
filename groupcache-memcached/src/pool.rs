//! The pool of connections to one server. Each carries one exchange at a time and is kept for the next.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use deadpool::Runtime;
use deadpool::managed::{
    Manager, Metrics, Object, PoolError, QueueMode, RecycleError, RecycleResult, Timeouts,
};
use groupcache_core::ErrorKind;
use memcache::exp::{
    AsyncMetaConnection, MetaCommand, MetaCommandResult as Response, MetaResponse, ReturnCode,
    parse_meta_result,
};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::error::Failure;
use crate::evidence::Silences;
use crate::resolver::{KnownAddresses, Resolver};
use crate::settings::Settings;

/// Cheap to clone: clones share the connections.
#[derive(Clone)]
pub(crate) struct Pool {
    connections: deadpool::managed::Pool<Connector>,
    /// As many as there may be connections. Taken before a connection is, so that waiting for one that is in
    /// use differs from waiting for the server.
    permits: Arc<Semaphore>,
    connect_time_limit: Duration,
    response_time_limit: Duration,
    silences: Silences,
}

/// Connects to `address`, as long as `name` resolves to it and to nothing unknown. Otherwise another server
/// may have that address by now, and acknowledge invalidations that are not its own.
struct Connector {
    name: String,
    address: SocketAddr,
    addresses: Arc<KnownAddresses>,
    resolver: Resolver,
}

struct Connection {
    /// `None` if a response may still arrive on it. It is closed then, and not used again.
    stream: Option<AsyncMetaConnection>,
    /// The number of commands sent on it.
    sent: u64,
}

impl Pool {
    /// Returns a pool that makes connections as they are needed.
    pub(crate) fn new(
        name: String,
        address: SocketAddr,
        addresses: Arc<KnownAddresses>,
        settings: &Settings,
        silences: Silences,
    ) -> Result<Self, Failure> {
        let Settings { max_connections, connect_time_limit, response_time_limit, .. } = *settings;
        let limit = Some(connect_time_limit);
        let connector = Connector { name, address, addresses, resolver: settings.resolver.clone() };
        let connections = deadpool::managed::Pool::builder(connector)
            .max_size(max_connections)
            .timeouts(Timeouts { wait: None, create: limit, recycle: None })
            .queue_mode(QueueMode::Lifo)
            .runtime(Runtime::Tokio1)
            .build()
            .map_err(|error| Failure::protocol(error.to_string()))?;
        let permits = Arc::new(Semaphore::new(max_connections));
        Ok(Self { connections, permits, connect_time_limit, response_time_limit, silences })
    }

    /// Sends the commands and returns one response for each, in order. All fail if the server refuses one of
    /// them or exceeds the time limit.
    ///
    /// Sends all commands in one write, or in several if there are more than [`BATCH_COMMANDS_MAX`]. Calls
    /// `set_waiting` when it begins and ends to wait for a connection that is in use.
    pub(crate) async fn exchange(
        &self,
        commands: Vec<MetaCommand>,
        set_waiting: impl Fn(bool) + Send,
    ) -> Result<Vec<Response>, Failure> {
        // Released after the connection is back in the pool.
        let _permit = match self.permits.try_acquire() {
            Ok(permit) => permit,
            Err(_) => {
                set_waiting(true);
                timeout(self.connect_time_limit, self.permits.acquire())
                    .await
                    .map_err(|_| self.all_in_use())?
                    .map_err(|error| Failure::protocol(error.to_string()))?
            }
        };
        set_waiting(false);
        let mut connection = self.connections.get().await.map_err(|error| self.no_connection(error))?;
        let is_new = connection.sent == 0;
        let watch = SilenceWatch { pool: self, since: last_checkout(Object::metrics(&connection)), is_new };
        let responses = if commands.len() <= BATCH_COMMANDS_MAX {
            self.exchange_batch(&mut connection, commands).await
        } else {
            // Boxed, so that the common case does not carry the larger future.
            Box::pin(self.exchange_in_batches(&mut connection, commands)).await
        };
        watch.end(&responses);
        if !is_new && responses.as_ref().is_err_and(|failure| failure.retry) {
            // Whatever closed this idle connection has closed the other idle ones too. A new connection, in
            // contrast, may have been closed because the server has too many.
            drop(self.connections.retain(|_, _| false));
        }
        responses
    }

    async fn exchange_in_batches(
        &self,
        connection: &mut Connection,
        mut commands: Vec<MetaCommand>,
    ) -> Result<Vec<Response>, Failure> {
        let mut responses = Vec::with_capacity(commands.len());
        while !commands.is_empty() {
            let rest = commands.split_off(commands.len().min(BATCH_COMMANDS_MAX));
            responses.extend(self.exchange_batch(connection, commands).await?);
            commands = rest;
        }
        Ok(responses)
    }

    async fn exchange_batch(
        &self,
        connection: &mut Connection,
        commands: Vec<MetaCommand>,
    ) -> Result<Vec<Response>, Failure> {
        let limit = self.response_time_limit;
        let responses = timeout(limit, connection.exchange(commands)).await;
        responses.unwrap_or_else(|_| Err(Failure::timeout(limit, "response_time_limit")))
    }

    fn all_in_use(&self) -> Failure {
        let (max, limit) = (self.connections.status().max_size, self.connect_time_limit);
        let message = format!(
            "all connections are in use (`max_connections` is {max}), and none became free within {limit:?} \
             (`connect_time_limit`)"
        );
        // Not `Timeout`: nothing was sent, so the outcome is known.
        let failure = Failure::new(ErrorKind::Unavailable, message);
        #[cfg(groupcache_mutants)]
        if groupcache_core::mutants::is_on("full_pool_counts") {
            return failure;
        }
        failure.without_evidence()
    }

    /// Closes the idle connections that nothing was received on since then: what made one of them silent has
    /// probably made the others silent too.
    fn close_silent(&self, since: Instant) {
        #[cfg(groupcache_mutants)]
        if groupcache_core::mutants::is_on("silent_idle_connections") {
            return;
        }
        self.silences.record();
        drop(self.connections.retain(|_, metrics| last_checkout(&metrics) > since));
    }

    fn no_connection(&self, error: PoolError<Failure>) -> Failure {
        let limit = self.connect_time_limit;
        match error {
            PoolError::Backend(failure) => failure,
            PoolError::Timeout(_) => Failure::timeout(limit, "connect_time_limit"),
            other => Failure::protocol(other.to_string()),
        }
    }
}

/// Notices that an exchange gets no response, even if its caller cancels it first, as the time limit of a read
/// through a cache does.
struct SilenceWatch<'a> {
    pool: &'a Pool,
    since: Instant,
    /// Whether the connection has never worked.
    is_new: bool,
}

impl SilenceWatch<'_> {
    fn end(mut self, responses: &Result<Vec<Response>, Failure>) {
        let is_silent = responses.as_ref().is_err_and(Failure::is_late);
        if is_silent && !self.is_new {
            self.pool.close_silent(self.since);
        }
        self.is_new = true;
    }
}

impl Drop for SilenceWatch<'_> {
    fn drop(&mut self) {
        if !self.is_new && self.since.elapsed() >= SILENCE_MIN {
            self.pool.close_silent(self.since);
        }
    }
}

/// Returns when the connection was last taken from the pool. If it is idle again, it has worked since.
fn last_checkout(metrics: &Metrics) -> Instant {
    metrics.recycled.unwrap_or(metrics.created)
}

impl Manager for Connector {
    type Type = Connection;
    type Error = Failure;

    async fn create(&self) -> Result<Connection, Failure> {
        // Boxed, so that calls that find a connection do not carry this future.
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
        // Costs nothing if the name is an IP address.
        let addresses = self.resolver.resolve(&self.name).await?;
        if let Some(remedy) = self.addresses.remedy(&addresses) {
            return Err(Failure::address_changed(remedy));
        }
        AsyncMetaConnection::connect(self.address).await.map_err(Failure::from_client)
    }
}

impl Connection {
    /// Numbers each command and requires that its response repeats the number, so that no response is
    /// attributed to another command.
    async fn exchange(&mut self, commands: Vec<MetaCommand>) -> Result<Vec<Response>, Failure> {
        let first = self.sent;
        let numbered = commands.into_iter().zip(first..);
        // `O` is the opaque token of the protocol.
        let commands: Vec<_> = numbered.map(|(command, number)| command.flag(format!("O{number}"))).collect();
        self.sent += commands.len() as u64;
        // Put back only once all responses have arrived. An exchange that is cancelled or exceeds its time
        // limit drops the stream, which closes it.
        let closed = || Failure::from_io(io::ErrorKind::UnexpectedEof.into());
        let mut stream = self.stream.take().ok_or_else(closed)?;
        let responses = stream.execute_batch(&commands).await.map_err(Failure::from_client)?;
        let responses: Result<Vec<_>, _> = responses.into_iter().zip(first..).map(checked).collect();
        if responses.is_ok() {
            self.stream = Some(stream);
        }
        responses
    }
}

/// Parses the response to the command with this number.
fn checked((response, number): (MetaResponse, u64)) -> Result<Response, Failure> {
    let opaque = |flag: &[u8]| std::str::from_utf8(flag).ok()?.strip_prefix('O')?.parse().ok();
    // A server that lost a value on its disk (extstore) reports a miss without the number. It is accepted,
    // because a miss is safe as the response to any read.
    let is_lost = response.rc() == ReturnCode::En && response.flags().next().is_none();
    if is_lost || response.flags().any(|flag| opaque(flag) == Some(number)) {
        parse_meta_result(response).map_err(Failure::from_client)
    } else {
        Err(Failure::protocol("the response belongs to another request"))
    }
}

/// The longest time for which an idle connection is kept. Networks silently drop connections that are idle
/// for some minutes.
const IDLE_MAX: Duration = Duration::from_secs(90);

/// The time without a response after which a connection whose exchange is cancelled is taken to be silent.
const SILENCE_MIN: Duration = Duration::from_millis(50);

/// The maximum number of commands that are sent before their responses are read.
///
/// A server that cannot send its responses stops reading commands, so the commands of a batch must fit into
/// the buffers in between. With the longest names they take about 150 kB.
const BATCH_COMMANDS_MAX: usize = 500;

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use groupcache_core::{Clock, SystemClock};
    use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
    use tokio::net::TcpListener;

    use super::*;
    use crate::commands;
    use crate::error::Remedy;

    /// Returns a pool of one connection to a server that answers each command line with
    /// `respond(number of the connection, line)`. The limits are those to connect and to respond.
    async fn pool_to(limits: [Duration; 2], respond: fn(usize, &str) -> String) -> Pool {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            for number in 0.. {
                let (stream, _) = listener.accept().await.unwrap();
                tokio::spawn(async move {
                    let mut stream = BufReader::new(stream);
                    let mut line = String::new();
                    while stream.read_line(&mut line).await.is_ok_and(|bytes| bytes > 0) {
                        let response = respond(number, line.trim_end());
                        stream.write_all(response.as_bytes()).await.unwrap();
                        line.clear();
                    }
                });
            }
        });
        let [connect_time_limit, response_time_limit] = limits;
        let settings =
            Settings { max_connections: 1, connect_time_limit, response_time_limit, ..Settings::default() };
        let addresses = KnownAddresses::new(vec![address], vec![], SystemClock.now());
        Pool::new(address.to_string(), address, Arc::new(addresses), &settings, Silences::default()).unwrap()
    }

    async fn exchange(pool: &Pool, commands: Vec<MetaCommand>) -> Result<Vec<Response>, Failure> {
        pool.exchange(commands, |_| {}).await
    }

    const LONG: Duration = Duration::from_secs(60);
    const SHORT: Duration = Duration::from_millis(500);

    fn opaque_of(line: &str) -> &str {
        line.rsplit(' ').next().unwrap()
    }

    #[tokio::test]
    async fn a_response_to_an_earlier_command_is_refused_for_a_later_one() {
        // As a response does that arrives after its exchange has ended.
        let pool = pool_to([LONG, LONG], |_, _| "EN O0\r\n".to_owned()).await;
        assert!(exchange(&pool, vec![commands::get(b"a")]).await.is_ok());
        let failure = exchange(&pool, vec![commands::get(b"a")]).await.unwrap_err();
        assert!(failure.to_string().contains("another request"), "{failure:?}");
        // The next exchange has a new connection.
        assert!(exchange(&pool, vec![commands::get(b"a")]).await.is_ok());
    }

    #[tokio::test]
    async fn responses_in_another_order_are_refused() {
        let swapped = |_: usize, line: &str| match opaque_of(line) {
            "O0" => String::new(),
            _ => "EN O1\r\nEN O0\r\n".to_owned(),
        };
        let pool = pool_to([LONG, LONG], swapped).await;
        let both = vec![commands::get(b"a"), commands::get(b"b")];
        let failure = exchange(&pool, both).await.unwrap_err();
        assert!(failure.to_string().contains("another request"), "{failure:?}");
    }

    #[tokio::test]
    async fn a_connection_with_an_outstanding_response_is_not_used_again() {
        let late = |connection: usize, line: &str| match connection {
            0 => String::new(),
            _ => format!("EN {}\r\n", opaque_of(line)),
        };
        let pool = pool_to([LONG, SHORT], late).await;
        let failure = exchange(&pool, vec![commands::get(b"a")]).await.unwrap_err();
        assert!(failure.to_string().contains("`response_time_limit`"), "{failure:?}");
        assert!(exchange(&pool, vec![commands::get(b"a")]).await.is_ok());
    }

    #[tokio::test]
    async fn a_caller_that_finds_no_free_connection_gets_an_error_that_names_the_limit() {
        let pool = pool_to([SHORT, LONG], |_, _| String::new()).await;
        let unanswered = exchange(&pool, vec![commands::get(b"a")]);
        let waiting = exchange(&pool, vec![commands::get(b"a")]);
        let failure = tokio::select! {
            biased;
            _ = unanswered => unreachable!("the server does not respond"),
            outcome = waiting => outcome.unwrap_err(),
        };
        assert!(failure.to_string().contains("`max_connections` is 1"), "{failure:?}");
    }

    #[tokio::test]
    async fn many_commands_are_sent_in_batches_on_one_connection() {
        // More commands than the buffers in between hold, and more responses.
        let pool =
            pool_to([LONG, LONG], |_, line| format!("VA 1000 {}\r\n{:1000}\r\n", opaque_of(line), 0)).await;
        let count = 40 * BATCH_COMMANDS_MAX + 1;
        let responses = exchange(&pool, vec![commands::get(&[b'k'; 200]); count]).await.unwrap();
        assert!(responses.len() == count && responses.iter().all(|response| response.value.is_some()));
    }

    #[tokio::test]
    async fn a_value_that_the_server_lost_on_its_disk_is_a_miss_and_the_others_are_hits() {
        let lost = |_: usize, line: &str| match opaque_of(line) {
            "O1" => "EN\r\n".to_owned(),
            opaque => format!("VA 1 {opaque}\r\nx\r\n"),
        };
        let pool = pool_to([LONG, LONG], lost).await;
        let responses = exchange(&pool, vec![commands::get(b"a"); 3]).await.unwrap();
        let values: Vec<_> = responses.into_iter().map(|response| response.value).collect();
        assert_eq!(values, [Some(b"x".to_vec()), None, Some(b"x".to_vec())]);
    }

    #[tokio::test]
    async fn no_connection_is_made_to_an_address_that_the_name_no_longer_resolves_to() {
        let mut pool = pool_to([LONG, LONG], |_, line| format!("EN {}\r\n", opaque_of(line))).await;
        let address = pool.connections.manager().address;
        let elsewhere = SocketAddr::new([127, 0, 0, 2].into(), address.port());
        for (resolved, remedy) in [
            (vec![address], None),
            (vec![elsewhere], Some(Remedy::Leave)),
            (vec![address, elsewhere], Some(Remedy::Reconnect)),
        ] {
            let resolver = Resolver::new(move |_| std::future::ready(Ok(resolved.clone())));
            let addresses = Arc::new(KnownAddresses::new(vec![address], vec![], SystemClock.now()));
            let connector = Connector { name: "cache:11211".into(), address, addresses, resolver };
            pool.connections = deadpool::managed::Pool::builder(connector).build().unwrap();
            let outcome = exchange(&pool, vec![commands::get(b"a")]).await;
            assert_eq!(outcome.as_ref().err().map(|failure| failure.remedy), remedy);
            assert!(outcome.err().is_none_or(|failure| failure.retry));
        }
    }

    #[test]
    fn connections_of_a_runtime_that_was_shut_down_are_replaced() {
        let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let served = runtime();
        let pool = served.block_on(pool_to([LONG, LONG], |_, line| format!("EN {}\r\n", opaque_of(line))));
        let server = std::thread::spawn(move || served.block_on(async { tokio::time::sleep(LONG).await }));
        let first = runtime();
        assert!(first.block_on(exchange(&pool, vec![commands::get(b"a")])).is_ok());
        drop(first);
        let failure = runtime().block_on(exchange(&pool, vec![commands::get(b"a")])).unwrap_err();
        assert!(failure.retry && failure.remedy == Remedy::Reconnect, "{failure:?}");
        drop(server);
    }
}
