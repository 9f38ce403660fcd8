//! The ATA header and the commands that an initiator sends.
//!
//! | offset | bytes | field |
//! |---|---|---|
//! | 24 | 1 | flags |
//! | 25 | 1 | feature (request), error (response) |
//! | 26 | 1 | sector count |
//! | 27 | 1 | command (request), status (response) |
//! | 28 | 6 | LBA, least significant byte first |
//! | 34 | 2 | reserved |
//! | 36 | | data |

use core::iter;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{ParseError, SECTOR, ShortBuffer, put};

/// ATA commands, offset 27 of a request.
pub mod ata_cmd {
    /// DATA SET MANAGEMENT; with feature bit 0 it is TRIM.
    pub const DSM: u8 = 0x06;
    /// READ SECTORS, 28-bit LBA.
    pub const READ: u8 = 0x20;
    /// READ SECTORS EXT, 48-bit LBA.
    pub const READ_EXT: u8 = 0x24;
    /// WRITE SECTORS, 28-bit LBA.
    pub const WRITE: u8 = 0x30;
    /// WRITE SECTORS EXT, 48-bit LBA.
    pub const WRITE_EXT: u8 = 0x34;
    /// CHECK POWER MODE.
    pub const CHECK_POWER: u8 = 0xE5;
    /// FLUSH CACHE.
    pub const FLUSH: u8 = 0xE7;
    /// FLUSH CACHE EXT.
    pub const FLUSH_EXT: u8 = 0xEA;
    /// IDENTIFY DEVICE.
    pub const IDENTIFY: u8 = 0xEC;
}

/// Bits of the ATA status, offset 27 of a response.
pub mod ata_status {
    /// An error; the error byte says which.
    pub const ERR: u8 = 0x01;
    /// The device still wants to move data.
    pub const DRQ: u8 = 0x08;
    /// Device fault.
    pub const DF: u8 = 0x20;
    /// Device ready; vblade leaves it out of the answer to FLUSH CACHE.
    pub const DRDY: u8 = 0x40;
    /// Busy: the other bits mean nothing.
    pub const BSY: u8 = 0x80;
    /// Any of these says that the command failed, as the Linux driver judges it.
    pub const FAILED: u8 = ERR | DRQ | DF | BSY;
}

/// Bits of the ATA error, offset 25 of a response with [`ata_status::ERR`].
pub mod ata_error {
    /// Command aborted: unknown, unsupported or refused.
    pub const ABRT: u8 = 0x04;
    /// No such sector.
    pub const IDNF: u8 = 0x10;
    /// Uncorrectable data.
    pub const UNC: u8 = 0x40;
    /// The transfer was damaged on the target's own interface.
    pub const ICRC: u8 = 0x80;
}

/// Feature bit 0 of DATA SET MANAGEMENT: the payload's ranges are to be trimmed.
pub const DSM_TRIM: u8 = 0x01;
/// Sectors that 28 bits of LBA can address.
pub const LBA28_SECTORS: u64 = 1 << 28;
/// Sectors that 48 bits of LBA can address.
pub const LBA48_SECTORS: u64 = 1 << 48;
/// Entries in one sector of TRIM ranges.
pub const TRIM_RANGES: usize = SECTOR / 8;

/// Flags at offset 24.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct AtaFlags(pub u8);

impl AtaFlags {
    /// The LBA has 48 bits.
    pub const LBA48: AtaFlags = AtaFlags(0x40);
    /// Bit 4 of the device/head register: the second device of a real ATA bus.
    pub const DEVICE: AtaFlags = AtaFlags(0x10);
    /// The target may answer a write before it is on the disk.
    pub const ASYNC: AtaFlags = AtaFlags(0x02);
    /// Data goes to the target.
    pub const WRITE: AtaFlags = AtaFlags(0x01);

    /// Whether all bits of `other` are set.
    #[inline]
    pub const fn contains(self, other: AtaFlags) -> bool {
        self.0 & other.0 == other.0
    }

    /// The bits of both.
    #[inline]
    pub const fn union(self, other: AtaFlags) -> AtaFlags {
        AtaFlags(self.0 | other.0)
    }
}

/// The ATA registers of a request or a response.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct AtaHeader {
    /// Bits of [`AtaFlags`].
    pub flags: u8,
    /// Feature register of a request; error register ([`ata_error`]) of a response.
    pub feature_or_error: u8,
    /// Sector count. Targets answer success with 0: count by the request.
    pub sectors: u8,
    /// Command ([`ata_cmd`]) of a request; status ([`ata_status`]) of a response.
    pub command_or_status: u8,
    /// The six LBA bytes as they are, 48 bits: see [`AtaHeader::lba28`] for the 28-bit commands.
    pub lba: u64,
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawAta {
    flags: u8,
    feature_or_error: u8,
    sectors: u8,
    command_or_status: u8,
    lba: [u8; 6],
    reserved: [u8; 2],
}

const _: () = assert!(size_of::<RawAta>() == super::ATA_LEN);

impl AtaHeader {
    /// Parses what follows the AoE header; also returns the data behind the 12 bytes, with the
    /// frame's padding if it has any.
    #[inline]
    pub fn parse(b: &[u8]) -> Result<(AtaHeader, &[u8]), ParseError> {
        let (raw, data) =
            RawAta::ref_from_prefix(b).map_err(|_| ParseError::Runt { len: b.len() })?;
        let header = AtaHeader {
            flags: raw.flags,
            feature_or_error: raw.feature_or_error,
            sectors: raw.sectors,
            command_or_status: raw.command_or_status,
            lba: le48(raw.lba),
        };
        Ok((header, data))
    }

