//! What a person reads: a table of medians, both drops, and the two lines that users of other load
//! tools look for.

use std::collections::BTreeSet;
use std::fmt::Write;

use comfy_table::{CellAlignment, Table, presets};

use crate::args::{Plan, Setting, StoreKind, Workload};
use crate::report::{EngineName, Report};
use crate::stats::{drop_percent, median};

/// Everything that is said about all runs, table by table; first of all the note, if there is one.
pub fn render(tables: &[(&Plan, &[Report])], note: Option<&str>) -> String {
    let mut text = note.map_or(String::new(), |note| format!("\n{note}\n"));
    for (plan, reports) in tables {
        one_table(plan, reports, &mut text);
    }
    if let [(plan, _)] = tables
        && plan.settings.len() > 1
        && !cfg!(feature = "parquet")
    {
        let _ = writeln!(text, "\nThe whole path (meters, store parquet): not built into this program");
    }
    let last = tables.iter().rfind(|(_, reports)| !reports.is_empty());
    last.into_iter().for_each(|(plan, reports)| closing(plan, reports, &mut text));
    text
}

fn one_table(plan: &Plan, reports: &[Report], text: &mut String) {
    let _ = writeln!(text, "\n{}", title(plan));
    let Some(first) = reports.first() else {
        let _ = writeln!(text, "not measured");
        return;
    };
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
    let _ = writeln!(text, "{}", table(plan, reports, first.rows == first.blocks));
    for line in drops(plan, reports)
        .into_iter()
        .chain(ratios(plan, reports))
        .chain(allowed(plan, reports))
        .chain(remarks(plan, reports))
    {
        let _ = writeln!(text, "{line}");
    }
    for report in reports.iter().filter(|report| !report.columns.is_empty()) {
        let _ = writeln!(text, "{}", columns(report));
    }
}

/// What the runs of a table write, and where to.
pub fn title(plan: &Plan) -> String {
    let path = match plan.store {
        StoreKind::Parquet => "The whole path",
        StoreKind::None => "The log alone",
    };
    format!("{path}: {}, store {}", workload(plan), plan.store.word())
}

