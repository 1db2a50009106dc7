//! One probe session on the wire, as a node has it: batches are sent ahead of their answers, as far as
//! the stream's flow control lets them.

use std::iter;

use sotto_proto::v1;
use sotto_tests::probe::{Pair, batch_of};
use tonic::transport::Channel;
use v1::probe_request::Message as Ask;
use v1::probe_response::Message as Answer;
use v1::probe_service_client::ProbeServiceClient;

/// Pairs to be asked, and how many of them a batch may have.
#[derive(Clone, Copy)]
pub(crate) struct Asked<'a> {
    pub(crate) pairs: &'a [Pair],
    pub(crate) most: usize,
}

impl Asked<'_> {
    /// The first so many batches of them.
    pub(crate) fn first(self, batches: usize) -> Self {
        let end = self.pairs.len().min(batches * self.most);
        Self {
            pairs: &self.pairs[..end],
            most: self.most,
        }
    }

    /// Batches, as they go on the wire.
    pub(crate) fn pack(self) -> Vec<v1::ProbeBatch> {
        let batches = (0..).zip(self.pairs.chunks(self.most));
        batches
            .map(|(number, pairs)| batch_of(number, pairs))
            .collect()
    }

    /// As [`Self::pack`], split over so many sessions.
    pub(crate) fn pack_for(self, sessions: usize) -> Vec<Vec<v1::ProbeBatch>> {
        let shares = self.pairs.chunks(self.pairs.len().div_ceil(sessions));
        shares.map(|pairs| Self { pairs, ..self }.pack()).collect()
    }
}

/// Opens a session, asks the batches and closes it; each answer goes to `answered`.
pub(crate) async fn session(
    channel: Channel,
    opening: v1::ProbeOpening,
    batches: Vec<v1::ProbeBatch>,
    mut answered: impl FnMut(v1::ProbeAnswer),
) {
    let batches = batches.into_iter().map(Ask::Batch);
    let close = Ask::Close(v1::ProbeClose {});
    let messages = iter::once(Ask::Opening(opening))
        .chain(batches)
        .chain(iter::once(close));
    let requests = messages.map(|message| v1::ProbeRequest {
        message: Some(message),
    });
    let mut probes = ProbeServiceClient::new(channel);
    let taken = probes.probe(tokio_stream::iter(requests)).await;
    let mut answers = taken.expect("taken").into_inner();
    while let Some(answer) = answers.message().await.expect("answered") {
        if let Some(Answer::Answer(answer)) = answer.message {
            answered(answer);
        }
    }
}
