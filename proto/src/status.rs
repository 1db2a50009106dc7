//! The one table from error to gRPC status, and back (protocol §12, style rule 3).
//!
//! The peer gets the code, the safe text and `google.rpc` details; the cause of a fault goes to
//! the log, once, here.

use std::collections::HashMap;
use std::error::Error as _;

use sotto_common::error::{Error, ErrorCode};
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

/// Domain of every `google.rpc.ErrorInfo` of Sotto.
pub const ERROR_DOMAIN: &str = "sotto";

/// Key of `ErrorInfo.metadata` that holds the field or subject concerned.
pub const SUBJECT: &str = "subject";

/// The gRPC code of each error code.
pub const fn grpc_code(code: ErrorCode) -> Code {
    match code {
        ErrorCode::InvalidField
        | ErrorCode::PurposeMissing
        | ErrorCode::LegalBasisMissing
        | ErrorCode::CaseRefMissing
        | ErrorCode::BatchMalformed
        | ErrorCode::BatchMismatch
        | ErrorCode::SessionMismatch
        | ErrorCode::FilterLength
        | ErrorCode::FilterClass
        | ErrorCode::FilterDigest
        | ErrorCode::SaltReused
        | ErrorCode::VersionNotNext
        | ErrorCode::FilterPopcount
        | ErrorCode::FilterRate
        | ErrorCode::AudienceUnknown
        | ErrorCode::SignatureInvalid
        | ErrorCode::FormatUnknown
        | ErrorCode::ManifestInvalid
        | ErrorCode::PolicyUnknown
        | ErrorCode::CursorInvalid
        | ErrorCode::FormIncomplete
        | ErrorCode::SealInvalid
        | ErrorCode::SelectorRejected => Code::InvalidArgument,
        ErrorCode::CanaryMissing
        | ErrorCode::FormsMismatch
        | ErrorCode::KeyMismatch
        | ErrorCode::LayerInvalid
        | ErrorCode::PublicationState
        | ErrorCode::IdentityChanged
        | ErrorCode::EpochNotActive
        | ErrorCode::MemberNotPinned
        | ErrorCode::DatasetSourced
        | ErrorCode::SourceFailed
        | ErrorCode::FollowUpMismatch
        | ErrorCode::AttachmentState
        | ErrorCode::LogInconsistent
        | ErrorCode::IllegalTransition => Code::FailedPrecondition,
        ErrorCode::OffsetMismatch | ErrorCode::LeafUnknown => Code::OutOfRange,
        ErrorCode::SessionUnknown
        | ErrorCode::PublicationUnknown
        | ErrorCode::EpochUnknown
        | ErrorCode::HitUnknown
        | ErrorCode::FollowUpUnknown
        | ErrorCode::AttachmentUnknown
        | ErrorCode::LogUnknown
        | ErrorCode::DatasetUnknown => Code::NotFound,
        ErrorCode::AlreadyExists => Code::AlreadyExists,
        ErrorCode::QuotaExhausted | ErrorCode::LimitReached => Code::ResourceExhausted,
        ErrorCode::IdentityMissing | ErrorCode::CertificateRevoked => Code::Unauthenticated,
        ErrorCode::NotAMember | ErrorCode::RoleForbidden | ErrorCode::SamePerson => {
            Code::PermissionDenied
        }
        ErrorCode::Unavailable => Code::Unavailable,
        ErrorCode::Internal => Code::Internal,
    }
}

/// Makes the status that a peer gets, and logs the cause of a fault.
pub fn to_status(error: Error) -> Status {
    if let Some(cause) = error.source() {
        tracing::error!(code = %error.code, %cause, "request failed");
    }
    let mut details = ErrorDetails::new();
    let metadata: HashMap<String, String> = error
        .subject
        .iter()
        .map(|s| (SUBJECT.to_owned(), s.to_string()))
        .collect();
    details.set_error_info(error.code.as_str(), ERROR_DOMAIN, metadata);
    if let Some(after) = error.retry_after {
        details.set_retry_info(Some(after));
    }
    match error.code {
        ErrorCode::InvalidField => {
            details.add_bad_request_violation(
                error.subject.clone().unwrap_or_default(),
                error.text.clone(),
            );
        }
        ErrorCode::QuotaExhausted => {
            details.add_quota_failure_violation(
                error.subject.clone().unwrap_or_default(),
                error.text.clone(),
            );
        }
        _ => {}
    }
    Status::with_error_details(grpc_code(error.code), error.text, details)
}

