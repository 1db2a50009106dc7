//! Measuring things beside each other: in turns of one run, by the processor time of the thread that
//! works. What disturbs the machine for a while then disturbs all of them, and the median forgets it.

use std::hint::black_box;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use serde::Serialize;

use crate::times::float;

/// What one operation takes, over all rounds.
#[derive(Clone, Copy, Serialize, Debug)]
pub(crate) struct Cost {
    /// The median, in nanoseconds.
    pub(crate) ns: f64,
    /// A quarter of the rounds took no longer than the first, a quarter no less than the second.
    pub(crate) quartiles: [f64; 2],
}

impl Cost {
    /// Of at least one round.
    fn of(mut rounds: Vec<f64>) -> Self {
        rounds.sort_by(f64::total_cmp);
        let at = |quarter: usize| rounds[(rounds.len() * quarter / 4).min(rounds.len() - 1)];
        Self {
            ns: at(2),
            quartiles: [at(1), at(3)],
        }
    }

    /// Operations in a second.
    pub(crate) fn per_second(&self) -> f64 {
        1e9 / self.ns
    }
}

/// One round of something: the nanoseconds of an operation.
pub(crate) type Round<'a> = Box<dyn FnMut() -> f64 + 'a>;

/// So many rounds of each, in turns, and one before that is not counted. The costs are in the order of
/// what was measured.
pub(crate) fn alternate(rounds: usize, contenders: &mut [Round<'_>]) -> Vec<Cost> {
    let mut times = vec![Vec::new(); contenders.len()];
    for round in 0..=rounds {
        for (contender, times) in contenders.iter_mut().zip(&mut times) {
            let ns = contender();
            if round > 0 {
                times.push(ns);
            }
        }
        eprint!(".");
    }
    eprintln!();
    times.into_iter().map(Cost::of).collect()
}

/// Nanoseconds of this thread's processor time for one of so many operations.
pub(crate) fn ns_each<T>(operations: usize, work: impl FnOnce() -> T) -> f64 {
    let before = thread_time();
    black_box(work());
    let took = thread_time().saturating_sub(before);
    took.as_secs_f64() * 1e9 / float(operations as u64)
}

/// As one operation of two threads that do the same beside each other; each is given its number.
pub(crate) fn ns_on_two(work: impl Fn(u64) -> f64 + Sync) -> f64 {
    let work = &work;
    let rates = std::thread::scope(|scope| {
        let threads = [0, 1].map(|number| scope.spawn(move || 1.0 / work(number)));
        threads.map(|thread| thread.join().expect("no panic"))
    });
    1.0 / (rates[0] + rates[1])
}

/// Whether there are two cores to measure on.
pub(crate) fn two_cores() -> bool {
    std::thread::available_parallelism().is_ok_and(|cores| cores.get() > 1)
}

fn thread_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    let seconds = u64::try_from(time.tv_sec).expect("not negative");
    Duration::new(seconds, u32::try_from(time.tv_nsec).expect("below 10^9"))
}
