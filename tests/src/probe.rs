//! Probing as a node does (protocol §7).

use std::collections::{BTreeMap, BTreeSet};

use prost::Message as _;
use sotto_common::ids::{RecordRef, SessionId};
use sotto_common::probe::SessionNonce;
use sotto_common::random::os_rng;
use sotto_common::secret::{Selector, Tag};
use sotto_common::selector::Policy;
use sotto_common::selector::forms;
use sotto_proto::v1;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};
use v1::probe_request::Message as Ask;
use v1::probe_response::Message as Answer;

use crate::refusal::pause;
use crate::sandbox::NEVER;
use crate::{COMMUNITY, TestNode};

/// A value's tag, and the node's own reference to it.
pub type Pair = (Tag, RecordRef);

/// A probe session, open on one stream.
#[derive(Debug)]
pub struct Probe {
    requests: mpsc::Sender<v1::ProbeRequest>,
    answers: Streaming<v1::ProbeResponse>,
    /// What the broker answered to the opening.
    pub opened: v1::ProbeOpened,
}

impl Probe {
    /// Asks a batch and awaits its answer.
    ///
    /// # Errors
    /// The broker's refusal.
    pub async fn batch(&mut self, number: u32, pairs: &[Pair]) -> Result<v1::ProbeMatches, Status> {
        let batch = batch_of(number, pairs);
        self.raw_batch(batch).await
    }

    /// Asks a batch that need not be well-formed.
    ///
    /// # Errors
    /// The broker's refusal.
    pub async fn raw_batch(&mut self, batch: v1::ProbeBatch) -> Result<v1::ProbeMatches, Status> {
        let (number, refs) = (batch.number, batch.refs.clone());
        match self.ask(Ask::Batch(batch)).await? {
            Answer::Answer(answer) => {
                assert_eq!(answer.number, number);
                Ok(by_ref(&answer.matches, &refs))
            }
            other => panic!("no answer to a batch: {other:?}"),
        }
    }

    /// Closes the session.
    ///
    /// # Errors
    /// The broker's refusal.
    pub async fn close(mut self) -> Result<v1::ProbeClosed, Status> {
        match self.ask(Ask::Close(v1::ProbeClose {})).await? {
            Answer::Closed(closed) => Ok(closed),
            other => panic!("no answer to a close: {other:?}"),
        }
    }

    /// Sends a message, and awaits the next answer.
    ///
    /// # Errors
    /// The broker's refusal.
    pub async fn ask(&mut self, message: Ask) -> Result<Answer, Status> {
        // Where the broker has hung up, its status says why.
        let _ = self.requests.send(request(message)).await;
        next(&mut self.answers).await
    }

    /// Where messages are sent, for whoever sends without reading the answers.
    pub fn requests(&self) -> mpsc::Sender<v1::ProbeRequest> {
        self.requests.clone()
    }

    /// Awaits an answer, or the status that ends the stream, without asking.
    ///
    /// # Errors
    /// The broker's refusal.
    pub async fn next(&mut self) -> Result<Answer, Status> {
        next(&mut self.answers).await
    }
}

impl TestNode {
    /// A complete opening of a new session in the latest epoch, for tests to change.
    pub fn opening(&self, policy: Policy) -> v1::ProbeOpening {
        self.opening_in(self.latest_epoch(), policy)
    }

    /// As [`Self::opening`], in this epoch.
    pub fn opening_in(&self, number: u32, policy: Policy) -> v1::ProbeOpening {
        let keys = self.keys(number);
        let rng = &mut os_rng();
        let tags = crate::node::canary_tags(&keys.schedule, policy);
        v1::ProbeOpening {
            session_id: SessionId::generate(self.now(), rng)
                .as_bytes()
                .to_vec()
                .into(),
            community: COMMUNITY.into(),
            epoch: number,
            policy: policy.name().into(),
            forms: forms(policy).to_vec().into(),
            kid: keys.schedule.kid().as_bytes().to_vec().into(),
            canary_tags: tags.iter().map(|t| t.expose().to_vec().into()).collect(),
            nonce: SessionNonce::generate(rng)
                .secret()
                .expose()
                .to_vec()
                .into(),
            purpose: v1::Purpose::Investigation.into(),
            legal_basis: v1::LegalBasis::Eu2023977.into(),
            legal_basis_reference: String::new(),
            case_ref: "case-7".into(),
            targets: vec![],
            answers_by_holder: true,
        }
    }

