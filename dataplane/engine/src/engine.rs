//! One core's engine: the initiator's state machine, its ports, their frames.
//!
//! [`Engine::turn`] is the whole data path: receive, match, complete, run timers, transmit, reap.
//! It owns no thread, reads no clock, allocates nothing and makes no system call of its own.

use crate::dpdk::DmaBlock;
use crate::frame_pool::FrameId;
use crate::handover::Handover;
use crate::mem::Sgl;
use crate::port::{BURST, Port};
use crate::unit::{InPlace, PortStats, PortUnit};
use aoe_proto::ShelfSlot;
use aoe_proto::initiator::{
    Blocked, Config, ConfigError, Counters, Drops, Event, Initiator, IoError, IoId, LINEAR_MAX,
    LunId, LunInfo, Op, SubmitError, Time,
};
use std::sync::Arc;

/// Received bursts that one turn handles on each port at most, so that transmitting is not starved.
const RX_BURSTS: usize = 4;
/// Frames that one turn reaps on each port at most.
const REAP: usize = 2 * BURST;

/// What an I/O asks for. Offsets and lengths are in sectors of 512 bytes.
#[derive(Clone, Copy, Debug)]
pub struct Request {
    /// The LUN.
    pub lun: LunId,
    /// What to do.
    pub op: Op,
    /// First sector.
    pub lba: u64,
    /// Sectors.
    pub sectors: u32,
    /// The caller's memory: `sectors * 512` bytes for reads and writes.
    pub memory: Sgl,
    /// Comes back with the completion.
    pub user: u64,
}

/// An I/O has ended, and its memory is the caller's again.
#[derive(Debug)]
pub struct Completion {
    /// The block that was handed over with [`Engine::submit_block`].
    pub block: Option<DmaBlock>,
    /// What the caller gave with the request.
    pub user: u64,
    /// How it ended. After an error of a read, the content of its memory is unspecified.
    pub result: Result<(), IoError>,
}

/// What one turn did.
#[derive(Clone, Copy, Debug, Default)]
pub struct Turn {
    /// Frames received.
    pub received: usize,
    /// Frames that the drivers took.
    pub transmitted: usize,
}

impl Turn {
    /// Whether there was anything to do.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        self.received + self.transmitted > 0
    }
}

/// An engine. One for each core; engines share nothing.
pub struct Engine<P: Port> {
    initiator: Initiator,
    ports: Vec<PortUnit<P>>,
    /// By `IoId`.
    memory: Box<[Sgl]>,
    /// By `IoId`: memory that the engine owns for the time of the I/O.
    blocks: Box<[Option<DmaBlock>]>,
    /// By slot.
    in_place: Box<[InPlace]>,
    scratch: Box<[u8; LINEAR_MAX]>,
    drain_timeout_ns: u64,
    core: u32,
    given_up: u64,
}

impl<P: Port> Engine<P> {
    /// An engine without ports. Buffers that a ring still reads when their I/O has ended are waited
    /// for `drain_timeout_ns`; then the port is stopped and started.
    ///
    /// # Errors
    /// As [`Initiator::new`].
    pub fn new(config: Config, drain_timeout_ns: u64) -> Result<Self, ConfigError> {
        let (ios, slots, core) = (config.ios as usize, config.slots as usize, config.core);
        Ok(Self {
            initiator: Initiator::new(config)?,
            ports: Vec::new(),
            memory: vec![Sgl::NONE; ios].into_boxed_slice(),
            blocks: (0..ios).map(|_| None).collect(),
            in_place: vec![InPlace::default(); slots].into_boxed_slice(),
            scratch: Box::new([0; LINEAR_MAX]),
            drain_timeout_ns,
            core,
            given_up: 0,
        })
    }

    /// Adds a port. Cores that share a device share a [`Handover`] for it, since nothing steers
    /// AoE frames to the queue of the core that they answer.
    ///
    /// # Errors
    /// If there are too many.
    pub fn add_port(
        &mut self,
        port: P,
        handover: Option<Arc<Handover<P::Rx>>>,
    ) -> Result<u8, ConfigError> {
        let id = self.initiator.add_port(port.info())?;
        self.ports.push(PortUnit::new(port, handover));
        Ok(id)
    }

