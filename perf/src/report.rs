//! What a run says at the end: a table for people, or the same as JSON.

use crate::load::{Lane, Tally};
use aoe_engine::{Engine, PoolStats, Port};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt;

/// A run.
#[derive(Serialize, Debug)]
pub struct Report {
    /// The port, as given.
    pub port: String,
    /// Name of its driver.
    pub driver: String,
    /// The LUNs.
    pub luns: Vec<String>,
    /// What was done: `randread` and so on.
    pub rw: String,
    /// Bytes of a block.
    pub block_bytes: u64,
    /// I/Os in flight.
    pub depth: usize,
    /// Seconds from the first submission to the last completion.
    pub seconds: f64,
    /// Reads.
    pub read: Option<Direction>,
    /// Writes.
    pub write: Option<Direction>,
    /// Failed I/Os.
    pub errors: u64,
    /// The first failure.
    pub first_error: Option<String>,
    /// With `--verify`.
    pub verify: Option<Verified>,
    /// Frame pools.
    pub frames: Frames,
    /// Counters that are not 0.
    pub counters: BTreeMap<&'static str, u64>,
    /// Received frames that were dropped, by reason, where not 0.
    pub drops: BTreeMap<&'static str, u64>,
}

/// One direction.
#[derive(Serialize, Debug, Clone)]
pub struct Direction {
    /// I/Os.
    pub ios: u64,
    /// I/Os in a second.
    pub iops: f64,
    /// MiB in a second.
    pub mib_s: f64,
    /// Mean latency in microseconds.
    pub mean_us: f64,
    /// Median.
    pub p50_us: f64,
    /// 90th percentile.
    pub p90_us: f64,
    /// 99th percentile.
    pub p99_us: f64,
    /// 99.9th percentile.
    pub p99_9_us: f64,
    /// Longest.
    pub max_us: f64,
}

/// What verification found.
#[derive(Serialize, Debug)]
pub struct Verified {
    /// Blocks compared during the load.
    pub checked: u64,
    /// Blocks read back and compared afterwards.
    pub read_back: u64,
    /// Blocks that were not what was written.
    pub mismatches: u64,
    /// The first of them.
    pub first_mismatches: Vec<String>,
}

/// The frame pools of the port.
#[derive(Serialize, Debug)]
pub struct Frames {
    /// Header frames.
    pub header: Pool,
    /// Full frames.
    pub full: Pool,
    /// Whether the driver holds nothing any more.
    pub whole: bool,
}

/// One frame pool.
#[derive(Serialize, Debug)]
pub struct Pool {
    /// The most frames that the driver held.
    pub held_max: u32,
    /// The most overflow frames in use.
    pub overflow_max: u32,
    /// Released frames that were found behind a stuck one.
    pub looked_past: u64,
    /// Times that the driver was nudged.
    pub nudges: u64,
    /// Times that there was no frame at all.
    pub starved: u64,
}

impl From<PoolStats> for Pool {
    fn from(s: PoolStats) -> Self {
        let PoolStats {
            held_max,
            overflow_max,
            looked_past,
            nudges,
            starved,
            ..
        } = s;
        Self {
            held_max,
            overflow_max,
            looked_past,
            nudges,
            starved,
        }
    }
}

impl Direction {
    /// `None` if there was no I/O.
    #[must_use]
    pub fn new(lane: &Lane, elapsed_ns: u64) -> Option<Self> {
        if lane.ios == 0 {
            return None;
        }
        let seconds = elapsed_ns.max(1) as f64 / 1e9;
        let us = |q: f64| lane.latency.value_at_quantile(q) as f64 / 1e3;
        Some(Self {
            ios: lane.ios,
            iops: lane.ios as f64 / seconds,
            mib_s: lane.bytes as f64 / f64::from(1 << 20) / seconds,
            mean_us: lane.latency.mean() / 1e3,
            p50_us: us(0.5),
            p90_us: us(0.9),
            p99_us: us(0.99),
            p99_9_us: us(0.999),
            max_us: lane.latency.max() as f64 / 1e3,
        })
    }
}

impl Verified {
    /// From what the load counted.
    #[must_use]
    pub fn new(tally: &Tally) -> Self {
        Self {
            checked: tally.checked,
            read_back: tally.read_back,
            mismatches: tally.mismatches,
            first_mismatches: tally
                .first_mismatches
                .iter()
                .map(ToString::to_string)
                .collect(),
        }
    }
}

