//! Epochs as their custodian opens, closes and ends them (protocol §8).

use std::collections::BTreeSet;
use std::time::Duration;

use sotto_common::epoch::{Gms, KeySchedule};
use sotto_common::error::{Error, ErrorCode, Result};
use sotto_common::ids::{Epoch, NodeId};
use sotto_common::membership::{Manifest, MemberKeys, Profile};
use sotto_common::random::os_rng;
use sotto_common::sealed::{HpkePublicKey, SealInfo, Suite};
use sotto_common::time::Timestamp;
use sotto_proto::convert::sign;
use sotto_proto::v1;

use super::{body_digest, check_commitment};
use crate::app::App;
use crate::app::members::Listed;
use crate::broker::{ask, is_passing};
use crate::store::StoredEpoch;

/// How long an epoch lasts if nobody says.
const DEFAULT_DAYS: u32 = 30;
const DAY: Duration = Duration::from_hours(24);

/// The members of an epoch that is opened.
struct Recipients {
    /// Whom the key is sealed to.
    members: Vec<MemberKeys>,
    /// Those whose keys are for a later epoch.
    left_out: BTreeSet<NodeId>,
}

impl App {
    /// As custodian: makes an epoch key, seals it to every member, opens the epoch and confirms
    /// it. What a crash interrupted is sent again as it was made, if it still fits the members,
    /// the pins and the days. Gives the members as well whose keys are for a later epoch: they
    /// are left out.
    ///
    /// # Errors
    /// `ROLE_FORBIDDEN` if this node is not on its own list of custodians, `MEMBER_NOT_PINNED`,
    /// or those of the broker.
    pub(crate) async fn start_epoch(&self, days: u32) -> Result<(Manifest, BTreeSet<NodeId>)> {
        if !self.custodians.contains(&self.node) {
            return Err(Error::new(
                ErrorCode::RoleForbidden,
                "this node is not on its own list of custodians; see `custodians` in its \
                 configuration",
            ));
        }
        let days = if days == 0 { DEFAULT_DAYS } else { days };
        if days > 31 {
            return Err(Error::field("days", "1 to 31"));
        }
        let _turn = self.epoch_turn.lock().await;
        let (draft, left_out) = self.draft(days).await?;
        let epoch = draft.manifest.epoch;
        match self.open_epoch(&draft).await {
            Ok(()) => {}
            Err(error) if is_passing(&error) => return Err(error),
            Err(error) => {
                // The broker has refused it for good: the next attempt makes another.
                self.store.delete_draft(epoch).await?;
                return Err(error);
            }
        }
        let now = self.clock.now();
        self.store
            .put_epoch(epoch, &draft.envelope, false, now)
            .await?;
        self.confirm(&draft.envelope, &draft.manifest).await?;
        Ok((draft.manifest, left_out))
    }

    /// The draft that waits, if it is what would be made now, or a new one.
    async fn draft(&self, days: u32) -> Result<(StoredEpoch, BTreeSet<NodeId>)> {
        let listed = self.listed_nodes().await?;
        let stored = self.store.epochs().await?;
        if let Some(draft) = stored.iter().find(|epoch| epoch.draft) {
            // The pins are asked anew: they may have changed since it was made.
            let recipients = self.recipients(&listed, draft.manifest.epoch).await?;
            if still_fits(&draft.manifest, &recipients.members, days, self.clock.now()) {
                return Ok((draft.clone(), recipients.left_out));
            }
            self.store.delete_draft(draft.manifest.epoch).await?;
        }
        let latest = self.broker_epochs().await?.iter().map(|e| e.epoch).max();
        // A draft that is given up may have reached the broker: its number is not used again.
        let own = stored.iter().map(|e| e.manifest.epoch.get()).max();
        let last = latest.max(own).unwrap_or(0);
        let epoch = Epoch::new(last.saturating_add(1)).map_err(Error::internal)?;
        let recipients = self.recipients(&listed, epoch).await?;
        let draft = self.draft_epoch(epoch, days, recipients.members).await?;
        Ok((draft, recipients.left_out))
    }

    /// Makes secret and manifest; both are durable before anybody sees them.
    async fn draft_epoch(
        &self,
        epoch: Epoch,
        days: u32,
        members: Vec<MemberKeys>,
    ) -> Result<StoredEpoch> {
        let profile = self.proposed_profile().await?;
        let gms = Gms::generate(&mut os_rng());
        let schedule = KeySchedule::derive(&gms, &self.community, epoch);
        let now = self.clock.now();
        let manifest = Manifest {
            community: self.community.clone(),
            epoch,
            custodian: self.node.clone(),
            members,
            key_commitment: schedule.key_commitment(),
            policies: self.manifest_policies(&profile, &schedule),
            profile,
            not_before: now,
            not_after: now.plus(DAY * days),
        };
        manifest.validate()?;
        let envelope = sign(manifest.clone(), self.keystore.signing());
        self.keystore.put_gms(epoch, &gms, &mut os_rng())?;
        self.store.put_epoch(epoch, &envelope, true, now).await?;
        Ok(StoredEpoch {
            envelope,
            manifest,
            fetched_at: now,
            draft: true,
        })
    }

