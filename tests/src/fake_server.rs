//! A server that does not speak the protocol of its clients.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// Listens on a free port of the loopback interface until dropped.
#[derive(Debug)]
pub struct FakeServer {
    address: SocketAddr,
    connections: Arc<AtomicU64>,
    accepting: JoinHandle<()>,
}

impl FakeServer {
    /// Makes a server that sends `reply` to any request and closes the connection.
    ///
    /// # Panics
    ///
    /// Panics if there is no free port.
    pub async fn replying(reply: &'static [u8]) -> Self {
        Self::start(move |mut stream| async move {
            let mut buffer = [0; 1024];
            let _request = stream.read(&mut buffer).await;
            // The client may have closed the connection.
            let _sent = stream.write_all(reply).await;
        })
        .await
    }

    /// Makes a server that never replies.
    ///
    /// # Panics
    ///
    /// Panics if there is no free port.
    pub async fn silent() -> Self {
        Self::start(async |_stream| std::future::pending().await).await
    }

    /// Makes a server that closes every connection at once.
    ///
    /// # Panics
    ///
    /// Panics if there is no free port.
    pub async fn closing() -> Self {
        Self::start(async |_stream| {}).await
    }

    /// Passes on to a Redis server, and fills these fields of 40 digits with zeros in what it replies, as a
    /// proxy may that has several servers behind it.
    ///
    /// # Panics
    ///
    /// If there is no free port.
    pub async fn masking(upstream: u16, fields: &'static [&'static str]) -> Self {
        Self::start(move |stream| mask(stream, upstream, fields)).await
    }

    /// Passes on to these ports by turns, one for each connection.
    ///
    /// # Panics
    ///
    /// If there is no free port, or no port to pass on to.
    pub async fn by_turns(upstream: Vec<u16>) -> Self {
        let next = AtomicU64::new(0);
        Self::start(move |stream| {
            let turn = next.fetch_add(1, Ordering::SeqCst);
            let count = u64::try_from(upstream.len()).expect("not that many");
            let port = upstream[usize::try_from(turn % count).expect("an index")];
            mask(stream, port, &[])
        })
        .await
    }

    /// Plays a sentinel that names whatever `named` has.
    ///
    /// # Panics
    ///
    /// If there is no free port.
    pub async fn sentinel(named: Arc<NamedPrimary>) -> Self {
        Self::start(move |stream| answer_as_sentinel(stream, Arc::clone(&named))).await
    }

    async fn start<Serving: Future<Output = ()> + Send + 'static>(
        serve: impl Fn(TcpStream) -> Serving + Send + 'static,
    ) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let connections = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&connections);
        let accepting = tokio::spawn(async move {
            let mut serving = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                counted.fetch_add(1, Ordering::SeqCst);
                serving.spawn(serve(stream));
            }
        });
        Self { address, connections, accepting }
    }

    /// Returns the address, `127.0.0.1:port`.
    #[must_use]
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// Returns how many connections the server has accepted.
    #[must_use]
    pub fn connections(&self) -> u64 {
        self.connections.load(Ordering::SeqCst)
    }
}

impl Drop for FakeServer {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// The primary that a played sentinel names, on the loopback interface, and since which failover.
#[derive(Debug, Default)]
pub struct NamedPrimary {
    port: AtomicU64,
    epoch: AtomicU64,
}

impl NamedPrimary {
    /// A primary at this port, by a configuration of this epoch.
    #[must_use]
    pub fn new(port: u16, epoch: u64) -> Arc<Self> {
        let named = Self::default();
        named.set(port, epoch);
        Arc::new(named)
    }

    /// Names another one from now on.
    pub fn set(&self, port: u16, epoch: u64) {
        self.port.store(port.into(), Ordering::SeqCst);
        self.epoch.store(epoch, Ordering::SeqCst);
    }
}

async fn mask(mut client: TcpStream, upstream: u16, fields: &[&str]) {
    let Ok(mut server) = TcpStream::connect((Ipv4Addr::LOCALHOST, upstream)).await else { return };
    let (mut from_client, mut to_client) = client.split();
    let (mut from_server, mut to_server) = server.split();
    let replies = async {
        let mut buffer = vec![0; 1 << 16];
        while let Ok(length @ 1..) = from_server.read(&mut buffer).await {
            let bytes = &mut buffer[..length];
            for field in fields {
                let name = format!("{field}:");
                if let Some(at) = bytes.windows(name.len()).position(|window| window == name.as_bytes()) {
                    bytes[at + name.len()..][..40].fill(b'0');
                }
            }
            if to_client.write_all(bytes).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        _ = tokio::io::copy(&mut from_client, &mut to_server) => {}
        () = replies => {}
    }
}

async fn answer_as_sentinel(mut stream: TcpStream, named: Arc<NamedPrimary>) {
    let mut buffer = vec![0; 4096];
    while let Ok(length @ 1..) = stream.read(&mut buffer).await {
        let asked = String::from_utf8_lossy(&buffer[..length]).to_uppercase();
        let port = named.port.load(Ordering::SeqCst).to_string();
        let epoch = named.epoch.load(Ordering::SeqCst).to_string();
        let mut answer = "+OK\r\n".repeat(asked.matches("SETINFO").count());
        for word in asked.split("\r\n") {
            answer += &match word {
                "MASTER" => array(&["ip", "127.0.0.1", "port", &port, "config-epoch", &epoch]),
                "GET-MASTER-ADDR-BY-NAME" => array(&["127.0.0.1", &port]),
                _ => String::new(),
            };
        }
        if stream.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
    }
}

fn array(words: &[&str]) -> String {
    let words: String = words.iter().map(|word| format!("${}\r\n{word}\r\n", word.len())).collect();
    format!("*{}\r\n{words}", words.matches('$').count())
}
