//! Reading one small document over HTTPS, e.g. the keys of an identity provider.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, StatusCode, Uri, header};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::config::ConfigError;
use super::tls::{plain_client, server_name};

/// How long one reading may take, the connection included.
const TIMEOUT: Duration = Duration::from_secs(10);

/// A document at an `https` address, whose server must come from one of a few authorities.
///
/// TLS 1.3 only; redirects are not followed.
#[derive(Clone, Debug)]
pub struct Document {
    uri: Uri,
    tls: Arc<ClientConfig>,
    limit: usize,
}

impl Document {
    /// A document of at most `limit` bytes. `ca` is a PEM file with the authorities.
    ///
    /// # Errors
    /// [`ConfigError`] if the address is not `https://…`, or the file cannot be used.
    pub fn new(address: &str, ca: &Path, limit: usize) -> Result<Self, ConfigError> {
        let uri: Option<Uri> = address.parse().ok();
        let uri = uri
            .filter(|uri| uri.scheme_str() == Some("https") && server_name(uri).is_some())
            .ok_or_else(|| ConfigError::Setting(format!("{address}: expected https://…")))?;
        Ok(Self {
            uri,
            tls: plain_client(ca)?,
            limit,
        })
    }

    /// Reads it.
    ///
    /// # Errors
    /// If the server cannot be reached or believed, answers anything but 200, or says more than
    /// the limit, or takes longer than ten seconds.
    pub async fn read(&self) -> io::Result<Vec<u8>> {
        timeout(TIMEOUT, self.fetch())
            .await
            .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "no answer within 10 s"))?
    }

    async fn fetch(&self) -> io::Result<Vec<u8>> {
        let (host, name) = server_name(&self.uri).ok_or_else(|| io::Error::other("no host"))?;
        let port = self.uri.port_u16().unwrap_or(443);
        let tcp = TcpStream::connect((host, port)).await?;
        let connector = TlsConnector::from(Arc::clone(&self.tls));
        let stream = connector.connect(name, tcp).await?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(io::Error::other)?;
        let exchange = async {
            let path = self.uri.path_and_query().map_or("/", |path| path.as_str());
            let authority = self.uri.authority().map_or("", |a| a.as_str());
            let request = Request::get(path)
                .header(header::HOST, authority)
                .header(header::ACCEPT, "application/json")
                .body(Empty::<Bytes>::new())
                .map_err(io::Error::other)?;
            let response = sender
                .send_request(request)
                .await
                .map_err(io::Error::other)?;
            if response.status() != StatusCode::OK {
                let status = response.status();
                return Err(io::Error::other(format!("the server answered {status}")));
            }
            let body = Limited::new(response.into_body(), self.limit).collect();
            Ok(body.await.map_err(io::Error::other)?.to_bytes().to_vec())
        };
        // The connection does the work of both, and may end before the answer is read out.
        tokio::pin!(exchange);
        tokio::select! {
            answer = &mut exchange => answer,
            ended = connection => match ended {
                Ok(()) => exchange.await,
                Err(error) => Err(io::Error::other(error)),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use rustls::ServerConfig;
    use rustls::crypto::aws_lc_rs;
    use rustls_pki_types::pem::PemObject as _;
    use rustls_pki_types::{CertificateDer, PrivateKeyDer};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;
    use tokio_rustls::TlsAcceptor;

    use super::*;
    use crate::service::testing::{BROKER, Lab};

    /// A server of plain HTTPS that gives each connection these bytes; tells its address.
    async fn answering(lab: &Lab, answer: String) -> String {
        let issued = lab.issue(BROKER);
        let certificate = CertificateDer::from_pem_slice(issued.certificate.as_bytes());
        let key = PrivateKeyDer::from_pem_slice(issued.key.as_bytes()).expect("a key");
        let provider = Arc::new(aws_lc_rs::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("TLS 1.3")
            .with_no_client_auth()
            .with_single_cert(vec![certificate.expect("PEM")], key)
            .expect("a pair");
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let port = listener.local_addr().expect("bound").port();
        tokio::spawn(async move {
            loop {
                let (tcp, _) = listener.accept().await.expect("accepted");
                let Ok(mut stream) = acceptor.accept(tcp).await else {
                    continue;
                };
                let mut asked = [0; 1024];
                let length = stream.read(&mut asked).await.expect("asked");
                assert!(asked[..length].starts_with(b"GET /keys?v=1 HTTP/1.1"));
                // A client that has had enough hangs up.
                let _ = stream.write_all(answer.as_bytes()).await;
                let _ = stream.shutdown().await;
            }
        });
        format!("https://localhost:{port}/keys?v=1")
    }

    async fn read(lab: &Lab, answer: &str) -> io::Result<Vec<u8>> {
        let address = answering(lab, answer.to_owned()).await;
        let document = Document::new(&address, &lab.path("ca.pem"), 10).expect("an address");
        document.read().await
    }

    #[tokio::test]
    async fn reads_a_document_up_to_its_limit() {
        let lab = Lab::new();
        let whole = "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n0123456789";
        assert_eq!(read(&lab, whole).await.expect("read"), b"0123456789");
        let closed = "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n0123";
        assert_eq!(read(&lab, closed).await.expect("read"), b"0123");
        for (answer, expected) in [
            (
                "HTTP/1.1 200 OK\r\nContent-Length: 11\r\n\r\n01234567890",
                "length limit",
            ),
            (
                "HTTP/1.1 302 Found\r\nLocation: https://evil.example\r\n\r\n",
                "302",
            ),
            ("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n0123", ""),
            ("SSH-2.0\r\n", ""),
        ] {
            let error = read(&lab, answer).await.expect_err(answer).to_string();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[tokio::test]
    async fn believes_its_own_authorities_alone() {
        let (lab, other) = (Lab::new(), Lab::new());
        let address = answering(&lab, String::new()).await;
        let document = Document::new(&address, &other.path("ca.pem"), 10).expect("an address");
        let error = document.read().await.expect_err("refused").to_string();
        assert!(error.contains("certificate"), "{error}");
    }

    #[test]
    fn only_https_is_an_address() {
        let lab = Lab::new();
        for bad in [
            "http://localhost/keys",
            "localhost",
            "https://",
            "",
            "file:///keys",
        ] {
            assert!(
                Document::new(bad, &lab.path("ca.pem"), 10).is_err(),
                "{bad}"
            );
        }
    }
}
