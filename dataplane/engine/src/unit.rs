//! One port of an engine: its frame pools, and the batch that the driver has not taken yet.

use crate::frame_pool::{FrameId, FramePool, PoolStats};
use crate::handover::Handover;
use crate::mem::Sgl;
use crate::port::{BURST, Port};
use aoe_proto::initiator::{
    Blocked, HEAD_MIN, HEADER_ROOM, Initiator, IoId, LINEAR_MAX, Payload, Received, Time, Transmit,
};
use std::sync::Arc;

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

pub(crate) struct PortUnit<P: Port> {
    pub port: P,
    /// Frames for other cores go out here, and theirs for us come in.
    pub handover: Option<Arc<Handover<P::Rx>>>,
    pub header: FramePool,
    pub full: FramePool,
    /// Filled frames that the driver has not taken yet, in ring order.
    pub batch: Vec<FrameId>,
    pub first_full: u32,
    /// Since when slots drain on this port without any of them getting done.
    pub drain_since: Option<Time>,
    pub drain_count: usize,
    /// Frames with a sequence number that could not be filled, since the batch was last empty.
    pub unsent: u64,
    pub stats: PortStats,
}

/// Which frame read a slot's payload in place, and which use of that frame it was.
#[derive(Clone, Copy, Default)]
pub(crate) struct InPlace {
    pub port: u8,
    pub frame: u32,
    pub used: u32,
}

impl<P: Port> PortUnit<P> {
    pub fn new(port: P, handover: Option<Arc<Handover<P::Rx>>>) -> Self {
        let frames = port.frames();
        Self {
            header: FramePool::new(frames.header),
            full: FramePool::new(frames.full),
            first_full: frames.full.first,
            batch: Vec::with_capacity(BURST),
            drain_since: None,
            drain_count: 0,
            unsent: 0,
            stats: PortStats::default(),
            handover,
            port,
        }
    }

    /// Hands the `count` frames of a burst to the state machine, and gives them back.
    #[inline]
    pub fn take_in(
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
        let given = match (&self.handover, frame) {
            (Some(handover), Some(frame)) => handover.give(core, frame),
            _ => false,
        };
        match given {
            true => self.stats.handed_over += 1,
            false => self.stats.handover_full += 1,
        }
    }

    /// Whether `count` slots drain on this port, and none of them got done for too long.
    pub fn is_stuck_draining(&mut self, count: usize, now: Time, timeout_ns: u64) -> bool {
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

    /// Takes back frames that were filled and that the driver never took; to the state machine they
    /// are lost.
    pub fn put_batch_back(&mut self, initiator: &mut Initiator, id: u8) {
        let count = self.batch.len() as u64;
        for frame in self.batch.drain(..) {
            let pool = if frame.0 >= self.first_full {
                &mut self.full
            } else {
                &mut self.header
            };
            pool.put_back(&mut self.port, frame);
        }
        initiator.accepted(id, count + std::mem::take(&mut self.unsent));
    }

    pub fn begin_turn(&mut self) {
        self.header.begin_turn();
        self.full.begin_turn();
    }

    /// What cannot be put on the ring now, for want of frames or of room.
    #[inline]
    pub fn blocked(&mut self) -> Blocked {
        if self.batch.len() >= BURST || !self.header.ready(&mut self.port) {
            Blocked::All
        } else if self.full.ready(&mut self.port) {
            Blocked::Nothing
        } else if self.port.zero_copy() {
            Blocked::Copies
        } else {
            Blocked::Payloads
        }
    }

    /// Fills a frame and puts it into the batch. [`Self::blocked`] did not forbid it.
    #[inline]
    pub fn put(
        &mut self,
        initiator: &mut Initiator,
        memory: &[Sgl],
        in_place: &mut [InPlace],
        t: &Transmit,
    ) {
        let frame = match t.payload {
            Payload::None => self.put_header(t),
            Payload::Io {
                io: IoId(io),
                offset,
                len,
                private,
            } => {
                let sgl = &memory[io as usize];
                match self.put_in_place(t, sgl, offset, len, private) {
                    Some((frame, lent)) => {
                        self.stats.zero_copy += 1;
                        if lent {
                            initiator.sent_in_place(t.slot);
                            let used = self.header.use_of(frame);
                            in_place[t.slot as usize] = InPlace {
                                port: t.port,
                                frame: frame.0,
                                used,
                            };
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
                // Its sequence number is used up.
                self.unsent += 1;
                if self.full.ready(&mut self.port) {
                    // Larger than a frame's buffer; to the state machine it is lost.
                    self.stats.unsendable += 1;
                } else {
                    // Memory that could not be sent in place, and no frame to copy it to.
                    initiator.not_filled(t.slot);
                }
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
        let mut bytes = [0; HEADER_ROOM];
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
        let piece = if zeroes || private {
            None
        } else {
            sgl.contiguous(offset, len)
        };
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
        let mut bytes = [0; HEADER_ROOM];
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
    pub fn flush_batch(&mut self, initiator: &mut Initiator, id: u8) -> usize {
        if self.batch.is_empty() && self.unsent == 0 {
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
        if self.batch.is_empty() {
            initiator.accepted(id, std::mem::take(&mut self.unsent));
        }
        taken
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
    let head = port.rx_head(i);
    let short = head.len() < HEAD_MIN && head.len() < len;
    let mut answer = match short {
        false => initiator.received(id, head, len),
        true => Received::Linearize(LINEAR_MAX),
    };
    if let Received::Linearize(want) = answer {
        let want = want.min(len).min(LINEAR_MAX);
        port.rx_pieces(i, 0, want, |at, bytes| {
            scratch[at..at + bytes.len()].copy_from_slice(bytes)
        });
        answer = initiator.received(id, &scratch[..want], len);
    }
    if let Received::Data {
        io: IoId(io),
        offset,
        len,
        at,
    } = answer
    {
        let sgl = memory[io as usize];
        port.rx_pieces(i, at as usize, len as usize, |skip, bytes| {
            sgl.write(offset + skip as u32, bytes);
        });
    }
    answer
}
