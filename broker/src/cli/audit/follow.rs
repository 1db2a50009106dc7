//! `audit follow`: that the log only grows, as a witness checks it (protocol §11), by an auditor.

use std::ffi::OsString;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::json;
use sotto_common::log::checkpoint::{LogKey, SignedCheckpoint};
use sotto_common::log::merkle::MerkleHash;
use sotto_common::log::witness::{Progress, WitnessError, follow};
use sotto_common::random::os_rng;
use sotto_common::service::client::unary;
use sotto_common::service::files::{self, Readers};
use sotto_common::service::shutdown;
use sotto_common::time::{Clock as _, SystemClock};
use sotto_proto::v1;
use tonic::Request;

use super::super::operator::{Client, answer, refused};
use super::super::print::say;
use super::super::{Fault, Result};
use super::entries::hashes;
use super::{about, does_not_hold};

/// How long a broker that cannot be reached is left alone.
const PAUSE: Duration = Duration::from_secs(10);

/// The last checkpoint that held, and where it is kept.
struct Follower<'a> {
    path: &'a Path,
    key: &'a LogKey,
    stored: Option<SignedCheckpoint>,
}

impl Client {
    pub(super) async fn follow(&self, state: &Path, key: &LogKey, once: bool) -> Result<()> {
        let mut follower = Follower::load(state, key)?;
        let community = key.origin().community().to_string();
        if once {
            let request = v1::GetCheckpointRequest {
                community,
                cosignatures: 0,
            };
            let got = answer(self.log_service().get_checkpoint(unary(request)).await)?;
            return self.check(&mut follower, &got.note).await;
        }
        let stop = shutdown::on_signal()?;
        loop {
            let watched = tokio::select! {
                () = stop.cancelled() => return Ok(()),
                watched = self.watch(&mut follower, &community) => watched,
            };
            match watched {
                // The hourly end of a connection, or a restart of the broker (protocol §12).
                Ok(()) => {}
                Err(fault) if fault.code == 3 => eprintln!("{}; again in a moment", fault.text),
                Err(fault) => return Err(fault),
            }
            let later = SystemClock.wait_until(SystemClock.now().plus(PAUSE));
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = later => {}
            }
        }
    }

    /// Checks what comes until the stream ends.
    async fn watch(&self, follower: &mut Follower<'_>, community: &str) -> Result<()> {
        let request = Request::new(v1::WatchCheckpointsRequest {
            community: community.to_owned(),
        });
        let mut service = self.log_service();
        let mut stream = answer(service.watch_checkpoints(request).await)?;
        while let Some(message) = stream.message().await.map_err(|status| refused(&status))? {
            self.check(follower, &message.note).await?;
        }
        Ok(())
    }

    async fn check(&self, follower: &mut Follower<'_>, note: &[u8]) -> Result<()> {
        let offered = match SignedCheckpoint::open(note, follower.key) {
            Ok(offered) => offered,
            Err(error) => return Err(follower.alarm(note, None, &[], &error)),
        };
        let Some((from_size, to_size)) = follower.gap(&offered) else {
            return follower.take(note, offered, &[]);
        };
        let request = v1::ProveConsistencyRequest {
            community: follower.key.origin().community().to_string(),
            from_size,
            to_size,
        };
        let mut service = self.log_service();
        let proof = answer(service.prove_consistency(unary(request)).await)?;
        // Hashes of another length prove nothing.
        let proof = hashes(&proof.hashes).unwrap_or_default();
        follower.take(note, offered, &proof)
    }
}

impl<'a> Follower<'a> {
    fn load(path: &'a Path, key: &'a LogKey) -> Result<Self> {
        let stored = match files::read_small(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            read => {
                let note = read.map_err(|error| about(path, &error))?;
                let stored = SignedCheckpoint::open(&note, key);
                Some(stored.map_err(|error| about(path, &error))?)
            }
        };
        Ok(Self { path, key, stored })
    }

    /// The sizes between which consistency is to be proved, if they differ.
    fn gap(&self, offered: &SignedCheckpoint) -> Option<(u64, u64)> {
        let from = self.stored.as_ref()?.head().size;
        let to = offered.head().size;
        (from < to).then_some((from, to))
    }

    /// Takes a checkpoint that follows from the stored one: it is on the disk before anything is said.
    fn take(&mut self, note: &[u8], offered: SignedCheckpoint, proof: &[MerkleHash]) -> Result<()> {
        let stored = self.stored.as_ref().map(SignedCheckpoint::checkpoint);
        let progress = match follow(stored, &offered, proof) {
            Ok(progress) => progress,
            Err(error @ WitnessError::Behind { .. }) => {
                // It may be late, and says nothing of the log.
                eprintln!("{error}");
                return Ok(());
            }
            Err(error) => return Err(self.alarm(note, Some(&offered), proof, &error)),
        };
        files::write(self.path, note, Readers::Everyone, &mut os_rng())
            .map_err(|error| about(self.path, &error))?;
        let (size, root) = (offered.head().size, offered.head().root);
        let signatures = offered.note().signatures().len();
        self.stored = Some(offered);
        let word = match progress {
            Progress::Grown => "grown to",
            Progress::Same => "still of",
        };
        say(&format!(
            "{word} {size} leaves, root {root}, {signatures} signatures"
        ))
    }

    /// Keeps both notes as evidence; the stored checkpoint stays.
    fn alarm(
        &self,
        note: &[u8],
        offered: Option<&SignedCheckpoint>,
        proof: &[MerkleHash],
        reason: &dyn std::fmt::Display,
    ) -> Fault {
        let reason = reason.to_string();
        let stored = self.stored.as_ref();
        let evidence = json!({
            "log_key": self.key.to_string(),
            "reason": reason,
            "stored": stored.map(ToString::to_string),
            "offered": String::from_utf8_lossy(note),
            "offered_hex": hex::encode(note),
            "proof": proof.iter().map(ToString::to_string).collect::<Vec<_>>(),
        });
        let size = |checkpoint: Option<&SignedCheckpoint>| {
            checkpoint.map_or_else(|| "none".to_owned(), |known| known.head().size.to_string())
        };
        let path = self.evidence(&size(stored), &size(offered));
        let content = format!("{evidence:#}\n");
        let written = files::write(&path, content.as_bytes(), Readers::Owner, &mut os_rng());
        let kept = match written {
            Ok(()) => format!("evidence is in {}", path.display()),
            Err(error) => format!("THE EVIDENCE COULD NOT BE WRITTEN ({error}): {evidence}"),
        };
        does_not_hold(format!("the log does not hold: {reason}; {kept}"))
    }

    fn evidence(&self, stored: &str, offered: &str) -> PathBuf {
        let mut name: OsString = self.path.as_os_str().to_owned();
        name.push(format!(".evidence-{stored}-{offered}.json"));
        name.into()
    }
}
