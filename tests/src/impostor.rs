//! A server that is not what its clients take it for.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// Listens on a free port of the loopback interface, until dropped.
#[derive(Debug)]
pub struct Impostor {
    address: SocketAddr,
    connections: Arc<AtomicU64>,
    accepting: JoinHandle<()>,
}

impl Impostor {
    /// Says this on each connection, whatever is asked, and closes it.
    ///
    /// # Panics
    ///
    /// If there is no free port.
    pub async fn saying(answer: &'static [u8]) -> Self {
        Self::start(move |mut stream| async move {
            let mut buffer = [0; 1024];
            let _asked = stream.read(&mut buffer).await;
            // Who asked may have gone.
            let _heard = stream.write_all(answer).await;
        })
        .await
    }

    /// Hears, and never answers.
    ///
    /// # Panics
    ///
    /// If there is no free port.
    pub async fn silent() -> Self {
        Self::start(async |_stream| std::future::pending().await).await
    }

    /// Closes every connection at once.
    ///
    /// # Panics
    ///
    /// If there is no free port.
    pub async fn hanging_up() -> Self {
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

    /// Where it listens: `127.0.0.1:port`.
    #[must_use]
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// How many connections there have been.
    #[must_use]
    pub fn connections(&self) -> u64 {
        self.connections.load(Ordering::SeqCst)
    }
}

impl Drop for Impostor {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}
