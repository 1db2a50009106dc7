use sotto_common::dsse::SigningKey;
use sotto_common::error::ErrorCode;
use sotto_common::followup::record::NO_PREVIOUS;
use sotto_common::random::os_rng;

use super::super::{sign, verify};
use sotto_common::time::Timestamp;

use super::*;

fn at() -> Timestamp {
    Timestamp::from_seconds(1_800_000_000)
}

fn detail(step: FollowUpStep) -> StepDetail {
    let items = vec![Item::Identity, Item::Vehicles];
    let terms = Terms::new(TimeLimit::Ordinary, None, "A.1", items).unwrap();
    let outcomes = Outcomes::new(vec![
        (Item::Identity, ItemOutcome::Pending(at())),
        (
            Item::Vehicles,
            ItemOutcome::Refused(RefusalGround::MinorOffence),
        ),
    ]);
    let id = AttachmentId::generate(at(), &mut os_rng());
    match step {
        FollowUpStep::Submit => StepDetail::Submit(terms),
        FollowUpStep::Held => StepDetail::Held,
        FollowUpStep::NotHeld => StepDetail::NotHeld,
        FollowUpStep::Particulars => StepDetail::Particulars,
        FollowUpStep::Accept => StepDetail::Accept,
        FollowUpStep::Refuse => StepDetail::Refuse(outcomes.unwrap()),
        FollowUpStep::RequestClarification => StepDetail::RequestClarification,
        FollowUpStep::Reply => StepDetail::Reply,
        FollowUpStep::AwaitJudicialAuthorisation => {
            StepDetail::AwaitJudicialAuthorisation { new_date: at() }
        }
        FollowUpStep::Answer => StepDetail::Answer(AnswerClear {
            outcomes: outcomes.unwrap(),
            handling: HandlingCode::H3,
            attachments: vec![AttachmentDigest {
                id,
                digest: [3; 32],
            }],
        }),
        FollowUpStep::Withdraw => StepDetail::Withdraw,
        FollowUpStep::Close => StepDetail::Close,
    }
}

fn clear(step: FollowUpStep) -> StepClear {
    let mut rng = os_rng();
    StepClear {
        community: "euro-cyber".parse().unwrap(),
        follow_up: FollowUpId::generate(at(), &mut rng),
        hit: HitId::generate(at(), &mut rng),
        seq: 0,
        previous: NO_PREVIOUS,
        sender: "nl-fiu".parse().unwrap(),
        recipient: "de-bka".parse().unwrap(),
        made_at: at(),
        state: FollowUpState::Submitted,
        detail: detail(step),
    }
}

#[test]
fn every_step_comes_back_signed_and_sealed_as_it_was_made() {
    let mut rng = os_rng();
    let key = SigningKey::generate(&mut rng);
    let pair = HpkeKeyPair::generate(&mut rng);
    for &step in FollowUpStep::ALL {
        let content = step.sealing().part().map(|_| &b"content"[..]);
        let made = make_step(clear(step), content, pair.public(), &mut rng).unwrap();
        let envelope = sign(made.clone(), &key);
        let read: StepStatement = verify(&envelope, &key.verifying_key()).unwrap();
        assert_eq!(read, made, "{step}");
        let opened = open_step(&read, &pair).unwrap();
        assert_eq!(opened.as_deref().map(Vec::as_slice), content, "{step}");
    }
}

#[test]
fn a_sealed_part_is_there_exactly_where_the_protocol_wants_it() {
    let mut rng = os_rng();
    let pair = HpkeKeyPair::generate(&mut rng);
    for &step in FollowUpStep::ALL {
        let with = make_step(clear(step), Some(b"x"), pair.public(), &mut rng);
        let without = make_step(clear(step), None, pair.public(), &mut rng);
        assert_eq!(with.is_ok(), step.sealing() != Sealing::None, "{step}");
        let required = matches!(step.sealing(), Sealing::Required(_));
        assert_eq!(without.is_err(), required, "{step}");
    }
}

