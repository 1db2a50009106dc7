//! Bounds on what one node may take up at the broker: what is above them is refused by its code,
//! and leaves nothing behind.

use sotto_common::followup::attachment::{MAX_SIZE, OVERHEAD, SEGMENT};
use sotto_common::followup::step::MAX_ATTACHMENTS;

use super::super::attachments::MAX_SEALED;
use super::*;
use crate::datastore::AttachmentRecord;

/// As many more of a follow-up as its pair may have open but one.
async fn fill(world: &World, one: &FollowUp) {
    let (id, now) = (one.id, world.clock_now());
    let record = tx!(world, tx => tx.get_follow_up(id).await).expect("there");
    let others = (2..MAX_OPEN).map(|_| {
        let mut other = record.clone();
        other.follow_up.id = FollowUpId::generate(now, &mut os_rng());
        other
    });
    let others = &others.collect::<Vec<_>>();
    tx!(world, tx => {
        for other in others {
            tx.put_follow_up(other).await?;
        }
        Ok(())
    });
}

/// The files of a follow-up, as the ledger has them.
async fn files(world: &World, follow: &Follow) -> Vec<AttachmentRecord> {
    let id = follow.id;
    tx!(world, tx => tx.get_attachments(id).await)
}

async fn accepted(world: &World) -> Follow {
    let mut follow = world.received().await;
    follow.take(world, StepDetail::Accept).await.expect("taken");
    follow
}

#[tokio::test]
async fn a_node_has_at_most_1000_follow_ups_open_at_another() {
    assert_eq!(MAX_OPEN, 1000);
    let world = World::new().await;
    let mut first = world.received().await;
    fill(&world, first.record.as_ref().expect("there")).await;
    let submitted = async |hit| {
        let mut follow = Follow::on(hit, world.clock_now());
        let taken = follow.take(&world, request()).await;
        (follow.id, taken.map(drop).map_err(|error| error.code))
    };
    let hit = world.hit("nl-fiu", "de-bka").await;
    assert_eq!(submitted(hit).await.1, Ok(()), "the thousandth");

    let hit = world.hit("nl-fiu", "de-bka").await;
    let before = (world.told("nl-fiu").await, world.told("de-bka").await);
    let (id, refused) = submitted(hit).await;
    assert_eq!(refused, Err(ErrorCode::LimitReached));
    assert_eq!(world.hit_state("nl-fiu", hit).await, HitState::Confirmed);
    assert_eq!(tx!(world, tx => tx.get_follow_up(id).await), None);
    assert_eq!(tx!(world, tx => tx.get_steps(id).await), []);
    let after = (world.told("nl-fiu").await, world.told("de-bka").await);
    assert_eq!(after, before);

    let withdrawn = first.take(&world, StepDetail::Withdraw).await;
    withdrawn.expect("what ends a follow-up is always taken");
    assert_eq!(submitted(hit).await.1, Ok(()), "there is room again");
}

#[tokio::test]
async fn at_most_64_files_go_with_an_answer() {
    assert_eq!(MAX_ATTACHMENTS, 64);
    let world = World::new().await;
    let follow = accepted(&world).await;
    let mut first = None;
    for _ in 0..MAX_ATTACHMENTS {
        let file = announced(&follow, 10);
        assert_eq!(world.announce(&file).await.expect("announced"), 0);
        first.get_or_insert(file);
    }
    let before = files(&world, &follow).await;
    let refused = world.announce(&announced(&follow, 0)).await;
    assert_eq!(refused.expect_err("refused").code, ErrorCode::LimitReached);
    assert_eq!(files(&world, &follow).await, before);
    // What is announced already is no further file.
    let again = world.announce(&first.expect("some")).await;
    assert_eq!(again.expect("announced before"), 0);
}

#[tokio::test]
async fn at_most_4_gib_of_files_go_with_an_answer() {
    assert_eq!(MAX_SEALED, 4 << 30);
    let world = World::new().await;
    let follow = accepted(&world).await;
    let mut left = MAX_SEALED;
    for _ in 0..3 {
        let file = announced(&follow, MAX_SIZE);
        world.announce(&file).await.expect("announced");
        left -= file.clear.sealed_size();
    }
    // The largest file that there is room for: with sealing it takes all that is left.
    let (segment, overhead) = (SEGMENT as u64, OVERHEAD as u64);
    let size = left - left.div_ceil(segment + overhead) * overhead;
    let largest = announced(&follow, size);
    assert_eq!(largest.clear.sealed_size(), left);
    let before = files(&world, &follow).await;
    for size in [size + 1, MAX_SIZE] {
        let refused = world.announce(&announced(&follow, size)).await;
        assert_eq!(refused.expect_err("refused").code, ErrorCode::LimitReached);
    }
    assert_eq!(files(&world, &follow).await, before);
    world.announce(&largest).await.expect("it fits exactly");
    let refused = world.announce(&announced(&follow, 0)).await;
    assert_eq!(refused.expect_err("refused").code, ErrorCode::LimitReached);
    assert_eq!(files(&world, &follow).await.len(), 4);
    assert_eq!(world.objects().await, 0);
}
