//! Follow-ups, their steps, events and files.

use sotto_common::followup::clock::LimitClock;
use sotto_common::followup::codes::{Item, RefusalGround, TimeLimit, UrgencyGround};
use sotto_common::followup::record::{FollowUp, Milestones};
use sotto_common::followup::step::{ItemOutcome, Outcomes, Terms};
use sotto_common::followup::{FollowUpState, Party};
use sotto_common::ids::{AttachmentId, FollowUpId};

use super::*;
use crate::objects::{ObjectKey, ObjectOwner};

const HOUR: Duration = Duration::from_hours(1);

/// Three nodes ask one another; a follow-up of the first at the second, submitted at a time.
fn record(hit: &HitRecord, submitted: Timestamp) -> FollowUpRecord {
    let items = vec![Item::Identity, Item::Vehicles];
    let ground = Some(UrgencyGround::ThreatToLife);
    let follow_up = FollowUp {
        id: FollowUpId::generate(submitted, &mut os_rng()),
        community: community(),
        hit: hit.id,
        requester: hit.prober.clone(),
        holder: hit.holder.clone(),
        terms: Terms::new(TimeLimit::UrgentDirect, ground, "A.1", items).expect("terms"),
        state: FollowUpState::Submitted,
        next_seq: 1,
        last_body: [9; 32],
        clock: None,
        outcomes: None,
        milestones: Milestones {
            submitted: Some(submitted),
            ..Milestones::default()
        },
    };
    FollowUpRecord {
        follow_up,
        key: key(),
        filter_version: 4,
        matched_at: NOW,
        posterior: 0.75,
        presence: None,
        statement_bytes: 7,
        reminder: None,
        erased: false,
    }
}

/// A community, an epoch, and a follow-up of `nl-fiu` at each of these holders, an hour apart.
async fn put_follow_ups(store: &Datastore, holders: &[&str]) -> Vec<FollowUpRecord> {
    put_community(store).await;
    put_epoch(store, &epoch_record(1)).await;
    let mut records = Vec::new();
    for (number, holder) in (0..).zip(holders) {
        let hit = &hits::hit(number, holder, HitState::FollowedUp, NOW);
        tx!(store, tx => tx.put_hits(from_ref(hit)).await);
        let record = &record(hit, NOW.plus(HOUR * number.into()));
        tx!(store, tx => tx.put_follow_up(record).await);
        records.push(record.clone());
    }
    records
}

async fn update(store: &Datastore, record: &FollowUpRecord) {
    tx!(store, tx => tx.update_follow_up(record).await);
}

fn ids(records: &[FollowUpRecord]) -> Vec<FollowUpId> {
    records.iter().map(|record| record.follow_up.id).collect()
}

/// A follow-up in which everything has happened.
fn everything(record: &FollowUpRecord) -> FollowUpRecord {
    let refused = ItemOutcome::Refused(RefusalGround::MinorOffence);
    let pending = ItemOutcome::Pending(NOW.plus(HOUR));
    let outcomes = vec![(Item::Identity, refused), (Item::Vehicles, pending)];
    let mut full = record.clone();
    let clock = LimitClock::start(HOUR * 8, NOW);
    full.follow_up.state = FollowUpState::Answered;
    full.follow_up.next_seq = 5;
    full.follow_up.last_body = [8; 32];
    full.follow_up.clock = Some(clock.stop(NOW.plus(HOUR * 9)));
    full.follow_up.outcomes = Some(Outcomes::new(outcomes).expect("outcomes"));
    full.follow_up.milestones = Milestones {
        received: Some(NOW.plus(HOUR)),
        delayed: Some(NOW.plus(HOUR * 2)),
        ended: Some(NOW.plus(HOUR * 3)),
        closed: Some(NOW.plus(HOUR * 4)),
        overdue: true,
        ..record.follow_up.milestones
    };
    FollowUpRecord {
        presence: Some(Presence::Held),
        statement_bytes: 99,
        reminder: Some((80, NOW.plus(HOUR))),
        erased: true,
        ..full
    }
}

