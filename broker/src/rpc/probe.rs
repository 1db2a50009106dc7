//! `ProbeService`: one stream, one session (protocol §7).

use std::collections::BTreeSet;
use std::sync::Arc;

use sotto_common::epoch::Kid;
use sotto_common::error::{Error, Result};
use sotto_common::grounds::Grounds;
use sotto_common::ids::{NodeId, SessionId};
use sotto_common::membership::MAX_MEMBERS;
use sotto_common::probe::SessionNonce;
use sotto_proto::convert::{Pairs, array, epoch, id, policy, tags, text};
use sotto_proto::status::from_inbound;
use sotto_proto::v1;
use sotto_proto::v1::probe_request::Message as Asked;
use sotto_proto::v1::probe_response::Message as Answered;
use sotto_proto::v1::probe_service_server::ProbeService;
use tonic::{Request, Response, Status, Streaming};

use super::flow::{Answers, Place, Places, Sender};
use super::membership::answer;
use super::{Api, AsyncAnswers, node, peer, to_the_end};
use crate::app::{AnswerForm, Broker, Opening, ProbeSession};
use crate::datastore::StackKey;
use sotto_proto::status::to_status;

#[tonic::async_trait]
impl ProbeService for Api {
    type ProbeStream = Answers<v1::ProbeResponse>;

    async fn probe(
        &self,
        request: Request<Streaming<v1::ProbeRequest>>,
    ) -> Result<Response<Self::ProbeStream>, Status> {
        answer!({
            let (prober, peer) = (node(&request)?, peer(&request)?);
            let broker = Arc::clone(&self.broker);
            let asked = request.into_inner();
            let places = self.under_way.of(&prober);
            Ok(self.stream(
                peer,
                Session {
                    broker,
                    prober,
                    asked,
                    places,
                },
            ))
        })
    }
}

struct Session {
    broker: Arc<Broker>,
    prober: NodeId,
    asked: Streaming<v1::ProbeRequest>,
    /// Of all streams of the prober.
    places: Places,
}

impl Session {
    async fn next(&mut self) -> Result<Option<Asked>> {
        let request = self
            .asked
            .message()
            .await
            .map_err(|status| from_inbound(&status))?;
        let empty = || Error::field("message", "an opening, a batch or a close");
        request
            .map(|request| request.message.ok_or_else(empty))
            .transpose()
    }
}

impl AsyncAnswers<v1::ProbeResponse> for Session {
    /// An answer may be of 4 MiB.
    fn ahead(&self) -> usize {
        1
    }

    async fn run(mut self, answers: Sender<v1::ProbeResponse>) -> Result<()> {
        let opening = match self.next().await? {
            Some(Asked::Opening(opening)) => opening,
            Some(_) => return Err(Error::field("message", "the first message is the opening")),
            None => return Ok(()),
        };
        let opened = self
            .broker
            .open_session(&self.prober, opening_of(&opening)?)
            .await?;
        let session = Arc::new(opened.session);
        let opened = v1::ProbeOpened {
            max_pairs: opened.max_pairs,
            refs_left_today: opened.refs_left_today,
            last_answered: opened.last_answered,
        };
        let mut reader_is_there = answers.send(response(Answered::Opened(opened))).await;
        while reader_is_there {
            reader_is_there = match self.next().await? {
                Some(Asked::Batch(batch)) => {
                    let number = batch.number;
                    let pairs = Pairs::try_from(batch)?;
                    // While the prober does not read, no batch of it is tested, and none after this
                    // one is read.
                    let place = self.places.take().await;
                    let (answer, place) =
                        batch_answer(&self.broker, &session, (number, pairs), place).await?;
                    answers.send_from(place, response(answer)).await
                }
                Some(Asked::Close(_)) => {
                    let answer = close_answer(&self.broker, &session).await?;
                    answers.send(response(answer)).await;
                    return Ok(());
                }
                Some(Asked::Opening(_)) => {
                    return Err(Error::field("message", "the session is open already"));
                }
                // The stream ends, the session stays open (protocol §7).
                None => return Ok(()),
            };
        }
        Ok(())
    }
}

const fn response(message: Answered) -> v1::ProbeResponse {
    v1::ProbeResponse {
        message: Some(message),
    }
}

/// Answers a batch; its place is taken for as long as that goes on, whether or not the prober still waits.
async fn batch_answer(
    broker: &Arc<Broker>,
    session: &Arc<ProbeSession>,
    (number, pairs): (u32, Pairs),
    place: Place,
) -> Result<(Answered, Place)> {
    let (broker, session) = (Arc::clone(broker), Arc::clone(session));
    let tested = async move {
        let answer = broker.probe_batch(&session, number, &pairs).await?;
        Ok::<_, Error>((answer, place))
    };
    let (answer, place) = to_the_end(tested).await?;
    let answer = Answered::Answer(v1::ProbeAnswer {
        number,
        matches: answer.matches.into(),
        leaf_index: answer.leaf_index,
    });
    Ok((answer, place))
}

async fn close_answer(broker: &Broker, session: &ProbeSession) -> Result<Answered> {
    let (batches, refs) = broker.close_session(session).await?;
    Ok(Answered::Closed(v1::ProbeClosed { batches, refs }))
}

fn opening_of(wire: &v1::ProbeOpening) -> Result<Opening> {
    let nonce = SessionNonce::from_slice(&wire.nonce)
        .ok_or_else(|| Error::field("nonce", "expected 32 bytes"))?;
    if wire.targets.len() > MAX_MEMBERS || wire.canary_tags.len() > 64 {
        return Err(Error::field(
            "targets",
            "at most 1000 targets and 64 canary tags",
        ));
    }
    let targets = wire
        .targets
        .iter()
        .map(|node| text("targets", node))
        .collect::<Result<BTreeSet<_>>>()?;
    Ok(Opening {
        id: id("session_id", &wire.session_id, SessionId::from_slice)?,
        key: StackKey {
            community: text("community", &wire.community)?,
            epoch: epoch(wire.epoch)?,
            policy: policy(&wire.policy)?,
        },
        forms: array("forms", &wire.forms)?,
        kid: Kid::new(array("kid", &wire.kid)?),
        canary_tags: tags("canary_tags", &wire.canary_tags)?,
        nonce,
        grounds: Grounds::try_from(wire)?,
        targets,
        form: if wire.answers_by_holder {
            AnswerForm::ByHolder
        } else {
            AnswerForm::ByRef
        },
    })
}
