//! Plots of a summary, as SVG files that stand alone.

use plotters::coord::Shift;
use plotters::prelude::*;

use super::measure::Measure;
use super::table::{MeasuredRow, Summary, label};

/// plotters rounds places to whole numbers: drawn larger, a line lies where it should.
const FINE: u32 = 2;
/// Height of a row, in units of a screen's pixel.
const ROW: u32 = 22;
/// Okabe and Ito's blue and orange, darkened to be read on white.
const COLOURS: [RGBColor; 2] = [RGBColor(0x00, 0x68, 0xa8), RGBColor(0xc9, 0x54, 0x00)];
const INK: RGBColor = RGBColor(0x3a, 0x40, 0x4a);
const FAINT: RGBColor = RGBColor(0xe3, 0xe6, 0xea);

/// `measure` of every critic in the first round: its value with the interval over prompts, sampled and
/// greedy. `None` where nobody was measured by it.
pub fn intervals(summary: &Summary, measure: Measure, reference: Option<f64>) -> Option<String> {
    let rows: Vec<&MeasuredRow> =
        summary.rows.iter().filter(|row| row.round == 1 && row.prompts.contains_key(&measure)).collect();
    let mut labels: Vec<String> = Vec::new();
    for row in &rows {
        let name = label(row);
        if !labels.contains(&name) {
            labels.push(name);
        }
    }
    let mut temperatures: Vec<f32> = rows.iter().map(|row| row.temperature).collect();
    temperatures.sort_by(|a, b| b.total_cmp(a));
    temperatures.dedup();
    let ends = rows.iter().flat_map(|row| [row.prompts[&measure].low, row.prompts[&measure].high]);
    let (low, high) = ends.chain(reference).fold((f64::MAX, f64::MIN), |(l, h), x| (l.min(x), h.max(x)));
    if rows.is_empty() {
        return None;
    }
    let room = (high - low).max(0.02) * 0.06;
    let size = (760 * FINE, (labels.len() as u32 * ROW + 90) * FINE);
    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, size).into_drawing_area();
        let title = format!("{} (95 % intervals over prompts)", measure.name());
        let drawn = draw(
            &root,
            &title,
            &labels,
            (low - room, high + room),
            |chart| {
                for row in &rows {
                    let at = labels.iter().position(|name| *name == label(row)).expect("it is there") as f64;
                    let which = temperatures.iter().position(|t| *t == row.temperature).unwrap_or(0).min(1);
                    let y = -at + if which == 0 { 0.14 } else { -0.18 };
                    let interval = row.prompts[&measure];
                    let colour = COLOURS[which];
                    chart.push((colour, interval.low, interval.high, interval.value, y));
                }
            },
            reference,
            &temperatures,
        );
        drawn.expect("drawing into a string does not fail");
        root.present().expect("drawing into a string does not fail");
    }
    Some(svg)
}

type Marks = Vec<(RGBColor, f64, f64, f64, f64)>;
type Drawn<'a> = Result<(), DrawingAreaErrorKind<<SVGBackend<'a> as DrawingBackend>::ErrorType>>;

