//! Reserve/release: while the list is not empty, a target runs ATA commands (but IDENTIFY) only for
//! those who are on it.
//!
//! | offset | bytes | field |
//! |---|---|---|
//! | 24 | 1 | command |
//! | 25 | 1 | count |
//! | 26 | 6 each | MACs |

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{ParseError, ShortBuffer, put, put_slice};
use crate::addr::Mac;

/// Bytes in front of the MACs, at offset 24.
pub const RESERVE_LEN: usize = 2;
/// Most MACs that a list can hold: the count has 8 bits.
pub const MAX_MACS: usize = 255;

/// What to do with the list, offset 24.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum ReserveCmd {
    /// Answer with it.
    Read = 0,
    /// Replace it, if it is empty or names the sender; no MACs release it.
    Set = 1,
    /// Replace it.
    ForceSet = 2,
}

impl ReserveCmd {
    /// The command of a wire code, if there is one.
    #[inline]
    pub const fn from_code(code: u8) -> Option<ReserveCmd> {
        match code {
            0 => Some(ReserveCmd::Read),
            1 => Some(ReserveCmd::Set),
            2 => Some(ReserveCmd::ForceSet),
            _ => None,
        }
    }
}

/// The reserve/release part of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reserve<'a> {
    /// Command: see [`ReserveCmd`].
    pub command: u8,
    /// Who may use the target, at most 255.
    pub macs: &'a [Mac],
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawReserve {
    command: u8,
    count: u8,
}

const _: () = assert!(size_of::<RawReserve>() == RESERVE_LEN && size_of::<Mac>() == 6);

impl<'a> Reserve<'a> {
    /// Parses what follows the AoE header.
    #[inline]
    pub fn parse(b: &'a [u8]) -> Result<Reserve<'a>, ParseError> {
        let (raw, rest) =
            RawReserve::ref_from_prefix(b).map_err(|_| ParseError::Runt { len: b.len() })?;
        let available = rest.len() / size_of::<Mac>();
        let error = ParseError::ListLength {
            count: raw.count,
            available,
        };
        let (macs, _) =
            <[Mac]>::ref_from_prefix_with_elems(rest, usize::from(raw.count)).map_err(|_| error)?;
        Ok(Reserve {
            command: raw.command,
            macs,
        })
    }

    /// Writes 2 bytes and the MACs; returns how many bytes. The format has no room for more than
    /// 255 MACs, so more do not fit any `out`.
    #[inline]
    pub fn emit(&self, out: &mut [u8]) -> Result<usize, ShortBuffer> {
        let need = RESERVE_LEN.saturating_add(size_of_val(self.macs));
        let short = ShortBuffer {
            need,
            have: out.len().min(RESERVE_LEN + MAX_MACS * size_of::<Mac>()),
        };
        let count = u8::try_from(self.macs.len()).map_err(|_| short)?;
        let at = put(
            &RawReserve {
                command: self.command,
                count,
            },
            out,
        )
        .map_err(|_| short)?;
        put_slice(self.macs.as_bytes(), at, out)
    }
}
