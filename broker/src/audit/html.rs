//! The figures as one page for people: text and drawings in one file, which asks for nothing else.

use std::fmt::Write as _;
use std::time::Duration;

use sotto_common::followup::codes::RefusalGround;
use sotto_common::followup::statistics::Line;
use sotto_common::time::Timestamp;

use super::statistics::{Day, Figures};

/// Most bars of a drawing; more days are drawn together.
const MOST_BARS: i64 = 60;

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 160.0;
/// Room below the bars for the words.
const FOOT: f64 = 20.0;

const SECONDS_PER_DAY: i64 = 86_400;

/// Bounds of the bars of answer times, in hours, and their words.
const TIMES: [(u64, &str); 6] = [
    (8, "8 h"),
    (24, "1 d"),
    (48, "2 d"),
    (72, "3 d"),
    (168, "7 d"),
    (u64::MAX, "more"),
];

/// Writes the page. The title is a name; nothing in it is taken for HTML.
#[must_use]
pub fn page(title: &str, figures: &Figures) -> String {
    let title = escape(title);
    let mut page = format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>{title}</title>\n\
         <style>body{{font:14px sans-serif;max-width:60em;margin:2em auto;color:#222}}\
         table{{border-collapse:collapse;margin:1em 0}}td,th{{border:1px solid #bbb;padding:.2em .6em;\
         text-align:right}}th{{background:#eee}}td:first-child,td.t{{text-align:left}}\
         rect{{fill:#36618e}}text{{font-size:11px;fill:#444}}</style></head>\n<body><h1>{title}</h1>\n"
    );
    let days = by_bars(figures);
    let series = |value: fn(&Day) -> u64| -> Vec<(String, u64)> {
        let bars = days.iter();
        bars.map(|(name, day)| (name.clone(), value(day))).collect()
    };
    for (name, bars) in [
        ("Record refs probed", series(|day| day.refs)),
        ("Hits", series(|day| day.hits)),
        ("Confirmed hits", series(|day| day.confirmed)),
        ("Times to answer", answer_times(&figures.answer_times)),
    ] {
        page.push_str(&drawing(name, &bars));
    }
    page.push_str(&probes(figures));
    page.push_str(&hits(figures));
    page.push_str(&requests(figures));
    if figures.unread > 0 {
        let unread = figures.unread;
        let text =
            "entries are erased, not known to this version, or do not fit, and are not counted";
        // Writing to a text does not fail.
        let _ = writeln!(page, "<p>{unread} {text}.</p>");
    }
    page.push_str("</body></html>\n");
    page
}

/// The days as so many bars as can be told apart, without gaps, each with its first day.
fn by_bars(figures: &Figures) -> Vec<(String, Day)> {
    let first = figures.days.first_key_value().map(|(day, _)| *day);
    let last = figures.days.last_key_value().map(|(day, _)| *day);
    let (Some(first), Some(last)) = (first, last) else {
        return Vec::new();
    };
    let width = (last - first) / MOST_BARS + 1;
    let mut bars = Vec::new();
    let mut from = first;
    while from <= last {
        let mut sum = Day::default();
        for (_, day) in figures.days.range(from..from + width) {
            sum.refs = sum.refs.saturating_add(day.refs);
            sum.hits += day.hits;
            sum.confirmed += day.confirmed;
        }
        bars.push((date(from), sum));
        from += width;
    }
    bars
}

fn date(day: i64) -> String {
    let text = Timestamp::from_seconds(day.saturating_mul(SECONDS_PER_DAY)).to_string();
    text.split('T').next().unwrap_or_default().to_owned()
}

fn answer_times(times: &[Duration]) -> Vec<(String, u64)> {
    let mut bars: Vec<_> = TIMES.map(|(_, name)| (name.to_owned(), 0)).to_vec();
    for time in times {
        let hours = time.as_secs().div_ceil(3600);
        let bar = TIMES.iter().position(|(bound, _)| hours <= *bound);
        bars[bar.unwrap_or(TIMES.len() - 1)].1 += 1;
    }
    bars
}

/// Bars with a scale; the first and the last have their words, all of them if they are few.
#[expect(
    clippy::cast_precision_loss,
    reason = "lengths of bars, a fraction of a pixel at worst"
)]
fn drawing(name: &str, bars: &[(String, u64)]) -> String {
    let most = bars.iter().map(|(_, value)| *value).max().unwrap_or(0);
    let sum: u64 = bars.iter().map(|(_, value)| *value).sum();
    let mut drawing = format!(
        "<h2>{}</h2>\n<p>{sum} in all, at most {most} in a bar</p>\n\
         <svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{}\" role=\"img\" \
         aria-label=\"{}\">\n",
        escape(name),
        HEIGHT + FOOT,
        escape(name)
    );
    let step = WIDTH / bars.len().max(1) as f64;
    for (i, (word, value)) in bars.iter().enumerate() {
        let height = HEIGHT * *value as f64 / most.max(1) as f64;
        let (x, y) = (step * i as f64, HEIGHT - height);
        let word = escape(word);
        let _ = writeln!(
            drawing,
            "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{:.1}\" height=\"{height:.1}\">\
             <title>{word}: {value}</title></rect>",
            (step - 1.0).max(0.5)
        );
        let is_named = bars.len() <= TIMES.len() || i == 0 || i + 1 == bars.len();
        if is_named {
            let at_end = i > 0 && i + 1 == bars.len() && bars.len() > TIMES.len();
            let (x, anchor) = if at_end { (WIDTH, "end") } else { (x, "start") };
            let y = HEIGHT + FOOT - 5.0;
            let _ = writeln!(
                drawing,
                "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{word}</text>"
            );
        }
    }
    drawing.push_str("</svg>\n");
    drawing
}

fn probes(figures: &Figures) -> String {
    let columns = ["prober", "policy", "sessions", "batches", "refs", "matches"];
    let rows = figures.probes.iter().map(|(key, probes)| {
        let numbers = [probes.sessions, probes.batches, probes.refs, probes.matches];
        row(
            &[key.prober.as_str(), key.policy.name()],
            &numbers.map(|n| n.to_string()),
        )
    });
    table("Probes by node and policy", &columns, rows)
}

fn hits(figures: &Figures) -> String {
    let columns = [
        "prober",
        "holder",
        "policy",
        "found",
        "quarantined",
        "confirmed",
        "false",
        "not relevant",
        "retracted",
        "expired",
    ];
    let rows = figures.hits.iter().map(|(key, hits)| {
        let numbers = [
            hits.found,
            hits.quarantined,
            hits.confirmed,
            hits.false_positives,
            hits.not_relevant,
            hits.retracted,
            hits.expired,
        ];
        let names = [key.prober.as_str(), key.holder.as_str(), key.policy.name()];
        row(&names, &numbers.map(|number| number.to_string()))
    });
    table("Hits by pair and policy", &columns, rows)
}

fn requests(figures: &Figures) -> String {
    let columns = [
        "requester",
        "holder",
        "time limit",
        "sent",
        "received",
        "answered",
        "refused",
        "withdrawn",
        "not held",
        "open",
        "overdue",
        "of these judicial",
        "median",
        "90 %",
        "refusals by ground",
    ];
    let rows = figures.requests.iter().map(|(key, line)| {
        let mut cells: Vec<_> = [
            line.sent,
            line.received,
            line.answered,
            line.refused,
            line.withdrawn,
            line.not_held,
            line.open,
            line.overdue,
            line.overdue_judicial,
        ]
        .map(|number| number.to_string())
        .to_vec();
        cells.extend([hours(line.median), hours(line.percentile_90), grounds(line)]);
        let names = [
            key.requester.as_str(),
            key.holder.as_str(),
            key.limit.as_str(),
        ];
        row(&names, &cells)
    });
    table("Requests by pair and urgency", &columns, rows)
}

/// `GROUND=requests`, a space between.
#[must_use]
pub fn grounds(line: &Line) -> String {
    let ground = |(ground, requests): (&RefusalGround, &u64)| format!("{ground}={requests}");
    line.grounds
        .iter()
        .map(ground)
        .collect::<Vec<_>>()
        .join(" ")
}

fn hours(time: Option<Duration>) -> String {
    time.map_or_else(String::new, |time| {
        format!(
            "{} h {} min",
            time.as_secs() / 3600,
            time.as_secs() / 60 % 60
        )
    })
}

fn table(name: &str, columns: &[&str], rows: impl Iterator<Item = String>) -> String {
    let head = columns.join("</th><th>");
    let rows: String = rows.collect();
    format!("<h2>{name}</h2>\n<table><tr><th>{head}</th></tr>\n{rows}</table>\n")
}

fn row(names: &[&str], cells: &[String]) -> String {
    let names = names
        .iter()
        .map(|name| format!("<td class=\"t\">{}</td>", escape(name)));
    let cells = cells
        .iter()
        .map(|cell| format!("<td>{}</td>", escape(cell)));
    let cells: String = names.chain(cells).collect();
    format!("<tr>{cells}</tr>\n")
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn days(numbers: impl IntoIterator<Item = i64>) -> Figures {
        let day = Day {
            refs: 10,
            hits: 2,
            confirmed: 1,
        };
        Figures {
            days: numbers.into_iter().map(|number| (number, day)).collect(),
            ..Figures::default()
        }
    }

    #[test]
    fn a_page_asks_for_nothing_and_takes_no_name_for_html() {
        let page = page("<b>\"a\" & b", &days([20_000, 20_003]));
        assert!(page.contains("&lt;b&gt;&quot;a&quot; &amp; b"));
        assert!(!page.contains("<b>"));
        for outside in ["src=", "href=", "url(", "@import", "<script"] {
            assert!(!page.contains(outside), "{outside}");
        }
        assert!(page.contains("20 in all"), "record refs");
    }

    #[test]
    fn many_days_are_drawn_together_and_none_is_left_out() {
        let figures = days((20_000..20_400).filter(|day| day % 3 == 0));
        let bars = by_bars(&figures);
        assert!(bars.len() <= usize::try_from(MOST_BARS).unwrap() + 1);
        let drawn: u64 = bars.iter().map(|(_, day)| day.hits).sum();
        assert_eq!(
            drawn,
            figures.days.values().map(|day| day.hits).sum::<u64>()
        );
        assert_eq!(by_bars(&days([0]))[0].0, "1970-01-01");
        assert!(by_bars(&Figures::default()).is_empty());
        // Nothing to draw is drawn as nothing.
        assert!(page("a", &Figures::default()).contains("0 in all"));
    }

    #[test]
    fn answer_times_fall_into_the_bar_up_to_whose_bound_they_go() {
        let hour = Duration::from_hours(1);
        let times = [hour * 8, hour * 8 + Duration::from_secs(1), hour * 1000];
        let bars: Vec<_> = answer_times(&times).into_iter().map(|(_, n)| n).collect();
        assert_eq!(bars, [1, 1, 0, 0, 0, 1]);
    }
}
