//! What a FLUSH may promise: a target that was restarted in between may have lost what it had
//! acknowledged, and says nothing of it.

use super::slots::Slot;
use super::{AtaOp, Initiator, IoError};

/// A LUN's writes and flushes, in counts.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Durability {
    /// Writes and trims that were answered.
    written: u64,
    /// As many of them were answered when the newest successful flush was sent.
    flushed: u64,
    /// Times that the target was seen to have restarted.
    restarts: u32,
    /// The next flush has to fail.
    lost: bool,
}

impl Durability {
    /// The target has restarted, or may have.
    pub fn restarted(&mut self) {
        self.restarts = self.restarts.wrapping_add(1);
        self.lost |= self.written > self.flushed;
    }

    /// A flush is about to be sent: remembers what it covers. It has no place on the disk and no
    /// buffer, so there is room for that.
    #[inline]
    pub fn covered_by(&self, slot: &mut Slot) {
        (slot.lba, slot.offset) = (self.written, self.restarts);
    }

    /// Whether a flush has to fail now; it is said once.
    pub fn take_loss(&mut self) -> bool {
        let lost = std::mem::take(&mut self.lost);
        if lost {
            self.flushed = self.written;
        }
        lost
    }
}

impl Initiator {
    /// A write, trim or flush was answered well; an error if the answer is worth nothing.
    #[inline]
    pub(super) fn settled(&mut self, slot: &Slot, op: AtaOp) -> Option<IoError> {
        let durability = &mut self.luns[usize::from(slot.lun)].durability;
        if op != AtaOp::Flush {
            durability.written += 1;
        } else if slot.offset == durability.restarts {
            durability.flushed = durability.flushed.max(slot.lba);
        } else {
            // The target that answers is not the one that had the writes.
            durability.take_loss();
            return Some(IoError::Restarted);
        }
        None
    }
}
