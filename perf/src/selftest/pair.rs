//! An engine and a target that face each other.

use crate::buffers::IoBuffers;
use crate::disk::LabDisk;
use crate::host;
use crate::rng::Rng;
use crate::target::LabTarget;
use anyhow::{Context, Result, bail};
use aoe_engine::dpdk::{DeviceConfig, DpdkPort, Eal, IovaMap, ring_pair};
use aoe_engine::{Clock, Completion, Engine, Request, Sgl, TscClock};
use aoe_proto::ShelfSlot;
use aoe_proto::initiator::{Config, IoError, LunId, LunInfo, LunState, Op, SubmitError};
use aoe_proto::target::TargetConfig;

/// A LUN with TRIM.
pub const DISK: ShelfSlot = ShelfSlot { shelf: 7, slot: 0 };
/// A LUN that refuses writes.
pub const READ_ONLY: ShelfSlot = ShelfSlot { shelf: 7, slot: 1 };
/// Bytes of [`DISK`].
pub const DISK_BYTES: u64 = 32 << 20;
/// Bytes of [`READ_ONLY`].
pub const READ_ONLY_BYTES: u64 = 1 << 20;
/// I/O buffers.
pub const BUFFERS: usize = 32;
/// Bytes of each.
pub const BUFFER_BYTES: u32 = 1 << 20;
const SLOTS: u32 = 256;
/// Frames that each ring holds, and descriptors of each queue.
const RING: u16 = 256;
const MTU: u32 = 9000;
/// How long anything may take, in nanoseconds.
const PATIENCE: u64 = 10_000_000_000;

/// Both ends of a wire.
pub struct Pair {
    /// The initiator.
    pub engine: Engine<DpdkPort>,
    /// The target.
    pub target: LabTarget<DpdkPort>,
    /// The time.
    pub clock: TscClock,
    /// Memory for I/O.
    pub buffers: IoBuffers,
    /// Receive buffers that were free at the start, on either side.
    pub rx_free: [u32; 2],
}

impl Pair {
    /// Makes the wire and opens both ports.
    pub fn new(eal: Eal, name: &str, checks: bool) -> Result<Self> {
        let (a, b) = ring_pair(eal, name, u32::from(RING))?;
        let iova = IovaMap::new(eal);
        let buffers = IoBuffers::new(eal, &iova, BUFFERS, BUFFER_BYTES)?;
        let config = |port: u16, copy_only: bool| DeviceConfig {
            mtu: Some(MTU),
            slots: SLOTS,
            rx_desc: RING,
            tx_desc: RING,
            copy_only,
            checks,
            ..DeviceConfig::new(format!("port:{port}"))
        };
        let (_, ours) = host::open_one(eal, &config(a, false), &iova)?;
        let (_, theirs) = host::open_one(eal, &config(b, true), &iova)?;
        let rx_free = [ours.rx_free(), theirs.rx_free()];
        let config = Config {
            slots: SLOTS,
            ios: BUFFERS as u32 * 2,
            seed: Rng::unpredictable_seed(),
            ..Config::default()
        };
        let mut engine = Engine::new(config, PATIENCE)?;
        engine.add_port(ours, None)?;
        let mut target = LabTarget::new(theirs);
        let config = |addr| TargetConfig {
            max_sectors: host::max_sectors(MTU),
            ..TargetConfig::new(addr)
        };
        let config = |addr| TargetConfig {
            buffer_count: 64,
            ..config(addr)
        };
        target.add(config(DISK), LabDisk::ram(DISK_BYTES).with_trim(true));
        target.add(
            config(READ_ONLY),
            LabDisk::ram(READ_ONLY_BYTES).with_read_only(true),
        );
        Ok(Self {
            engine,
            target,
            clock: TscClock::new(),
            buffers,
            rx_free,
        })
    }

    /// A turn of either side.
    pub fn turn(&mut self) {
        self.engine.turn(self.clock.now());
        self.target.turn();
    }

    /// Turns until `done` says so.
    pub fn until(&mut self, what: &str, mut done: impl FnMut(&mut Self) -> bool) -> Result<()> {
        let start = self.clock.now();
        while !done(self) {
            if self.clock.now().since(start) > PATIENCE {
                bail!("{what}: not within {} s", PATIENCE / 1_000_000_000);
            }
            self.turn();
        }
        Ok(())
    }

    /// The LUN with this address, which is up.
    pub fn lun(&self, addr: ShelfSlot) -> Result<LunInfo> {
        let id = self
            .engine
            .find_lun(addr)
            .with_context(|| format!("{addr} is not there"))?;
        let info = self
            .engine
            .lun(id)
            .with_context(|| format!("{addr} is not there"))?;
        if info.state != LunState::Up {
            bail!("{addr} is {:?}", info.state);
        }
        Ok(info)
    }

    /// Submits an I/O that uses the memory of buffer `i`, if it needs any.
    pub fn submit(
        &mut self,
        lun: LunId,
        op: Op,
        (lba, sectors): (u64, u32),
        i: usize,
    ) -> Result<(), SubmitError> {
        let memory = match op {
            Op::Read | Op::Write => self.buffers.lend(i, sectors * 512),
            Op::Flush | Op::Trim => Sgl::NONE,
        };
        let request = Request {
            lun,
            op,
            lba,
            sectors,
            memory,
            user: i as u64,
        };
        let result = self.engine.submit(&request);
        if result.is_err() {
            self.buffers.give_back(i);
        }
        result
    }

    /// The next completion; its buffer is ours again.
    pub fn completion(&mut self) -> Option<Completion> {
        let completion = self.engine.next_completion()?;
        self.buffers.give_back(completion.user as usize);
        Some(completion)
    }

    /// One I/O with the memory of buffer 0, from submission to completion.
    pub fn one(&mut self, lun: LunId, op: Op, range: (u64, u32)) -> Result<Result<(), IoError>> {
        self.submit(lun, op, range, 0)?;
        let mut done = None;
        self.until("an I/O", |pair| {
            done = pair.completion();
            done.is_some()
        })?;
        Ok(done.context("no completion")?.result)
    }
}
