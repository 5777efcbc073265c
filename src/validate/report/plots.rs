//! The report's plots, as SVG text.

use super::{Bin, Report, TensorInfo};
use haikuq_format::spec::TensorClass;
use plotters::coord::Shift;
use plotters::prelude::*;

/// Drawing failed.
#[derive(Debug, thiserror::Error)]
#[error("cannot draw {plot}: {why}")]
pub struct PlotError {
    plot: &'static str,
    why: String,
}

/// All plots of a report.
pub(super) struct Plots {
    pub(super) by_position: String,
    pub(super) by_window: String,
    pub(super) distribution: String,
    pub(super) bits: String,
    pub(super) errors: Option<String>,
}

const WIDTH: u32 = 900;
const HEIGHT: u32 = 280;
const BLUE: RGBColor = RGBColor(0x2b, 0x6c, 0xb0);
const ORANGE: RGBColor = RGBColor(0xc0, 0x4d, 0x2d);
const GREY: RGBColor = RGBColor(0x77, 0x77, 0x77);
const TEXT: (&str, u32) = ("sans-serif", 13);

impl Plots {
    pub(super) fn draw(report: &Report) -> Result<Self, PlotError> {
        let named = |plot, result: Result<String, String>| result.map_err(|why| PlotError { plot, why });
        let tensors = &report.package.tensors;
        let bits: Vec<_> = tensors.iter().map(|t| (t, t.bits)).collect();
        let errors: Vec<_> = tensors.iter().filter_map(|t| t.relative_error.map(|e| (t, e))).collect();
        Ok(Self {
            by_position: named("KL by position", by_position(&report.kl_by_position))?,
            by_window: named("KL by window", columns(&report.kl_by_window, "window", "mean KL, nats", |i| i.to_string()))?,
            distribution: named("distribution of KL", distribution(&report.kl_histogram))?,
            bits: named("bits by tensor", by_tensor(&bits, "bits a weight"))?,
            errors: named("error by tensor", by_tensor(&errors, "relative error"))
                .map(|svg| (!errors.is_empty()).then_some(svg))?,
        })
    }
}

fn svg(height: u32, draw: impl FnOnce(&DrawingArea<SVGBackend, Shift>) -> Result<(), String>) -> Result<String, String> {
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, (WIDTH, height)).into_drawing_area();
        draw(&area)?;
        area.present().map_err(text)?;
    }
    Ok(svg)
}

/// Mean KL at each position (faint) and its mean over runs of positions (strong), on a logarithmic axis.
fn by_position(kl: &[f64]) -> Result<String, String> {
    let floor = kl.iter().copied().filter(|x| *x > 0.0).fold(f64::INFINITY, f64::min);
    let top = kl.iter().copied().fold(0.0, f64::max);
    // Two equal ends make no axis; a model without any difference has no smallest one.
    let (low, high) = if floor.is_finite() && floor < top { (floor, top) } else { (1e-12, 1e-9f64.max(top * 2.0)) };
    let run = kl.len().div_ceil(64).max(1);
    let means = kl.chunks(run).enumerate().map(|(i, c)| {
        let middle = (i * run) as f64 + c.len() as f64 / 2.0;
        (middle, (c.iter().sum::<f64>() / c.len() as f64).clamp(low, high))
    });
    svg(HEIGHT, |area| {
        let mut chart = ChartBuilder::on(area)
            .margin(10)
            .x_label_area_size(40)
            .y_label_area_size(70)
            .build_cartesian_2d(0.0..kl.len() as f64, (low..high).log_scale())
            .map_err(text)?;
        chart
            .configure_mesh()
            .disable_x_mesh()
            .light_line_style(TRANSPARENT)
            .x_desc("position in the window")
            .y_desc("KL, nats")
            .x_label_formatter(&|x| format!("{x:.0}"))
            .y_label_formatter(&|y| format!("{y:.0e}"))
            .label_style(TEXT)
            .draw()
            .map_err(text)?;
        let points = kl.iter().enumerate().map(|(i, y)| Circle::new((i as f64, y.clamp(low, high)), 2, BLUE.mix(0.35).filled()));
        chart.draw_series(points).map_err(text)?;
        chart.draw_series(LineSeries::new(means, ORANGE.stroke_width(2))).map_err(text)?;
        Ok(())
    })
}

