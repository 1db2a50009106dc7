//! How a command fails: what is wrong, what to do next, and the exit code.

use std::error::Error as _;
use std::io;
use std::process::ExitCode;

use sotto_common::error::{Error, ErrorCode};
use sotto_common::service::config::ConfigError;
use sotto_proto::status::from_status;
use tonic::{Code, Status};

use super::render::printable;

/// Why a command ends without its result.
#[derive(Debug)]
pub(crate) enum Fault {
    /// Exit 1: the service refused, or something failed here.
    Failed {
        /// What is wrong.
        text: String,
        /// What to do next.
        hint: Option<String>,
    },
    /// Exit 2: the arguments do not make sense together.
    Usage(String),
    /// Exit 3: the service does not answer.
    Unreachable(String),
    /// Exit 0: whoever reads the output has had enough of it.
    OutputClosed,
}

/// Result of a command.
pub(crate) type Result<T, E = Fault> = std::result::Result<T, E>;

impl Fault {
    /// Something is wrong, without advice.
    pub(crate) fn new(text: impl Into<String>) -> Self {
        Self::Failed {
            text: text.into(),
            hint: None,
        }
    }

    /// Something is wrong, and this is what to do next.
    pub(crate) fn with_hint(text: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::Failed {
            text: text.into(),
            hint: Some(hint.into()),
        }
    }

    /// Prints what is wrong to standard error, and gives the exit code.
    pub(crate) fn report(self) -> ExitCode {
        let (text, hint, code) = match self {
            Self::Failed { text, hint } => (text, hint, 1),
            Self::Usage(text) => (text, Some("see --help".into()), 2),
            Self::Unreachable(text) => (
                text,
                Some(
                    "is `sotto-node serve` running, and do `endpoint` and the certificates of the \
                     client configuration fit it? (SOTTO_NODE_CLIENT)"
                        .to_owned(),
                ),
                3,
            ),
            Self::OutputClosed => return ExitCode::SUCCESS,
        };
        // Texts may quote the service: they are not to act on the terminal.
        eprintln!("error: {}", printable(&text));
        if let Some(hint) = hint {
            eprintln!("hint: {}", printable(&hint));
        }
        ExitCode::from(code)
    }
}

/// For output only: reading and writing named files has texts of its own.
impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            Self::OutputClosed
        } else {
            Self::new(format!("cannot write the output: {error}"))
        }
    }
}

impl From<ConfigError> for Fault {
    fn from(error: ConfigError) -> Self {
        Self::new(error.to_string())
    }
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        let subject = error
            .subject
            .filter(|subject| !error.text.contains(subject.as_ref()))
            .map(|subject| format!(" ({subject})"));
        let after = error
            .retry_after
            .map(|after| format!("; try again in {} s", after.as_secs().max(1)));
        let (subject, after) = (subject.unwrap_or_default(), after.unwrap_or_default());
        Self::Failed {
            text: format!("{}{subject} [{}]{after}", error.text, error.code),
            hint: hint(error.code).map(Into::into),
        }
    }
}

impl From<Status> for Fault {
    fn from(status: Status) -> Self {
        if is_unreachable(&status) {
            // The last cause says most: connection refused, certificate unknown, …
            let mut text = status.message().to_owned();
            let mut cause = status.source();
            while let Some(error) = cause {
                text = error.to_string();
                cause = error.source();
            }
            return Self::Unreachable(format!("the service does not answer: {text}"));
        }
        from_status(&status).into()
    }
}

/// Whether the transport failed, rather than the service refused.
pub(crate) fn is_unreachable(status: &Status) -> bool {
    // Every refusal of Sotto has details (`sotto_proto::status`).
    status.details().is_empty()
        && matches!(
            status.code(),
            Code::Unavailable | Code::Unknown | Code::Cancelled | Code::DeadlineExceeded
        )
}

