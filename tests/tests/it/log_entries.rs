//! What gets into the audit log, read back by an auditor: every action, each once, with nothing in
//! it that must not be (protocol §11, workflow.md "Audit").

use std::collections::BTreeSet;
use std::time::Duration;

use sotto_common::followup::{FollowUpState, FollowUpStep};
use sotto_common::hit::HitDecision;
use sotto_common::ids::{HitId, Role};
use sotto_common::log::action::Action;
use sotto_common::log::entry::Entry;
use sotto_common::probe::{SessionNonce, answer_digest, tags_digest};
use sotto_common::selector::Policy::Phone;
use sotto_proto::convert::log::read_entry;
use sotto_proto::v1;
use sotto_tests::ledger::{filter_files, mapped_files};
use sotto_tests::probe::{Pair, batch_of};
use sotto_tests::sandbox::profile;
use sotto_tests::{COMMUNITY, Case, Sandbox, TestNode, phones};
use tonic::transport::Channel;
use v1::audit_service_client::AuditServiceClient;
use v1::follow_up_service_client::FollowUpServiceClient;
use v1::hit_service_client::HitServiceClient;

const MEMBERS: [&str; 3] = ["nl-fiu", "de-bka", "fr-pj"];
const HOUR: Duration = Duration::from_hours(1);
const DAY: Duration = Duration::from_hours(24);

/// What the broker does after years only.
const NOT_HERE: [Action; 1] = [Action::EraseOpenings];

/// An entry as the auditor gets it.
#[derive(Clone, Debug)]
struct Read {
    index: u64,
    bytes: Vec<u8>,
    entry: Entry,
}

/// The auditor of a sandbox.
struct Auditor {
    channel: Channel,
    marks: u64,
}

impl Auditor {
    fn of(sandbox: &Sandbox) -> Self {
        Self {
            channel: sandbox.lab().channel(Role::Auditor, "anna", &sandbox.url()),
            marks: 1_000_000,
        }
    }

    /// Everything that was logged before this call: sets a limit as a mark, and waits for its entry.
    async fn entries(&mut self, sandbox: &Sandbox) -> Vec<Read> {
        self.marks += 1;
        let set = sandbox.operator().set_quota("nl-fiu", self.marks).await;
        set.expect("set");
        let (mut read, mark) = (vec![], self.marks);
        let is_mark = |read: &&Read| read.entry.limits.is_some_and(|(refs, _)| refs == mark);
        let policies = profile().policies().len();
        sandbox
            .eventually(async || {
                read = self.all().await;
                read.iter().filter(is_mark).count() == policies
            })
            .await;
        read
    }

    /// Every entry that has a place, page by page.
    async fn all(&self) -> Vec<Read> {
        let mut request = v1::ListEntriesRequest {
            community: COMMUNITY.into(),
            page_size: 200,
            ..Default::default()
        };
        let mut read = vec![];
        loop {
            let mut service = AuditServiceClient::new(self.channel.clone());
            let page = service.list_entries(request.clone()).await;
            let page = page.expect("listed").into_inner();
            read.extend(page.entries.into_iter().map(|logged| Read {
                index: logged.leaf_index,
                entry: read_entry(&logged.entry).expect("an entry"),
                bytes: logged.entry.to_vec(),
            }));
            if page.next_page_token.is_empty() {
                return read;
            }
            request.page_token = page.next_page_token;
        }
    }
}

/// The entries of an action, in the order of the log.
fn of(read: &[Read], action: Action) -> Vec<&Entry> {
    let entries = read.iter().map(|read| &read.entry);
    entries.filter(|entry| entry.action == action).collect()
}

/// Those that neither an auditor's reading nor a mark has made.
fn made(read: &[Read]) -> usize {
    let is_made = |read: &&Read| !matches!(read.entry.action, Action::Read | Action::SetLimits);
    read.iter().filter(is_made).count()
}

fn actions(read: &[Read]) -> BTreeSet<Action> {
    read.iter().map(|read| read.entry.action).collect()
}

