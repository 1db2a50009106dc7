//! Who may speak, and how (protocol §2, §12).

use sotto_common::error::ErrorCode;
use sotto_common::ids::Role;
use sotto_common::selector::Policy::Phone;
use sotto_proto::v1;
use sotto_proto::v1::hit_service_client::HitServiceClient;
use sotto_proto::v1::probe_request::Message;
use sotto_tests::probe::batch_of;
use sotto_tests::{COMMUNITY, Lab, Sandbox, assert_refused, phones, stranger};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tonic::transport::Channel;
use tonic::{Code, Status};

async fn list_hits(channel: Channel) -> Result<v1::ListHitsResponse, Status> {
    let request = v1::ListHitsRequest {
        community: COMMUNITY.into(),
        ..Default::default()
    };
    let response = HitServiceClient::new(channel).list_hits(request).await?;
    Ok(response.into_inner())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_without_an_identity_of_the_trust_domain_is_refused() {
    let (sandbox, _nodes) = Sandbox::with_nodes(["nl-fiu"]).await;
    let mut footprint = sandbox.footprint().await;
    let (certificate, key) = sandbox.lab().issue_without_identity();
    let pair = Some((certificate.as_str(), key.as_str()));
    let channel = stranger::channel(sandbox.address(), sandbox.lab().authority(), pair);
    let refused = list_hits(channel).await;
    assert_refused(refused, Code::Unauthenticated, ErrorCode::IdentityMissing);
    footprint.assert_unchanged().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_of_other_authorities_and_no_certificate_get_no_connection() {
    let (sandbox, _nodes) = Sandbox::with_nodes(["nl-fiu"]).await;
    let ours = sandbox.lab().authority();
    for domain in ["sotto.test", "other.test"] {
        let other = Lab::create(&sandbox.path(domain), domain);
        let issued = other.issue(Role::Node, "nl-fiu");
        let pair = Some((issued.certificate.as_str(), issued.key.as_str()));
        let refused = list_hits(stranger::channel(sandbox.address(), ours, pair)).await;
        let status = refused.expect_err("a stranger");
        assert!(
            status.code() != Code::Ok && status.details().is_empty(),
            "{status:?}"
        );
    }
    let refused = list_hits(stranger::channel(sandbox.address(), ours, None)).await;
    assert!(refused.expect_err("a stranger").details().is_empty());
    // Our own certificate over the same channel is taken: the refusals are of the certificate.
    let issued = sandbox.lab().issue(Role::Node, "nl-fiu");
    let pair = Some((issued.certificate.as_str(), issued.key.as_str()));
    let taken = list_hits(stranger::channel(sandbox.address(), ours, pair)).await;
    assert!(taken.expect("taken").hits.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn other_roles_and_nodes_that_are_not_enrolled_are_refused() {
    let (sandbox, [nl]) = Sandbox::with_nodes(["nl-fiu"]).await;
    let mut footprint = sandbox.footprint().await;
    for role in [Role::Analyst, Role::Auditor, Role::Operator, Role::Broker] {
        let channel = sandbox.lab().channel(role, "nl-fiu", &sandbox.url());
        let refused = list_hits(channel).await;
        assert_refused(refused, Code::PermissionDenied, ErrorCode::RoleForbidden);
    }
    let stranger = sandbox.node("be-fgp");
    let refused = stranger.hits().await;
    assert_refused(refused, Code::PermissionDenied, ErrorCode::NotAMember);
    let refused = stranger.submit_keys().await;
    assert_refused(refused, Code::PermissionDenied, ErrorCode::NotAMember);
    // Only an operator enrols.
    let request = v1::EnrolNodeRequest {
        community: COMMUNITY.into(),
        node_id: "be-fgp".into(),
    };
    let refused = nl.membership().enrol_node(request).await;
    assert_refused(refused, Code::PermissionDenied, ErrorCode::RoleForbidden);
    // A community that does not exist looks the same.
    let request = v1::GetCommunityRequest {
        community: "no-such".into(),
    };
    let refused = nl.membership().get_community(request).await;
    assert_refused(refused, Code::PermissionDenied, ErrorCode::NotAMember);
    footprint.assert_unchanged().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn plaintext_and_tls_1_2_are_not_spoken() {
    let (sandbox, _nodes) = Sandbox::with_nodes(["nl-fiu"]).await;
    let refused = list_hits(stranger::plaintext_channel(sandbox.address())).await;
    assert!(refused.expect_err("plaintext").details().is_empty());

    let mut tcp = tokio::net::TcpStream::connect(sandbox.address())
        .await
        .expect("connected");
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    tcp.write_all(preface).await.expect("sent");
    let mut answer = Vec::new();
    let _ = tcp.read_to_end(&mut answer).await;
    // At most an alert (record type 21), never an HTTP/2 frame.
    assert!(answer.first().is_none_or(|kind| *kind == 21), "{answer:?}");

    // RFC 8446 §6.2: alert 2 (fatal), 70 (protocol_version).
    let answer = stranger::tls12_hello(sandbox.address()).await;
    assert_eq!(answer.first(), Some(&21), "{answer:?}");
    assert!(answer.ends_with(&[2, 70]), "{answer:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_above_4_mib_are_refused() {
    let (sandbox, [nl]) = Sandbox::with_nodes(["nl-fiu"]).await;
    let mut footprint = sandbox.footprint().await;
    let mut draft = nl.draft(Phone, &phones(0..3)).await;
    draft.bits = vec![0; 5 << 20];
    let refused = nl.upload_chunk(&draft, 0, &draft.bits).await;
    assert_refused(refused, Code::InvalidArgument, ErrorCode::InvalidField);
    footprint.assert_unchanged().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn revocation_ends_open_streams_and_refuses_the_next_call() {
    let (sandbox, [nl, de]) = Sandbox::with_nodes(["nl-fiu", "de-bka"]).await;
    de.publish(Phone, &phones(0..3)).await;
    let mut watch = nl.watch(0).await.expect("open");
    let mut probe = nl.open(nl.opening(Phone)).await.expect("open");
    let serial = sandbox.lab().serial(Role::Node, "nl-fiu");
    sandbox.lab().revoke(&[serial]);

    let ended = watch.message().await;
    assert_refused(ended, Code::Unauthenticated, ErrorCode::CertificateRevoked);
    let ended = probe.next().await;
    assert_refused(ended, Code::Unauthenticated, ErrorCode::CertificateRevoked);
    // A new connection fails in its handshake, an old one at the next call.
    let refused = nl.hits().await.expect_err("revoked");
    assert_ne!(refused.code(), Code::Ok);
    assert!(de.hits().await.expect("others go on").is_empty());
    let batch = Message::Batch(batch_of(0, &nl.pairs(Phone, &phones(0..3))));
    probe.ask(batch).await.expect_err("revoked");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_health_service_answers() {
    let (sandbox, _nodes) = Sandbox::with_nodes(["nl-fiu"]).await;
    let channel = sandbox.lab().channel(Role::Operator, "ops", &sandbox.url());
    let mut health = tonic_health::pb::health_client::HealthClient::new(channel);
    let request = tonic_health::pb::HealthCheckRequest {
        service: "sotto.v1.ProbeService".into(),
    };
    let response = health.check(request).await.expect("answered").into_inner();
    assert_eq!(response.status, 1, "SERVING");
}
