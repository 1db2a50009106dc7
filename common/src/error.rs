//! The one enum of error codes, and the error that use cases return.
//!
//! A code says *which rule* refused; `sotto_proto::status` is the one table from code to gRPC
//! status. Texts are for the caller: they say what is wrong and what to do next, and never hold a
//! selector, a tag, a salt, a key, or a name that the caller may not know (protocol §12).

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

macro_rules! error_codes {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)*) => {
        /// Why a request was refused. On the wire: `google.rpc.ErrorInfo.reason`.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        pub enum ErrorCode {
            $($(#[$doc])* $name,)*
        }

        impl ErrorCode {
            /// Every code.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// The code as it stands on the wire.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }
        }
    };
}

error_codes! {
    /// A field is missing or not of its form; details name the field.
    InvalidField = "INVALID_FIELD",
    /// A probe session was opened without a purpose (protocol §7).
    PurposeMissing = "PURPOSE_MISSING",
    /// A probe session was opened without a legal basis, or without the reference text it needs.
    LegalBasisMissing = "LEGAL_BASIS_MISSING",
    /// A probe session was opened without a case reference.
    CaseRefMissing = "CASE_REF_MISSING",
    /// A batch is empty, over 4096 pairs, not whole pairs, or repeats a record ref.
    BatchMalformed = "BATCH_MALFORMED",
    /// A batch number was repeated with other tags (protocol §7).
    BatchMismatch = "BATCH_MISMATCH",
    /// A session was resumed with another nonce or opening (protocol §7).
    SessionMismatch = "SESSION_MISMATCH",
    /// The probe session is not known, or closed.
    SessionUnknown = "SESSION_UNKNOWN",
    /// Rule 1: the length is not 4096·B of the class (protocol §5.3).
    FilterLength = "FILTER_LENGTH",
    /// Rule 1: class or k is not allowed for this node and policy.
    FilterClass = "FILTER_CLASS",
    /// Rule 1: the digest is not that of the bits.
    FilterDigest = "FILTER_DIGEST",
    /// Rule 1: the salt was used before in this community.
    SaltReused = "SALT_REUSED",
    /// Rule 1: the version is not the last accepted one + 1.
    VersionNotNext = "VERSION_NOT_NEXT",
    /// Rule 2: the number of set bits is not that of a padded filter.
    FilterPopcount = "FILTER_POPCOUNT",
    /// Rule 3: the filter's own false-positive probability is too high.
    FilterRate = "FILTER_RATE",
    /// Rule 4: a canary tag is absent: the key is wrong (protocol §4).
    CanaryMissing = "CANARY_MISSING",
    /// `forms` is not the manifest's: the normal form has drifted (protocol §4).
    FormsMismatch = "FORMS_MISMATCH",
    /// The key id is not the epoch's.
    KeyMismatch = "KEY_MISMATCH",
    /// The audience or the targets name a node that is no member.
    AudienceUnknown = "AUDIENCE_UNKNOWN",
    /// A supplement without its base, or more than 8 of them (protocol §5.4).
    LayerInvalid = "LAYER_INVALID",
    /// The publication is not known here.
    PublicationUnknown = "PUBLICATION_UNKNOWN",
    /// The same id was used with another header or another state forbids the call.
    PublicationState = "PUBLICATION_STATE",
    /// A chunk does not begin at the acknowledged offset; details carry the offset.
    OffsetMismatch = "OFFSET_MISMATCH",
    /// A signature does not verify, or the envelope is not of the form of protocol §9.
    SignatureInvalid = "SIGNATURE_INVALID",
    /// A statement of a format or version that is not known (protocol §13).
    FormatUnknown = "FORMAT_UNKNOWN",
    /// The caller is not an enrolled node of this community, or there is no such community.
    NotAMember = "NOT_A_MEMBER",
    /// The node is enrolled already, or the community exists already.
    AlreadyExists = "ALREADY_EXISTS",
    /// A key statement with another signing key than the accepted one (protocol §8).
    IdentityChanged = "IDENTITY_CHANGED",
    /// The epoch is not known in this community.
    EpochUnknown = "EPOCH_UNKNOWN",
    /// The epoch is known, but not active: not confirmed yet, ended, or outside its times.
    EpochNotActive = "EPOCH_NOT_ACTIVE",
    /// The manifest breaks a rule of protocol §8; the text says which.
    ManifestInvalid = "MANIFEST_INVALID",
    /// A member's key is not pinned here (protocol §8).
    MemberNotPinned = "MEMBER_NOT_PINNED",
    /// The policy is not known, or not part of the epoch's profile.
    PolicyUnknown = "POLICY_UNKNOWN",
    /// The daily quota of record refs would be exceeded (protocol §7).
    QuotaExhausted = "QUOTA_EXHAUSTED",
    /// A bound on something held for this caller was reached; details say which.
    LimitReached = "LIMIT_REACHED",
    /// The hit is not known, or not the caller's.
    HitUnknown = "HIT_UNKNOWN",
    /// The follow-up is not known, or the caller is no party to it.
    FollowUpUnknown = "FOLLOW_UP_UNKNOWN",
    /// A step that does not fit the follow-up: another order, party or state than is due.
    FollowUpMismatch = "FOLLOW_UP_MISMATCH",
    /// A request or an answer misses what the law asks for; details name the fields.
    FormIncomplete = "FORM_INCOMPLETE",
    /// The person who drafted something may not approve it.
    SamePerson = "SAME_PERSON",
    /// Something sealed does not open, or is not what its sender has signed.
    SealInvalid = "SEAL_INVALID",
    /// The attachment is not known, or not of this follow-up.
    AttachmentUnknown = "ATTACHMENT_UNKNOWN",
    /// An attachment is not whole yet, or its bytes are not those that were announced.
    AttachmentState = "ATTACHMENT_STATE",
    /// There is no log, or no checkpoint of it with what is asked for.
    LogUnknown = "LOG_UNKNOWN",
    /// An index or a size beyond the latest checkpoint of the log, or an entry that is not the caller's.
    LeafUnknown = "LEAF_UNKNOWN",
    /// The log was found to contradict itself: nothing is done on hits until people have looked.
    LogInconsistent = "LOG_INCONSISTENT",
    /// A state machine does not have this move; the text names both states.
    IllegalTransition = "ILLEGAL_TRANSITION",
    /// A page token or cursor that this service did not give.
    CursorInvalid = "CURSOR_INVALID",
    /// The dataset is not known at this node.
    DatasetUnknown = "DATASET_UNKNOWN",
    /// The dataset is filled from a database of the unit: it is not changed by hand.
    DatasetSourced = "DATASET_SOURCED",
    /// A dataset could not be filled from its database; the text says what to mend.
    SourceFailed = "SOURCE_FAILED",
    /// A selector was rejected; the text names the kind, never the input.
    SelectorRejected = "SELECTOR_REJECTED",
    /// The certificate carries no SPIFFE ID of this trust domain (protocol §2), or the access token
    /// that came instead is not valid.
    IdentityMissing = "IDENTITY_MISSING",
    /// The caller's role may not do this.
    RoleForbidden = "ROLE_FORBIDDEN",
    /// The certificate has been revoked (protocol §12).
    CertificateRevoked = "CERTIFICATE_REVOKED",
    /// No room on the disk, or the store is busy: nothing was stored, try again later.
    Unavailable = "UNAVAILABLE",
    /// A fault of the service; its cause is in its log, not in the answer.
    Internal = "INTERNAL",
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A refusal or a fault, with a text that may be shown to the caller.
#[derive(Debug)]
pub struct Error {
    /// Which rule refused.
    pub code: ErrorCode,
    /// For the caller: what is wrong and what to do next.
    pub text: Cow<'static, str>,
    /// The field or the subject concerned, if one is.
    pub subject: Option<Cow<'static, str>>,
    /// When trying again makes sense.
    pub retry_after: Option<Duration>,
    /// For the log only; never sent.
    pub source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    /// A refusal.
    pub fn new(code: ErrorCode, text: impl Into<Cow<'static, str>>) -> Self {
        Self {
            code,
            text: text.into(),
            subject: None,
            retry_after: None,
            source: None,
        }
    }

    /// A field that is missing or not of its form.
    pub fn field(field: &'static str, text: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorCode::InvalidField, text).about(field)
    }

    /// A fault whose cause is for the log only.
    pub fn internal(source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        let mut error = Self::new(
            ErrorCode::Internal,
            "internal error; the operator's log has it",
        );
        error.source = Some(source.into());
        error
    }

    /// A passing fault whose cause is for the log only; nothing was stored.
    pub fn unavailable(source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        let mut error = Self::new(
            ErrorCode::Unavailable,
            "nothing was stored; try again in a moment",
        )
        .retry_after(Duration::from_secs(1));
        error.source = Some(source.into());
        error
    }

    /// Names the field or subject concerned.
    #[must_use]
    pub fn about(mut self, subject: impl Into<Cow<'static, str>>) -> Self {
        self.subject = Some(subject.into());
        self
    }

    /// Says when trying again makes sense.
    #[must_use]
    pub fn retry_after(mut self, after: Duration) -> Self {
        self.retry_after = Some(after);
        self
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.text)?;
        match &self.subject {
            Some(subject) => write!(f, " ({subject})"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_deref().map(|source| source as _)
    }
}

/// Result of a use case.
pub type Result<T, E = Error> = std::result::Result<T, E>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_distinct() {
        let names: std::collections::HashSet<_> =
            ErrorCode::ALL.iter().map(|code| code.as_str()).collect();
        assert_eq!(names.len(), ErrorCode::ALL.len());
    }

    #[test]
    fn the_cause_of_a_fault_is_not_in_its_text() {
        let error = Error::internal("table hits, row 7");
        assert!(!error.to_string().contains("row 7"));
    }
}
