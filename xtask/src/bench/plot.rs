//! Draws the scaling curves as SVG.

use std::fmt::Write;

use super::figure::Figure;

/// A curve: the figures whose names are the prefix and a number.
struct Curve {
    title: &'static str,
    axis: &'static str,
    prefix: &'static str,
    /// The number of the figure that all others are compared with.
    base: u32,
}

const CURVES: [Curve; 2] = [
    Curve {
        title: "Frames per second by exact rules, 10 000 flows (1 rule = 1)",
        axis: "rules",
        prefix: "rules_",
        base: 1,
    },
    Curve {
        title: "Frames per second by queues, one worker (1 queue = 1)",
        axis: "queues",
        prefix: "queues_",
        base: 1,
    },
];

const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 300.0;
const MARGIN: f64 = 50.0;

/// Returns all curves, one below the other, as an SVG document.
pub(crate) fn svg(figures: &[Figure]) -> String {
    let height = HEIGHT * CURVES.len() as f64;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"{WIDTH}\" height=\"{height}\" fill=\"white\"/>\n"
    );
    for (number, curve) in CURVES.iter().enumerate() {
        let _ = writeln!(
            svg,
            "<g transform=\"translate(0 {})\">",
            HEIGHT * number as f64
        );
        draw(&mut svg, curve, &points(curve, figures));
        svg.push_str("</g>\n");
    }
    svg.push_str("</svg>\n");
    svg
}

/// Returns number, ratio and spread of each figure of a curve, ascending.
fn points(curve: &Curve, figures: &[Figure]) -> Vec<(u32, f64, [f64; 2])> {
    let mut points: Vec<_> = figures
        .iter()
        .filter_map(|figure| {
            let number = figure.name.strip_prefix(curve.prefix)?.parse().ok()?;
            Some((number, figure.ratio(), figure.spread()))
        })
        .chain([(curve.base, 1.0, [1.0; 2])])
        .collect();
    points.sort_by_key(|(number, ..)| *number);
    points
}

fn draw(svg: &mut String, curve: &Curve, points: &[(u32, f64, [f64; 2])]) {
    let top = points
        .iter()
        .map(|(_, ratio, [_, high])| ratio * high)
        .fold(1.2, f64::max);
    let step = (WIDTH - 2.0 * MARGIN) / (points.len().max(2) - 1) as f64;
    let x = |index: usize| MARGIN + step * index as f64;
    let y = |ratio: f64| HEIGHT - MARGIN - (HEIGHT - 2.0 * MARGIN) * ratio / top;
    let mut text = |x: f64, y: f64, anchor: &str, text: &str| {
        let _ = writeln!(
            svg,
            "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{text}</text>"
        );
    };
    text(MARGIN, 25.0, "start", curve.title);
    text(WIDTH - MARGIN, HEIGHT - 12.0, "end", curve.axis);
    for tenth in (0..=(top * 10.0) as u32).step_by(2) {
        let ratio = f64::from(tenth) / 10.0;
        text(MARGIN - 6.0, y(ratio) + 4.0, "end", &format!("{ratio:.1}"));
    }
    for (index, (number, ..)) in points.iter().enumerate() {
        text(
            x(index),
            HEIGHT - MARGIN + 16.0,
            "middle",
            &number.to_string(),
        );
    }
    for tenth in (0..=(top * 10.0) as u32).step_by(2) {
        let at = y(f64::from(tenth) / 10.0);
        let _ = writeln!(
            svg,
            "<path d=\"M{MARGIN} {at:.1}H{}\" stroke=\"#ddd\"/>",
            WIDTH - MARGIN
        );
    }
    let mut line = String::new();
    for (index, (_, ratio, [low, high])) in points.iter().enumerate() {
        let (x, command) = (x(index), if index == 0 { 'M' } else { 'L' });
        let _ = write!(line, "{command}{x:.1} {:.1}", y(*ratio));
        let _ = writeln!(
            svg,
            "<path d=\"M{x:.1} {:.1}V{:.1}\" stroke=\"#888\"/>\
             <circle cx=\"{x:.1}\" cy=\"{:.1}\" r=\"3\" fill=\"#1f5fa8\"/>",
            y(ratio * low),
            y(ratio * high),
            y(*ratio)
        );
    }
    let _ = writeln!(
        svg,
        "<path d=\"{line}\" fill=\"none\" stroke=\"#1f5fa8\" stroke-width=\"1.5\"/>"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn curves_have_a_point_per_figure_and_one_for_what_they_are_compared_with() {
        let figure = |name: &str, a: f64| Figure {
            name: name.to_owned(),
            a: vec![a],
            again: vec![a],
            b: vec![2.0],
            ..Figure::default()
        };
        let figures = [
            figure("rules_10000", 1.0),
            figure("rules_10000_over_1", 1.0),
            figure("rules_0", 4.0),
        ];
        let points = points(&CURVES[0], &figures);
        let numbers: Vec<_> = points
            .iter()
            .map(|(number, ratio, _)| (*number, *ratio))
            .collect();
        assert_eq!(numbers, [(0, 2.0), (1, 1.0), (10000, 0.5)]);
        let svg = svg(&figures);
        assert!(svg.starts_with("<svg") && svg.ends_with("</svg>\n"));
        assert_eq!(svg.matches("<circle").count(), 4);
    }
}
