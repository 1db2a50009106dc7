//! Conversions between the wire and the domain: past them nothing is unvalidated (style rule 2).

pub mod answer;
pub mod follow_up;
mod grounds;
mod hit;
pub mod log;
mod membership;
mod pairs;
mod publication;

use std::str::FromStr;
use std::time::Duration;

use prost::Message;
use sotto_common::dsse::{
    self, Envelope, EnvelopeSignature, SigningKey, StatementKind, VerifyingKey,
};
use sotto_common::error::{Error, ErrorCode, Result};
use sotto_common::ids::{Epoch, InvalidId};
use sotto_common::secret::Tag;
use sotto_common::selector::Policy;
use sotto_common::time::Timestamp;

use crate::v1;

pub use pairs::Pairs;
pub use publication::{handling_code, labels};

/// Most bytes in the payload of a signed statement.
pub const MAX_STATEMENT: usize = 1024 * 1024;

/// The version of statements that this code reads and writes (protocol §9, §13).
pub const FORMAT: u32 = 1;

/// A domain type whose wire form is signed as a DSSE statement (protocol §9).
pub trait Statement: Sized {
    /// The wire form.
    type Wire: Message + Default + From<Self> + TryInto<Self, Error = Error>;

    /// The kind that stands in the payload type.
    const KIND: StatementKind;
}

/// Serialises and signs a statement.
pub fn sign<S: Statement>(statement: S, key: &SigningKey) -> v1::DsseEnvelope {
    let body = S::Wire::from(statement).encode_to_vec();
    key.sign(S::KIND, body).into()
}

/// Reads a statement whose signature has not been looked at yet: its sender is only claimed.
///
/// # Errors
/// `SIGNATURE_INVALID` for another payload type or an oversized body, `FORMAT_UNKNOWN`, or what
/// the statement's own rules refuse.
pub fn read_unverified<S: Statement>(envelope: &v1::DsseEnvelope) -> Result<S> {
    if envelope.payload_type != S::KIND.media_type() || envelope.payload.len() > MAX_STATEMENT {
        return Err(Error::new(
            ErrorCode::SignatureInvalid,
            format!(
                "expected a statement of type {}, at most 1 MiB",
                S::KIND.media_type()
            ),
        ));
    }
    let wire = S::Wire::decode(envelope.payload.clone())
        .map_err(|_| Error::field("payload", "not a message of its payload type"))?;
    wire.try_into()
}

/// Verifies a statement by its sender's key and reads it.
///
/// # Errors
/// As [`read_unverified`], and `SIGNATURE_INVALID`.
pub fn verify<S: Statement>(envelope: &v1::DsseEnvelope, key: &VerifyingKey) -> Result<S> {
    let statement = read_unverified(envelope)?;
    dsse::verify(S::KIND, &envelope.clone().into(), key)?;
    Ok(statement)
}

impl From<v1::DsseEnvelope> for Envelope {
    fn from(wire: v1::DsseEnvelope) -> Self {
        Self {
            payload: wire.payload.to_vec(),
            payload_type: wire.payload_type,
            signatures: wire
                .signatures
                .into_iter()
                .map(|s| EnvelopeSignature {
                    keyid: s.keyid,
                    sig: s.sig.to_vec(),
                })
                .collect(),
        }
    }
}

impl From<Envelope> for v1::DsseEnvelope {
    fn from(envelope: Envelope) -> Self {
        Self {
            payload: envelope.payload.into(),
            payload_type: envelope.payload_type,
            signatures: envelope
                .signatures
                .into_iter()
                .map(|s| v1::DsseSignature {
                    keyid: s.keyid,
                    sig: s.sig.into(),
                })
                .collect(),
        }
    }
}

/// Parses a text field.
///
/// # Errors
/// `INVALID_FIELD`, naming the field and its form, never its content.
pub fn text<T: FromStr<Err = InvalidId>>(field: &'static str, text: &str) -> Result<T> {
    text.parse()
        .map_err(|error: InvalidId| Error::field(field, error.to_string()))
}

