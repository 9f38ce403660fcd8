//! The MAC mask list: while it is not empty, a target answers only those who are on it.
//!
//! | offset | bytes | field |
//! |---|---|---|
//! | 24 | 1 | reserved |
//! | 25 | 1 | command |
//! | 26 | 1 | error |
//! | 27 | 1 | count |
//! | 28 | 8 each | directives: reserved, command, MAC |

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{ParseError, ShortBuffer, put, put_slice};
use crate::addr::Mac;

/// Bytes in front of the directives, at offset 24.
pub const MASK_LEN: usize = 4;

/// Commands, offset 25.
pub mod mask_cmd {
    /// Answer with the list.
    pub const READ: u8 = 0;
    /// Carry out the directives, then answer with the list.
    pub const EDIT: u8 = 1;
}

/// Errors, offset 26 of a response.
pub mod mask_error {
    /// None.
    pub const NONE: u8 = 0;
    /// Unspecified.
    pub const UNSPECIFIED: u8 = 1;
    /// A directive is unknown.
    pub const BAD_DIRECTIVE: u8 = 2;
    /// The list is full.
    pub const FULL: u8 = 3;
}

/// Commands of a [`Directive`].
pub mod directive_cmd {
    /// Nothing to do; also what a response's entries carry.
    pub const NOP: u8 = 0;
    /// Add the MAC.
    pub const ADD: u8 = 1;
    /// Delete the MAC. (vblade 25 dies of this one.)
    pub const DELETE: u8 = 2;
}

/// The fixed part of a mask list frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MaskHeader {
    /// Command: see [`mask_cmd`].
    pub command: u8,
    /// Error: see [`mask_error`].
    pub error: u8,
    /// Directives that follow; in a response with an error, directives done before the bad one,
    /// and then none need follow.
    pub count: u8,
}

/// One entry of the list, 8 bytes.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct Directive {
    reserved: u8,
    /// Command: see [`directive_cmd`].
    pub command: u8,
    /// Whom it is about.
    pub mac: Mac,
}

impl Directive {
    /// A directive to add, delete or (as a response's entry) just name `mac`.
    #[inline]
    pub const fn new(command: u8, mac: Mac) -> Directive {
        Directive {
            reserved: 0,
            command,
            mac,
        }
    }
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawMask {
    reserved: u8,
    command: u8,
    error: u8,
    count: u8,
}

const _: () = assert!(size_of::<RawMask>() == MASK_LEN && size_of::<Directive>() == 8);

impl MaskHeader {
    /// Parses what follows the AoE header; also returns the directives, none if an error is set.
    #[inline]
    pub fn parse(b: &[u8]) -> Result<(MaskHeader, &[Directive]), ParseError> {
        let (raw, rest) =
            RawMask::ref_from_prefix(b).map_err(|_| ParseError::Runt { len: b.len() })?;
        let header = MaskHeader {
            command: raw.command,
            error: raw.error,
            count: raw.count,
        };
        if raw.error != mask_error::NONE {
            return Ok((header, &[]));
        }
        let available = rest.len() / size_of::<Directive>();
        let error = ParseError::ListLength {
            count: raw.count,
            available,
        };
        let (directives, _) =
            <[Directive]>::ref_from_prefix_with_elems(rest, usize::from(raw.count))
                .map_err(|_| error)?;
        Ok((header, directives))
    }

    /// Writes 4 bytes and the directives, of which there should be `count`; returns how many bytes.
    #[inline]
    pub fn emit(&self, directives: &[Directive], out: &mut [u8]) -> Result<usize, ShortBuffer> {
        let raw = RawMask {
            reserved: 0,
            command: self.command,
            error: self.error,
            count: self.count,
        };
        let at = put(&raw, out)?;
        put_slice(directives.as_bytes(), at, out)
    }
}
