//! The threads that test batches: as many as there are cores, and behind the threads of calls, which
//! the system lets run first.

use rayon::iter::ParallelIterator as _;
use rayon::iter::{IndexedParallelIterator as _, IntoParallelRefMutIterator as _};
use rayon::slice::{ParallelSlice as _, ParallelSliceMut as _};
use rayon::{ThreadPool, ThreadPoolBuildError, ThreadPoolBuilder};
use sotto_common::secret::Tag;
use tokio::sync::{Semaphore, SemaphorePermit};

/// Tags that one thread tests at a time: some 20 microseconds, so that nobody waits long for a
/// thread, and long enough that handing over does not show.
const SHARE: usize = 1024;
/// A batch of at most so many tests is done by the caller: it would take longer to hand it over, and
/// a single question must not wait behind batches.
const BY_CALLER: usize = 4096;
/// How far behind the other threads of the process these are.
const NICE: i32 = 5;

/// Threads for large batches.
pub(super) struct Workers {
    pool: ThreadPool,
    /// Batches at a time: enough that no thread waits for the next one.
    turns: Semaphore,
}

/// The tests of one batch at one holder: a version for each tag, raised by the tests.
pub(super) struct Work<'a, L> {
    pub(super) layers: &'a [L],
    pub(super) versions: &'a mut [u64],
}

impl Workers {
    /// Starts the threads.
    ///
    /// # Errors
    /// If the system gives no more threads.
    pub(super) fn start(threads: usize) -> Result<Self, ThreadPoolBuildError> {
        let pool = ThreadPoolBuilder::new()
            .num_threads(threads)
            .thread_name(|i| format!("matcher-{i}"))
            .start_handler(|_| {
                // On Linux this is of the calling thread alone. Matching goes on without it.
                if let Err(error) = rustix::process::setpriority_process(None, NICE) {
                    tracing::debug!(%error, "batches and calls have the same priority");
                }
            })
            .build()?;
        Ok(Self {
            pool,
            turns: Semaphore::new(2 * threads),
        })
    }

    /// Waits for a turn; none is needed for a batch that its caller tests.
    pub(super) async fn turn(&self, tests: usize) -> Option<SemaphorePermit<'_>> {
        if tests <= BY_CALLER {
            return None;
        }
        // Never closed.
        self.turns.acquire().await.ok()
    }
}

/// Tests all tags at all holders, on the workers if there are any and it is worth it.
pub(super) fn run<L: Sync>(
    workers: Option<&Workers>,
    tags: &[Tag],
    work: &mut [Work<'_, L>],
    test: impl Fn(&L, &[Tag], &mut [u64]) + Sync,
) {
    let tests = work.iter().map(|work| work.layers.len()).sum::<usize>() * tags.len();
    let Some(workers) = workers.filter(|_| tests > BY_CALLER) else {
        for Work { layers, versions } in work {
            for layer in *layers {
                test(layer, tags, versions);
            }
        }
        return;
    };
    workers.pool.install(|| {
        work.par_iter_mut().for_each(|work| {
            let layers = work.layers;
            let versions = work.versions.par_chunks_mut(SHARE);
            let shares = tags.par_chunks(SHARE).zip(versions);
            shares.for_each(|(tags, versions)| {
                for layer in layers {
                    test(layer, tags, versions);
                }
            });
        });
    });
}
