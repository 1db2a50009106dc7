//! Answering `GET` with small documents over HTTPS, for tools that know nothing of Sotto.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::tls::{ConnectionLimits, MAX_CONNECTION_AGE, Tls};
use crate::error::{ErrorCode, Result};

/// Most bytes of the head of a request.
const MAX_HEAD: usize = 8 * 1024;
/// Most header fields of a request.
const MAX_FIELDS: usize = 64;
/// How long the head of a request may take, or be waited for.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// A document.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Page {
    /// Its media type.
    pub content_type: &'static str,
    /// How long it may be kept by others: the header `Cache-Control`.
    pub cache_control: &'static str,
    /// What it says.
    pub body: Vec<u8>,
}

/// Answers `GET` and `HEAD` on a listener until `stop` is tripped, over HTTP/1.1. `page` gives the
/// document of a path; of `None` the caller is told that there is none.
///
/// Connections are bounded by `limits`, and a request's head in length and time; a body is never
/// read. The [`Tls`] is one that asks for no certificate
/// ([`super::tls::ClientCertificates::Unasked`]).
pub async fn serve<P, F>(
    tls: &Arc<Tls>,
    listener: TcpListener,
    limits: ConnectionLimits,
    stop: CancellationToken,
    page: P,
) where
    P: Fn(String) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Result<Option<Page>>> + Send + 'static,
{
    let connections = tls.incoming(listener, limits);
    tokio::pin!(connections);
    // What is still open at the end is cut off with this set.
    let mut serving = JoinSet::new();
    loop {
        let connection = tokio::select! {
            () = stop.cancelled() => return,
            next = connections.next() => match next {
                Some(Ok(connection)) => connection,
                Some(Err(_)) => continue,
                None => return,
            },
            Some(_) = serving.join_next() => continue,
        };
        let age = limits.max_age.0.min(MAX_CONNECTION_AGE);
        let page = page.clone();
        serving.spawn(async move {
            // A reader that is slow, or says nothing, is nobody's loss: nothing is said of it.
            let _ = timeout(age, converse(connection, page)).await;
        });
    }
}

/// Answers the requests of one connection, one after the other.
async fn converse<C, P, F>(connection: C, page: P)
where
    C: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    P: Fn(String) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Result<Option<Page>>> + Send + 'static,
{
    let service = service_fn(move |request: Request<Incoming>| {
        let (method, path) = (request.method().clone(), request.uri().path().to_owned());
        let page = page.clone();
        async move { Ok::<_, Infallible>(answer(&method, path, &page).await) }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_header_size(MAX_HEAD)
        .max_buf_size(2 * MAX_HEAD)
        .max_headers(MAX_FIELDS)
        .serve_connection(TokioIo::new(connection), service)
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "a reader of pages went away");
    }
}

async fn answer<P, F>(method: &Method, path: String, page: &P) -> Response<Full<Bytes>>
where
    P: Fn(String) -> F,
    F: Future<Output = Result<Option<Page>>>,
{
    if ![Method::GET, Method::HEAD].contains(method) {
        let mut refusal = empty(StatusCode::METHOD_NOT_ALLOWED);
        let methods = HeaderValue::from_static("GET, HEAD");
        refusal.headers_mut().insert(ALLOW, methods);
        return refusal;
    }
    match page(path).await {
        Ok(Some(page)) => written(page),
        Ok(None) => empty(StatusCode::NOT_FOUND),
        Err(error) if error.code == ErrorCode::Unavailable => {
            let mut refusal = empty(StatusCode::SERVICE_UNAVAILABLE);
            let later = HeaderValue::from_static("1");
            refusal.headers_mut().insert(RETRY_AFTER, later);
            refusal
        }
        Err(error) => {
            let cause = error.source.as_deref().map(ToString::to_string);
            tracing::error!(%error, cause, "a page could not be read");
            empty(StatusCode::INTERNAL_SERVER_ERROR)
        }
    }
}

fn written(page: Page) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(page.body.into()));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(page.content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static(page.cache_control));
    response
}

fn empty(status: StatusCode) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::default());
    *response.status_mut() = status;
    let never = HeaderValue::from_static("no-store");
    response.headers_mut().insert(CACHE_CONTROL, never);
    response
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};

    use super::*;
    use crate::error::Error;
    use crate::service::https::Document;
    use crate::service::testing::{BROKER, Lab};
    use crate::service::tls::ClientCertificates;

    async fn page(path: String) -> Result<Option<Page>> {
        match path.as_str() {
            "/there" => Ok(Some(Page {
                content_type: "text/plain; charset=utf-8",
                cache_control: "no-cache",
                body: b"said".to_vec(),
            })),
            "/busy" => Err(Error::unavailable("away")),
            "/broken" => Err(Error::internal("broken")),
            _ => Ok(None),
        }
    }

    async fn asked(request: &str) -> String {
        let (mut near, far): (DuplexStream, _) = duplex(64 * 1024);
        let serving = tokio::spawn(converse(far, page));
        near.write_all(request.as_bytes()).await.expect("sent");
        let mut answer = String::new();
        near.read_to_string(&mut answer).await.expect("answered");
        serving.await.expect("no panic");
        answer
    }

    async fn get(path: &str) -> String {
        asked(&format!(
            "GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n"
        ))
        .await
    }

    #[tokio::test]
    async fn a_page_is_answered_with_its_type_and_how_long_it_may_be_kept() {
        let answer = get("/there").await;
        assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
        assert!(answer.contains("content-type: text/plain; charset=utf-8"));
        assert!(answer.contains("cache-control: no-cache"), "{answer}");
        assert!(answer.ends_with("\r\n\r\nsaid"), "{answer}");
        let head = "HEAD /there HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n";
        let answer = asked(head).await;
        assert!(answer.contains("content-length: 4"), "{answer}");
        assert!(answer.ends_with("\r\n\r\n"), "{answer}");
    }

    #[tokio::test]
    async fn what_is_not_there_or_not_now_or_not_asked_for_so_is_refused() {
        for (path, status) in [("/", "404"), ("/busy", "503"), ("/broken", "500")] {
            let answer = get(path).await;
            let expected = format!("HTTP/1.1 {status}");
            assert!(answer.starts_with(&expected), "{answer}");
            assert!(!answer.contains("broken"), "{answer}");
        }
        let post = "POST /there HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n";
        assert!(asked(post).await.starts_with("HTTP/1.1 405"));
        let long = "x".repeat(MAX_HEAD);
        let long = format!("GET /{long} HTTP/1.1\r\nHost: test\r\n\r\n");
        let answer = asked(&long).await;
        assert!(answer.starts_with("HTTP/1.1 4"), "{answer}");
    }

    #[tokio::test]
    async fn nobody_is_asked_for_a_certificate() {
        let lab = Lab::new();
        lab.install("broker", &lab.issue(BROKER));
        let tls = Tls::load_for(lab.config("broker"), ClientCertificates::Unasked).expect("files");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let port = listener.local_addr().expect("bound").port();
        let stop = CancellationToken::new();
        let (ended, limits) = (stop.clone(), ConnectionLimits::default());
        let serving = tokio::spawn(async move {
            serve(&tls, listener, limits, ended, page).await;
        });
        let read = async |path: &str| {
            let address = format!("https://localhost:{port}{path}");
            let document = Document::new(&address, &lab.path("ca.pem"), 100).expect("an address");
            document.read().await
        };
        assert_eq!(read("/there").await.expect("read"), b"said");
        read("/").await.expect_err("not there");
        stop.cancel();
        serving.await.expect("no panic");
        read("/there").await.expect_err("closed");
    }
}
