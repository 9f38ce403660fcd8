//! Speed figures: what the initiator costs, apart from the target beside it.

use super::pair::{BUFFERS, DISK, Pair};
use crate::rng::Rng;
use anyhow::Result;
use aoe_engine::dpdk::{rdtsc, tsc_hz};
use aoe_engine::{Clock, Request, Sgl};
use aoe_proto::initiator::{LunId, Op};
use serde::Serialize;

const BLOCK: u32 = 4096;
const SECTORS: u32 = BLOCK / 512;

/// One figure.
#[derive(Serialize, Debug)]
pub struct Speed {
    /// What was done.
    pub what: &'static str,
    /// I/Os in a second, initiator and target sharing the processor.
    pub iops: f64,
    /// Cycles of submission, turn and completion of one I/O, without the target's.
    pub initiator_cycles_per_io: f64,
}

/// Measures each kind of I/O for `seconds`.
pub fn measure(pair: &mut Pair, seconds: f64) -> Result<Vec<Speed>> {
    let lun = pair.lun(DISK)?;
    let blocks = lun.sectors / u64::from(SECTORS);
    let kinds = [
        ("random reads, nobody looks at them", Op::Read, true),
        ("random reads, copied", Op::Read, false),
        ("random writes, in place", Op::Write, false),
    ];
    let one = |(what, op, discard)| {
        let mut run = Run {
            pair,
            lun: lun.id,
            blocks,
            op,
            discard,
            rng: Rng::new(1),
        };
        run.measure(what, seconds)
    };
    kinds.into_iter().map(one).collect()
}

struct Run<'a> {
    pair: &'a mut Pair,
    lun: LunId,
    blocks: u64,
    op: Op,
    discard: bool,
    rng: Rng,
}

impl Run<'_> {
    fn measure(&mut self, what: &'static str, seconds: f64) -> Result<Speed> {
        let mut idle: Vec<usize> = (0..BUFFERS).collect();
        let most = (seconds * tsc_hz() as f64) as u64;
        let (start, mut ours, mut ios) = (rdtsc(), 0, 0_u64);
        let cycles = loop {
            let before = rdtsc();
            ios += self.round(&mut idle, true)?;
            let after = rdtsc();
            ours += after - before;
            self.pair.target.turn();
            if after - start > most {
                break after - start;
            }
        };
        while idle.len() < BUFFERS {
            self.round(&mut idle, false)?;
            self.pair.target.turn();
        }
        Ok(Speed {
            what,
            iops: ios as f64 / (cycles as f64 / tsc_hz() as f64),
            initiator_cycles_per_io: ours as f64 / ios.max(1) as f64,
        })
    }

    /// The initiator's part of a round; returns how many I/Os have completed.
    #[inline]
    fn round(&mut self, idle: &mut Vec<usize>, submit: bool) -> Result<u64> {
        let now = self.pair.clock.now();
        if submit {
            while let Some(i) = idle.pop() {
                let lba = self.rng.below(self.blocks) * u64::from(SECTORS);
                let memory = if self.discard {
                    Sgl::discard(BLOCK)
                } else {
                    self.pair.buffers.lend(i, BLOCK)
                };
                self.pair.engine.submit(&Request {
                    lun: self.lun,
                    op: self.op,
                    lba,
                    sectors: SECTORS,
                    memory,
                    user: i as u64,
                })?;
            }
        }
        self.pair.engine.turn(now);
        let mut ios = 0;
        while let Some(c) = self.pair.completion() {
            c.result?;
            idle.push(c.user as usize);
            ios += 1;
        }
        Ok(ios)
    }
}
