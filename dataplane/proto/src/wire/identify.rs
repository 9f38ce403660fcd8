//! IDENTIFY DEVICE: 256 little-endian words that say what a disk is and can do.
//!
//! | word | content |
//! |---|---|
//! | 10-19, 23-26, 27-46 | serial, firmware, model: ASCII, the two bytes of each word swapped |
//! | 60-61, 100-103 | sectors: 28 and 48 bits |
//! | 69 | bits 14 and 5: trimmed sectors read as zeroes |
//! | 82-84, 85-87 | what is supported, what is enabled |
//! | 106, 117-118 | physical and logical sector size |
//! | 108-111 | WWN, most significant word first |
//! | 169 | bit 0: TRIM |

use super::ata::{LBA28_SECTORS, LBA48_SECTORS};
use super::{ParseError, Printable, SECTOR};

/// Bit 10 of words 83 and 86.
const LBA48: u16 = 1 << 10;
/// Bit 12 of words 83 and 86.
const FLUSH: u16 = 1 << 12;
/// Bit 13 of words 83 and 86.
const FLUSH_EXT: u16 = 1 << 13;
/// Bit 5 of words 82 and 85.
const WRITE_CACHE: u16 = 1 << 5;
/// Bit 8 of words 84 and 87.
const WWN: u16 = 1 << 8;
/// Bits 14 and 5 of word 69.
const TRIM_ZEROES: u16 = 1 << 14 | 1 << 5;
/// Bits 15:14 of words 83, 84, 87 and 106 are 01 where the word means something.
const VALID: u16 = 1 << 14;
/// Word 106: a physical sector holds several logical ones, a power of two with bits 3:0.
const MANY_PER_PHYSICAL: u16 = 1 << 13;
/// Word 106: words 117-118 say the logical sector, counted in words.
const LONG_LOGICAL: u16 = 1 << 12;
/// The words of the WWN, and where their bits belong.
const WWN_WORDS: [(usize, u32); 4] = [(108, 48), (109, 32), (110, 16), (111, 0)];

/// What an IDENTIFY answer says, as far as an initiator cares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identify {
    /// 48-bit commands are supported.
    pub lba48: bool,
    /// Capacity in sectors of 512 bytes.
    pub sectors: u64,
    /// Serial number in reading order, padded with spaces.
    pub serial: [u8; 20],
    /// Firmware revision in reading order, padded with spaces.
    pub firmware: [u8; 8],
    /// Model in reading order, padded with spaces.
    pub model: [u8; 40],
    /// World wide name.
    pub wwn: Option<u64>,
    /// FLUSH CACHE is supported and enabled.
    pub flush: bool,
    /// FLUSH CACHE EXT is supported and enabled.
    pub flush_ext: bool,
    /// The volatile write cache is on.
    pub write_cache: bool,
    /// TRIM is supported.
    pub trim: bool,
    /// Trimmed sectors are promised to read as zeroes.
    pub trim_zeroes: bool,
    /// Logical sector in bytes.
    pub logical_sector: u32,
    /// Physical sector in bytes, a multiple of the logical one.
    pub physical_sector: u32,
}

impl Identify {
    /// Parses the 512 data bytes of an IDENTIFY answer; more are ignored.
    pub fn parse(data: &[u8]) -> Result<Identify, ParseError> {
        let words = Words::parse(data)?;
        // The rule is 01 in bits 15:14. A target that left bit 14 out is believed all the same; bit
        // 15 set is what a bus with nobody on it reads.
        let supported = |word| {
            if words.get(83) & 1 << 15 == 0 {
                words.get(word)
            } else {
                0
            }
        };
        let enabled = |word| {
            if words.get(87) & 1 << 15 == 0 {
                words.get(word)
            } else {
                0
            }
        };
        // Either word will do for LBA48, as in the Linux driver. A flush is believed only if both
        // agree, and the EXT one only with LBA48: some disks set its bit by mistake.
        let sectors48 = words.u64(100) % LBA48_SECTORS;
        let lba48 = (supported(83) | enabled(86)) & LBA48 != 0 && sectors48 != 0;
        let both = supported(83) & enabled(86);
        let trim = words.get(169) & 1 != 0 && words.get(169) != 0xffff;
        let (logical_sector, physical_sector) = words.sector_sizes();
        Ok(Identify {
            lba48,
            sectors: if lba48 {
                sectors48
            } else {
                u64::from(words.u32(60)) % LBA28_SECTORS
            },
            serial: words.text(10),
            firmware: words.text(23),
            model: words.text(27),
            wwn: (enabled(87) & WWN != 0).then(|| words.wwn()),
            flush: both & FLUSH != 0,
            flush_ext: lba48 && both & FLUSH_EXT != 0,
            write_cache: enabled(85) & WRITE_CACHE != 0,
            trim,
            trim_zeroes: trim && words.get(69) & TRIM_ZEROES == TRIM_ZEROES,
            logical_sector,
            physical_sector,
        })
    }

