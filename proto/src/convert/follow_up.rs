//! Steps of a follow-up (protocol §10): the statement, its clear part, and the sealing of what goes
//! with it.

mod codes;
mod content;
mod view;

use prost::Message as _;
use rand::CryptoRng;
use sha2::{Digest as _, Sha256};
use sotto_common::dsse::StatementKind;
use sotto_common::error::{Error, ErrorCode, Result};
use sotto_common::followup::attachment::AttachmentClear;
use sotto_common::followup::codes::{
    HandlingCode, Item, ItemState, RefusalGround, TimeLimit, UrgencyGround,
};
use sotto_common::followup::padding::{BLOCK, pad, unpad};
use sotto_common::followup::step::{
    AnswerClear, AttachmentDigest, ItemOutcome, MAX_ATTACHMENTS, Outcomes, StepClear, StepDetail,
    StepStatement, Terms,
};
use sotto_common::followup::{FollowUpState, FollowUpStep, Sealing};
use sotto_common::ids::{AttachmentId, FollowUpId, HitId};
use sotto_common::sealed::{HpkeKeyPair, HpkePublicKey, SealInfo, Sealed, Suite};
use zeroize::Zeroizing;

use super::{FORMAT, Statement, array, check_format, id, text, timestamp, to_timestamp};
use crate::v1;

pub use codes::code;

/// Bytes that AEAD adds to a sealed part.
const AEAD_TAG: usize = 16;

/// Makes a step: seals `content`, the serialised message of the step's part, to the other side.
///
/// # Errors
/// `SEAL_INVALID` if the step must have content and has none, or the other way round, or if the
/// recipient's key takes nothing.
pub fn make_step(
    clear: StepClear,
    content: Option<&[u8]>,
    recipient: &HpkePublicKey,
    rng: &mut impl CryptoRng,
) -> Result<StepStatement> {
    let clear_bytes = v1::FollowUpClear::from(&clear).encode_to_vec();
    check_sealing(&clear, content.is_some())?;
    let sealed = match (clear.step().sealing().part(), content) {
        (Some(part), Some(content)) => {
            let info = SealInfo::follow_up(part, clear.follow_up, &clear.sender, &clear.recipient);
            let aad: [u8; 32] = Sha256::digest(&clear_bytes).into();
            let sealed = recipient.seal(&info, &aad, &pad(content), rng);
            Some(sealed.map_err(|_| seal_invalid("the recipient's key takes nothing"))?)
        }
        _ => None,
    };
    Ok(StepStatement {
        clear_bytes,
        clear,
        sealed,
    })
}

/// Opens what is sealed with a step; `None` if it has no such part.
///
/// # Errors
/// `SEAL_INVALID` if it does not open by this key, or is not padded as it must be.
pub fn open_step(
    statement: &StepStatement,
    pair: &HpkeKeyPair,
) -> Result<Option<Zeroizing<Vec<u8>>>> {
    let clear = &statement.clear;
    let (Some(sealed), Some(part)) = (&statement.sealed, clear.step().sealing().part()) else {
        return Ok(None);
    };
    let info = SealInfo::follow_up(part, clear.follow_up, &clear.sender, &clear.recipient);
    let aad: [u8; 32] = Sha256::digest(&statement.clear_bytes).into();
    let padded = pair.open(sealed, &info, &aad);
    let padded = padded.map_err(|_| seal_invalid("what is sealed with the step does not open"))?;
    let text = unpad(&padded).ok_or_else(|| seal_invalid("what is sealed is not padded right"))?;
    Ok(Some(Zeroizing::new(text.to_vec())))
}

/// `H` of a statement's body: `previous` of the next step.
pub fn body_digest(envelope: &v1::DsseEnvelope) -> [u8; 32] {
    Sha256::digest(&envelope.payload).into()
}

fn seal_invalid(text: &'static str) -> Error {
    Error::new(ErrorCode::SealInvalid, text)
}

/// Whether a step has a sealed part as protocol §10 wants it.
fn check_sealing(clear: &StepClear, is_sealed: bool) -> Result<()> {
    match (clear.step().sealing(), is_sealed) {
        (Sealing::None, true) => Err(seal_invalid("this step has no sealed part")),
        (Sealing::Required(_), false) => Err(seal_invalid("this step has a sealed part")),
        _ => Ok(()),
    }
}

