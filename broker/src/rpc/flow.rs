//! Flow control of streams of answers: what waits for slow readers is bounded, for each stream, and for
//! answers to probes, which may be of 4 MiB, for each node over all its streams.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::task::{Context, Poll, ready};

use futures::Stream;
use sotto_common::ids::NodeId;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tonic::Status;

/// Answers to batches of one node that are made, or made and not on their way, at one broker: 64 MiB at
/// most, and for each stream the last [piece](super::pieces) of one. A stream has three of them at a time, so
/// that a few that stand still do not hold up the node's others; until six do.
const ANSWERS_PER_NODE: usize = 16;

/// A stream of answers as tonic takes it.
pub(super) type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// An answer on its way, and what it holds until it has left.
struct Item<T> {
    answer: Result<T, Status>,
    place: Option<Place>,
}

/// Leave to make one more answer; given back when it is dropped.
pub(super) struct Place {
    _permit: Option<OwnedSemaphorePermit>,
}

/// The places of one node.
pub(super) struct Places(Arc<Semaphore>);

impl Places {
    /// Waits for a place: for as long as the node does not read what it was answered.
    pub(super) async fn take(&self) -> Place {
        Place {
            // Never closed.
            _permit: Arc::clone(&self.0).acquire_owned().await.ok(),
        }
    }
}

/// The places of all nodes.
#[derive(Clone, Default)]
pub(crate) struct UnderWay(Arc<Mutex<HashMap<NodeId, Weak<Semaphore>>>>);

impl UnderWay {
    /// Those of a node, which all its streams share.
    pub(super) fn of(&self, node: &NodeId) -> Places {
        // Nothing is half done after a panic.
        let mut nodes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = nodes.get(node).and_then(Weak::upgrade) {
            return Places(known);
        }
        nodes.retain(|_, places| places.strong_count() > 0);
        let places = Arc::new(Semaphore::new(ANSWERS_PER_NODE));
        nodes.insert(node.clone(), Arc::downgrade(&places));
        Places(places)
    }
}

/// Where a stream's answers go.
pub(super) struct Sender<T>(mpsc::Sender<Item<T>>);

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T> Sender<T> {
    /// Sends an answer once the reader has room for it; false if the reader is gone.
    pub(super) async fn send(&self, answer: T) -> bool {
        let place = None;
        let answer = Ok(answer);
        self.0.send(Item { answer, place }).await.is_ok()
    }

    /// As [`Self::send`], with the place that it was made in: it is free again when the transport has
    /// taken the answer and asks for the next.
    pub(super) async fn send_from(&self, place: Place, answer: T) -> bool {
        let place = Some(place);
        let answer = Ok(answer);
        self.0.send(Item { answer, place }).await.is_ok()
    }

    /// Tells why there are no more answers. The reader may be gone: then nobody is left to be told.
    pub(super) async fn end(&self, status: Status) {
        let answer = Err(status);
        let place = None;
        let _ = self.0.send(Item { answer, place }).await;
    }

    /// Waits until the reader is gone.
    pub(super) async fn closed(&self) {
        self.0.closed().await;
    }
}

/// Where a stream's answers come out.
pub(super) struct Reader<T> {
    items: mpsc::Receiver<Item<T>>,
    /// That of the answer which was taken last.
    last: Option<Place>,
}

impl<T> Stream for Reader<T> {
    type Item = Result<T, Status>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let reader = self.get_mut();
        // Who asks has handed on all but the last piece of what came before.
        reader.last = None;
        let next = ready!(reader.items.poll_recv(context));
        Poll::Ready(next.map(|item| {
            reader.last = item.place;
            item.answer
        }))
    }
}

/// A stream on which so many answers may wait for their reader.
pub(super) fn channel<T>(ahead: usize) -> (Sender<T>, Reader<T>) {
    let (sender, items) = mpsc::channel(ahead);
    (Sender(sender), Reader { items, last: None })
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use futures::StreamExt as _;

    use super::*;

    fn node(name: &str) -> NodeId {
        name.parse().expect("a node")
    }

    /// Returns once nobody can go on: the clock of these tests moves no earlier.
    async fn quiet() {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }

    /// So many streams of a node, each answered without end.
    fn streams(
        places: &UnderWay,
        node: &NodeId,
        count: usize,
    ) -> (Vec<Reader<()>>, Arc<AtomicUsize>) {
        let made = Arc::new(AtomicUsize::new(0));
        let mut readers = Vec::new();
        for _ in 0..count {
            let (sender, reader) = channel(1);
            let (places, made) = (places.of(node), Arc::clone(&made));
            tokio::spawn(async move {
                loop {
                    let place = places.take().await;
                    made.fetch_add(1, Ordering::Relaxed);
                    if !sender.send_from(place, ()).await {
                        return;
                    }
                }
            });
            readers.push(reader);
        }
        (readers, made)
    }

    #[tokio::test(start_paused = true)]
    async fn a_reader_that_stops_reading_is_answered_no_further() {
        let places = UnderWay::default();
        let (mut readers, made) = streams(&places, &node("nl-fiu"), 1);
        quiet().await;
        // One waits for the reader, one for its room.
        assert_eq!(made.load(Ordering::Relaxed), 2);
        for _ in 0..1000 {
            readers[0].next().await.expect("open").expect("answered");
        }
        quiet().await;
        assert_eq!(made.load(Ordering::Relaxed), 1002);
    }

    #[tokio::test(start_paused = true)]
    async fn however_many_streams_a_node_does_not_read_its_answers_are_bounded() {
        let places = UnderWay::default();
        let (mut readers, made) = streams(&places, &node("nl-fiu"), 40);
        quiet().await;
        assert_eq!(made.load(Ordering::Relaxed), ANSWERS_PER_NODE);
        // Other nodes are none the slower for it.
        let (_others, by_others) = streams(&places, &node("de-bka"), 40);
        quiet().await;
        assert_eq!(by_others.load(Ordering::Relaxed), ANSWERS_PER_NODE);
        assert_eq!(made.load(Ordering::Relaxed), ANSWERS_PER_NODE);

        // An answer has left when the next is asked for.
        readers[0].next().await.expect("open").expect("answered");
        quiet().await;
        assert_eq!(made.load(Ordering::Relaxed), ANSWERS_PER_NODE);
        readers[0].next().await.expect("open").expect("answered");
        quiet().await;
        assert_eq!(made.load(Ordering::Relaxed), ANSWERS_PER_NODE + 1);

        // Streams that nobody reads any more hold nothing, and are forgotten.
        drop(readers);
        quiet().await;
        let (_again, made) = streams(&places, &node("nl-fiu"), 40);
        quiet().await;
        assert_eq!(made.load(Ordering::Relaxed), ANSWERS_PER_NODE);
    }
}
