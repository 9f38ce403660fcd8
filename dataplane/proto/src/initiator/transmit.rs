//! What to send next: first what is to be sent again and control commands, then new data, one
//! command of each ready LUN in turn.

use super::io::{self, NONE};
use super::slots::{Kind, State};
use super::{AtaOp, Blocked, CONTROL_SLOTS, Initiator, IoId, LunId, Op, Time};
use crate::wire::ata::{
    AtaHeader, emit_trim_ranges, flush_command, identify_command, read_command, trim_command,
    write_command,
};
use crate::wire::query::{Query, QueryCmd};
use crate::wire::{Command, Header, SECTOR, ata_cmd, pad};
use crate::{Mac, ShelfSlot, Tag};

/// Room that [`Transmit::emit`] needs, in bytes: a tagged header, padded.
pub const HEADER_ROOM: usize = 64;
/// Sectors that one DATA SET MANAGEMENT command with one sector of ranges can cover.
const TRIM_MAX: u32 = 64 * 0xffff;

/// Bytes that follow the header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Payload {
    /// None.
    None,
    /// `len` bytes at `offset` of the I/O's buffer. With `private` they must be copied: an earlier
    /// copy of the same command exists, and the caller may get its buffer back before this one
    /// has left.
    Io {
        /// Whose buffer.
        io: IoId,
        /// Where in the buffer, in bytes.
        offset: u32,
        /// How many bytes.
        len: u32,
        /// Whether the bytes must be copied now.
        private: bool,
    },
    /// One sector of TRIM ranges, which [`Transmit::emit_ranges`] writes.
    TrimRanges {
        /// First sector.
        lba: u64,
        /// Sectors.
        sectors: u32,
    },
}

/// One frame to send. The host puts it on `port`'s ring in the order in which it got it.
#[derive(Clone, Copy, Debug)]
pub struct Transmit {
    /// The command's slot.
    pub slot: u32,
    /// The port to send through.
    pub port: u8,
    /// What follows the header.
    pub payload: Payload,
    dst: Mac,
    addr: ShelfSlot,
    tag: Tag,
    body: Body,
}

#[derive(Clone, Copy, Debug)]
enum Body {
    Ata(AtaHeader),
    Query,
}

impl Transmit {
    /// Writes the headers to `out`, which holds at least [`HEADER_ROOM`] bytes; returns how many
    /// of them to send. A frame without payload is padded to 60 bytes.
    #[inline]
    pub fn emit(&self, out: &mut [u8; HEADER_ROOM], src: Mac, vlan: Option<u16>) -> usize {
        let command = match self.body {
            Body::Ata(_) => Command::Ata,
            Body::Query => Command::Query,
        };
        let header = Header {
            vlan,
            ..Header::request(self.dst, src, self.addr, command, self.tag)
        };
        let at = header.emit(out).unwrap_or(0);
        let rest = &mut out[at..];
        let len = at
            + match &self.body {
                Body::Ata(ata) => ata.emit(rest).unwrap_or(0),
                Body::Query => Query::request(QueryCmd::Read, &[]).emit(rest).unwrap_or(0),
            };
        match self.payload {
            Payload::None => pad(out, len).unwrap_or(len),
            Payload::Io { .. } | Payload::TrimRanges { .. } => len,
        }
    }

    /// Writes the payload of [`Payload::TrimRanges`].
    pub fn emit_ranges(&self, out: &mut [u8; SECTOR]) {
        if let Payload::TrimRanges { lba, sectors } = self.payload {
            emit_trim_ranges(out, lba, u64::from(sectors));
        }
    }
}

impl Initiator {
    /// The next frame to send, if there is one. It counts as put on its port's ring.
    #[inline]
    pub fn next_transmit(&mut self) -> Option<Transmit> {
        for _ in 0..self.send.len() {
            let Some(id) = self.send.pop_front() else {
                break;
            };
            self.slots[id].in_send = false;
            if self.slots[id].state != State::Queued {
                continue;
            }
            if self.is_slot_blocked(id) {
                self.push(id);
                continue;
            }
            match self.send_slot(id) {
                // Its tags have to rest.
                None => self.push(id),
                frame => return frame,
            }
        }
        self.next_data()
    }

    /// The port that a slot's next copy goes to.
    fn port_of(&self, id: u32) -> u8 {
        let slot = &self.slots[id];
        match (slot.kind, self.luns.get(usize::from(slot.lun))) {
            (Kind::Discover(_), _) | (_, None) => slot.port_last,
            (_, Some(lun)) => lun.port,
        }
    }