/// Every column of the input beside what the data files hold of it.
fn columns(report: &Report) -> String {
    let mut table = Table::new();
    table.load_style(presets::ASCII_MARKDOWN);
    table.set_header(["table", "column", "type", "values", "sum", "values in files", "sum in files", "equal"]);
    for column in &report.columns {
        table.add_row([
            column.table.clone(),
            column.column.clone(),
            column.kind.into(),
            column.input.values.to_string(),
            column.input.sum.clone(),
            column.files.values.to_string(),
            column.files.sum.clone(),
            if column.equal { "yes" } else { "NO" }.into(),
        ]);
    }
    for column in table.column_iter_mut().skip(3).take(4) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    let label = format!("{} run {}", report.setting.label(), report.repeat);
    let rows = (grouped(report.rows as f64), grouped(report.verified_rows.unwrap_or(0) as f64));
    format!(
        "{label}: {} rows of input, {} rows in data files; sums of texts are of their bytes\n{table}",
        rows.0, rows.1
    )
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
    let is_stored = plan.store == StoreKind::Parquet;
    if is_stored {
        header.extend(["stored rows/s", "close"]);
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
            if is_stored && engine == EngineName::Forebay {
                row.push(grouped(middle(|run| run.stored.map_or(0.0, |stored| stored.rows_per_s))));
                row.push(time(middle(|run| run.stored.map_or(0.0, |stored| stored.close_seconds * 1e6))));
            } else if is_stored {
                row.extend(["-".into(), "-".into()]);
            }
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

/// What the engine makes of what the disk allows.
fn allowed(plan: &Plan, reports: &[Report]) -> Vec<String> {
    let share = |&setting: &Setting| {
        let runs = of(reports, EngineName::Forebay, setting);
        let shares: Vec<f64> = runs.filter_map(|run| Some(run.blocks_per_s / run.predicted_blocks_per_s?)).collect();
        let percent = 100.0 * median(shares.iter().copied());
        (!shares.is_empty()).then(|| format!("{}: {percent:.1} % of what the disk allows, by --probe", setting.label()))
    };
    plan.settings.iter().filter_map(share).collect()
}

fn remarks(plan: &Plan, reports: &[Report]) -> Vec<String> {
    let mut lines = Vec::new();
    let bounds: BTreeSet<_> = reports.iter().map(|report| report.bound_by).collect();
    let all_bound = !reports.is_empty() && !bounds.contains(&None);
    if all_bound {
        let by: Vec<&str> = bounds.into_iter().flatten().collect();
        let why = by.iter().map(|bound| reason(bound)).collect::<Vec<_>>().join("; ");
        let by = by.join(" or the ");
        lines.push(format!("All settings are bound by the {by} ({why}): the table says little about the log"));
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
            let rows = match (report.verified_rows, &plan.workload) {
                (Some(rows), _) => format!(" with {rows} rows in data files"),
                (None, Workload::Input(..)) => format!(" with {} rows", report.rows),
                (None, _) => String::new(),
            };
            lines.push(format!("{label}: verified {verified} blocks{rows}; lost {lost}, wrong {wrong}"));
        }
    }
    let mut warnings: Vec<&String> = reports.iter().flat_map(|report| &report.warnings).collect();
    warnings.dedup();
    lines.extend(warnings.first().map(|warning| format!("warning: {warning}")));
    lines
}

/// What a bound means.
fn reason(bound: &str) -> &'static str {
    match bound {
        "store" => "appends waited because what the store had not taken filled the log",
        _ => "making and checking blocks took more than half of all cores' time",
    }
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
    use crate::columns::Columns;
    use crate::report::tests::{report, report_of};

    fn plans(options: &str) -> Vec<Plan> {
        let words = std::iter::once("load-test").chain(options.split_whitespace());
        Args::try_parse_from(words).expect("sound").job().expect("sound").plans
    }

    /// The first table of these options.
    fn render_one(options: &str, reports: &[Report], note: Option<&str>) -> String {
        render(&[(&plans(options)[0], reports)], note)
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
        let text = render_one("", &runs(), None);
        assert!(text.contains("(2,3000) against (1): 10.0 % slower"), "{text}");
        assert!(text.contains("(2,0) against (2,3000): 50.0 % slower"), "{text}");
        assert_eq!(text.contains("(meters, store parquet): not built"), !cfg!(feature = "parquet"), "{text}");
    }

    #[test]
    #[cfg(feature = "parquet")]
    fn without_options_the_log_alone_comes_first_and_the_whole_path_has_the_last_word() {
        let plans = plans("");
        let mut stored = runs();
        for run in &mut stored {
            let mut other = report("--store parquet", run.blocks, 900, 0.0);
            (other.setting, other.repeat, other.rows) = (run.setting, run.repeat, run.blocks * 1000);
            *run = other;
        }
        let text = render(&[(&plans[0], &runs()), (&plans[1], &stored)], None);
        let (log, whole) =
            (text.find("The log alone: raw blocks of 4096 bytes, store none"), text.find("The whole path: "));
        assert!(log < whole && log.is_some(), "{text}");
        assert!(text.contains("blocks of 1000 rows of the meters table, store parquet"), "{text}");
        assert_eq!(text.matches("(2,0) against (2,3000): 50.0 % slower").count(), 2, "{text}");
        assert_eq!(text.matches("stored rows/s").count(), 1, "{text}");
        assert_eq!(text.matches("insert delay").count(), 1, "{text}");
        assert!(text.contains("insert rows: 900000 with"), "{text}");
        let interrupted = render(&[(&plans[0], &runs()), (&plans[1], &[])], Some("Interrupted: 9 of 18 runs"));
        assert!(interrupted.contains("store parquet\nnot measured"), "{interrupted}");
        assert!(interrupted.contains("insert rows: 900 with"), "{interrupted}");
    }

    #[test]
    fn columns_stand_beside_each_other_and_one_that_differs_stands_out() {
        let mut run = report("--wal-level 1 --verify", 1000, 900, 0.0);
        let mut input = Columns::default();
        input.add("weather", "temp", crate::columns::Value::Float(21.5));
        run.verified_rows = Some(1000);
        run.columns = input.compare(&input);
        run.columns.extend(input.compare(&Columns::default()));
        let text = render_one("--wal-level 1 --verify", &[run], None);
        assert!(text.contains("(1) run 1: 1,000 rows of input, 1,000 rows in data files"), "{text}");
        let line =
            |end: &str| text.lines().any(|line| line.contains("| weather | temp   | float | ") && line.ends_with(end));
        assert!(line("| yes   |") && line("| NO    |"), "{text}");
    }

    #[test]
    fn the_baseline_gives_ratios() {
        let mut reports = runs();
        let mut file = reports[0].clone();
        (file.engine, file.blocks_per_s) = (EngineName::File, 250.0);
        reports.push(file);
        let text = render_one("--baseline", &reports, None);
        assert!(text.contains("(1): 4.00 x the plain file"), "{text}");
    }

    #[test]
    fn what_was_interrupted_is_compared_as_far_as_it_was_measured() {
        let text = render_one("", &runs()[..6], Some("Interrupted: 6 of 9 runs"));
        assert!(text.contains("\nInterrupted: 6 of 9 runs\n"), "{text}");
        assert!(text.contains("(2,3000) against (1)") && !text.contains("(2,0)"), "{text}");
        assert!(text.contains("into forebay (2,3000) at"), "{text}");
    }

    #[test]
    fn the_closing_lines_are_of_the_last_setting() {
        let text = render_one("", &runs(), None);
        let lines: Vec<&str> = text.trim_end().lines().rev().take(2).collect();
        assert!(lines[1].starts_with("Spent 2.000000 seconds to insert rows: 900 with 50 thread(s)"), "{text}");
        assert!(lines[1].ends_with("450.00 records/second"), "{text}");
        assert!(lines[0].starts_with("insert delay, min: 0.000ms, avg: 0.000ms, p90: "), "{text}");
    }

    #[test]
    fn a_table_that_measures_the_generator_says_so() {
        let bound = [report("--wal-level 1", 1000, 900, 0.9)];
        assert!(render_one("--wal-level 1", &bound, None).contains("bound by the generator"));
    }

    #[test]
    fn a_table_that_measures_the_store_says_so() {
        let mut reports = vec![report_of("--wal-level 1", 1000, 900, (0.0, 0.5))];
        let text = render_one("--wal-level 1", &reports, None);
        assert!(text.contains("All settings are bound by the store (appends waited"), "{text}");
        reports.push(report("--wal-level 1", 1000, 900, 0.9));
        let text = render_one("--wal-level 1", &reports, None);
        assert!(text.contains("bound by the generator or the store (making"), "{text}");
        reports.push(report("--wal-level 1", 1000, 900, 0.0));
        let text = render_one("--wal-level 1", &reports, None);
        assert!(!text.contains("All settings") && text.contains("(1) run 1: bound by the store, not by"), "{text}");
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
