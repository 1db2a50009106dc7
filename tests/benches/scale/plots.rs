//! Plots of what was measured: lines in SVG, by nothing but text.

use std::fmt::Write as _;

use crate::matching::Matched;
use crate::times::float;

const WIDTH: f64 = 1000.0;
const HEIGHT: f64 = 420.0;
/// Around the lines: left, right, top, bottom. On the right they have their names.
const MARGINS: (f64, f64, f64, f64) = (70.0, 320.0, 40.0, 60.0);
const COLOURS: [&str; 6] = [
    "#36618e", "#b3572b", "#4c7a34", "#7b4b94", "#8a6d1a", "#5b5b5b",
];
/// Lines of the grid.
const STEPS: u32 = 5;

/// Lines over two axes, both from 0 unless the first is logarithmic.
pub(crate) struct Plot {
    title: String,
    x: &'static str,
    y: &'static str,
    logarithmic: bool,
    lines: Vec<Line>,
}

struct Line {
    name: String,
    points: Vec<(f64, f64)>,
}

/// What a probe costs, by how many holders are asked.
pub(crate) fn by_holders(matched: &[Matched]) -> Plot {
    let mut lines = Vec::new();
    for of in matched.iter().filter(|of| of.selectors >= 1_000_000) {
        let micros =
            |holders: usize, ns: f64| (float(holders as u64), float(holders as u64) * ns / 1e3);
        let (selectors, all) = (of.selectors, of.holders);
        lines.push(Line {
            name: format!("matcher, {all} × {selectors} selectors"),
            points: of
                .by_holders
                .iter()
                .map(|at| micros(at.holders, at.cost.ns))
                .collect(),
        });
        lines.push(Line {
            name: format!("limit of {all} × {selectors}, lines asked for once"),
            points: vec![(0.0, 0.0), micros(all, of.limit_once.ns)],
        });
    }
    Plot {
        title: "Cost of a probe by holders, one core".into(),
        x: "holders",
        y: "µs",
        logarithmic: false,
        lines,
    }
}

/// What a test costs, by how many selectors a filter has room for.
pub(crate) fn by_selectors(matched: &[Matched]) -> Plot {
    let mut of_8: Vec<_> = matched.iter().filter(|of| of.holders == 8).collect();
    of_8.sort_by_key(|of| of.selectors);
    let line = |name: &str, ns: fn(&Matched) -> f64| Line {
        name: name.into(),
        points: of_8
            .iter()
            .map(|of| (float(of.selectors), ns(of)))
            .collect(),
    };
    Plot {
        title: "Cost of a test by selectors in each of 8 filters, one core".into(),
        x: "selectors",
        y: "ns",
        logarithmic: true,
        lines: vec![
            line("matcher, huge pages", |of| of.at_all().ns),
            line("matcher, small pages", |of| of.in_small_pages.ns),
            line("matcher, mapped files", |of| of.in_files.ns),
            line("limit, lines asked for once", |of| of.limit_once.ns),
            line("limit, lines asked for twice", |of| of.limit_twice.ns),
        ],
    }
}

impl Plot {
    /// As a file of its own.
    pub(crate) fn svg(&self) -> String {
        let mut out = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{HEIGHT}\" \
             role=\"img\" aria-label=\"{0}\" font-family=\"sans-serif\" font-size=\"11\">\n\
             <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n",
            self.title
        );
        let (left, right, top, _) = MARGINS;
        text(&mut out, (left, top - 16.0), "start", &self.title);
        self.grid(&mut out);
        for (number, line) in self.lines.iter().enumerate() {
            let colour = COLOURS[number % COLOURS.len()];
            let place = |point: &(f64, f64)| {
                let (x, y) = self.place(*point);
                format!("{x:.1},{y:.1}")
            };
            let points: Vec<_> = line.points.iter().map(place).collect();
            // Writing to a string cannot fail.
            let _ = writeln!(
                out,
                "<polyline fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\" points=\"{}\"/>",
                points.join(" ")
            );
            let y = top + 14.0 + 15.0 * float(number as u64);
            let _ = writeln!(
                out,
                "<rect x=\"{}\" y=\"{}\" width=\"14\" height=\"3\" fill=\"{colour}\"/>",
                WIDTH - right + 16.0,
                y - 5.0
            );
            text(&mut out, (WIDTH - right + 36.0, y), "start", &line.name);
        }
        out.push_str("</svg>\n");
        out
    }

    /// Axes, their words, and lines to read values by.
    fn grid(&self, out: &mut String) {
        let (left, right, top, bottom) = MARGINS;
        let (end, foot) = (WIDTH - right, HEIGHT - bottom);
        let (most_x, most_y) = self.most();
        for step in 0..=STEPS {
            let part = f64::from(step) / f64::from(STEPS);
            let y = foot - part * (foot - top);
            let _ = writeln!(
                out,
                "<line x1=\"{left}\" y1=\"{y:.1}\" x2=\"{end}\" y2=\"{y:.1}\" stroke=\"#ddd\"/>"
            );
            text(
                out,
                (left - 8.0, y + 4.0),
                "end",
                &format!("{:.1}", part * most_y),
            );
        }
        let mut values: Vec<_> = self.points().map(|(x, _)| x).collect();
        values.sort_by(f64::total_cmp);
        values.dedup();
        for value in values {
            // Below a sixteenth of the axis words would lie on each other.
            if self.logarithmic || value * 16.0 >= most_x {
                let (x, _) = self.place((value, 0.0));
                text(out, (x, foot + 18.0), "middle", &format!("{value:.0}"));
            }
        }
        text(out, (end, foot + 38.0), "end", self.x);
        text(out, (left - 8.0, top - 16.0), "end", self.y);
    }

    fn points(&self) -> impl Iterator<Item = (f64, f64)> {
        self.lines
            .iter()
            .flat_map(|line| line.points.iter().copied())
    }

    /// The ends of both axes.
    fn most(&self) -> (f64, f64) {
        let most = self.points().fold((1.0_f64, 1.0_f64), |(x, y), point| {
            (x.max(point.0), y.max(point.1))
        });
        (most.0, most.1 * 1.1)
    }

    fn place(&self, (x, y): (f64, f64)) -> (f64, f64) {
        let (left, right, top, bottom) = MARGINS;
        let (most_x, most_y) = self.most();
        let part = if self.logarithmic {
            let least = self.points().fold(most_x, |least, (x, _)| least.min(x));
            (x / least).ln() / (most_x / least).ln().max(f64::MIN_POSITIVE)
        } else {
            x / most_x
        };
        (
            left + part * (WIDTH - left - right),
            HEIGHT - bottom - y / most_y * (HEIGHT - top - bottom),
        )
    }
}

/// Our own words: nothing in them has to be escaped.
fn text(out: &mut String, (x, y): (f64, f64), anchor: &str, words: &str) {
    let _ = writeln!(
        out,
        "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" fill=\"#444\">{words}</text>"
    );
}
