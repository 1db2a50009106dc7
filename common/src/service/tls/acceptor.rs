//! The server's end: accepts, shakes hands within bounds, and knows who came.

use std::collections::{HashMap, VecDeque};
use std::io::{self, IoSlice};
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use serde::Deserialize;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::AbortHandle;
use tokio::time::{Sleep, sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::Connected;
use tracing::{debug, info, warn};

use super::{MAX_CONNECTION_AGE, Tls};
use crate::ids::SpiffeId;
use crate::service::config::HumanDuration;
use crate::service::identity::{Peer, PeerIdentity};

/// The pauses after failures to accept, e.g. for want of file descriptors: from, to.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(1));

/// Connections that have shaken hands and wait for the server to take them.
const ACCEPTED: usize = 16;

/// The section `connections`: bounds on what peers may hold open.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ConnectionLimits {
    /// Connections at a time, those that still shake hands included; more are closed at once.
    pub open: usize,
    /// Connections at a time of one identity, or of all peers without one at one address; more are
    /// closed.
    pub per_peer: usize,
    /// Handshakes at a time; beyond that the one that has taken longest is cut off.
    pub handshakes: usize,
    /// How long a handshake may take.
    pub handshake_timeout: HumanDuration,
    /// How long a connection may live; an hour at most, whatever is set (protocol §12).
    pub max_age: HumanDuration,
}

impl Default for ConnectionLimits {
    fn default() -> Self {
        Self {
            open: 1024,
            per_peer: 128,
            handshakes: 256,
            handshake_timeout: HumanDuration(Duration::from_secs(10)),
            max_age: HumanDuration(MAX_CONNECTION_AGE),
        }
    }
}

impl ConnectionLimits {
    pub(super) fn age(&self) -> Duration {
        self.max_age.0.min(MAX_CONNECTION_AGE)
    }
}

impl Tls {
    /// The connections of a listener, for tonic's `serve_with_incoming_shutdown`.
    ///
    /// Handshakes run beside each other; one that fails is logged and never ends the stream.
    /// Dropping the stream closes the listener. Must be called within a Tokio runtime.
    pub fn incoming(
        self: &Arc<Self>,
        listener: TcpListener,
        limits: ConnectionLimits,
    ) -> impl Stream<Item = io::Result<Connection>> + Send + use<> {
        let (accepted, connections) = mpsc::channel(ACCEPTED);
        tokio::spawn(accept_all(Arc::clone(self), listener, limits, accepted));
        ReceiverStream::new(connections)
    }
}

async fn accept_all(
    tls: Arc<Tls>,
    listener: TcpListener,
    limits: ConnectionLimits,
    accepted: mpsc::Sender<io::Result<Connection>>,
) {
    let rooms = Arc::new(Semaphore::new(limits.open));
    let seats = Seats::default();
    let mut handshakes: VecDeque<AbortHandle> = VecDeque::new();
    loop {
        let (tcp, address) = tokio::select! {
            () = accepted.closed() => return,
            next = accept_one(&listener) => next,
        };
        handshakes.retain(|handshake| !handshake.is_finished());
        // Whoever opens connections and says nothing must not lock the others out: the one that
        // has taken longest makes room.
        if handshakes.len() >= limits.handshakes
            && let Some(slowest) = handshakes.pop_front()
        {
            debug!("a slow TLS handshake made room for a new one");
            slowest.abort();
        }
        let Ok(room) = Arc::clone(&rooms).try_acquire_owned() else {
            warn!(%address, open = limits.open, "connection refused: too many are open");
            continue;
        };
        let (tls, accepted, seats) = (Arc::clone(&tls), accepted.clone(), seats.clone());
        let handshake = tokio::spawn(async move {
            let shaken = timeout(
                limits.handshake_timeout.0,
                Connection::accept(&tls, tcp, address, room, &seats, &limits),
            )
            .await;
            match shaken {
                // If nobody takes connections any more, this one is closed by being dropped.
                Ok(Ok(connection)) => drop(accepted.send(Ok(connection)).await),
                Ok(Err(error)) => info!(%address, %error, "TLS handshake failed"),
                Err(_) => debug!(%address, "TLS handshake took too long"),
            }
        });
        handshakes.push_back(handshake.abort_handle());
    }
}

