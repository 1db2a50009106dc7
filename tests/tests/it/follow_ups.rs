//! The formal follow-up (protocol §10, workflow.md "Follow-up"): steps at the broker as any other
//! implementation could make them, and the whole life between real units.

mod attachments;
mod export;
mod figures;
mod full_disk;
mod large;
mod life;
mod malice;
mod steps;
mod time;

use sotto_common::selector::Policy::Phone;
use sotto_proto::v1;
use sotto_tests::sandbox::profile;
use sotto_tests::{Case, Sandbox, TestNode, phones};

/// Three nodes; the first has hits on the second, one for each of so many phones, in their order.
async fn with_hits(hits: u32) -> (Sandbox, [TestNode; 3], Vec<v1::Hit>) {
    let names = ["nl-fiu", "de-bka", "fr-pj"];
    let (sandbox, [nl, de, fr]) = Sandbox::with_profile(profile(), names).await;
    de.publish(Phone, &phones(0..hits)).await;
    nl.find(Phone, &phones(0..hits)).await;
    let mut listed = nl.hits().await.expect("listed");
    let refs = nl.pairs(Phone, &phones(0..hits));
    listed.sort_by_key(|hit| {
        refs.iter()
            .position(|(_, r)| r.as_bytes()[..] == hit.record_ref)
    });
    assert_eq!(listed.len(), hits as usize);
    (sandbox, [nl, de, fr], listed)
}

/// A case on the hit of this number.
async fn case<'n>(nodes: &'n [TestNode; 3], hits: &[v1::Hit], number: u32) -> Case<'n> {
    let [nl, de, _] = nodes;
    let selector = phones(number..number + 1).remove(0);
    Case::on(nl, de, &hits[number as usize], Phone, selector).await
}