pub(super) async fn a_follow_up_comes_back_as_its_steps_have_made_it(store: &Datastore) {
    let records = put_follow_ups(store, &["de-bka"]).await;
    let id = records[0].follow_up.id;
    let get = async |id| tx!(store, tx => tx.get_follow_up(id).await);
    assert_eq!(get(id).await.as_ref(), Some(&records[0]));
    let mut full = everything(&records[0]);
    update(store, &full).await;
    assert_eq!(get(id).await.as_ref(), Some(&full));
    // A clock in each of its ways: early, late, running, none.
    let clock = LimitClock::start(HOUR * 8, NOW);
    for clock in [Some(clock.stop(NOW.plus(HOUR))), Some(clock), None] {
        full.follow_up.clock = clock;
        full.presence = Some(Presence::NotHeld);
        update(store, &full).await;
        assert_eq!(get(id).await.as_ref(), Some(&full));
    }
    let other = FollowUpId::generate(NOW, &mut os_rng());
    assert_eq!(get(other).await, None);
}

pub(super) async fn follow_ups_are_listed_by_party_state_and_page(store: &Datastore) {
    let mut records = put_follow_ups(store, &["de-bka", "fr-pj", "de-bka"]).await;
    records[2].follow_up.state = FollowUpState::Received;
    update(store, &records[2]).await;
    let all = ids(&records);
    let community = &community();
    let list = async |name: &str, party, state, after, limit| {
        let (node, filter) = (&node(name), &FollowUpFilter { party, state });
        let work = tx!(store, tx => tx.get_follow_ups(community, node, filter, after, limit).await);
        ids(&work)
    };
    assert_eq!(list("nl-fiu", None, None, None, 9).await, all);
    let first = Some((NOW, all[0]));
    assert_eq!(list("nl-fiu", None, None, first, 1).await, [all[1]]);
    let (requester, holder) = (Some(Party::Requester), Some(Party::Holder));
    assert_eq!(list("nl-fiu", requester, None, None, 9).await, all);
    assert_eq!(list("nl-fiu", holder, None, None, 9).await, []);
    assert_eq!(
        list("de-bka", holder, None, None, 9).await,
        [all[0], all[2]]
    );
    let received = Some(FollowUpState::Received);
    assert_eq!(list("de-bka", None, received, None, 9).await, [all[2]]);
    assert_eq!(list("it-dia", None, None, None, 9).await, []);
}

pub(super) async fn open_follow_ups_are_counted_by_pair(store: &Datastore) {
    let mut records = put_follow_ups(store, &["de-bka", "fr-pj", "de-bka"]).await;
    let (community, nl, de) = (&community(), &node("nl-fiu"), &node("de-bka"));
    let open = async |requester, holder| tx!(store, tx => tx.count_open_follow_ups(community, requester, holder).await);
    assert_eq!((open(nl, de).await, open(de, nl).await), (2, 0));
    for &state in FollowUpState::ALL {
        records[0].follow_up.state = state;
        update(store, &records[0]).await;
        let expected = 1 + u64::from(records[0].follow_up.is_open());
        assert_eq!(open(nl, de).await, expected, "{state}");
    }
}

pub(super) async fn what_was_submitted_is_found_by_range_and_party(store: &Datastore) {
    let records = put_follow_ups(store, &["de-bka", "fr-pj", "de-bka"]).await;
    let all = ids(&records);
    let (community, de) = (&community(), &node("de-bka"));
    let found = async |range, limit| {
        ids(&tx!(store, tx => tx.get_submitted_follow_ups(community, range, limit).await))
    };
    let whole = FollowUpRange::default();
    assert_eq!(found(whole, 9).await, all);
    assert_eq!(found(whole, 2).await, all[..2]);
    let party = Some(de);
    assert_eq!(
        found(FollowUpRange { party, ..whole }, 9).await,
        [all[0], all[2]]
    );
    let (from, to) = (Some(NOW.plus(HOUR)), Some(NOW.plus(HOUR * 2)));
    assert_eq!(found(FollowUpRange { from, ..whole }, 9).await, all[1..]);
    assert_eq!(found(FollowUpRange { to, ..whole }, 9).await, all[..2]);
    assert_eq!(
        found(FollowUpRange { from, to, ..whole }, 9).await,
        [all[1]]
    );
}

