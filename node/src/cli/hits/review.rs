//! `hits review`: what a person decides about a hit.

use std::io::{IsTerminal as _, Read as _, Write as _};

use clap::{ArgGroup, Args};
use sotto_common::error::ErrorCode;
use sotto_common::hit::{HitDecision, SecondFactor};
use sotto_common::ids::HitId;
use sotto_proto::status::from_status;
use sotto_proto::v1;
use tonic::Status;

use super::super::Context;
use super::super::client::{Client, unary};
use super::super::fault::{Fault, Result, is_unreachable};
use super::super::render::record;
use super::{HIT, cells, latest};

/// Most bytes of a reason; the service takes 1000 characters.
const MAX_REASON: u64 = 4096;

/// What is decided.
#[derive(Args, Debug)]
#[command(group = ArgGroup::new("decision").required(true))]
#[expect(
    clippy::struct_excessive_bools,
    reason = "a flag for each decision, of which clap takes one"
)]
pub(crate) struct ReviewArgs {
    /// The hit
    #[arg(value_name = "ID")]
    hit: HitId,
    /// Begin to look at it
    #[arg(long, group = "decision")]
    begin: bool,
    /// It is true
    #[arg(long, group = "decision")]
    confirm: bool,
    /// It is false
    #[arg(long, group = "decision")]
    false_positive: bool,
    /// It is true, but of no use
    #[arg(long, group = "decision")]
    not_relevant: bool,
    /// Why, at most 1000 characters; it stays at the node. `-` reads it from standard input
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    /// What corroborates a weak match: sex, place-of-birth, nationality or document
    #[arg(long, value_name = "KIND=VALUE", value_parser = second_factor)]
    second_factor: Option<(SecondFactor, String)>,
}

impl ReviewArgs {
    /// clap has seen to it that exactly one is given.
    const fn decision(&self) -> HitDecision {
        if self.begin {
            HitDecision::BeginReview
        } else if self.confirm {
            HitDecision::Confirm
        } else if self.false_positive {
            HitDecision::FalsePositive
        } else {
            HitDecision::NotRelevant
        }
    }
}

fn second_factor(text: &str) -> Result<(SecondFactor, String), String> {
    let kinds = || {
        let kinds = SecondFactor::ALL.iter().map(|kind| option_name(*kind));
        kinds.collect::<Vec<_>>().join(", ")
    };
    let (kind, value) = text
        .split_once('=')
        .ok_or_else(|| format!("expected KIND=VALUE, KIND one of {}", kinds()))?;
    let kind = SecondFactor::parse(&kind.replace('-', "_"))
        .ok_or_else(|| format!("expected one of {} before the =", kinds()))?;
    if value.trim().is_empty() {
        return Err("expected what it says behind the =".into());
    }
    Ok((kind, value.to_owned()))
}

fn option_name(kind: SecondFactor) -> String {
    kind.as_str().to_ascii_lowercase().replace('_', "-")
}

/// Decides; begins the review first where nobody has.
pub(super) async fn run(context: &Context, client: &Client, args: ReviewArgs) -> Result<()> {
    let decision = args.decision();
    let reason = reason(&args, decision)?;
    if decision != HitDecision::BeginReview {
        begin_first(context, client, &args, decision).await?;
    }
    let (factor, value) = args.second_factor.unzip();
    let request = v1::ReviewHitRequest {
        decision: v1::HitDecision::from(decision).into(),
        reason,
        second_factor: factor.map_or(0, |factor| v1::SecondFactor::from(factor).into()),
        second_factor_value: value.unwrap_or_default(),
        ..to_review(args.hit)
    };
    let hit = decide(client, args.hit, request).await?;
    if hit.feedback_pending {
        context.note("the decision is kept, and on its way to the broker");
    }
    let output = context.output;
    Ok(record(output, HIT, &cells(hit), &mut context.stdout())?)
}

