//! Points to plots: one HTML page of SVG, no script and nothing to load.

use std::fmt::Write as _;

use crate::report::Spread;

/// One plot: values with what was measured there.
#[derive(Debug, Clone)]
pub struct Curve {
    /// Above it.
    pub title: String,
    /// In ascending order of the value.
    pub points: Vec<(u64, Spread)>,
}

const WIDTH: f64 = 420.0;
const HEIGHT: f64 = 220.0;
const LEFT: f64 = 70.0;
const BOTTOM: f64 = 36.0;
const TOP: f64 = 28.0;

/// The page.
pub(super) fn page(curves: &[Curve]) -> String {
    let mut out = String::from(
        "<!doctype html><meta charset=\"utf-8\"><title>hikyaku-bench scale</title>\n\
         <style>body{font:14px sans-serif}svg{margin:8px}text{font:11px sans-serif}</style>\n",
    );
    for curve in curves.iter().filter(|curve| !curve.points.is_empty()) {
        svg(curve, &mut out);
    }
    out
}

/// One plot: a logarithmic axis for the value, a linear one from 0 for the figure, and for each point
/// its median with a bar from least to greatest.
fn svg(curve: &Curve, out: &mut String) {
    let highest = curve.points.iter().map(|(_, s)| s.max).fold(1e-9, f64::max);
    let log = |value: u64| (value.max(1) as f64).ln();
    let first = curve.points.first().map_or(0.0, |(value, _)| log(*value));
    let last = curve.points.last().map_or(1.0, |(value, _)| log(*value));
    let span = (last - first).max(1e-9);
    let x = |value: u64| LEFT + (log(value) - first) / span * (WIDTH - LEFT - 40.0);
    let y = |figure: f64| HEIGHT - BOTTOM - figure / highest * (HEIGHT - BOTTOM - TOP);
    // A String takes every write.
    let _ = writeln!(
        out,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{HEIGHT}\">\
         <text x=\"{LEFT}\" y=\"16\" font-weight=\"bold\">{}</text>",
        escaped(&curve.title)
    );
    for step in 0..=4 {
        let figure = highest * f64::from(step) / 4.0;
        let at = y(figure);
        let _ = writeln!(
            out,
            "<line x1=\"{LEFT}\" x2=\"{WIDTH}\" y1=\"{at:.1}\" y2=\"{at:.1}\" stroke=\"#ddd\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            LEFT - 6.0,
            at + 4.0,
            short(figure)
        );
    }
    let mut line = String::new();
    for (value, spread) in &curve.points {
        let (at, middle) = (x(*value), y(spread.median));
        let _ = write!(line, "{at:.1},{middle:.1} ");
        let _ = writeln!(
            out,
            "<line x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"{:.1}\" y2=\"{:.1}\" stroke=\"#469\"/>\
             <circle cx=\"{at:.1}\" cy=\"{middle:.1}\" r=\"3\" fill=\"#147\"/>\
             <text x=\"{at:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
            y(spread.min),
            y(spread.max),
            HEIGHT - BOTTOM + 16.0,
            short(*value as f64)
        );
    }
    let _ = writeln!(
        out,
        "<polyline points=\"{}\" fill=\"none\" stroke=\"#147\"/></svg>",
        line.trim_end()
    );
}

/// A number in few characters.
fn short(value: f64) -> String {
    match value {
        v if v >= 1e6 => format!("{:.3} M", v / 1e6),
        v if v >= 1e4 => format!("{:.0} k", v / 1e3),
        v if v >= 100.0 => format!("{v:.0}"),
        v => format!("{v:.1}"),
    }
    .replace(".000", "")
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_holds_a_plot_for_each_curve_with_points() {
        let spread = |median| Spread {
            median,
            min: median - 1.0,
            max: median + 1.0,
        };
        let curves = [
            Curve {
                title: "a < b".to_owned(),
                points: vec![(1, spread(10.0)), (1_000_000, spread(12.0))],
            },
            Curve {
                title: "one".to_owned(),
                points: vec![(7, spread(3.0))],
            },
            Curve {
                title: "none".to_owned(),
                points: Vec::new(),
            },
        ];
        let page = page(&curves);
        assert_eq!(page.matches("<svg").count(), 2);
        assert_eq!(page.matches("<circle").count(), 3);
        assert!(page.contains("a &lt; b") && !page.contains("NaN"), "{page}");
        assert!(page.contains(">1 M<"), "{page}");
    }
}
