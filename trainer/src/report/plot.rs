//! One chart as SVG.
//!
//! Colours are written as those of the light theme; the page's style replaces each by its
//! variable, so that the dark theme can have others.

use plotters::coord::Shift;
use plotters::prelude::*;

use super::page::number;
use super::{Entry, Figure};

/// What a colour stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    Ink,
    Faint,
    Pale,
    First,
    Second,
    Third,
}

impl Role {
    pub const ALL: [Role; 6] = [Self::Ink, Self::Faint, Self::Pale, Self::First, Self::Second, Self::Third];

    /// The name of the page's variable.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ink => "ink",
            Self::Faint => "faint",
            Self::Pale => "pale",
            Self::First => "first",
            Self::Second => "second",
            Self::Third => "third",
        }
    }

    /// The light theme's colour. Blue, orange and green that are told apart with any colour
    /// vision (Okabe and Ito 2008), darkened to be read on white.
    pub fn light(self) -> RGBColor {
        match self {
            Self::Ink => RGBColor(0x3a, 0x40, 0x4a),
            Self::Faint => RGBColor(0xe3, 0xe6, 0xea),
            Self::Pale => RGBColor(0xb4, 0xce, 0xe8),
            Self::First => RGBColor(0x00, 0x68, 0xa8),
            Self::Second => RGBColor(0xc9, 0x54, 0x00),
            Self::Third => RGBColor(0x00, 0x84, 0x60),
        }
    }

    /// The dark theme's.
    pub fn dark(self) -> RGBColor {
        match self {
            Self::Ink => RGBColor(0xc4, 0xca, 0xd4),
            Self::Faint => RGBColor(0x2c, 0x31, 0x3a),
            Self::Pale => RGBColor(0x2f, 0x4d, 0x6b),
            Self::First => RGBColor(0x5a, 0xb4, 0xee),
            Self::Second => RGBColor(0xf5, 0x94, 0x4e),
            Self::Third => RGBColor(0x3f, 0xc7, 0x9e),
        }
    }
}

/// How points are drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mark {
    Line { width: u32 },
    DottedLine,
    Dashes,
    Points,
}

#[derive(Clone, Debug)]
pub(super) struct Series {
    pub role: Role,
    /// For the legend; empty where there is nothing to tell apart.
    pub label: String,
    pub points: Vec<(f64, f64)>,
    pub mark: Mark,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Chart {
    pub title: &'static str,
    /// What the horizontal axis shows.
    pub x: &'static str,
    /// What the vertical axis shows, where the title does not say it.
    pub y: &'static str,
    pub series: Vec<Series>,
    /// A horizontal line, and what it means.
    pub level: Option<(f64, &'static str)>,
    /// Whether 0 is in the picture, whatever the values.
    pub from_zero: bool,
}

/// Width and height in units of a screen's pixel.
const SIZE: (u32, u32) = (560, 300);
/// plotters rounds places to whole numbers: drawn larger, and shown at its size, a curve is
/// smooth.
const FINE: u32 = 4;
/// Most points of a line: as many as there are places on it.
const MOST_POINTS: usize = 600;

impl Chart {
    /// The figure; none where there is nothing to show.
    pub fn figure(mut self) -> Option<Figure> {
        for series in &mut self.series {
            series.points.retain(|(x, y)| x.is_finite() && y.is_finite());
        }
        self.series.retain(|series| !series.points.is_empty());
        let points = || self.series.iter().flat_map(|series| series.points.iter().copied());
        let x = range(&points().map(|point| point.0).collect::<Vec<_>>())?;
        let level = self.level.map(|level| level.0);
        let zero = self.from_zero.then_some(0.0);
        let y = range(&points().map(|point| point.1).chain(level).chain(zero).collect::<Vec<_>>())?;
        if let Some((level, label)) = self.level {
            let points = vec![(x.0, level), (x.1, level)];
            self.series.insert(0, Series { role: Role::Ink, label: label.to_owned(), points, mark: Mark::Dashes });
        }
        let mut svg = String::new();
        {
            let root = SVGBackend::with_string(&mut svg, (SIZE.0 * FINE, SIZE.1 * FINE)).into_drawing_area();
            self.draw(&root, padded(x), padded(y)).expect("drawing into a string does not fail");
            root.present().expect("drawing into a string does not fail");
        }
        let described = format!("<svg role=\"img\" aria-label=\"{}\" ", super::page::escape(self.title));
        let svg = svg.replacen("<svg ", &described, 1);
        let entry =
            |series: Series| Entry { role: series.role, dashed: series.mark == Mark::Dashes, label: series.label };
        let legend = self.series.into_iter().map(entry).collect();
        Some(Figure { title: self.title, svg, legend })
    }

    fn draw<'a>(
        &self,
        root: &DrawingArea<SVGBackend<'a>, Shift>,
        x: (f64, f64),
        y: (f64, f64),
    ) -> Result<(), DrawingAreaErrorKind<<SVGBackend<'a> as DrawingBackend>::ErrorType>> {
        let mut chart = ChartBuilder::on(root)
            .margin(6 * FINE)
            .margin_right(14 * FINE)
            .x_label_area_size(40 * FINE)
            .y_label_area_size(if self.y.is_empty() { 52 } else { 62 } * FINE)
            .build_cartesian_2d(x.0..x.1, y.0..y.1)?;
        let text = ("sans-serif", 12 * FINE).into_font().color(&Role::Ink.light());
        chart
            .configure_mesh()
            .x_labels(7)
            .y_labels(6)
            .bold_line_style(Role::Faint.light().stroke_width(FINE))
            .light_line_style(TRANSPARENT)
            .axis_style(Role::Faint.light().stroke_width(FINE))
            .label_style(text.clone())
            .axis_desc_style(text)
            .x_desc(self.x)
            .y_desc(self.y)
            .set_all_tick_mark_size(4 * FINE)
            .x_label_formatter(&|value| number(*value))
            .y_label_formatter(&|value| number(*value))
            .draw()?;
        for Series { role, points, mark, .. } in &self.series {
            let colour = role.light();
            match *mark {
                Mark::Line { width } => {
                    chart.draw_series(LineSeries::new(points.clone(), colour.stroke_width(width * FINE)))?;
                }
                Mark::DottedLine => {
                    chart.draw_series(LineSeries::new(points.clone(), colour.stroke_width(2 * FINE)))?;
                    chart.draw_series(points.iter().map(|&point| Circle::new(point, 3 * FINE, colour.filled())))?;
                }
                Mark::Dashes => {
                    let style = colour.stroke_width(FINE);
                    chart.draw_series(DashedLineSeries::new(points.clone(), 5 * FINE, 4 * FINE, style))?;
                }
                Mark::Points => {
                    let style = colour.mix(0.4).filled();
                    chart.draw_series(points.iter().map(|&point| Circle::new(point, 3 * FINE, style)))?;
                }
            }
        }
        Ok(())
    }
}