/// Parses the name of a policy, version included.
///
/// # Errors
/// `POLICY_UNKNOWN`: what is not known is refused, never guessed (protocol §13).
pub fn policy(name: &str) -> Result<Policy> {
    name.parse().map_err(|error: InvalidId| {
        Error::new(ErrorCode::PolicyUnknown, error.to_string()).about("policy")
    })
}

/// Parses an epoch number.
///
/// # Errors
/// `INVALID_FIELD` for 0.
pub fn epoch(number: u32) -> Result<Epoch> {
    Epoch::new(number).map_err(|error| Error::field("epoch", error.to_string()))
}

/// Parses an id of 16 bytes.
///
/// # Errors
/// `INVALID_FIELD`, naming the field.
pub fn id<T>(
    field: &'static str,
    bytes: &[u8],
    parse: impl FnOnce(&[u8]) -> Result<T, InvalidId>,
) -> Result<T> {
    parse(bytes).map_err(|error| Error::field(field, error.to_string()))
}

/// Takes exactly `N` bytes.
///
/// # Errors
/// `INVALID_FIELD`, naming the field and the length.
pub fn array<const N: usize>(field: &'static str, bytes: &[u8]) -> Result<[u8; N]> {
    bytes
        .try_into()
        .map_err(|_| Error::field(field, format!("expected {N} bytes")))
}

/// Takes tags of 16 bytes each.
///
/// # Errors
/// `INVALID_FIELD`, naming the field.
pub fn tags<B: AsRef<[u8]>>(field: &'static str, tags: &[B]) -> Result<Vec<Tag>> {
    tags.iter()
        .map(|tag| {
            Tag::from_slice(tag.as_ref()).ok_or_else(|| Error::field(field, "16 bytes a tag"))
        })
        .collect()
}

/// Takes a time that must be given.
///
/// # Errors
/// `INVALID_FIELD`, naming the field.
pub fn timestamp(field: &'static str, at: Option<prost_types::Timestamp>) -> Result<Timestamp> {
    let at = at.ok_or_else(|| Error::field(field, "a time is needed"))?;
    if !(0..=253_402_300_799).contains(&at.seconds) || !(0..1_000_000_000).contains(&at.nanos) {
        return Err(Error::field(field, "a time from 1970 to 9999"));
    }
    Ok(Timestamp::from_micros(
        at.seconds * 1_000_000 + i64::from(at.nanos) / 1000,
    ))
}

/// Writes a time.
pub fn to_timestamp(at: Timestamp) -> prost_types::Timestamp {
    let nanos = i32::try_from(at.micros().rem_euclid(1_000_000) * 1000).unwrap_or(0);
    prost_types::Timestamp {
        seconds: at.seconds(),
        nanos,
    }
}

/// A hundred years.
const MAX_DURATION_SECONDS: i64 = 100 * 366 * 86_400;

fn duration(field: &'static str, d: Option<prost_types::Duration>) -> Result<Option<Duration>> {
    d.map(|d| {
        // Looked at before the conversion: negating the least i64 would overflow in it.
        if !(0..=MAX_DURATION_SECONDS).contains(&d.seconds)
            || !(0..1_000_000_000).contains(&d.nanos)
        {
            return Err(Error::field(field, "a duration from 0 to 100 years"));
        }
        Duration::try_from(d).map_err(|_| Error::field(field, "not a duration from 0 upwards"))
    })
    .transpose()
}

fn to_duration(d: Duration) -> Option<prost_types::Duration> {
    d.try_into().ok()
}

fn check_format(format: u32) -> Result<()> {
    if format == FORMAT {
        return Ok(());
    }
    Err(Error::new(
        ErrorCode::FormatUnknown,
        "this version knows statements of format 1",
    ))
}