pub(super) async fn presence_is_counted_by_holder_and_policy(store: &Datastore) {
    let mut records = put_follow_ups(store, &["de-bka", "fr-pj", "de-bka", "de-bka"]).await;
    for (record, presence) in records.iter_mut().zip([
        Some(Presence::Held),
        Some(Presence::NotHeld),
        Some(Presence::NotHeld),
        None,
    ]) {
        record.presence = presence;
        update(store, record).await;
    }
    let community = &community();
    let counts = async |since| tx!(store, tx => tx.get_presence_counts(community, since).await);
    let of = |holder, checked, not_held, expected| PresenceCount {
        holder: node(holder),
        policy: Policy::Phone,
        checked,
        not_held,
        expected,
    };
    let all = [of("de-bka", 2, 1, 0.5), of("fr-pj", 1, 1, 0.25)];
    assert_eq!(counts(None).await, all);
    let late = counts(Some(NOW.plus(HOUR * 2))).await;
    assert_eq!(late, [of("de-bka", 1, 1, 0.25)]);
}

pub(super) async fn time_finds_what_is_to_be_reminded_closed_and_erased(store: &Datastore) {
    let mut records = put_follow_ups(store, &["de-bka", "fr-pj", "it-dia"]).await;
    let at = |hours: u32| NOW.plus(HOUR * hours);
    for (record, hours) in records.iter_mut().zip([2, 1]) {
        record.reminder = Some((50, at(hours)));
        update(store, record).await;
    }
    let due = async |now, limit| ids(&tx!(store, tx => tx.get_due_reminders(now, limit).await));
    let all = ids(&records);
    assert_eq!(due(at(2), 9).await, [all[1], all[0]]);
    assert_eq!(due(at(2), 1).await, [all[1]]);
    assert_eq!(due(at(1), 9).await, [all[1]]);
    assert_eq!(due(NOW, 9).await, []);

    let ended = async |until| ids(&tx!(store, tx => tx.get_ended_follow_ups(until, 9).await));
    for (record, state) in records.iter_mut().zip([
        FollowUpState::Refused,
        FollowUpState::Closed,
        FollowUpState::Accepted,
    ]) {
        record.follow_up.state = state;
        record.follow_up.milestones.ended = Some(at(3));
        update(store, record).await;
    }
    assert_eq!(ended(at(3)).await, [all[0]]);
    assert_eq!(ended(at(2)).await, []);

    let (community, epoch) = (&community(), number(1));
    let epochs = async || tx!(store, tx => tx.get_epochs_with_payloads().await).len();
    let closed = async |until| {
        ids(&tx!(store, tx => tx.get_closed_follow_ups(community, epoch, until, 9).await))
    };
    records[1].follow_up.milestones.closed = Some(at(4));
    update(store, &records[1]).await;
    assert_eq!((epochs().await, closed(at(4)).await), (1, vec![all[1]]));
    assert_eq!(closed(at(3)).await, []);
    records[1].erased = true;
    update(store, &records[1]).await;
    assert_eq!((epochs().await, closed(at(4)).await), (0, vec![]));
}

pub(super) async fn steps_keep_their_clear_part_when_statements_are_erased(store: &Datastore) {
    let records = put_follow_ups(store, &["de-bka", "fr-pj"]).await;
    let step = |record: &FollowUpRecord, seq: u32| StepRecord {
        follow_up: record.follow_up.id,
        seq,
        body: [7; 32],
        clear: vec![1, 2],
        envelope: Some(vec![3, 4]),
        taken_at: NOW.plus(HOUR),
    };
    let mut steps = [1, 0].map(|seq| step(&records[0], seq));
    let other = step(&records[1], 0);
    for step in steps.iter().chain([&other]) {
        tx!(store, tx => tx.put_step(step).await);
    }
    steps.reverse();
    let id = records[0].follow_up.id;
    let get = async || tx!(store, tx => tx.get_steps(id).await);
    assert_eq!(get().await, steps);
    let one = async |seq| tx!(store, tx => tx.get_step(id, seq).await);
    assert_eq!(one(1).await.as_ref(), Some(&steps[1]));
    assert_eq!(one(2).await, None);
    tx!(store, tx => tx.delete_statements(id).await);
    for step in &mut steps {
        step.envelope = None;
    }
    assert_eq!(get().await, steps);
    let kept = tx!(store, tx => tx.get_steps(other.follow_up).await);
    assert_eq!(kept, std::slice::from_ref(&other));
}

