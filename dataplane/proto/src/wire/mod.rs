//! Wire formats, one file each: a frame is parsed once at the edge into plain values, and those are
//! emitted again with `emit`.
//!
//! Nothing here panics, whatever the bytes, and nothing allocates (but for the text accessors of
//! [`identify`], which are for people). Offsets in the docs count from the start of an untagged
//! Ethernet frame; a `parse` below [`ethernet::Header`] takes the bytes that follow that header.

pub mod ata;
pub mod ethernet;
pub mod identify;
pub mod mask;
pub mod query;
pub mod reserve;

use core::fmt;

pub use ata::{AtaFlags, AtaHeader, ata_cmd, ata_error, ata_status};
pub use ethernet::{Flags, Header};
pub use identify::Identify;
pub use mask::{Directive, MaskHeader};
pub use query::{Query, QueryCmd};
pub use reserve::{Reserve, ReserveCmd};

/// EtherType of ATA over Ethernet.
pub const ETHERTYPE: u16 = 0x88A2;
/// EtherType of an 802.1Q tag.
pub const ETHERTYPE_VLAN: u16 = 0x8100;
/// Bytes of the Ethernet header without an 802.1Q tag.
pub const ETH_LEN: usize = 14;
/// Bytes of an 802.1Q tag, which stands between the source address and the EtherType.
pub const VLAN_LEN: usize = 4;
/// Bytes of the AoE common header, at offset 14.
pub const AOE_LEN: usize = 10;
/// Bytes up to the command-specific part, untagged.
pub const HEADER_LEN: usize = ETH_LEN + AOE_LEN;
/// Bytes of the ATA header, at offset 24.
pub const ATA_LEN: usize = 12;
/// Shortest Ethernet frame in bytes, without the FCS: anything shorter is padded with zeros.
pub const MIN_FRAME: usize = 60;
/// Bytes of a sector; AoE counts in these whatever the disk's own sectors are.
pub const SECTOR: usize = 512;
/// The protocol version that we speak.
pub const VERSION: u8 = 1;

const _: () = assert!(HEADER_LEN == 24 && HEADER_LEN + ATA_LEN == 36);

/// The command of a frame, offset 19.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Command {
    /// An ATA command: [`ata`].
    Ata = 0,
    /// Query or change the configuration string: [`query`].
    Query = 1,
    /// Read or edit the MAC mask list: [`mask`].
    Mask = 2,
    /// Reserve or release: [`reserve`].
    Reserve = 3,
}

impl TryFrom<u8> for Command {
    type Error = UnknownCommand;

    #[inline]
    fn try_from(code: u8) -> Result<Self, UnknownCommand> {
        match code {
            0 => Ok(Command::Ata),
            1 => Ok(Command::Query),
            2 => Ok(Command::Mask),
            3 => Ok(Command::Reserve),
            other => Err(UnknownCommand(other)),
        }
    }
}

/// A command byte that is none of [`Command`]; from 0xf0 they are vendors' own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("AoE command {0:#04x} is unknown")]
pub struct UnknownCommand(pub u8);

/// The error code of a response whose error flag is set, offset 15.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum AoeError {
    /// 1
    #[error("the target does not know the command")]
    UnrecognisedCommand,
    /// 2
    #[error("the target refuses an argument of the command")]
    BadArgument,
    /// 3
    #[error("the target's device is unavailable")]
    DeviceUnavailable,
    /// 4
    #[error("the target has a configuration string already")]
    ConfigStringPresent,
    /// 5
    #[error("the target does not speak this version of the protocol")]
    UnsupportedVersion,
    /// 6
    #[error("the target is reserved for others")]
    TargetReserved,
    /// Any other code.
    #[error("the target answers with error {0}")]
    Other(u8),
}

impl AoeError {
    /// The error of a wire code.
    #[inline]
    pub const fn from_code(code: u8) -> AoeError {
        match code {
            1 => AoeError::UnrecognisedCommand,
            2 => AoeError::BadArgument,
            3 => AoeError::DeviceUnavailable,
            4 => AoeError::ConfigStringPresent,
            5 => AoeError::UnsupportedVersion,
            6 => AoeError::TargetReserved,
            other => AoeError::Other(other),
        }
    }

    /// The wire code.
    #[inline]
    pub const fn code(self) -> u8 {
        match self {
            AoeError::UnrecognisedCommand => 1,
            AoeError::BadArgument => 2,
            AoeError::DeviceUnavailable => 3,
            AoeError::ConfigStringPresent => 4,
            AoeError::UnsupportedVersion => 5,
            AoeError::TargetReserved => 6,
            AoeError::Other(code) => code,
        }
    }
}

/// Why bytes are not the format that they were parsed as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// Too short for the fixed part of the format.
    #[error("runt of {len} bytes")]
    Runt {
        /// Bytes that there were.
        len: usize,
    },
    /// A frame of another protocol.
    #[error("EtherType {ethertype:#06x} is not AoE")]
    NotAoe {
        /// EtherType found, behind the 802.1Q tag if there was one.
        ethertype: u16,
    },
    /// A configuration string longer than the frame or than 1024 bytes.
    #[error("configuration string of {len} bytes where {available} are there, and 1024 allowed")]
    StringLength {
        /// Length that the header claims, in bytes.
        len: u16,
        /// Bytes behind the header.
        available: usize,
    },
    /// A list with fewer entries in the frame than its header counts.
    #[error("list of {count} entries where {available} are there")]
    ListLength {
        /// Entries that the header claims.
        count: u8,
        /// Whole entries behind the header.
        available: usize,
    },
}

/// The output is too small for what was to be emitted; its content is then unspecified.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{need} bytes do not fit into {have}")]
pub struct ShortBuffer {
    /// Bytes to emit.
    pub need: usize,
    /// Bytes that fit.
    pub have: usize,
}

/// Writes `value` at the start of `out`, and says how many bytes that were.
#[inline]
fn put<T: zerocopy::IntoBytes + zerocopy::Immutable>(
    value: &T,
    out: &mut [u8],
) -> Result<usize, ShortBuffer> {
    let need = size_of::<T>();
    let have = out.len();
    value
        .write_to_prefix(out)
        .map_err(|_| ShortBuffer { need, have })?;
    Ok(need)
}

/// Copies `bytes` to `out` at `offset`, and says where they end.
#[inline]
fn put_slice(bytes: &[u8], offset: usize, out: &mut [u8]) -> Result<usize, ShortBuffer> {
    let need = offset.saturating_add(bytes.len());
    let have = out.len();
    out.get_mut(offset..need)
        .ok_or(ShortBuffer { need, have })?
        .copy_from_slice(bytes);
    Ok(need)
}

/// Fills `frame[len..MIN_FRAME]` with zeros, so that no stale byte leaves as padding; returns the
/// length to send, in bytes.
#[inline]
pub fn pad(frame: &mut [u8], len: usize) -> Result<usize, ShortBuffer> {
    if len >= MIN_FRAME {
        return Ok(len);
    }
    let have = frame.len();
    let padding = frame.get_mut(len..MIN_FRAME).ok_or(ShortBuffer {
        need: MIN_FRAME,
        have,
    })?;
    padding.fill(0);
    Ok(MIN_FRAME)
}

/// Printable text of bytes that came from the wire: whatever is not printable ASCII becomes `.`.
pub struct Printable<'a>(pub &'a [u8]);

impl fmt::Display for Printable<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for &byte in self.0 {
            let shown = if byte == b' ' || byte.is_ascii_graphic() {
                char::from(byte)
            } else {
                '.'
            };
            fmt::Write::write_char(f, shown)?;
        }
        Ok(())
    }
}