fn assert_nowhere(read: &[Read], secret: &[u8], what: &str) {
    for read in read {
        let mut windows = read.bytes.windows(secret.len());
        let found = windows.any(|window| window == secret);
        assert!(!found, "{what} in {:?}", read.entry.action);
    }
}

/// From the community to the end of its epoch.
async fn of_members_and_publications() -> BTreeSet<Action> {
    let (mut sandbox, [nl, de, _fr]) = Sandbox::with_nodes(MEMBERS).await;
    let mut auditor = Auditor::of(&sandbox);
    let mut other = profile();
    other.hit_cap += 1;
    for _ in 0..2 {
        let proposal = v1::ProposeProfileRequest {
            community: COMMUNITY.into(),
            profile: Some(other.clone().into()),
            custodians: vec!["nl-fiu".into()],
        };
        let mut service = sandbox.operator().membership();
        service.propose_profile(proposal).await.expect("proposed");
    }
    let first = de.draft(Phone, &phones(0..3)).await;
    for _ in 0..2 {
        de.announce(&first).await.expect("announced");
    }
    de.upload(&first, 0, |_| ()).await.expect("uploaded");
    for _ in 0..2 {
        de.activate(first.id()).await.expect("active");
    }
    de.publish(Phone, &phones(0..5)).await;
    let withdrawn = nl.publish(Phone, &phones(0..2)).await;
    for _ in 0..2 {
        nl.withdraw(withdrawn).await.expect("withdrawn");
    }
    let broken = nl.draft(Phone, &phones(0..3)).await;
    let ones = vec![0xff; broken.bits.len()];
    let broken = broken.with_bits(ones);
    let refused = nl.publish_draft(&broken).await;
    refused.expect_err("every bit is set");
    lose_filters(&mut sandbox).await;
    de.publish(Phone, &phones(0..3)).await;
    let operator = sandbox.operator();
    let ended = operator.suspend("fr-pj", "its key is lost").await;
    assert_eq!(ended.expect("suspended"), [1]);
    nl.end_epoch(1).await.expect("it has ended already");

    let read = auditor.entries(&sandbox).await;
    for (action, times) in [
        (Action::ProposeProfile, 1),
        (Action::AnnouncePublication, 5),
        (Action::ActivatePublication, 4),
        (Action::ReplacePublication, 1),
        (Action::WithdrawPublication, 1),
        (Action::RejectPublication, 1),
        (Action::LosePublication, 1),
        (Action::ExpirePublication, 1),
        (Action::ActivateEpoch, 1),
        (Action::EndEpoch, 1),
    ] {
        assert_eq!(of(&read, action).len(), times, "{action}");
    }
    let rejected = of(&read, Action::RejectPublication)[0];
    assert_eq!(rejected.detail, "FILTER_POPCOUNT");
    let suspended = of(&read, Action::SuspendNode)[0];
    assert_eq!(suspended.detail, "its key is lost");
    assert_eq!(suspended.actor.role(), Role::Operator);
    for draft in [&first, &broken] {
        assert_nowhere(&read, &draft.header.salt.expose()[..], "a salt");
    }
    actions(&read)
}

/// Starts the broker without the bits of its filters.
async fn lose_filters(sandbox: &mut Sandbox) {
    sandbox.stop().await;
    for copy in mapped_files(&sandbox.data_dir()) {
        std::fs::remove_file(copy).expect("removed");
    }
    for object in filter_files(&sandbox.data_dir()).into_keys() {
        std::fs::write(object, vec![0; 8192]).expect("altered");
    }
    sandbox.end_lost_filters = true;
    sandbox.start().await;
    sandbox.end_lost_filters = false;
}

