//! What a person reads: a table of medians, both drops, and the two lines that users of other load
//! tools look for.

use std::fmt::Write;

use comfy_table::{CellAlignment, Table, presets};

use crate::args::{Plan, Setting, Workload};
use crate::report::{EngineName, Report};
use crate::stats::{drop_percent, median};

/// Everything that is said about all runs of a plan; first of all the note, if there is one.
pub fn render(plan: &Plan, reports: &[Report], note: Option<&str>) -> String {
    let mut text = format!("\nThe log alone: {}, store none\n", workload(plan));
    if let Some(note) = note {
        let _ = writeln!(text, "{note}");
    }
    if let Some(report) = reports.first() {
        let _ = writeln!(
            text,
            "{} writers, {} in flight each, {}, {} of {}",
            plan.writers,
            plan.in_flight,
            plan.rate.map_or("closed loop".into(), |rate| format!("open loop at {rate} blocks/s")),
            if plan.repeat == 1 { "1 run".into() } else { format!("medians of {} runs", plan.repeat) },
            match plan.workload {
                Workload::Input(..) => "the whole input".into(),
                _ => format!("{} s", plan.seconds),
            },
        );
        let _ = writeln!(text, "{}", table(plan, reports, report.rows == report.blocks));
    }
    for line in drops(plan, reports).into_iter().chain(ratios(plan, reports)).chain(remarks(plan, reports)) {
        let _ = writeln!(text, "{line}");
    }
    if plan.settings.len() > 1 {
        let _ =
            writeln!(text, "The whole path (meters, store parquet): not available, this version has no parquet store");
    }
    closing(plan, reports, &mut text);
    text
}

fn workload(plan: &Plan) -> String {
    match &plan.workload {
        Workload::Raw(bytes) => format!("raw blocks of {bytes} bytes"),
        Workload::Meters(rows) => format!("blocks of {rows} rows of the meters table"),
        Workload::Input(path, rows) => format!("blocks of {rows} rows of {}", path.display()),
    }
}

fn of(reports: &[Report], engine: EngineName, setting: Setting) -> impl Iterator<Item = &Report> + Clone {
    reports.iter().filter(move |report| report.engine == engine && report.setting == setting)
}

fn throughput(reports: &[Report], engine: EngineName, setting: Setting) -> f64 {
    median(of(reports, engine, setting).map(|report| report.blocks_per_s))
}