impl Statement for StepStatement {
    type Wire = v1::FollowUpStatement;
    const KIND: StatementKind = StatementKind::FollowUp;
}

impl TryFrom<v1::FollowUpStatement> for StepStatement {
    type Error = Error;

    fn try_from(wire: v1::FollowUpStatement) -> Result<Self> {
        check_format(wire.format)?;
        let clear = v1::FollowUpClear::decode(wire.clear.clone())
            .map_err(|_| Error::field("clear", "not a FollowUpClear"))?;
        let clear = StepClear::try_from(clear)?;
        let empty = (wire.kem, wire.kdf, wire.aead) == (0, 0, 0)
            && wire.enc.is_empty()
            && wire.sealed.is_empty();
        let sealed = if empty {
            None
        } else {
            Some(sealed(
                (wire.kem, wire.kdf, wire.aead),
                &wire.enc,
                &wire.sealed,
            )?)
        };
        check_sealing(&clear, sealed.is_some())?;
        Ok(Self {
            clear_bytes: wire.clear.to_vec(),
            clear,
            sealed,
        })
    }
}

/// A sealed part that could be one: whole blocks, a suite that is known.
fn sealed(ids: (u32, u32, u32), enc: &[u8], ciphertext: &[u8]) -> Result<Sealed> {
    let padded = ciphertext.len().checked_sub(AEAD_TAG);
    if !padded.is_some_and(|len| len > 0 && len % BLOCK == 0) {
        return Err(seal_invalid(
            "a sealed part is padded to whole blocks of 1024",
        ));
    }
    let suite = suite(ids)?;
    if enc.len() != Suite::ENC_LEN {
        return Err(seal_invalid("the encapsulated key is not of its suite"));
    }
    Ok(Sealed {
        suite,
        enc: enc.to_vec(),
        ciphertext: ciphertext.to_vec(),
    })
}

/// The suite with these ids.
///
/// # Errors
/// `SEAL_INVALID`: a suite that is not known is refused, never guessed (protocol §13).
pub fn suite((kem, kdf, aead): (u32, u32, u32)) -> Result<Suite> {
    let short = |id: u32| u16::try_from(id).ok();
    short(kem)
        .zip(short(kdf))
        .zip(short(aead))
        .and_then(|((kem, kdf), aead)| Suite::from_ids(kem, kdf, aead).ok())
        .ok_or_else(|| seal_invalid("this HPKE suite is not known here"))
}

impl From<StepStatement> for v1::FollowUpStatement {
    fn from(statement: StepStatement) -> Self {
        let ids = statement.sealed.as_ref().map(|sealed| sealed.suite.ids());
        let (kem, kdf, aead) = ids.unwrap_or_default();
        let (enc, sealed) = statement
            .sealed
            .map(|sealed| (sealed.enc, sealed.ciphertext))
            .unwrap_or_default();
        Self {
            format: FORMAT,
            clear: statement.clear_bytes.into(),
            kem: kem.into(),
            kdf: kdf.into(),
            aead: aead.into(),
            enc: enc.into(),
            sealed: sealed.into(),
        }
    }
}

impl TryFrom<v1::FollowUpClear> for StepClear {
    type Error = Error;

    fn try_from(wire: v1::FollowUpClear) -> Result<Self> {
        let step: FollowUpStep = code("step", wire.step)?;
        refuse_fields_of_other_steps(step, &wire)?;
        let detail = detail(step, &wire)?;
        Ok(Self {
            community: text("community", &wire.community)?,
            follow_up: id("follow_up_id", &wire.follow_up_id, FollowUpId::from_slice)?,
            hit: id("hit_id", &wire.hit_id, HitId::from_slice)?,
            seq: wire.seq,
            previous: array("previous", &wire.previous)?,
            sender: text("sender", &wire.sender)?,
            recipient: text("recipient", &wire.recipient)?,
            made_at: timestamp("made_at", wire.made_at)?,
            state: code::<FollowUpState>("state", wire.state)?,
            detail,
        })
    }
}

