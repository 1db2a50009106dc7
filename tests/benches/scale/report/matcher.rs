//! The tables of the matcher and of what it is made of.

use std::fmt::Write as _;

use crate::alternate::Cost;
use crate::matching::Matched;
use crate::micro::Step;
use crate::times::float;

pub(super) fn steps_table(out: &mut String, steps: &[Step]) {
    line!(
        out,
        "Steps, by criterion{:>31}{:>21}",
        "ns each",
        "95 % between"
    );
    for step in steps {
        let each = |ns: f64| ns / float(step.each as u64);
        line!(
            out,
            "  {:<38}{:>10.1}{:>12.1}{:>9.1}",
            step.name,
            each(step.ns),
            each(step.ns_from),
            each(step.ns_to)
        );
    }
    line!(out, "");
}

pub(super) fn matched_table(out: &mut String, matched: &Matched) {
    line!(
        out,
        "The matcher at {} holders, each with a filter of {} selectors ({:.1} MB)",
        matched.holders,
        matched.selectors,
        float(matched.filter_bytes) / 1e6
    );
    line!(
        out,
        "  {:<44}{:>8}{:>9}{:>16}{:>9}{:>8}",
        "",
        "ns",
        "M/s",
        "quartiles",
        "of once",
        "twice"
    );
    let mut row = |name: &str, cost: &Cost| {
        line!(
            out,
            "  {name:<44}{:>8.2}{:>9.1}{:>8.1}{:>8.1}{:>9.2}{:>8.2}",
            cost.ns,
            cost.per_second() / 1e6,
            cost.quartiles[0],
            cost.quartiles[1],
            matched.limit_once.ns / cost.ns,
            matched.limit_twice.ns / cost.ns
        );
    };
    row("(a) random lines, each asked for once", &matched.limit_once);
    row(
        "(a) random lines, each asked for twice",
        &matched.limit_twice,
    );
    if let Some(cost) = &matched.limit_on_two_cores {
        row("(a) asked for once, two cores", cost);
    }
    for at in &matched.by_holders {
        let name = format!("(b) the matcher, {} holder(s)", at.holders);
        row(&name, &at.cost);
    }
    if let Some(cost) = &matched.on_two_cores {
        row("(b) all holders, two cores", cost);
    }
    row("(b) all holders, small pages", &matched.in_small_pages);
    row("(b) all holders, mapped files", &matched.in_files);
    row("(c) all holders, a loop over fastbloom", &matched.fastbloom);
    line!(
        out,
        "  fastbloom's filters have {:.1} MB\n",
        float(matched.fastbloom_bytes) / 1e6
    );
}