#[test]
fn what_is_sealed_opens_in_its_own_place_only() {
    let mut rng = os_rng();
    let pair = HpkeKeyPair::generate(&mut rng);
    let reply = clear(FollowUpStep::Reply);
    let made = make_step(reply.clone(), Some(b"text"), pair.public(), &mut rng).unwrap();
    let twist = |change: fn(&mut StepClear)| {
        let mut clear = reply.clone();
        change(&mut clear);
        StepStatement {
            clear_bytes: v1::FollowUpClear::from(&clear).encode_to_vec(),
            clear,
            sealed: made.sealed.clone(),
        }
    };
    for statement in [
        twist(|c| c.seq = 9),
        twist(|c| c.detail = StepDetail::RequestClarification),
        twist(|c| std::mem::swap(&mut c.sender, &mut c.recipient)),
        twist(|c| c.follow_up = FollowUpId::generate(at(), &mut os_rng())),
    ] {
        let error = open_step(&statement, &pair).unwrap_err();
        assert_eq!(error.code, ErrorCode::SealInvalid);
    }
    let other = HpkeKeyPair::generate(&mut rng);
    assert!(open_step(&made, &other).is_err());
}

#[test]
fn fields_of_other_steps_and_unknown_codes_are_refused() {
    for &step in FollowUpStep::ALL {
        for &other in FollowUpStep::ALL {
            let mut wire = v1::FollowUpClear::from(&clear(step));
            wire.step = v1::FollowUpStep::from(other).into();
            let same_fields = detail(step) == detail(other)
                || step == other
                || [step, other].iter().all(|s| {
                    use FollowUpStep as S;
                    !matches!(
                        s,
                        S::Submit | S::Refuse | S::Answer | S::AwaitJudicialAuthorisation
                    )
                });
            assert_eq!(
                StepClear::try_from(wire).is_ok(),
                same_fields,
                "{step} {other}"
            );
        }
    }
    let mut wire = v1::FollowUpClear::from(&clear(FollowUpStep::Accept));
    wire.state = 99;
    assert!(StepClear::try_from(wire).is_err());
}

#[test]
fn a_suite_or_length_that_is_not_known_is_refused() {
    let mut rng = os_rng();
    let pair = HpkeKeyPair::generate(&mut rng);
    let made = make_step(
        clear(FollowUpStep::Reply),
        Some(b"x"),
        pair.public(),
        &mut rng,
    );
    let wire = v1::FollowUpStatement::from(made.unwrap());
    assert!(StepStatement::try_from(wire.clone()).is_ok());
    let twists: [fn(&mut v1::FollowUpStatement); 5] = [
        |w| w.kem = 0x647a,
        |w| w.aead = 0x1_0003,
        |w| w.enc = vec![1; 31].into(),
        |w| w.sealed = w.sealed.slice(1..),
        |w| w.sealed = prost::bytes::Bytes::new(),
    ];
    for (index, twist) in twists.into_iter().enumerate() {
        let mut wire = wire.clone();
        twist(&mut wire);
        let error = StepStatement::try_from(wire).unwrap_err();
        assert_eq!(error.code, ErrorCode::SealInvalid, "twist {index}");
    }
    let mut newer = wire;
    newer.format = 2;
    let error = StepStatement::try_from(newer).unwrap_err();
    assert_eq!(error.code, ErrorCode::FormatUnknown);
}

#[test]
fn attachments_come_back_and_are_checked() {
    let follow_up = FollowUpId::generate(at(), &mut os_rng());
    let id = AttachmentId::generate(at(), &mut os_rng());
    let clear = AttachmentClear::new(follow_up, id, "attachment-1", 12).unwrap();
    let (bytes, digest) = write_attachment(&clear);
    assert_eq!(read_attachment(&bytes).unwrap(), (clear, digest));
    assert!(read_attachment(b"\xff").is_err());
}