/// Reads the error that a peer sent; a status without Sotto's details becomes `UNAVAILABLE` or
/// `INTERNAL` with the peer's text.
pub fn from_status(status: &Status) -> Error {
    let details = status.get_error_details();
    let known = details
        .error_info()
        .filter(|info| info.domain == ERROR_DOMAIN)
        .and_then(|info| {
            let code = ErrorCode::ALL
                .iter()
                .find(|code| code.as_str() == info.reason)?;
            Some((*code, info.metadata.get(SUBJECT).cloned()))
        });
    let (code, subject) = known.unwrap_or((code_without_details(status.code()), None));
    let mut error = Error::new(code, status.message().to_owned());
    error.subject = subject.map(Into::into);
    error.retry_after = details.retry_info().and_then(|info| info.retry_delay);
    error
}

/// What a caller is told of a message that tonic could not read.
fn unreadable() -> Error {
    Error::field("message", "it cannot be decoded, or is over 4 MiB")
}

/// Reads the error of an inbound stream: a message that cannot be read is the caller's fault.
pub fn from_inbound(status: &Status) -> Error {
    match status.code() {
        Code::Internal | Code::OutOfRange | Code::InvalidArgument | Code::ResourceExhausted => {
            unreadable()
        }
        _ => from_status(status),
    }
}

/// Mends the answers that tonic gives by itself to unary messages it cannot read: it says
/// INTERNAL, which is for faults of the service, and without details.
pub fn mend_response<B>(mut response: http::Response<B>) -> http::Response<B> {
    let unread = Status::from_header_map(response.headers()).is_some_and(|status| {
        matches!(status.code(), Code::Internal | Code::OutOfRange) && status.details().is_empty()
    });
    if unread {
        // Such an answer is all headers. A header that cannot be written leaves tonic's own.
        let _ = to_status(unreadable()).add_header(response.headers_mut());
    }
    response
}

/// What a status means that a proxy, the transport or another implementation made.
const fn code_without_details(code: Code) -> ErrorCode {
    match code {
        Code::Unavailable
        | Code::DeadlineExceeded
        | Code::Cancelled
        | Code::Aborted
        | Code::Unknown => ErrorCode::Unavailable,
        Code::Unauthenticated => ErrorCode::IdentityMissing,
        Code::PermissionDenied => ErrorCode::RoleForbidden,
        Code::ResourceExhausted => ErrorCode::LimitReached,
        // OUT_OF_RANGE: a message above the bound of protocol §12, as tonic reports it.
        Code::InvalidArgument | Code::OutOfRange => ErrorCode::InvalidField,
        Code::Ok
        | Code::NotFound
        | Code::AlreadyExists
        | Code::FailedPrecondition
        | Code::Unimplemented
        | Code::Internal
        | Code::DataLoss => ErrorCode::Internal,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn every_error_code_survives_the_wire() {
        for &code in ErrorCode::ALL {
            let error = Error::new(code, "text")
                .about("subject")
                .retry_after(Duration::from_secs(3));
            let read = from_status(&to_status(error));
            assert_eq!(read.code, code);
            assert_eq!(read.text, "text");
            assert_eq!(read.subject.as_deref(), Some("subject"));
            assert_eq!(read.retry_after, Some(Duration::from_secs(3)));
        }
    }

    #[test]
    fn the_cause_of_a_fault_never_reaches_the_peer() {
        let status = to_status(Error::internal("disk sda1"));
        assert!(!format!("{status:?}").contains("sda1"));
    }

    #[test]
    fn a_message_that_cannot_be_read_is_the_callers_fault() {
        let by_tonic = Status::internal("failed to decode Protobuf message").into_http::<()>();
        let mended = mend_response(by_tonic);
        let status = Status::from_header_map(mended.headers()).expect("a status");
        assert_eq!(from_status(&status).code, ErrorCode::InvalidField);
        let ours = mend_response(to_status(Error::internal("disk")).into_http::<()>());
        let status = Status::from_header_map(ours.headers()).expect("a status");
        assert_eq!(from_status(&status).code, ErrorCode::Internal);
    }

    #[test]
    fn quota_refusals_carry_quota_failure() {
        let status = to_status(Error::new(ErrorCode::QuotaExhausted, "over").about("phone/1"));
        assert_eq!(status.code(), Code::ResourceExhausted);
        assert!(status.get_error_details().quota_failure().is_some());
    }
}
