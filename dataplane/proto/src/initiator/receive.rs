//! What a received frame means: parsed, matched to its slot by the tag, judged, completed.

use super::slots::{Kind, Slot, State};
use super::{AtaOp, DropReason, Initiator, IoError, IoId, Time};
use crate::wire::ata::AtaHeader;
use crate::wire::{AoeError, Command, Header, Identify, SECTOR, VERSION};

/// What the host has to do with a received frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Received {
    /// Nothing: it was used, or dropped and counted.
    Done,
    /// Copy `len` bytes at `at` of the frame to `offset` of the I/O's buffer, before any
    /// completion is fetched.
    Data {
        /// Whose buffer.
        io: IoId,
        /// Where in the buffer, in bytes.
        offset: u32,
        /// How many bytes.
        len: u32,
        /// Where in the frame they begin, in bytes.
        at: u32,
    },
    /// The frame answers another core: hand it over to that one.
    Elsewhere(u32),
    /// Call again with this many contiguous bytes of the frame, or all that it has.
    Linearize(usize),
}

/// Contiguous bytes that [`Initiator::received`] wants to see of a frame, unless it is shorter.
pub const HEAD_MIN: usize = 40;
/// The most contiguous bytes that [`Received::Linearize`] asks for.
pub const LINEAR_MAX: usize = 28 + 8 + 1024;

impl Initiator {
    /// Takes a frame that `port` received. `head` is the first bytes of it, 40 or more unless the
    /// frame is shorter; `len` is its whole length in bytes.
    #[inline]
    pub fn received(&mut self, port: u8, head: &[u8], len: usize) -> Received {
        let Ok((header, at)) = Header::parse(head) else {
            return self.dropped(DropReason::NotAoe);
        };
        if !header.flags.is_response() {
            return self.dropped(DropReason::Request);
        }
        let core = self.slots.layout.core_of(header.tag);
        if core != self.config.core && core < self.config.cores {
            return Received::Elsewhere(core);
        }
        let found = self
            .slots
            .layout
            .split(header.tag)
            .and_then(|(slot, generation)| {
                self.slots
                    .copy_of(slot, generation)
                    .map(|copy| (slot, copy))
            });
        let Some((id, copy)) = found else {
            return self.unmatched(port, &header, head, at, len);
        };
        let slot = self.slots[id];
        if let Err(why) = self.fits(&slot, &header) {
            // An announcement's tag means nothing, so it may happen to be one of ours.
            return match why {
                DropReason::WrongCommand if header.command == Command::Query as u8 => {
                    self.unmatched(port, &header, head, at, len)
                }
                _ => self.dropped(why),
            };
        }
        if head.len() < len && head.len() < LINEAR_MAX && !is_read_or_write(&slot) {
            return Received::Linearize(LINEAR_MAX.min(len));
        }
        self.left(port, &slot, copy);
        if slot.state == State::Draining {
            return self.dropped(DropReason::StaleTag);
        }
        match slot.kind {
            Kind::Ata(op) => self.ata_answer(id, &slot, op, copy, &header, head, at, len),
            Kind::Discover(_) | Kind::Query => {
                self.config_answer(port, id, &slot, &header, head.get(at..).unwrap_or_default())
            }
        }
    }

    #[inline]
    pub(super) fn dropped(&mut self, why: DropReason) -> Received {
        self.drops.count(why);
        Received::Done
    }

    /// Who answered, for what, and with which command must be what was asked.
    #[inline]
    fn fits(&self, slot: &Slot, header: &Header) -> Result<(), DropReason> {
        let command = match slot.kind {
            Kind::Ata(_) => Command::Ata,
            Kind::Discover(_) | Kind::Query => Command::Query,
        };
        if header.command != command as u8 {
            return Err(DropReason::WrongCommand);
        }
        if header.version != VERSION {
            return Err(DropReason::Version);
        }
        match (slot.kind, self.luns.get(usize::from(slot.lun))) {
            (Kind::Discover(asked), _) => {
                if !header.addr.is_addressable() || header.src.is_group() {
                    Err(DropReason::BadAddress)
                } else if !asked.covers(header.addr) {
                    Err(DropReason::WrongLun)
                } else {
                    Ok(())
                }
            }
            (_, Some(lun)) if header.src != lun.mac => Err(DropReason::WrongMac),
            (_, Some(lun)) if header.addr == lun.addr => Ok(()),
            _ => Err(DropReason::WrongLun),
        }
    }

    /// An answer to a copy proves that it has left its ring, and all before it as well.
    #[inline]
    fn left(&mut self, port: u8, slot: &Slot, copy: u32) {
        let newest = slot.gen_last.wrapping_sub(slot.gen_first) & self.slots.layout.gen_mask();
        let (on, seq) = if copy == newest {
            (slot.port_last, slot.seq_last)
        } else {
            // The first or one between: not before the first.
            (slot.port_first, slot.seq_first)
        };
        if on == port
            && let Some(ring) = self.ports.get_mut(usize::from(port))
        {
            ring.left_seq = ring.left_seq.max(seq + 1).min(ring.accepted_seq);
        }
    }

