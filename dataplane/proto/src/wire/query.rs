//! Query/config: who is there, what it can take, and its configuration string.
//!
//! | offset | bytes | field |
//! |---|---|---|
//! | 24 | 2 | buffer count |
//! | 26 | 2 | firmware version |
//! | 28 | 1 | most sectors in a frame |
//! | 29 | 1 | protocol version (high nibble), command (low) |
//! | 30 | 2 | string length |
//! | 32 | | string, at most 1024 bytes |

use zerocopy::byteorder::network_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{ParseError, ShortBuffer, VERSION, put, put_slice};

/// Bytes in front of the string, at offset 24.
pub const QUERY_LEN: usize = 8;
/// Longest configuration string in bytes.
pub const MAX_STRING: usize = 1024;

/// What to do with the configuration string: low nibble at offset 29.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum QueryCmd {
    /// Answer with it.
    Read = 0,
    /// Answer only if it equals the request's.
    TestExact = 1,
    /// Answer only if it begins with the request's.
    TestPrefix = 2,
    /// Set it if it is empty or equal, else answer with error 4.
    SetIfEmpty = 3,
    /// Set it.
    Force = 4,
}

impl QueryCmd {
    /// The command of a wire code, if there is one.
    #[inline]
    pub const fn from_code(code: u8) -> Option<QueryCmd> {
        match code {
            0 => Some(QueryCmd::Read),
            1 => Some(QueryCmd::TestExact),
            2 => Some(QueryCmd::TestPrefix),
            3 => Some(QueryCmd::SetIfEmpty),
            4 => Some(QueryCmd::Force),
            _ => None,
        }
    }
}

/// The query/config part of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Query<'a> {
    /// Commands that the target can queue; as it came, so 0 and 65535 are possible.
    pub buffer_count: u16,
    /// Firmware version, as the vendor counts.
    pub firmware: u16,
    /// Most sectors that the target takes in one frame; as it came, so 0 is possible.
    pub max_sectors: u8,
    /// Protocol version, 4 bits.
    pub version: u8,
    /// Command, 4 bits: see [`QueryCmd`].
    pub ccmd: u8,
    /// The configuration string, at most 1024 bytes, of any content.
    pub string: &'a [u8],
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawQuery {
    buffer_count: U16,
    firmware: U16,
    max_sectors: u8,
    version_ccmd: u8,
    string_len: U16,
}

const _: () = assert!(size_of::<RawQuery>() == QUERY_LEN);

impl<'a> Query<'a> {
    /// A request: only command and string count.
    #[inline]
    pub const fn request(ccmd: QueryCmd, string: &'a [u8]) -> Query<'a> {
        // The Linux driver and aoetools leave the version nibble of a request at 0.
        let ccmd = ccmd as u8;
        Query {
            buffer_count: 0,
            firmware: 0,
            max_sectors: 0,
            version: 0,
            ccmd,
            string,
        }
    }

    /// An answer, in our version of the protocol.
    #[inline]
    pub const fn response(
        buffer_count: u16,
        firmware: u16,
        max_sectors: u8,
        ccmd: u8,
        string: &'a [u8],
    ) -> Query<'a> {
        Query {
            buffer_count,
            firmware,
            max_sectors,
            version: VERSION,
            ccmd,
            string,
        }
    }

    /// Parses what follows the AoE header.
    #[inline]
    pub fn parse(b: &'a [u8]) -> Result<Query<'a>, ParseError> {
        let (raw, rest) =
            RawQuery::ref_from_prefix(b).map_err(|_| ParseError::Runt { len: b.len() })?;
        let len = raw.string_len.get();
        let error = ParseError::StringLength {
            len,
            available: rest.len(),
        };
        let string = rest
            .get(..usize::from(len))
            .filter(|s| s.len() <= MAX_STRING)
            .ok_or(error)?;
        Ok(Query {
            string,
            ..Query::fixed(raw)
        })
    }

    /// Parses the fixed part alone: the string of a [`QueryCmd::Read`] request has no meaning, so
    /// whatever its length says is no reason to refuse it.
    #[inline]
    pub fn parse_without_string(b: &[u8]) -> Result<Query<'static>, ParseError> {
        let (raw, _) =
            RawQuery::ref_from_prefix(b).map_err(|_| ParseError::Runt { len: b.len() })?;
        Ok(Query::fixed(raw))
    }

    #[inline]
    fn fixed(raw: &RawQuery) -> Query<'static> {
        Query {
            buffer_count: raw.buffer_count.get(),
            firmware: raw.firmware.get(),
            max_sectors: raw.max_sectors,
            version: raw.version_ccmd >> 4,
            ccmd: raw.version_ccmd & 0xf,
            string: &[],
        }
    }

    /// Writes 8 bytes and the string; returns how many. The format has no room for more than 1024
    /// bytes of string, so a longer one does not fit any `out`.
    #[inline]
    pub fn emit(&self, out: &mut [u8]) -> Result<usize, ShortBuffer> {
        let need = QUERY_LEN.saturating_add(self.string.len());
        let short = ShortBuffer {
            need,
            have: out.len().min(QUERY_LEN + MAX_STRING),
        };
        let len = u16::try_from(self.string.len()).map_err(|_| short)?;
        if need > short.have {
            return Err(short);
        }
        let raw = RawQuery {
            buffer_count: self.buffer_count.into(),
            firmware: self.firmware.into(),
            max_sectors: self.max_sectors,
            version_ccmd: self.version << 4 | (self.ccmd & 0xf),
            string_len: len.into(),
        };
        let at = put(&raw, out)?;
        put_slice(self.string, at, out)
    }
}
