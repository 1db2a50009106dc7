//! `init`: the identity and the keys of a new node (protocol §2, §8).

use std::fs::DirBuilder;
use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use clap::Args;
use sotto_common::ids::{CommunityId, NodeId, Role, SpiffeId};
use sotto_common::log::checkpoint::LogKey;
use sotto_common::random::os_rng;
use sotto_common::service::at_rest::ColumnCipher;
use sotto_common::service::files::{self, Readers};
use sotto_common::service::pki;

use super::Context;
use super::args;
use super::fault::{Fault, Result};
use super::render::{Cell, record};
use crate::config::NodeConfig;
use crate::keystore::{Keystore, Sealing, private_dir};

/// A new node.
#[derive(Args, Debug)]
pub(crate) struct InitArgs {
    /// The node's configuration; written if it is not there, which needs --node, --community and
    /// --data-dir
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    #[command(flatten)]
    sample: SampleArgs,
}

/// What a new configuration says.
#[derive(Args, Debug)]
struct SampleArgs {
    /// New configuration: the node's id, a country and a label, e.g. nl-fiu
    #[arg(long, value_name = "ID", value_parser = args::node)]
    node: Option<NodeId>,
    /// New configuration: the community
    #[arg(long, value_name = "NAME", value_parser = community)]
    community: Option<CommunityId>,
    /// New configuration: where the node keeps its store and keys
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// New configuration: the trust domain of the SPIFFE IDs [default: sotto.example]
    #[arg(long, value_name = "DOMAIN")]
    trust_domain: Option<String>,
    /// New configuration: the broker [default: https://broker.example:8443]
    #[arg(long, value_name = "URL")]
    broker: Option<String>,
    /// New configuration: where analysts reach the node [default: 127.0.0.1:7443]
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<SocketAddr>,
    /// New configuration: a node that may open epochs; may be given several times [default: the
    /// node itself]
    #[arg(long = "custodian", value_name = "NODE", value_parser = args::node)]
    custodians: Vec<NodeId>,
    /// New configuration: the key of the audit log, which the operator prints with `sotto-broker
    /// log-key`; hits are verified by it
    #[arg(long, value_name = "VKEY", value_parser = log_key)]
    log_key: Option<LogKey>,
}

/// The key of a log, for a value parser.
pub(super) fn log_key(text: &str) -> Result<LogKey, String> {
    text.parse()
        .map_err(|error: sotto_common::ids::InvalidId| error.to_string())
}

fn community(text: &str) -> Result<CommunityId, String> {
    text.parse()
        .map_err(|error: sotto_common::ids::InvalidId| error.to_string())
}

const RESULT: &[&str] = &[
    "node",
    "community",
    "fingerprint",
    "spiffe_id",
    "keys",
    "store_keys",
    "tls_key",
    "csr",
];

/// Makes the keys, and the configuration if there is none.
pub(crate) fn run(context: &Context, args: &InitArgs) -> Result<()> {
    if args.config.exists() {
        args.sample.refuse_any(&args.config)?;
    } else {
        args.sample.write(&args.config)?;
        context.note(&format!("wrote {}; read it through", args.config.display()));
    }
    let config = NodeConfig::load(Some(&args.config))?;
    let spiffe = SpiffeId::new(
        &config.tls.trust_domain,
        Role::Node,
        config.node_id.as_str(),
    )
    .map_err(|error| Fault::new(format!("tls.trust_domain: {error}")))?;

    private_dir(&config.data_dir)?;
    let keys = keys(context, &config)?;
    let fingerprint = keys.public(&config.node_id).signing.fingerprint();
    let csr = tls_request(context, &spiffe, &config.tls.key.0, &config.tls.certificate)?;

    let cells = [
        Cell::new(config.node_id.as_str()),
        Cell::new(config.community.as_str()),
        Cell::new(fingerprint.to_string()),
        Cell::new(spiffe.to_string()),
        Cell::new(config.keys_dir().display().to_string()),
        Cell::new(config.store_keys_file().0.display().to_string()),
        Cell::new(config.tls.key.0.display().to_string()),
        Cell::new(csr.as_ref().map(|path| path.display().to_string())),
    ];
    record(context.output, RESULT, &cells, &mut context.stdout())?;
    next_steps(context, &config, csr.as_deref(), &args.config);
    Ok(())
}

/// Makes the keys and the list that seals them. A node of the time before keys were sealed keeps
/// its own; the list is all that it is given.
fn keys(context: &Context, config: &NodeConfig) -> Result<Keystore> {
    let (dir, list) = (config.keys_dir(), config.store_keys_file().0);
    private_dir(&dir)?;
    let mut keep = false;
    if !list.exists() {
        match Keystore::look(&dir) {
            None => {}
            Some(Sealing::Clear) => keep = true,
            Some(Sealing::Sealed) => {
                return Err(Fault::with_hint(
                    format!(
                        "the keys in {} are sealed, and the list that sealed them is not at {}",
                        dir.display(),
                        list.display()
                    ),
                    "put the list back, or say with `store_keys_file` where it is; a new one \
                     opens nothing",
                ));
            }
        }
        let line = ColumnCipher::generate_line(&mut os_rng());
        put(&list, line.as_bytes(), Readers::Owner)?;
        context.note(&format!(
            "made {}, the keys of everything that is stored: keep a copy apart from the backups \
             of {}",
            list.display(),
            config.data_dir.display()
        ));
    }
    let cipher = config.store_cipher()?;
    Ok(if keep {
        context.note("kept the keys of this node, and sealed them");
        Keystore::open(&dir, cipher, &mut os_rng())?
    } else {
        Keystore::create(&dir, cipher, &mut os_rng())?
    })
}