    /// Writes all 512 bytes. What the format cannot say is cut down to what it can: 48-bit
    /// capacities without `lba48`, FLUSH EXT without it, TRIM zeroes without TRIM, sector sizes that
    /// are no power of two.
    pub fn emit(&self, out: &mut [u8; SECTOR]) {
        out.fill(0);
        let mut words = WordsMut(out);
        words.set_text(10, &self.serial);
        words.set_text(23, &self.firmware);
        words.set_text(27, &self.model);
        words.set(47, 0x8000);
        // LBA is supported: without it, sectors would have cylinders and heads.
        words.set(49, 1 << 9);
        words.set(50, VALID);
        let sectors28 = self.sectors.min(LBA28_SECTORS - 1);
        words.set_number(60, 2, sectors28);
        let bit = |on: bool, bit: u16| if on { bit } else { 0 };
        let commands = bit(self.lba48, LBA48)
            | bit(self.flush, FLUSH)
            | bit(self.flush_ext && self.lba48, FLUSH_EXT);
        let wwn = bit(self.wwn.is_some(), WWN);
        let cache = bit(self.write_cache, WRITE_CACHE);
        words.set(82, cache);
        words.set(83, commands | VALID);
        words.set(84, wwn | VALID);
        words.set(85, cache);
        words.set(86, commands);
        words.set(87, wwn | VALID);
        if self.lba48 {
            words.set_number(100, 4, self.sectors.min(LBA48_SECTORS - 1));
        }
        if let Some(wwn) = self.wwn {
            for (word, shift) in WWN_WORDS {
                words.set(word, (wwn >> shift) as u16);
            }
        }
        if self.trim {
            // One sector of ranges for each command.
            words.set(105, 1);
            words.set(169, 1);
            words.set(69, bit(self.trim_zeroes, TRIM_ZEROES));
        }
        words.set_sector_sizes(self.logical_sector, self.physical_sector);
    }

    /// Serial number without its padding.
    pub fn serial_str(&self) -> String {
        trimmed(&self.serial)
    }

    /// Firmware revision without its padding.
    pub fn firmware_str(&self) -> String {
        trimmed(&self.firmware)
    }

    /// Model without its padding.
    pub fn model_str(&self) -> String {
        trimmed(&self.model)
    }
}

/// `text` as a field of `N` bytes: cut or padded with spaces, anything but printable ASCII as `.`.
pub fn ascii_field<const N: usize>(text: &str) -> [u8; N] {
    let mut field = [b' '; N];
    for (to, from) in field.iter_mut().zip(text.bytes()) {
        *to = if from == b' ' || from.is_ascii_graphic() {
            from
        } else {
            b'.'
        };
    }
    field
}

/// Text for people: no spaces or NULs around it, nothing that a terminal would obey.
fn trimmed(field: &[u8]) -> String {
    let padding = |b: &u8| *b == b' ' || *b == 0;
    let start = field
        .iter()
        .position(|b| !padding(b))
        .unwrap_or(field.len());
    let end = field
        .iter()
        .rposition(|b| !padding(b))
        .map_or(start, |last| last + 1);
    Printable(field.get(start..end).unwrap_or_default()).to_string()
}

/// The answer as words, for reading.
struct Words<'a>(&'a [[u8; 2]]);

