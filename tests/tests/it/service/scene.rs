//! Units at a broker of their own, and what is asked of them.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use sotto_proto::v1;
use sotto_tests::sandbox::profile;
use sotto_tests::unit::introduce;
use sotto_tests::{Sandbox, Unit};

pub(super) const HOUR: Duration = Duration::from_hours(1);

/// Units with an epoch, the first its custodian; `settings` are lines of the configuration of each.
pub(super) async fn units<const N: usize>(
    names: [&str; N],
    settings: &str,
) -> (Sandbox, [Unit; N]) {
    units_with(names, |_, _| settings.to_owned()).await
}

/// As [`units`], with settings for each by its name.
pub(super) async fn units_with<const N: usize>(
    names: [&str; N],
    settings: impl Fn(&Sandbox, &str) -> String,
) -> (Sandbox, [Unit; N]) {
    let sandbox = Sandbox::empty().await;
    let operator = sandbox.operator();
    let created = operator.create_community(profile(), &names[..1]).await;
    created.expect("created");
    let mut units = Vec::new();
    for name in names {
        operator.enrol(name).await.expect("enrolled");
        let (home, lab) = (sandbox.path(name), sandbox.shared_lab());
        let settings = settings(&sandbox, name);
        let settings =
            format!("[service.publisher]\ndebounce = '20ms'\npatience = '200ms'\n{settings}");
        let mut unit = Unit::install(&lab, &home, name, &sandbox.url(), &settings);
        unit.start(Arc::new(sandbox.clock.clone())).await;
        units.push(unit);
    }
    introduce(&units).await;
    let units: Result<[Unit; N], _> = units.try_into();
    (sandbox, units.unwrap_or_else(|_| unreachable!()))
}

pub(super) fn numbers(range: std::ops::Range<u32>) -> BTreeSet<String> {
    range.map(|n| format!("+3161234{n:04}")).collect()
}

pub(super) async fn import(unit: &Unit, values: &BTreeSet<String>) {
    let done = unit.import("numbers", "phone/1", values, false).await;
    done.expect("imported");
}

/// The values of `unit` that it shows as held by `holder`.
pub(super) async fn held_by(unit: &Unit, holder: &str) -> BTreeSet<String> {
    let overlaps = unit.overlaps().await.expect("listed");
    let of = overlaps.into_iter().filter(|(_, _, by)| by == holder);
    of.map(|(_, value, _)| value).collect()
}

pub(super) async fn publication(unit: &Unit) -> v1::PublicationStatus {
    let status = unit.status().await.expect("a status");
    let mut rows = status.publications.into_iter();
    rows.find(|row| row.policy == "phone/1").unwrap_or_default()
}
