//! Epochs as a member takes and uses them (protocol §8).

mod custody;

use std::sync::Arc;

use sha2::{Digest as _, Sha256};
use sotto_common::epoch::{Gms, KeySchedule};
use sotto_common::error::{Error, ErrorCode, Result};
use sotto_common::ids::Epoch;
use sotto_common::membership::{KeyConfirmation, Manifest, ManifestPolicy, Profile};
use sotto_common::random::os_rng;
use sotto_common::sealed::{SealInfo, Sealed};
use sotto_common::secret::Secret;
use sotto_common::time::Timestamp;
use sotto_proto::convert::{read_unverified, sign, verify};
use sotto_proto::v1;

use super::App;
use crate::broker::ask;
use crate::store::StoredEpoch;

/// An epoch whose key is in use.
pub(crate) struct EpochKeys {
    /// Its manifest.
    pub(crate) manifest: Arc<Manifest>,
    /// What follows from its secret.
    pub(crate) schedule: Arc<KeySchedule>,
}

impl App {
    fn manifest_policies(&self, profile: &Profile, schedule: &KeySchedule) -> Vec<ManifestPolicy> {
        let row = |policy| ManifestPolicy {
            policy,
            canary_tags: self.policies.canary_tags(policy, schedule),
            forms: self.policies.forms(policy),
        };
        profile.policies().iter().map(|p| row(p.policy)).collect()
    }

    /// Takes an epoch, the latest for `None`: checks its manifest, opens the envelope, checks KC,
    /// stores the key and confirms.
    ///
    /// # Errors
    /// `MANIFEST_INVALID`, `SIGNATURE_INVALID`, `MEMBER_NOT_PINNED`, `FORMS_MISMATCH`,
    /// `CANARY_MISSING`, `KEY_MISMATCH`: nothing is stored or confirmed then. Or those of the
    /// broker.
    pub(crate) async fn fetch_epoch(
        &self,
        epoch: Option<Epoch>,
    ) -> Result<(Manifest, v1::EpochState)> {
        let _turn = self.epoch_turn.lock().await;
        let request = v1::GetEpochRequest {
            community: self.community.to_string(),
            epoch: epoch.map_or(0, Epoch::get),
        };
        let answer = ask!(self.broker.membership(), get_epoch, request).await?;
        let envelope = answer
            .manifest
            .ok_or_else(|| invalid("the broker gave no manifest"))?;
        let manifest = self.check_manifest(epoch, &envelope).await?;
        let sealed = answer
            .envelope
            .filter(|sealed| sealed.recipient == self.node.as_str())
            .ok_or_else(|| invalid("the broker gave no envelope for this node"))?;
        let gms = self.open_envelope(&envelope, &manifest, &Sealed::try_from(&sealed)?)?;
        let schedule = KeySchedule::derive(&gms, &self.community, manifest.epoch);
        check_commitment(&schedule, &manifest)?;
        check_rows(
            &manifest,
            &self.manifest_policies(&manifest.profile, &schedule),
        )?;
        self.keystore.put_gms(manifest.epoch, &gms, &mut os_rng())?;
        let now = self.clock.now();
        self.store
            .put_epoch(manifest.epoch, &envelope, false, now)
            .await?;
        let state = self.confirm(&envelope, &manifest).await?;
        Ok((manifest, state))
    }

    /// protocol §8: signed by a custodian on this node's own list with the key pinned for it,
    /// every member pinned, the own row the own keys; and no way back to an earlier epoch.
    async fn check_manifest(
        &self,
        asked: Option<Epoch>,
        envelope: &v1::DsseEnvelope,
    ) -> Result<Manifest> {
        let claimed: Manifest = read_unverified(envelope)?;
        if !self.custodians.contains(&claimed.custodian) {
            return Err(invalid(
                "the manifest's custodian is not on this node's own list of custodians",
            ));
        }
        self.check_pins(&claimed.members).await?;
        // Its row is pinned, or this node's own, by the line above.
        let key = claimed.member(&claimed.custodian)?.signing;
        let manifest: Manifest = verify(envelope, &key)?;
        manifest.member(&self.node)?;
        if manifest.community != self.community
            || asked.is_some_and(|asked| asked != manifest.epoch)
        {
            return Err(invalid("the manifest is of another community or epoch"));
        }
        if manifest.not_after <= self.clock.now() {
            return Err(invalid("the epoch is over"));
        }
        let stored = self.store.epochs().await?;
        for other in stored.iter().filter(|other| !other.draft) {
            if other.manifest.epoch > manifest.epoch && !known(&stored, envelope) {
                return Err(invalid(
                    "epochs do not go backwards: this node has a later one already",
                ));
            }
            if other.manifest.epoch == manifest.epoch && other.envelope.payload != envelope.payload
            {
                return Err(invalid(
                    "another manifest of this epoch was taken before; do not go on before it is \
                     explained",
                ));
            }
        }
        Ok(manifest)
    }

