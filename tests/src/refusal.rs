//! What a refusal must say.

use std::fmt::Debug;
use std::time::Duration;

use sotto_common::error::ErrorCode;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::sandbox::NEVER;

/// The `reason` of the status's `google.rpc.ErrorInfo`; empty if it has none of Sotto's.
pub fn reason(status: &Status) -> String {
    let details = status.get_error_details();
    let info = details.error_info().filter(|info| info.domain == "sotto");
    info.map(|info| info.reason.clone()).unwrap_or_default()
}

/// The `subject` in the metadata of the status's `google.rpc.ErrorInfo`.
pub fn subject(status: &Status) -> Option<String> {
    let details = status.get_error_details();
    details
        .error_info()
        .and_then(|info| info.metadata.get("subject").cloned())
}

/// Fails unless a call was refused with exactly this gRPC code and this reason; returns the status.
#[track_caller]
pub fn assert_refused<T: Debug>(result: Result<T, Status>, code: Code, why: ErrorCode) -> Status {
    let status = result.expect_err("this must be refused");
    assert_eq!(
        (status.code(), reason(&status).as_str()),
        (code, why.as_str()),
        "{status:?}"
    );
    status
}

/// Whether a call is to be made again: its connection broke, or the broker says `UNAVAILABLE` and
/// how long to wait.
pub fn is_passing(status: &Status) -> bool {
    match (status.code(), reason(status).as_str()) {
        (Code::Unavailable, "UNAVAILABLE") => status.get_error_details().retry_info().is_some(),
        // Not from the broker: it gives a reason with every refusal.
        (Code::Unavailable | Code::Unknown | Code::Cancelled | Code::Internal, "") => true,
        _ => false,
    }
}

/// Calls until it is answered; fails on what does not pass.
pub async fn outlast<T>(mut call: impl AsyncFnMut() -> Result<T, Status>) -> T {
    let passed = async {
        loop {
            match call().await {
                Ok(value) => return value,
                Err(status) => pause(&status).await,
            }
        }
    };
    let in_time = tokio::time::timeout(NEVER, passed).await;
    in_time.expect("it has not passed for minutes")
}

/// Waits a little before a call is made again; fails on what does not pass.
pub async fn pause(status: &Status) {
    assert!(is_passing(status), "this does not pass: {status:?}");
    tokio::time::sleep(Duration::from_millis(20)).await;
}