/// From a probe to what becomes of its hits.
async fn of_probes_and_hits() -> BTreeSet<Action> {
    let mut capped = profile();
    capped.hit_cap = 2;
    capped.retention.untouched_hits = 10 * HOUR;
    let (mut sandbox, [nl, de, _fr]) = Sandbox::with_profile(capped, MEMBERS).await;
    let mut auditor = Auditor::of(&sandbox);
    de.publish(Phone, &phones(0..3)).await;
    nl.find(Phone, &phones(0..3)).await;
    let operator = sandbox.operator();
    let groups = operator.quarantine().await.expect("listed");
    let released = operator.release(&groups[0], "checked").await;
    assert_eq!(released.expect("released"), 1);
    let begun = nl.hits().await.expect("listed").remove(0);
    for _ in 0..2 {
        let decided = nl.decide(&begun, HitDecision::BeginReview).await;
        decided.expect("taken");
    }
    de.publish(Phone, &phones(7..9)).await;
    nl.find(Phone, &phones(0..3)).await;
    de.publish(Phone, &phones(0..3)).await;
    nl.find(Phone, &phones(0..3)).await;
    sandbox.clock.advance(11 * HOUR);
    sandbox.restart().await;
    let state = v1::HitState::Expired;
    sandbox
        .eventually(async || {
            let hits = nl.hits().await.expect("listed");
            hits.iter().all(|hit| hit.state() == state)
        })
        .await;

    let read = auditor.entries(&sandbox).await;
    for (action, times) in [
        (Action::FindHit, 2),
        (Action::QuarantineHit, 1),
        (Action::ReleaseHit, 1),
        (Action::DecideHit, 1),
        (Action::RetractHit, 3),
        (Action::ReviveHit, 3),
        (Action::ExpireHit, 3),
        (Action::OpenSession, 3),
        (Action::CloseSession, 3),
    ] {
        assert_eq!(of(&read, action).len(), times, "{action}");
    }
    let decided = of(&read, Action::DecideHit)[0];
    let id = HitId::from_slice(&begun.hit_id).expect("a hit id");
    assert_eq!(decided.object.hit, Some(id));
    let statement = decided.statement.as_ref().expect("signed");
    assert!(statement.envelope.is_some(), "the feedback itself");
    for found in of(&read, Action::FindHit) {
        assert_eq!(found.actor.node().as_ref(), Some(nl.id()));
        assert_eq!(found.recipient.as_ref(), Some(nl.id()));
        assert_eq!(found.object.node.as_ref(), Some(de.id()));
    }
    actions(&read)
}

/// The hits of `nl` on `de`, one for each of so many phones.
async fn with_hits(nl: &TestNode, de: &TestNode, hits: u32) -> Vec<v1::Hit> {
    de.publish(Phone, &phones(0..hits)).await;
    nl.find(Phone, &phones(0..hits)).await;
    nl.hits().await.expect("listed")
}

