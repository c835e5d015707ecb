//! The runs as a picture: throughput as bars, latencies as curves on a logarithmic scale.

use std::path::Path;

use anyhow::{Result, anyhow};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::args::Plan;
use crate::report::{EngineName, Report};
use crate::stats::median;
use crate::tables::{grouped, title};

const SIZE: (u32, u32) = (960, 820);
const FONT: &str = "sans-serif";
/// Room for the names of the curves, at their right: no curve comes there.
const LEGEND: u32 = 190;
const QUANTILES: [&str; 6] = ["min", "p50", "p90", "p99", "p99.9", "max"];
const COLORS: [RGBColor; 6] = [
    RGBColor(0, 90, 160),
    RGBColor(0, 140, 90),
    RGBColor(200, 80, 0),
    RGBColor(130, 130, 130),
    RGBColor(120, 60, 140),
    RGBColor(90, 60, 30),
];

/// One bar and one curve: medians over the repeats.
struct Row {
    label: String,
    blocks_per_s: f64,
    ack_us: [f64; 6],
}

/// Draws all runs, one table below the other.
///
/// # Errors
/// Where the file cannot be written, or there is nothing to draw.
pub fn draw(path: &Path, tables: &[(&Plan, &[Report])]) -> Result<()> {
    let tables: Vec<_> = tables.iter().map(|(plan, reports)| (*plan, rows(plan, reports))).collect();
    let tables: Vec<_> = tables.into_iter().filter(|(_, rows)| !rows.is_empty()).collect();
    anyhow::ensure!(!tables.is_empty(), "no run to draw");
    let failed = |error: &dyn std::fmt::Display| anyhow!("cannot draw {}: {error}", path.display());
    let root = SVGBackend::new(path, (SIZE.0, SIZE.1 * tables.len() as u32)).into_drawing_area();
    root.fill(&WHITE).map_err(|error| failed(&error))?;
    for ((plan, rows), area) in tables.iter().zip(root.split_evenly((tables.len(), 1))) {
        let (bars, curves) = area.split_vertically(SIZE.1 / 2);
        draw_bars(&bars, &title(plan), rows).map_err(|error| failed(&error))?;
        draw_curves(&curves, rows).map_err(|error| failed(&error))?;
    }
    root.present().map_err(|error| failed(&error))
}

fn rows(plan: &Plan, reports: &[Report]) -> Vec<Row> {
    let mut rows = Vec::new();
    for &setting in &plan.settings {
        for engine in [EngineName::Forebay, EngineName::File] {
            let runs: Vec<&Report> =
                reports.iter().filter(|run| run.engine == engine && run.setting == setting).collect();
            if runs.is_empty() {
                continue;
            }
            let middle = |figure: &dyn Fn(&Report) -> f64| median(runs.iter().map(|run| figure(run)));
            let ack = |run: &Report| {
                let us = run.ack_us_corrected.unwrap_or(run.ack_us);
                [us.min, us.p50, us.p90, us.p99, us.p999, us.max]
            };
            let suffix = if engine == EngineName::File { " plain file" } else { "" };
            rows.push(Row {
                label: format!("{}{suffix}", setting.label()),
                blocks_per_s: middle(&|run| run.blocks_per_s),
                ack_us: std::array::from_fn(|at| middle(&|run| ack(run)[at])),
            });
        }
    }
    rows
}

type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;
type Drawn<'a> = std::result::Result<(), DrawingAreaErrorKind<<SVGBackend<'a> as DrawingBackend>::ErrorType>>;

