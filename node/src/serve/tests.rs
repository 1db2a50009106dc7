//! A real node over real TLS, whose broker is nowhere: who is let in, and what is noted.

mod reading;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use futures::future::join_all;
use jsonwebtoken::Algorithm;
use sotto_common::error::{Error, ErrorCode};
use sotto_common::ids::{Epoch, HitId, RecordRef, Role};
use sotto_common::service::client::{ClientConfig, PersonChannel, unary};
use sotto_common::service::identity::Serial;
use sotto_common::service::pki::{LabCa, Leaf};
use sotto_common::time::{MockClock, SystemClock, Timestamp};
use sotto_proto::status::from_status;
use sotto_proto::v1;
use tempfile::TempDir;
use tonic::Status;
use tonic::body::Body;
use tower::{Service as _, ServiceExt as _};

use super::*;
use crate::access::AccessEntry;
use crate::auth::LOCAL_ROLES;
use crate::auth::testing::{AUDIENCE, ISSUER, IssuerKey, key_set, put};
use crate::rpc::roles::ROLES;
use crate::store::testing::cipher;
use crate::testing::{hit, methods};

const DOMAIN: &str = "sotto.test";
/// Hits in the store at the start.
const HITS: u8 = 3;

/// A node's folder, authority and clock.
struct Lab {
    dir: TempDir,
    ca: LabCa,
    clock: MockClock,
}

impl Lab {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let now = SystemClock.now();
        let ca = LabCa::create(dir.path(), DOMAIN, now, &mut os_rng()).expect("made");
        let lab = Self {
            dir,
            ca,
            clock: MockClock::at(now),
        };
        lab.revoke(&[]);
        lab.issue("node/nl-fiu");
        lab
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    fn now(&self) -> Timestamp {
        self.clock.now()
    }

    fn revoke(&self, serials: &[Serial]) {
        let list = self.ca.crl(serials, SystemClock.now(), 7).expect("made");
        put(self.path(), "crl.pem", &list);
    }

    /// Writes a certificate and its key; gives the serial.
    fn issue(&self, identity: &str) -> Serial {
        let leaf = Leaf {
            spiffe: format!("spiffe://{DOMAIN}/{identity}")
                .parse()
                .expect("valid"),
            hosts: vec!["localhost".into()],
            from: SystemClock.now(),
            days: 1,
        };
        let issued = self.ca.issue(&leaf, &mut os_rng()).expect("issued");
        let name = identity.replace('/', "-");
        put(self.path(), &format!("{name}.pem"), &issued.certificate);
        put(self.path(), &format!("{name}.key"), &issued.key);
        Serial::of_pem(&issued.certificate).expect("a serial")
    }

    /// Writes a role file; a row is an id and its roles.
    fn put_roles(&self, people: &[(&str, &str)]) {
        let mut text = String::from("people = [\n");
        for (id, roles) in people {
            writeln!(text, "{{ id = {id:?}, roles = [{roles}] }},").expect("written");
        }
        put(self.path(), "roles.toml", &(text + "]\n"));
    }

    fn tls(&self, identity: Option<&str>) -> String {
        let dir = self.path().display();
        let mut text = format!(
            "[tls]\nca = \"{dir}/ca.pem\"\ncrl = \"{dir}/crl.pem\"\ntrust_domain = \"{DOMAIN}\"\n\
             reload_every = \"5ms\"\n"
        );
        if let Some(identity) = identity {
            let name = identity.replace('/', "-");
            write!(
                text,
                "certificate = \"{dir}/{name}.pem\"\nkey = \"{dir}/{name}.key\"\n"
            )
            .expect("written");
        }
        text
    }

    fn config(&self, settings: &str, sections: &str) -> NodeConfig {
        let text = format!(
            "node_id = \"nl-fiu\"\ncommunity = \"euro-cyber\"\ncustodians = [\"nl-fiu\"]\n\
             data_dir = \"{dir}/data\"\nlisten = \"127.0.0.1:0\"\n{settings}\n\
             [broker]\nendpoint = \"https://localhost:1\"\n{tls}{sections}",
            dir = self.path().display(),
            tls = self.tls(Some("node/nl-fiu")),
        );
        let file = put(self.path(), "node.toml", &text);
        NodeConfig::load(Some(&file)).expect("valid")
    }

