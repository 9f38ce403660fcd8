//! One core's engine: the initiator's state machine, its ports, their frames.
//!
//! [`Engine::turn`] is the whole data path: receive, match, complete, run timers, transmit, reap.
//! It owns no thread, reads no clock, allocates nothing and makes no system call of its own.

use crate::dpdk::DmaBlock;
use crate::frame_pool::{FrameId, FramePool, PoolStats};
use crate::handover::Handover;
use crate::mem::Sgl;
use crate::port::{BURST, Port};
use aoe_proto::ShelfSlot;
use aoe_proto::initiator::{
    Config, ConfigError, Counters, Drops, Event, Initiator, IoError, IoId, LINEAR_MAX, LunId,
    LunInfo, Op, Payload, Received, SubmitError, Time, Transmit,
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

/// What a port has seen: counts, and gauges where the pools say so.
#[derive(Clone, Copy, Debug, Default)]
pub struct PortStats {
    /// Frames received.
    pub received: u64,
    /// Frames that the driver took.
    pub transmitted: u64,
    /// Bursts of which the driver took only a part.
    pub ring_full: u64,
    /// Turns in which nothing could be sent for want of a frame or of room in the ring.
    pub blocked_turns: u64,
    /// Write frames whose payload was sent in place.
    pub zero_copy: u64,
    /// Write frames whose payload was copied: resends, and memory that the driver cannot take.
    pub bounced: u64,
    /// Frames that were larger than the port's buffers.
    pub unsendable: u64,
    /// Received frames that were handed over to the core that they answer.
    pub handed_over: u64,
    /// Received frames that were lost because that core did not keep up.
    pub handover_full: u64,
    /// Times that the port was stopped and started to get buffers back.
    pub flushes: u64,
    /// Header frames.
    pub header: PoolStats,
    /// Full frames.
    pub full: PoolStats,
}

struct PortUnit<P: Port> {
    port: P,
    /// Frames for other cores go out here, and theirs for us come in.
    handover: Option<Arc<Handover<P::Rx>>>,
    header: FramePool,
    full: FramePool,
    /// Filled frames that the driver has not taken yet, in ring order.
    batch: Vec<FrameId>,
    first_full: u32,
    /// Since when slots drain on this port without any of them getting done.
    drain_since: Option<Time>,
    drain_count: usize,
    stats: PortStats,
}

/// Which frame read a slot's payload in place, and which use of that frame it was.
#[derive(Clone, Copy, Default)]
struct InPlace {
    port: u8,
    frame: u32,
    used: u32,
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
        let frames = port.frames();
        self.ports.push(PortUnit {
            header: FramePool::new(frames.header),
            full: FramePool::new(frames.full),
            first_full: frames.full.first,
            batch: Vec::with_capacity(BURST),
            drain_since: None,
            drain_count: 0,
            stats: PortStats::default(),
            handover,
            port,
        });
        Ok(id)
    }

    /// One round of everything, without blocking.
    #[inline]
    pub fn turn(&mut self, now: Time) -> Turn {
        self.initiator.begin(now);
        let received = self.receive();
        self.initiator.tick();
        if !self.initiator.draining().is_empty() {
            self.drain(now);
        }
        let transmitted = self.transmit();
        for unit in &mut self.ports {
            unit.header.reap(&mut unit.port, REAP);
            unit.full.reap(&mut unit.port, REAP);
        }
        Turn { received, transmitted }
    }

    fn receive(&mut self) -> usize {
        let mut total = 0;
        let Self { initiator, ports, memory, scratch, core, .. } = self;
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
                let Some(handover) = &unit.handover else { break };
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
        let Self { initiator, ports, in_place, memory, .. } = self;
        for (id, unit) in ports.iter_mut().enumerate() {
            unit.begin_turn();
            total += unit.flush_batch(initiator, id as u8);
            let ready = unit.is_ready();
            unit.stats.blocked_turns += u64::from(!ready);
            initiator.set_blocked(id as u8, !ready);
        }
        while let Some(frame) = initiator.next_transmit() {
            let id = frame.port;
            let Some(unit) = ports.get_mut(usize::from(id)) else { continue };
            unit.put(initiator, memory, in_place, &frame);
            if unit.batch.len() == BURST {
                total += unit.flush_batch(initiator, id);
            }
            if !unit.is_ready() {
                initiator.set_blocked(id, true);
            }
        }
        for (id, unit) in ports.iter_mut().enumerate() {
            total += unit.flush_batch(initiator, id as u8);
        }
        total
    }

    /// Buffers of I/Os that have ended while a ring may still read them.
    #[cold]
    fn drain(&mut self, now: Time) {
        let Self { initiator, ports, in_place, .. } = self;
        for unit in ports.iter_mut() {
            unit.port.nudge();
        }
        initiator.drain(|slot| {
            let Some(it) = in_place.get(slot as usize) else { return false };
            let Some(unit) = ports.get(usize::from(it.port)) else { return false };
            unit.header.is_over(&unit.port, FrameId(it.frame), it.used)
        });
        for (id, unit) in ports.iter_mut().enumerate() {
            let id = id as u8;
            let on_port =
                |slot: &&u32| in_place.get(**slot as usize).is_some_and(|it| it.port == id);
            let count = initiator.draining().iter().filter(on_port).count();
            if !unit.is_stuck_draining(count, now, self.drain_timeout_ns) {
                continue;
            }
            // Nobody answers and the driver does not let go: the last resort. What the driver never
            // took is not its own; to the state machine it is lost.
            unit.stats.flushes += 1;
            let unsent = unit.put_batch_back();
            initiator.accepted(id, unsent as u64);
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
        let Request { lun, op, lba, sectors, memory, user } = *request;
        if matches!(op, Op::Read | Op::Write) && u64::from(memory.len()) < u64::from(sectors) * 512
        {
            return Err(SubmitError::ShortMemory { sectors, bytes: memory.len() });
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
        let Request { lun, op, lba, sectors, user, .. } = *request;
        let memory = block.sgl();
        if u64::from(memory.len()) < u64::from(sectors) * 512 {
            return Err((SubmitError::ShortMemory { sectors, bytes: memory.len() }, block));
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
        Some(Completion { block, user, result })
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
        self.ports.get_mut(usize::from(id)).map(|unit| &mut unit.port)
    }
}

/// Hands one received frame to the state machine and copies the data that it brings.
#[inline]
fn take_in<P: Port>(
    initiator: &mut Initiator,
    memory: &[Sgl],
    scratch: &mut [u8; LINEAR_MAX],
    port: &P,
    id: u8,
    i: usize,
) -> Received {
    let len = port.rx_len(i);
    let mut answer = initiator.received(id, port.rx_head(i), len);
    if let Received::Linearize(want) = answer {
        let want = want.min(len).min(LINEAR_MAX);
        port.rx_pieces(i, 0, want, |at, bytes| {
            scratch[at..at + bytes.len()].copy_from_slice(bytes)
        });
        answer = initiator.received(id, &scratch[..want], len);
    }
    if let Received::Data { io: IoId(io), offset, len, at } = answer {
        let sgl = memory[io as usize];
        port.rx_pieces(i, at as usize, len as usize, |skip, bytes| {
            sgl.write(offset + skip as u32, bytes);
        });
    }
    answer
}

impl<P: Port> Drop for Engine<P> {
    fn drop(&mut self) {
        for unit in &mut self.ports {
            unit.put_batch_back();
        }
        // A ring may still read the blocks of unfinished I/O: better lost than reused.
        for block in &mut self.blocks {
            std::mem::forget(block.take());
        }
    }
}

impl<P: Port> PortUnit<P> {
    /// Hands the `count` frames of a burst to the state machine, and gives them back.
    #[inline]
    fn take_in(
        &mut self,
        initiator: &mut Initiator,
        memory: &[Sgl],
        scratch: &mut [u8; LINEAR_MAX],
        id: u8,
        count: usize,
    ) {
        for i in 0..count {
            let answer = take_in(initiator, memory, scratch, &self.port, id, i);
            if let Received::Elsewhere(core) = answer {
                self.hand_over(core, i);
            }
        }
        self.port.rx_done();
    }

    fn hand_over(&mut self, core: u32, i: usize) {
        let frame = self.port.rx_take(i);
        if let (Some(handover), Some(frame)) = (&self.handover, frame) {
            match handover.give(core, frame) {
                true => self.stats.handed_over += 1,
                false => self.stats.handover_full += 1,
            }
        }
    }

    /// Whether `count` slots drain on this port, and none of them got done for too long.
    fn is_stuck_draining(&mut self, count: usize, now: Time, timeout_ns: u64) -> bool {
        let before = std::mem::replace(&mut self.drain_count, count);
        if count == 0 || count < before {
            self.drain_since = None;
        }
        if count == 0 {
            return false;
        }
        let since = *self.drain_since.get_or_insert(now);
        let stuck = now.since(since) >= timeout_ns;
        if stuck {
            self.drain_since = Some(now);
        }
        stuck
    }

    /// Frames that were filled and never offered are nobody's but ours.
    fn put_batch_back(&mut self) -> usize {
        let count = self.batch.len();
        for frame in self.batch.drain(..) {
            let pool = if frame.0 >= self.first_full { &mut self.full } else { &mut self.header };
            pool.put_back(&mut self.port, frame);
        }
        count
    }

    fn begin_turn(&mut self) {
        self.header.begin_turn();
        self.full.begin_turn();
    }

    /// Whether a frame of either kind can be put on the ring.
    #[inline]
    fn is_ready(&mut self) -> bool {
        self.batch.len() < BURST
            && self.header.ready(&mut self.port)
            && self.full.ready(&mut self.port)
    }

    /// Fills a frame and puts it into the batch. [`Self::is_ready`] was true.
    #[inline]
    fn put(
        &mut self,
        initiator: &mut Initiator,
        memory: &[Sgl],
        in_place: &mut [InPlace],
        t: &Transmit,
    ) {
        let frame = match t.payload {
            Payload::None => self.put_header(t),
            Payload::Io { io: IoId(io), offset, len, private } => {
                let sgl = &memory[io as usize];
                match self.put_in_place(t, sgl, offset, len, private) {
                    Some((frame, lent)) => {
                        self.stats.zero_copy += 1;
                        if lent {
                            initiator.sent_in_place(t.slot);
                            let used = self.header.use_of(frame);
                            in_place[t.slot as usize] =
                                InPlace { port: t.port, frame: frame.0, used };
                        }
                        Some(frame)
                    }
                    None => {
                        self.stats.bounced += 1;
                        self.put_full(t, len as usize, |room| sgl.read(offset, room))
                    }
                }
            }
            Payload::TrimRanges { .. } => self.put_full(t, 512, |room| {
                if let Some(room) = room.first_chunk_mut() {
                    t.emit_ranges(room);
                }
            }),
        };
        match frame {
            Some(frame) => self.batch.push(frame),
            None => {
                // A frame larger than a full frame's buffer. Its sequence number is used up; to
                // the state machine it is a lost frame.
                self.stats.unsendable += 1;
                initiator.accepted(t.port, 1);
            }
        }
    }

    #[inline]
    fn put_header(&mut self, t: &Transmit) -> Option<FrameId> {
        let frame = self.header.take(&mut self.port)?;
        self.fill_header(t, frame);
        Some(frame)
    }

    #[inline]
    fn fill_header(&mut self, t: &Transmit, frame: FrameId) {
        let info = self.port.info();
        let mut bytes = [0; aoe_proto::initiator::HEADER_ROOM];
        let len = t.emit(&mut bytes, info.mac, info.vlan);
        *self.port.header(frame, len) = bytes;
    }

    /// A header with the caller's memory behind it, and whether that is memory that it wants back.
    /// `None` if it has to be copied.
    #[inline]
    fn put_in_place(
        &mut self,
        t: &Transmit,
        sgl: &Sgl,
        offset: u32,
        len: u32,
        private: bool,
    ) -> Option<(FrameId, bool)> {
        if !self.port.zero_copy() {
            return None;
        }
        let zeroes = sgl.is_zeroes();
        let piece = if zeroes || private { None } else { sgl.contiguous(offset, len) };
        if piece.is_none() && !zeroes {
            return None;
        }
        let frame = self.put_header(t)?;
        let attached = match piece {
            Some(piece) => self.port.attach(frame, piece, len),
            None => self.port.attach_zeroes(frame, len),
        };
        if !attached {
            self.header.put_back(&mut self.port, frame);
            return None;
        }
        Some((frame, !zeroes))
    }

    fn put_full(
        &mut self,
        t: &Transmit,
        len: usize,
        fill: impl FnOnce(&mut [u8]),
    ) -> Option<FrameId> {
        let frame = self.full.take(&mut self.port)?;
        let info = self.port.info();
        let mut bytes = [0; aoe_proto::initiator::HEADER_ROOM];
        let at = t.emit(&mut bytes, info.mac, info.vlan);
        let body = self.port.body(frame, at + len);
        let Some((head, room)) = body.split_at_mut_checked(at) else {
            self.full.put_back(&mut self.port, frame);
            return None;
        };
        head.copy_from_slice(&bytes[..at]);
        fill(room);
        Some(frame)
    }

    /// Offers the batch to the driver; what it does not take stays in the batch.
    #[inline]
    fn flush_batch(&mut self, initiator: &mut Initiator, id: u8) -> usize {
        if self.batch.is_empty() {
            return 0;
        }
        let taken = self.port.tx_burst(&self.batch);
        for &frame in &self.batch[..taken] {
            if frame.0 >= self.first_full {
                self.full.hold(frame);
            } else {
                self.header.hold(frame);
            }
        }
        self.stats.ring_full += u64::from(taken < self.batch.len());
        self.batch.drain(..taken);
        self.stats.transmitted += taken as u64;
        initiator.accepted(id, taken as u64);
        taken
    }
}