fn draw<'a>(
    root: &DrawingArea<SVGBackend<'a>, Shift>,
    title: &str,
    labels: &[String],
    x: (f64, f64),
    fill: impl FnOnce(&mut Marks),
    reference: Option<f64>,
    temperatures: &[f32],
) -> Drawn<'a> {
    let font = |size: u32| ("sans-serif", size * FINE).into_font().color(&INK);
    root.fill(&WHITE)?;
    let count = labels.len() as f64;
    let mut chart = ChartBuilder::on(root)
        .caption(title, font(15))
        .margin(8 * FINE)
        .margin_right(16 * FINE)
        .x_label_area_size(28 * FINE)
        .y_label_area_size(210 * FINE)
        .build_cartesian_2d(x.0..x.1, -count + 0.4..0.9)?;
    let name = |y: &f64| {
        let near = -y.round();
        if (near + y).abs() < 1e-6 { labels.get(near as usize).cloned().unwrap_or_default() } else { String::new() }
    };
    chart
        .configure_mesh()
        .disable_y_mesh()
        .x_labels(8)
        .y_labels(0)
        .bold_line_style(FAINT.stroke_width(FINE))
        .light_line_style(TRANSPARENT)
        .axis_style(FAINT.stroke_width(FINE))
        .label_style(font(12))
        .y_label_formatter(&name)
        .x_label_formatter(&|value| format!("{value:.2}"))
        .draw()?;
    if let Some(reference) = reference {
        let line = vec![(reference, -count + 0.4), (reference, 0.9)];
        chart.draw_series(DashedLineSeries::new(line, 5 * FINE, 4 * FINE, INK.stroke_width(FINE)))?;
    }
    let mut marks = Marks::new();
    fill(&mut marks);
    for (colour, low, high, value, y) in marks {
        chart.draw_series(LineSeries::new(vec![(low, y), (high, y)], colour.stroke_width(2 * FINE)))?;
        chart.draw_series([Circle::new((value, y), 4 * FINE, colour.filled())])?;
    }
    // Names at the left: a label for each row and no other.
    let area = chart.plotting_area();
    for (at, name) in labels.iter().enumerate() {
        let (left, middle) = area.map_coordinate(&(x.0, -(at as f64)));
        let style = font(12).pos(plotters::style::text_anchor::Pos::new(
            plotters::style::text_anchor::HPos::Right,
            plotters::style::text_anchor::VPos::Center,
        ));
        root.draw(&Text::new(name.clone(), (left - 8 * FINE as i32, middle), style))?;
    }
    for (which, temperature) in temperatures.iter().take(2).enumerate() {
        let text = if *temperature == 0.0 { "greedy".to_owned() } else { format!("temperature {temperature}") };
        let place =
            (20 * FINE as i32 + which as i32 * 110 * FINE as i32, root.dim_in_pixel().1 as i32 - 18 * FINE as i32);
        root.draw(&Circle::new((place.0, place.1 + 6 * FINE as i32), 4 * FINE, COLOURS[which].filled()))?;
        root.draw(&Text::new(text, (place.0 + 8 * FINE as i32, place.1), font(12)))?;
    }
    Ok(())
}

/// Predicted advantage of held-out critiques against their measured utility: the mean advantage, and
/// where the middle half of them lies, for each utility that occurs.
pub fn advantage(title: &str, points: &[(f64, f64)]) -> Option<String> {
    let mut utilities: Vec<f64> = points.iter().map(|point| point.1).collect();
    utilities.sort_by(f64::total_cmp);
    utilities.dedup();
    let columns: Vec<(f64, Vec<f64>)> = utilities
        .iter()
        .map(|&utility| {
            let mut of: Vec<f64> = points.iter().filter(|point| point.1 == utility).map(|point| point.0).collect();
            of.sort_by(f64::total_cmp);
            (utility, of)
        })
        .collect();
    let quartile = |of: &[f64], share: f64| of[((of.len() - 1) as f64 * share).round() as usize];
    let ends = columns.iter().flat_map(|(_, of)| [quartile(of, 0.1), quartile(of, 0.9)]);
    let (low, high) = ends.chain([-0.5, 0.5]).fold((f64::MAX, f64::MIN), |(l, h), x| (l.min(x), h.max(x)));
    if columns.is_empty() {
        return None;
    }
    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, (560 * FINE, 380 * FINE)).into_drawing_area();
        let drawn = (|| {
            root.fill(&WHITE)?;
            let font = |size: u32| ("sans-serif", size * FINE).into_font().color(&INK);
            let mut chart = ChartBuilder::on(&root)
                .caption(title, font(15))
                .margin(10 * FINE)
                .x_label_area_size(40 * FINE)
                .y_label_area_size(56 * FINE)
                .build_cartesian_2d(-0.08..1.08, low - 0.05..high + 0.05)?;
            chart
                .configure_mesh()
                .x_desc("measured critique utility")
                .y_desc("predicted advantage (middle half, 10–90 %, mean)")
                .bold_line_style(FAINT.stroke_width(FINE))
                .light_line_style(TRANSPARENT)
                .axis_style(FAINT.stroke_width(FINE))
                .label_style(font(12))
                .axis_desc_style(font(12))
                .draw()?;
            let exact = vec![(0.0, -0.5), (1.0, 0.5)];
            chart.draw_series(DashedLineSeries::new(exact, 5 * FINE, 4 * FINE, INK.stroke_width(FINE)))?;
            for (utility, of) in &columns {
                let mean = of.iter().sum::<f64>() / of.len() as f64;
                let line = |a, b, width| {
                    LineSeries::new(vec![(*utility, a), (*utility, b)], COLOURS[0].stroke_width(width * FINE))
                };
                chart.draw_series(line(quartile(of, 0.1), quartile(of, 0.9), 1))?;
                chart.draw_series(line(quartile(of, 0.25), quartile(of, 0.75), 5))?;
                chart.draw_series([Circle::new((*utility, mean), 5 * FINE, COLOURS[1].filled())])?;
            }
            root.present()
        })();
        drawn.expect("drawing into a string does not fail");
    }
    Some(svg)
}
