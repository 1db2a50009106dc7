//! Files that go with an answer.

use sotto_common::followup::attachment::SEGMENT;

use super::*;
use crate::datastore::AttachmentChunk;
use crate::objects::ObjectOwner;

#[tokio::test]
async fn a_file_whose_upload_was_cut_off_at_its_end_is_whole_at_the_next_call() {
    let world = World::new().await;
    let mut follow = world.received().await;
    follow
        .take(&world, StepDetail::Accept)
        .await
        .expect("taken");
    let file = File::new(&follow, SEGMENT);
    file.announce(&world).await.expect("announced");
    // As after a crash between the last acknowledgement and the comparison.
    let chunk = &AttachmentChunk {
        start: 0,
        length: file.sealed.len() as u64,
        object: ObjectKey::of(ObjectOwner::FollowUp(follow.id), &mut os_rng()),
    };
    let stored = world
        .broker
        .objects
        .put(&chunk.object, file.sealed.clone().into());
    stored.await.expect("stored");
    let id = file.announced.clear.id;
    tx!(world, tx => tx.put_attachment_chunk(follow.id, id, chunk).await);
    let refused = follow.refused(&world, answer(&[&file]), 10).await;
    assert_eq!(refused, ErrorCode::AttachmentState);
    let again = file.announce(&world).await.expect("whole");
    assert_eq!(again, file.sealed.len() as u64);
    follow.take(&world, answer(&[&file])).await.expect("taken");
}

#[tokio::test]
async fn chunks_are_of_their_lengths_and_what_is_not_right_is_thrown_away() {
    let world = World::new().await;
    let mut follow = world.received().await;
    follow
        .take(&world, StepDetail::Accept)
        .await
        .expect("taken");
    let mut file = File::new(&follow, 2 * SEGMENT);
    file.announce(&world).await.expect("announced");
    let code = |done: Result<u64>| done.expect_err("refused").code;
    assert_eq!(
        code(file.append(&world, 0..0).await),
        ErrorCode::InvalidField
    );
    assert_eq!(
        code(file.append(&world, 0..SEGMENT - 1).await),
        ErrorCode::InvalidField
    );
    assert_eq!(
        code(file.append(&world, 1..SEGMENT + 1).await),
        ErrorCode::OffsetMismatch
    );
    assert_eq!(
        file.append(&world, 0..SEGMENT).await.expect("taken"),
        SEGMENT as u64
    );
    file.sealed[SEGMENT + 1] ^= 1;
    let rest = SEGMENT..file.sealed.len();
    assert_eq!(
        code(file.append(&world, rest.clone()).await),
        ErrorCode::AttachmentState
    );
    assert_eq!(
        (
            world.objects().await,
            file.announce(&world).await.expect("again")
        ),
        (0, 0)
    );
    file.sealed[SEGMENT + 1] ^= 1;
    for bytes in [0..SEGMENT, rest] {
        file.append(&world, bytes).await.expect("taken");
    }
    let otherwise = Announced {
        digest: [1; 32],
        ..File::new(&follow, 2 * SEGMENT).announced
    };
    let otherwise = Announced {
        clear: file.announced.clear.clone(),
        ..otherwise
    };
    let holder = &node("de-bka");
    let again = world.broker.create_attachment(holder, &otherwise);
    assert_eq!(
        again.await.expect_err("refused").code,
        ErrorCode::AttachmentState
    );
}

#[tokio::test]
async fn files_go_with_what_needs_them() {
    let world = World::new().await;
    let mut follow = world.received().await;
    follow
        .take(&world, StepDetail::Accept)
        .await
        .expect("taken");
    let (given, idle) = (File::new(&follow, 10), File::new(&follow, 20));
    for file in [&given, &idle] {
        file.upload(&world).await;
    }
    // What a call left behind that was cut off.
    let stray = ObjectKey::of(ObjectOwner::FollowUp(follow.id), &mut os_rng());
    world
        .broker
        .objects
        .put(&stray, vec![1].into())
        .await
        .expect("stored");
    assert_eq!(
        world.broker.sweep_objects().await.expect("swept"),
        0,
        "still uploading"
    );
    follow.take(&world, answer(&[&given])).await.expect("taken");
    assert_eq!(world.broker.sweep_objects().await.expect("swept"), 1);
    assert_eq!(world.objects().await, 2);
    follow.take(&world, StepDetail::Close).await.expect("taken");
    assert_eq!(world.objects().await, 1);

    let requester = node("nl-fiu");
    let read = world
        .broker
        .begin_download(&requester, &given.place(3))
        .await;
    let mut read = read.expect("there");
    let piece = world.broker.next_piece(&mut read).await.expect("read");
    assert_eq!(piece.expect("some"), given.sealed[3..]);
    assert_eq!(
        world.broker.next_piece(&mut read).await.expect("read"),
        None
    );

    world.nodes.clock.advance(DAY * 179);
    assert_eq!(world.news().await, []);
    world.nodes.clock.advance(DAY * 2);
    assert_eq!(
        world.news().await,
        [FollowUpEvent::Erased(world.clock_now())]
    );
    assert_eq!(world.objects().await, 0);
    let gone = world
        .broker
        .begin_download(&requester, &given.place(0))
        .await;
    assert_eq!(gone.err().expect("gone").code, ErrorCode::AttachmentUnknown);
    let read = world
        .broker
        .follow_up(&requester, &community(), follow.id)
        .await;
    let (record, steps, _) = read.expect("there");
    assert!(record.erased);
    assert!(
        steps
            .iter()
            .all(|step| step.envelope.is_none() && !step.clear.is_empty())
    );
}