/// What to do next.
#[expect(clippy::too_many_lines, reason = "one table")]
const fn hint(code: ErrorCode) -> Option<&'static str> {
    use ErrorCode as C;
    Some(match code {
        C::MemberNotPinned => {
            "compare fingerprints with that member out of band, then `sotto-node member pin NODE \
             FINGERPRINT`; `sotto-node member ls` shows who is not pinned"
        }
        C::IdentityChanged => {
            "somebody has exchanged keys: ask the member why before anything else; only then \
             `sotto-node member pin NODE FINGERPRINT --replace`"
        }
        C::EpochUnknown => {
            "`sotto-node epoch ls` shows the epochs; a custodian opens one with `sotto-node epoch \
             open`, members take it with `sotto-node epoch fetch`"
        }
        C::EpochNotActive => {
            "an epoch is active once every member has confirmed it with `sotto-node epoch fetch`; \
             `sotto-node epoch ls` shows who is missing"
        }
        C::ManifestInvalid => "do not confirm it; ask the custodian who opened the epoch",
        C::DatasetUnknown => "`sotto-node dataset ls` shows the datasets",
        C::PolicyUnknown => {
            "`sotto-node policies` shows the selector types; the epoch's profile says which of \
             them the community uses"
        }
        C::DatasetSourced | C::SourceFailed => {
            "`sotto-node dataset sources` shows what is filled from databases, and what is wrong"
        }
        C::SelectorRejected => "`sotto-node policies` shows what selectors of a type look like",
        C::HitUnknown => "`sotto-node hits ls` shows the hits",
        C::FollowUpUnknown => "`sotto-node followup ls` shows the follow-ups",
        C::FollowUpMismatch => {
            "`sotto-node followup show ID` shows where it stands now; it may have moved meanwhile"
        }
        C::FormIncomplete => {
            "fill in what is named; `sotto-node followup new --blank BASIS` prints a whole form"
        }
        C::SamePerson => "somebody else has to approve what you have drafted",
        C::AttachmentUnknown => {
            "`followup files ID` shows the files of an answer drafted here, `followup show ID` others"
        }
        C::LogUnknown => "try again in some seconds; until then the broker has nothing logged",
        C::LeafUnknown => "`sotto-node status` shows up to where the log is known here",
        C::LogInconsistent => {
            "tell your supervisor and the auditor; `sotto-node evidence export` writes down what \
             the broker has signed"
        }
        C::AudienceUnknown => "`sotto-node member ls` shows the members",
        C::QuotaExhausted => {
            "the quota is new at midnight UTC; `sotto-node status` shows what is left, the \
             operator can raise it"
        }
        C::LimitReached => "try again when what is under way has ended",
        C::FilterClass => {
            "the operator allows smaller filters only; `sotto-node status` shows the limits"
        }
        C::CanaryMissing | C::KeyMismatch => {
            "this node's epoch key is not the community's: `sotto-node epoch fetch`"
        }
        C::FormsMismatch => {
            "this node writes selectors in another normal form than the community: run the \
             version of sotto-node that the custodian runs"
        }
        C::PurposeMissing => "give --purpose, e.g. INVESTIGATION",
        C::LegalBasisMissing => {
            "give --legal-basis, and --reference for a treaty, the Budapest Convention, \
             INTERPOL's rules and national law"
        }
        C::CaseRefMissing => "give --case",
        C::IdentityMissing => {
            "the client configuration needs a certificate with one SPIFFE ID of the node's trust \
             domain or, where the node takes them, a token_file with an access token that is valid"
        }
        C::RoleForbidden => {
            "datasets, publications, members and epochs are for data managers, probes for analysts \
             and approvers, the access log for supervisors; choose the certificate in the client \
             configuration, or ask the node's administrator to add you to its role file"
        }
        C::CertificateRevoked => "ask for a new certificate",
        C::NotAMember => "ask the operator to enrol this node",
        C::CursorInvalid => "begin anew, without --from",
        C::Internal => "the service's log has the cause",
        C::Unavailable => {
            "`sotto-node status` says whether the node reaches its broker; its log has the cause"
        }
        C::InvalidField
        | C::BatchMalformed
        | C::BatchMismatch
        | C::SessionMismatch
        | C::SessionUnknown
        | C::FilterLength
        | C::FilterDigest
        | C::SaltReused
        | C::VersionNotNext
        | C::FilterPopcount
        | C::FilterRate
        | C::LayerInvalid
        | C::PublicationUnknown
        | C::PublicationState
        | C::OffsetMismatch
        | C::SignatureInvalid
        | C::FormatUnknown
        | C::AlreadyExists
        | C::SealInvalid
        | C::AttachmentState
        | C::IllegalTransition => return None,
    })
}

#[cfg(test)]
mod tests {
    use sotto_proto::status::to_status;

    use super::*;

    #[test]
    fn a_refusal_says_what_to_do_next() {
        let status =
            to_status(Error::new(ErrorCode::MemberNotPinned, "not pinned").about("de-bka"));
        let Fault::Failed { text, hint } = Fault::from(status) else {
            panic!("a refusal is a failure");
        };
        assert!(text.contains("de-bka") && text.contains("MEMBER_NOT_PINNED"));
        assert!(hint.is_some_and(|hint| hint.contains("member pin")));
    }

    #[test]
    fn a_service_that_has_no_room_is_not_one_that_does_not_answer() {
        let full = to_status(Error::unavailable("disk"));
        assert!(matches!(Fault::from(full), Fault::Failed { .. }));
        let gone = Status::unavailable("tcp connect error");
        assert!(matches!(Fault::from(gone), Fault::Unreachable(_)));
    }

    #[test]
    fn a_closed_pipe_is_no_fault() {
        let closed = io::Error::from(io::ErrorKind::BrokenPipe);
        assert!(matches!(Fault::from(closed), Fault::OutputClosed));
    }
}
