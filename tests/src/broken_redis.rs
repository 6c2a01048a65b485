//! A backend on Redis with one of several mistakes, which the check of a history must find.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use groupcache_core::backend::{Found, Generation, Lookup, Minted, TimeLeft};
use groupcache_core::{Backend, Entry, Error, ErrorKind, Group, Key, Result};
use groupcache_redis::redis::{self, Pipeline, aio::MultiplexedConnection};
use tokio::sync::Mutex;

use crate::broken::Retry;

const NAME: &str = "plain";
const TIME_LIMIT: Duration = Duration::from_millis(60);

/// What a generation has besides its token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "tests choose one")]
pub enum Identity {
    /// Nothing, which is wrong.
    None,
    /// The `run_id` of the server alone, which is wrong.
    RunId,
}

/// A simple backend on one Redis server. Clones share the connection.
#[derive(Debug, Clone)]
pub struct NaiveRedis(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    url: String,
    identity: Identity,
    retry: Retry,
    connection: Mutex<Option<Connected>>,
    attempts: AtomicU64,
}

#[derive(Clone)]
struct Connected {
    number: u64,
    connection: MultiplexedConnection,
    identity: u128,
}

impl NaiveRedis {
    /// Makes a backend on the server at `url`.
    #[must_use]
    pub fn new(url: &str, identity: Identity, retry: Retry) -> Self {
        let connection = Mutex::new(None);
        Self(Arc::new(Inner {
            url: url.to_owned(),
            identity,
            retry,
            connection,
            attempts: AtomicU64::new(0),
        }))
    }

    async fn connected(&self) -> Result<Connected> {
        let mut slot = self.0.connection.lock().await;
        if let Some(connected) = &*slot {
            return Ok(connected.clone());
        }
        let client = redis::Client::open(self.0.url.as_str()).map_err(error_from)?;
        let options = redis::AsyncConnectionConfig::new().set_response_timeout(Some(TIME_LIMIT));
        let mut connection =
            client.get_multiplexed_async_connection_with_config(&options).await.map_err(error_from)?;
        let info: String =
            redis::cmd("INFO").arg("server").query_async(&mut connection).await.map_err(error_from)?;
        let run_id = info.lines().find_map(|line| line.trim_end().strip_prefix("run_id:"));
        let run_id = run_id.and_then(|hex| u128::from_str_radix(&hex[..32], 16).ok());
        let identity = if self.0.identity == Identity::RunId { run_id.unwrap_or_default() } else { 0 };
        let number = self.0.attempts.fetch_add(1, Ordering::Relaxed);
        let connected = Connected { number, connection, identity };
        *slot = Some(connected.clone());
        Ok(connected)
    }

    async fn send<T: redis::FromRedisValue>(&self, pipeline: &Pipeline) -> Result<(T, u128)> {
        let mut connected = self.connected().await?;
        let answered = pipeline.query_async(&mut connected.connection).await;
        if answered.is_err() {
            let mut slot = self.0.connection.lock().await;
            if slot.as_ref().is_some_and(|current| current.number == connected.number) {
                *slot = None;
            }
        }
        answered.map(|answer| (answer, connected.identity)).map_err(error_from)
    }
}

impl Backend for NaiveRedis {
    fn name(&self) -> &'static str {
        NAME
    }

    async fn lookup(&self, key: &Key, groups: &[Group], _: TimeLeft) -> Result<Lookup> {
        let mut pipeline = Pipeline::new();
        pipeline.cmd("MGET").arg(key.as_bytes());
        for group in groups {
            pipeline.arg(group.encoded());
        }
        let ((mut values,), identity): ((Vec<Option<Vec<u8>>>,), _) = self.send(&pipeline).await?;
        let tokens = values.split_off(1);
        let found = match values.pop().flatten() {
            None => Found::Absent,
            Some(bytes) => match Entry::decode(&Bytes::from(bytes)) {
                Ok(entry) => Found::Entry(Arc::new(entry), None),
                Err(_) => Found::Undecodable,
            },
        };
        let current = tokens.into_iter().map(|token| generation(&token?, identity)).collect();
        Ok(Lookup::new(found, current))
    }

    async fn mint(&self, groups: &[Group]) -> Result<Minted> {
        let mut pipeline = Pipeline::new();
        for group in groups {
            pipeline.cmd("SET").arg(group.encoded()).arg(token()).arg("NX").ignore();
            pipeline.cmd("GET").arg(group.encoded());
        }
        let (tokens, identity): (Vec<Vec<u8>>, _) = self.send(&pipeline).await?;
        let vector = tokens.iter().filter_map(|token| generation(token, identity)).collect();
        Ok(Minted::new(vector))
    }

    async fn bump(&self, groups: &[Group]) -> Result<()> {
        let mut tokens: Vec<_> = groups.iter().map(|_| token()).collect();
        let mut attempt = 0;
        loop {
            let mut pipeline = Pipeline::new();
            for (group, token) in groups.iter().zip(&tokens) {
                pipeline.cmd("SET").arg(group.encoded()).arg(token).arg("XX").ignore();
            }
            match self.send::<()>(&pipeline).await {
                Ok(_) => return Ok(()),
                Err(error) if attempt == 5 => return Err(error),
                Err(_) => attempt += 1,
            }
            if self.0.retry == Retry::FreshToken {
                tokens = groups.iter().map(|_| token()).collect();
            }
        }
    }

    async fn store(&self, entry: &Arc<Entry>, _: Option<Duration>) -> Result<()> {
        let mut pipeline = Pipeline::new();
        pipeline.cmd("SET").arg(entry.key().as_bytes()).arg(entry.encode()).ignore();
        self.send::<()>(&pipeline).await.map(drop)
    }

    async fn delete(&self, key: &Key) -> Result<()> {
        let mut pipeline = Pipeline::new();
        pipeline.cmd("DEL").arg(key.as_bytes()).ignore();
        self.send::<()>(&pipeline).await.map(drop)
    }
}

impl std::fmt::Debug for Connected {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connected").field("number", &self.number).finish_non_exhaustive()
    }
}

fn token() -> Vec<u8> {
    Generation::random().get().to_be_bytes().to_vec()
}

fn generation(token: &[u8], identity: u128) -> Option<Generation> {
    Generation::new(u128::from_be_bytes(token.try_into().ok()?) ^ identity)
}

fn error_from(error: redis::RedisError) -> Error {
    Error::new(ErrorKind::Unavailable, NAME).with_source(error)
}
