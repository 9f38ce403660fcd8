//! The I/O table: what a caller asked for, cut into AoE commands as the window opens.

use super::AtaOp;
use super::error::IoError;

/// Names an I/O in the table; valid from its submission to its completion.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct IoId(pub u32);

pub(super) const NONE: u32 = u32::MAX;

/// What an I/O does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Op {
    /// Sectors into the caller's buffer.
    Read,
    /// Sectors from the caller's buffer.
    Write,
    /// Everything that was completed before reaches stable storage, as far as the target can.
    Flush,
    /// The sectors' content is no longer needed (DATA SET MANAGEMENT).
    Trim,
}

impl From<Op> for AtaOp {
    fn from(op: Op) -> Self {
        match op {
            Op::Read => Self::Read,
            Op::Write => Self::Write,
            Op::Flush => Self::Flush,
            Op::Trim => Self::Trim,
        }
    }
}

/// One row: how far the I/O has been cut into commands, and how many are unanswered.
#[derive(Clone, Copy, Debug)]
pub(super) struct Io {
    pub op: Op,
    pub lun: u16,
    pub error: Option<IoError>,
    /// The next sector that no command covers yet.
    pub lba: u64,
    /// Sectors that no command covers yet (for a flush: 1 until its command exists).
    pub left: u32,
    /// Where `lba` is in the caller's buffer, in bytes.
    pub offset: u32,
    /// Commands that are unanswered, or whose payload may still be in a transmit ring.
    pub open: u32,
    /// Still in the LUN's queue, though perhaps with nothing left.
    pub queued: bool,
    /// The next one in the LUN's queue, or in the free list.
    pub next: u32,
    pub user: u64,
}

/// Rows of a fixed number, and the list of the free ones.
#[derive(Debug)]
pub(super) struct IoTable {
    rows: Box<[Io]>,
    free: u32,
    used: u32,
}

impl IoTable {
    pub fn new(count: u32) -> Self {
        let empty = Io {
            op: Op::Flush,
            lun: 0,
            error: None,
            lba: 0,
            left: 0,
            offset: 0,
            open: 0,
            next: NONE,
            queued: false,
            user: 0,
        };
        let mut rows = vec![empty; count as usize].into_boxed_slice();
        for (i, row) in rows.iter_mut().enumerate() {
            let next = i as u32 + 1;
            row.next = if next == count { NONE } else { next };
        }
        Self {
            rows,
            free: if count == 0 { NONE } else { 0 },
            used: 0,
        }
    }

    #[inline]
    pub fn take(&mut self, io: Io) -> Option<u32> {
        let id = self.free;
        let row = self.rows.get_mut(id as usize)?;
        self.free = row.next;
        *row = io;
        self.used += 1;
        Some(id)
    }

    #[inline]
    pub fn give_back(&mut self, id: u32) {
        self.rows[id as usize].next = self.free;
        self.free = id;
        self.used -= 1;
    }

    #[inline]
    pub fn get(&self, id: u32) -> Option<&Io> {
        self.rows.get(id as usize)
    }

    pub fn used(&self) -> u32 {
        self.used
    }

    pub fn is_full(&self) -> bool {
        self.free == NONE
    }
}

impl std::ops::Index<u32> for IoTable {
    type Output = Io;
    #[inline]
    fn index(&self, id: u32) -> &Io {
        &self.rows[id as usize]
    }
}

impl std::ops::IndexMut<u32> for IoTable {
    #[inline]
    fn index_mut(&mut self, id: u32) -> &mut Io {
        &mut self.rows[id as usize]
    }
}

/// How many sectors the next command takes: at most `max`, ending on a multiple of 8 sectors (or
/// of the largest power of two that fits) when more follow, so that the target's disk sees whole
/// pages.
#[inline]
pub(super) fn split(lba: u64, left: u32, max: u32) -> u32 {
    if left <= max {
        return left;
    }
    let unit = match max {
        8.. => 8,
        4..8 => 4,
        2..4 => 2,
        _ => 1,
    };
    let end = (lba + u64::from(max)) & !(unit - 1);
    if end > lba { (end - lba) as u32 } else { max }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splits_end_on_pages_when_more_follows() {
        assert_eq!(split(0, 8, 17), 8);
        assert_eq!(split(0, 64, 17), 16);
        assert_eq!(split(3, 64, 17), 13);
        assert_eq!(split(8, 64, 2), 2);
        assert_eq!(split(1, 64, 2), 1);
        assert_eq!(split(1, 64, 1), 1);
        assert_eq!(split(5, 64, 6), 3);
    }

    #[test]
    fn pieces_cover_the_whole_and_never_exceed_the_maximum() {
        for max in 1..40 {
            for start in 0..20 {
                let (mut lba, mut left) = (start, 100);
                while left > 0 {
                    let n = split(lba, left, max);
                    assert!((1..=max).contains(&n));
                    lba += u64::from(n);
                    left -= n;
                }
            }
        }
    }

    #[test]
    fn rows_come_back() {
        let io = IoTable::new(1).rows[0];
        let mut t = IoTable::new(3);
        let ids: Vec<_> = std::iter::from_fn(|| t.take(io)).collect();
        assert_eq!(ids, [0, 1, 2]);
        assert!(t.is_full());
        t.give_back(1);
        assert_eq!(t.take(io), Some(1));
        assert_eq!(t.take(io), None);
    }
}