fn detail(step: FollowUpStep, wire: &v1::FollowUpClear) -> Result<StepDetail> {
    let outcomes = || {
        let outcomes = wire.outcomes.iter().map(outcome).collect::<Result<_>>()?;
        Outcomes::new(outcomes)
    };
    Ok(match step {
        FollowUpStep::Submit => {
            let terms = wire.terms.as_ref();
            let terms = terms.ok_or_else(|| Error::field("terms", "what is asked for"))?;
            StepDetail::Submit(terms.try_into()?)
        }
        FollowUpStep::Held => StepDetail::Held,
        FollowUpStep::NotHeld => StepDetail::NotHeld,
        FollowUpStep::Particulars => StepDetail::Particulars,
        FollowUpStep::Accept => StepDetail::Accept,
        FollowUpStep::Refuse => StepDetail::Refuse(outcomes()?),
        FollowUpStep::RequestClarification => StepDetail::RequestClarification,
        FollowUpStep::Reply => StepDetail::Reply,
        FollowUpStep::AwaitJudicialAuthorisation => StepDetail::AwaitJudicialAuthorisation {
            new_date: timestamp("new_date", wire.new_date)?,
        },
        FollowUpStep::Answer => StepDetail::Answer(AnswerClear {
            outcomes: outcomes()?,
            handling: code::<HandlingCode>("handling_code", wire.handling_code)?,
            attachments: attachments(&wire.attachments)?,
        }),
        FollowUpStep::Withdraw => StepDetail::Withdraw,
        FollowUpStep::Close => StepDetail::Close,
    })
}

/// What a step does not say, it must not carry: every byte of the clear part has a meaning.
fn refuse_fields_of_other_steps(step: FollowUpStep, wire: &v1::FollowUpClear) -> Result<()> {
    use FollowUpStep as S;
    let answers = matches!(step, S::Answer);
    for (field, given, allowed) in [
        ("terms", wire.terms.is_some(), step == S::Submit),
        (
            "outcomes",
            !wire.outcomes.is_empty(),
            answers || step == S::Refuse,
        ),
        (
            "new_date",
            wire.new_date.is_some(),
            step == S::AwaitJudicialAuthorisation,
        ),
        ("handling_code", wire.handling_code != 0, answers),
        ("attachments", !wire.attachments.is_empty(), answers),
    ] {
        if given && !allowed {
            return Err(Error::field(field, format!("{step} does not carry it")));
        }
    }
    Ok(())
}

fn attachments(wire: &[v1::AttachmentDigest]) -> Result<Vec<AttachmentDigest>> {
    if wire.len() > MAX_ATTACHMENTS {
        let text = format!("at most {MAX_ATTACHMENTS}");
        return Err(Error::field("attachments", text));
    }
    let mut seen = std::collections::BTreeSet::new();
    wire.iter()
        .map(|attachment| {
            let id = id(
                "attachment_id",
                &attachment.attachment_id,
                AttachmentId::from_slice,
            )?;
            if !seen.insert(id) {
                return Err(Error::field("attachments", "a file stands there twice"));
            }
            let digest = array("digest", &attachment.digest)?;
            Ok(AttachmentDigest { id, digest })
        })
        .collect()
}

fn outcome(wire: &v1::ItemOutcome) -> Result<(Item, ItemOutcome)> {
    let state: ItemState = code("state", wire.state)?;
    let ground = (wire.ground != 0)
        .then(|| code::<RefusalGround>("ground", wire.ground))
        .transpose()?;
    let until = wire.pending_until;
    let until = until.map(|at| timestamp("pending_until", Some(at)));
    let outcome = match (state, ground, until.transpose()?) {
        (ItemState::Provided, None, None) => ItemOutcome::Provided,
        (ItemState::Refused, Some(ground), None) => ItemOutcome::Refused(ground),
        (ItemState::Pending, None, Some(at)) => ItemOutcome::Pending(at),
        _ => {
            let text = "PROVIDED alone, REFUSED with its ground, PENDING with its date";
            return Err(Error::field("outcomes", text));
        }
    };
    Ok((code("item", wire.item)?, outcome))
}

impl TryFrom<&v1::FollowUpTerms> for Terms {
    type Error = Error;

    fn try_from(wire: &v1::FollowUpTerms) -> Result<Self> {
        let urgency = (wire.urgency_ground != 0)
            .then(|| code::<UrgencyGround>("urgency_ground", wire.urgency_ground))
            .transpose()?;
        let items = wire.items.iter().map(|item| code("items", *item));
        Self::new(
            code::<TimeLimit>("time_limit", wire.time_limit)?,
            urgency,
            &wire.offence_code,
            items.collect::<Result<_>>()?,
        )
    }
}

