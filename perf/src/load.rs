//! The load: I/Os in flight on one engine, their latencies, and the verification of what is read.

use crate::buffers::IoBuffers;
use crate::pattern::{self, Mismatch, Stamp};
use crate::region::Region;
use crate::rng::Rng;
use aoe_engine::{Clock, Completion, Engine, Port, Request, Sgl};
use aoe_proto::initiator::{IoError, Op, SubmitError, Time};
use hdrhistogram::Histogram;
use std::sync::atomic::{AtomicBool, Ordering};

/// Mismatches that are kept for the report.
const MISMATCHES: usize = 16;
/// Failed I/Os after which a run ends.
const ERRORS_MAX: u64 = 1000;
/// Latencies above this many nanoseconds count as it.
const LATENCY_MAX: u64 = 120_000_000_000;
/// Rounds between two looks at the stop flag and the progress.
const ROUNDS: u32 = 64;

/// What a run does.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Percentage of reads.
    pub read_percent: u8,
    /// Blocks in random order.
    pub random: bool,
    /// I/Os in flight.
    pub depth: usize,
    /// Stop after so many nanoseconds.
    pub time_ns: Option<u64>,
    /// Stop after so many I/Os.
    pub count: Option<u64>,
    /// Write patterns and check them.
    pub verify: bool,
    /// Read without looking at the data.
    pub no_copy: bool,
    /// Seed of the choices and of the patterns.
    pub seed: u64,
}

/// One direction's I/Os.
#[derive(Clone, Debug)]
pub struct Lane {
    /// Completed without an error.
    pub ios: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Their latencies in nanoseconds.
    pub latency: Histogram<u64>,
}

impl Lane {
    fn new() -> Self {
        let latency = Histogram::new_with_bounds(1, LATENCY_MAX, 3);
        Self {
            ios: 0,
            bytes: 0,
            latency: latency.expect("constant bounds are valid"),
        }
    }
}

/// What a run has seen.
#[derive(Clone, Debug)]
pub struct Tally {
    /// Reads.
    pub read: Lane,
    /// Writes.
    pub write: Lane,
    /// Nanoseconds from the first submission to the last completion.
    pub elapsed_ns: u64,
    /// Failed I/Os.
    pub errors: u64,
    /// The first failure.
    pub first_error: Option<(&'static str, u64, IoError)>,
    /// Blocks that were read and compared during the load.
    pub checked: u64,
    /// Blocks that were read back and compared afterwards.
    pub read_back: u64,
    /// Blocks that were not what was written.
    pub mismatches: u64,
    /// The first of them.
    pub first_mismatches: Vec<Mismatch>,
}

impl Tally {
    fn new() -> Self {
        Self {
            read: Lane::new(),
            write: Lane::new(),
            elapsed_ns: 0,
            errors: 0,
            first_error: None,
            checked: 0,
            read_back: 0,
            mismatches: 0,
            first_mismatches: Vec::with_capacity(MISMATCHES),
        }
    }

    /// I/Os that have completed without an error.
    #[must_use]
    pub fn ios(&self) -> u64 {
        self.read.ios + self.write.ios
    }
}

/// What an I/O in flight is for.
#[derive(Clone, Copy)]
struct InFlight {
    write: bool,
    block: u64,
    generation: u32,
    start: Time,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Load,
    ReadBack,
    Drain,
}

/// A load generator on one engine.
pub struct Load<P: Port, C> {
    engine: Engine<P>,
    clock: C,
    plan: Plan,
    regions: Vec<Region>,
    buffers: IoBuffers,
    /// By the number of the I/O; I/O `i` works on region `i % regions`.
    in_flight: Box<[InFlight]>,
    idle: Vec<u32>,
    rng: Rng,
    /// I/Os that may still be submitted.
    left: u64,
    /// The load is over, and what it wrote is read.
    reading_back: bool,
    tally: Tally,
}

impl<P: Port, C: Clock> Load<P, C> {
    /// A load on regions whose LUNs are up; there are buffers for `plan.depth` I/Os, and no more
    /// regions than that.
    #[must_use]
    pub fn new(
        engine: Engine<P>,
        clock: C,
        plan: Plan,
        regions: Vec<Region>,
        buffers: IoBuffers,
    ) -> Self {
        let none = InFlight {
            write: false,
            block: 0,
            generation: 0,
            start: Time(0),
        };
        Self {
            in_flight: vec![none; plan.depth].into_boxed_slice(),
            idle: (0..plan.depth as u32).rev().collect(),
            rng: Rng::new(plan.seed),
            left: plan.count.unwrap_or(u64::MAX),
            reading_back: false,
            tally: Tally::new(),
            engine,
            clock,
            plan,
            regions,
            buffers,
        }
    }