    /// Opens or resumes a session.
    ///
    /// # Errors
    /// The broker's refusal.
    pub async fn open(&self, opening: v1::ProbeOpening) -> Result<Probe, Status> {
        let (requests, receiver) = mpsc::channel(16);
        let sent = requests.send(request(Ask::Opening(opening))).await;
        sent.expect("room for one");
        let stream = ReceiverStream::new(receiver);
        let mut answers = self.probes().probe(stream).await?.into_inner();
        match next(&mut answers).await? {
            Answer::Opened(opened) => Ok(Probe {
                requests,
                answers,
                opened,
            }),
            other => panic!("no answer to an opening: {other:?}"),
        }
    }

    /// The pairs of these values in the latest epoch.
    pub fn pairs(&self, policy: Policy, values: &[Selector]) -> Vec<Pair> {
        let number = self.latest_epoch();
        values
            .iter()
            .map(|value| {
                (
                    self.tag(number, policy, value),
                    self.record_ref(number, policy, value),
                )
            })
            .collect()
    }

    /// Asks everybody for these values in one session of one batch.
    ///
    /// # Errors
    /// The broker's refusal.
    pub async fn ask(
        &self,
        policy: Policy,
        values: &[Selector],
    ) -> Result<v1::ProbeMatches, Status> {
        self.ask_under(self.opening(policy), policy, values).await
    }

    /// Asks these holders for these values.
    ///
    /// # Errors
    /// The broker's refusal.
    pub async fn ask_only(
        &self,
        targets: &[&str],
        policy: Policy,
        values: &[Selector],
    ) -> Result<v1::ProbeMatches, Status> {
        let mut opening = self.opening(policy);
        opening.targets = targets.iter().map(ToString::to_string).collect();
        self.ask_under(opening, policy, values).await
    }

    async fn ask_under(
        &self,
        opening: v1::ProbeOpening,
        policy: Policy,
        values: &[Selector],
    ) -> Result<v1::ProbeMatches, Status> {
        let mut probe = self.open(opening).await?;
        let matches = probe.batch(0, &self.pairs(policy, values)).await?;
        probe.close().await?;
        Ok(matches)
    }

    /// Who holds which of these values, as far as the broker says.
    pub async fn find(&self, policy: Policy, values: &[Selector]) -> BTreeSet<(Selector, String)> {
        let matches = self.ask(policy, values).await.expect("answered");
        self.named(policy, values, &matches)
    }

    /// As [`Self::find`], over what passes: a broker that is killed, or that has lost its place
    /// among the others.
    pub async fn find_through(
        &self,
        policy: Policy,
        values: &[Selector],
    ) -> BTreeSet<(Selector, String)> {
        let asked = async {
            loop {
                match self.ask(policy, values).await {
                    Ok(matches) => return matches,
                    Err(status) => pause(&status).await,
                }
            }
        };
        let matches = tokio::time::timeout(NEVER, asked).await;
        self.named(
            policy,
            values,
            &matches.expect("it has not passed for minutes"),
        )
    }

    /// The matches of an answer by value instead of by record ref.
    pub fn named(
        &self,
        policy: Policy,
        values: &[Selector],
        matches: &v1::ProbeMatches,
    ) -> BTreeSet<(Selector, String)> {
        let refs: std::collections::HashMap<_, _> = self
            .pairs(policy, values)
            .into_iter()
            .zip(values)
            .map(|((_, record_ref), value)| (record_ref.as_bytes().to_vec(), value))
            .collect();
        matched(matches)
            .map(|(record_ref, at)| {
                let value = refs.get(record_ref).expect("a ref that was asked");
                ((*value).clone(), at.holder.clone())
            })
            .collect()
    }
}

