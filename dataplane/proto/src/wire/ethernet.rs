//! The Ethernet header, an 802.1Q tag if there is one, and the AoE common header.
//!
//! | offset | bytes | field |
//! |---|---|---|
//! | 0 | 6 | destination |
//! | 6 | 6 | source |
//! | 12 | 2 | EtherType 0x88A2 |
//! | 14 | 1 | version (high nibble), flags (low) |
//! | 15 | 1 | error |
//! | 16 | 2 | shelf |
//! | 18 | 1 | slot |
//! | 19 | 1 | command |
//! | 20 | 4 | tag |
//!
//! A port that does not strip 802.1Q tags moves everything from offset 12 on by 4.

use zerocopy::byteorder::network_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{
    Command, ETHERTYPE, ETHERTYPE_VLAN, HEADER_LEN, ParseError, ShortBuffer, VERSION, put,
};
use crate::addr::{Mac, ShelfSlot, Tag};

/// The low nibble at offset 14.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Flags(pub u8);

impl Flags {
    /// No flag: a request.
    pub const REQUEST: Flags = Flags(0);
    /// The frame is a response.
    pub const RESPONSE: Flags = Flags(0x8);
    /// The response reports an error, and the error byte is valid.
    pub const ERROR: Flags = Flags(0x4);
    /// A response that reports an error.
    pub const ERROR_RESPONSE: Flags = Flags(Flags::RESPONSE.0 | Flags::ERROR.0);

    /// Whether the frame is a response.
    #[inline]
    pub const fn is_response(self) -> bool {
        self.0 & Flags::RESPONSE.0 != 0
    }

    /// Whether the error byte is valid.
    #[inline]
    pub const fn is_error(self) -> bool {
        self.0 & Flags::ERROR.0 != 0
    }
}

/// Everything in front of the command-specific part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Destination.
    pub dst: Mac,
    /// Source.
    pub src: Mac,
    /// Tag control information of an 802.1Q tag: priority in the high 4 bits, VLAN in the low 12.
    pub vlan: Option<u16>,
    /// Protocol version, 4 bits; 1, but vblade announces itself with 0.
    pub version: u8,
    /// Flags, 4 bits.
    pub flags: Flags,
    /// Error code, valid with [`Flags::ERROR`]: see [`super::AoeError::from_code`].
    pub error: u8,
    /// The LUN, or a wildcard.
    pub addr: ShelfSlot,
    /// Command: see [`Command`].
    pub command: u8,
    /// Tag.
    pub tag: Tag,
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawEthernet {
    dst: Mac,
    src: Mac,
    ethertype: U16,
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawVlan {
    tci: U16,
    ethertype: U16,
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawAoe {
    version_flags: u8,
    error: u8,
    shelf: U16,
    slot: u8,
    command: u8,
    tag: U32,
}

const _: () = assert!(size_of::<RawEthernet>() == super::ETH_LEN);
const _: () = assert!(size_of::<RawVlan>() == super::VLAN_LEN);
const _: () = assert!(size_of::<RawAoe>() == super::AOE_LEN);

impl Header {
    /// An untagged request.
    #[inline]
    pub const fn request(
        dst: Mac,
        src: Mac,
        addr: ShelfSlot,
        command: Command,
        tag: Tag,
    ) -> Header {
        Header {
            dst,
            src,
            vlan: None,
            version: VERSION,
            flags: Flags::REQUEST,
            error: 0,
            addr,
            command: command as u8,
            tag,
        }
    }

    /// Parses the start of a frame; also returns where the command-specific part begins: 24, or 28
    /// behind an 802.1Q tag.
    #[inline]
    pub fn parse(frame: &[u8]) -> Result<(Header, usize), ParseError> {
        let runt = ParseError::Runt { len: frame.len() };
        let (eth, mut rest) = RawEthernet::ref_from_prefix(frame).map_err(|_| runt)?;
        let mut ethertype = eth.ethertype.get();
        let mut vlan = None;
        if ethertype == ETHERTYPE_VLAN {
            let (tag, behind) = RawVlan::ref_from_prefix(rest).map_err(|_| runt)?;
            (vlan, ethertype, rest) = (Some(tag.tci.get()), tag.ethertype.get(), behind);
        }
        if ethertype != ETHERTYPE {
            return Err(ParseError::NotAoe { ethertype });
        }
        let (aoe, rest) = RawAoe::ref_from_prefix(rest).map_err(|_| runt)?;
        let header = Header {
            dst: eth.dst,
            src: eth.src,
            vlan,
            version: aoe.version_flags >> 4,
            flags: Flags(aoe.version_flags & 0xf),
            error: aoe.error,
            addr: ShelfSlot {
                shelf: aoe.shelf.get(),
                slot: aoe.slot,
            },
            command: aoe.command,
            tag: Tag(aoe.tag.get()),
        };
        Ok((header, frame.len() - rest.len()))
    }

    /// Writes the header at the start of `out`; returns its length, 24 or 28 bytes.
    #[inline]
    pub fn emit(&self, out: &mut [u8]) -> Result<usize, ShortBuffer> {
        let (need, have) = (self.len(), out.len());
        let short = |_| ShortBuffer { need, have };
        let outer = if self.vlan.is_some() {
            ETHERTYPE_VLAN
        } else {
            ETHERTYPE
        };
        let eth = RawEthernet {
            dst: self.dst,
            src: self.src,
            ethertype: outer.into(),
        };
        let at = put(&eth, out).map_err(short)?;
        let mut rest = out.get_mut(at..).unwrap_or_default();
        if let Some(tci) = self.vlan {
            let tag = RawVlan {
                tci: tci.into(),
                ethertype: ETHERTYPE.into(),
            };
            let at = put(&tag, rest).map_err(short)?;
            rest = rest.get_mut(at..).unwrap_or_default();
        }
        let aoe = RawAoe {
            version_flags: self.version << 4 | (self.flags.0 & 0xf),
            error: self.error,
            shelf: self.addr.shelf.into(),
            slot: self.addr.slot,
            command: self.command,
            tag: self.tag.0.into(),
        };
        put(&aoe, rest).map_err(short)?;
        Ok(need)
    }

    /// Bytes that [`Header::emit`] writes: 24, or 28 with an 802.1Q tag.
    #[inline]
    #[expect(clippy::len_without_is_empty, reason = "a header is never empty")]
    pub const fn len(&self) -> usize {
        if self.vlan.is_some() {
            HEADER_LEN + super::VLAN_LEN
        } else {
            HEADER_LEN
        }
    }
}
