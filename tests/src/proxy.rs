//! A TCP proxy that delays, closes and redirects connections between clients and a server.

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Listens on a free port of the loopback interface and forwards to a server, until dropped.
#[derive(Debug)]
pub struct Proxy {
    port: u16,
    shared: Arc<Shared>,
    accepting: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    upstream: AtomicU16,
    next: AtomicU64,
    /// How many chunks clients have sent.
    chunks: AtomicU64,
    gate: watch::Sender<Gate>,
    /// Bytes of the server, and the bytes of the same length that the client gets instead.
    rewrite: Option<(&'static [u8], &'static [u8])>,
    /// Bytes of a client that close its connection instead of being forwarded.
    refused: Option<&'static [u8]>,
    /// Bytes of a client that make its connection hang.
    held: Option<&'static [u8]>,
    dropped: Mutex<Vec<Vec<u8>>>,
}

/// Which connections, counted from 0, are held or closed.
#[derive(Debug, Clone, Copy, Default)]
struct Gate {
    held_below: u64,
    cut_below: u64,
    holds_replies: bool,
}

impl Proxy {
    /// Makes a proxy in front of this port.
    ///
    /// # Panics
    ///
    /// Panics if there is no free port.
    pub async fn start(upstream: u16) -> Self {
        Self::with(upstream, None, None, None).await
    }

    /// Makes a proxy that replaces `original` with `replacement` in the replies of the server.
    ///
    /// # Panics
    ///
    /// Panics if the texts have different lengths or there is no free port.
    pub async fn rewriting(upstream: u16, original: &'static str, replacement: &'static str) -> Self {
        assert_eq!(original.len(), replacement.len(), "the protocol counts bytes");
        Self::with(upstream, Some((original.as_bytes(), replacement.as_bytes())), None, None).await
    }

    /// Makes a proxy that closes the connection of a client that sends `text`.
    ///
    /// # Panics
    ///
    /// Panics if there is no free port.
    pub async fn refusing(upstream: u16, text: &'static str) -> Self {
        Self::with(upstream, None, Some(text.as_bytes()), None).await
    }

    /// Makes a proxy that forwards no more on the connection of a client that sends `text`, unless the client
    /// sends `UNLINK` with it, as it does when it tries its permissions.
    ///
    /// # Panics
    ///
    /// Panics if there is no free port.
    pub async fn holding(upstream: u16, text: &'static str) -> Self {
        Self::with(upstream, None, None, Some(text.as_bytes())).await
    }

