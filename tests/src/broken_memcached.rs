//! A backend on memcached with one of several mistakes, which the check of a history must find.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use groupcache_core::backend::{CurrentGenerations, Found, Generation, Lookup, Minted, TimeLeft};
use groupcache_core::{Backend, Entry, Error, ErrorKind, Group, Key, Result};
use groupcache_memcached::memcache::exp::{AsyncMetaClient, Delete, Get, MutationStatus, Op, OpResult, Set};

use crate::broken::Retry;

const NAME: &str = "plain";
const TIME_LIMIT: Duration = Duration::from_millis(60);

/// How operations on the keys of a server end while it does not answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "tests choose one")]
pub enum WhenDown {
    /// They fail.
    Err,
    /// They go to the next server, as in many clients, which is wrong.
    NextServer,
}

/// A simple backend on several memcached servers.
#[derive(Clone)]
pub struct NaiveMemcached {
    servers: Arc<[AsyncMetaClient]>,
    retry: Retry,
    when_down: WhenDown,
}

impl NaiveMemcached {
    /// Makes a backend on the servers of `url`, `memcached://host:port,host:port`.
    ///
    /// # Panics
    ///
    /// Panics if `url` has an invalid address.
    pub async fn new(url: &str, retry: Retry, when_down: WhenDown) -> Self {
        let mut servers = Vec::new();
        for address in url.trim_start_matches("memcached://").split(',') {
            let builder = AsyncMetaClient::builder().io_timeout(Some(TIME_LIMIT)).max_idle(64);
            servers.push(builder.connect_async(address.to_owned()).await.expect("an address"));
        }
        Self { servers: servers.into(), retry, when_down }
    }

    async fn send(&self, key: &[u8], operations: &[Op]) -> Result<Vec<OpResult>> {
        let home =
            key.iter().fold(7_usize, |sum, byte| sum.wrapping_mul(31).wrapping_add(usize::from(*byte)));
        let tries = if self.when_down == WhenDown::NextServer { self.servers.len() } else { 1 };
        let mut outcome = Err(Error::new(ErrorKind::Unavailable, NAME));
        for next in 0..tries {
            let server = &self.servers[(home + next) % self.servers.len()];
            let answers = match server.run_batch(operations.iter().cloned()).await {
                Ok(answers) => answers.into_iter().collect(),
                Err(error) => Err(error),
            };
            outcome = answers.map_err(|error| Error::new(ErrorKind::Unavailable, NAME).with_source(error));
            if outcome.is_ok() {
                break;
            }
        }
        outcome
    }

    async fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>> {
        let answers = self.send(key, &[Get::new(key).into()]).await?;
        Ok(answers.into_iter().next().and_then(|answer| answer.as_get()?.value.clone()))
    }
}

fn name(hash: [u8; 32]) -> Vec<u8> {
    hash.iter().flat_map(|byte| format!("{byte:02x}").into_bytes()).collect()
}

fn token() -> [u8; 16] {
    Generation::random().get().to_be_bytes()
}

fn generation(value: &[u8]) -> Option<Generation> {
    Generation::new(u128::from_be_bytes(value.try_into().ok()?))
}

impl Backend for NaiveMemcached {
    fn name(&self) -> &'static str {
        NAME
    }

    async fn lookup(&self, key: &Key, groups: &[Group], _: TimeLeft) -> Result<Lookup> {
        let found = match self.get(&name(key.hash())).await? {
            None => Found::Absent,
            Some(bytes) => match Entry::decode(&Bytes::from(bytes)) {
                Ok(entry) => Found::Entry(Arc::new(entry), None),
                Err(_) => Found::Undecodable,
            },
        };
        let mut current = Vec::new();
        for group in groups {
            current.push(self.get(&name(group.hash())).await?.and_then(|value| generation(&value)));
        }
        Ok(Lookup::new(found, current.into_iter().collect::<CurrentGenerations>()))
    }

    async fn mint(&self, groups: &[Group]) -> Result<Minted> {
        let mut vector = Vec::new();
        for group in groups {
            let key = name(group.hash());
            let batch = [Set::new(&key, token()).add().into(), Get::new(&key).into()];
            let answers = self.send(&key, &batch).await?;
            let there = answers.last().and_then(|answer| generation(answer.as_get()?.value.as_deref()?));
            vector.push(there.ok_or_else(|| Error::new(ErrorKind::Unavailable, NAME))?);
        }
        Ok(Minted::new(vector.into_iter().collect()))
    }

    async fn bump(&self, groups: &[Group]) -> Result<()> {
        for group in groups {
            let key = name(group.hash());
            let mut fresh = token();
            let mut attempt = 0;
            loop {
                match self.send(&key, &[Set::new(&key, fresh).replace().into()]).await {
                    Ok(answers) => {
                        let status = answers.first().and_then(|answer| Some(answer.as_mutation()?.status));
                        assert!(matches!(status, Some(MutationStatus::Applied | MutationStatus::NotFound)));
                        break;
                    }
                    Err(error) if attempt == 5 => return Err(error),
                    Err(_) => attempt += 1,
                }
                if self.retry == Retry::FreshToken {
                    fresh = token();
                }
            }
        }
        Ok(())
    }

    async fn store(&self, entry: &Arc<Entry>, _: Option<Duration>) -> Result<()> {
        let key = name(entry.key().hash());
        self.send(&key, &[Set::new(&key, entry.encode()).into()]).await.map(drop)
    }

    async fn delete(&self, key: &Key) -> Result<()> {
        let key = name(key.hash());
        self.send(&key, &[Delete::new(&key).into()]).await.map(drop)
    }
}

impl std::fmt::Debug for NaiveMemcached {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NaiveMemcached")
            .field("retry", &self.retry)
            .field("when_down", &self.when_down)
            .finish_non_exhaustive()
    }
}
