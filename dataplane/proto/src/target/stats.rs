//! What a target has done.

/// Frames by outcome: each frame raises exactly one counter of frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TargetStats {
    /// Frames ignored: no AoE, or a runt.
    pub ignored_not_aoe: u64,
    /// Frames ignored: responses.
    pub ignored_response: u64,
    /// Frames ignored: for another LUN or MAC, or from a group address.
    pub ignored_address: u64,
    /// Frames ignored: the sender is not on the mask list.
    pub ignored_masked: u64,
    /// Frames ignored: another configuration string was asked for.
    pub ignored_mismatch: u64,
    /// Frames not answered because the answer had no room.
    pub no_room: u64,
    /// Frames answered with an AoE error.
    pub refused: u64,
    /// Frames answered with an ATA error.
    pub ata_failed: u64,
    /// IDENTIFY commands done.
    pub identifies: u64,
    /// READ commands done.
    pub reads: u64,
    /// WRITE commands done.
    pub writes: u64,
    /// FLUSH commands done.
    pub flushes: u64,
    /// TRIM commands done.
    pub trims: u64,
    /// CHECK POWER commands done.
    pub power_checks: u64,
    /// Query/config commands done.
    pub queries: u64,
    /// Mask commands answered.
    pub mask_commands: u64,
    /// Reserve/release commands done.
    pub reserve_commands: u64,
    /// Sectors read (not a counter of frames).
    pub sectors_read: u64,
    /// Sectors written (not a counter of frames).
    pub sectors_written: u64,
}

impl TargetStats {
    /// Frames handled: the sum of all counters of frames.
    pub fn frames(&self) -> u64 {
        let ignored = self.ignored_not_aoe
            + self.ignored_response
            + self.ignored_address
            + self.ignored_masked
            + self.ignored_mismatch
            + self.no_room;
        ignored + self.answered()
    }

    /// Frames answered, with whatever.
    pub fn answered(&self) -> u64 {
        let ata = self.identifies
            + self.reads
            + self.writes
            + self.flushes
            + self.trims
            + self.power_checks
            + self.ata_failed;
        ata + self.queries + self.mask_commands + self.reserve_commands + self.refused
    }
}