    /// Runs the load until its time is over or its count reached, then waits for what is in
    /// flight.
    ///
    /// # Errors
    /// If a LUN takes no more I/O.
    pub fn run(
        &mut self,
        stop: &AtomicBool,
        mut progress: impl FnMut(u64, &Tally),
    ) -> Result<(), SubmitError> {
        let start = self.clock.now();
        let end = self.plan.time_ns.map_or(Time::NEVER, |ns| start.plus(ns));
        loop {
            for _ in 0..ROUNDS {
                self.round(Phase::Load)?;
            }
            let now = self.clock.now();
            progress(now.since(start), &self.tally);
            let over = now >= end || (self.left == 0 && self.is_idle());
            if over || stop.load(Ordering::Relaxed) || self.tally.errors >= ERRORS_MAX {
                break;
            }
        }
        self.drain(stop);
        self.tally.elapsed_ns = self.clock.now().since(start);
        Ok(())
    }

    /// Reads all back that was written, and compares it.
    ///
    /// # Errors
    /// If a LUN takes no more I/O.
    pub fn read_back(&mut self, stop: &AtomicBool) -> Result<(), SubmitError> {
        self.regions.iter_mut().for_each(Region::rewind);
        (self.left, self.reading_back) = (u64::MAX, true);
        while !stop.load(Ordering::Relaxed) {
            for _ in 0..ROUNDS {
                self.round(Phase::ReadBack)?;
            }
            let over = self.is_idle() && self.regions.iter().all(Region::is_at_end);
            if over || self.tally.errors >= ERRORS_MAX {
                break;
            }
        }
        self.drain(stop);
        Ok(())
    }

    /// Waits for what is in flight; once `stop` is set, gives it up.
    fn drain(&mut self, stop: &AtomicBool) {
        let start = self.clock.now();
        let mut aborted = false;
        while !self.is_idle() {
            // Without a submission there is nothing that can fail.
            let _ = self.round(Phase::Drain);
            let now = self.clock.now();
            if !aborted && stop.load(Ordering::Relaxed) && now.since(start) > 1_000_000_000 {
                aborted = true;
                self.engine.abort_all();
            }
        }
    }

    /// Turns until the driver holds no frame any more, `ns` nanoseconds at most.
    pub fn settle(&mut self, ns: u64) -> bool {
        let start = self.clock.now();
        loop {
            let now = self.clock.now();
            self.engine.turn(now);
            let whole = crate::report::frames(&self.engine).whole;
            if whole || now.since(start) > ns {
                return whole;
            }
        }
    }

    fn is_idle(&self) -> bool {
        self.idle.len() == self.plan.depth
    }

    #[inline]
    fn round(&mut self, phase: Phase) -> Result<(), SubmitError> {
        let now = self.clock.now();
        if phase != Phase::Drain && !self.idle.is_empty() && self.left > 0 {
            self.submit_idle(now, phase)?;
        }
        self.engine.turn(now);
        if let Some(first) = self.engine.next_completion() {
            let now = self.clock.now();
            self.completed(now, &first);
            while let Some(next) = self.engine.next_completion() {
                self.completed(now, &next);
            }
        }
        Ok(())
    }

    #[inline]
    fn submit_idle(&mut self, now: Time, phase: Phase) -> Result<(), SubmitError> {
        let mut at = self.idle.len();
        while at > 0 && self.left > 0 {
            at -= 1;
            let i = self.idle[at] as usize;
            let region = i % self.regions.len();
            let Some((write, block)) = self.next(region, phase) else {
                continue;
            };
            match self.submit(i, region, write, block, now) {
                Ok(()) => {
                    self.idle.swap_remove(at);
                    self.left -= 1;
                }
                Err(error) => {
                    self.regions[region].put_back(block);
                    self.buffers.give_back(i);
                    return if error == SubmitError::Busy {
                        Ok(())
                    } else {
                        Err(error)
                    };
                }
            }
        }
        Ok(())
    }