    /// One round of everything, without blocking.
    #[inline]
    pub fn turn(&mut self, now: Time) -> Turn {
        self.initiator.begin(now);
        let received = self.receive();
        self.initiator.tick();
        if !self.initiator.draining().is_empty() {
            self.drain();
        }
        if self.given_up != self.initiator.given_up() {
            self.given_up = self.initiator.given_up();
            self.drop_batches();
        }
        let transmitted = self.transmit();
        for unit in &mut self.ports {
            unit.header.reap(&mut unit.port, REAP);
            unit.full.reap(&mut unit.port, REAP);
        }
        Turn {
            received,
            transmitted,
        }
    }

    fn receive(&mut self) -> usize {
        let mut total = 0;
        let Self {
            initiator,
            ports,
            memory,
            scratch,
            core,
            ..
        } = self;
        for (id, unit) in ports.iter_mut().enumerate() {
            for burst in 1..=RX_BURSTS {
                let count = unit.port.rx_burst();
                unit.take_in(initiator, memory, scratch, id as u8, count);
                unit.stats.received += count as u64;
                total += count;
                if count < BURST {
                    break;
                }
                if burst == RX_BURSTS {
                    initiator.backlog();
                }
            }
            for burst in 1..=RX_BURSTS {
                let Some(handover) = &unit.handover else {
                    break;
                };
                let count = handover.collect(*core, &mut unit.port);
                unit.take_in(initiator, memory, scratch, id as u8, count);
                total += count;
                if count < BURST {
                    break;
                }
                if burst == RX_BURSTS {
                    initiator.backlog();
                }
            }
        }
        total
    }

    fn transmit(&mut self) -> usize {
        let mut total = 0;
        let Self {
            initiator,
            ports,
            in_place,
            memory,
            ..
        } = self;
        for (id, unit) in ports.iter_mut().enumerate() {
            unit.begin_turn();
            total += unit.flush_batch(initiator, id as u8);
            let blocked = unit.blocked();
            unit.stats.blocked_turns += u64::from(blocked != Blocked::Nothing);
            initiator.set_blocked(id as u8, blocked);
        }
        while let Some(frame) = initiator.next_transmit() {
            let id = frame.port;
            let Some(unit) = ports.get_mut(usize::from(id)) else {
                continue;
            };
            unit.put(initiator, memory, in_place, &frame);
            if unit.batch.len() == BURST {
                total += unit.flush_batch(initiator, id);
            }
            initiator.set_blocked(id, unit.blocked());
        }
        for (id, unit) in ports.iter_mut().enumerate() {
            total += unit.flush_batch(initiator, id as u8);
        }
        total
    }

    /// Some I/O was given up: what the driver has not even taken of it must not be sent later.
    #[cold]
    fn drop_batches(&mut self) {
        for (id, unit) in self.ports.iter_mut().enumerate() {
            unit.put_batch_back(&mut self.initiator, id as u8);
        }
    }

    /// Buffers of I/Os that have ended while a ring may still read them.
    #[cold]
    fn drain(&mut self) {
        let Self {
            initiator,
            ports,
            in_place,
            ..
        } = self;
        // Time in which this core did not run is no time in which a driver could have let go.
        let now = initiator.now();
        for unit in ports.iter_mut() {
            unit.port.nudge();
        }
        initiator.drain(|slot| {
            let Some(it) = in_place.get(slot as usize) else {
                return false;
            };
            let Some(unit) = ports.get(usize::from(it.port)) else {
                return false;
            };
            unit.header.is_over(&unit.port, FrameId(it.frame), it.used)
        });
        for (id, unit) in ports.iter_mut().enumerate() {
            let id = id as u8;
            let on_port = |slot: &&u32| {
                in_place
                    .get(**slot as usize)
                    .is_some_and(|it| it.port == id)
            };
            let count = initiator.draining().iter().filter(on_port).count();
            if !unit.is_stuck_draining(count, now, self.drain_timeout_ns) {
                continue;
            }
            // Nobody answers and the driver does not let go: the last resort. What the driver never
            // took is not its own; to the state machine it is lost.
            unit.stats.flushes += 1;
            unit.put_batch_back(initiator, id);
            unit.port.flush();
        }
    }

    /// Accepts an I/O.
    ///
    /// # Errors
    /// If it cannot be accepted; the caller still has its memory. [`SubmitError::Busy`] is
    /// back-pressure: submit again after a completion or a turn.
    #[inline]
    pub fn submit(&mut self, request: &Request) -> Result<(), SubmitError> {
        let Request {
            lun,
            op,
            lba,
            sectors,
            memory,
            user,
        } = *request;
        if matches!(op, Op::Read | Op::Write) && u64::from(memory.len()) < u64::from(sectors) * 512
        {
            return Err(SubmitError::ShortMemory {
                sectors,
                bytes: memory.len(),
            });
        }
        let IoId(io) = self.initiator.submit(lun, op, lba, sectors, user)?;
        self.memory[io as usize] = memory;
        Ok(())
    }

