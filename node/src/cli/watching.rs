//! Streams that do not end: followed over restarts of the service and the hourly end of
//! connections.

use std::time::Duration;

use tonic::Status;

use super::Context;
use super::fault::{Fault, Result, is_unreachable};

/// How long to wait before a stream that broke is opened again: first, and at most.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// Where somebody who watches stands.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    /// The cursor of the last event that was seen.
    pub(crate) cursor: u64,
    /// Whether the service was reached yet.
    pub(crate) connected: bool,
}

/// Why a stream ended early.
pub(crate) enum Follow {
    /// For good.
    Ended(Fault),
    /// It may be opened again.
    Broken(Status),
}

impl From<std::io::Error> for Follow {
    fn from(error: std::io::Error) -> Self {
        Self::Ended(error.into())
    }
}

impl From<Status> for Follow {
    fn from(status: Status) -> Self {
        if is_unreachable(&status) {
            Self::Broken(status)
        } else {
            Self::Ended(status.into())
        }
    }
}

/// Follows a stream from a cursor on until the person has seen enough, and opens it again whenever
/// it breaks.
///
/// # Errors
/// What the service refuses, and that it does not answer if it never did.
pub(crate) async fn watch(
    context: &Context,
    from: u64,
    follow: impl AsyncFnMut(&mut Place) -> Result<(), Follow>,
) -> Result<()> {
    tokio::select! {
        ended = go_on(context, from, follow) => ended,
        // Heard between two events: a line that is begun is ended, and being interrupted is how
        // one stops watching.
        _ = tokio::signal::ctrl_c() => Ok(()),
    }
}

async fn go_on(
    context: &Context,
    from: u64,
    mut follow: impl AsyncFnMut(&mut Place) -> Result<(), Follow>,
) -> Result<()> {
    let mut place = Place {
        cursor: from,
        connected: false,
    };
    let mut pause = PAUSES.0;
    loop {
        let broken = match follow(&mut place).await {
            Ok(()) => None,
            Err(Follow::Ended(fault)) => return Err(fault),
            Err(Follow::Broken(status)) => Some(status),
        };
        match broken {
            // Never reached yet: the person should hear of it rather than wait.
            Some(status) if !place.connected => return Err(status.into()),
            Some(_) => {
                context.note(&format!(
                    "the connection broke; going on from cursor {} in {} s",
                    place.cursor,
                    pause.as_secs()
                ));
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(PAUSES.1);
            }
            None => {
                tokio::time::sleep(PAUSES.0).await;
                pause = PAUSES.0;
            }
        }
    }
}