/// Accepts the next connection, however often the system has to be asked.
async fn accept_one(listener: &TcpListener) -> (TcpStream, SocketAddr) {
    let (mut pause, longest) = BACK_OFF;
    loop {
        match listener.accept().await {
            Ok(accepted) => return accepted,
            // The peer's doing, and over: the next one can be accepted at once.
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::ConnectionAborted
                        | io::ErrorKind::ConnectionReset
                        | io::ErrorKind::Interrupted
                ) => {}
            // The system's, e.g. EMFILE: asking again at once would only burn the processor.
            Err(error) => {
                warn!(%error, "cannot accept connections; trying again");
                sleep(pause).await;
                pause = (pause * 2).min(longest);
            }
        }
    }
}

/// One accepted connection: its peer was verified, and it ends at its greatest age.
#[derive(Debug)]
pub struct Connection {
    stream: TlsStream<TcpStream>,
    peer: Peer,
    end: Pin<Box<Sleep>>,
    _room: OwnedSemaphorePermit,
    _seat: Seat,
}

/// The connections open of each identity: one member must not take everybody's room.
#[derive(Clone, Debug, Default)]
struct Seats(Arc<Mutex<HashMap<Whose, usize>>>);

/// Whose a connection is.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
enum Whose {
    Identity(SpiffeId),
    /// Without an identity: those at one address must not take the seats of all others.
    Address(IpAddr),
}

impl Seats {
    fn taken(&self) -> MutexGuard<'_, HashMap<Whose, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self, whose: Whose, most: usize) -> Option<Seat> {
        let mut taken = self.taken();
        let count = taken.entry(whose.clone()).or_default();
        if *count >= most {
            return None;
        }
        *count += 1;
        Some(Seat {
            seats: self.clone(),
            whose,
        })
    }
}

/// Given back when its connection ends.
#[derive(Debug)]
struct Seat {
    seats: Seats,
    whose: Whose,
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut taken = self.seats.taken();
        if let Some(count) = taken.get_mut(&self.whose) {
            *count -= 1;
            if *count == 0 {
                taken.remove(&self.whose);
            }
        }
    }
}

impl Connection {
    async fn accept(
        tls: &Tls,
        tcp: TcpStream,
        address: SocketAddr,
        room: OwnedSemaphorePermit,
        seats: &Seats,
        limits: &ConnectionLimits,
    ) -> io::Result<Self> {
        tcp.set_nodelay(true)?;
        let acceptor = TlsAcceptor::from(tls.current().server());
        let stream = acceptor.accept(tcp).await?;
        let certificates = stream.get_ref().1.peer_certificates();
        let certificate = certificates.and_then(<[_]>::first);
        let certified = certificate.is_some();
        let identity = certificate.and_then(|certificate| {
            PeerIdentity::from_certificate(certificate, &tls.config.trust_domain).ok()
        });
        let whose = match &identity {
            Some(identity) => Whose::Identity(identity.spiffe().clone()),
            None => Whose::Address(address.ip()),
        };
        let seat = seats.take(whose, limits.per_peer).ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::QuotaExceeded,
                "too many connections of one identity",
            )
        })?;
        Ok(Self {
            stream,
            peer: Peer {
                identity,
                certified,
                address,
            },
            end: Box::pin(sleep(limits.age())),
            _room: room,
            _seat: seat,
        })
    }
}

impl Connected for Connection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        // HTTP/2 always has a read pending, so this is where the end is noticed.
        if self.end.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(io::Error::new(
                io::ErrorKind::TimedOut,
                "the connection has reached its greatest age",
            )));
        }
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
