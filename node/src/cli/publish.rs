//! `publish`: filters of this node's selectors, for the others to match (protocol §6).

use std::collections::BTreeMap;
use std::time::Duration;

use clap::Args;
use indicatif::{MultiProgress, ProgressBar};
use sotto_common::ids::NodeId;
use sotto_common::selector::Policy;
use sotto_proto::v1;

use super::fault::{Fault, Result};
use super::render::{Cell, List, printable};
use super::{Context, args, progress};

/// What to publish.
#[derive(Args, Debug)]
pub(crate) struct PublishArgs {
    /// Only this selector type; every type that has selectors if left out
    #[arg(long = "type", value_name = "TYPE", value_parser = args::policy)]
    policy: Option<Policy>,
    /// The members that may match from now on, with commas between them; as before if left out
    #[arg(long, value_name = "NODE,…", value_delimiter = ',', value_parser = args::node)]
    audience: Vec<NodeId>,
    /// All members may match again
    #[arg(long, conflicts_with = "audience")]
    everyone: bool,
    /// Make a new base at once, whether one is needed or not
    #[arg(long)]
    now: bool,
}

const COLUMNS: &[&str] = &[
    "policy",
    "version",
    "layer",
    "class",
    "selectors",
    "bytes",
    "active",
];

/// Publishes and tells how far it is; one row a policy at the end.
pub(crate) async fn run(context: &Context, args: PublishArgs) -> Result<()> {
    let request = v1::PublishFiltersRequest {
        policy: args.policy.map(|p| p.name().to_owned()).unwrap_or_default(),
        audience: args.audience.iter().map(ToString::to_string).collect(),
        everyone: args.everyone,
        now: args.now,
    };
    let states = follow(context, request, None).await?;
    let mut list = List::new(context.output, COLUMNS, context.stdout())?;
    for state in states.values() {
        list.row(&[
            Cell::new(state.policy.as_str()),
            Cell::new(state.version),
            Cell::new(if state.supplement {
                "supplement"
            } else {
                "base"
            }),
            Cell::new(state.class),
            Cell::new(state.selectors),
            Cell::new(state.total),
            Cell::in_words(state.active, if state.active { "yes" } else { "no" }),
        ])?;
    }
    list.finish()?;
    if states.values().all(|state| state.active) {
        Ok(())
    } else {
        Err(Fault::with_hint(
            "not every filter has become active",
            "`sotto-node publish` again goes on where it stopped",
        ))
    }
}

/// How far each policy is, by its name.
pub(crate) type States = BTreeMap<String, v1::PublishFiltersResponse>;

/// Follows publications to their end, and shows how far they are. With `patience` it is no longer
/// than that without news that something waits for the broker.
pub(crate) async fn follow(
    context: &Context,
    request: v1::PublishFiltersRequest,
    patience: Option<Duration>,
) -> Result<States> {
    let mut datasets = context.client()?.datasets();
    let mut stream = datasets.publish_filters(request).await?.into_inner();
    let bars = MultiProgress::new();
    let mut shown: BTreeMap<String, ProgressBar> = BTreeMap::new();
    let mut states = States::new();
    loop {
        let waits = states.values().any(waits_for_the_broker);
        let next = match patience.filter(|_| waits) {
            None => stream.message().await,
            Some(patience) => match tokio::time::timeout(patience, stream.message()).await {
                Ok(next) => next,
                Err(_) => break,
            },
        };
        let Some(now) = next? else { break };
        let bar = shown
            .entry(now.policy.clone())
            .or_insert_with(|| bars.add(progress::bytes(Some(now.total))));
        let before = states.get(&now.policy);
        if bar.is_hidden() && before.is_none_or(|before| before.waiting_for != now.waiting_for) {
            tell_waiting(context, &now);
        }
        show(bar, &now);
        states.insert(now.policy.clone(), now);
    }
    let _ = bars.clear();
    Ok(states)
}

/// How long a command stays that waits for the broker alone.
const PATIENCE: Duration = Duration::from_secs(5);

/// Waits until what was removed from selectors of a policy matches no more, and says so.
pub(crate) async fn until_gone(context: &Context, policy: &str) -> Result<()> {
    let request = v1::PublishFiltersRequest {
        policy: policy.to_owned(),
        ..Default::default()
    };
    let why = match follow(context, request, Some(PATIENCE)).await {
        Ok(states) => match states.values().find(|state| !state.active) {
            None => {
                context.note("what was removed matches no more");
                return Ok(());
            }
            Some(state) if state.waiting_for.is_empty() => "the publication ended early".into(),
            Some(state) => format!("it waits for {}", state.waiting_for),
        },
        Err(Fault::Failed { text, .. } | Fault::Unreachable(text)) => text,
        Err(fault) => return Err(fault),
    };
    Err(Fault::with_hint(
        format!("it is removed at this node, and still matches at the broker: {why}"),
        "the node goes on by itself; `sotto-node publish` waits for it",
    ))
}

fn waits_for_the_broker(state: &v1::PublishFiltersResponse) -> bool {
    state.waiting_for.starts_with("the broker")
}

fn show(bar: &ProgressBar, now: &v1::PublishFiltersResponse) {
    bar.set_length(now.total);
    bar.set_position(now.acknowledged);
    bar.set_message(printable(&if now.waiting_for.is_empty() {
        now.policy.clone()
    } else {
        format!("{}, waiting for {}", now.policy, now.waiting_for)
    }));
}

fn tell_waiting(context: &Context, now: &v1::PublishFiltersResponse) {
    if !now.waiting_for.is_empty() {
        context.note(&format!("{}: waiting for {}", now.policy, now.waiting_for));
    }
}