/// An answer to a batch of these refs, by ref whether it came so or by holder.
///
/// # Panics
/// If it is not as `probe.proto` has it.
pub fn by_ref(matches: &[u8], refs: &[u8]) -> v1::ProbeMatches {
    let mut answer = v1::ProbeMatches::decode(matches).expect("matches");
    let refs = refs.as_chunks::<{ RecordRef::LEN }>().0;
    let mut found: BTreeMap<usize, Vec<v1::HolderMatch>> = BTreeMap::new();
    for at in std::mem::take(&mut answer.holders) {
        let hit_ids = at.hit_ids.as_chunks::<16>().0;
        let pairs = pairs_at(&at, refs.len());
        assert_eq!(pairs.len(), hit_ids.len());
        let versions = at.filter_versions.iter().cycle();
        for ((pair, hit_id), version) in pairs.into_iter().zip(hit_ids).zip(versions) {
            found.entry(pair).or_default().push(v1::HolderMatch {
                holder: at.holder.clone(),
                filter_version: *version,
                false_positive_probability: at.false_positive_probability,
                hit_id: hit_id.to_vec().into(),
            });
        }
    }
    let found = found.into_iter().map(|(pair, holders)| v1::RefMatches {
        record_ref: refs[pair].to_vec().into(),
        holders,
    });
    answer.refs.extend(found);
    answer
}

/// The pairs that match a holder, of so many.
fn pairs_at(at: &v1::HolderMatches, pairs: usize) -> Vec<usize> {
    match at.pairs.as_ref().expect("a bitmap or numbers") {
        v1::holder_matches::Pairs::Bitmap(bitmap) => {
            let is_set = |pair: &usize| bitmap[pair / 8] >> (pair % 8) & 1 == 1;
            (0..pairs).filter(is_set).collect()
        }
        v1::holder_matches::Pairs::Numbers(numbers) => {
            let numbers = numbers.as_chunks::<2>().0.iter();
            numbers.map(|&n| u16::from_be_bytes(n).into()).collect()
        }
    }
}

/// Each match of an answer: record ref and holder.
pub fn matched(matches: &v1::ProbeMatches) -> impl Iterator<Item = (&[u8], &v1::HolderMatch)> {
    let refs = matches.refs.iter();
    refs.flat_map(|row| {
        row.holders
            .iter()
            .map(|holder| (&row.record_ref[..], holder))
    })
}

/// A batch on the wire.
pub fn batch_of(number: u32, pairs: &[Pair]) -> v1::ProbeBatch {
    let tags = pairs.iter().flat_map(|(tag, _)| *tag.expose());
    let refs = pairs.iter().flat_map(|(_, r)| *r.as_bytes());
    v1::ProbeBatch {
        number,
        tags: tags.collect::<Vec<_>>().into(),
        refs: refs.collect::<Vec<_>>().into(),
    }
}

/// Every one of `values` at `holder`, as [`TestNode::find`] would say it.
pub fn all_at(holder: &str, values: &[Selector]) -> BTreeSet<(Selector, String)> {
    values
        .iter()
        .map(|value| (value.clone(), holder.to_owned()))
        .collect()
}

/// A message on the wire.
pub const fn request(message: Ask) -> v1::ProbeRequest {
    v1::ProbeRequest {
        message: Some(message),
    }
}

async fn next(answers: &mut Streaming<v1::ProbeResponse>) -> Result<Answer, Status> {
    let answer = answers.message().await?;
    // A stream that ends without a status was cut.
    let answer = answer.ok_or_else(|| Status::unavailable("the stream has ended"))?;
    Ok(answer.message.expect("a message"))
}