    fn open_envelope(
        &self,
        envelope: &v1::DsseEnvelope,
        manifest: &Manifest,
        sealed: &Sealed,
    ) -> Result<Gms> {
        let info = SealInfo::epoch_key(&self.community, manifest.epoch, &self.node);
        let opened = self
            .keystore
            .hpke()
            .open(sealed, &info, &body_digest(envelope))
            .ok();
        opened
            .and_then(|plaintext| Secret::from_slice(&plaintext))
            .map(Gms::from_secret)
            .ok_or_else(|| {
                Error::new(
                    ErrorCode::KeyMismatch,
                    "the envelope cannot be opened with this node's key",
                )
            })
    }

    async fn confirm(
        &self,
        envelope: &v1::DsseEnvelope,
        manifest: &Manifest,
    ) -> Result<v1::EpochState> {
        let confirmation = KeyConfirmation {
            community: self.community.clone(),
            epoch: manifest.epoch,
            node: self.node.clone(),
            kid: manifest.kid(),
            manifest_digest: body_digest(envelope),
        };
        let request = v1::ConfirmEpochRequest {
            community: self.community.to_string(),
            confirmation: Some(sign(confirmation, self.keystore.signing())),
        };
        let answer = ask!(self.broker.membership(), confirm_epoch, request);
        Ok(answer.await?.state())
    }

    /// The epochs as the broker lists them, latest first.
    ///
    /// # Errors
    /// Those of the broker.
    pub(crate) async fn broker_epochs(&self) -> Result<Vec<v1::EpochSummary>> {
        let request = v1::ListEpochsRequest {
            community: self.community.to_string(),
        };
        let answer = ask!(self.broker.membership(), list_epochs, request);
        Ok(answer.await?.epochs)
    }

    /// The epochs as the broker lists them, and when this node stored the key of each.
    ///
    /// # Errors
    /// Those of the broker.
    pub(crate) async fn node_epochs(&self) -> Result<Vec<(v1::EpochSummary, Option<Timestamp>)>> {
        let stored = self.store.epochs().await?;
        let fetched = |summary: &v1::EpochSummary| {
            let same = |epoch: &&StoredEpoch| epoch.manifest.epoch.get() == summary.epoch;
            stored.iter().find(same).map(|epoch| epoch.fetched_at)
        };
        let listed = self.broker_epochs().await?.into_iter();
        Ok(listed
            .map(|summary| {
                let fetched_at = fetched(&summary);
                (summary, fetched_at)
            })
            .collect())
    }

    /// What the broker allows this node, and the active epochs that it has the key of.
    ///
    /// # Errors
    /// Those of the broker.
    pub(crate) async fn standing(&self) -> Result<(Vec<v1::PolicyLimits>, Vec<u32>)> {
        let limits = self.limits().await?;
        let epochs = self.node_epochs().await?.into_iter();
        let active = |(summary, fetched): &(v1::EpochSummary, Option<_>)| {
            summary.state() == v1::EpochState::Active && fetched.is_some()
        };
        Ok((
            limits,
            epochs
                .filter(active)
                .map(|(summary, _)| summary.epoch)
                .collect(),
        ))
    }

    /// The latest epoch that is active and whose key this node has.
    ///
    /// # Errors
    /// `EPOCH_NOT_ACTIVE` if there is none, or those of the broker.
    pub(crate) async fn active_epoch(&self) -> Result<EpochKeys> {
        let stored = self.store.epochs().await?;
        let listed = self.broker_epochs().await?;
        let now = self.clock.now();
        let active = |epoch: &&StoredEpoch| {
            epoch.manifest.covers(now)
                && listed.iter().any(|summary| {
                    summary.epoch == epoch.manifest.epoch.get()
                        && summary.state() == v1::EpochState::Active
                        && summary.kid == epoch.manifest.kid().as_bytes()[..]
                })
        };
        match stored.iter().find(active) {
            Some(epoch) => self.keys_of(epoch.manifest.clone()),
            None => Err(Error::new(
                ErrorCode::EpochNotActive,
                "no active epoch whose key this node has; fetch it, and wait until every member \
                 has confirmed",
            )),
        }
    }

    /// The keys of an epoch that was stored before.
    ///
    /// # Errors
    /// `EPOCH_UNKNOWN` if this node has not its key.
    pub(crate) async fn stored_keys(&self, epoch: Epoch) -> Result<EpochKeys> {
        let stored = self.store.epochs().await?;
        let found = stored.into_iter().find(|e| e.manifest.epoch == epoch);
        let found = found.ok_or_else(|| {
            Error::new(
                ErrorCode::EpochUnknown,
                "this node has not the key of the epoch",
            )
        })?;
        self.keys_of(found.manifest)
    }

