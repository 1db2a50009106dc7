//! A port of the loopback that nobody else is given.

use std::net::SocketAddr;

use tokio::net::TcpSocket;

/// A port that stays with its holder while nothing listens there: e.g. that of a server which is
/// started again.
///
/// A socket is bound to it that never listens: whoever asks for any free port gets another one. A
/// server that binds it by its number with `SO_REUSEADDR`, as Tokio and the standard library do,
/// listens all the same.
#[derive(Debug)]
pub struct Port {
    address: SocketAddr,
    /// Bound until this is dropped.
    _held: TcpSocket,
}

impl Port {
    /// A free port of 127.0.0.1.
    ///
    /// # Panics
    /// If there is none.
    #[must_use]
    pub fn reserve() -> Self {
        let held = TcpSocket::new_v4().expect("a socket");
        held.set_reuseaddr(true).expect("set");
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        held.bind(any).expect("a free port");
        Self {
            address: held.local_addr().expect("bound"),
            _held: held,
        }
    }

    /// Where to listen.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn a_server_comes_back_to_its_port_which_refuses_meanwhile() {
        let port = Port::reserve();
        for _ in 0..3 {
            let refused = TcpStream::connect(port.address()).expect_err("nobody listens");
            assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
            let listener = TcpListener::bind(port.address()).expect("the port");
            let client = TcpStream::connect(port.address()).expect("connected");
            let (server, _) = listener.accept().expect("accepted");
            // Closed from here first, as by a server that stops.
            drop((server, listener, client));
        }
    }
}
