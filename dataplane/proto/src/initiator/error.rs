//! Why an I/O failed, why one was not accepted, and why a frame was dropped.

use crate::wire::AoeError;
use thiserror::Error;

/// Why an I/O failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum IoError {
    /// The target answered with an AoE error.
    #[error("{0} (AoE error {code})", code = .0.code())]
    Aoe(AoeError),
    /// The disk answered with ERR, DF, DRQ or BSY set.
    #[error("the disk answered with ATA status {status:#04x}, error {error:#04x}")]
    Ata {
        /// The ATA status register.
        status: u8,
        /// The ATA error register.
        error: u8,
    },
    /// This one command was never answered, though the target answered others.
    #[error("one command was not answered within the loss timeout")]
    TimedOut,
    /// The target answered nothing at all within the loss timeout.
    #[error("the LUN is lost: the target answered nothing within the loss timeout")]
    LunLost,
    /// A flush after the target was seen to have restarted: writes that were answered before may be
    /// lost. It is said once.
    #[error("the target has restarted: writes that it had answered before may be lost")]
    Restarted,
    /// The caller or the shutdown gave it up.
    #[error("aborted")]
    Aborted,
}

/// Why an I/O was not accepted. The caller still has it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum SubmitError {
    /// Back-pressure: submit it again after some other I/O has completed.
    #[error("too much I/O is in flight; submit again after a completion")]
    Busy,
    /// There is no such LUN.
    #[error("there is no such LUN")]
    NoSuchLun,
    /// The LUN is known, but not up.
    #[error("the LUN is not up: its target has not answered")]
    NotReady,
    /// The LUN ends before the I/O does.
    #[error("sectors {lba}+{sectors} are past the end of the LUN, which has {capacity}")]
    OutOfRange {
        /// First sector of the I/O.
        lba: u64,
        /// Sectors of the I/O.
        sectors: u32,
        /// Sectors of the LUN.
        capacity: u64,
    },
    /// An I/O of no sectors.
    #[error("an I/O of 0 sectors")]
    Empty,
    /// More than 4 GiB - 512 bytes with a buffer.
    #[error("an I/O of {sectors} sectors is more than 4 GiB")]
    TooLarge {
        /// Sectors of the I/O.
        sectors: u32,
    },
    /// The caller's memory is smaller than the I/O.
    #[error("{sectors} sectors do not fit {bytes} bytes of memory")]
    ShortMemory {
        /// Sectors of the I/O.
        sectors: u32,
        /// Bytes of the memory.
        bytes: u32,
    },
    /// IDENTIFY does not offer it.
    #[error("the LUN does not offer {0:?}")]
    Unsupported(super::Op),
}

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident = $label:literal,)*) => {
        /// Why a received frame was not used. Each is counted.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        #[repr(usize)]
        pub enum DropReason { $($(#[$doc])* $name,)* }

        impl DropReason {
            /// All reasons, in the order of their counters.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// The name that metrics use.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => $label,)* }
            }
        }
    };
}

reasons! {
    /// Too short for the headers, or another EtherType.
    NotAoe = "not_aoe",
    /// A request, not a response: other initiators' frames on a broadcast wire.
    Request = "request",
    /// A version nibble other than 1 (or 0 in an announcement).
    Version = "version",
    /// The tag is not one that this core could have sent.
    ForeignTag = "foreign_tag",
    /// The tag's slot holds nothing, or another generation: late, duplicate or forged.
    StaleTag = "stale_tag",
    /// The right tag from the wrong MAC address.
    WrongMac = "wrong_mac",
    /// The right tag with another shelf.slot.
    WrongLun = "wrong_lun",
    /// The right tag with another command.
    WrongCommand = "wrong_command",
    /// A good status with fewer or no data bytes.
    ShortData = "short_data",
    /// The command-specific part cannot be parsed.
    Malformed = "malformed",
    /// shelf 0xffff or slot 0xff in an answer, or a group address as its source.
    BadAddress = "bad_address",
    /// Another MAC answers for a shelf.slot that is in use.
    DuplicateAddress = "duplicate_address",
    /// A LUN that discovery may not add: the table is full, or only configured LUNs are wanted.
    Unwanted = "unwanted",
}

/// How many frames were dropped, by reason.
#[derive(Clone, Copy, Debug, Default)]
pub struct Drops([u64; DropReason::ALL.len()]);

impl Drops {
    #[inline]
    pub(super) fn count(&mut self, why: DropReason) {
        self.0[why as usize] += 1;
    }

    /// The count of one reason.
    #[must_use]
    pub fn get(&self, why: DropReason) -> u64 {
        self.0[why as usize]
    }

    /// All reasons with their counts.
    pub fn iter(&self) -> impl Iterator<Item = (DropReason, u64)> + '_ {
        DropReason::ALL.iter().map(|&why| (why, self.get(why)))
    }

    /// The sum over all reasons.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }
}