    /// Accepts an I/O whose memory is a block, which the engine keeps until the completion: the
    /// way without `unsafe`. The request's own `memory` is not used.
    ///
    /// # Errors
    /// As [`Self::submit`], with the block.
    pub fn submit_block(
        &mut self,
        request: &Request,
        mut block: DmaBlock,
    ) -> Result<(), (SubmitError, DmaBlock)> {
        let Request {
            lun,
            op,
            lba,
            sectors,
            user,
            ..
        } = *request;
        let memory = block.sgl();
        if u64::from(memory.len()) < u64::from(sectors) * 512 {
            return Err((
                SubmitError::ShortMemory {
                    sectors,
                    bytes: memory.len(),
                },
                block,
            ));
        }
        match self.initiator.submit(lun, op, lba, sectors, user) {
            Ok(IoId(io)) => {
                self.memory[io as usize] = memory;
                self.blocks[io as usize] = Some(block);
                Ok(())
            }
            Err(e) => Err((e, block)),
        }
    }

    /// The next I/O that has ended.
    #[inline]
    pub fn next_completion(&mut self) -> Option<Completion> {
        let (IoId(io), user, result) = self.initiator.next_completion()?;
        self.memory[io as usize] = Sgl::NONE;
        let block = self.blocks[io as usize].take();
        Some(Completion {
            block,
            user,
            result,
        })
    }

    /// The next event.
    pub fn next_event(&mut self) -> Option<Event> {
        self.initiator.next_event()
    }

    /// Adds a LUN that is looked for until it answers; `None` if there is no room.
    pub fn add_lun(&mut self, addr: ShelfSlot) -> Option<LunId> {
        self.initiator.add_lun(addr)
    }

    /// The LUN with this address.
    #[must_use]
    pub fn find_lun(&self, addr: ShelfSlot) -> Option<LunId> {
        self.initiator.find_lun(addr)
    }

    /// Everything about one LUN.
    #[must_use]
    pub fn lun(&self, id: LunId) -> Option<LunInfo> {
        self.initiator.lun(id)
    }

    /// Which disk a LUN is now: [`LunInfo::identity`].
    #[inline]
    #[must_use]
    pub fn identity(&self, id: LunId) -> u32 {
        self.initiator.identity(id)
    }

    /// All LUNs.
    pub fn luns(&self) -> impl Iterator<Item = LunInfo> + '_ {
        self.initiator.luns()
    }

    /// Asks all targets to answer, now.
    pub fn rescan(&mut self) {
        self.initiator.rescan();
    }

    /// Fails all I/O. Turns have to go on until nothing is [in flight](Self::in_flight).
    pub fn abort_all(&mut self) {
        self.initiator.abort_all();
    }

    /// I/Os whose completion was not fetched yet.
    #[must_use]
    pub fn in_flight(&self) -> u32 {
        self.initiator.in_flight()
    }

    /// Whether every frame is back in its pool and every slot free.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        let pools =
            |u: &PortUnit<P>| u.batch.is_empty() && u.header.is_whole() && u.full.is_whole();
        self.initiator.free_slots() == self.initiator.slots() && self.ports.iter().all(pools)
    }

    /// The state machine's counters.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.initiator.counters()
    }

    /// Dropped frames by reason.
    #[must_use]
    pub fn drops(&self) -> &Drops {
        self.initiator.drops()
    }

    /// Counters of each port.
    pub fn port_stats(&self) -> impl Iterator<Item = PortStats> + '_ {
        self.ports.iter().map(|unit| PortStats {
            header: unit.header.stats(),
            full: unit.full.stats(),
            ..unit.stats
        })
    }

    /// A port, to look at.
    #[must_use]
    pub fn port(&self, id: u8) -> Option<&P> {
        self.ports.get(usize::from(id)).map(|unit| &unit.port)
    }

    /// A port, for tests that play tricks on it.
    pub fn port_mut(&mut self, id: u8) -> Option<&mut P> {
        self.ports
            .get_mut(usize::from(id))
            .map(|unit| &mut unit.port)
    }
}

impl<P: Port> Drop for Engine<P> {
    fn drop(&mut self) {
        for unit in &mut self.ports {
            unit.put_batch_back(&mut self.initiator, 0);
        }
        // A ring may still read the blocks of unfinished I/O: better lost than reused.
        for block in &mut self.blocks {
            std::mem::forget(block.take());
        }
    }
}
