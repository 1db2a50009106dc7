//! An upload that goes on where another broker left it.

use sotto_common::error::ErrorCode;
use sotto_common::secret::Tag;
use sotto_common::selector::Policy::{Email, Phone};
use sotto_tests::cluster::Objects;
use sotto_tests::probe::all_at;
use sotto_tests::refusal::outlast;
use sotto_tests::sandbox::profile;
use sotto_tests::{Cluster, assert_refused, emails, phones};
use tonic::Code;

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_goes_on_at_a_second_broker_and_is_activated_at_a_third() {
    from_broker_to_broker(Objects::Folder).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_goes_from_broker_to_broker_in_a_bucket_too() {
    from_broker_to_broker(Objects::S3).await;
}

async fn from_broker_to_broker(objects: Objects) {
    let names = ["nl-fiu", "de-bka"];
    let Some((cluster, [nl, de])) = Cluster::with_nodes(3, objects, profile(), names).await else {
        return;
    };
    let (nl, de) = (cluster.direct(&nl), cluster.direct(&de));
    let values = phones(0..100);
    let filler = (0..9000u128).map(|n| Tag::new(n.to_be_bytes()));
    let tags = de[0]
        .pairs(Phone, &values)
        .into_iter()
        .map(|(tag, _)| tag)
        .chain(filler);
    let draft = de[0].draft_of_tags(Phone, tags.collect()).await;
    let length = draft.bits.len();
    let (third, chunk) = (length / 3, 10_000);
    assert!(third > chunk, "several chunks at each broker");

    let mut offset = de[0].announce(&draft).await.expect("announced");
    for (at, until) in [(0, third), (1, 2 * third), (2, length)] {
        assert_eq!(
            de[at].announce(&draft).await.expect("announced"),
            offset,
            "each broker knows what another has acknowledged"
        );
        while offset < until as u64 {
            let from = usize::try_from(offset).expect("fits");
            let data = &draft.bits[from..until.min(from + chunk)];
            let sent = de[at].upload_chunk(&draft, offset, data).await;
            offset = sent.expect("acknowledged");
            assert_eq!(offset, (from + data.len()) as u64);
        }
    }
    outlast(async || de[0].activate(draft.id()).await).await;
    for nl in nl {
        let found = nl.find_through(Phone, &phones(0..200)).await;
        assert_eq!(found, all_at("de-bka", &values));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_that_is_away_delays_what_needs_it_and_nothing_else() {
    let names = ["nl-fiu", "de-bka"];
    let started = Cluster::with_nodes(2, Objects::S3, profile(), names).await;
    let Some((cluster, [nl, de])) = started else {
        return;
    };
    let (nl, de) = (cluster.direct(&nl), cluster.direct(&de));
    de[0].publish(Phone, &phones(0..5)).await;
    let withdrawn = de[0].publish(Email, &emails(0..5)).await;
    let draft = de[0].draft(Phone, &phones(0..9)).await;
    de[0].announce(&draft).await.expect("announced");

    let bucket = cluster.bucket.as_ref().expect("a bucket");
    bucket.stop();
    let refused = de[1].upload(&draft, 0, |_| ()).await;
    assert_refused(refused, Code::Unavailable, ErrorCode::Unavailable);
    outlast(async || de[1].withdraw(withdrawn).await).await;
    for nl in &nl {
        let found = nl.find_through(Phone, &phones(0..20)).await;
        assert_eq!(found, all_at("de-bka", &phones(0..5)));
        let found = nl.find_through(Email, &emails(0..5)).await;
        assert!(found.is_empty());
    }

    bucket.launch();
    let offset = de[1].announce(&draft).await.expect("announced");
    de[1]
        .upload(&draft, offset, |_| ())
        .await
        .expect("uploaded");
    outlast(async || de[0].activate(draft.id()).await).await;
    for nl in &nl {
        let found = nl.find_through(Phone, &phones(0..20)).await;
        assert_eq!(found, all_at("de-bka", &phones(0..9)));
    }
}