/// Positions by half a decade of KL.
fn distribution(bins: &[Bin]) -> Result<String, String> {
    let counts: Vec<f64> = bins.iter().map(|b| b.count as f64).collect();
    let label =
        |i: usize| bins.get(i).map_or(String::new(), |b| if b.from > 0.0 { format!("{:.0e}", b.from) } else { "0".into() });
    columns(&counts, "KL from, nats", "positions", label)
}

/// One upright bar a value, evenly spaced.
fn columns(values: &[f64], x_desc: &str, y_desc: &str, label: impl Fn(usize) -> String) -> Result<String, String> {
    let high = values.iter().copied().fold(0.0, f64::max).max(1e-12) * 1.05;
    svg(HEIGHT, |area| {
        let mut chart = ChartBuilder::on(area)
            .margin(10)
            .x_label_area_size(40)
            .y_label_area_size(70)
            .build_cartesian_2d((0..values.len()).into_segmented(), 0.0..high)
            .map_err(text)?;
        let x_label = |x: &SegmentValue<usize>| if let SegmentValue::CenterOf(i) = x { label(*i) } else { String::new() };
        let mut mesh = chart.configure_mesh();
        mesh.disable_x_mesh().light_line_style(TRANSPARENT).x_desc(x_desc).y_desc(y_desc).label_style(TEXT).x_labels(20);
        mesh.x_label_formatter(&x_label).y_label_formatter(&|y| number(*y, high)).draw().map_err(text)?;
        let bar = |(i, y): (usize, &f64)| {
            let mut bar = Rectangle::new([(SegmentValue::Exact(i), 0.0), (SegmentValue::Exact(i + 1), *y)], BLUE.filled());
            bar.set_margin(0, 0, 2, 2);
            bar
        };
        chart.draw_series(values.iter().enumerate().map(bar)).map_err(text)?;
        Ok(())
    })
}

/// One lying bar a tensor, named, in package order from the top.
fn by_tensor(tensors: &[(&TensorInfo, f64)], what: &str) -> Result<String, String> {
    let high = tensors.iter().map(|t| t.1).fold(0.0, f64::max).max(1e-12) * 1.05;
    let n = tensors.len();
    svg(70 + 16 * n as u32, |area| {
        let mut chart = ChartBuilder::on(area)
            .margin(10)
            .x_label_area_size(40)
            .y_label_area_size(200)
            .build_cartesian_2d(0.0..high, (0..n).into_segmented())
            .map_err(text)?;
        // Axes grow upwards, packages are read downwards.
        let name = |i: usize| n.checked_sub(i + 1).map_or(String::new(), |i| tensors[i].0.name.clone());
        let y_label = |y: &SegmentValue<usize>| if let SegmentValue::CenterOf(i) = y { name(*i) } else { String::new() };
        let mut mesh = chart.configure_mesh();
        mesh.disable_y_mesh().light_line_style(TRANSPARENT).x_desc(what).label_style(TEXT).y_labels(n.max(1));
        mesh.y_label_formatter(&y_label).x_label_formatter(&|x| number(*x, high)).draw().map_err(text)?;
        let bar = |(i, (tensor, value)): (usize, &(&TensorInfo, f64))| {
            let colour = match tensor.class {
                TensorClass::Attention => BLUE,
                TensorClass::Mlp => ORANGE,
                _ => GREY,
            };
            let corners = [(0.0, SegmentValue::Exact(n - 1 - i)), (*value, SegmentValue::Exact(n - i))];
            let mut bar = Rectangle::new(corners, colour.filled());
            bar.set_margin(2, 2, 0, 0);
            bar
        };
        chart.draw_series(tensors.iter().enumerate().map(bar)).map_err(text)?;
        Ok(())
    })
}

/// An axis label, with as many digits as an axis that ends at `high` needs.
fn number(x: f64, high: f64) -> String {
    match high {
        h if h < 0.01 => format!("{x:.1e}"),
        h if h < 1.0 => format!("{x:.3}"),
        h if h < 20.0 => format!("{x:.1}"),
        _ => format!("{x:.0}"),
    }
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}