    fn keys_of(&self, manifest: Manifest) -> Result<EpochKeys> {
        let gms = self.gms_of(manifest.epoch)?;
        let schedule = KeySchedule::derive(&gms, &manifest.community, manifest.epoch);
        Ok(EpochKeys {
            manifest: Arc::new(manifest),
            schedule: Arc::new(schedule),
        })
    }

    fn gms_of(&self, epoch: Epoch) -> Result<Gms> {
        let gms = self.keystore.gms(epoch)?;
        gms.ok_or_else(|| Error::internal(format!("no key of epoch {epoch} in the keystore")))
    }
}

/// protocol §3: "refuses an epoch whose opened GMS does not match", in constant time.
fn check_commitment(schedule: &KeySchedule, manifest: &Manifest) -> Result<()> {
    if schedule.matches(&manifest.key_commitment) {
        return Ok(());
    }
    Err(Error::new(
        ErrorCode::KeyMismatch,
        "the epoch key is not the one that the manifest commits to",
    ))
}

/// Own canaries and forms against the manifest's, the other way round than the broker's rule 4:
/// whoever differs finds out before it publishes or probes.
fn check_rows(manifest: &Manifest, own: &[ManifestPolicy]) -> Result<()> {
    for (theirs, own) in manifest.policies.iter().zip(own) {
        let policy = own.policy.name();
        if theirs.forms != own.forms {
            let text = "the normal form of this node has drifted from the manifest's: do not \
                        confirm; compare the versions of the programs";
            return Err(Error::new(ErrorCode::FormsMismatch, text).about(policy));
        }
        if theirs.canary_tags != own.canary_tags {
            let text = "the canary tags of the manifest are not those of its key";
            return Err(Error::new(ErrorCode::CanaryMissing, text).about(policy));
        }
    }
    Ok(())
}

/// H of a manifest's signed body (protocol §8).
fn body_digest(envelope: &v1::DsseEnvelope) -> [u8; 32] {
    Sha256::digest(&envelope.payload).into()
}

fn known(stored: &[StoredEpoch], envelope: &v1::DsseEnvelope) -> bool {
    stored
        .iter()
        .any(|epoch| epoch.envelope.payload == envelope.payload)
}

fn invalid(text: &'static str) -> Error {
    Error::new(ErrorCode::ManifestInvalid, text)
}

#[cfg(test)]
mod tests {
    use sotto_common::dsse::SigningKey;
    use sotto_common::ids::NodeId;
    use sotto_common::membership::PolicyProfile;
    use sotto_common::selector::Policy;
    use sotto_common::service::at_rest::ColumnCipher;

    use super::*;
    use crate::keystore::Keystore;
    use crate::testing;

    /// A community of `nl-fiu`, whose use cases these are, and the custodian `de-bka`, pinned.
    struct Sample {
        app: App,
        dir: tempfile::TempDir,
        custodian: Keystore,
        gms: Gms,
    }

    fn node(text: &str) -> NodeId {
        text.parse().expect("a node")
    }

    impl Sample {
        async fn new() -> Self {
            let (app, dir) = testing::app().await;
            let keys = dir.path().join("de-bka");
            let custodian =
                Keystore::create(&keys, ColumnCipher::off(), &mut os_rng()).expect("made");
            let fingerprint = custodian.signing().verifying_key().fingerprint();
            app.pin_member(&node("de-bka"), &fingerprint, false)
                .await
                .expect("pinned");
            Self {
                app,
                dir,
                custodian,
                gms: Gms::generate(&mut os_rng()),
            }
        }

        fn manifest(&self, epoch: u32) -> Manifest {
            let epoch = Epoch::new(epoch).expect("an epoch");
            let schedule = KeySchedule::derive(&self.gms, &self.app.community, epoch);
            let row = PolicyProfile {
                policy: Policy::Email,
                k: 30,
                prior: 1e-3,
            };
            let profile = Profile::new(vec![row]).expect("a profile");
            Manifest {
                community: self.app.community.clone(),
                epoch,
                custodian: node("de-bka"),
                members: vec![
                    self.custodian.public(&node("de-bka")),
                    self.app.keystore.public(&node("nl-fiu")),
                ],
                key_commitment: schedule.key_commitment(),
                policies: self.app.manifest_policies(&profile, &schedule),
                profile,
                not_before: Timestamp::from_seconds(1_000),
                not_after: Timestamp::from_seconds(9_000),
            }
        }

        async fn check(&self, manifest: Manifest, key: &SigningKey) -> Result<Manifest> {
            self.app.check_manifest(None, &sign(manifest, key)).await
        }

