//! `sotto-broker lab-pki`: certificates for laboratories, with the project's own code.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use sotto_common::ids::{Role, SpiffeId};
use sotto_common::random::os_rng;
use sotto_common::service::files::{self, Readers};
use sotto_common::service::identity::Serial;
use sotto_common::service::pki::{LabCa, Leaf};
use sotto_common::time::{Clock as _, SystemClock};

use super::{Fault, Result};

#[derive(Debug, Subcommand)]
#[command(after_help = "Examples:
  sotto-broker lab-pki create --dir ca --trust-domain sotto.example
  sotto-broker lab-pki issue --dir ca --role broker --name main --dns localhost --out certs/broker
  sotto-broker lab-pki sign --dir ca --csr nl-fiu.csr --role node --name nl-fiu --out nl-fiu.pem")]
pub(super) enum Command {
    /// Make an authority: `ca.pem`, and `ca.key` of mode 0600.
    Create {
        /// Where it is kept.
        #[arg(long)]
        dir: PathBuf,
        /// Trust domain of every SPIFFE ID that it signs.
        #[arg(long)]
        trust_domain: String,
    },
    /// Make a key and a certificate: PREFIX.key of mode 0600, and PREFIX.pem.
    Issue {
        #[command(flatten)]
        leaf: LeafArgs,
        /// Where the two files go.
        #[arg(long, value_name = "PREFIX")]
        out: PathBuf,
    },
    /// Sign a request; its key is taken, the identity is the one given here.
    Sign {
        /// The request, PEM.
        #[arg(long)]
        csr: PathBuf,
        #[command(flatten)]
        leaf: LeafArgs,
        /// Where the certificate goes.
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
    /// Make a revocation list.
    Crl {
        /// Where the authority is kept.
        #[arg(long)]
        dir: PathBuf,
        /// Certificates to revoke, PEM files.
        #[arg(long, value_name = "CERTIFICATE")]
        revoke: Vec<PathBuf>,
        /// Days until the next list must be there.
        #[arg(long, default_value_t = 7)]
        days: u32,
        /// Where the list goes.
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
}

#[derive(Debug, Args)]
pub(super) struct LeafArgs {
    /// Where the authority is kept.
    #[arg(long)]
    dir: PathBuf,
    /// Role in the SPIFFE ID: node, broker, operator, auditor, analyst, approver, supervisor,
    /// data-manager.
    #[arg(long, value_parser = role)]
    role: Role,
    /// Name in the SPIFFE ID; for a node its node id.
    #[arg(long)]
    name: String,
    /// DNS names that it is good for, if it is a server's.
    #[arg(long)]
    dns: Vec<String>,
    /// IP addresses that it is good for, if it is a server's.
    #[arg(long)]
    ip: Vec<std::net::IpAddr>,
    /// Days that it is valid.
    #[arg(long, default_value_t = 30)]
    days: u32,
}

fn role(text: &str) -> std::result::Result<Role, String> {
    Role::ALL
        .into_iter()
        .find(|role| role.as_str() == text)
        .ok_or_else(|| "not a role of Sotto".to_owned())
}

impl LeafArgs {
    fn authority(&self) -> Result<LabCa> {
        Ok(LabCa::load(&self.dir)?)
    }

    fn leaf(&self, authority: &LabCa) -> Result<Leaf> {
        let spiffe = SpiffeId::new(authority.trust_domain(), self.role, &self.name)?;
        let addresses = self.ip.iter().map(ToString::to_string);
        let hosts = self.dns.iter().cloned().chain(addresses).collect();
        Ok(Leaf {
            spiffe,
            hosts,
            from: SystemClock.now(),
            days: self.days,
        })
    }
}

pub(super) fn run(command: Command) -> Result<()> {
    let rng = &mut os_rng();
    match command {
        Command::Create { dir, trust_domain } => {
            std::fs::create_dir_all(&dir)?;
            LabCa::create(&dir, &trust_domain, SystemClock.now(), rng)?;
            println!("authority for {trust_domain} in {}", dir.display());
        }
        Command::Issue { leaf, out } => {
            let authority = leaf.authority()?;
            let issued = authority.issue(&leaf.leaf(&authority)?, rng)?;
            write(
                &suffixed(&out, "key"),
                issued.key.as_bytes(),
                Readers::Owner,
            )?;
            write(
                &suffixed(&out, "pem"),
                issued.certificate.as_bytes(),
                Readers::Everyone,
            )?;
        }
        Command::Sign { csr, leaf, out } => {
            let authority = leaf.authority()?;
            let request = std::fs::read_to_string(&csr).map_err(|error| Fault {
                text: format!("{}: {error}", csr.display()),
                code: 1,
            })?;
            let certificate = authority.sign_csr(&request, &leaf.leaf(&authority)?, rng)?;
            write(&out, certificate.as_bytes(), Readers::Everyone)?;
        }
        Command::Crl {
            dir,
            revoke,
            days,
            out,
        } => {
            let authority = LabCa::load(&dir)?;
            let serials = revoke
                .iter()
                .map(|file| serial_of(file))
                .collect::<Result<Vec<_>>>()?;
            let list = authority.crl(&serials, SystemClock.now(), days)?;
            write(&out, list.as_bytes(), Readers::Everyone)?;
        }
    }
    Ok(())
}

fn serial_of(file: &Path) -> Result<Serial> {
    let unreadable = |problem: &dyn std::fmt::Display| Fault {
        text: format!("{}: {problem}", file.display()),
        code: 1,
    };
    let pem = std::fs::read_to_string(file).map_err(|error| unreadable(&error))?;
    Serial::of_pem(&pem).ok_or_else(|| unreadable(&"holds no PEM certificate"))
}

fn suffixed(prefix: &Path, extension: &str) -> PathBuf {
    let mut path = prefix.as_os_str().to_owned();
    path.push(".");
    path.push(extension);
    path.into()
}

fn write(path: &Path, content: &[u8], readers: Readers) -> Result<()> {
    files::write(path, content, readers, &mut os_rng()).map_err(|error| Fault {
        text: format!("{}: {error}", path.display()),
        code: 1,
    })
}
