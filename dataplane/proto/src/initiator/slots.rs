//! Slots: one for each AoE command that is to be sent, unanswered, or whose payload may still be
//! in a transmit ring. The tag of a response names its slot.

use super::io::NONE;
use super::tags::{Lap, Seed, TagLayout};
use super::time::Time;
use crate::ShelfSlot;
use std::collections::VecDeque;

/// What a slot's command is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AtaOp {
    /// READ SECTORS (EXT).
    Read,
    /// WRITE SECTORS (EXT).
    Write,
    /// FLUSH CACHE (EXT).
    Flush,
    /// DATA SET MANAGEMENT with the TRIM bit.
    Trim,
    /// IDENTIFY DEVICE.
    Identify,
}

/// What a slot is used for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    /// An ATA command to a LUN.
    Ata(AtaOp),
    /// Query config, broadcast to all or to one shelf.slot, with any number of answers.
    Discover(ShelfSlot),
    /// Query config to a LUN's own MAC address.
    Query,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum State {
    Free,
    /// In the send queue: for the first time, or again.
    Queued,
    /// Sent and unanswered.
    Sent,
    /// Given up or answered elsewhere, but a ring may still read the caller's payload.
    Draining,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Slot {
    pub state: State,
    pub kind: Kind,
    /// Transmissions so far, saturating.
    pub copies: u8,
    pub port_first: u8,
    pub port_last: u8,
    /// The first copy reads the caller's memory.
    pub zero_copy: bool,
    /// The newest copy is a FLUSH EXT.
    pub flush_ext: bool,
    /// The send queue has this slot, though perhaps from an earlier use.
    pub in_send: bool,
    pub lun: u16,
    /// The I/O that it is a part of, or `NONE`.
    pub io: u32,
    /// Generation of the first and of the newest copy.
    pub gen_first: u32,
    pub gen_last: u32,
    pub lba: u64,
    pub sectors: u32,
    /// Sectors that follow in the same slot, after a command that had to be split again.
    pub rest: u32,
    /// Offset of the payload in the I/O's buffer, in bytes.
    pub offset: u32,
    /// Sequence numbers on their ports' rings.
    pub seq_first: u64,
    pub seq_last: u64,
    /// When the first copy was sent; before that, when the slot was taken.
    pub sent_first: Time,
    pub sent_last: Time,
    lap: Lap,
}

const EMPTY: Slot = Slot {
    state: State::Free,
    kind: Kind::Query,
    copies: 0,
    port_first: 0,
    port_last: 0,
    zero_copy: false,
    flush_ext: false,
    in_send: false,
    lun: 0,
    io: NONE,
    gen_first: 0,
    gen_last: 0,
    lba: 0,
    sectors: 0,
    rest: 0,
    offset: 0,
    seq_first: 0,
    seq_last: 0,
    sent_first: Time(0),
    sent_last: Time(0),
    lap: Lap::NEW,
};

/// All slots of a core, the free ones first-in first-out so that tags rest as long as possible.
#[derive(Debug)]
pub(super) struct Slots {
    rows: Box<[Slot]>,
    free: VecDeque<u32>,
    pub layout: TagLayout,
    lifetime_ns: u64,
    /// How often a slot had to rest because its tags would have come back too soon.
    pub tag_rests: u64,
}

impl Slots {
    pub fn new(layout: TagLayout, count: u32, lifetime_ns: u64, seed: &mut Seed) -> Self {
        let mut empty = EMPTY;
        let rows = (0..count)
            .map(|_| {
                empty.gen_last = seed.next() & layout.gen_mask();
                empty
            })
            .collect();
        Self {
            rows,
            free: (0..count).collect(),
            layout,
            lifetime_ns,
            tag_rests: 0,
        }
    }

    pub fn len(&self) -> u32 {
        self.rows.len() as u32
    }

    pub fn free_count(&self) -> u32 {
        self.free.len() as u32
    }

    /// The slot that has been free for longest.
    #[inline]
    pub fn take(&mut self, kind: Kind, lun: u16, now: Time) -> Option<u32> {
        let id = *self.free.front()?;
        let row = &mut self.rows[id as usize];
        if !row.lap.advance(self.layout, now, self.lifetime_ns) {
            self.tag_rests += 1;
            return None;
        }
        self.free.pop_front();
        *row = Slot {
            state: State::Queued,
            kind,
            lun,
            in_send: row.in_send,
            gen_first: row.gen_last.wrapping_add(1) & self.layout.gen_mask(),
            gen_last: row.gen_last,
            sent_first: now,
            sent_last: now,
            lap: row.lap,
            ..EMPTY
        };
        Some(id)
    }

    /// The next generation for another copy; `None` while its tags have to rest.
    #[inline]
    pub fn next_copy(&mut self, id: u32, now: Time) -> Option<u32> {
        let row = &mut self.rows[id as usize];
        if row.copies > 0 && !row.lap.advance(self.layout, now, self.lifetime_ns) {
            self.tag_rests += 1;
            return None;
        }
        row.gen_last = row.gen_last.wrapping_add(1) & self.layout.gen_mask();
        row.copies = row.copies.saturating_add(1);
        Some(row.gen_last)
    }

    /// Which copy a generation names: its distance from the first one. `None` if it is none of
    /// this command's.
    #[inline]
    pub fn copy_of(&self, id: u32, generation: u32) -> Option<u32> {
        let row = self.rows.get(id as usize)?;
        let mask = self.layout.gen_mask();
        let copies = row.gen_last.wrapping_add(1).wrapping_sub(row.gen_first) & mask;
        let age = generation.wrapping_sub(row.gen_first) & mask;
        // No copies: nothing was sent yet, or nothing since the command became another one.
        (row.state != State::Free && age < copies).then_some(age)
    }

    #[inline]
    pub fn give_back(&mut self, id: u32) {
        self.rows[id as usize].state = State::Free;
        self.free.push_back(id);
    }
}

impl std::ops::Index<u32> for Slots {
    type Output = Slot;
    #[inline]
    fn index(&self, id: u32) -> &Slot {
        &self.rows[id as usize]
    }
}

impl std::ops::IndexMut<u32> for Slots {
    #[inline]
    fn index_mut(&mut self, id: u32) -> &mut Slot {
        &mut self.rows[id as usize]
    }
}
