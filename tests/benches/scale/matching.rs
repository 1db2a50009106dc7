//! The broker's matcher in this process, over the filters and tags that gRPC is measured with.

use tokio::time::Instant;

use rayon::iter::ParallelIterator as _;
use rayon::slice::ParallelSlice as _;
use sotto_broker::bench::Matching;
use sotto_common::ids::NodeId;
use sotto_common::secret::Tag;
use sotto_tests::Draft;

/// Tags that the matcher takes at a time: a batch of the protocol.
const BATCH: usize = 4096;

/// Seconds that all tags take against all filters.
pub(crate) struct InProcess {
    pub(crate) one_thread: f64,
    pub(crate) all_cores: f64,
}

/// Tests the tags, by one thread and by all.
pub(crate) fn measure(drafts: &[Draft], prober: &NodeId, tags: &[Tag]) -> InProcess {
    let dir = tempfile::tempdir().expect("a folder");
    let matching = Matching::new(&drafts[0].header, prober.clone());
    for draft in drafts {
        let file = dir.path().join(draft.id().to_string());
        std::fs::write(&file, &draft.bits).expect("written");
        matching.activate(&draft.header, &file).expect("mapped");
    }
    let clock = Instant::now();
    let found: usize = tags.chunks(BATCH).map(|tags| matching.probe(tags)).sum();
    let one_thread = clock.elapsed().as_secs_f64();
    let clock = Instant::now();
    let batches = tags.par_chunks(BATCH);
    let again: usize = batches.map(|tags| matching.probe(tags)).sum();
    let all_cores = clock.elapsed().as_secs_f64();
    assert!(found == again && found > 0, "the filters hold some of them");
    InProcess {
        one_thread,
        all_cores,
    }
}
