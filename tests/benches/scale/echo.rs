//! A gRPC echo of what a prober sends, over the same TLS: what the wire costs by itself.
//!
//! The server speaks as the broker does, by its acceptor and within its bounds, and sends the bytes of
//! each batch back as its answer. It is in this process, as the prober is.

use std::pin::Pin;

use serde::Serialize;
use sotto_common::ids::Role;
use sotto_common::service::tls::{ConnectionLimits, MAX_MESSAGE, Tls, server_builder};
use sotto_proto::v1;
use sotto_tests::{Lab, TestNode};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_stream::{Stream, StreamExt as _};
use tonic::{Request, Response, Status, Streaming};
use v1::probe_request::Message as Ask;
use v1::probe_response::Message as Answer;
use v1::probe_service_server::{ProbeService, ProbeServiceServer};

use crate::probing::POLICY;
use crate::stream::session;

/// The batches of all sessions, there and back.
#[derive(Clone, Serialize, Debug)]
pub(crate) struct Echoed {
    /// Sessions at once, each on a connection of its own.
    pub(crate) sessions: usize,
    pub(crate) seconds: f64,
}

struct Echo;

#[tonic::async_trait]
impl ProbeService for Echo {
    type ProbeStream = Pin<Box<dyn Stream<Item = Result<v1::ProbeResponse, Status>> + Send>>;

    async fn probe(
        &self,
        request: Request<Streaming<v1::ProbeRequest>>,
    ) -> Result<Response<Self::ProbeStream>, Status> {
        let asked = request.into_inner();
        let answers = asked.map(|asked| asked.map(|request| answer(request.message)));
        let answers: Self::ProbeStream = Box::pin(answers);
        Ok(Response::new(answers))
    }
}

fn answer(asked: Option<Ask>) -> v1::ProbeResponse {
    let message = asked.map(|asked| match asked {
        Ask::Opening(_) => Answer::Opened(v1::ProbeOpened::default()),
        Ask::Batch(batch) => Answer::Answer(v1::ProbeAnswer {
            number: batch.number,
            matches: [&batch.tags[..], &batch.refs[..]].concat().into(),
            ..Default::default()
        }),
        Ask::Close(_) => Answer::Closed(v1::ProbeClosed::default()),
    });
    v1::ProbeResponse { message }
}

/// A server that echoes, until it is dropped.
pub(crate) struct EchoServer {
    url: String,
    task: JoinHandle<()>,
}

impl Drop for EchoServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl EchoServer {
    /// Starts it with a certificate of a broker's.
    pub(crate) async fn start(lab: &Lab) -> Self {
        let tls = Tls::load(lab.install(Role::Broker, "echo")).expect("TLS files");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("an address");
        let url = format!("https://{}", listener.local_addr().expect("bound"));
        let limits = ConnectionLimits::default();
        let service = ProbeServiceServer::new(Echo)
            .max_decoding_message_size(MAX_MESSAGE)
            .max_encoding_message_size(MAX_MESSAGE);
        let serving = server_builder(&limits)
            .add_service(service)
            .serve_with_incoming(tls.incoming(listener, limits));
        let task = tokio::spawn(async move { serving.await.expect("served") });
        Self { url, task }
    }

    /// Sends the batches of each session at once, and takes them back.
    pub(crate) async fn measure(
        &self,
        lab: &Lab,
        prober: &TestNode,
        batches: Vec<Vec<v1::ProbeBatch>>,
    ) -> Echoed {
        let sessions = batches.len();
        let nodes: Vec<_> = (0..sessions)
            .map(|_| prober.towards(lab, &self.url))
            .collect();
        let clock = Instant::now();
        let echoing = nodes.into_iter().zip(batches).map(|(node, batches)| {
            let (expected, mut echoed) = (batches.len(), 0);
            tokio::spawn(async move {
                let opening = node.opening(POLICY);
                session(node.channel(), opening, batches, |_| echoed += 1).await;
                assert_eq!(echoed, expected);
            })
        });
        let echoing: Vec<_> = echoing.collect();
        for session in echoing {
            session.await.expect("no panic");
        }
        Echoed {
            sessions,
            seconds: clock.elapsed().as_secs_f64(),
        }
    }
}
