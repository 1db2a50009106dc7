//! Through a real node: imported over its service into the sealed store, read from it again, built
//! into a filter, and taken by a real broker.

use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::time::Duration;
use tokio::time::Instant;

use serde::Serialize;
use sotto_common::filter::DEFAULT_K;
use sotto_common::membership::{PolicyProfile, Profile};
use sotto_common::selector::Policy;
use sotto_proto::v1;
use sotto_tests::sandbox::PRIOR;
use sotto_tests::unit::introduce;
use sotto_tests::{BrokerProcess, Unit};
use v1::import_dataset_request::Message;

use crate::lists::List;
use crate::process::peak_kb;

/// Rows in a message, as the command line sends them.
const ROWS: usize = 1000;
const NAME: &str = "nl-fiu";

/// A list's way through the node.
#[derive(Clone, Serialize, Debug)]
pub(crate) struct Through {
    pub(crate) policy: &'static str,
    pub(crate) selectors: u64,
    /// Until they are selectors of a dataset.
    pub(crate) import_seconds: f64,
    /// From there until the filter is built, and its upload begins.
    pub(crate) build_seconds: f64,
    /// From there until the broker tests probes against it.
    pub(crate) upload_seconds: f64,
    /// The node's memory at most once it was imported, in kilobytes.
    pub(crate) import_peak_kb: u64,
    /// The node's memory at most in the end, in kilobytes.
    pub(crate) peak_kb: u64,
    pub(crate) filter_bytes: u64,
}

/// Phones and domains, as all parts have them.
pub(crate) fn profile() -> Profile {
    let row = |policy| PolicyProfile {
        policy,
        k: DEFAULT_K,
        prior: PRIOR,
    };
    Profile::new(vec![row(Policy::Phone), row(Policy::Domain)]).expect("a profile")
}

/// Imports and publishes a list at a new node.
pub(crate) async fn measure(list: &List) -> Through {
    eprintln!(
        "store of {} {} ...",
        list.count,
        list.policy.selector_type()
    );
    let broker = BrokerProcess::start("warn,sotto_broker=info").await;
    let operator = broker.operator();
    let created = operator.create_community(profile(), &[NAME]).await;
    created.expect("created");
    operator.enrol(NAME).await.expect("enrolled");
    let of_that_name = broker.node(NAME);
    let limited = operator.set_limits(&of_that_name, None, Some(60));
    limited.await.expect("set");
    let url = format!("https://{}", broker.address());
    let site = broker.site();
    // The publisher waits for the call that is measured.
    let settings = "[service.publisher]\ndebounce = '1h'\npatience = '2h'\n";
    let mut unit = Unit::install(&site.lab, &site.path(NAME), NAME, &url, settings);
    unit.start_process().await;
    introduce(std::slice::from_ref(&unit)).await;

    let begun = Instant::now();
    import(&unit, list).await;
    let imported = begun.elapsed();
    let process = unit.pid().to_string();
    let import_peak_kb = peak_kb(&process);
    let (built, filter_bytes) = publish(&unit, list.policy, begun).await;
    let through = Through {
        policy: list.policy.name(),
        selectors: list.count,
        import_seconds: imported.as_secs_f64(),
        build_seconds: built.saturating_sub(imported).as_secs_f64(),
        upload_seconds: begun.elapsed().saturating_sub(built).as_secs_f64(),
        import_peak_kb,
        peak_kb: peak_kb(&process),
        filter_bytes,
    };
    unit.kill().await;
    through
}

pub(crate) async fn import(unit: &Unit, list: &List) {
    let header = Message::Header(v1::ImportHeader {
        dataset: "list".into(),
        policy: list.policy.name().into(),
        region: List::region(list.policy).unwrap_or_default().into(),
        replace: false,
    });
    let lines = BufReader::new(File::open(&list.path).expect("a list")).lines();
    let mut rows = lines.zip(1..).map(|(value, line)| v1::ImportRow {
        line,
        value: value.expect("UTF-8"),
        ..Default::default()
    });
    let messages = std::iter::from_fn(move || {
        let rows: Vec<_> = rows.by_ref().take(ROWS).collect();
        (!rows.is_empty()).then_some(Message::Rows(v1::ImportRows { rows }))
    });
    let requests =
        std::iter::once(header)
            .chain(messages)
            .map(|message| v1::ImportDatasetRequest {
                message: Some(message),
            });
    let mut datasets = unit.datasets();
    let answer = datasets.import_dataset(tokio_stream::iter(requests));
    let report = answer.await.expect("imported").into_inner();
    assert_eq!(report.accepted, list.count, "{:?}", report.rejections);
}

/// When the filter was built, counted from `begun`, and its length.
pub(crate) async fn publish(unit: &Unit, policy: Policy, begun: Instant) -> (Duration, u64) {
    let request = v1::PublishFiltersRequest {
        policy: policy.name().into(),
        ..Default::default()
    };
    let answer = unit.datasets().publish_filters(request).await;
    let mut progress = answer.expect("published").into_inner();
    let (mut built, mut active) = (None, 0);
    while let Some(told) = progress.message().await.expect("published") {
        if told.total > 0 {
            built.get_or_insert_with(|| begun.elapsed());
        }
        if told.active {
            active = told.total;
        }
    }
    (built.expect("built"), active)
}