    fn is_slot_blocked(&self, id: u32) -> bool {
        let op = match self.slots[id].kind {
            Kind::Ata(AtaOp::Write) => Some(Op::Write),
            Kind::Ata(AtaOp::Trim) => Some(Op::Trim),
            Kind::Ata(_) | Kind::Query | Kind::Discover(_) => None,
        };
        self.is_blocked(self.port_of(id), op, true)
    }

    /// Whether an I/O's command, or one without I/O, cannot be put on the ring now.
    #[inline]
    pub(super) fn is_blocked(&self, port: u8, op: Option<Op>, again: bool) -> bool {
        let blocked = self
            .ports
            .get(usize::from(port))
            .map_or(Blocked::All, |p| p.blocked);
        match blocked {
            Blocked::Nothing => false,
            Blocked::Copies => op == Some(Op::Trim) || (op == Some(Op::Write) && again),
            Blocked::Payloads => matches!(op, Some(Op::Trim | Op::Write)),
            Blocked::All => true,
        }
    }

    /// Tells what the host cannot put on `port`'s ring. No such frame comes out of
    /// [`Self::next_transmit`] until it can; the other ports go on.
    #[inline]
    pub fn set_blocked(&mut self, port: u8, blocked: Blocked) {
        if let Some(ring) = self.ports.get_mut(usize::from(port)) {
            ring.blocked = blocked;
        }
    }

    /// Whether there is anything to send.
    #[must_use]
    #[inline]
    pub fn wants_transmit(&self) -> bool {
        !self.send.is_empty() || !self.ready.is_empty()
    }

    #[inline]
    fn next_data(&mut self) -> Option<Transmit> {
        for _ in 0..self.ready.len() {
            let lun = *self.ready.front()?;
            let row = &self.luns[usize::from(lun.0)];
            let op = self.ios.get(row.head).map(|io| io.op);
            if row.is_ready() && self.is_blocked(row.port, op, false) {
                self.ready.rotate_left(1);
                continue;
            }
            if !row.is_ready() {
                self.luns[usize::from(lun.0)].in_ready = false;
                self.ready.pop_front();
                continue;
            }
            let io = row.head;
            if self.ios[io].left == 0 {
                // It failed while parts of it were still waiting here.
                self.pop_io(lun);
                self.settle(io);
                continue;
            }
            let Some(slot) = self.cut(lun, io) else {
                self.counters.no_slot += 1;
                return None;
            };
            let frame = self.send_slot(slot);
            self.ready.pop_front();
            let row = &mut self.luns[usize::from(lun.0)];
            row.in_ready = row.is_ready();
            if row.in_ready {
                self.ready.push_back(lun);
            }
            if frame.is_none() {
                // Only if the LUN's port is gone; the command is not lost, but sent again.
                self.queue(slot);
            }
            return frame;
        }
        None
    }

    /// Cuts the next command out of an I/O.
    #[inline]
    fn cut(&mut self, lun: LunId, io_id: u32) -> Option<u32> {
        if self.slots.free_count() <= CONTROL_SLOTS {
            return None;
        }
        let io = &mut self.ios[io_id];
        let row = &mut self.luns[usize::from(lun.0)];
        let slot_id = self.slots.take(Kind::Ata(io.op.into()), lun.0, self.now)?;
        let max = match io.op {
            Op::Read | Op::Write => row.sectors_per_frame,
            Op::Trim => TRIM_MAX,
            Op::Flush => 1,
        };
        let sectors = io::split(io.lba, io.left, max);
        let slot = &mut self.slots[slot_id];
        (slot.io, slot.lba, slot.offset, slot.sectors) = (io_id, io.lba, io.offset, sectors);
        if io.op == Op::Flush {
            row.durability.covered_by(slot);
        }
        io.open += 1;
        io.left -= sectors;
        io.lba += u64::from(sectors);
        io.offset = io.offset.wrapping_add(sectors.wrapping_mul(SECTOR as u32));
        row.inflight += 1;
        row.stats.commands += 1;
        if io.left == 0 {
            self.pop_io(lun);
        }
        Some(slot_id)
    }

    /// Takes the first I/O out of a LUN's queue.
    #[inline]
    pub(super) fn pop_io(&mut self, lun: LunId) {
        let row = &mut self.luns[usize::from(lun.0)];
        let io = &mut self.ios[row.head];
        row.head = io.next;
        if row.head == NONE {
            row.tail = NONE;
        }
        io.next = NONE;
        io.queued = false;
    }

