//! An orderly end: the first signal asks for it, the second does not wait.

use std::future::Future;
use std::io;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::time::timeout;
use tokio_stream::wrappers::SignalStream;
use tokio_stream::{Stream, StreamExt};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// The exit status of a program that a second signal ended: 128 + SIGINT, as shells have it.
const EXIT_INTERRUPTED: i32 = 130;

/// Work was still going on when the time for draining was over.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("not everything had ended within {} s; the rest was cut off", .0.as_secs())]
pub struct DrainOverrun(pub Duration);

/// A token that SIGTERM or SIGINT trips; a second signal exits the program at once.
///
/// # Errors
/// If the handlers cannot be installed. Must be called within a Tokio runtime.
pub fn on_signal() -> io::Result<CancellationToken> {
    let terminate = SignalStream::new(signal(SignalKind::terminate())?);
    let interrupt = SignalStream::new(signal(SignalKind::interrupt())?);
    let token = CancellationToken::new();
    let tripped = token.clone();
    tokio::spawn(async move {
        trip(terminate.merge(interrupt), tripped).await;
        warn!("second signal: exiting at once");
        std::process::exit(EXIT_INTERRUPTED);
    });
    Ok(token)
}

/// Cancels the token at the first signal and ends at the second.
async fn trip(signals: impl Stream<Item = ()>, token: CancellationToken) {
    let mut signals = std::pin::pin!(signals);
    for last in [false, true] {
        if signals.next().await.is_none() {
            // No more signals can come: there is no second one to act on.
            std::future::pending::<()>().await;
        }
        if !last {
            info!("signal received: draining; a second one exits at once");
            token.cancel();
        }
    }
}

/// Runs `work`, and once `token` is tripped gives it `limit` to come to its own end.
///
/// `work` watches the token by itself; this only bounds how long it may take to obey.
///
/// # Errors
/// [`DrainOverrun`] if it took longer; it was dropped then.
pub async fn drain<F: Future>(
    token: &CancellationToken,
    limit: Duration,
    work: F,
) -> Result<F::Output, DrainOverrun> {
    let mut work = std::pin::pin!(work);
    tokio::select! {
        output = &mut work => return Ok(output),
        () = token.cancelled() => {}
    }
    timeout(limit, work).await.map_err(|_| DrainOverrun(limit))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::sync::mpsc;
    use tokio_stream::wrappers::ReceiverStream;

    #[tokio::test]
    async fn the_first_signal_trips_and_the_second_ends() {
        let (signals, received) = mpsc::channel(2);
        let token = CancellationToken::new();
        let tripped = tokio::spawn(trip(ReceiverStream::new(received), token.clone()));
        signals.send(()).await.expect("listened to");
        token.cancelled().await;
        assert!(!tripped.is_finished());
        signals.send(()).await.expect("listened to");
        tripped.await.expect("ended");
    }

    #[tokio::test]
    async fn draining_ends_with_the_work_or_with_the_limit() {
        let token = CancellationToken::new();
        let limit = Duration::from_millis(10);
        assert_eq!(drain(&token, limit, async { 7 }).await, Ok(7));
        token.cancel();
        let obedient = async {
            token.cancelled().await;
            8
        };
        assert_eq!(drain(&token, limit, obedient).await, Ok(8));
        let deaf = std::future::pending::<()>();
        assert_eq!(drain(&token, limit, deaf).await, Err(DrainOverrun(limit)));
    }
}