    /// Starts the node with a few hits in its store.
    async fn start(&self, settings: &str, sections: &str) -> Node {
        let config = self.config(settings, sections);
        private_dir(&config.data_dir).expect("made");
        private_dir(&config.keys_dir()).expect("made");
        let cipher = cipher(&config.keys_dir());
        let keys = Keystore::create(&config.keys_dir(), cipher.clone(), &mut os_rng());
        keys.expect("made");
        let store = Store::open(&config.store_file(), cipher).await;
        let store = store.expect("opened");
        let epoch = Epoch::new(1).expect("an epoch");
        let hits: Vec<_> = (1..=HITS)
            .map(|n| hit(n, epoch, RecordRef::new([n; 16])))
            .collect();
        let now = Timestamp::from_seconds(1);
        store
            .put_streamed_hits(&hits, 7, now)
            .await
            .expect("stored");
        let stop = CancellationToken::new();
        let running = start(config, Arc::new(self.clock.clone()), stop.clone()).await;
        let running = running.expect("started");
        Node {
            address: running.address(),
            running,
            stop,
            store,
            hits: hits.iter().map(|hit| hit.id).collect(),
        }
    }

    async fn refused_to_start(&self, settings: &str, sections: &str) -> String {
        let config = self.config(settings, sections);
        let clock = Arc::new(self.clock.clone());
        let started = start(config, clock, CancellationToken::new()).await;
        started.expect_err("refused").to_string()
    }

    /// A person's channel, with a certificate or a token or both.
    fn client(&self, node: &Node, identity: Option<&str>, token: Option<&str>) -> PersonChannel {
        let mut text = format!("endpoint = \"https://localhost:{}\"\n", node.address.port());
        if let Some(token) = token {
            let file = put(self.path(), &token_name(identity), &format!("{token}\n"));
            writeln!(text, "token_file = {file:?}").expect("written");
        }
        if let Some(identity) = identity {
            self.issue(identity);
        }
        let file = put(self.path(), "client.toml", &(text + &self.tls(identity)));
        let config = ClientConfig::load("SOTTO_NODE_TEST_CLIENT", &file).expect("valid");
        config.person_channel(Role::Node).expect("a channel")
    }
}

fn token_name(identity: Option<&str>) -> String {
    format!("token-{}", identity.unwrap_or("alone").replace('/', "-"))
}

struct Node {
    address: SocketAddr,
    running: RunningNode,
    stop: CancellationToken,
    /// A second view of its store.
    store: Store,
    hits: Vec<HitId>,
}

impl Node {
    async fn log(&self) -> Vec<AccessEntry> {
        let filter = crate::store::AccessFilter {
            up_to: u64::MAX,
            ..Default::default()
        };
        self.store.access_log(&filter, 1000).await.expect("read")
    }

    async fn end(self) {
        self.stop.cancel();
        self.running.ended().await.expect("an orderly end");
    }
}

/// Calls a method with an empty message; its refusal, if it is refused at once.
async fn call(channel: &PersonChannel, path: &str) -> Option<Error> {
    post(channel, path, "\0\0\0\0\0").await
}

/// Calls a method with what may be a message; its refusal, if it is refused at once.
async fn post(channel: &PersonChannel, path: &str, body: &'static str) -> Option<Error> {
    let request = http::Request::post(path)
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(Body::new(String::from(body)))
        .expect("a request");
    let mut channel = channel.clone();
    let answer = channel.ready().await.expect("ready").call(request).await;
    let answer = answer.expect("answered");
    Status::from_header_map(answer.headers()).map(|status| from_status(&status))
}

const STATUS: &str = "/sotto.v1.NodeAdminService/GetStatus";
const LIST: &str = "/sotto.v1.AnalystService/ListRecordHits";
const IMPORT: &str = "/sotto.v1.DatasetService/ImportDataset";

async fn code(channel: &PersonChannel, path: &str) -> Option<ErrorCode> {
    call(channel, path).await.map(|error| error.code)
}

fn oidc(lab: &Lab, keys: &str, more: &str) -> String {
    let file = put(lab.path(), "jwks.json", keys);
    format!(
        "[oidc]\nissuer = \"{ISSUER}\"\naudience = \"{AUDIENCE}\"\njwks_file = {file:?}\n{more}\n"
    )
}

