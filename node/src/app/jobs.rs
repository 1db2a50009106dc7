//! Work that goes on when its caller hangs up, and that a second caller joins.

use std::sync::{Arc, Mutex, PoisonError};

use sotto_common::error::{Error, ErrorCode};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Where a piece of work stands.
#[derive(Clone, Debug)]
pub(crate) enum JobState<P> {
    /// It goes on.
    Running(P),
    /// It is done.
    Done(P),
    /// It failed.
    Failed(Arc<Error>),
}

type Receiver<P> = watch::Receiver<JobState<P>>;
type Running<K, P> = Arc<Mutex<Vec<(K, Receiver<P>)>>>;

/// Pieces of work under way, one per key.
pub(crate) struct Jobs<K, P> {
    running: Running<K, P>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

/// Where a piece of work tells how far it is.
pub(crate) struct Reporter<P>(watch::Sender<JobState<P>>);

impl<P: Clone> Reporter<P> {
    /// Changes the progress that callers see.
    pub(crate) fn update(&self, change: impl FnOnce(&mut P)) {
        self.0.send_modify(|state| {
            if let JobState::Running(progress) = state {
                change(progress);
            }
        });
    }
}

impl<K, P> Jobs<K, P>
where
    K: PartialEq + Clone + Send + 'static,
    P: Default + Clone + Send + Sync + 'static,
{
    /// No work yet. It will be tracked by `tasks` and cut off by `stop`.
    pub(crate) fn new(tasks: TaskTracker, stop: CancellationToken) -> Self {
        Self {
            running: Running::default(),
            tasks,
            stop,
        }
    }

    /// Follows the work of this key, which begins if it is not under way.
    pub(crate) fn join_or_start<W>(
        &self,
        key: K,
        work: impl FnOnce(K, Arc<Reporter<P>>) -> W,
    ) -> Receiver<P>
    where
        W: Future<Output = Result<(), Error>> + Send + 'static,
    {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, state)) = running.iter().find(|(k, _)| *k == key) {
            return state.clone();
        }
        let (sender, receiver) = watch::channel(JobState::Running(P::default()));
        let reporter = Arc::new(Reporter(sender));
        running.push((key.clone(), receiver.clone()));
        let work = work(key.clone(), Arc::clone(&reporter));
        let (all, stop) = (Arc::clone(&self.running), self.stop.clone());
        self.tasks.spawn(async move {
            let outcome = stop.run_until_cancelled(work).await;
            // Before the end is told: who asks after it begins the work anew.
            all.lock()
                .unwrap_or_else(PoisonError::into_inner)
                .retain(|(k, _)| *k != key);
            // Without an outcome the node ends: the sender is dropped, and callers see that.
            if let Some(outcome) = outcome {
                if let Err(error) = &outcome {
                    // Here too: nobody may be there to be told.
                    tracing::warn!(%error, "work ended with an error");
                }
                reporter.0.send_modify(|state| match (outcome, &*state) {
                    (Err(error), _) => *state = JobState::Failed(Arc::new(error)),
                    (Ok(()), JobState::Running(progress)) => {
                        *state = JobState::Done(progress.clone());
                    }
                    (Ok(()), _) => {}
                });
            }
        });
        receiver
    }
}

/// The error of a piece of work, for one of those who follow it.
pub(crate) fn told(error: &Error) -> Error {
    let mut told = Error::new(error.code, error.text.clone());
    told.subject.clone_from(&error.subject);
    told.retry_after = error.retry_after;
    told
}

/// The node ends before the work does.
pub(crate) fn interrupted() -> Error {
    Error::new(
        ErrorCode::Unavailable,
        "the node is shutting down; the work goes on when it is up again",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};
    use tokio::sync::oneshot;

    fn jobs() -> Jobs<&'static str, u32> {
        Jobs::new(TaskTracker::new(), CancellationToken::new())
    }

    #[tokio::test]
    async fn a_second_caller_joins_and_neither_is_needed() {
        let jobs = jobs();
        let started = Arc::new(AtomicU32::new(0));
        let (go, going) = oneshot::channel::<()>();
        let mut going = Some(going);
        let mut begin = || {
            let (started, going) = (Arc::clone(&started), going.take());
            jobs.join_or_start("a", |_, reporter: Arc<Reporter<u32>>| async move {
                started.fetch_add(1, Ordering::SeqCst);
                reporter.update(|n| *n = 7);
                if let Some(going) = going {
                    going.await.expect("told to go on");
                }
                reporter.update(|n| *n += 1);
                Ok(())
            })
        };
        let first = begin();
        let mut second = begin();
        drop(first);
        go.send(()).expect("listened to");
        let done = second
            .wait_for(|state| !matches!(state, JobState::Running(_)))
            .await;
        assert!(matches!(*done.expect("told"), JobState::Done(8)));
        assert_eq!(started.load(Ordering::SeqCst), 1);
    }

    #[tokio::test]
    async fn a_failure_is_told_and_the_next_call_begins_anew() {
        let jobs = jobs();
        for _ in 0..2 {
            let mut state = jobs.join_or_start("a", |_, _| async {
                Err(Error::new(ErrorCode::EpochUnknown, "none"))
            });
            let end = state
                .wait_for(|state| !matches!(state, JobState::Running(_)))
                .await;
            let JobState::Failed(error) = end.expect("told").clone() else {
                panic!("must fail");
            };
            assert_eq!(told(&error).code, ErrorCode::EpochUnknown);
        }
    }

    #[tokio::test]
    async fn the_end_of_the_node_cuts_work_off() {
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let jobs: Jobs<&str, u32> = Jobs::new(tasks.clone(), stop.clone());
        let mut state = jobs.join_or_start("a", |_, _| std::future::pending());
        stop.cancel();
        tasks.close();
        tasks.wait().await;
        assert!(state.changed().await.is_err());
    }
}
