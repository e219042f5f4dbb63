//! The time of a prompt against its length, as SVG.

use std::path::Path;

use plotters::prelude::*;

/// The line and the parabola through zero, `a·n + b·n²`, whose relative errors have the least
/// squares.
pub fn fit(points: &[(f64, f64)]) -> (f64, f64) {
    // Normal equations of t/t = a·n/t + b·n²/t.
    let (mut aa, mut ab, mut bb, mut ay, mut by) = (0.0, 0.0, 0.0, 0.0, 0.0);
    for &(n, t) in points {
        let (u, v) = (n / t, n * n / t);
        (aa, ab, bb, ay, by) = (aa + u * u, ab + u * v, bb + v * v, ay + u, by + v);
    }
    let determinant = aa * bb - ab * ab;
    ((ay * bb - by * ab) / determinant, (aa * by - ab * ay) / determinant)
}

pub fn draw(points: &[(f64, f64)], (linear, quadratic): (f64, f64), file: &Path) -> Result<(), String> {
    let most = points.iter().fold((0.0f64, 0.0f64), |most, p| (most.0.max(p.0), most.1.max(p.1)));
    let error = |error: &dyn std::fmt::Display| format!("{}: {error}", file.display());
    let area = SVGBackend::new(file, (720, 420)).into_drawing_area();
    area.fill(&WHITE).map_err(|e| error(&e))?;
    let mut chart = ChartBuilder::on(&area)
        .margin(16)
        .x_label_area_size(40)
        .y_label_area_size(56)
        .build_cartesian_2d(0.0..most.0 * 1.02, 0.0..most.1 * 1.08)
        .map_err(|e| error(&e))?;
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(RGBColor(0xe3, 0xe6, 0xea))
        .x_label_formatter(&|x| format!("{x:.0}"))
        .y_label_formatter(&|y| format!("{y:.0}"))
        .x_desc("prompt, tokens")
        .y_desc("time, seconds")
        .draw()
        .map_err(|e| error(&e))?;
    let (blue, orange) = (RGBColor(0x00, 0x68, 0xa8), RGBColor(0xc9, 0x54, 0x00));
    let curve = |f: &dyn Fn(f64) -> f64| -> Vec<(f64, f64)> {
        (0..=100).map(|i| most.0 * f64::from(i) / 100.0).map(|n| (n, f(n))).collect()
    };
    for (name, colour, points) in [
        ("a·n + b·n²", blue, curve(&|n| linear * n + quadratic * n * n)),
        ("a·n: all but attention over the context", orange, curve(&|n| linear * n)),
    ] {
        chart
            .draw_series(LineSeries::new(points, colour.stroke_width(2)))
            .map_err(|e| error(&e))?
            .label(name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 20, y)], colour.stroke_width(2)));
    }
    chart
        .draw_series(points.iter().map(|&point| Circle::new(point, 4, blue.filled())))
        .map_err(|e| error(&e))?
        .label("measured")
        .legend(move |(x, y)| Circle::new((x + 10, y), 4, blue.filled()));
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .background_style(WHITE)
        .draw()
        .map_err(|e| error(&e))?;
    area.present().map_err(|e| error(&e))
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_fit_finds_what_it_was_made_from() {
        let points: Vec<_> = [100.0, 500.0, 3000.0].map(|n| (n, 2e-4 * n + 3e-8 * n * n)).into();
        let (a, b) = super::fit(&points);
        assert!((a - 2e-4).abs() < 1e-9 && (b - 3e-8).abs() < 1e-12, "{a} {b}");
    }
}
