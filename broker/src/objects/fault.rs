//! What a failed call to the store means. Its own errors name the object, and at times the
//! credentials: no text of theirs goes on from here.

use std::error::Error as StdError;
use std::io;

use object_store::client::HttpError;
use sotto_common::error::Error;

/// What is logged of a failure.
#[derive(Debug, thiserror::Error)]
pub(super) enum Fault {
    /// The store does not have what the ledger names.
    #[error("an object that should be in the store is not there")]
    Missing,
    /// The object has other bytes than the ledger says.
    #[error("an object is not what was published: its length or its digest is another")]
    Altered,
    /// No answer for long.
    #[error("the object store did not answer in time")]
    Silent,
    /// Anything else, by what may be told of it.
    #[error("the object store failed: {0}")]
    Store(String),
}

/// A missing object is a fault, as is a call that no store takes; the rest passes, or an operator
/// makes it pass: networks, disks, permissions. So does a name that is taken: names are random, so
/// it was the same call that took it, whose first answer was lost.
pub(super) fn fault(error: &object_store::Error) -> Error {
    use object_store::Error as E;
    let cause = Fault::Store(cause(error));
    match error {
        E::NotFound { .. } => Error::internal(Fault::Missing),
        E::InvalidPath { .. }
        | E::JoinError { .. }
        | E::NotSupported { .. }
        | E::NotImplemented { .. }
        | E::UnknownConfigurationKey { .. } => Error::internal(cause),
        _ => Error::unavailable(cause),
    }
}

/// What may be told: a word of the library, of the system, and of the server.
fn cause(error: &object_store::Error) -> String {
    use object_store::Error as E;
    let word = match error {
        E::AlreadyExists { .. } => "the name is taken",
        E::Precondition { .. } | E::NotModified { .. } => "a precondition failed",
        E::PermissionDenied { .. } => "permission denied",
        E::Unauthenticated { .. } => "the credentials are not accepted",
        E::InvalidPath { .. } => "a name in the store is not one that the client can read",
        E::Generic { store, .. } => store,
        _ => "the call was not understood",
    };
    let mut words = vec![word.to_owned()];
    let mut inner = StdError::source(error);
    while let Some(error) = inner {
        if let Some(error) = error.downcast_ref::<HttpError>() {
            words.push(format!("{:?} over HTTP", error.kind()));
        }
        if let Some(error) = error.downcast_ref::<io::Error>() {
            words.push(error.kind().to_string());
        }
        inner = error.source();
    }
    let shown = error.to_string();
    for (before, after) in [("status code: ", " "), ("<Code>", "</Code>")] {
        let found = shown.split_once(before).map(|(_, rest)| rest);
        let code = found.and_then(|rest| rest.split_once(after));
        let plain = |code: &&str| {
            (1..=40).contains(&code.len()) && code.bytes().all(|b| b.is_ascii_alphanumeric())
        };
        words.extend(code.map(|(code, _)| code).filter(plain).map(str::to_owned));
    }
    words.join(", ")
}

#[cfg(test)]
mod tests {
    use sotto_common::error::ErrorCode;

    use super::*;

    #[test]
    fn a_cause_tells_the_code_of_the_server_and_nothing_of_the_object() {
        let body = "Server returned non-2xx status code: 403 Forbidden: <Error>\
                    <Code>InvalidAccessKeyId</Code><AWSAccessKeyId>hunter2</AWSAccessKeyId></Error>";
        let error = fault(&object_store::Error::PermissionDenied {
            path: "the/key".into(),
            source: body.into(),
        });
        assert_eq!(error.code, ErrorCode::Unavailable);
        let shown = format!("{error} {error:?} {}", error.source().expect("a cause"));
        assert!(
            shown.contains("403") && shown.contains("InvalidAccessKeyId"),
            "{shown}"
        );
        assert!(
            !shown.contains("hunter2") && !shown.contains("the/key"),
            "{shown}"
        );
    }

    #[test]
    fn a_full_disk_passes_and_an_absent_object_does_not() {
        let full = io::Error::from(io::ErrorKind::StorageFull);
        let error = fault(&object_store::Error::Generic {
            store: "LocalFileSystem",
            source: full.into(),
        });
        assert_eq!(error.code, ErrorCode::Unavailable);
        let cause = error.source().expect("a cause").to_string();
        assert!(cause.contains("no storage space"), "{cause}");
        let error = fault(&object_store::Error::NotFound {
            path: "the/key".into(),
            source: "gone".into(),
        });
        assert_eq!(error.code, ErrorCode::Internal);
    }
}
