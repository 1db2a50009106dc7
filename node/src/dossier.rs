//! The dossier of one follow-up: a page for a case file, that stands alone and prints on A4.
//!
//! Nothing in it is active or comes from elsewhere, and every text is escaped: those of the other
//! side are not to act in a browser. What it says is personal data.

mod page;
mod steps;

use std::collections::BTreeMap;

use sotto_common::error::Result;
use sotto_common::log::merkle::TreeHead;
use sotto_common::time::Timestamp;
use sotto_proto::{convert, v1};

use page::Page;
pub(crate) use steps::{evaluation, tlp};

/// What the audit log proves of a follow-up.
#[derive(Default, Debug)]
pub(crate) struct InLog {
    /// Under which checkpoint: of which log, and its size and root.
    pub(crate) checkpoint: Option<(String, TreeHead)>,
    /// The leaves of its steps, by their numbers.
    pub(crate) steps: BTreeMap<u32, u64>,
    /// The leaf of its hit.
    pub(crate) hit: Option<u64>,
}

impl InLog {
    /// A leaf in words; empty if there is none.
    fn leaf(&self, leaf: Option<u64>) -> String {
        match (leaf, &self.checkpoint) {
            (Some(leaf), Some((_, head))) => {
                format!("leaf {leaf}, under the checkpoint of {} leaves", head.size)
            }
            _ => String::new(),
        }
    }
}

/// The dossier of a follow-up, as it is known at `made_at`: first what it is, then its steps in the
/// order in which they were taken.
///
/// Contents are in it as far as the view has them.
pub(crate) fn html(
    view: &v1::GetNodeFollowUpResponse,
    in_log: &InLog,
    made_at: Timestamp,
) -> String {
    let node = view.follow_up.clone().unwrap_or_default();
    let follow_up = node.follow_up.clone().unwrap_or_default();
    let id = page::uuid(&follow_up.follow_up_id);
    let mut page = Page::begin(&format!("Follow-up {id}"));
    page.heading(1, "Dossier of a follow-up");
    notice(&mut page, &strictest_handling(view), follow_up.erased);
    header(&mut page, &node, &follow_up, in_log, made_at);
    if !node.alarm.is_empty() {
        page.warning(&format!("Alarm: {}", node.alarm));
    }
    page.heading(2, "What happened");
    if view.steps.is_empty() {
        page.paragraph("No step has been taken yet.");
    }
    for step in &view.steps {
        let leaf = in_log.leaf(in_log.steps.get(&step.seq).copied());
        steps::section(&mut page, step, &leaf);
    }
    if let Some(proposal) = &node.proposal {
        steps::proposal(&mut page, proposal);
    }
    own_records(&mut page, &node.records);
    related(&mut page, &view.related);
    page.end()
}

/// How the page itself is to be handled.
fn notice(page: &mut Page, handling: &[String], erased: bool) {
    let codes = if handling.is_empty() {
        "the codes of its items".to_owned()
    } else {
        format!("its codes ({})", handling.join(", "))
    };
    page.warning(&format!(
        "This dossier holds personal data: pseudonymised as far as it stands for a selector by its \
         tag or id, and in clear where contents are shown. Handle it by {codes}, for the purpose \
         and within the restrictions that are given below, and delete it by the retention limits \
         of the items."
    ));
    if erased {
        page.paragraph(
            "What was sealed has been erased here, after the retention time, and the signed \
             statements with it: where no leaf of the audit log is named, nothing proves the steps \
             below any more but the word of this node.",
        );
    }
}

/// Every handling code of the answer, once each.
fn strictest_handling(view: &v1::GetNodeFollowUpResponse) -> Vec<String> {
    let mut codes = std::collections::BTreeSet::new();
    for step in &view.steps {
        if let Some(clear) = &step.clear
            && clear.handling_code != 0
        {
            codes.insert(page::code(
                clear.handling_code().as_str_name(),
                "HANDLING_CODE_",
            ));
        }
        if let Some(v1::node_follow_up_step::Content::Answer(answer)) = &step.content {
            for item in &answer.items {
                let name = item.handling_code().as_str_name();
                codes.insert(page::code(name, "HANDLING_CODE_"));
            }
        }
    }
    codes.into_iter().map(str::to_owned).collect()
}