/// Least and greatest value; none where there are no finite ones.
pub(super) fn range(values: &[f64]) -> Option<(f64, f64)> {
    let finite = || values.iter().copied().filter(|value| value.is_finite());
    let (low, high) = (finite().reduce(f64::min)?, finite().reduce(f64::max)?);
    Some((low, high))
}

/// With room at both ends, and never empty.
fn padded((low, high): (f64, f64)) -> (f64, f64) {
    let width = high - low;
    let room = if width > high.abs() * 1e-9 { width * 0.04 } else { high.abs().max(1e-6) * 0.1 };
    (low - room, high + room)
}

/// Exponential moving average: the first value, then `weight` of each new one. With 1 nothing
/// is smoothed.
pub(super) fn smoothed(points: &[(f64, f64)], weight: f64) -> Vec<(f64, f64)> {
    let mut mean = None;
    let finite = points.iter().filter(|point| point.1.is_finite());
    finite
        .map(|&(x, y)| {
            let next = mean.map_or(y, |mean: f64| mean + weight * (y - mean));
            mean = Some(next);
            (x, next)
        })
        .collect()
}

/// At most [`MOST_POINTS`] means of neighbours.
pub(super) fn thinned(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let share = points.len().div_ceil(MOST_POINTS).max(1);
    let mean = |chunk: &[(f64, f64)]| {
        let sum = chunk.iter().fold((0.0, 0.0), |sum, point| (sum.0 + point.0, sum.1 + point.1));
        (sum.0 / chunk.len() as f64, sum.1 / chunk.len() as f64)
    };
    points.chunks(share).map(mean).collect()
}

/// Slope and intercept of the least-squares line; none where all x are the same.
pub(super) fn least_squares(x: &[f64], y: &[f64]) -> Option<(f64, f64)> {
    let count = x.len() as f64;
    let (mean_x, mean_y) = (x.iter().sum::<f64>() / count, y.iter().sum::<f64>() / count);
    let spread: f64 = x.iter().map(|x| (x - mean_x).powi(2)).sum();
    let slope = x.iter().zip(y).map(|(x, y)| (x - mean_x) * (y - mean_y)).sum::<f64>() / spread;
    (spread > 0.0 && slope.is_finite()).then_some((slope, mean_y - slope * mean_x))
}
