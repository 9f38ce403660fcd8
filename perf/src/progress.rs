//! A progress bar on a terminal, nothing anywhere else.

use crate::load::Tally;
use indicatif::{ProgressBar, ProgressStyle};
use std::io::IsTerminal;

/// Nanoseconds between two drawings.
const INTERVAL: u64 = 200_000_000;

/// How far a run is.
pub struct Progress {
    bar: Option<ProgressBar>,
    /// Nanoseconds or I/Os that make the whole.
    total: u64,
    by_time: bool,
    next: u64,
}

impl Progress {
    /// Of a run that ends after a time, or after a number of I/Os.
    #[must_use]
    pub fn new(time_ns: Option<u64>, count: Option<u64>) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let style = ProgressStyle::with_template("{bar:30} {percent:>3}% {msg}");
            ProgressBar::new(1000)
                .with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
        });
        let total = time_ns.or(count).unwrap_or(1).max(1);
        Self {
            bar,
            total,
            by_time: time_ns.is_some(),
            next: 0,
        }
    }

    /// So much time has passed.
    #[inline]
    pub fn tick(&mut self, ns: u64, tally: &Tally) {
        if ns >= self.next && self.bar.is_some() {
            self.draw(ns, tally);
        }
    }

    #[cold]
    fn draw(&mut self, ns: u64, tally: &Tally) {
        self.next = ns + INTERVAL;
        let Some(bar) = &self.bar else { return };
        let done = if self.by_time { ns } else { tally.ios() };
        let seconds = ns.max(1) as f64 / 1e9;
        let bytes = (tally.read.bytes + tally.write.bytes) as f64;
        bar.set_position((done as f64 / self.total as f64 * 1000.0).min(1000.0) as u64);
        bar.set_message(format!(
            "{:.0} IOPS, {:.1} MiB/s",
            tally.ios() as f64 / seconds,
            bytes / f64::from(1 << 20) / seconds
        ));
    }

    /// The run is over.
    pub fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
