//! Peers that no honest program is: other certificates, other versions of TLS, none at all.

use std::net::SocketAddr;
use std::sync::Arc;

use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::RootCertStore;
use rustls::crypto::aws_lc_rs;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint};

/// A channel with any certificate, PEM, or none; it believes the broker of `authority`.
pub fn channel(address: SocketAddr, authority: &str, certificate: Option<(&str, &str)>) -> Channel {
    let der = |pem: &str| CertificateDer::from_pem_slice(pem.as_bytes()).expect("a certificate");
    let mut roots = RootCertStore::empty();
    roots.add(der(authority)).expect("an authority");
    let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3")
        .with_root_certificates(roots);
    let mut config = match certificate {
        None => builder.with_no_client_auth(),
        Some((certificate, key)) => {
            let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).expect("a key");
            builder
                .with_client_auth_cert(vec![der(certificate)], key)
                .expect("a certificate with its key")
        }
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    let connector = TlsConnector::from(Arc::new(config));
    let connect = tower::service_fn(move |_: tonic::transport::Uri| {
        let connector = connector.clone();
        async move {
            let tcp = TcpStream::connect(address).await?;
            let host = ServerName::from(address.ip());
            connector.connect(host, tcp).await.map(TokioIo::new)
        }
    });
    let url = format!("https://{address}");
    Endpoint::from_shared(url)
        .expect("an address")
        .connect_with_connector_lazy(connect)
}

/// A channel that speaks HTTP/2 without TLS.
pub fn plaintext_channel(address: SocketAddr) -> Channel {
    Endpoint::from_shared(format!("http://{address}"))
        .expect("an address")
        .connect_lazy()
}

/// Sends a TLS 1.2 hello, as a client without TLS 1.3 does; returns what comes back.
pub async fn tls12_hello(address: SocketAddr) -> Vec<u8> {
    let mut tcp = TcpStream::connect(address).await.expect("connected");
    tcp.write_all(&client_hello()).await.expect("sent");
    let mut answer = Vec::new();
    // A reset instead of an orderly end is an answer too.
    let _ = tcp.read_to_end(&mut answer).await;
    answer
}

/// RFC 5246 §7.4.1.2: version 3.3, and no `supported_versions` extension that says more.
fn client_hello() -> Vec<u8> {
    let suites: &[u8] = &[0xc0, 0x2b, 0xc0, 0x2f, 0xc0, 0x2c, 0xc0, 0x30];
    let extensions: &[u8] = &[
        0, 10, 0, 6, 0, 4, 0, 29, 0, 23, // groups: x25519, secp256r1
        0, 11, 0, 2, 1, 0, // uncompressed points
        0, 13, 0, 8, 0, 6, 4, 3, 8, 4, 8, 7, // signatures: ECDSA, PSS, Ed25519
        0, 16, 0, 5, 0, 3, 2, b'h', b'2', // ALPN
    ];
    let mut body = vec![3, 3];
    body.extend([0x5a; 32]);
    body.push(0);
    body.extend(length(suites));
    body.extend(suites);
    body.extend([1, 0]);
    body.extend(length(extensions));
    body.extend(extensions);
    let mut handshake = vec![1, 0];
    handshake.extend(length(&body));
    handshake.extend(body);
    let mut record = vec![22, 3, 1];
    record.extend(length(&handshake));
    record.extend(handshake);
    record
}

fn length(bytes: &[u8]) -> [u8; 2] {
    u16::try_from(bytes.len()).expect("short").to_be_bytes()
}