    /// Every enrolled node whose key statement is for this epoch; all must be pinned.
    async fn recipients(&self, listed: &[Listed], epoch: Epoch) -> Result<Recipients> {
        let (mut members, mut left_out) = (Vec::new(), BTreeSet::new());
        for listed in listed.iter().filter(|listed| !listed.suspended) {
            match &listed.stated {
                None => {}
                // statement.proto: a statement counts from the epoch on that it names.
                Some(stated) if stated.valid_from > epoch => {
                    left_out.insert(listed.node.clone());
                }
                Some(stated) => members.push(stated.keys.clone()),
            }
        }
        if !members.iter().any(|member| member.node == self.node) {
            return Err(Error::new(
                ErrorCode::NotAMember,
                "the broker does not have this node's key statement yet",
            ));
        }
        self.check_pins(&members).await?;
        Ok(Recipients { members, left_out })
    }

    async fn proposed_profile(&self) -> Result<Profile> {
        let request = v1::GetCommunityRequest {
            community: self.community.to_string(),
        };
        let answer = ask!(self.broker.membership(), get_community, request);
        answer
            .await?
            .proposed_profile
            .ok_or_else(|| Error::field("proposed_profile", "the community has no profile"))?
            .try_into()
    }

    async fn open_epoch(&self, draft: &StoredEpoch) -> Result<()> {
        let request = v1::OpenEpochRequest {
            community: self.community.to_string(),
            manifest: Some(draft.envelope.clone()),
            envelopes: self.seal_to_all(draft)?,
        };
        ask!(self.broker.membership(), open_epoch, request)
            .await
            .map(drop)
    }

    fn seal_to_all(&self, draft: &StoredEpoch) -> Result<Vec<v1::SealedEpochKey>> {
        let (manifest, epoch) = (&draft.manifest, draft.manifest.epoch);
        let gms = self.gms_of(epoch)?;
        // Another key would lock every member out.
        check_commitment(&KeySchedule::derive(&gms, &self.community, epoch), manifest)?;
        let aad = body_digest(&draft.envelope);
        let seal = |member| self.seal_to(member, epoch, &aad, &gms);
        manifest.members.iter().map(seal).collect()
    }

    pub(super) fn seal_to(
        &self,
        member: &MemberKeys,
        epoch: Epoch,
        aad: &[u8],
        gms: &Gms,
    ) -> Result<v1::SealedEpochKey> {
        let suite = Suite::X25519Sha256ChaCha20Poly1305;
        let no_key = || {
            Error::new(
                ErrorCode::ManifestInvalid,
                "a member has no HPKE key that can be sealed to",
            )
            .about(member.node.to_string())
        };
        let key = member.hpke.iter().find(|key| key.kem == suite.ids().0);
        let key = key.ok_or_else(no_key)?;
        let key = HpkePublicKey::from_slice(suite, &key.key).map_err(|_| no_key())?;
        let info = SealInfo::epoch_key(&self.community, epoch, &member.node);
        let sealed = key
            .seal(&info, aad, gms.secret().expose(), &mut os_rng())
            .map_err(|_| no_key())?;
        Ok(v1::SealedEpochKey::new(&member.node, sealed))
    }

    /// As custodian: closes the list of confirmations, which makes the epoch active.
    ///
    /// # Errors
    /// Those of the broker: `ROLE_FORBIDDEN` if another node is the custodian.
    pub(crate) async fn close_confirmations(&self, epoch: Epoch) -> Result<()> {
        let request = v1::CloseConfirmationsRequest {
            community: self.community.to_string(),
            epoch: epoch.get(),
        };
        ask!(self.broker.membership(), close_confirmations, request)
            .await
            .map(drop)
    }

    /// As custodian: ends an epoch, and with it its filters at the broker.
    ///
    /// # Errors
    /// Those of the broker: `ROLE_FORBIDDEN` if another node is the custodian.
    pub(crate) async fn end_epoch(&self, epoch: Epoch) -> Result<()> {
        let request = v1::EndEpochRequest {
            community: self.community.to_string(),
            epoch: epoch.get(),
        };
        ask!(self.broker.membership(), end_epoch, request)
            .await
            .map(drop)
    }
}

