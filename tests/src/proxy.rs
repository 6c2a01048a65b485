//! A TCP proxy that delays, cuts and redirects, for faults between a client and its server.

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Listens on a free port of the loopback interface and passes on, until dropped.
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
    /// How many pieces clients have sent.
    pieces: AtomicU64,
    gate: watch::Sender<Gate>,
    /// What the server says, and what the client hears instead: of the same length.
    rewrite: Option<(&'static [u8], &'static [u8])>,
    /// What closes a connection instead of being passed on, and what was.
    refused: Option<&'static [u8]>,
    kept: Mutex<Vec<Vec<u8>>>,
}

/// Which connections, counted from 0, are held or cut.
#[derive(Debug, Clone, Copy, Default)]
struct Gate {
    held_below: u64,
    cut_below: u64,
    holds_replies: bool,
}

impl Proxy {
    /// A proxy in front of this port.
    ///
    /// # Panics
    ///
    /// If there is no free port.
    pub async fn start(upstream: u16) -> Self {
        Self::with(upstream, None, None).await
    }

    /// A proxy through which the client hears the second text instead of the first.
    ///
    /// # Panics
    ///
    /// If the texts are of different lengths, or there is no free port.
    pub async fn rewriting(upstream: u16, said: &'static str, heard: &'static str) -> Self {
        assert_eq!(said.len(), heard.len(), "the protocol counts bytes");
        Self::with(upstream, Some((said.as_bytes(), heard.as_bytes())), None).await
    }

    /// A proxy that closes the connection, instead of passing it on, when a client says this.
    ///
    /// # Panics
    ///
    /// If there is no free port.
    pub async fn refusing(upstream: u16, said: &'static str) -> Self {
        Self::with(upstream, None, Some(said.as_bytes())).await
    }

    async fn with(
        upstream: u16,
        rewrite: Option<(&'static [u8], &'static [u8])>,
        refused: Option<&'static [u8]>,
    ) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
        let port = listener.local_addr().expect("an address").port();
        let (gate, _) = watch::channel(Gate::default());
        let upstream = AtomicU16::new(upstream);
        let (next, pieces, kept) = (AtomicU64::new(0), AtomicU64::new(0), Mutex::default());
        let shared = Arc::new(Shared { upstream, next, pieces, gate, rewrite, refused, kept });
        let accepting = tokio::spawn(accept(listener, Arc::clone(&shared)));
        Self { port, shared, accepting }
    }

    /// The port it listens on.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// How clients reach the server through it.
    #[must_use]
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/", self.port)
    }

    /// What was not passed on, one item for each connection that was closed for it.
    #[must_use]
    pub fn refused(&self) -> Vec<Vec<u8>> {
        self.shared.kept.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How many pieces clients have sent on all connections: what one writes at once is one, up to 64 KiB.
    #[must_use]
    pub fn pieces(&self) -> u64 {
        self.shared.pieces.load(Ordering::SeqCst)
    }

    /// How many connections there have been.
    #[must_use]
    pub fn connections(&self) -> u64 {
        self.shared.next.load(Ordering::SeqCst)
    }

    /// New connections lead to this port from now on.
    pub fn redirect(&self, upstream: u16) {
        self.shared.upstream.store(upstream, Ordering::SeqCst);
    }

    /// Holds back what is sent on the connections there are, in both directions; new ones pass.
    pub fn hold_existing(&self) {
        let next = self.shared.next.load(Ordering::SeqCst);
        self.shared.gate.send_modify(|gate| gate.held_below = next);
    }

    /// Holds back what is sent on all connections, new ones too.
    pub fn hold_all(&self) {
        self.shared.gate.send_modify(|gate| gate.held_below = u64::MAX);
    }

    /// Holds back what the server says on all connections.
    pub fn hold_replies(&self) {
        self.shared.gate.send_modify(|gate| gate.holds_replies = true);
    }

    /// Passes on what was held back, even if who sent it is gone.
    pub fn release(&self) {
        self.shared.gate.send_modify(|gate| (gate.held_below, gate.holds_replies) = (0, false));
    }

    /// Closes the connections there are.
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
            // Without, small answers wait for each other.
            let _best_effort = (client.set_nodelay(true), server.set_nodelay(true));
            let (from_client, to_client) = client.into_split();
            let (from_server, to_server) = server.into_split();
            tokio::spawn(pass_on(from_client, to_server, Arc::clone(&shared), number, Direction::ToServer));
            tokio::spawn(pass_on(from_server, to_client, shared, number, Direction::ToClient));
        });
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Direction {
    ToServer,
    ToClient,
}

async fn pass_on(
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
            shared.pieces.fetch_add(1, Ordering::SeqCst);
        }
        let bytes = &mut buffer[..length];
        match (direction, shared.rewrite, shared.refused) {
            (Direction::ToClient, Some((said, heard)), _) => {
                while let Some(at) = bytes.windows(said.len()).position(|window| window == said) {
                    bytes[at..at + heard.len()].copy_from_slice(heard);
                }
            }
            (Direction::ToServer, _, Some(refused))
                if bytes.windows(refused.len()).any(|window| window == refused) =>
            {
                shared.kept.lock().unwrap_or_else(PoisonError::into_inner).push(bytes.to_vec());
                return;
            }
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
