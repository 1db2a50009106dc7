//! Real handshakes on the loopback interface.

use std::sync::Arc;
use std::time::Duration;

use http::Uri;
use rcgen::{CertificateParams, KeyPair};
use rustls::client::Resumption;
use rustls::crypto::aws_lc_rs::kx_group::{SECP256R1, SECP256R1MLKEM768, X25519};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::{ClientConfig, HandshakeKind, NamedGroup, ProtocolVersion, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_util::sync::CancellationToken;
use tonic::body::Body;
use tonic::transport::Channel;
use tower::{Service, ServiceExt};

use super::{ConnectionLimits, ExpectedPeer, Tls};
use crate::ids::Role;
use crate::service::config::{ConfigError, HumanDuration};
use crate::service::files::Readers;
use crate::service::identity::{PeerIdentity, Serial};
use crate::service::testing::{BROKER, Lab, NODE, TestServer, serve};

fn broker() -> ExpectedPeer {
    ExpectedPeer::of_role(Role::Broker)
}

async fn call(channel: &Channel) -> Result<http::HeaderMap, String> {
    let request = http::Request::post("/sotto.Test/Who")
        .body(Body::empty())
        .expect("a request");
    let mut channel = channel.clone();
    let answer = async { channel.ready().await?.call(request).await };
    let answer: Result<_, tonic::transport::Error> = answer.await;
    answer
        .map(|response| response.headers().clone())
        .map_err(|error| format!("{error:?}"))
}

async fn call_from(tls: &Arc<Tls>, server: &TestServer) -> Result<http::HeaderMap, String> {
    call(&tls.channel(&server.url(), broker()).expect("an address")).await
}

fn roots(lab: &Lab) -> RootCertStore {
    let mut roots = RootCertStore::empty();
    let ca = CertificateDer::from_pem_slice(lab.ca.certificate().as_bytes());
    roots.add(ca.expect("PEM")).expect("a root");
    roots
}

/// A client that keeps to everything but the certificate it shows.
fn client_without_certificate(lab: &Lab) -> ClientConfig {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3")
        .with_root_certificates(roots(lab))
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    config
}

/// What the server sends before it closes; an error counts as the end.
async fn answer_to(server: &TestServer, bytes: &[u8]) -> Vec<u8> {
    let mut tcp = TcpStream::connect(server.address).await.expect("connected");
    tcp.write_all(bytes).await.expect("sent");
    let mut answer = Vec::new();
    let _ = tcp.read_to_end(&mut answer).await;
    answer
}

#[tokio::test]
async fn negotiates_tls_1_3_with_the_hybrid_group_and_http2() {
    let lab = Lab::new();
    let server = serve(&lab.tls(BROKER), ConnectionLimits::default()).await;
    let node = lab.tls(NODE);
    let uri: Uri = server.url().parse().expect("a URI");
    let stream = node.connect(&uri, &broker()).await.expect("connected");
    let session = stream.get_ref().1;
    assert_eq!(session.protocol_version(), Some(ProtocolVersion::TLSv1_3));
    let group = session.negotiated_key_exchange_group().expect("a group");
    assert_eq!(group.name(), NamedGroup::X25519MLKEM768);
    assert_eq!(session.alpn_protocol(), Some(&b"h2"[..]));
}

/// Shakes hands with a client of another make, and waits for the server's first frame.
async fn shake(server: &TestServer, config: &Arc<ClientConfig>) -> std::io::Result<HandshakeKind> {
    let connector = TlsConnector::from(Arc::clone(config));
    let tcp = TcpStream::connect(server.address).await?;
    let name = ServerName::try_from("localhost").expect("a name");
    let mut stream = connector.connect(name, tcp).await?;
    // Tickets, if any, come before the first frame.
    stream.read_exact(&mut [0; 9]).await?;
    Ok(stream.get_ref().1.handshake_kind().expect("shaken"))
}

#[tokio::test]
async fn never_resumes_a_session_even_for_a_client_that_would() {
    let lab = Lab::new();
    let server = serve(&lab.tls(BROKER), ConnectionLimits::default()).await;
    let mut config = (*lab.tls(NODE).current().client()).clone();
    config.resumption = Resumption::in_memory_sessions(8);
    let config = Arc::new(config);
    for _ in 0..2 {
        let kind = shake(&server, &config).await.expect("shaken");
        assert_eq!(kind, HandshakeKind::Full);
    }
}

#[tokio::test]
async fn accepts_x25519_alone_and_no_other_curve() {
    let lab = Lab::new();
    let server = serve(&lab.tls(BROKER), ConnectionLimits::default()).await;
    lab.install("nl-fiu", &lab.issue(NODE));
    for (group, accepted) in [
        (X25519, true),
        (SECP256R1, false),
        (SECP256R1MLKEM768, false),
    ] {
        let ours = Tls::load(lab.config("nl-fiu"))
            .expect("loaded")
            .current()
            .client();
        let provider = CryptoProvider {
            kx_groups: vec![group],
            ..(**ours.crypto_provider()).clone()
        };
        let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("TLS 1.3")
            .with_root_certificates(roots(&lab))
            .with_client_cert_resolver(Arc::clone(&ours.client_auth_cert_resolver));
        config.alpn_protocols = vec![b"h2".to_vec()];
        let shaken = shake(&server, &Arc::new(config)).await;
        assert_eq!(shaken.is_ok(), accepted, "{:?}", group.name());
    }
}

#[tokio::test]
async fn a_request_knows_its_peer() {
    let lab = Lab::new();
    let server = serve(&lab.tls(BROKER), ConnectionLimits::default()).await;
    let headers = call_from(&lab.tls(NODE), &server).await.expect("answered");
    assert_eq!(headers["peer"], NODE);
}

#[tokio::test]
async fn refuses_plain_text_and_tls_1_2() {
    let lab = Lab::new();
    let server = serve(&lab.tls(BROKER), ConnectionLimits::default()).await;
    let plain = answer_to(&server, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
    // At most a TLS alert (content type 21), never a frame of HTTP/2.
    assert!(plain.first().is_none_or(|first| *first == 21), "{plain:?}");

    // A ClientHello of TLS 1.2: no supported_versions, TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
    // x25519, ecdsa_secp256r1_sha256.
    let extensions = hex::decode(concat!(
        "000a00040002001d", // supported_groups
        "000b00020100",     // ec_point_formats
        "000d000400020403", // signature_algorithms
        "00170000",         // extended_master_secret
    ));
    let extensions = extensions.expect("hex");
    let mut body = vec![3, 3];
    body.extend([7; 32]);
    body.extend([0, 0, 2, 0xc0, 0x2b, 1, 0]);
    body.extend(
        u16::try_from(extensions.len())
            .expect("short")
            .to_be_bytes(),
    );
    body.extend(extensions);
    let length = u8::try_from(body.len()).expect("short");
    let mut hello = vec![22, 3, 1, 0, length + 4, 1, 0, 0, length];
    hello.extend(body);
    let answer = answer_to(&server, &hello).await;
    // A fatal alert, protocol_version (70) as RFC 8446 §4.2.1 asks.
    assert_eq!((answer[0], &answer[5..]), (21, &[2, 70][..]));
}

#[tokio::test]
async fn refuses_a_client_without_a_certificate() {
    let lab = Lab::new();
    let server = serve(&lab.tls(BROKER), ConnectionLimits::default()).await;
    let connector = TlsConnector::from(Arc::new(client_without_certificate(&lab)));
    let tcp = TcpStream::connect(server.address).await.expect("connected");
    let name = ServerName::try_from("localhost").expect("a name");
    // In TLS 1.3 the client has finished before the server judges it: the alert comes on reading.
    let refused = match connector.connect(name, tcp).await {
        Ok(mut stream) => stream.read(&mut [0; 1]).await.expect_err("refused"),
        Err(error) => error,
    };
    assert!(
        refused.to_string().contains("CertificateRequired"),
        "{refused}"
    );
}

#[tokio::test]
async fn refuses_certificates_of_another_authority_on_both_ends() {
    let (ours, theirs) = (Lab::new(), Lab::new());
    let server = serve(&ours.tls(BROKER), ConnectionLimits::default()).await;

    // A client of theirs does not believe our server.
    let error = call_from(&theirs.tls(NODE), &server)
        .await
        .expect_err("refused");
    assert!(error.contains("InvalidCertificate"), "{error}");

    // One that does is not believed.
    theirs.put(
        "ca.pem",
        ours.ca.certificate().as_bytes(),
        Readers::Everyone,
    );
    theirs.put(
        "crl.pem",
        &std::fs::read(ours.path("crl.pem")).expect("a list"),
        Readers::Everyone,
    );
    let stranger = Tls::load(theirs.config("nl-fiu")).expect("loaded");
    let uri: Uri = server.url().parse().expect("a URI");
    let mut stream = stranger
        .connect(&uri, &broker())
        .await
        .expect("half a handshake");
    let refused = stream.read(&mut [0; 1]).await.expect_err("refused");
    assert!(refused.to_string().contains("alert"), "{refused}");
}

#[tokio::test]
async fn a_peer_of_another_trust_domain_is_told_that_it_has_no_identity() {
    let (lab, other) = (Lab::new(), Lab::of("other.test"));
    // The broker believes both authorities, but only one trust domain.
    let both = format!("{}{}", lab.ca.certificate(), other.ca.certificate());
    lab.put("both.pem", both.as_bytes(), Readers::Everyone);
    lab.install("main", &lab.issue(BROKER));
    let mut config = lab.config("main");
    config.ca = lab.path("both.pem");
    config.crl = None;
    let server = serve(
        &Tls::load(config).expect("loaded"),
        ConnectionLimits::default(),
    )
    .await;

    lab.install("stranger", &other.issue("spiffe://other.test/node/nl-fiu"));
    let mut config = lab.config("stranger");
    config.trust_domain = "other.test".into();
    let stranger = Tls::load(config).expect("loaded");
    // Only the raw connection: a channel would refuse the broker's identity in its turn.
    let connector = TlsConnector::from(stranger.current().client());
    let tcp = TcpStream::connect(server.address).await.expect("connected");
    let name = ServerName::try_from("localhost").expect("a name");
    let stream = connector.connect(name, tcp).await.expect("shaken");
    let io = hyper_util::rt::TokioIo::new(stream);
    let mut once = Some(io);
    let channel = tonic::transport::Endpoint::from_static("https://localhost")
        .connect_with_connector_lazy(tower::service_fn(move |_| {
            std::future::ready(once.take().ok_or("connects once"))
        }));
    let headers = call(&channel).await.expect("answered");
    assert_eq!(headers["refused"], "IDENTITY_MISSING");
}

#[test]
fn a_certificate_names_exactly_one_identity() {
    let identity = |uris: &[&str]| {
        let mut params = CertificateParams::new(vec!["localhost".into()]).expect("params");
        // Never read (protocol §2).
        params
            .distinguished_name
            .push(rcgen::DnType::CommonName, NODE);
        for uri in uris {
            let uri = (*uri).try_into().expect("ASCII");
            params.subject_alt_names.push(rcgen::SanType::URI(uri));
        }
        let key = KeyPair::generate().expect("a key");
        let certificate = params.self_signed(&key).expect("signed");
        PeerIdentity::from_certificate(certificate.der(), "sotto.test")
    };
    assert_eq!(identity(&[NODE]).expect("one").spiffe().to_string(), NODE);
    for uris in [
        &[][..],
        &["https://sotto.test/node/nl-fiu"],
        &["spiffe://other.test/node/nl-fiu"],
        &[NODE, BROKER],
        &[NODE, "https://sotto.test/"],
    ] {
        let error = identity(uris).expect_err("no identity");
        assert_eq!(
            error.code,
            crate::error::ErrorCode::IdentityMissing,
            "{uris:?}"
        );
    }
}

#[tokio::test]
async fn a_revoked_client_is_refused_at_the_handshake_and_on_an_open_connection() {
    let lab = Lab::new();
    let broker_tls = lab.tls(BROKER);
    let server = serve(&broker_tls, ConnectionLimits::default()).await;
    let issued = lab.issue(NODE);
    lab.install("nl-fiu", &issued);
    let node = Tls::load(lab.config("nl-fiu")).expect("loaded");
    let channel = node.channel(&server.url(), broker()).expect("an address");
    assert_eq!(call(&channel).await.expect("answered")["peer"], NODE);

    let der = CertificateDer::from_pem_slice(issued.certificate.as_bytes());
    let peer = PeerIdentity::from_certificate(&der.expect("PEM"), "sotto.test").expect("named");
    let ended = tokio::spawn(broker_tls.revocation().revoked(peer));
    lab.revoke(&[Serial::of_pem(&issued.certificate).expect("a serial")]);
    broker_tls.reload().expect("read again");

    let headers = call(&channel).await.expect("answered");
    assert_eq!(headers["refused"], "CERTIFICATE_REVOKED");
    ended.await.expect("streams of the peer are told");
    let uri: Uri = server.url().parse().expect("a URI");
    let mut stream = node
        .connect(&uri, &broker())
        .await
        .expect("half a handshake");
    let refused = stream.read(&mut [0; 1]).await.expect_err("refused");
    assert!(
        refused.to_string().contains("CertificateRevoked"),
        "{refused}"
    );

    // Another node is not concerned.
    let other = lab.tls("spiffe://sotto.test/node/de-bka");
    assert!(call_from(&other, &server).await.is_ok());
}

#[tokio::test]
async fn a_server_of_another_role_or_name_or_revoked_is_not_spoken_to() {
    let lab = Lab::new();
    let node = lab.tls(NODE);
    let impostor = serve(
        &lab.tls("spiffe://sotto.test/node/de-bka"),
        ConnectionLimits::default(),
    )
    .await;
    let error = call_from(&node, &impostor).await.expect_err("refused");
    assert!(error.contains("expected /broker/<any>"), "{error}");

    let issued = lab.issue(BROKER);
    lab.install("main", &issued);
    let server = serve(
        &Tls::load(lab.config("main")).expect("loaded"),
        ConnectionLimits::default(),
    )
    .await;
    let mut named = broker();
    named.name = Some("other".into());
    let channel = node.channel(&server.url(), named).expect("an address");
    let error = call(&channel).await.expect_err("refused");
    assert!(error.contains("expected /broker/other"), "{error}");

    assert!(call_from(&node, &server).await.is_ok());
    lab.revoke(&[Serial::of_pem(&issued.certificate).expect("a serial")]);
    node.reload().expect("read again");
    let error = call_from(&node, &server).await.expect_err("refused");
    assert!(error.contains("Revoked"), "{error}");
}

#[tokio::test]
async fn a_changed_certificate_is_used_for_the_next_connection() {
    let lab = Lab::new();
    let tls = lab.tls(BROKER);
    let server = serve(&tls, ConnectionLimits::default()).await;
    let node = lab.tls(NODE);
    let uri: Uri = server.url().parse().expect("a URI");
    let shown = async || {
        let stream = node.connect(&uri, &broker()).await.expect("connected");
        stream.get_ref().1.peer_certificates().expect("shown")[0].clone()
    };
    let first = shown().await;
    assert_eq!(first, shown().await);

    let stop = CancellationToken::new();
    let mut changes = tls.material.subscribe();
    let keeper = tokio::spawn(Arc::clone(&tls).keep_fresh(stop.clone()));
    lab.install("main", &lab.issue(BROKER));
    changes.changed().await.expect("read again");
    assert_ne!(first, shown().await);
    stop.cancel();
    keeper.await.expect("ended").expect("no error");
}

#[tokio::test]
async fn files_that_cannot_be_used_leave_the_old_ones_in_force() {
    let lab = Lab::new();
    let tls = lab.tls(BROKER);
    let server = serve(&tls, ConnectionLimits::default()).await;

    // Another key than the certificate's, another identity, no list, a key that others can read.
    lab.put("main.key", lab.issue(BROKER).key.as_bytes(), Readers::Owner);
    let error = tls.reload().expect_err("not a pair").to_string();
    assert!(error.contains("main.key"), "{error}");
    lab.install("main", &lab.issue("spiffe://sotto.test/broker/other"));
    let error = tls.reload().expect_err("another identity").to_string();
    assert!(error.contains("another identity"), "{error}");
    let issued = lab.issue(BROKER);
    lab.install("main", &issued);
    lab.put("crl.pem", b"", Readers::Everyone);
    let error = tls.reload().expect_err("no list").to_string();
    assert!(error.contains("crl.pem"), "{error}");
    lab.revoke(&[]);
    lab.put("main.key", issued.key.as_bytes(), Readers::Everyone);
    assert!(matches!(tls.reload(), Err(ConfigError::Exposed { .. })));

    assert!(call_from(&lab.tls(NODE), &server).await.is_ok());
    lab.install("main", &issued);
    tls.reload().expect("whole again");
}

#[tokio::test]
async fn a_slow_handshake_is_dropped_and_holds_up_nobody_for_longer() {
    let lab = Lab::new();
    let limits = ConnectionLimits {
        handshakes: 1,
        handshake_timeout: HumanDuration(Duration::from_secs(1)),
        ..ConnectionLimits::default()
    };
    let server = serve(&lab.tls(BROKER), limits).await;
    let mut slow = TcpStream::connect(server.address).await.expect("connected");
    slow.write_all(&[22, 3, 1]).await.expect("sent");
    let mut answer = Vec::new();
    let _ = slow.read_to_end(&mut answer).await;
    assert!(answer.is_empty());
    // On a busy machine an honest one may take too long as well: it is made again.
    while call_from(&lab.tls(NODE), &server).await.is_err() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn peers_that_connect_and_say_nothing_lock_nobody_out() {
    let lab = Lab::new();
    let limits = ConnectionLimits {
        handshakes: 4,
        handshake_timeout: HumanDuration(Duration::from_mins(10)),
        ..ConnectionLimits::default()
    };
    let server = serve(&lab.tls(BROKER), limits).await;
    let mut silent = Vec::new();
    for _ in 0..40 {
        silent.push(TcpStream::connect(server.address).await.expect("connected"));
    }
    assert!(call_from(&lab.tls(NODE), &server).await.is_ok());
}

#[tokio::test]
async fn one_identity_cannot_take_everybodys_room() {
    let lab = Lab::new();
    let limits = ConnectionLimits {
        per_peer: 1,
        ..ConnectionLimits::default()
    };
    let server = serve(&lab.tls(BROKER), limits).await;
    let node = lab.tls(NODE);
    let uri: Uri = server.url().parse().expect("a URI");
    let only = node.connect(&uri, &broker()).await.expect("connected");
    // TLS 1.3 lets the client finish first: that its place is taken shows at its first call.
    assert!(
        call_from(&lab.tls(NODE), &server).await.is_err(),
        "its place is taken"
    );
    let other = lab.tls("spiffe://sotto.test/node/de-bka");
    assert!(
        call_from(&other, &server).await.is_ok(),
        "another's is free"
    );
    drop(only);
    while call_from(&lab.tls(NODE), &server).await.is_err() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn connections_are_bounded_in_number() {
    let lab = Lab::new();
    let limits = ConnectionLimits {
        open: 1,
        ..ConnectionLimits::default()
    };
    let server = serve(&lab.tls(BROKER), limits).await;
    let node = lab.tls(NODE);
    let uri: Uri = server.url().parse().expect("a URI");
    let only = node.connect(&uri, &broker()).await.expect("connected");
    assert!(node.connect(&uri, &broker()).await.is_err(), "no room");
    drop(only);
    while node.connect(&uri, &broker()).await.is_err() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_connection_ends_at_its_greatest_age_and_calls_go_on_over_the_next() {
    let lab = Lab::new();
    let limits = ConnectionLimits {
        max_age: HumanDuration(Duration::from_millis(200)),
        ..ConnectionLimits::default()
    };
    let server = serve(&lab.tls(BROKER), limits).await;
    let node = lab.tls(NODE);
    let uri: Uri = server.url().parse().expect("a URI");
    let mut silent = node.connect(&uri, &broker()).await.expect("connected");
    // Ends although this side never hangs up.
    let _ = silent.read_to_end(&mut Vec::new()).await;
    // On a busy machine the next one may be as old before its call is answered.
    while call_from(&node, &server).await.is_err() {
        tokio::task::yield_now().await;
    }
}

#[test]
fn an_hour_is_the_greatest_age_that_can_be_set() {
    let limits = ConnectionLimits {
        max_age: HumanDuration(Duration::from_hours(2)),
        ..ConnectionLimits::default()
    };
    assert_eq!(limits.age(), super::MAX_CONNECTION_AGE);
}

#[tokio::test]
async fn an_address_is_https_host_port() {
    let lab = Lab::new();
    let node = lab.tls(NODE);
    for bad in [
        "",
        "localhost:1",
        "http://localhost:1",
        "https://localhost",
        "https://a:1/b",
    ] {
        assert!(node.channel(bad, broker()).is_err(), "{bad}");
    }
    assert!(node.channel("https://[::1]:1", broker()).is_ok());
}
