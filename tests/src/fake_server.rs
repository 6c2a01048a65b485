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