impl From<&Terms> for v1::FollowUpTerms {
    fn from(terms: &Terms) -> Self {
        let urgency = terms.urgency().map(v1::UrgencyGround::from);
        Self {
            time_limit: v1::TimeLimit::from(terms.limit()).into(),
            urgency_ground: urgency.unwrap_or_default().into(),
            offence_code: terms.offence_code().to_owned(),
            items: terms
                .items()
                .iter()
                .map(|item| v1::FollowUpItem::from(*item).into())
                .collect(),
        }
    }
}

impl From<(Item, ItemOutcome)> for v1::ItemOutcome {
    fn from((item, outcome): (Item, ItemOutcome)) -> Self {
        let ground = match outcome {
            ItemOutcome::Refused(ground) => ground.into(),
            _ => v1::RefusalGround::Unspecified,
        };
        let pending_until = match outcome {
            ItemOutcome::Pending(at) => Some(to_timestamp(at)),
            _ => None,
        };
        Self {
            item: v1::FollowUpItem::from(item).into(),
            state: v1::ItemState::from(outcome.state()).into(),
            ground: ground.into(),
            pending_until,
        }
    }
}

impl From<&StepClear> for v1::FollowUpClear {
    fn from(clear: &StepClear) -> Self {
        let mut wire = Self {
            community: clear.community.to_string(),
            follow_up_id: clear.follow_up.as_bytes().to_vec().into(),
            hit_id: clear.hit.as_bytes().to_vec().into(),
            seq: clear.seq,
            previous: clear.previous.to_vec().into(),
            step: v1::FollowUpStep::from(clear.step()).into(),
            sender: clear.sender.to_string(),
            recipient: clear.recipient.to_string(),
            made_at: Some(to_timestamp(clear.made_at)),
            state: v1::FollowUpState::from(clear.state).into(),
            ..Self::default()
        };
        let outcomes = |outcomes: &Outcomes| outcomes.iter().map(Into::into).collect();
        match &clear.detail {
            StepDetail::Submit(terms) => wire.terms = Some(terms.into()),
            StepDetail::Refuse(refused) => wire.outcomes = outcomes(refused),
            StepDetail::AwaitJudicialAuthorisation { new_date } => {
                wire.new_date = Some(to_timestamp(*new_date));
            }
            StepDetail::Answer(answer) => {
                wire.outcomes = outcomes(&answer.outcomes);
                wire.handling_code = v1::HandlingCode::from(answer.handling).into();
                wire.attachments = answer.attachments.iter().map(attachment_digest).collect();
            }
            _ => {}
        }
        wire
    }
}

fn attachment_digest(attachment: &AttachmentDigest) -> v1::AttachmentDigest {
    v1::AttachmentDigest {
        attachment_id: attachment.id.as_bytes().to_vec().into(),
        digest: attachment.digest.to_vec().into(),
    }
}

/// Reads the clear part of an attachment; returns `H` of its bytes too.
///
/// # Errors
/// `INVALID_FIELD`.
pub fn read_attachment(bytes: &[u8]) -> Result<(AttachmentClear, [u8; 32])> {
    let wire = v1::FollowUpAttachmentClear::decode(bytes)
        .map_err(|_| Error::field("clear", "not a FollowUpAttachmentClear"))?;
    let clear = AttachmentClear::new(
        id("follow_up_id", &wire.follow_up_id, FollowUpId::from_slice)?,
        id(
            "attachment_id",
            &wire.attachment_id,
            AttachmentId::from_slice,
        )?,
        &wire.name,
        wire.size,
    )?;
    Ok((clear, Sha256::digest(bytes).into()))
}

/// Writes the clear part of an attachment; returns `H` of its bytes too.
pub fn write_attachment(clear: &AttachmentClear) -> (Vec<u8>, [u8; 32]) {
    let bytes = v1::FollowUpAttachmentClear {
        follow_up_id: clear.follow_up.as_bytes().to_vec().into(),
        attachment_id: clear.id.as_bytes().to_vec().into(),
        name: clear.name.to_string(),
        size: clear.size,
    }
    .encode_to_vec();
    let digest = Sha256::digest(&bytes).into();
    (bytes, digest)
}

#[cfg(test)]
mod tests;