/// Whether a draft is what would be made of these members and days.
fn still_fits(draft: &Manifest, members: &[MemberKeys], days: u32, now: Timestamp) -> bool {
    let same_members = draft.members.len() == members.len()
        && draft.members.iter().all(|member| members.contains(member));
    same_members && draft.not_after > now && draft.not_after == draft.not_before.plus(DAY * days)
}

#[cfg(test)]
mod tests {
    use sotto_common::membership::KeyStatement;
    use sotto_common::service::at_rest::ColumnCipher;

    use super::*;
    use crate::keystore::Keystore;
    use crate::testing;

    fn node(text: &str) -> NodeId {
        text.parse().expect("a node")
    }

    fn listed(keys: MemberKeys, valid_from: u32) -> Listed {
        Listed {
            node: keys.node.clone(),
            suspended: false,
            stated: Some(KeyStatement {
                keys,
                community: "euro-cyber".parse().expect("a community"),
                valid_from: Epoch::new(valid_from).expect("an epoch"),
            }),
        }
    }

    #[tokio::test]
    async fn only_a_custodian_on_its_own_list_makes_an_epoch() {
        let (mut app, _dir) = testing::app().await;
        app.custodians.retain(|custodian| *custodian != app.node);
        let error = app.start_epoch(1).await.expect_err("refused");
        assert_eq!(error.code, ErrorCode::RoleForbidden);
    }

    #[tokio::test]
    async fn keys_of_a_later_epoch_are_left_out_and_a_pin_that_went_is_noticed() {
        let (app, dir) = testing::app().await;
        let keys = dir.path().join("de-bka");
        let other = Keystore::create(&keys, ColumnCipher::off(), &mut os_rng()).expect("made");
        let other = other.public(&node("de-bka"));
        let own = app.keystore.public(&app.node);
        let epoch = Epoch::new(2).expect("an epoch");
        let nodes = [listed(own.clone(), 1), listed(other.clone(), 3)];
        let found = app.recipients(&nodes, epoch).await.expect("pinned");
        assert_eq!(found.members, std::slice::from_ref(&own));
        assert_eq!(found.left_out, BTreeSet::from([node("de-bka")]));

        let nodes = [listed(own, 1), listed(other.clone(), 2)];
        let error = app.recipients(&nodes, epoch).await.err().expect("refused");
        assert_eq!(error.code, ErrorCode::MemberNotPinned);
        let pin = other.signing.fingerprint();
        let pinned = app.pin_member(&other.node, &pin, false);
        pinned.await.expect("pinned");
        let found = app.recipients(&nodes, epoch).await.expect("pinned");
        assert_eq!((found.members.len(), found.left_out.len()), (2, 0));
        let another = testing::manifest(1).1.members[0].signing.fingerprint();
        let pinned = app.pin_member(&other.node, &another, true);
        pinned.await.expect("replaced");
        assert!(app.recipients(&nodes, epoch).await.is_err());
    }

    #[test]
    fn a_draft_is_sent_again_only_to_the_same_members_for_the_same_days() {
        let (_, mut draft) = testing::manifest(1);
        let now = draft.not_before;
        draft.not_after = now.plus(DAY * 7);
        let members = draft.members.clone();
        assert!(still_fits(&draft, &members, 7, now));
        assert!(!still_fits(&draft, &members, 8, now));
        assert!(!still_fits(&draft, &members, 7, draft.not_after));
        assert!(!still_fits(&draft, &[], 7, now));
        let other = testing::manifest(1).1.members;
        assert!(!still_fits(&draft, &other, 7, now));
    }

    #[tokio::test]
    async fn a_key_that_the_manifest_does_not_commit_to_is_not_sealed() {
        let (app, _dir) = testing::app().await;
        let epoch = Epoch::new(1).expect("an epoch");
        let (_, mut manifest) = testing::manifest(1);
        let gms = Gms::generate(&mut os_rng());
        let put = |gms: &Gms| app.keystore.put_gms(epoch, gms, &mut os_rng());
        put(&gms).expect("stored");
        let schedule = KeySchedule::derive(&gms, &app.community, epoch);
        manifest.key_commitment = schedule.key_commitment();
        let draft = StoredEpoch {
            envelope: sign(manifest.clone(), app.keystore.signing()),
            manifest,
            fetched_at: app.clock.now(),
            draft: true,
        };
        assert_eq!(app.seal_to_all(&draft).expect("sealed").len(), 1);
        put(&Gms::generate(&mut os_rng())).expect("stored");
        let error = app.seal_to_all(&draft).expect_err("refused");
        assert_eq!(error.code, ErrorCode::KeyMismatch);
    }
}