fn next_steps(context: &Context, config: &NodeConfig, csr: Option<&Path>, file: &Path) {
    if let Some(csr) = csr {
        context.note(&format!(
            "next: have {} signed by the authority of your trust domain, and put the certificate \
             at {} and the authority's at {}",
            csr.display(),
            config.tls.certificate.display(),
            config.tls.ca.display()
        ));
    }
    context.note(&format!(
        "next: `sotto-node serve --config {}`, once the operator has enrolled {}",
        file.display(),
        config.node_id
    ));
    context.note(
        "next: read the fingerprint out to the other members by a channel that they trust, and \
         pin theirs with `sotto-node member pin NODE FINGERPRINT`",
    );
}

/// Makes the TLS key and the request for its certificate; `None` if there is a key already.
fn tls_request(
    context: &Context,
    spiffe: &SpiffeId,
    key: &Path,
    certificate: &Path,
) -> Result<Option<PathBuf>> {
    if key.exists() {
        context.note(&format!("kept the TLS key {}", key.display()));
        return Ok(None);
    }
    let request = pki::request(spiffe).map_err(|error| Fault::new(error.to_string()))?;
    let csr = certificate.with_extension("csr");
    put(key, request.key.as_bytes(), Readers::Owner)?;
    put(&csr, request.csr.as_bytes(), Readers::Everyone)?;
    Ok(Some(csr))
}

fn put(path: &Path, content: &[u8], readers: Readers) -> Result<()> {
    if let Some(dir) = path.parent().filter(|dir| !dir.as_os_str().is_empty()) {
        make_dir(dir)?;
    }
    files::write(path, content, readers, &mut os_rng())
        .map_err(|error| Fault::new(format!("cannot write {}: {error}", path.display())))
}

fn make_dir(dir: &Path) -> Result<()> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(|error| Fault::new(format!("cannot make {}: {error}", dir.display())))
}

impl SampleArgs {
    /// An existing configuration is never changed.
    fn refuse_any(&self, config: &Path) -> Result<()> {
        let any = self.node.is_some()
            || self.community.is_some()
            || self.data_dir.is_some()
            || self.trust_domain.is_some()
            || self.broker.is_some()
            || self.listen.is_some()
            || !self.custodians.is_empty()
            || self.log_key.is_some();
        if any {
            return Err(Fault::Usage(format!(
                "{} is there already: change it by hand, and give --config alone",
                config.display()
            )));
        }
        Ok(())
    }

    /// Writes the configuration.
    fn write(&self, file: &Path) -> Result<()> {
        let (Some(node), Some(community), Some(data_dir)) =
            (&self.node, &self.community, &self.data_dir)
        else {
            return Err(Fault::Usage(format!(
                "{} is not there; to have it written give --node, --community and --data-dir",
                file.display()
            )));
        };
        put(
            file,
            self.text(node, community, data_dir).as_bytes(),
            Readers::Everyone,
        )
    }

    /// The section about the audit log; a comment without its key.
    fn audit_log(&self) -> String {
        match &self.log_key {
            None => "# [audit_log]\n# verifier_key = \"\"\n".into(),
            Some(key) => {
                let key = quoted(&key.to_string());
                format!("[audit_log]\nverifier_key = {key}\n")
            }
        }
    }

    fn text(&self, node: &NodeId, community: &CommunityId, data_dir: &Path) -> String {
        let within = |name: &str| quoted(&data_dir.join("tls").join(name).display().to_string());
        let custodians: Vec<_> = if self.custodians.is_empty() {
            vec![quoted(node.as_str())]
        } else {
            self.custodians
                .iter()
                .map(|node| quoted(node.as_str()))
                .collect()
        };
        let listen = self
            .listen
            .map_or("127.0.0.1:7443".into(), |at| at.to_string());
        format!(
            "# Configuration of the node {node}. Every setting can be given in the environment as \
             well,\n# e.g. SOTTO_NODE__BROKER__ENDPOINT; the environment goes over this file.\n\n\
             node_id = {node_id}\n\
             community = {community}\n\
             # The store and the keys; mode 0700.\n\
             data_dir = {data_dir}\n\
             # Where analysts and data managers reach this node.\n\
             listen = {listen}\n\
             # The nodes whose epochs this node takes, by its own judgement.\n\
             custodians = [{custodians}]\n\n\
             [broker]\n\
             endpoint = {broker}\n\n\
             # This node's certificate carries spiffe://<trust_domain>/node/{node}.\n\
             [tls]\n\
             certificate = {certificate}\n\
             key = {key}\n\
             ca = {ca}\n\
             # Revocation lists of the authorities in `ca`.\n\
             # crl = {crl}\n\
             trust_domain = {trust_domain}\n\n\
             # The audit log, by the key that the operator prints with `sotto-broker log-key`; without \
             it hits are\n# not verified.\n\
             {audit_log}\n\
             [log]\n\
             format = \"human\"\n\
             filter = \"info\"\n",
            node_id = quoted(node.as_str()),
            community = quoted(community.as_str()),
            data_dir = quoted(&data_dir.display().to_string()),
            listen = quoted(&listen),
            custodians = custodians.join(", "),
            broker = quoted(
                self.broker
                    .as_deref()
                    .unwrap_or("https://broker.example:8443")
            ),
            certificate = within("node.pem"),
            key = within("node.key"),
            ca = within("ca.pem"),
            crl = within("crl.pem"),
            audit_log = self.audit_log(),
            trust_domain = quoted(self.trust_domain.as_deref().unwrap_or("sotto.example")),
        )
    }
}

/// A TOML basic string.
fn quoted(text: &str) -> String {
    // JSON's escapes are TOML's as well.
    serde_json::Value::from(text).to_string()
}
