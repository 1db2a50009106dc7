//! What the calls about follow-ups refuse at the door: each refusal is typed, names what it is
//! about, and repeats nothing of what was sent.

mod drafts;
mod files;

use std::sync::Arc;

use prost::bytes::Bytes;
use sotto_common::error::ErrorCode;
use sotto_common::ids::FollowUpId;
use sotto_proto::status::from_status;
use sotto_proto::v1;
use sotto_proto::v1::analyst_service_client::AnalystServiceClient;
use sotto_proto::v1::analyst_service_server::AnalystServiceServer;
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::{Request, Response, Status};

use super::super::Analysts;
use crate::app::App;
use crate::app::follow_ups::tests::{ALICE, EMAIL, Lab};
use crate::auth::Caller;

/// What no refusal repeats.
const SENT: &str = "Kowalska";
/// A code of the next version.
const UNKNOWN: i32 = 99;

/// The door, behind which everybody is Alice.
#[derive(Clone)]
struct Door;

impl Interceptor for Door {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        request.extensions_mut().insert(Caller::of_test(ALICE));
        Ok(request)
    }
}

type Node = AnalystServiceClient<InterceptedService<AnalystServiceServer<Analysts>, Door>>;

/// A node's service without a network.
fn node(app: &Arc<App>) -> Node {
    let app = Arc::clone(app);
    let server = AnalystServiceServer::new(Analysts { app });
    AnalystServiceClient::new(InterceptedService::new(server, Door))
}

/// The code of a refusal, and what it is about.
fn refusal<T>(answer: Result<Response<T>, Status>) -> (ErrorCode, String) {
    let error = from_status(&answer.err().expect("refused"));
    assert!(!error.to_string().contains(SENT), "{error}");
    (error.code, error.subject.unwrap_or_default().into_owned())
}

fn field(name: &str) -> (ErrorCode, String) {
    (ErrorCode::InvalidField, name.to_owned())
}

/// A text of more characters than that.
fn longer_than(most: usize) -> String {
    SENT.repeat(most / SENT.len() + 1)
}

/// A text that acts on a terminal.
fn acting() -> String {
    format!("{SENT}\u{1b}[2J")
}

/// No id: nothing, too short, and of another version.
fn no_ids() -> [Bytes; 3] {
    [&[][..], SENT.as_bytes(), &[7; 16]].map(Bytes::copy_from_slice)
}

fn wire(id: FollowUpId) -> Bytes {
    Bytes::copy_from_slice(id.as_bytes())
}

/// An id that no follow-up has.
fn nobodys() -> Bytes {
    let id = "019a1b2c-3d4e-7f60-8123-456789abcdef".parse();
    wire(id.expect("an id"))
}

fn before_1970() -> prost_types::Timestamp {
    prost_types::Timestamp {
        seconds: -1,
        nanos: 0,
    }
}

#[tokio::test]
async fn what_changes_a_follow_up_names_one() {
    let lab = Lab::start(&[EMAIL]).await;
    let mut node = node(&lab.asks);
    for follow_up_id in no_ids() {
        let propose = v1::ProposeFollowUpStepRequest {
            follow_up_id: follow_up_id.clone(),
            ..Default::default()
        };
        let approve = v1::ApproveFollowUpStepRequest {
            follow_up_id: follow_up_id.clone(),
            ..Default::default()
        };
        let discard = v1::DiscardFollowUpStepRequest {
            follow_up_id: follow_up_id.clone(),
            ..Default::default()
        };
        let end = v1::EndFollowUpRequest {
            follow_up_id,
            ..Default::default()
        };
        for told in [
            refusal(node.propose_follow_up_step(propose).await),
            refusal(node.approve_follow_up_step(approve).await),
            refusal(node.discard_follow_up_step(discard).await),
            refusal(node.end_follow_up(end).await),
        ] {
            assert_eq!(told, field("follow_up_id"));
        }
    }
}

#[tokio::test]
async fn what_reads_a_follow_up_names_one() {
    let lab = Lab::start(&[EMAIL]).await;
    let mut node = node(&lab.asks);
    for follow_up_id in no_ids() {
        let get = v1::GetNodeFollowUpRequest {
            follow_up_id: follow_up_id.clone(),
            ..Default::default()
        };
        let read = v1::ReadFollowUpAttachmentRequest {
            follow_up_id: follow_up_id.clone(),
            ..Default::default()
        };
        let export = v1::ExportFollowUpRequest {
            follow_up_id,
            why: "audit".into(),
            ..Default::default()
        };
        for told in [
            refusal(node.get_node_follow_up(get).await),
            refusal(node.read_follow_up_attachment(read).await),
            refusal(node.export_follow_up(export).await),
        ] {
            assert_eq!(told, field("follow_up_id"));
        }
    }
    for attachment_id in no_ids() {
        let read = v1::ReadFollowUpAttachmentRequest {
            follow_up_id: nobodys(),
            attachment_id,
            ..Default::default()
        };
        let told = refusal(node.read_follow_up_attachment(read).await);
        assert_eq!(told, field("attachment_id"));
    }
    let get = v1::GetNodeFollowUpRequest {
        follow_up_id: nobodys(),
        ..Default::default()
    };
    let (code, _) = refusal(node.get_node_follow_up(get).await);
    assert_eq!(code, ErrorCode::FollowUpUnknown);
}