impl<'a> Words<'a> {
    fn parse(data: &'a [u8]) -> Result<Words<'a>, ParseError> {
        let (words, _) = data
            .get(..SECTOR)
            .ok_or(ParseError::Runt { len: data.len() })?
            .as_chunks::<2>();
        Ok(Words(words))
    }

    fn get(&self, word: usize) -> u16 {
        self.0
            .get(word)
            .map_or(0, |bytes| u16::from_le_bytes(*bytes))
    }

    /// Two words, the less significant first.
    fn u32(&self, word: usize) -> u32 {
        u32::from(self.get(word)) | u32::from(self.get(word + 1)) << 16
    }

    /// Four words, the least significant first.
    fn u64(&self, word: usize) -> u64 {
        u64::from(self.u32(word)) | u64::from(self.u32(word + 2)) << 32
    }

    fn wwn(&self) -> u64 {
        WWN_WORDS.iter().fold(0, |wwn, &(word, shift)| {
            wwn | u64::from(self.get(word)) << shift
        })
    }

    /// Logical and physical sector in bytes; 512 where nothing sensible is said.
    fn sector_sizes(&self) -> (u32, u32) {
        let sizes = self.get(106);
        if sizes & (1 << 15 | VALID) != VALID {
            return (SECTOR as u32, SECTOR as u32);
        }
        let logical = if sizes & LONG_LOGICAL != 0 {
            self.u32(117).saturating_mul(2)
        } else {
            0
        };
        let logical = if valid_sector(logical) {
            logical
        } else {
            SECTOR as u32
        };
        let exponent = if sizes & MANY_PER_PHYSICAL != 0 {
            u32::from(sizes & 0xf)
        } else {
            0
        };
        let physical = logical
            .checked_shl(exponent)
            .filter(|&size| valid_sector(size));
        // What shl pushes out is lost silently: only a larger size is a size.
        (
            logical,
            physical.filter(|&size| size >= logical).unwrap_or(logical),
        )
    }

    /// ASCII in reading order.
    fn text<const N: usize>(&self, word: usize) -> [u8; N] {
        let mut text = [b' '; N];
        let (pairs, _) = text.as_chunks_mut::<2>();
        for (pair, &[second, first]) in pairs.iter_mut().zip(self.0.iter().skip(word)) {
            *pair = [first, second];
        }
        text
    }
}

/// The answer as bytes, for writing by word.
struct WordsMut<'a>(&'a mut [u8; SECTOR]);

impl WordsMut<'_> {
    fn set(&mut self, word: usize, value: u16) {
        let (words, _) = self.0.as_chunks_mut::<2>();
        if let Some(bytes) = words.get_mut(word) {
            *bytes = value.to_le_bytes();
        }
    }

    /// `count` words of `value`, the least significant first.
    fn set_number(&mut self, word: usize, count: usize, value: u64) {
        for i in 0..count {
            self.set(word + i, (value >> (16 * i)) as u16);
        }
    }

    fn set_sector_sizes(&mut self, logical: u32, physical: u32) {
        let logical = if valid_sector(logical) {
            logical
        } else {
            SECTOR as u32
        };
        let ratio = physical
            .checked_div(logical)
            .filter(|r| r.is_power_of_two())
            .unwrap_or(1);
        let mut sizes = VALID;
        if logical != SECTOR as u32 {
            sizes |= LONG_LOGICAL;
            self.set_number(117, 2, u64::from(logical / 2));
        }
        // The exponent has 4 bits.
        let exponent = ratio.trailing_zeros() as u16;
        if (1..=0xf).contains(&exponent) {
            sizes |= MANY_PER_PHYSICAL | exponent;
        }
        self.set(106, sizes);
    }

    fn set_text(&mut self, word: usize, text: &[u8]) {
        let (pairs, _) = text.as_chunks::<2>();
        for (i, &[first, second]) in pairs.iter().enumerate() {
            self.set(word + i, u16::from_le_bytes([second, first]));
        }
    }
}

/// Whether it can be the size of a sector: a power of two from 512 bytes to 1 GiB.
fn valid_sector(bytes: u32) -> bool {
    bytes.is_power_of_two() && (SECTOR as u32..=1 << 30).contains(&bytes)
}