    /// Makes a new copy of a slot's command.
    #[inline]
    fn send_slot(&mut self, id: u32) -> Option<Transmit> {
        let generation = self.slots.next_copy(id, self.now)?;
        let tag = self.slots.layout.tag(id, generation);
        let mask = self.slots.layout.gen_mask();
        let slot = &mut self.slots[id];
        let lun = &self.luns.get(usize::from(slot.lun));
        let (port, dst, addr, body, payload, timeout) = match (slot.kind, lun) {
            (Kind::Discover(addr), _) => (
                slot.port_last,
                Mac::BROADCAST,
                addr,
                Body::Query,
                Payload::None,
                self.config.probe_interval_ns,
            ),
            (kind, Some(lun)) => {
                let (body, payload) = match kind {
                    Kind::Ata(op) => {
                        let (ata, payload) = ata_frame(op, slot, lun);
                        (Body::Ata(ata), payload)
                    }
                    Kind::Query | Kind::Discover(_) => (Body::Query, Payload::None),
                };
                let copy = generation.wrapping_sub(slot.gen_first) & mask;
                let timeout = lun.pacing.rto_ns(copy, &self.config.pacing);
                (lun.port, lun.mac, lun.addr, body, payload, timeout)
            }
            (_, None) => return None,
        };
        let ring = self.ports.get_mut(usize::from(port))?;
        slot.seq_last = ring.next_seq;
        slot.sent_last = self.now;
        slot.flush_ext =
            matches!(&body, Body::Ata(ata) if ata.command_or_status == ata_cmd::FLUSH_EXT);
        slot.port_last = port;
        ring.next_seq += 1;
        if slot.copies == 1 {
            slot.seq_first = slot.seq_last;
            slot.port_first = port;
            slot.sent_first = self.now;
        }
        slot.state = State::Sent;
        self.timers.arm(id, self.now.plus(timeout));
        Some(Transmit {
            slot: id,
            port,
            payload,
            dst,
            addr,
            tag,
            body,
        })
    }

    /// The host attached the caller's memory to this slot's frame instead of copying it.
    #[inline]
    pub fn sent_in_place(&mut self, slot: u32) {
        self.slots[slot].zero_copy = true;
    }

    /// There was no frame for this slot's copy after all: it is sent as soon as there is one.
    pub fn not_filled(&mut self, slot: u32) {
        self.queue(slot);
    }

    /// The driver took the next `count` frames of `port`.
    #[inline]
    pub fn accepted(&mut self, port: u8, count: u64) {
        if let Some(ring) = self.ports.get_mut(usize::from(port)) {
            ring.accepted_seq += count;
        }
    }

    /// Queues a slot to be sent, for the first time or again. Its timer goes on: what can never be
    /// sent has to fail as well.
    pub(super) fn queue(&mut self, id: u32) {
        self.slots[id].state = State::Queued;
        self.timers
            .arm(id, self.now.plus(self.config.pacing.rto_min_ns));
        self.push(id);
    }

    fn push(&mut self, id: u32) {
        if !std::mem::replace(&mut self.slots[id].in_send, true) {
            self.send.push_back(id);
        }
    }

    /// A slot for a control command, queued to be sent; `None` if all are taken.
    pub(super) fn control(&mut self, kind: Kind, lun: LunId, port: u8, now: Time) -> Option<u32> {
        if matches!(kind, Kind::Discover(_)) && self.discovers >= CONTROL_SLOTS {
            return None;
        }
        let id = self.slots.take(kind, lun.0, now)?;
        self.slots[id].port_last = port;
        match kind {
            Kind::Ata(_) => self.luns[usize::from(lun.0)].inflight += 1,
            Kind::Discover(_) => self.discovers += 1,
            Kind::Query => self.luns[usize::from(lun.0)].querying = true,
        }
        self.queue(id);
        Some(id)
    }
}

#[inline]
fn ata_frame(op: AtaOp, slot: &super::slots::Slot, lun: &super::Lun) -> (AtaHeader, Payload) {
    let count = slot.sectors as u8;
    match op {
        AtaOp::Read => (read_command(slot.lba, count, lun.lba48), Payload::None),
        AtaOp::Write => {
            let len = slot.sectors * SECTOR as u32;
            let (io, offset, private) = (IoId(slot.io), slot.offset, slot.copies > 1);
            (
                write_command(slot.lba, count, lun.lba48),
                Payload::Io {
                    io,
                    offset,
                    len,
                    private,
                },
            )
        }
        AtaOp::Flush => (flush_command(lun.flush_ext), Payload::None),
        AtaOp::Trim => (
            trim_command(),
            Payload::TrimRanges {
                lba: slot.lba,
                sectors: slot.sectors,
            },
        ),
        AtaOp::Identify => (identify_command(), Payload::None),
    }
}
