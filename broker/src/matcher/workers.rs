//! The threads that test batches: as many as there are cores, and behind the threads of calls, which
//! the system lets run first.

use std::cmp::Reverse;

use rayon::iter::{IndexedParallelIterator as _, ParallelIterator as _};
use rayon::slice::ParallelSlice as _;
use rayon::{ThreadPool, ThreadPoolBuildError, ThreadPoolBuilder};
use sotto_common::error::{Error, Result};
use sotto_common::secret::Tag;
use tokio::sync::{Semaphore, SemaphorePermit, oneshot};

use super::TagHit;

/// Tags that one thread tests at a time: they fit into half of the nearest cache.
const SHARE: usize = 1024;
/// Holders at which it tests them: some 150 microseconds, so that nobody waits long for a thread, and long
/// enough that handing over does not show.
const HOLDERS: usize = 8;
/// A batch of at most so many tests is done by the caller: it would take longer to hand it over, and
/// a single question must not wait behind batches.
const BY_CALLER: usize = 4096;
/// How far behind the threads of calls these are.
#[cfg(target_os = "linux")]
const NICE: i32 = 5;

/// Threads for large batches.
pub(super) struct Workers {
    pool: ThreadPool,
    /// Batches at a time: enough that no thread waits for the next one.
    turns: Semaphore,
}

impl Workers {
    /// Starts the threads.
    ///
    /// # Errors
    /// If the system gives no more threads.
    pub(super) fn start(threads: usize) -> std::result::Result<Self, ThreadPoolBuildError> {
        let pool = ThreadPoolBuilder::new()
            .num_threads(threads)
            .thread_name(|i| format!("matcher-{i}"))
            .start_handler(|_| stand_back())
            // Whoever waits for what has panicked is told.
            .panic_handler(drop)
            .build()?;
        Ok(Self {
            pool,
            turns: Semaphore::new(2 * threads),
        })
    }

    /// Waits for a turn; none is needed for a batch that its caller tests.
    pub(super) async fn turn(&self, tests: usize) -> Turn<'_> {
        if tests <= BY_CALLER {
            return Turn::of_caller();
        }
        // Never closed.
        let permit = self.turns.acquire().await.ok();
        Turn(permit.map(|permit| (&self.pool, permit)))
    }
}

/// When a batch may be tested, and where: by the threads for it, or by the caller's own.
pub(crate) struct Turn<'a>(Option<(&'a ThreadPool, SemaphorePermit<'a>)>);

impl Turn<'_> {
    pub(super) const fn of_caller() -> Self {
        Self(None)
    }

    /// Does what the turn is for, while the async threads go on with other tasks.
    ///
    /// # Errors
    /// `INTERNAL` if it panicked.
    pub(crate) async fn take<T: Send + 'static>(
        self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T> {
        let Some((pool, _permit)) = &self.0 else {
            return Ok(tokio::task::block_in_place(work));
        };
        let (done, result) = oneshot::channel();
        pool.spawn(move || {
            // Nobody waits any more where this fails.
            let _ = done.send(work());
        });
        result.await.map_err(Error::internal)
    }
}

/// Puts the calling thread behind the others of the process, as the priority of a thread is its own on
/// Linux. Matching goes on without it.
#[cfg(target_os = "linux")]
fn stand_back() {
    use rustix::process::{getpriority_process, setpriority_process};
    let done = getpriority_process(None).and_then(|now| setpriority_process(None, now + NICE));
    if let Err(error) = done {
        tracing::debug!(%error, "batches and calls have the same priority");
    }
}

#[cfg(not(target_os = "linux"))]
const fn stand_back() {}

/// Tests all tags at all holders, each with its layers, on the workers if there are any and it is worth
/// it; gives the hits of each holder in the order of the tags.
pub(super) fn run<L: Sync>(
    workers: Option<&Workers>,
    tags: &[Tag],
    holders: &[Vec<L>],
    test: impl Fn(&L, &[Tag], &mut Vec<TagHit>) + Sync,
) -> Vec<Vec<TagHit>> {
    let tests = holders.iter().map(Vec::len).sum::<usize>() * tags.len();
    let Some(workers) = workers.filter(|_| tests > BY_CALLER) else {
        let shares = tags.chunks(SHARE).enumerate();
        let found = shares.map(|share| in_share(holders, share, &test));
        return together(holders.len(), found.collect());
    };
    let at_some = |holders: &[Vec<L>]| {
        let shares = tags.par_chunks(SHARE).enumerate();
        let found = shares.map(|share| in_share(holders, share, &test));
        together(holders.len(), found.collect())
    };
    let all = || holders.par_chunks(HOLDERS).flat_map_iter(at_some).collect();
    workers.pool.install(all)
}

/// The hits of one share at each of these holders, one after the other: the tags stay in the cache that
/// is nearest meanwhile.
fn in_share<L>(
    holders: &[Vec<L>],
    (number, tags): (usize, &[Tag]),
    test: &impl Fn(&L, &[Tag], &mut Vec<TagHit>),
) -> Vec<Vec<TagHit>> {
    let at_holder = |layers: &Vec<L>| {
        let mut hits = found(layers, tags, test);
        for hit in &mut hits {
            hit.tag += number * SHARE;
        }
        hits
    };
    holders.iter().map(at_holder).collect()
}

/// The hits of each holder in all shares, in the order of the shares.
fn together(holders: usize, shares: Vec<Vec<Vec<TagHit>>>) -> Vec<Vec<TagHit>> {
    let mut all = vec![Vec::new(); holders];
    for share in shares {
        for (of_holder, hits) in all.iter_mut().zip(share) {
            of_holder.extend(hits);
        }
    }
    all
}

/// The tags that are in any of the layers, each with the highest version, in their order.
fn found<L>(
    layers: &[L],
    tags: &[Tag],
    test: &impl Fn(&L, &[Tag], &mut Vec<TagHit>),
) -> Vec<TagHit> {
    let mut hits = Vec::new();
    for layer in layers {
        test(layer, tags, &mut hits);
    }
    hits.sort_unstable_by_key(|hit| (hit.tag, Reverse(hit.version)));
    hits.dedup_by_key(|hit| hit.tag);
    hits
}