fn draw_bars<'a>(area: &Area<'a>, title: &str, rows: &[Row]) -> Drawn<'a> {
    let top = rows.iter().map(|row| row.blocks_per_s).fold(1.0, f64::max) * 1.1;
    let mut chart = ChartBuilder::on(area)
        .caption(format!("{title}: blocks per second"), (FONT, 22))
        .margin(16)
        .x_label_area_size(36)
        .y_label_area_size(90)
        .build_cartesian_2d(-0.5..rows.len() as f64 - 0.5, 0.0..top)?;
    let name = |x: &f64| match rows.get(x.round() as usize) {
        Some(row) if (x - x.round()).abs() < 0.01 => row.label.clone(),
        _ => String::new(),
    };
    chart
        .configure_mesh()
        .disable_x_mesh()
        .x_labels(2 * rows.len() + 1)
        .x_label_formatter(&name)
        .y_label_formatter(&|y| grouped(*y))
        .light_line_style(TRANSPARENT)
        .label_style((FONT, 15))
        .draw()?;
    chart.draw_series(rows.iter().enumerate().map(|(at, row)| {
        let x = at as f64;
        Rectangle::new([(x - 0.3, 0.0), (x + 0.3, row.blocks_per_s)], color(at).filled())
    }))?;
    chart.draw_series(rows.iter().enumerate().map(|(at, row)| {
        let style = TextStyle::from((FONT, 15)).pos(Pos::new(HPos::Center, VPos::Bottom));
        Text::new(grouped(row.blocks_per_s), (at as f64, row.blocks_per_s + top * 0.01), style)
    }))?;
    Ok(())
}

fn draw_curves<'a>(area: &Area<'a>, rows: &[Row]) -> Drawn<'a> {
    let all = || rows.iter().flat_map(|row| row.ack_us).filter(|us| *us > 0.0);
    let (low, high) = (all().fold(f64::INFINITY, f64::min), all().fold(0.0, f64::max));
    let (low, high) = if low < high { (low * 0.7, high * 1.5) } else { (0.01, 1.0) };
    let mut chart = ChartBuilder::on(area)
        .caption("from start to acknowledgement, microseconds", (FONT, 22))
        .margin(16)
        .margin_right(LEGEND + 16)
        .x_label_area_size(36)
        .y_label_area_size(90)
        .build_cartesian_2d(0.0..QUANTILES.len() as f64 - 1.0, (low..high).log_scale())?;
    chart
        .configure_mesh()
        .x_labels(QUANTILES.len())
        .x_label_formatter(&|x| QUANTILES.get(x.round() as usize).copied().unwrap_or_default().into())
        .x_max_light_lines(0)
        .y_label_formatter(&|y| if *y < 1.0 { format!("{y:.2}") } else { grouped(*y) })
        .label_style((FONT, 15))
        .draw()?;
    for (at, row) in rows.iter().enumerate() {
        let line = row.ack_us.iter().enumerate().map(|(x, us)| (x as f64, us.max(low)));
        let stroke = color(at).stroke_width(2);
        chart.draw_series(LineSeries::new(line, stroke))?;
        let (x, y) = ((SIZE.0 - LEGEND) as i32 + 8, 60 + 22 * at as i32);
        area.draw(&PathElement::new([(x, y), (x + 18, y)], stroke))?;
        let style = TextStyle::from((FONT, 15)).pos(Pos::new(HPos::Left, VPos::Center));
        area.draw(&Text::new(row.label.clone(), (x + 26, y), style))?;
    }
    Ok(())
}

fn color(at: usize) -> RGBColor {
    COLORS[at % COLORS.len()]
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::args::Args;
    use crate::report::tests::report;

    #[test]
    fn a_picture_names_every_setting_and_percentile() {
        let plans = Args::try_parse_from(["load-test"]).expect("sound").job().expect("sound").plans;
        let plan = &plans[0];
        let reports: Vec<Report> = plan
            .settings
            .iter()
            .map(|&setting| {
                let mut run = report("", 1000, 900, 0.0);
                run.setting = setting;
                run
            })
            .collect();
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("x.svg");
        let tables: Vec<_> = plans.iter().map(|plan| (plan, &reports[..])).collect();
        draw(&path, &tables).expect("drawn");
        let svg = std::fs::read_to_string(&path).expect("a picture");
        for text in ["(1)", "(2,3000)", "(2,0)", "p99.9", "blocks per second", "500"] {
            assert!(svg.contains(text), "{text}");
        }
        assert_eq!(svg.matches("blocks per second").count(), plans.len());
        assert!(draw(&path, &[(plan, &[])]).is_err());
    }
}