    /// Writes 12 bytes; bits of the LBA above 48 are lost.
    #[inline]
    pub fn emit(&self, out: &mut [u8]) -> Result<usize, ShortBuffer> {
        let raw = RawAta {
            flags: self.flags,
            feature_or_error: self.feature_or_error,
            sectors: self.sectors,
            command_or_status: self.command_or_status,
            lba: to_le48(self.lba),
            reserved: [0; 2],
        };
        put(&raw, out)
    }

    /// The LBA of a 28-bit command, without the device bits that share its fourth byte.
    #[inline]
    pub const fn lba28(&self) -> u64 {
        self.lba & (LBA28_SECTORS - 1)
    }

    /// Bytes of `sectors`.
    #[inline]
    pub const fn data_len(&self) -> usize {
        self.sectors as usize * SECTOR
    }

    /// Whether a response's status reports a failure.
    #[inline]
    pub const fn failed(&self) -> bool {
        self.command_or_status & ata_status::FAILED != 0
    }
}

/// 48 bits from six bytes, least significant first.
#[inline]
const fn le48([a, b, c, d, e, f]: [u8; 6]) -> u64 {
    u64::from_le_bytes([a, b, c, d, e, f, 0, 0])
}

/// Six bytes, least significant first, of the low 48 bits.
#[inline]
const fn to_le48(value: u64) -> [u8; 6] {
    let [a, b, c, d, e, f, _, _] = value.to_le_bytes();
    [a, b, c, d, e, f]
}

/// The LBA bytes of a 28-bit command: LBA mode (0x40) and the two bits that were once always set
/// (0xa0) stand over the four high bits, as the Linux driver sends it.
#[inline]
const fn lba28_bytes(lba: u64) -> u64 {
    (lba & (LBA28_SECTORS - 1)) | 0xe000_0000
}

/// READ of `sectors` sectors from `lba`; the caller knows that they fit 28 bits if not `lba48`.
#[inline]
pub const fn read_command(lba: u64, sectors: u8, lba48: bool) -> AtaHeader {
    if lba48 {
        transfer(AtaFlags::LBA48.0, ata_cmd::READ_EXT, lba, sectors)
    } else {
        transfer(0, ata_cmd::READ, lba28_bytes(lba), sectors)
    }
}

/// WRITE of `sectors` sectors to `lba`; the caller knows that they fit 28 bits if not `lba48`.
#[inline]
pub const fn write_command(lba: u64, sectors: u8, lba48: bool) -> AtaHeader {
    if lba48 {
        let flags = AtaFlags::LBA48.0 | AtaFlags::WRITE.0;
        transfer(flags, ata_cmd::WRITE_EXT, lba, sectors)
    } else {
        transfer(AtaFlags::WRITE.0, ata_cmd::WRITE, lba28_bytes(lba), sectors)
    }
}

#[inline]
const fn transfer(flags: u8, command: u8, lba: u64, sectors: u8) -> AtaHeader {
    AtaHeader {
        flags,
        feature_or_error: 0,
        sectors,
        command_or_status: command,
        lba,
    }
}

/// FLUSH CACHE, or FLUSH CACHE EXT: take the one that IDENTIFY offers.
#[inline]
pub const fn flush_command(ext: bool) -> AtaHeader {
    if ext {
        transfer(AtaFlags::LBA48.0, ata_cmd::FLUSH_EXT, 0, 0)
    } else {
        transfer(0, ata_cmd::FLUSH, 0, 0)
    }
}

/// IDENTIFY DEVICE: answered with one sector. The device byte is 0xa0, as the Linux driver sends it.
#[inline]
pub const fn identify_command() -> AtaHeader {
    transfer(0, ata_cmd::IDENTIFY, 0xa000_0000, 1)
}

/// TRIM of one sector of ranges: see [`emit_trim_ranges`].
#[inline]
pub const fn trim_command() -> AtaHeader {
    AtaHeader {
        flags: AtaFlags::LBA48.0 | AtaFlags::WRITE.0,
        feature_or_error: DSM_TRIM,
        sectors: 1,
        command_or_status: ata_cmd::DSM,
        lba: 0,
    }
}

/// Fills `out` with TRIM ranges from `lba` on; returns the sectors covered, fewer than `sectors`
/// where these need more than one payload (64 ranges of up to 65535 sectors).
#[inline]
pub fn emit_trim_ranges(out: &mut [u8; SECTOR], lba: u64, sectors: u64) -> u64 {
    // An entry holds 48 bits of LBA; what lies above them is left uncovered, not wrapped around.
    let sectors = sectors.min(LBA48_SECTORS.saturating_sub(lba));
    let mut covered = 0;
    let (entries, _) = out.as_chunks_mut::<8>();
    for entry in entries {
        let count = (sectors - covered).min(u64::from(u16::MAX));
        let start = if count == 0 { 0 } else { lba + covered };
        *entry = (start | count << 48).to_le_bytes();
        covered += count;
    }
    covered
}

/// The ranges of a TRIM payload as (LBA, sectors); unused entries (0 sectors) are left out, and so
/// is an incomplete one at the end.
#[inline]
pub fn parse_trim_ranges(mut payload: &[u8]) -> impl Iterator<Item = (u64, u16)> {
    iter::from_fn(move || {
        let (entry, rest) = payload.split_first_chunk::<8>()?;
        payload = rest;
        let [lba @ .., low, high] = *entry;
        Some((le48(lba), u16::from_le_bytes([low, high])))
    })
    .filter(|&(_, sectors)| sectors != 0)
}
