//! `dataset set` and `dataset ls`: what is done with a dataset.

use clap::{Args, ValueEnum};
use sotto_common::grounds::{LegalBasis, Purpose};
use sotto_proto::{convert, v1};

use crate::cli::client::unary;
use crate::cli::fault::{Fault, Result};
use crate::cli::render::{Cell, List};
use crate::cli::{Context, args, publish};

pub(super) const EXAMPLES: &str = "Examples:\n  \
    sotto-node dataset set suspects --probe --purpose INVESTIGATION \\\n    \
    --legal-basis EU_2023_977 --case 2026-17\n  \
    sotto-node dataset set drafts --publish no --no-probe";

/// What to change.
#[derive(Args, Debug)]
#[command(group = clap::ArgGroup::new("change").multiple(true).required(true))]
pub(crate) struct SetArgs {
    /// Name of the dataset
    #[arg(value_name = "NAME")]
    dataset: String,
    /// Whether its selectors are in this node's filters; with `no` waits until they match no more
    #[arg(long, value_enum, group = "change")]
    publish: Option<Answer>,
    /// Ask for what is new by itself, of everybody and for this reason: --purpose, --legal-basis
    /// and --case
    #[arg(long, group = "change", conflicts_with = "no_probe")]
    #[arg(requires_all = ["purpose", "legal_basis", "case_ref"])]
    probe: bool,
    /// Do not ask by itself
    #[arg(long, group = "change")]
    no_probe: bool,
    /// Why, as for `sotto-node probe`
    #[arg(long, value_parser = args::purpose, requires = "probe")]
    purpose: Option<Purpose>,
    /// On what basis, as for `sotto-node probe`
    #[arg(long, value_name = "BASIS", value_parser = args::legal_basis, requires = "probe")]
    legal_basis: Option<LegalBasis>,
    /// Text of the legal basis, where it needs one
    #[arg(long, value_name = "TEXT", default_value = "")]
    reference: String,
    /// Reference of the case, opaque to everybody else
    #[arg(long = "case", value_name = "REF", requires = "probe")]
    case_ref: Option<String>,
    /// Do not wait until what is no longer published matches no more
    #[arg(long)]
    no_wait: bool,
}

/// Yes or no.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Answer {
    /// It is.
    Yes,
    /// It is not.
    No,
}

const COLUMNS: &[&str] = &[
    "dataset",
    "policy",
    "selectors",
    "imported_at",
    "published",
    "probed_for",
    "case",
];

/// Changes what is done with a dataset, and prints how it stands.
pub(crate) async fn set(context: &Context, args: SetArgs) -> Result<()> {
    let probe = args.probe.then(|| {
        let case_ref = args.case_ref.as_deref().unwrap_or_default();
        args::grounds(args.purpose, args.legal_basis, &args.reference, case_ref)
    });
    let request = unary(v1::UpdateDatasetRequest {
        dataset: args.dataset,
        publish: args.publish.map(|answer| answer == Answer::Yes),
        probe: probe.transpose()?,
        stop_probing: args.no_probe,
    });
    let answer = context.client()?.datasets().update_dataset(request).await?;
    let dataset = answer.into_inner().dataset;
    let dataset = dataset.ok_or_else(|| Fault::new("the node did not tell how it stands now"))?;
    let policy = dataset.policy.clone();
    context.done(COLUMNS, &cells(dataset))?;
    if args.publish == Some(Answer::No) && !args.no_wait {
        publish::until_gone(context, &policy).await?;
    }
    Ok(())
}

/// Lists the datasets.
pub(crate) async fn list(context: &Context) -> Result<()> {
    let request = unary(v1::ListDatasetsRequest {});
    let answer = context.client()?.datasets().list_datasets(request).await?;
    let mut list = List::new(context.output, COLUMNS, context.stdout())?;
    for dataset in answer.into_inner().datasets {
        list.row(&cells(dataset))?;
    }
    Ok(list.finish()?)
}

fn cells(dataset: v1::Dataset) -> [Cell; 7] {
    let purpose = dataset
        .probe
        .as_ref()
        .and_then(|grounds| grounds.purpose().domain());
    [
        Cell::new(dataset.name),
        Cell::new(dataset.policy),
        Cell::new(dataset.selectors),
        Cell::time(convert::timestamp("at", dataset.imported_at).ok()),
        Cell::in_words(dataset.publish, if dataset.publish { "yes" } else { "no" }),
        Cell::new(purpose.map(Purpose::as_str)),
        Cell::new(dataset.probe.map(|grounds| grounds.case_ref)),
    ]
}