fn table(plan: &Plan, reports: &[Report], rows_are_blocks: bool) -> Table {
    let mut table = Table::new();
    table.load_style(presets::ASCII_MARKDOWN);
    let mut header =
        vec!["setting", "engine", "io", "blocks/s", "MiB/s", "rows/s", "ack p50", "p99", "max", "fsyncs/s"];
    header.extend(["fsync p50", "blocks/batch"]);
    if rows_are_blocks {
        header.retain(|name| *name != "rows/s");
    }
    table.set_header(&header);
    for &setting in &plan.settings {
        for engine in [EngineName::Forebay, EngineName::File] {
            let runs = of(reports, engine, setting);
            let Some(first) = runs.clone().next() else { continue };
            let middle = |figure: fn(&Report) -> f64| median(runs.clone().map(figure));
            let mut row = vec![
                setting.label(),
                match engine {
                    EngineName::Forebay => "forebay".into(),
                    EngineName::File => "plain file".into(),
                },
                first.io().into(),
                grouped(middle(|run| run.blocks_per_s)),
                format!("{:.1}", middle(|run| run.bytes_per_s) / f64::from(1 << 20)),
            ];
            if !rows_are_blocks {
                row.push(grouped(middle(|run| run.rows_per_s)));
            }
            row.extend([
                time(middle(|run| run.ack_us.p50)),
                time(middle(|run| run.ack_us.p99)),
                time(middle(|run| run.ack_us.max)),
                format!("{:.1}", middle(|run| run.fsync.count as f64 / run.seconds.max(1e-3))),
                match middle(|run| run.fsync.us.p50) {
                    none if none <= 0.0 => "-".into(),
                    us => time(us),
                },
                format!("{:.1}", middle(|run| run.blocks_per_batch)),
            ]);
            table.add_row(row);
        }
    }
    for column in table.column_iter_mut().skip(3) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

/// By how much each setting is slower than the one before it.
fn drops(plan: &Plan, reports: &[Report]) -> Vec<String> {
    let engines = [EngineName::Forebay, EngineName::File];
    let shown = engines.into_iter().filter(|engine| reports.iter().any(|report| report.engine == *engine));
    let line = |engine| {
        plan.settings.windows(2).filter_map(move |pair| {
            let figures = (throughput(reports, engine, pair[0]), throughput(reports, engine, pair[1]));
            if of(reports, engine, pair[0]).next().is_none() || of(reports, engine, pair[1]).next().is_none() {
                return None;
            }
            let percent = drop_percent(figures.0, figures.1);
            let name = if engine == EngineName::File { " (plain file)" } else { "" };
            let way = if percent < 0.0 { "faster" } else { "slower" };
            Some(format!("{} against {}{name}: {:.1} % {way}", pair[1].label(), pair[0].label(), percent.abs()))
        })
    };
    shown.flat_map(line).collect()
}

/// What the engine is worth against the plain file.
fn ratios(plan: &Plan, reports: &[Report]) -> Vec<String> {
    let ratio = |&setting: &Setting| {
        let file = throughput(reports, EngineName::File, setting);
        let engine = throughput(reports, EngineName::Forebay, setting);
        let sound = file > 0.0 && engine > 0.0;
        sound.then(|| format!("{}: {:.2} x the plain file", setting.label(), engine / file))
    };
    plan.settings.iter().filter_map(ratio).collect()
}

fn remarks(plan: &Plan, reports: &[Report]) -> Vec<String> {
    let mut lines = Vec::new();
    let all_bound = !reports.is_empty() && reports.iter().all(|report| report.bound_by.is_some());
    if all_bound {
        lines.push(
            "All settings are bound by the generator (making and checking blocks took more than half of \
                    all cores' time): the table says little about the log"
                .to_string(),
        );
    }
    for report in reports {
        let label = format!("{} run {}", report.setting.label(), report.repeat);
        if let (Some(bound), false) = (report.bound_by, all_bound) {
            lines.push(format!("{label}: bound by the {bound}, not by the log"));
        }
        if let Some(why) = &report.ended_early {
            lines.push(format!("{label}: ended early, after {} s: {why}", report.seconds));
        }
        if let (Some(verified), Some(lost), Some(wrong)) =
            (report.verified_blocks, report.lost_blocks, report.wrong_blocks)
        {
            let rows = match plan.workload {
                Workload::Input(..) => format!(" with {} rows", report.rows),
                _ => String::new(),
            };
            lines.push(format!("{label}: verified {verified} blocks{rows}; lost {lost}, wrong {wrong}"));
        }
    }
    let mut warnings: Vec<&String> = reports.iter().flat_map(|report| &report.warnings).collect();
    warnings.dedup();
    lines.extend(warnings.first().map(|warning| format!("warning: {warning}")));
    lines
}

/// Two lines for the last setting of the table, of its middle run.
fn closing(plan: &Plan, reports: &[Report], text: &mut String) {
    let has_run = |setting: &&Setting| of(reports, EngineName::Forebay, **setting).next().is_some();
    let Some(&setting) = plan.settings.iter().rfind(has_run) else { return };
    let mut runs: Vec<&Report> = of(reports, EngineName::Forebay, setting).collect();
    runs.sort_by(|a, b| a.rows_per_s.total_cmp(&b.rows_per_s));
    let Some(run) = runs.get(runs.len() / 2) else { return };
    let ms = |us: f64| format!("{:.3}ms", us / 1e3);
    let ack = run.ack_us_corrected.unwrap_or(run.ack_us);
    let _ = writeln!(
        text,
        "\nSpent {:.6} seconds to insert rows: {} with {} thread(s) into forebay {} at {:.2} records/second",
        run.seconds,
        run.rows,
        plan.writers,
        setting.label(),
        run.rows_per_s
    );
    let _ = writeln!(
        text,
        "insert delay, min: {}, avg: {}, p90: {}, p95: {}, p99: {}, max: {}",
        ms(ack.min),
        ms(ack.mean),
        ms(ack.p90),
        ms(ack.p95),
        ms(ack.p99),
        ms(ack.max)
    );
}

/// Microseconds in the unit that reads best.
fn time(us: f64) -> String {
    match us {
        _ if us >= 1e6 => format!("{:.2} s", us / 1e6),
        _ if us >= 1e3 => format!("{:.2} ms", us / 1e3),
        _ => format!("{us:.2} us"),
    }
}

/// A whole number with its thousands set apart.
pub fn grouped(value: f64) -> String {
    let digits = format!("{:.0}", value.max(0.0));
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::args::Args;
    use crate::report::tests::report;

    fn plan(options: &str) -> Plan {
        let words = std::iter::once("load-test").chain(options.split_whitespace());
        Args::try_parse_from(words).expect("sound").plan().expect("sound")
    }

    fn runs() -> Vec<Report> {
        let mut reports = Vec::new();
        for (setting, counts) in [
            (Setting::Level1, [1000, 5000, 2000]),
            (Setting::Level2(3000), [1800, 1000, 9000]),
            (Setting::Level2(0), [900, 900, 900]),
        ] {
            for (at, blocks) in counts.into_iter().enumerate() {
                let mut run = report("", blocks, 900, 0.0);
                (run.setting, run.repeat) = (setting, at as u32 + 1);
                reports.push(run);
            }
        }
        reports
    }

    #[test]
    fn both_drops_are_of_medians() {
        let text = render(&plan(""), &runs(), None);
        assert!(text.contains("(2,3000) against (1): 10.0 % slower"), "{text}");
        assert!(text.contains("(2,0) against (2,3000): 50.0 % slower"), "{text}");
        assert!(text.contains("The whole path (meters, store parquet): not available"), "{text}");
    }

    #[test]
    fn the_baseline_gives_ratios() {
        let mut reports = runs();
        let mut file = reports[0].clone();
        (file.engine, file.blocks_per_s) = (EngineName::File, 250.0);
        reports.push(file);
        let text = render(&plan("--baseline"), &reports, None);
        assert!(text.contains("(1): 4.00 x the plain file"), "{text}");
    }

    #[test]
    fn what_was_interrupted_is_compared_as_far_as_it_was_measured() {
        let text = render(&plan(""), &runs()[..6], Some("Interrupted: 6 of 9 runs"));
        assert!(text.contains("\nInterrupted: 6 of 9 runs\n"), "{text}");
        assert!(text.contains("(2,3000) against (1)") && !text.contains("(2,0)"), "{text}");
        assert!(text.contains("into forebay (2,3000) at"), "{text}");
    }

    #[test]
    fn the_closing_lines_are_of_the_last_setting() {
        let text = render(&plan(""), &runs(), None);
        let lines: Vec<&str> = text.trim_end().lines().rev().take(2).collect();
        assert!(lines[1].starts_with("Spent 2.000000 seconds to insert rows: 900 with 50 thread(s)"), "{text}");
        assert!(lines[1].ends_with("450.00 records/second"), "{text}");
        assert!(lines[0].starts_with("insert delay, min: 0.000ms, avg: 0.000ms, p90: "), "{text}");
    }

    #[test]
    fn a_table_that_measures_the_generator_says_so() {
        let bound = [report("--wal-level 1", 1000, 900, 0.9)];
        assert!(render(&plan("--wal-level 1"), &bound, None).contains("bound by the generator"));
    }

    #[test]
    fn figures_read_well() {
        assert_eq!(
            (grouped(1_234_567.4), grouped(999.0), grouped(1000.0)),
            ("1,234,567".into(), "999".into(), "1,000".into())
        );
        assert_eq!((time(0.15), time(1500.0), time(2.5e6)), ("0.15 us".into(), "1.50 ms".into(), "2.50 s".into()));
    }
}
