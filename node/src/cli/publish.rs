//! `publish`: filters of this node's selectors, for the others to match (protocol §6).

use std::collections::BTreeMap;

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
    let mut datasets = context.client()?.datasets();
    let mut stream = datasets.publish_filters(request).await?.into_inner();
    let bars = MultiProgress::new();
    let mut states: BTreeMap<String, (v1::PublishFiltersResponse, ProgressBar)> = BTreeMap::new();
    while let Some(now) = stream.message().await? {
        let before = states.get(&now.policy);
        let bar = before.map_or_else(
            || bars.add(progress::bytes(Some(now.total))),
            |(_, bar)| bar.clone(),
        );
        if bar.is_hidden() && before.is_none_or(|(before, _)| before.waiting_for != now.waiting_for)
        {
            tell_waiting(context, &now);
        }
        bar.set_length(now.total);
        bar.set_position(now.acknowledged);
        bar.set_message(printable(&if now.waiting_for.is_empty() {
            now.policy.clone()
        } else {
            format!("{}, waiting for {}", now.policy, now.waiting_for)
        }));
        states.insert(now.policy.clone(), (now, bar));
    }
    let _ = bars.clear();
    let mut list = List::new(context.output, COLUMNS, context.stdout())?;
    for (state, _) in states.values() {
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
    if states.values().all(|(state, _)| state.active) {
        Ok(())
    } else {
        Err(Fault::with_hint(
            "not every filter has become active",
            "`sotto-node publish` again goes on where it stopped",
        ))
    }
}

fn tell_waiting(context: &Context, now: &v1::PublishFiltersResponse) {
    if !now.waiting_for.is_empty() {
        context.note(&format!("{}: waiting for {}", now.policy, now.waiting_for));
    }
}
