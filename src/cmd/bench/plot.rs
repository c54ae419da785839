//! A picture of a load: throughput and latency, second by second.
//!
//! Its colours are of middling lightness and its ground is left out, so that it can be read on white and on black.

use std::path::Path;

use anyhow::anyhow;
use plotters::coord::Shift;
use plotters::prelude::*;

use super::record::Second;

const SIZE: (u32, u32) = (900, 620);
const INK: RGBColor = RGBColor(128, 128, 128);
const BLUE: RGBColor = RGBColor(58, 134, 220);
const GREEN: RGBColor = RGBColor(46, 160, 90);
const ORANGE: RGBColor = RGBColor(224, 128, 32);
const RED: RGBColor = RGBColor(214, 72, 72);

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// A line's name and colour, and what it shows of each second.
type Line = (&'static str, RGBColor, fn(&Second) -> u64);

/// Draws the seconds of a load into a file.
pub(super) fn draw(file: &Path, title: &str, seconds: &[Second]) -> anyhow::Result<()> {
    let root = SVGBackend::new(file, SIZE).into_drawing_area();
    let drawn = panels(&root, title, seconds).and_then(|()| root.present().map_err(Into::into));
    // Its errors can't be sent anywhere.
    drawn.map_err(|error| anyhow!("{error}"))
}

fn panels(root: &Area<'_>, title: &str, seconds: &[Second]) -> Result<(), Box<dyn std::error::Error>> {
    let root = root.titled(title, text(13))?;
    let (above, below) = root.split_vertically(SIZE.1 / 2 - 20);
    throughput(&above, seconds)?;
    latency(&below, seconds)
}

fn throughput(area: &Area<'_>, seconds: &[Second]) -> Result<(), Box<dyn std::error::Error>> {
    let most = seconds.iter().map(|second| second.done).max().unwrap_or(0).max(1);
    let mut chart = ChartBuilder::on(area)
        .margin(12)
        .x_label_area_size(24)
        .y_label_area_size(70)
        .build_cartesian_2d(0..last(seconds), 0..most + most / 10)?;
    chart
        .configure_mesh()
        .axis_style(INK)
        .bold_line_style(INK.mix(0.25))
        .light_line_style(TRANSPARENT)
        .label_style(text(12))
        .y_desc("requests carried out per second")
        .draw()?;
    let points = seconds.iter().enumerate().map(|(n, second)| (n, second.done));
    chart.draw_series(LineSeries::new(points, BLUE.stroke_width(2)))?;
    Ok(())
}

fn latency(area: &Area<'_>, seconds: &[Second]) -> Result<(), Box<dyn std::error::Error>> {
    let most = seconds
        .iter()
        .map(|second| second.max_us)
        .max()
        .unwrap_or(0)
        .max(10);
    let least = seconds
        .iter()
        .map(|second| second.p50_us)
        .min()
        .unwrap_or(1)
        .max(1);
    let mut chart = ChartBuilder::on(area)
        .margin(12)
        .x_label_area_size(36)
        .y_label_area_size(70)
        .build_cartesian_2d(
            0..last(seconds),
            (least as f64 / 2.0..most as f64 * 1.5).log_scale(),
        )?;
    chart
        .configure_mesh()
        .axis_style(INK)
        .bold_line_style(INK.mix(0.25))
        .light_line_style(TRANSPARENT)
        .label_style(text(12))
        .y_label_formatter(&|us| time(*us))
        .x_desc("seconds")
        .y_desc("latency")
        .draw()?;
    let lines: [Line; 3] = [
        ("p50", GREEN, |second| second.p50_us),
        ("p99", ORANGE, |second| second.p99_us),
        ("max", RED, |second| second.max_us),
    ];
    for (name, color, of) in lines {
        let points = seconds
            .iter()
            .enumerate()
            .map(|(n, second)| (n, of(second).max(1) as f64));
        chart
            .draw_series(LineSeries::new(points, color.stroke_width(2)))?
            .label(name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], color.stroke_width(2)));
    }
    chart
        .configure_series_labels()
        .border_style(INK.mix(0.4))
        .label_font(text(12))
        .draw()?;
    Ok(())
}

fn text(size: u32) -> TextStyle<'static> {
    ("sans-serif", size).into_font().color(&INK)
}

/// The last second on the axis; an axis has some length.
fn last(seconds: &[Second]) -> usize {
    seconds.len().saturating_sub(1).max(1)
}

fn time(us: f64) -> String {
    if us < 1000.0 {
        format!("{us:.0} µs")
    } else if us < 1e6 {
        format!("{:.0} ms", us / 1e3)
    } else {
        format!("{:.1} s", us / 1e6)
    }
}
