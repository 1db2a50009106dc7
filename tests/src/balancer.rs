//! A load balancer for TCP: it looks into no byte, as Sotto's TLS ends at the brokers.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// How long a backend has to accept.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// Hands each connection to the next backend that accepts it; ends when dropped.
///
/// A connection stays where it is, and breaks when its backend does.
#[derive(Debug)]
pub struct Balancer {
    address: SocketAddr,
    accepting: JoinHandle<()>,
}

impl Balancer {
    /// Starts on a free port of the loopback.
    pub async fn start(backends: Vec<SocketAddr>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let accepting = tokio::spawn(async move {
            for turn in 0.. {
                let (client, _) = listener.accept().await.expect("accepted");
                let mut backends = backends.clone();
                let first = turn % backends.len();
                backends.rotate_left(first);
                tokio::spawn(join_to_first(client, backends));
            }
        });
        Self { address, accepting }
    }

    /// Where it listens, as clients write it.
    pub fn url(&self) -> String {
        format!("https://{}", self.address)
    }
}

impl Drop for Balancer {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// Closes the connection if none of the backends accepts.
async fn join_to_first(mut client: TcpStream, backends: Vec<SocketAddr>) {
    for backend in backends {
        let connecting = tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(backend));
        if let Ok(Ok(mut server)) = connecting.await {
            // However it ends, both sides are closed.
            let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
            return;
        }
    }
}