fn header(
    page: &mut Page,
    node: &v1::NodeFollowUp,
    follow_up: &v1::FollowUp,
    in_log: &InLog,
    made_at: Timestamp,
) {
    let side = match node.side() {
        v1::FollowUpParty::Requester => &follow_up.requester,
        _ => &follow_up.holder,
    };
    let state = page::code(follow_up.state().as_str_name(), "FOLLOW_UP_STATE_");
    page.heading(2, "The follow-up");
    page.begin_fields();
    page.field("Follow-up", &page::uuid(&follow_up.follow_up_id));
    page.field("Community", &follow_up.community);
    page.field("Asked by", &follow_up.requester);
    page.field("Asked of", &follow_up.holder);
    page.field("Hit", &page::uuid(&follow_up.hit_id));
    page.field("The hit in the audit log", &in_log.leaf(in_log.hit));
    page.field("Epoch", &follow_up.epoch.to_string());
    page.field("Selector type", &follow_up.policy);
    let matched = format!(
        "filter version {}, at {}",
        follow_up.filter_version,
        time(convert::timestamp("at", follow_up.matched_at)),
    );
    page.field("Matched last", &matched);
    page.field("Case here", &node.case_ref);
    page.coded("State", state);
    let presence = page::code(node.presence().as_str_name(), "PRESENCE_STATE_");
    if node.presence() != v1::PresenceState::Unspecified {
        page.coded("Presence", presence);
    }
    steps::terms(page, follow_up.terms.as_ref());
    clock(page, follow_up);
    for (name, at) in [
        ("Submitted", follow_up.submitted_at),
        ("Particulars received", follow_up.received_at),
        ("Answered, refused or withdrawn", follow_up.ended_at),
        ("Closed", follow_up.closed_at),
    ] {
        if at.is_some() {
            page.field(name, &time(convert::timestamp("at", at)));
        }
    }
    if let Some((origin, head)) = &in_log.checkpoint {
        let checkpoint = format!("{} leaves of {origin}, root {}", head.size, head.root);
        page.field("Checkpoint of the audit log", &checkpoint);
    }
    page.field("Dossier made", &format!("{made_at}, at {side}"));
    page.end_fields();
}

fn clock(page: &mut Page, follow_up: &v1::FollowUp) {
    let Some(clock) = &follow_up.clock else {
        return;
    };
    if clock.due_at.is_some() {
        let due = time(convert::timestamp("at", clock.due_at));
        page.field("Time limit ends", &due);
    } else if follow_up.ended_at.is_none() {
        page.field(
            "Time limit",
            "stands still, until the requester has replied",
        );
    }
    if follow_up.overdue {
        page.field("Overdue", "the time limit was exceeded");
    }
}

fn own_records(page: &mut Page, records: &[v1::OwnRecord]) {
    if records.is_empty() {
        return;
    }
    page.heading(2, "This node's own records");
    page.begin_table(&["Dataset", "Record", "Selector"]);
    for record in records {
        page.row(&[&record.dataset, &record.record_id, &record.canonical]);
    }
    page.end_table();
}

fn related(page: &mut Page, related: &[v1::RelatedFollowUp]) {
    if related.is_empty() {
        return;
    }
    page.heading(2, "Other follow-ups on the same selector");
    page.begin_table(&["Follow-up", "This node is", "With", "State", "Begun"]);
    for other in related {
        let side = page::code(other.side().as_str_name(), "FOLLOW_UP_PARTY_");
        let state = page::code(other.state().as_str_name(), "FOLLOW_UP_STATE_");
        page.row(&[
            &page::uuid(&other.follow_up_id),
            &page::words(side),
            &other.counterpart,
            &page::words(state),
            &time(convert::timestamp("at", other.begun_at)),
        ]);
    }
    page.end_table();
}

fn time(at: Result<Timestamp>) -> String {
    at.map_or_else(|_| "not known".into(), |at| at.to_string())
}

#[cfg(test)]
mod tests;