    async fn with(
        upstream: u16,
        rewrite: Option<(&'static [u8], &'static [u8])>,
        refused: Option<&'static [u8]>,
        held: Option<&'static [u8]>,
    ) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
        let port = listener.local_addr().expect("an address").port();
        let (gate, _) = watch::channel(Gate::default());
        let upstream = AtomicU16::new(upstream);
        let (next, chunks, dropped) = (AtomicU64::new(0), AtomicU64::new(0), Mutex::default());
        let shared = Arc::new(Shared { upstream, next, chunks, gate, rewrite, refused, held, dropped });
        let accepting = tokio::spawn(accept(listener, Arc::clone(&shared)));
        Self { port, shared, accepting }
    }

    /// Returns the port of the proxy.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// Returns the URL of a Redis server behind the proxy.
    #[must_use]
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/", self.port)
    }

    /// Returns the chunks that were not forwarded, one for each connection that was closed for it.
    #[must_use]
    pub fn refused(&self) -> Vec<Vec<u8>> {
        self.shared.dropped.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Returns how many chunks clients have sent. One write of a client is one chunk, up to 64 KiB.
    #[must_use]
    pub fn chunks(&self) -> u64 {
        self.shared.chunks.load(Ordering::SeqCst)
    }

    /// Returns how many connections the proxy has accepted.
    #[must_use]
    pub fn connections(&self) -> u64 {
        self.shared.next.load(Ordering::SeqCst)
    }

    /// Forwards new connections to this port.
    pub fn redirect(&self, upstream: u16) {
        self.shared.upstream.store(upstream, Ordering::SeqCst);
    }

    /// Delays both directions of the existing connections. New connections are forwarded.
    pub fn hold_existing(&self) {
        let next = self.shared.next.load(Ordering::SeqCst);
        self.shared.gate.send_modify(|gate| gate.held_below = next);
    }

    /// Delays both directions of all connections, the new ones too.
    pub fn hold_all(&self) {
        self.shared.gate.send_modify(|gate| gate.held_below = u64::MAX);
    }

    /// Delays the replies of the server on all connections.
    pub fn hold_replies(&self) {
        self.shared.gate.send_modify(|gate| gate.holds_replies = true);
    }

    /// Forwards everything that was delayed, even if its sender has closed the connection.
    pub fn release(&self) {
        self.shared.gate.send_modify(|gate| (gate.held_below, gate.holds_replies) = (0, false));
    }

    /// Closes the existing connections.
    pub fn cut(&self) {
        let next = self.shared.next.load(Ordering::SeqCst);
        self.shared.gate.send_modify(|gate| gate.cut_below = next);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
        self.shared.gate.send_modify(|gate| *gate = Gate { cut_below: u64::MAX, ..Gate::default() });
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    while let Ok((client, _)) = listener.accept().await {
        let number = shared.next.fetch_add(1, Ordering::SeqCst);
        let shared = Arc::clone(&shared);
        tokio::spawn(async move {
            let upstream = shared.upstream.load(Ordering::SeqCst);
            let Ok(server) = TcpStream::connect((Ipv4Addr::LOCALHOST, upstream)).await else { return };
            // Without it, small replies wait for each other.
            let _best_effort = (client.set_nodelay(true), server.set_nodelay(true));
            let (from_client, to_client) = client.into_split();
            let (from_server, to_server) = server.into_split();
            tokio::spawn(forward(from_client, to_server, Arc::clone(&shared), number, Direction::ToServer));
            tokio::spawn(forward(from_server, to_client, shared, number, Direction::ToClient));
        });
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Direction {
    ToServer,
    ToClient,
}

async fn forward(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    shared: Arc<Shared>,
    number: u64,
    direction: Direction,
) {
    let mut buffer = vec![0; 64 * 1024];
    let (mut gate, mut cut) = (shared.gate.subscribe(), shared.gate.subscribe());
    loop {
        let read = tokio::select! {
            read = from.read(&mut buffer) => read,
            _ = cut.wait_for(|gate| number < gate.cut_below) => return,
        };
        let Ok(length @ 1..) = read else { return };
        if direction == Direction::ToServer {
            shared.chunks.fetch_add(1, Ordering::SeqCst);
        }
        let bytes = &mut buffer[..length];
        match (direction, shared.rewrite, shared.refused) {
            (Direction::ToClient, Some((original, replacement)), _) => {
                while let Some(at) = bytes.windows(original.len()).position(|window| window == original) {
                    bytes[at..at + replacement.len()].copy_from_slice(replacement);
                }
            }
            (Direction::ToServer, _, Some(refused))
                if bytes.windows(refused.len()).any(|window| window == refused) =>
            {
                shared.dropped.lock().unwrap_or_else(PoisonError::into_inner).push(bytes.to_vec());
                return;
            }
            (Direction::ToServer, ..) if is_held(bytes, &shared) => std::future::pending().await,
            _ => {}
        }
        let passes = |gate: &Gate| {
            let is_held = gate.holds_replies && direction == Direction::ToClient;
            number >= gate.held_below && !is_held || number < gate.cut_below
        };
        let open = gate.wait_for(passes).await;
        if open.map_or(true, |gate| number < gate.cut_below) || to.write_all(&buffer[..length]).await.is_err()
        {
            return;
        }
    }
}

fn is_held(bytes: &[u8], shared: &Shared) -> bool {
    let has = |word: &[u8]| bytes.windows(word.len()).any(|window| window == word);
    shared.held.is_some_and(|held| has(held) && !has(b"UNLINK"))
}