/// The frame pools of an engine's only port.
#[must_use]
pub fn frames<P: Port>(engine: &Engine<P>) -> Frames {
    let stats = engine.port_stats().next().unwrap_or_default();
    // Not `Engine::is_whole`: a broadcast keeps its slot for answers that may still come.
    let whole = stats.header.held == 0 && stats.full.held == 0;
    Frames {
        header: stats.header.into(),
        full: stats.full.into(),
        whole,
    }
}

/// Counters of an engine and its only port that are not 0.
#[must_use]
pub fn counters<P: Port>(engine: &Engine<P>) -> BTreeMap<&'static str, u64> {
    let c = engine.counters();
    let p = engine.port_stats().next().unwrap_or_default();
    let all = [
        ("resends", c.resends),
        ("no_slot", c.no_slot),
        ("tag_rests", c.tag_rests),
        ("pauses", c.pauses),
        ("drained", c.drained),
        ("frames_received", p.received),
        ("frames_transmitted", p.transmitted),
        ("ring_full", p.ring_full),
        ("blocked_turns", p.blocked_turns),
        ("zero_copy", p.zero_copy),
        ("bounced", p.bounced),
        ("unsendable", p.unsendable),
        ("flushes", p.flushes),
    ];
    all.into_iter().filter(|(_, n)| *n > 0).collect()
}

/// Drops by reason that are not 0.
#[must_use]
pub fn drops<P: Port>(engine: &Engine<P>) -> BTreeMap<&'static str, u64> {
    engine
        .drops()
        .iter()
        .map(|(why, n)| (why.name(), n))
        .filter(|(_, n)| *n > 0)
        .collect()
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let luns = self.luns.join(" ");
        let block = crate::size::Size(self.block_bytes);
        writeln!(f, "{luns} on {} ({})", self.port, self.driver)?;
        writeln!(
            f,
            "{} of {block}, depth {}, {:.2} s",
            self.rw, self.depth, self.seconds
        )?;
        writeln!(
            f,
            "{:<6} {:>12} {:>10} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9}",
            "", "IOPS", "MiB/s", "mean us", "p50", "p90", "p99", "p99.9", "max"
        )?;
        for (name, lane) in [("read", &self.read), ("write", &self.write)] {
            let Some(d) = lane else { continue };
            write!(f, "{name:<6} {:>12.0} {:>10.1}", d.iops, d.mib_s)?;
            for us in [
                d.mean_us, d.p50_us, d.p90_us, d.p99_us, d.p99_9_us, d.max_us,
            ] {
                write!(f, " {us:>9.1}")?;
            }
            writeln!(f)?;
        }
        writeln!(f, "frames   header: {}", self.frames.header)?;
        writeln!(f, "         full:   {}", self.frames.full)?;
        list(f, "counters", &self.counters)?;
        list(f, "drops", &self.drops)?;
        if let Some(v) = &self.verify {
            let Verified {
                checked,
                read_back,
                mismatches,
                ..
            } = v;
            writeln!(
                f,
                "verify   {checked} blocks checked, {read_back} read back, {mismatches} mismatches"
            )?;
            for mismatch in &v.first_mismatches {
                writeln!(f, "  {mismatch}")?;
            }
        }
        if let Some(error) = &self.first_error {
            writeln!(f, "errors   {}, the first: {error}", self.errors)?;
        }
        Ok(())
    }
}

impl fmt::Display for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            held_max,
            overflow_max,
            looked_past,
            nudges,
            starved,
        } = self;
        write!(
            f,
            "held at most {held_max}, overflow at most {overflow_max}, looked past {looked_past}, \
             nudges {nudges}, starved {starved}"
        )
    }
}

fn list(
    f: &mut fmt::Formatter<'_>,
    name: &str,
    counts: &BTreeMap<&'static str, u64>,
) -> fmt::Result {
    if counts.is_empty() {
        return Ok(());
    }
    write!(f, "{name:<8}")?;
    for (i, (what, count)) in counts.iter().enumerate() {
        write!(f, "{} {what} {count}", if i == 0 { "" } else { "," })?;
    }
    writeln!(f)
}
