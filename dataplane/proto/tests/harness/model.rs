//! What each sector may hold, from what was submitted and how it ended.

use super::disk::{content, contents};
use aoe_proto::initiator::{IoError, IoId, LunId, Op};
use aoe_proto::wire::SECTOR;
use std::collections::HashMap;

/// What a caller's buffer holds while nothing has been read into it, or after it came back.
pub const POISON: u8 = 0xdd;

/// An I/O that was submitted and not completed.
pub struct Pending {
    pub lun: LunId,
    pub op: Op,
    pub lba: u64,
    pub sectors: u32,
    pub user: u64,
    pub id: IoId,
    pub buffer: Vec<u8>,
}

impl Pending {
    pub fn new(lun: LunId, op: Op, lba: u64, sectors: u32, user: u64, id: IoId) -> Self {
        let buffer = match op {
            Op::Read => vec![POISON; sectors as usize * SECTOR],
            Op::Write => contents(lba, sectors, user),
            Op::Flush | Op::Trim => Vec::new(),
        };
        Self {
            lun,
            op,
            lba,
            sectors,
            user,
            id,
            buffer,
        }
    }

    pub fn range(&self) -> std::ops::Range<u64> {
        match self.op {
            Op::Flush => 0..0,
            Op::Read | Op::Write | Op::Trim => self.lba..self.lba + u64::from(self.sectors),
        }
    }

    fn conflicts(&self, other: &Self) -> bool {
        let (a, b) = (self.range(), other.range());
        let overlap = a.start < b.end && b.start < a.end;
        self.lun == other.lun && overlap && (self.op != Op::Read || other.op != Op::Read)
    }
}

/// The stamps that each sector may carry; a sector that is not listed carries 0.
#[derive(Default)]
pub struct Model {
    stamps: HashMap<(LunId, u64), Vec<u64>>,
    /// Disks that differ from the model on purpose.
    pub ignore_data: bool,
}

impl Model {
    /// Whether an I/O would overlap one in flight, so that its outcome could not be told.
    pub fn conflicts(new: &Pending, pending: &HashMap<u64, Pending>) -> bool {
        pending.values().any(|old| old.conflicts(new))
    }

    pub(super) fn submitted(&mut self, new: &Pending, pending: &HashMap<u64, Pending>) {
        assert!(
            !Self::conflicts(new, pending),
            "a test must not overlap its own I/O"
        );
        if new.op == Op::Write {
            for lba in new.range() {
                self.stamps
                    .entry((new.lun, lba))
                    .or_insert_with(|| vec![0])
                    .push(new.user);
            }
        }
    }

    /// Checks and takes over the end of an I/O.
    pub(super) fn completed(&mut self, io: &Pending, result: Result<(), IoError>) {
        if result.is_err() {
            // A failed write may or may not have reached the disk: both stamps stay.
            return;
        }
        match io.op {
            Op::Write => {
                for lba in io.range() {
                    self.stamps.insert((io.lun, lba), vec![io.user]);
                }
            }
            Op::Read if !self.ignore_data => {
                for (sector, lba) in io.buffer.chunks(SECTOR).zip(io.lba..) {
                    self.check(io.lun, lba, sector);
                }
            }
            Op::Read | Op::Flush | Op::Trim => {}
        }
    }

    /// The stamps that a sector may carry.
    pub fn possible(&self, lun: LunId, lba: u64) -> &[u64] {
        self.stamps.get(&(lun, lba)).map_or(&[0], Vec::as_slice)
    }

    /// Checks the content of one sector.
    pub fn check(&self, lun: LunId, lba: u64, sector: &[u8]) {
        let possible = self.possible(lun, lba);
        assert!(
            possible.iter().any(|&stamp| sector == content(lba, stamp)),
            "{lun:?} sector {lba}: expected stamp {possible:?}, got {:x?}",
            &sector[..16]
        );
    }

    /// Sectors that were ever written to.
    pub fn written(&self) -> impl Iterator<Item = (LunId, u64)> + '_ {
        self.stamps.keys().copied()
    }
}