        async fn refusal(&self, manifest: Manifest) -> ErrorCode {
            let key = self.custodian.signing();
            self.check(manifest, key).await.expect_err("refused").code
        }
    }

    #[tokio::test]
    async fn a_manifest_of_a_pinned_custodian_and_pinned_members_is_taken() {
        let sample = Sample::new().await;
        let manifest = sample.manifest(1);
        let taken = sample
            .check(manifest.clone(), sample.custodian.signing())
            .await;
        assert_eq!(taken.expect("taken"), manifest);
        let other = SigningKey::generate(&mut os_rng());
        let forged = sample.check(manifest, &other).await.expect_err("refused");
        assert_eq!(forged.code, ErrorCode::SignatureInvalid);
    }

    #[tokio::test]
    async fn a_manifest_that_breaks_a_rule_of_section_8_is_refused() {
        let sample = Sample::new().await;
        let with = |change: &dyn Fn(&mut Manifest)| {
            let mut manifest = sample.manifest(1);
            change(&mut manifest);
            manifest
        };
        let stranger = Keystore::create(
            &sample.dir.path().join("x"),
            ColumnCipher::off(),
            &mut os_rng(),
        );
        let stranger = stranger.expect("made");
        let invalid = ErrorCode::ManifestInvalid;
        for (manifest, expected) in [
            (
                with(&|m| m.members.push(stranger.public(&node("fr-pj")))),
                ErrorCode::MemberNotPinned,
            ),
            (
                with(&|m| m.members[0] = stranger.public(&node("de-bka"))),
                ErrorCode::MemberNotPinned,
            ),
            (
                with(&|m| m.members[1] = stranger.public(&node("nl-fiu"))),
                invalid,
            ),
            (
                with(&|m| {
                    m.custodian = node("fr-pj");
                    m.members.push(stranger.public(&node("fr-pj")));
                }),
                invalid,
            ),
            (with(&|m| drop(m.members.pop())), ErrorCode::NotAMember),
            (
                with(&|m| m.community = "other".parse().expect("one")),
                invalid,
            ),
            (
                with(&|m| m.not_after = Timestamp::from_seconds(1_999)),
                invalid,
            ),
        ] {
            assert_eq!(sample.refusal(manifest).await, expected);
        }
        assert!(sample.app.store.epochs().await.expect("read").is_empty());
    }

    #[tokio::test]
    async fn epochs_do_not_go_backwards_and_have_one_manifest() {
        let sample = Sample::new().await;
        let second = sample.manifest(2);
        let envelope = sign(second.clone(), sample.custodian.signing());
        let (epoch, now) = (second.epoch, Timestamp::from_seconds(2_000));
        let stored = sample.app.store.put_epoch(epoch, &envelope, false, now);
        stored.await.expect("stored");
        let again = sample.app.check_manifest(Some(epoch), &envelope).await;
        assert_eq!(again.expect("the same"), second);
        let mut other = second;
        other.not_after = Timestamp::from_seconds(8_000);
        for manifest in [other, sample.manifest(1)] {
            assert_eq!(sample.refusal(manifest).await, ErrorCode::ManifestInvalid);
        }
    }

    #[tokio::test]
    async fn the_envelope_opens_beside_its_manifest_only() {
        let sample = Sample::new().await;
        let (app, manifest) = (&sample.app, sample.manifest(1));
        let envelope = sign(manifest.clone(), sample.custodian.signing());
        let own = app.keystore.public(&app.node);
        let (epoch, aad) = (manifest.epoch, body_digest(&envelope));
        let sealed = app.seal_to(&own, epoch, &aad, &sample.gms).expect("sealed");
        let sealed = Sealed::try_from(&sealed).expect("read");
        let opened = app.open_envelope(&envelope, &manifest, &sealed);
        assert_eq!(opened.expect("opened"), sample.gms);
        let other = sign(sample.manifest(2), sample.custodian.signing());
        let refused = app.open_envelope(&other, &manifest, &sealed);
        assert_eq!(refused.expect_err("refused").code, ErrorCode::KeyMismatch);
    }

    #[tokio::test]
    async fn drifted_forms_and_foreign_canaries_are_refused() {
        let sample = Sample::new().await;
        let manifest = sample.manifest(1);
        let own = manifest.policies.clone();
        assert!(check_rows(&manifest, &own).is_ok());
        let mut drifted = manifest.clone();
        drifted.policies[0].forms[0] ^= 1;
        let error = check_rows(&drifted, &own).expect_err("refused");
        assert_eq!(error.code, ErrorCode::FormsMismatch);
        let mut foreign = manifest;
        foreign.policies[0].canary_tags.reverse();
        let error = check_rows(&foreign, &own).expect_err("refused");
        assert_eq!(error.code, ErrorCode::CanaryMissing);
    }
}
