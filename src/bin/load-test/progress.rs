//! A progress bar on stderr, where that is a terminal.

use std::io::IsTerminal;

use indicatif::{ProgressBar, ProgressStyle};

/// Ticks of the bar in a second.
const TICKS: f64 = 100.0;

/// The bar of one run.
pub struct Progress {
    bar: ProgressBar,
}

impl Progress {
    /// A bar for a run of so many seconds; hidden where nobody would see it.
    pub fn new(label: &str, seconds: f64) -> Self {
        if !std::io::stderr().is_terminal() {
            return Self::hidden();
        }
        let bar = ProgressBar::new((seconds * TICKS) as u64);
        // Without a colour: NO_COLOR holds by itself.
        if let Ok(style) = ProgressStyle::with_template("{prefix:<24} {wide_bar} {msg}") {
            bar.set_style(style);
        }
        bar.set_prefix(label.to_string());
        Self { bar }
    }

    /// No bar.
    pub fn hidden() -> Self {
        Self { bar: ProgressBar::hidden() }
    }

    /// The run is so far.
    pub fn at(&self, seconds: f64, bytes: u64) {
        if self.bar.is_hidden() {
            return;
        }
        self.bar.set_position((seconds * TICKS) as u64);
        self.bar.set_message(format!("{:.0} MiB", bytes as f64 / f64::from(1 << 20)));
    }

    /// Something else goes on now.
    pub fn say(&self, what: &'static str) {
        self.bar.set_message(what);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