/// From a request to the erasure of its answer.
async fn of_follow_ups() -> BTreeSet<Action> {
    let (mut sandbox, [nl, de, _fr]) = Sandbox::with_nodes(MEMBERS).await;
    let mut auditor = Auditor::of(&sandbox);
    let hits = with_hits(&nl, &de, 3).await;
    // No broker can tell which selector a request is about.
    let selector = || phones(0..1).remove(0);
    let mut answered = Case::on(&nl, &de, &hits[0], Phone, selector()).await;
    answered.bring_to(FollowUpState::Accepted).await;
    let file = answered.seal_file(b"a file");
    for _ in 0..2 {
        answered.announce_file(&file).await.expect("announced");
    }
    let uploaded = answered.upload_file(&file, 0, &file.sealed).await;
    uploaded.expect("whole");
    let answer = answered.answer_with(&[&file]);
    answered.take_detail(answer).await.expect("taken");
    let bytes = answered.download_file(&nl, &file, 0).await;
    assert_eq!(bytes.expect("read"), file.sealed);

    let mut late = Case::on(&nl, &de, &hits[1], Phone, selector()).await;
    late.bring_to(FollowUpState::Received).await;
    let once = Case::on(&nl, &de, &hits[2], Phone, selector()).await;
    let step = once.signed(FollowUpStep::Submit);
    for _ in 0..2 {
        nl.submit_step(step.clone()).await.expect("taken");
    }
    // The limit is over, then the answer is closed, then it is erased.
    for days in [8, 31, 181] {
        sandbox.clock.advance(DAY * days);
        sandbox.restart().await;
        let last = match days {
            8 => Action::MissLimit,
            31 => Action::CloseFollowUp,
            _ => Action::EraseFollowUp,
        };
        sandbox
            .eventually(async || !of(&auditor.all().await, last).is_empty())
            .await;
    }

    let read = auditor.entries(&sandbox).await;
    for (action, times) in [
        (Action::MissLimit, 1),
        (Action::CloseFollowUp, 1),
        (Action::EraseFollowUp, 1),
        (Action::AnnounceAttachment, 1),
        (Action::CompleteAttachment, 1),
        (Action::FetchAttachment, 1),
        // Three submitted, one closed.
        (Action::FollowUpHit, 4),
    ] {
        assert_eq!(of(&read, action).len(), times, "{action}");
    }
    let steps = of(&read, Action::TakeStep);
    let of_once = |entry: &&&Entry| entry.object.follow_up == Some(once.id);
    let twice: Vec<_> = steps.iter().filter(of_once).collect();
    assert_eq!(twice.len(), 1, "taken again, it is no other step");
    let entry = twice[0];
    assert_eq!(entry.detail, "SUBMIT");
    assert_eq!(entry.recipient.as_ref(), Some(de.id()));
    let clear = entry.step.as_ref().expect("a step");
    assert!(clear.number == 0 && !clear.clear.is_empty());
    let statement = entry.statement.as_ref().expect("signed");
    assert!(statement.envelope.is_none(), "what is sealed stays out");
    actions(&read)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_action_is_logged() {
    let mut logged = of_members_and_publications().await;
    logged.extend(of_probes_and_hits().await);
    logged.extend(of_follow_ups().await);
    logged.extend(NOT_HERE);
    let all: BTreeSet<_> = Action::ALL.iter().copied().collect();
    assert_eq!(logged, all);
}

/// Asks a batch; returns the answer's bytes and the place of its entry.
async fn ask(
    nl: &TestNode,
    opening: &v1::ProbeOpening,
    number: u32,
    pairs: &[Pair],
) -> (Vec<u8>, u64) {
    let mut probe = nl.open(opening.clone()).await.expect("opened");
    let batch = v1::probe_request::Message::Batch(batch_of(number, pairs));
    match probe.ask(batch).await.expect("answered") {
        v1::probe_response::Message::Answer(answer) => {
            let place = answer.leaf_index.expect("a place");
            (answer.matches.to_vec(), place)
        }
        other => panic!("no answer to a batch: {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_batch_is_logged_once_and_neither_its_tags_nor_its_nonce_are() {
    let (sandbox, [nl, de, _fr]) = Sandbox::with_nodes(MEMBERS).await;
    let mut auditor = Auditor::of(&sandbox);
    de.publish(Phone, &phones(0..3)).await;
    let opening = nl.opening(Phone);
    let nonce = SessionNonce::from_slice(&opening.nonce).expect("a nonce");
    let with_hits = nl.pairs(Phone, &phones(0..9));
    let without = nl.pairs(Phone, &phones(20..25));
    let (matches, place) = ask(&nl, &opening, 0, &with_hits).await;
    let (nothing, _) = ask(&nl, &opening, 1, &without).await;
    let again = ask(&nl, &opening, 0, &with_hits).await;
    assert_eq!(again, (matches.clone(), place));

    let read = auditor.entries(&sandbox).await;
    assert_eq!(of(&read, Action::OpenSession).len(), 1);
    let batches = of(&read, Action::AnswerBatch);
    assert_eq!(batches.len(), 2);
    let expected = [
        (0, &with_hits, 3, &matches, 9),
        (1, &without, 0, &nothing, 5),
    ];
    for (entry, (number, pairs, found, answer, refs)) in batches.iter().zip(expected) {
        let batch = entry.batch.as_ref().expect("a batch");
        assert_eq!((batch.number, batch.refs), (number, refs));
        assert_eq!(batch.matches, found);
        assert_eq!(batch.tags_digest, tags_digest(&nonce, number, pairs));
        assert_eq!(batch.answer_digest, answer_digest(&nonce, number, answer));
        let grounds = entry.grounds.as_ref().expect("grounds");
        assert_eq!(grounds.case_ref(), "case-7");
        let session = entry.object.session.as_ref().expect("a session");
        assert_eq!(session.as_bytes()[..], opening.session_id);
    }
    let at_place = read.iter().find(|read| read.index == place);
    assert_eq!(&&at_place.expect("there").entry, &batches[0]);

    assert_nowhere(&read, nonce.secret().expose(), "the nonce");
    for (tag, _) in with_hits.iter().chain(&without) {
        assert_nowhere(&read, tag.expose(), "a tag");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_refused_is_not_logged() {
    let (sandbox, [nl, de, _fr]) = Sandbox::with_nodes(MEMBERS).await;
    let mut auditor = Auditor::of(&sandbox);
    let hits = with_hits(&nl, &de, 1).await;
    let before = made(&auditor.entries(&sandbox).await);
    let mut opening = nl.opening(Phone);
    opening.purpose = 0;
    nl.open(opening).await.expect_err("no purpose");
    let confirmed = nl.decide(&hits[0], HitDecision::Confirm).await;
    confirmed.expect_err("not under review");
    let operator = sandbox.operator();
    operator.enrol("nl-fiu").await.expect_err("it is enrolled");
    let suspended = operator.suspend("de-bka", " ").await;
    suspended.expect_err("no reason");
    de.end_epoch(1).await.expect_err("not the custodian");
    nl.submit_keys().await.expect("the same again");
    nl.join_epoch(1).await.expect("the same again");
    let after = auditor.entries(&sandbox).await;
    assert_eq!(made(&after), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn each_reading_by_an_operator_or_an_auditor_is_logged_and_none_by_a_node() {
    let (sandbox, [nl, _de, _fr]) = Sandbox::with_nodes(MEMBERS).await;
    let mut auditor = Auditor::of(&sandbox);
    read_everything(&sandbox, &auditor).await;
    nl.limits().await.expect("its own");
    nl.hits().await.expect("its own");
    let request = v1::ListQuarantineRequest {
        community: COMMUNITY.into(),
    };
    let mut service = HitServiceClient::new(auditor.channel.clone());
    let refused = service.list_quarantine(request).await;
    refused.expect_err("for operators");

    let read = auditor.entries(&sandbox).await;
    let readings = of(&read, Action::Read);
    for (call, role) in [
        ("MembershipService/GetCommunity", Role::Operator),
        ("MembershipService/ListNodes", Role::Operator),
        ("MembershipService/GetLimits", Role::Operator),
        ("MembershipService/ListEpochs", Role::Operator),
        ("HitService/ListHitStatistics", Role::Operator),
        ("HitService/ListQuarantine", Role::Operator),
        ("FollowUpService/ListFollowUpStatistics", Role::Auditor),
        ("FollowUpService/ListPresenceRates", Role::Auditor),
    ] {
        let of_call = readings.iter().filter(|entry| entry.detail == call);
        let by: Vec<_> = of_call.map(|entry| entry.actor.role()).collect();
        assert_eq!(by, [role], "{call}");
    }
    assert!(readings.iter().all(|entry| entry.actor.node().is_none()));
}

/// Calls once whatever an operator or an auditor reads, but for the log.
async fn read_everything(sandbox: &Sandbox, auditor: &Auditor) {
    let operator = sandbox.operator();
    let mut service = operator.membership();
    let community = || COMMUNITY.to_owned();
    let request = v1::GetCommunityRequest {
        community: community(),
    };
    service.get_community(request).await.expect("read");
    let request = v1::ListNodesRequest {
        community: community(),
    };
    service.list_nodes(request).await.expect("read");
    let request = v1::GetLimitsRequest {
        community: community(),
        node_id: "nl-fiu".into(),
    };
    service.get_limits(request).await.expect("read");
    let request = v1::ListEpochsRequest {
        community: community(),
    };
    service.list_epochs(request).await.expect("read");
    operator.hit_statistics(None).await.expect("read");
    operator.quarantine().await.expect("read");
    let mut service = FollowUpServiceClient::new(auditor.channel.clone());
    let request = v1::ListFollowUpStatisticsRequest {
        community: community(),
        ..Default::default()
    };
    let read = service.list_follow_up_statistics(request).await;
    read.expect("read");
    let request = v1::ListPresenceRatesRequest {
        community: community(),
        since: None,
    };
    service.list_presence_rates(request).await.expect("read");
}