#[tokio::test]
async fn a_proposal_is_named_and_taken_back_with_a_reason() {
    let lab = Lab::start(&[EMAIL]).await;
    let mut node = node(&lab.asks);
    for proposal_id in [Bytes::new(), Bytes::from_static(SENT.as_bytes())] {
        let approve = v1::ApproveFollowUpStepRequest {
            follow_up_id: nobodys(),
            proposal_id: proposal_id.clone(),
        };
        let told = refusal(node.approve_follow_up_step(approve).await);
        assert_eq!(told, field("proposal_id"));
        let discard = v1::DiscardFollowUpStepRequest {
            follow_up_id: nobodys(),
            proposal_id,
            reason: SENT.into(),
        };
        let told = refusal(node.discard_follow_up_step(discard).await);
        assert_eq!(told, field("proposal_id"));
    }
    for reason in [String::new(), " \n".into(), longer_than(1000), acting()] {
        let discard = v1::DiscardFollowUpStepRequest {
            follow_up_id: nobodys(),
            proposal_id: nobodys(),
            reason,
        };
        let told = refusal(node.discard_follow_up_step(discard).await);
        assert_eq!(told, field("reason"));
    }
}

#[tokio::test]
async fn a_step_is_one_that_people_take() {
    let lab = Lab::start(&[EMAIL]).await;
    let mut node = node(&lab.asks);
    let machine = v1::FollowUpStep::Held.into();
    let alone = v1::FollowUpStep::Withdraw.into();
    for step in [0, UNKNOWN, machine, alone] {
        let propose = v1::ProposeFollowUpStepRequest {
            follow_up_id: nobodys(),
            step,
            draft: None,
        };
        let told = refusal(node.propose_follow_up_step(propose).await);
        assert_eq!(told, field("step"), "{step}");
    }
    for step in [0, UNKNOWN, machine, v1::FollowUpStep::Accept.into()] {
        let end = v1::EndFollowUpRequest {
            follow_up_id: nobodys(),
            step,
        };
        let told = refusal(node.end_follow_up(end).await);
        assert_eq!(told, field("step"), "{step}");
    }
}

#[tokio::test]
async fn a_list_with_a_filter_that_makes_no_sense_is_refused() {
    type Spoil = fn(&mut v1::ListNodeFollowUpsRequest);
    let lab = Lab::start(&[EMAIL]).await;
    let mut node = node(&lab.asks);
    let cases: [(&str, Spoil); 6] = [
        ("side", |list| list.side = UNKNOWN),
        ("state", |list| list.state = UNKNOWN),
        ("counterpart", |list| list.counterpart = acting()),
        ("hit_id", |list| list.hit_id = SENT.as_bytes().into()),
        ("why", |list| list.why = longer_than(256)),
        ("why", |list| list.why = acting()),
    ];
    for (name, spoil) in cases {
        let mut list = v1::ListNodeFollowUpsRequest::default();
        spoil(&mut list);
        let told = refusal(node.list_node_follow_ups(list).await);
        assert_eq!(told, field(name));
    }
    let list = v1::ListNodeFollowUpsRequest {
        page_token: SENT.into(),
        ..Default::default()
    };
    let (code, _) = refusal(node.list_node_follow_ups(list).await);
    assert_eq!(code, ErrorCode::CursorInvalid);
}

#[tokio::test]
async fn why_something_is_read_is_short_and_an_export_has_to_say_it() {
    let lab = Lab::start(&[EMAIL]).await;
    let mut node = node(&lab.asks);
    for why in [longer_than(256), acting()] {
        let get = v1::GetNodeFollowUpRequest {
            why: why.clone(),
            ..Default::default()
        };
        let read = v1::ReadFollowUpAttachmentRequest {
            why: why.clone(),
            ..Default::default()
        };
        let watch = v1::WatchNodeFollowUpsRequest { cursor: 0, why };
        for told in [
            refusal(node.get_node_follow_up(get).await),
            refusal(node.read_follow_up_attachment(read).await),
            refusal(node.watch_node_follow_ups(watch).await),
        ] {
            assert_eq!(told, field("why"));
        }
    }
    for why in [String::new(), " ".into(), longer_than(256), acting()] {
        let export = v1::ExportFollowUpRequest {
            follow_up_id: nobodys(),
            why,
            ..Default::default()
        };
        let told = refusal(node.export_follow_up(export).await);
        assert_eq!(told, field("why"));
    }
}

#[tokio::test]
async fn figures_are_of_times_that_exist() {
    let lab = Lab::start(&[EMAIL]).await;
    let mut node = node(&lab.asks);
    let at = Some(before_1970());
    for (name, from, to) in [("from", at, None), ("to", None, at)] {
        let figures = v1::GetFollowUpFiguresRequest { from, to };
        let told = refusal(node.get_follow_up_figures(figures).await);
        assert_eq!(told, field(name));
    }
}
