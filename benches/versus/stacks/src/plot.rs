//! Charts with logarithmic axes, as SVG.
//!
//! ```text
//!   title
//!   y ┤ · ·         lines with their names at the right
//!     └──────── x   ticks: powers of ten of y, and each x of the first line
//! ```

use std::fmt::Write;

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 440.0;
const LEFT: f64 = 80.0;
const RIGHT: f64 = 130.0;
const TOP: f64 = 40.0;
const BOTTOM: f64 = 60.0;
const COLOURS: [&str; 6] = ["#d1495b", "#00798c", "#edae49", "#5c4d7d", "#30638e", "#66a182"];

/// A line.
pub struct Series<'a> {
    pub name: &'a str,
    pub points: Vec<(f64, f64)>,
}

/// A chart; the labels are how a number is written at its axis.
pub struct Chart<'a> {
    pub title: &'a str,
    pub x: &'a str,
    pub x_label: &'a dyn Fn(f64) -> String,
    pub y: &'a str,
    pub y_label: &'a dyn Fn(f64) -> String,
    pub series: Vec<Series<'a>>,
}

/// The decades that hold these numbers, as exponents.
fn decades(values: impl Iterator<Item = f64> + Clone) -> (f64, f64) {
    let least = values.clone().fold(f64::INFINITY, f64::min);
    let most = values.fold(0.0, f64::max);
    let (low, high) = (least.log10().floor(), most.log10().ceil());
    (low, high.max(low + 1.0))
}

impl Chart<'_> {
    /// The picture.
    pub fn svg(&self) -> String {
        let points = || self.series.iter().flat_map(|series| &series.points);
        let (low, high) = decades(points().map(|point| point.1));
        let first = points().map(|point| point.0).fold(f64::INFINITY, f64::min).log10();
        let last = points().map(|point| point.0).fold(0.0, f64::max).log10();
        let x = |value: f64| LEFT + (value.log10() - first) / (last - first) * (WIDTH - LEFT - RIGHT);
        let y = |value: f64| HEIGHT - BOTTOM - (value.log10() - low) / (high - low) * (HEIGHT - TOP - BOTTOM);
        let (right, bottom) = (WIDTH - RIGHT, HEIGHT - BOTTOM);
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" \
             font-size=\"12\">\n<rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"white\"/>\n<text x=\"{LEFT}\" y=\"24\" \
             font-size=\"15\">{}</text>\n<text x=\"{}\" y=\"{}\" text-anchor=\"middle\">{}</text>\n<text transform=\"translate(16 \
             {}) rotate(-90)\" text-anchor=\"middle\">{}</text>\n",
            self.title,
            f64::midpoint(LEFT, right),
            HEIGHT - 14.0,
            self.x,
            f64::midpoint(TOP, bottom),
            self.y
        );
        let mut line = |text: std::fmt::Arguments<'_>| {
            svg.write_fmt(text).expect("a string takes all");
            svg.push('\n');
        };
        for exponent in low as i32..=high as i32 {
            let value = 10_f64.powi(exponent);
            let at = y(value);
            line(format_args!(
                "<path d=\"M{LEFT} {at:.1}H{right}\" stroke=\"#ddd\"/><text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
                LEFT - 8.0,
                at + 4.0,
                (self.y_label)(value)
            ));
        }
        for &(value, _) in self.series.iter().take(1).flat_map(|series| &series.points) {
            let at = x(value);
            line(format_args!(
                "<path d=\"M{at:.1} {bottom}v5\" stroke=\"black\"/><text x=\"{at:.1}\" y=\"{}\" \
                 text-anchor=\"middle\">{}</text>",
                bottom + 20.0,
                (self.x_label)(value)
            ));
        }
        line(format_args!(
            "<path d=\"M{LEFT} {TOP}V{bottom}H{right}\" fill=\"none\" stroke=\"black\"/>"
        ));
        let mut names = Vec::new();
        for (series, colour) in self.series.iter().zip(COLOURS) {
            let Some(&(_, end)) = series.points.last() else {
                continue;
            };
            let path: Vec<_> = series
                .points
                .iter()
                .map(|&(a, b)| format!("{:.1} {:.1}", x(a), y(b)))
                .collect();
            line(format_args!(
                "<path d=\"M{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>",
                path.join("L")
            ));
            names.push((y(end), series.name, colour));
        }
        // Names that would lie on each other move down.
        names.sort_by(|a, b| a.0.total_cmp(&b.0));
        let mut free = f64::NEG_INFINITY;
        for (at, name, colour) in names {
            let at = at.max(free);
            free = at + 14.0;
            line(format_args!(
                "<text x=\"{}\" y=\"{:.1}\" fill=\"{colour}\">{name}</text>",
                right + 8.0,
                at + 4.0
            ));
        }
        svg.push_str("</svg>\n");
        svg
    }
}
