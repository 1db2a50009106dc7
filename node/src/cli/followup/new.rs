//! `followup new`: the draft of a request.

use std::io::Write as _;
use std::path::PathBuf;

use clap::Args;
use sotto_common::grounds::LegalBasis;
use sotto_common::ids::HitId;
use sotto_proto::v1;

use super::approve::is_terminal;
use super::ask::{Ask, Terminal, fill_in};
use super::form::{self, RequestForm};
use super::{contents, print_row, show, shown};
use crate::cli::client::{Client, unary};
use crate::cli::fault::{Fault, Result};
use crate::cli::{Context, args};

/// What is asked for.
#[derive(Args, Debug)]
pub(crate) struct NewArgs {
    /// The hit, which must be confirmed
    #[arg(value_name = "HIT", required_unless_present = "blank")]
    hit: Option<HitId>,
    /// The form, TOML or JSON; `-` reads standard input. Without it, on a terminal, it is asked for
    #[arg(long, value_name = "FILE")]
    form: Option<PathBuf>,
    /// The case that it belongs to at this node, instead of the form's
    #[arg(long = "case", value_name = "REF")]
    case_ref: Option<String>,
    /// Print a blank form for a legal basis: EU_2023_977, EU_2024_982, EU_2024_1640_FIU,
    /// BILATERAL_TREATY, UNTOC, BUDAPEST_CONVENTION, INTERPOL_RPD or NATIONAL_LAW; offline
    #[arg(long, value_name = "BASIS", value_parser = args::legal_basis,
          conflicts_with_all = ["hit", "form", "case_ref"])]
    blank: Option<LegalBasis>,
    /// The blank form in JSON, without comments
    #[arg(long, requires = "blank")]
    json: bool,
}

impl NewArgs {
    /// Whether only a blank form is wanted.
    pub(super) const fn is_blank(&self) -> bool {
        self.blank.is_some()
    }
}

/// Prints a blank form.
pub(super) fn blank(context: &Context, args: &NewArgs) -> Result<()> {
    let basis = args.blank.unwrap_or(LegalBasis::Eu2023977);
    let mut out = context.stdout();
    write!(out, "{}", form::blank_request(basis, args.json))?;
    Ok(out.flush()?)
}

/// Drafts a request from a form, or from what a person says.
pub(super) async fn run(context: &Context, client: &Client, args: &NewArgs) -> Result<()> {
    let Some(hit) = args.hit else {
        return Err(Fault::Usage("give the hit that is followed up".into()));
    };
    let request = match &args.form {
        Some(file) => {
            let form: RequestForm = form::read(file)?;
            form.draft(hit.as_bytes(), args.case_ref.as_deref())?
        }
        None if is_terminal() => asked(context, hit, args.case_ref.as_deref())?,
        None => {
            return Err(Fault::Usage(
                "nobody can be asked here, as this is no terminal: give --form FILE, or --form - \
                 and the form on standard input; `--blank BASIS` prints a blank one"
                    .into(),
            ));
        }
    };
    let answer = client.analyst().draft_follow_up(unary(request)).await?;
    let answer = answer.into_inner();
    if answer.unverified {
        context.note(
            "the hit is not verified in the audit log yet: `sotto-node hits show` says when it is",
        );
    }
    let follow_up = answer.follow_up.unwrap_or_default();
    if !answer.related.is_empty() {
        context.note("there are open requests of this node on the same selector:");
        for related in &answer.related {
            context.note(&show::related_line(related));
        }
    }
    let id = follow_up.follow_up.clone().unwrap_or_default().follow_up_id;
    let id = shown::follow_up_id(&id);
    context.note(&format!(
        "drafted; another person has to approve it: sotto-node followup approve {id}"
    ));
    print_row(context, &follow_up)
}

/// Asks for everything, shows it, and asks whether it is right. Nothing is kept before that.
fn asked(
    context: &Context,
    hit: HitId,
    case_ref: Option<&str>,
) -> Result<v1::DraftFollowUpRequest> {
    let mut terminal = Terminal::begin()?;
    let form = fill_in(&mut terminal, case_ref)?;
    let request = form.draft(hit.as_bytes(), None)?;
    context.note(&format!(
        "A request about hit {hit}, for case {}",
        request.case_ref
    ));
    for line in contents::draft_lines(&request.draft.clone().unwrap_or_default()) {
        context.note(&line);
    }
    if terminal.confirm("Draft this request?")? {
        Ok(request)
    } else {
        Err(Fault::new("not drafted; nothing was kept"))
    }
}
