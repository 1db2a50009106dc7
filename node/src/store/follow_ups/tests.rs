use std::path::Path;

use sotto_common::error::ErrorCode;
use sotto_common::followup::codes::{Item, TimeLimit};
use sotto_common::followup::step::{StepDetail, Terms};
use sotto_common::ids::AttachmentId;
use sotto_common::random::os_rng;
use sotto_common::secret::{Confidential, Secret};
use sotto_common::selector::Policy;
use sotto_common::service::at_rest::ColumnCipher;

use super::*;
use crate::store::testing::{self, key_list};

const SECRETS: [&str; 7] = [
    "hidden@example.test",
    "hidden record",
    "hidden facts",
    "hidden question",
    "hidden reason",
    "hidden file.pdf",
    "hidden digest of 32 bytes in all",
];

fn keeper() -> Keeper {
    Keeper {
        node: "nl-fiu".parse().unwrap(),
        community: "euro-cyber".parse().unwrap(),
    }
}

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_seconds(seconds)
}

/// A follow-up with something in every column.
fn whole() -> LocalFollowUp {
    let mut follow_up = LocalFollowUp {
        id: FollowUpId::generate(at(1), &mut os_rng()),
        side: Party::Requester,
        hit: HitId::generate(at(1), &mut os_rng()),
        community: keeper().community,
        own: keeper().node,
        counterpart: "de-bka".parse().unwrap(),
        epoch: Epoch::new(1).unwrap(),
        policy: Policy::Email,
        filter_version: 3,
        matched_at: at(1),
        case_ref: "case-1".into(),
        canonical: Some(Selector::new(SECRETS[0])),
        records: vec![OwnRecord {
            dataset: "wanted".into(),
            record_id: SECRETS[1].into(),
        }],
        particulars: Some(Zeroizing::new(SECRETS[2].into())),
        presence: Presence::Open,
        alarm: "look at it".into(),
        unread: true,
        begun_at: at(1),
        withdrawn_at: None,
        closed_by_time: None,
        erased_at: None,
        steps: Vec::new(),
        proposal: Some(Proposal {
            id: ProposalId::generate(at(1), &mut os_rng()),
            step: FollowUpStep::Reply,
            draft: v1::FollowUpDraft {
                message: SECRETS[3].into(),
                ..Default::default()
            },
            drafters: vec!["person sotto.test/alice".into()],
            drafted_by: "alice".into(),
            drafted_at: at(1),
        }),
        news: vec![
            News::Proposed(FollowUpStep::Submit),
            News::Discarded(FollowUpStep::Submit, "bob".into(), SECRETS[4].into()),
        ],
        refused: Vec::new(),
    };
    let terms = Terms::new(TimeLimit::Ordinary, None, "A.1", vec![Item::Identity]);
    let clear = follow_up.next_clear(StepDetail::Submit(terms.unwrap()), at(2));
    let clear = clear.unwrap();
    follow_up.steps.push(Step {
        clear_bytes: v1::FollowUpClear::from(&clear).encode_to_vec(),
        clear,
        digest: [1; 32],
        envelope: Some(v1::DsseEnvelope::default()),
        content: Some(Zeroizing::new(SECRETS[2].into())),
        taken_at: None,
        drafted_by: "alice".into(),
        approved_by: "bob".into(),
    });
    follow_up
}

/// A file of an answer, with something in every column.
fn file(follow_up: FollowUpId) -> StoredAttachment {
    StoredAttachment {
        id: AttachmentId::generate(at(2), &mut os_rng()),
        follow_up,
        size: 9,
        name: Confidential::new(SECRETS[5]),
        clear: vec![1],
        enc: vec![2],
        digest: [3; 32],
        content_digest: Some(content_digest()),
        given_by: vec!["person sotto.test/carol".into()],
        uploaded: false,
    }
}

fn content_digest() -> Secret<32> {
    Secret::from_slice(SECRETS[6].as_bytes()).unwrap()
}

async fn stored(dir: &Path, cipher: ColumnCipher) -> (Store, LocalFollowUp) {
    let store = Store::open(&dir.join("node.db"), cipher).await.unwrap();
    let follow_up = whole();
    let cursor = store.put_follow_up(&follow_up, at(3)).await.unwrap();
    assert_eq!(cursor, 2);
    let file = file(follow_up.id);
    let added = change(&store, &follow_up, put(&file), |_| Ok(()));
    added.await.unwrap();
    (store, follow_up)
}

/// One file more.
const fn put(file: &StoredAttachment) -> FileChange<'_> {
    FileChange::Put {
        file,
        instead_of: &[],
    }
}

/// Changes the files of a follow-up, if what they will be is found good.
async fn change(
    store: &Store,
    follow_up: &LocalFollowUp,
    change: FileChange<'_>,
    check: impl Fn(&[StoredAttachment]) -> Result<()> + Send + Sync,
) -> Result<()> {
    let work = |_: &mut LocalFollowUp, files: &[StoredAttachment]| check(files);
    let (keeper, change) = (keeper(), Some(change));
    let changed = store.change_with_files(&keeper, follow_up.id, at(4), change, &work);
    changed.await.map(drop)
}

