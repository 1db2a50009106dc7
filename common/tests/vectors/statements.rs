//! Signed statements and sealed secrets (protocol §8 to §10).

use serde::Deserialize;
use serde_json::Value;
use sotto_common::dsse::{SigningKey, StatementKind, pae, verify};
use sotto_common::followup::SealedPart;
use sotto_common::followup::presence::PresenceProof;
use sotto_common::ids::{FollowUpId, NodeId};
use sotto_common::sealed::{HpkeKeyPair, SealInfo, Sealed, Suite};
use sotto_common::secret::{Secret, Selector};

use crate::report::{Hex, HexBytes, Rows, same};

/// `dsse.json`.
pub(crate) fn dsse(file: &Value, rows: &mut Rows<'_>) {
    #[derive(Deserialize)]
    struct Row {
        #[serde(rename = "type")]
        media_type: String,
        body: HexBytes,
        pae: HexBytes,
        seed: Hex<32>,
        keyid: String,
        signature: Hex<64>,
    }
    rows.each(file, |row: Row| {
        same("pae", HexBytes(pae(&row.media_type, &row.body.0)), row.pae)?;
        let kind = StatementKind::from_media_type(&row.media_type).ok_or("unknown type")?;
        let key = SigningKey::from_seed(&Secret::new(row.seed.0));
        let envelope = key.sign(kind, row.body.0.clone());
        let ours = &envelope.signatures[0];
        same("keyid", ours.keyid.as_str(), row.keyid.as_str())?;
        let theirs = HexBytes(row.signature.0.to_vec());
        same("signature", HexBytes(ours.sig.clone()), theirs)?;
        let body = verify(kind, &envelope, &key.verifying_key()).map_err(|e| e.to_string())?;
        same("body", body, &row.body.0[..])
    });
}

/// `hpke.json`: the key pair, the info of its epoch, and what opens.
pub(crate) fn hpke(file: &Value, rows: &mut Rows<'_>) {
    #[derive(Deserialize)]
    struct Row {
        suite: String,
        recipient_private: Hex<32>,
        recipient_public: HexBytes,
        info: HexBytes,
        aad: HexBytes,
        enc: HexBytes,
        ciphertext: HexBytes,
        plaintext: HexBytes,
    }
    let Some(keys) = rows.keys() else { return };
    rows.each(file, |row: Row| {
        let suite = suite(&row.suite)?;
        let private = Secret::new(row.recipient_private.0);
        let pair = HpkeKeyPair::from_private(suite, &private).map_err(|e| e.to_string())?;
        let public = HexBytes(pair.public().to_bytes());
        same("recipient_public", public, row.recipient_public)?;

        // The row does not name the recipient: it is the last field of `info`.
        let recipient = row.info.0.rsplit(|byte| *byte == 0).next();
        let recipient = recipient
            .and_then(|field| field.get(1..))
            .unwrap_or_default();
        let recipient = String::from_utf8_lossy(recipient);
        let recipient = recipient.parse().map_err(|_| "info: no recipient")?;
        let info = SealInfo::epoch_key(&keys.community, keys.epoch, &recipient);
        same("info", HexBytes(info.as_bytes().to_vec()), row.info)?;

        let sealed = Sealed {
            suite,
            enc: row.enc.0,
            ciphertext: row.ciphertext.0,
        };
        let opened = pair
            .open(&sealed, &info, &row.aad.0)
            .map_err(|error| error.to_string())?;
        same("plaintext", HexBytes(opened.to_vec()), row.plaintext)
    });
}

/// `follow_up_info.json`: the HPKE `info` of a sealed part.
pub(crate) fn follow_up_info(file: &Value, rows: &mut Rows<'_>) {
    #[derive(Deserialize)]
    struct Row {
        step: String,
        follow_up_id: Hex<16>,
        sender: String,
        recipient: String,
        info: HexBytes,
    }
    rows.each(file, |row: Row| {
        // The word in the label is lower case; `parse` takes any.
        let part = SealedPart::ALL.iter().find(|p| p.as_str() == row.step);
        let part = part.ok_or("step: unknown")?;
        let (sender, recipient) = (node(&row.sender)?, node(&row.recipient)?);
        let id = FollowUpId::of_vector(row.follow_up_id.0);
        let info = SealInfo::follow_up(*part, id, &sender, &recipient);
        same("info", HexBytes(info.as_bytes().to_vec()), row.info)
    });
}

/// `held.json`: the proof of presence.
pub(crate) fn held(file: &Value, rows: &mut Rows<'_>) {
    #[derive(Deserialize)]
    struct Row {
        canonical: String,
        follow_up_id: Hex<16>,
        holder: String,
        requester: String,
        held: Hex<32>,
    }
    rows.each(file, |row: Row| {
        let (holder, requester) = (node(&row.holder)?, node(&row.requester)?);
        let id = FollowUpId::of_vector(row.follow_up_id.0);
        let proof = PresenceProof::new(&Selector::new(row.canonical), id, &holder, &requester);
        same("held", Hex(*proof.secret().expose()), row.held)
    });
}

fn node(text: &str) -> Result<NodeId, String> {
    text.parse().map_err(|_| "no node id".into())
}

fn suite(text: &str) -> Result<Suite, String> {
    let ids: Vec<_> = text
        .split(',')
        .filter_map(|id| u16::from_str_radix(id.trim().trim_start_matches("0x"), 16).ok())
        .collect();
    let [kem, kdf, aead] = ids[..] else {
        return Err("suite: not three ids".into());
    };
    Suite::from_ids(kem, kdf, aead).map_err(|error| error.to_string())
}
