//! The node's own services: convert, call `app`, map the error. No logic.

pub(crate) mod access;
pub(crate) mod admin;
pub(crate) mod analyst;
pub(crate) mod dataset;
pub(crate) mod roles;

use std::pin::Pin;

use futures::Stream;
use sotto_common::error::Error;
use sotto_proto::status::to_status;
use tokio::sync::watch;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::WatchStream;
use tonic::{Response, Status};

use crate::app::jobs::{JobState, interrupted, told};

/// A stream of answers.
pub(crate) type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Runs a use case and maps its error.
async fn answer<T>(work: impl Future<Output = Result<T, Error>>) -> Result<Response<T>, Status> {
    work.await.map(Response::new).map_err(to_status)
}

/// The progress of a piece of work until its end; the last one says whether it is the last.
fn progress<P>(
    state: watch::Receiver<JobState<P>>,
) -> impl Stream<Item = Result<(P, bool), Error>> + Send
where
    P: Clone + Send + Sync + 'static,
{
    let mut ended = false;
    let told = WatchStream::new(state)
        .map(Some)
        // The sender goes with the work: without an end before it, the node is shutting down.
        .chain(tokio_stream::once(None))
        .map(move |state| {
            let was_ended = ended;
            ended = !matches!(state, Some(JobState::Running(_)));
            match state {
                _ if was_ended => None,
                Some(JobState::Running(progress)) => Some(Ok((progress, false))),
                Some(JobState::Done(progress)) => Some(Ok((progress, true))),
                Some(JobState::Failed(error)) => Some(Err(told(&error))),
                None => Some(Err(interrupted())),
            }
        });
    told.map_while(|item| item)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use sotto_common::error::ErrorCode;

    use super::*;

    #[tokio::test]
    async fn progress_ends_with_the_work_and_says_how() {
        let (sender, receiver) = watch::channel(JobState::Running(1));
        let mut seen = Box::pin(progress(receiver.clone()));
        assert!(matches!(seen.next().await, Some(Ok((1, false)))));
        sender.send_replace(JobState::Done(2));
        assert!(matches!(seen.next().await, Some(Ok((2, true)))));
        drop(sender);
        assert!(seen.next().await.is_none());

        let (sender, receiver) = watch::channel(JobState::Running(1));
        let error = Error::new(ErrorCode::EpochUnknown, "none");
        sender.send_replace(JobState::Failed(Arc::new(error)));
        let mut seen = Box::pin(progress(receiver));
        let failed = seen.next().await.expect("told").expect_err("failed");
        assert_eq!(failed.code, ErrorCode::EpochUnknown);

        let (sender, receiver) = watch::channel(JobState::Running(1));
        let mut seen = Box::pin(progress(receiver));
        assert!(seen.next().await.is_some());
        drop(sender);
        let cut = seen.next().await.expect("told").expect_err("cut off");
        assert_eq!(cut.code, ErrorCode::Unavailable);
        assert!(seen.next().await.is_none());
    }
}