/// A decision on a thread that nobody looks at is two: the person should know of both.
async fn begin_first(
    context: &Context,
    client: &Client,
    args: &ReviewArgs,
    decision: HitDecision,
) -> Result<()> {
    let request = v1::GetRecordHitRequest {
        hit_id: args.hit.as_bytes().to_vec().into(),
        ..Default::default()
    };
    let story = client.analyst().get_record_hit(unary(request)).await?;
    let story = story.into_inner();
    let thread = story.hit.clone().unwrap_or_default();
    let confirms = decision == HitDecision::Confirm;
    if confirms && thread.needs_second_factor && args.second_factor.is_none() {
        return Err(Fault::with_hint(
            "the match is a weak one: confirming it takes a second factor",
            "give --second-factor KIND=VALUE, e.g. --second-factor document='NL 1234567'",
        ));
    }
    let is_new = latest(&story).is_some_and(|hit| hit.state() == v1::HitState::New);
    if !is_new || thread.state() == v1::HitState::UnderReview {
        return Ok(());
    }
    context.note("nobody looks at this hit yet: its review is begun first");
    let begin = v1::ReviewHitRequest {
        decision: v1::HitDecision::BeginReview.into(),
        ..to_review(args.hit)
    };
    decide(client, args.hit, begin).await.map(drop)
}

fn to_review(hit: HitId) -> v1::ReviewHitRequest {
    v1::ReviewHitRequest {
        hit_id: hit.as_bytes().to_vec().into(),
        ..Default::default()
    }
}

async fn decide(
    client: &Client,
    hit: HitId,
    request: v1::ReviewHitRequest,
) -> Result<v1::RecordHit> {
    let answer = client.analyst().review_hit(unary(request)).await;
    let answer = answer.map_err(|status| refusal(status, hit))?;
    Ok(answer.into_inner().hit.unwrap_or_default())
}

fn refusal(status: Status, hit: HitId) -> Fault {
    let illegal =
        !is_unreachable(&status) && from_status(&status).code == ErrorCode::IllegalTransition;
    match Fault::from(status) {
        Fault::Failed { text, .. } if illegal => Fault::with_hint(
            text,
            format!(
                "`sotto-node hits show {hit}` shows how it stands; `sotto-node hits review {hit} \
                 --begin` begins its review"
            ),
        ),
        fault => fault,
    }
}

/// The reason, from where the person gives it.
fn reason(args: &ReviewArgs, decision: HitDecision) -> Result<String> {
    match args.reason.as_deref() {
        Some("-") => from_stdin(),
        Some(text) => Ok(text.to_owned()),
        None if decision == HitDecision::BeginReview => Ok(String::new()),
        None if std::io::stdin().is_terminal() => ask(),
        None => Err(Fault::Usage(
            "a decision needs its reason: give --reason TEXT, or --reason - and the text on \
             standard input"
                .into(),
        )),
    }
}

fn from_stdin() -> Result<String> {
    let mut text = String::new();
    std::io::stdin()
        .take(MAX_REASON + 1)
        .read_to_string(&mut text)
        .map_err(|_| Fault::new("cannot read a reason in UTF-8 from standard input"))?;
    if text.len() as u64 > MAX_REASON {
        return Err(Fault::new(
            "the reason is too long: at most 1000 characters",
        ));
    }
    Ok(text.replace("\r\n", "\n").trim().to_owned())
}

fn ask() -> Result<String> {
    let mut prompt = std::io::stderr();
    write!(prompt, "Reason: ").and_then(|()| prompt.flush())?;
    let mut line = String::new();
    std::io::stdin()
        .read_line(&mut line)
        .map_err(|_| Fault::new("cannot read the reason"))?;
    Ok(line.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn second_factors_have_a_kind_and_a_value() {
        assert_eq!(
            second_factor("place-of-birth=Den Haag = 's-Gravenhage"),
            Ok((
                SecondFactor::PlaceOfBirth,
                "Den Haag = 's-Gravenhage".into()
            ))
        );
        for bad in ["document", "document=", "document= ", "shoe=44", "=x"] {
            assert!(second_factor(bad).is_err(), "{bad}");
        }
        assert!(second_factor("shoe=44").is_err_and(|text| text.contains("place-of-birth")));
    }
}
