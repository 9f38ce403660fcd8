//! LUNs: who answers for a shelf.slot, how large its frames may be, and what waits to be sent.

use super::durability::Durability;
use super::io::NONE;
use super::pacing::{Pacing, PacingLimits};
use super::time::Time;
use crate::wire::{Identify, SECTOR};
use crate::{Mac, ShelfSlot};

/// Bytes of AoE and ATA header, which the MTU counts and sectors have to share a frame with.
const HEADERS_IN_MTU: u32 = 22;

/// Names a LUN of an initiator; valid for the initiator's whole life.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct LunId(pub u16);

/// Where a LUN stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LunState {
    /// Configured, but no target has answered yet.
    Absent,
    /// A target has answered, and IDENTIFY is under way.
    Identifying,
    /// I/O is accepted.
    Up,
    /// It was up, and its target has stopped answering; it is probed for.
    Lost,
}

/// What a LUN has seen, in counts.
#[derive(Clone, Copy, Debug, Default)]
pub struct LunStats {
    /// I/Os that were completed without an error.
    pub completed: u64,
    /// I/Os that failed.
    pub failed: u64,
    /// Commands sent for the first time.
    pub commands: u64,
    /// Commands sent again.
    pub resends: u64,
    /// Answers from this LUN that carried an AoE or ATA error.
    pub errors: u64,
    /// Commands that were cut smaller because the target refused their size.
    pub resplits: u64,
    /// How often it was lost.
    pub losses: u64,
}

/// One LUN. The fields that every command touches come first.
#[derive(Clone, Debug)]
pub(super) struct Lun {
    pub state: LunState,
    pub in_ready: bool,
    pub lba48: bool,
    pub flush_ext: bool,
    pub port: u8,
    pub mac: Mac,
    pub addr: ShelfSlot,
    /// Unanswered commands.
    pub inflight: u32,
    /// Queue of I/Os that are not wholly cut into commands.
    pub head: u32,
    pub tail: u32,
    pub sectors_per_frame: u32,
    pub pacing: Pacing,
    pub last_answer: Time,
    pub stats: LunStats,
    pub capacity: u64,
    pub durability: Durability,

    /// Counts the disks that this LUN has been, by serial and model.
    pub identity: u32,
    pub identify: Option<Identify>,
    pub buffer_count: u16,
    pub target_max_sectors: u8,
    pub firmware: u16,
    pub last_stranger: Option<Mac>,
    pub stranger_told: Time,
    /// A probe was sent at this time; announcements cause no second one soon after.
    pub probed: Time,
    /// Ask the disk again who it is as soon as it was not just asked.
    pub ask_again: bool,
    /// A query to this LUN is out.
    pub querying: bool,
    /// Since when I/O waits with nothing in flight, as far as anybody looked.
    pub stuck_since: Option<Time>,
}

impl Lun {
    pub fn new(addr: ShelfSlot, limits: &PacingLimits) -> Self {
        Self {
            state: LunState::Absent,
            in_ready: false,
            lba48: false,
            flush_ext: false,
            port: 0,
            mac: Mac::default(),
            addr,
            inflight: 0,
            head: NONE,
            tail: NONE,
            sectors_per_frame: 1,
            pacing: Pacing::new(limits, 1),
            last_answer: Time(0),
            stats: LunStats::default(),
            capacity: 0,
            durability: Durability::default(),
            identity: 0,
            identify: None,
            buffer_count: 0,
            target_max_sectors: 0,
            firmware: 0,
            last_stranger: None,
            stranger_told: Time(0),
            probed: Time(0),
            ask_again: false,
            querying: false,
            stuck_since: None,
        }
    }

    /// Whether a command of this LUN could be sent now.
    #[inline]
    pub fn is_ready(&self) -> bool {
        // A question to the disk takes one of the target's buffers as well.
        let taken = self.inflight + u32::from(self.ask_again);
        self.head != NONE && taken < self.pacing.window() && self.state == LunState::Up
    }

    /// Takes over what IDENTIFY said.
    pub fn identified(&mut self, id: &Identify) {
        let same = |old: Identify| (old.serial, old.model) == (id.serial, id.model);
        if !self.identify.is_some_and(same) {
            self.identity += 1;
        }
        self.capacity = id.sectors;
        self.lba48 = id.lba48;
        self.flush_ext = id.flush_ext;
        self.identify = Some(*id);
    }
}

/// Sectors that fit a frame: the target's maximum (0 counts as 1) and the port's MTU in bytes,
/// which counts what follows the 14-byte Ethernet header.
pub(super) fn sectors_per_frame(target_max: u8, mtu: u32) -> u32 {
    let fit = mtu.saturating_sub(HEADERS_IN_MTU) / SECTOR as u32;
    u32::from(target_max).min(fit).max(1)
}

/// What can be said of a LUN, for people and for hosts.
#[derive(Clone, Debug)]
pub struct LunInfo {
    /// Its name among this initiator's LUNs.
    pub id: LunId,
    /// Its address.
    pub addr: ShelfSlot,
    /// Where it stands.
    pub state: LunState,
    /// Who answers for it.
    pub mac: Mac,
    /// The port that it is reached through.
    pub port: u8,
    /// Capacity in sectors of 512 bytes, 0 while it was never up.
    pub sectors: u64,
    /// Which disk it is: another one, by serial and model, has a higher number.
    pub identity: u32,
    /// What IDENTIFY said last.
    pub identify: Option<Identify>,
    /// The buffer count that the target stated.
    pub buffer_count: u16,
    /// The most sectors in a frame that the target stated.
    pub target_max_sectors: u8,
    /// The firmware version that the target stated.
    pub firmware: u16,
    /// Sectors in each frame that is sent.
    pub sectors_per_frame: u32,
    /// Commands that may be unanswered at once.
    pub window: u32,
    /// Commands that are unanswered now.
    pub inflight: u32,
    /// Smoothed round-trip time in nanoseconds, 0 before the first sample.
    pub srtt_ns: u64,
    /// Time before a frame is sent again, in nanoseconds.
    pub rto_ns: u64,
    /// Counters.
    pub stats: LunStats,
    /// Another MAC address that answered for the same shelf.slot and was refused.
    pub stranger: Option<Mac>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_hold_what_both_sides_can_take() {
        assert_eq!(sectors_per_frame(255, 1500), 2);
        assert_eq!(sectors_per_frame(255, 9000), 17);
        assert_eq!(sectors_per_frame(2, 9000), 2);
        // Hazard 15: no answer may make a LUN unusable.
        assert_eq!(sectors_per_frame(0, 9000), 1);
        assert_eq!(sectors_per_frame(255, 0), 1);
        assert_eq!(sectors_per_frame(17, 8192 + 22), 16);
    }
}