    #[inline]
    fn next(&mut self, region: usize, phase: Phase) -> Option<(bool, u64)> {
        let region = &mut self.regions[region];
        if phase == Phase::ReadBack {
            return Some((false, region.next_written()?));
        }
        let write = match self.plan.read_percent {
            100 => false,
            0 => true,
            percent => self.rng.below(100) >= u64::from(percent),
        };
        let rng = if self.plan.random {
            Some(&mut self.rng)
        } else {
            None
        };
        Some((write, region.next(rng)?))
    }

    #[inline]
    fn submit(
        &mut self,
        i: usize,
        region: usize,
        write: bool,
        block: u64,
        now: Time,
    ) -> Result<(), SubmitError> {
        let region = &mut self.regions[region];
        let (lba, sectors) = (region.lba(block), region.block_sectors);
        let bytes = sectors * pattern::SECTOR as u32;
        let generation = if write {
            region.next_generation(block).unwrap_or(0)
        } else {
            0
        };
        if write && self.plan.verify {
            let stamp = Stamp {
                seed: self.plan.seed,
                lun: region.addr,
                lba,
                generation,
            };
            pattern::fill(stamp, &mut self.buffers.bytes_mut(i)[..bytes as usize]);
        }
        let memory = if !write && self.plan.no_copy {
            Sgl::discard(bytes)
        } else {
            self.buffers.lend(i, bytes)
        };
        let op = if write { Op::Write } else { Op::Read };
        self.in_flight[i] = InFlight {
            write,
            block,
            generation,
            start: now,
        };
        let user = i as u64;
        self.engine.submit(&Request {
            lun: region.lun,
            op,
            lba,
            sectors,
            memory,
            user,
        })
    }

    #[inline]
    fn completed(&mut self, now: Time, completion: &Completion) {
        let i = completion.user as usize;
        let InFlight {
            write,
            block,
            generation,
            start,
        } = self.in_flight[i];
        let which = i % self.regions.len();
        self.buffers.give_back(i);
        self.idle.push(i as u32);
        let region = &mut self.regions[which];
        region.release(block);
        if write {
            region.wrote(block, generation, completion.result.is_ok());
        }
        let lba = region.lba(block);
        if let Err(error) = completion.result {
            let op = if write { "write" } else { "read" };
            self.tally.errors += 1;
            self.tally.first_error.get_or_insert((op, lba, error));
            return;
        }
        if !self.reading_back {
            let lane = if write {
                &mut self.tally.write
            } else {
                &mut self.tally.read
            };
            lane.ios += 1;
            lane.bytes += u64::from(region.block_sectors) * pattern::SECTOR as u64;
            lane.latency.saturating_record(now.since(start).max(1));
        }
        if !write && self.plan.verify {
            self.verify(i, which, block);
        }
    }

    #[inline]
    fn verify(&mut self, i: usize, region: usize, block: u64) {
        let region = &self.regions[region];
        let Some(generation) = region.expected(block) else {
            return;
        };
        let bytes = region.block_sectors as usize * pattern::SECTOR;
        let stamp = Stamp {
            seed: self.plan.seed,
            lun: region.addr,
            lba: region.lba(block),
            generation,
        };
        let result = pattern::check(stamp, &self.buffers.bytes(i)[..bytes]);
        let Tally {
            checked, read_back, ..
        } = &mut self.tally;
        *if self.reading_back {
            read_back
        } else {
            checked
        } += 1;
        if let Err(mismatch) = result {
            self.tally.mismatches += 1;
            if self.tally.first_mismatches.len() < MISMATCHES {
                self.tally.first_mismatches.push(mismatch);
            }
        }
    }

    /// What was seen.
    #[must_use]
    pub fn tally(&self) -> &Tally {
        &self.tally
    }

    /// The engine.
    #[must_use]
    pub fn engine(&self) -> &Engine<P> {
        &self.engine
    }
}