pub(super) async fn events_of_follow_ups_have_a_cursor_for_each_node(store: &Datastore) {
    let records = put_follow_ups(store, &["de-bka"]).await;
    let (community, id) = (&community(), records[0].follow_up.id);
    let (nl, de) = (&node("nl-fiu"), &node("de-bka"));
    let last = async |node| tx!(store, tx => tx.get_last_follow_up_cursor(community, node).await);
    assert_eq!(last(nl).await, 0);
    let events = [
        FollowUpEvent::Step(3),
        FollowUpEvent::Reminder(80),
        FollowUpEvent::Closed(NOW),
        FollowUpEvent::Erased(NOW.plus(HOUR)),
    ];
    for (cursor, event) in (1..).zip(events) {
        let given = tx!(store, tx => tx.put_follow_up_event(community, nl, id, event).await);
        assert_eq!(given, cursor);
    }
    tx!(store, tx => tx.put_follow_up_event(community, de, id, events[0]).await);
    assert_eq!((last(nl).await, last(de).await), (4, 1));
    let after = async |node, cursor, limit| {
        let found = tx!(store, tx => tx.get_follow_up_events(community, node, cursor, limit).await);
        assert!(found.iter().all(|event| event.follow_up == id));
        found
            .into_iter()
            .map(|event| (event.cursor, event.event))
            .collect::<Vec<_>>()
    };
    let all: Vec<_> = (1..).zip(events).collect();
    assert_eq!(after(nl, 0, 9).await, all);
    assert_eq!(after(nl, 2, 1).await, all[2..3]);
    assert_eq!(after(de, 0, 9).await, all[..1]);
    assert_eq!(after(de, 1, 9).await, []);
}

pub(super) async fn a_file_is_its_chunks_in_order_under_a_later_key_too(store: &Datastore) {
    let records = put_follow_ups(store, &["de-bka", "fr-pj"]).await;
    let owner = records[0].follow_up.id;
    let file = &AttachmentRecord {
        follow_up: owner,
        id: AttachmentId::generate(NOW, &mut os_rng()),
        clear: vec![1],
        suite: (0x20, 1, 3),
        enc: vec![2; 32],
        digest: [3; 32],
        sealed_size: 12,
        whole: false,
        answered: false,
    };
    // The same id under another follow-up is another file.
    let twin = &AttachmentRecord {
        follow_up: records[1].follow_up.id,
        ..file.clone()
    };
    for file in [file, twin] {
        tx!(store, tx => tx.put_attachment(file).await);
    }
    let id = file.id;
    let length = async || tx!(store, tx => tx.get_attachment_length(owner, id).await);
    assert_eq!(length().await, 0);
    let chunks = [(0, 5), (5, 7)].map(|(start, length)| AttachmentChunk {
        start,
        length,
        object: ObjectKey::of(ObjectOwner::FollowUp(owner), &mut os_rng()),
    });
    for chunk in &chunks {
        tx!(store, tx => tx.put_attachment_chunk(owner, id, chunk).await);
    }
    assert_eq!(length().await, 12);
    let kept =
        async |store: &Datastore| tx!(store, tx => tx.get_attachment_chunks(owner, id).await);
    assert_eq!(kept(store).await, chunks);
    // Rotated.
    let (first, second) = (KEYS[0], KEYS[1]);
    let under = |keys: &[&str]| Datastore {
        cipher: cipher(keys),
        ..store.clone()
    };
    let both = &under(&[second, first]);
    let seals = async || tx!(both, tx => tx.update_attachment_seals(1).await);
    assert_eq!((seals().await, seals().await, seals().await), (1, 1, 0));
    let store = &under(&[second]);
    assert_eq!(kept(store).await, chunks);

    let file = &AttachmentRecord {
        whole: true,
        answered: true,
        ..file.clone()
    };
    tx!(store, tx => tx.update_attachment(file).await);
    let get = async |owner| tx!(store, tx => tx.get_attachment(owner, id).await);
    assert_eq!(get(owner).await.as_ref(), Some(file));
    assert_eq!(get(twin.follow_up).await.as_ref(), Some(twin));
    let listed = tx!(store, tx => tx.get_attachments(owner).await);
    assert_eq!(listed, std::slice::from_ref(file));
    tx!(store, tx => tx.delete_attachment_chunks(owner, id).await);
    assert_eq!(kept(store).await, []);
    tx!(store, tx => tx.delete_attachment(owner, id).await);
    assert_eq!(get(owner).await, None);
    assert_eq!(get(twin.follow_up).await.as_ref(), Some(twin));
}