/// Asserts that a caller may call exactly the methods of its roles.
async fn check_table(channel: &PersonChannel, who: &str, roles: &[Role]) {
    let calls = ROLES.iter().map(|&(path, allowed)| async move {
        let refused = code(channel, path).await == Some(ErrorCode::RoleForbidden);
        let may = allowed.iter().any(|role| roles.contains(role));
        assert_eq!(refused, !may, "{who} at {path}");
    });
    join_all(calls).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_method_is_for_the_role_in_the_certificate() {
    assert_eq!(ROLES.len(), methods().len());
    let lab = Lab::new();
    let node = lab.start("", "").await;
    for role in LOCAL_ROLES {
        let identity = format!("{}/jane", role.as_str());
        let channel = lab.client(&node, Some(&identity), None);
        check_table(&channel, &identity, &[role]).await;
    }
    let machine = lab.client(&node, Some("node/de-bka"), None);
    check_table(&machine, "a machine", &[]).await;
    assert_eq!(code(&machine, "/grpc.health.v1.Health/Check").await, None);
    node.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_cannot_be_read_is_the_callers_fault() {
    let lab = Lab::new();
    let node = lab.start("", "").await;
    let analyst = lab.client(&node, Some("analyst/jane"), None);
    let identity = format!("{}/dora", Role::DataManager.as_str());
    let manager = lab.client(&node, Some(&identity), None);
    for (channel, path) in [(&analyst, LIST), (&manager, STATUS), (&manager, IMPORT)] {
        // One byte, of a wire type that there is not.
        let error = post(channel, path, "\0\0\0\0\u{1}\u{7}").await;
        let error = error.expect(path);
        assert_eq!(error.code, ErrorCode::InvalidField, "{path}");
        assert_eq!(error.subject.as_deref(), Some("message"), "{path}");
    }
    node.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_method_is_for_the_roles_in_the_role_file() {
    let lab = Lab::new();
    let id = |name: &str| format!("spiffe://{DOMAIN}/analyst/{name}");
    let rows = [
        ("a", "\"analyst\"", vec![Role::Analyst]),
        ("b", "\"approver\"", vec![Role::Approver]),
        ("c", "\"supervisor\"", vec![Role::Supervisor]),
        ("d", "\"data_manager\"", vec![Role::DataManager]),
        (
            "e",
            "\"supervisor\", \"data_manager\"",
            vec![Role::Supervisor, Role::DataManager],
        ),
    ];
    let people: Vec<_> = rows
        .iter()
        .map(|(name, roles, _)| (id(name), *roles))
        .collect();
    let people: Vec<_> = people
        .iter()
        .map(|(id, roles)| (id.as_str(), *roles))
        .collect();
    lab.put_roles(&people);
    let setting = format!("roles_file = \"{}/roles.toml\"", lab.path().display());
    let node = lab.start(&setting, "").await;
    for (name, _, roles) in &rows {
        let channel = lab.client(&node, Some(&format!("analyst/{name}")), None);
        check_table(&channel, name, roles).await;
    }
    // The certificate's own role counts for nothing then.
    let stranger = lab.client(&node, Some("analyst/stranger"), None);
    check_table(&stranger, "a stranger", &[]).await;
    let error = call(&stranger, LIST).await.expect("refused");
    assert!(error.text.contains("administrator"), "{error}");

    // The file is read again; a broken one leaves the old in force.
    lab.put_roles(&[(&id("stranger"), "\"analyst\"")]);
    while code(&stranger, LIST).await.is_some() {
        tokio::task::yield_now().await;
    }
    let former = lab.client(&node, Some("analyst/a"), None);
    assert_eq!(code(&former, LIST).await, Some(ErrorCode::RoleForbidden));
    put(lab.path(), "roles.toml", "people = [");
    assert_eq!(code(&stranger, LIST).await, None);
    node.end().await;

    let text = lab.refused_to_start(&setting, "").await;
    assert!(text.contains("roles.toml: line 1"), "{text}");
    let text = lab
        .refused_to_start("roles_file = \"/nowhere/roles.toml\"", "")
        .await;
    assert!(text.contains("/nowhere/roles.toml"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_stands_for_its_holder_with_and_without_a_certificate() {
    let lab = Lab::new();
    let key = IssuerKey::new("k1", Algorithm::ES256);
    lab.put_roles(&[
        (&format!("oidc:{ISSUER}#jane"), "\"analyst\""),
        (
            &format!("spiffe://{DOMAIN}/supervisor/sue"),
            "\"supervisor\"",
        ),
    ]);
    let setting = format!("roles_file = \"{}/roles.toml\"", lab.path().display());
    let node = lab
        .start(&setting, &oidc(&lab, &key_set(&[&key]), ""))
        .await;

    let jane = lab.client(&node, None, Some(&key.token("jane", lab.now())));
    check_table(&jane, "jane", &[Role::Analyst]).await;
    let sue = lab.client(&node, Some("supervisor/sue"), None);
    check_table(&sue, "sue", &[Role::Supervisor]).await;
    // Both: the person is the token's.
    let both = lab.client(
        &node,
        Some("supervisor/sue"),
        Some(&key.token("jane", lab.now())),
    );
    check_table(&both, "jane at sue's", &[Role::Analyst]).await;
    assert!(
        node.log()
            .await
            .iter()
            .any(|e| e.access.person == format!("oidc:{ISSUER}#jane"))
    );
    // And both must be good.
    let serial = lab.issue("supervisor/ann");
    let both = {
        let config = lab.client_file(&node, "supervisor/ann", &key.token("jane", lab.now()));
        config.person_channel(Role::Node).expect("a channel")
    };
    assert_eq!(code(&both, STATUS).await, None);
    lab.revoke(&[serial]);
    while code(&both, STATUS).await.is_none() {
        tokio::task::yield_now().await;
    }
    assert_eq!(
        code(&both, STATUS).await,
        Some(ErrorCode::CertificateRevoked)
    );

    // Neither, and what is not in the role file or not valid.
    let token = key.token("jane", lab.now());
    let channel = lab.client(&node, None, Some(&token));
    put(lab.path(), &token_name(None), "x");
    assert_eq!(
        code(&channel, STATUS).await,
        Some(ErrorCode::IdentityMissing)
    );
    put(lab.path(), &token_name(None), &key.token("joan", lab.now()));
    assert_eq!(code(&channel, STATUS).await, Some(ErrorCode::RoleForbidden));
    put(lab.path(), &token_name(None), &token);
    assert_eq!(code(&channel, STATUS).await, None);
    let nobody = sotto_common::service::tls::channel_without_certificate(
        &lab.path().join("ca.pem"),
        None,
        DOMAIN.into(),
        &format!("https://localhost:{}", node.address.port()),
        sotto_common::service::tls::ExpectedPeer::of_role(Role::Node),
    );
    let mut nobody =
        v1::node_admin_service_client::NodeAdminServiceClient::new(nobody.expect("an address"));
    let refused = nobody
        .get_status(unary(v1::GetStatusRequest {}))
        .await
        .expect_err("refused");
    assert_eq!(from_status(&refused).code, ErrorCode::IdentityMissing);
    node.end().await;
}

impl Lab {
    /// The client configuration for a certificate that was issued already.
    fn client_file(&self, node: &Node, identity: &str, token: &str) -> ClientConfig {
        let token: PathBuf = put(self.path(), &token_name(Some(identity)), token);
        let text = format!(
            "endpoint = \"https://localhost:{}\"\ntoken_file = {token:?}\n{}",
            node.address.port(),
            self.tls(Some(identity))
        );
        let file = put(self.path(), "client.toml", &text);
        ClientConfig::load("SOTTO_NODE_TEST_CLIENT", &file).expect("valid")
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_access_tokens_a_certificate_is_needed_and_tokens_are_refused() {
    let lab = Lab::new();
    let node = lab.start("", "").await;
    let key = IssuerKey::new("k1", Algorithm::ES256);
    let token = key.token("jane", lab.now());
    let both = lab.client(&node, Some("analyst/jane"), Some(&token));
    let error = call(&both, STATUS).await.expect("refused");
    assert_eq!(error.code, ErrorCode::IdentityMissing);
    assert!(error.text.contains("takes no access tokens"), "{error}");
    // The handshake fails.
    let mut alone = v1::node_admin_service_client::NodeAdminServiceClient::new(lab.client(
        &node,
        None,
        Some(&token),
    ));
    let refused = alone
        .get_status(unary(v1::GetStatusRequest {}))
        .await
        .expect_err("refused");
    assert!(refused.details().is_empty(), "{refused}");
    node.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_ends_with_the_token_and_with_the_roles_of_its_caller() {
    let lab = Lab::new();
    let key = IssuerKey::new("k1", Algorithm::EdDSA);
    let jane = format!("oidc:{ISSUER}#jane");
    lab.put_roles(&[(&jane, "\"analyst\"")]);
    let setting = format!("roles_file = \"{}/roles.toml\"", lab.path().display());
    let node = lab
        .start(&setting, &oidc(&lab, &key_set(&[&key]), "leeway = \"0s\""))
        .await;
    let watch = async || {
        let channel = lab.client(&node, None, Some(&key.token("jane", lab.now())));
        let mut client = v1::analyst_service_client::AnalystServiceClient::new(channel);
        let events = client
            .watch_record_hits(v1::WatchRecordHitsRequest::default())
            .await;
        let mut events = events.expect("opened").into_inner();
        for _ in 0..HITS {
            assert!(events.message().await.expect("told").is_some());
        }
        events
    };
    let mut events = watch().await;
    lab.clock.advance(Duration::from_mins(5));
    assert_eq!(events.message().await.expect("an orderly end"), None);

    let mut events = watch().await;
    lab.put_roles(&[(&jane, "\"supervisor\"")]);
    assert_eq!(events.message().await.expect("an orderly end"), None);
    node.end().await;
}