    #[expect(clippy::too_many_arguments, reason = "the parsed parts of one frame")]
    #[inline]
    fn ata_answer(
        &mut self,
        id: u32,
        slot: &Slot,
        op: AtaOp,
        copy: u32,
        header: &Header,
        head: &[u8],
        at: usize,
        len: usize,
    ) -> Received {
        if header.flags.is_error() {
            self.answered(slot, copy);
            return self.refused(id, slot, AoeError::from_code(header.error));
        }
        let Ok((ata, data)) = AtaHeader::parse(head.get(at..).unwrap_or_default()) else {
            return self.dropped(DropReason::Malformed);
        };
        if ata.failed() {
            self.answered(slot, copy);
            return self.failed(id, slot, op, &ata);
        }
        let data_at = at + crate::wire::ATA_LEN;
        let bytes = match op {
            AtaOp::Read => slot.sectors as usize * SECTOR,
            AtaOp::Identify => SECTOR,
            AtaOp::Write | AtaOp::Flush | AtaOp::Trim => 0,
        };
        if len.saturating_sub(data_at) < bytes {
            // Good status without the data: no byte of it can be trusted.
            return self.dropped(DropReason::ShortData);
        }
        self.answered(slot, copy);
        match op {
            AtaOp::Identify => match Identify::parse(data) {
                Ok(identify) => self.identified(id, slot, &identify),
                Err(_) => self.identify_failed(id, slot),
            },
            AtaOp::Read => {
                let answer = Received::Data {
                    io: IoId(slot.io),
                    offset: slot.offset,
                    len: bytes as u32,
                    at: data_at as u32,
                };
                self.advance(id, slot);
                answer
            }
            AtaOp::Write | AtaOp::Flush | AtaOp::Trim => {
                match self.settled(slot, op) {
                    None => self.advance(id, slot),
                    error => self.retire(id, error),
                }
                Received::Done
            }
        }
    }

    /// What any valid answer tells about the path.
    #[inline]
    fn answered(&mut self, slot: &Slot, copy: u32) {
        self.counters.matched += 1;
        let lun = &mut self.luns[usize::from(slot.lun)];
        lun.last_answer = self.now;
        // Each copy has a tag of its own, so it is known which one was answered, and the times of
        // the first and of the newest are known.
        let newest = slot.gen_last.wrapping_sub(slot.gen_first) & self.slots.layout.gen_mask();
        let rtt = match copy {
            _ if copy == newest => Some(self.now.since(slot.sent_last)),
            0 => Some(self.now.since(slot.sent_first)),
            _ => None,
        };
        lun.pacing.answered(rtt, &self.config.pacing);
    }

    /// The command succeeded: goes on with what was split off it, or ends it.
    #[inline]
    fn advance(&mut self, id: u32, slot: &Slot) {
        if slot.rest == 0 {
            return self.retire(id, None);
        }
        let max = self.luns[usize::from(slot.lun)].sectors_per_frame;
        let row = &mut self.slots[id];
        row.lba += u64::from(slot.sectors);
        row.offset += slot.sectors * SECTOR as u32;
        row.sectors = slot.rest.min(max);
        row.rest = slot.rest - row.sectors;
        self.restart(id);
    }

    /// Sends a slot's command anew, as another command: answers to earlier copies no longer count.
    /// Its payload counts as resent, and is copied.
    fn restart(&mut self, id: u32) {
        let mask = self.slots.layout.gen_mask();
        let row = &mut self.slots[id];
        row.gen_first = row.gen_last.wrapping_add(1) & mask;
        row.sent_first = self.now;
        self.timers.disarm(id);
        self.queue(id);
    }

    /// An AoE error. Error 2 on more than one sector may mean that the target takes smaller frames
    /// now: it is asked, and the command is split again. All others end the I/O at once.
    fn refused(&mut self, id: u32, slot: &Slot, error: AoeError) -> Received {
        let lun = &mut self.luns[usize::from(slot.lun)];
        lun.stats.errors += 1;
        let data = matches!(slot.kind, Kind::Ata(AtaOp::Read | AtaOp::Write));
        if error == AoeError::BadArgument && data && slot.sectors > 1 {
            lun.stats.resplits += 1;
            let smaller = (slot.sectors / 2).min(lun.sectors_per_frame);
            lun.sectors_per_frame = smaller.max(1);
            let sectors = lun.sectors_per_frame.min(slot.sectors);
            let row = &mut self.slots[id];
            row.rest = slot.sectors - sectors + slot.rest;
            row.sectors = sectors;
            self.restart(id);
            self.query(slot.lun);
            return Received::Done;
        }
        if slot.kind == Kind::Ata(AtaOp::Identify) {
            return self.identify_failed(id, slot);
        }
        self.retire(id, Some(IoError::Aoe(error)));
        Received::Done
    }

    /// An ATA error. A FLUSH EXT that the disk does not know is tried again as FLUSH.
    fn failed(&mut self, id: u32, slot: &Slot, op: AtaOp, ata: &AtaHeader) -> Received {
        let lun = &mut self.luns[usize::from(slot.lun)];
        lun.stats.errors += 1;
        let abrt = ata.feature_or_error & crate::wire::ata_error::ABRT != 0;
        let plain_flush = lun.identify.is_some_and(|id| id.flush);
        if op == AtaOp::Flush && slot.flush_ext && plain_flush && abrt {
            lun.flush_ext = false;
            self.restart(id);
            return Received::Done;
        }
        if op == AtaOp::Identify {
            return self.identify_failed(id, slot);
        }
        let (status, error) = (ata.command_or_status, ata.feature_or_error);
        self.retire(id, Some(IoError::Ata { status, error }));
        Received::Done
    }

    /// The time that the state machine counts in: the host's, less the pauses.
    #[inline]
    pub(super) fn clock(&mut self, now: Time) {
        let last = self.last_turn.replace(now).unwrap_or(now);
        let gap = now.since(last);
        if gap > self.config.pause_ns {
            self.paused_ns += gap - self.config.pause_ns;
            self.counters.pauses += 1;
        }
        // Never backwards, whatever the host's clock does.
        self.now = self.now.max(Time(now.0.saturating_sub(self.paused_ns)));
    }
}

#[inline]
fn is_read_or_write(slot: &Slot) -> bool {
    matches!(slot.kind, Kind::Ata(AtaOp::Read | AtaOp::Write))
}