async fn same(store: &Store, follow_up: &LocalFollowUp) {
    let read = store.follow_up(&keeper(), follow_up.id).await.unwrap();
    let read = read.expect("stored");
    assert_eq!(read.canonical, follow_up.canonical);
    assert_eq!(read.records, follow_up.records);
    assert_eq!(read.particulars, follow_up.particulars);
    assert_eq!(read.steps[0].clear, follow_up.steps[0].clear);
    assert_eq!(read.steps[0].content, follow_up.steps[0].content);
    let (read, wrote) = (read.proposal.unwrap(), follow_up.proposal.as_ref().unwrap());
    assert_eq!((read.id, &read.draft), (wrote.id, &wrote.draft));
    assert_eq!(read.drafters, wrote.drafters);
    let discards = store.follow_up_discards(follow_up.id).await.unwrap();
    assert_eq!(discards[0].1, SECRETS[4]);
    let files = store.attachments(follow_up.id).await.unwrap();
    assert_eq!(files[0].name.expose(), SECRETS[5]);
    assert_eq!(files[0].content_digest, Some(content_digest()));
}

#[tokio::test]
async fn everything_comes_back_as_it_was_stored() {
    let dir = tempfile::tempdir().unwrap();
    let (store, follow_up) = stored(dir.path(), testing::cipher(dir.path())).await;
    same(&store, &follow_up).await;
    let found = store
        .follow_ups_on(Policy::Email, &Selector::new(SECRETS[0]))
        .await;
    assert_eq!(found.unwrap(), [follow_up.id]);
    let others = store
        .follow_ups_on(Policy::Phone, &Selector::new(SECRETS[0]))
        .await;
    assert!(others.unwrap().is_empty());
}

#[tokio::test]
async fn a_change_that_is_refused_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (store, follow_up) = stored(dir.path(), testing::cipher(dir.path())).await;
    let refuse = |f: &mut LocalFollowUp| {
        f.alarm = "another".into();
        f.steps.clear();
        Err(Error::new(ErrorCode::SamePerson, "no"))
    };
    let changed = store
        .change_follow_up(&keeper(), follow_up.id, at(4), &refuse)
        .await;
    assert_eq!(changed.err().unwrap().code, ErrorCode::SamePerson);
    same(&store, &follow_up).await;
    let unknown = FollowUpId::generate(at(9), &mut os_rng());
    let changed = store
        .change_follow_up(&keeper(), unknown, at(4), &|_| Ok(()))
        .await;
    assert_eq!(changed.err().unwrap().code, ErrorCode::FollowUpUnknown);
}

#[tokio::test]
async fn the_file_holds_no_word_of_what_is_sealed() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = stored(dir.path(), testing::cipher(dir.path())).await;
    store.close().await;
    for entry in std::fs::read_dir(dir.path()).unwrap() {
        let path = entry.unwrap().path();
        let Ok(bytes) = std::fs::read(&path) else {
            continue;
        };
        for secret in SECRETS {
            let found = bytes.windows(secret.len()).any(|w| w == secret.as_bytes());
            assert!(!found, "{} in {}", secret, path.display());
        }
    }
}

#[tokio::test]
async fn everything_is_sealed_anew_under_the_first_key_of_the_list() {
    let dir = tempfile::tempdir().unwrap();
    let line = || ColumnCipher::generate_line(&mut os_rng());
    let (old, new) = (line(), line());
    let (store, follow_up) = stored(dir.path(), key_list(dir.path(), &[&old])).await;
    store.close().await;
    let both = key_list(dir.path(), &[&new, &old]);
    let store = Store::open(&dir.path().join("node.db"), both)
        .await
        .unwrap();
    assert!(store.begin_renewal().await.unwrap());
    store.finish_renewal().await.unwrap();
    store.close().await;
    let store = Store::open(&dir.path().join("node.db"), key_list(dir.path(), &[&new]))
        .await
        .unwrap();
    same(&store, &follow_up).await;
}

#[tokio::test]
async fn files_come_and_go_with_what_is_made_of_them_or_not_at_all() {
    let dir = tempfile::tempdir().unwrap();
    let (store, follow_up) = stored(dir.path(), testing::cipher(dir.path())).await;
    let before = store.attachments(follow_up.id).await.unwrap();
    let first = before[0].id;
    let refuse = |_: &[StoredAttachment]| Err(Error::new(ErrorCode::FollowUpMismatch, "no"));
    let second = StoredAttachment {
        content_digest: None,
        ..file(follow_up.id)
    };
    for refused in [put(&second), FileChange::Delete(first)] {
        let changed = change(&store, &follow_up, refused, refuse).await;
        assert_eq!(changed.unwrap_err().code, ErrorCode::FollowUpMismatch);
        let files = store.attachments(follow_up.id).await.unwrap();
        assert_eq!(files, before);
    }
    let gone = FileChange::Delete(second.id);
    let gone = change(&store, &follow_up, gone, |_| Ok(())).await;
    assert_eq!(gone.unwrap_err().code, ErrorCode::AttachmentUnknown);
    let see = |count: usize, files: &[StoredAttachment]| {
        assert_eq!(files.len(), count);
        Ok(())
    };
    let added = change(&store, &follow_up, put(&second), |files| see(2, files));
    added.await.unwrap();
    let gone = FileChange::Delete(first);
    let gone = change(&store, &follow_up, gone, |files| see(1, files)).await;
    gone.unwrap();
    let files = store.attachments(follow_up.id).await.unwrap();
    assert_eq!(files, std::slice::from_ref(&second));
    // One in place of another, and of one that is gone already.
    let third = file(follow_up.id);
    let instead = FileChange::Put {
        file: &third,
        instead_of: &[second.id, first],
    };
    let instead = change(&store, &follow_up, instead, |files| see(1, files));
    instead.await.unwrap();
    let files = store.attachments(follow_up.id).await.unwrap();
    assert_eq!(files, [third]);
}
