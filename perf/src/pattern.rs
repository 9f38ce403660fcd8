//! The pattern that a verified block carries, sector by sector, so that a stale, misplaced or torn
//! sector is told from a good one.
//!
//! | word (64 bits) | content |
//! |---|---|
//! | 0 | magic |
//! | 1 | the run's seed |
//! | 2 | generation (high half), shelf and slot |
//! | 3 | LBA of this sector |
//! | 4 | checksum over all other words |
//! | 5-63 | filler that depends on all of the above |

use aoe_proto::ShelfSlot;
use std::fmt;

/// Bytes of a sector.
pub const SECTOR: usize = 512;
const WORDS: usize = SECTOR / 8;
const MAGIC: u64 = u64::from_le_bytes(*b"aoe-perf");
const K: u64 = 0x9e37_79b9_7f4a_7c15;

/// What a sector says of itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stamp {
    /// Which run wrote it.
    pub seed: u64,
    /// Where it belongs.
    pub lun: ShelfSlot,
    /// Where it belongs.
    pub lba: u64,
    /// Which write of this sector it is from, counted from 1.
    pub generation: u32,
}

/// What a bad sector turned out to be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Found {
    /// Nothing that this program writes.
    NoPattern,
    /// All zeroes.
    Zeroes,
    /// Its checksum is wrong: torn or damaged.
    Damaged(Stamp),
    /// A whole sector of another run, place or generation.
    Other(Stamp),
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let stamp = |f: &mut fmt::Formatter<'_>, s: &Stamp| {
            write!(
                f,
                "generation {} of {} LBA {} (run {:#x})",
                s.generation, s.lun, s.lba, s.seed
            )
        };
        match self {
            Self::NoPattern => write!(f, "no pattern of this program's"),
            Self::Zeroes => write!(f, "zeroes"),
            Self::Damaged(s) => {
                write!(f, "a damaged sector that says ")?;
                stamp(f, s)
            }
            Self::Other(s) => stamp(f, s),
        }
    }
}

/// A sector that is not what was written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mismatch {
    /// What it should be.
    pub expected: Stamp,
    /// What is there.
    pub found: Found,
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Stamp {
            lun,
            lba,
            generation,
            seed,
        } = self.expected;
        write!(
            f,
            "{lun} LBA {lba}: expected generation {generation} (run {seed:#x}), found {}",
            self.found
        )
    }
}

impl Stamp {
    fn words(&self) -> [u64; 4] {
        let place = u64::from(self.lun.shelf) << 8 | u64::from(self.lun.slot);
        [
            MAGIC,
            self.seed,
            u64::from(self.generation) << 32 | place,
            self.lba,
        ]
    }

    fn from_words(words: [u64; 4]) -> Self {
        let [_, seed, place, lba] = words;
        let lun = ShelfSlot {
            shelf: (place >> 8) as u16,
            slot: place as u8,
        };
        Self {
            seed,
            lun,
            lba,
            generation: (place >> 32) as u32,
        }
    }

    /// All words of the sector but the checksum, which is 0.
    #[inline]
    fn sector(&self) -> [u64; WORDS] {
        let mut words = [0; WORDS];
        words[..4].copy_from_slice(&self.words());
        let mut x = words[1] ^ words[2].wrapping_mul(K) ^ words[3].rotate_left(32).wrapping_mul(K);
        for word in &mut words[5..] {
            x = x.wrapping_add(K);
            *word = x ^ (x >> 29);
        }
        words
    }
}

/// Four lanes, so that the multiplications overlap.
#[inline]
fn checksum(words: &[u64; WORDS]) -> u64 {
    let mut lanes = [1_u64, 2, 3, 4];
    for (i, four) in words.as_chunks::<4>().0.iter().enumerate() {
        for (lane, word) in four.iter().enumerate() {
            // Word 4 is the checksum itself.
            let word = if i == 1 && lane == 0 { 0 } else { *word };
            lanes[lane] = (lanes[lane].rotate_left(7) ^ word).wrapping_mul(K);
        }
    }
    lanes.iter().fold(0, |sum: u64, lane| {
        (sum.rotate_left(17) ^ lane).wrapping_mul(K)
    })
}

/// Fills whole sectors, of which the first is `stamp`'s.
#[inline]
pub fn fill(mut stamp: Stamp, bytes: &mut [u8]) {
    for sector in bytes.as_chunks_mut::<SECTOR>().0 {
        let mut words = stamp.sector();
        words[4] = checksum(&words);
        for (to, word) in sector.as_chunks_mut::<8>().0.iter_mut().zip(words) {
            *to = word.to_le_bytes();
        }
        stamp.lba += 1;
    }
}

/// Checks whole sectors, of which the first should be `expected`.
///
/// # Errors
/// The first sector that is not what it should be.
#[inline]
pub fn check(mut expected: Stamp, bytes: &[u8]) -> Result<(), Mismatch> {
    for sector in bytes.as_chunks::<SECTOR>().0 {
        let mut words = [0; WORDS];
        for (word, from) in words.iter_mut().zip(sector.as_chunks::<8>().0) {
            *word = u64::from_le_bytes(*from);
        }
        let head = [words[0], words[1], words[2], words[3]];
        if head != expected.words() || words[4] != checksum(&words) {
            return Err(Mismatch {
                expected,
                found: found(&words),
            });
        }
        expected.lba += 1;
    }
    Ok(())
}

#[cold]
fn found(words: &[u64; WORDS]) -> Found {
    if words.iter().all(|&w| w == 0) {
        return Found::Zeroes;
    }
    if words[0] != MAGIC {
        return Found::NoPattern;
    }
    let stamp = Stamp::from_words([words[0], words[1], words[2], words[3]]);
    if words[4] == checksum(words) {
        Found::Other(stamp)
    } else {
        Found::Damaged(stamp)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAMP: Stamp = Stamp {
        seed: 42,
        lun: ShelfSlot { shelf: 7, slot: 3 },
        lba: 1000,
        generation: 5,
    };

    fn block(stamp: Stamp) -> Vec<u8> {
        let mut bytes = vec![0xee; 8 * SECTOR];
        fill(stamp, &mut bytes);
        bytes
    }

    #[test]
    fn what_was_written_is_found() {
        assert_eq!(check(STAMP, &block(STAMP)), Ok(()));
    }

    #[test]
    fn a_stale_sector_within_a_block_is_found() {
        let mut bytes = block(STAMP);
        let old = block(Stamp {
            generation: 4,
            ..STAMP
        });
        bytes[3 * SECTOR..4 * SECTOR].copy_from_slice(&old[3 * SECTOR..4 * SECTOR]);
        let mismatch = check(STAMP, &bytes).unwrap_err();
        assert_eq!(mismatch.expected, Stamp { lba: 1003, ..STAMP });
        let stale = Stamp {
            lba: 1003,
            generation: 4,
            ..STAMP
        };
        assert_eq!(mismatch.found, Found::Other(stale));
        let text = mismatch.to_string();
        assert!(
            text.contains("e7.3 LBA 1003: expected generation 5"),
            "{text}"
        );
        assert!(text.contains("found generation 4"), "{text}");
    }

    #[test]
    fn a_block_of_another_place_is_found() {
        for other in [
            Stamp { lba: 2000, ..STAMP },
            Stamp {
                lun: ShelfSlot { shelf: 7, slot: 4 },
                ..STAMP
            },
            Stamp {
                lun: ShelfSlot { shelf: 8, slot: 3 },
                ..STAMP
            },
            Stamp { seed: 43, ..STAMP },
        ] {
            assert_eq!(
                check(STAMP, &block(other)).unwrap_err().found,
                Found::Other(other)
            );
        }
    }

    #[test]
    fn every_changed_byte_is_found() {
        let good = block(STAMP);
        for at in 0..2 * SECTOR {
            let mut bytes = good.clone();
            bytes[at] ^= 0x40;
            let mismatch = check(STAMP, &bytes).unwrap_err();
            assert_eq!(
                mismatch.expected.lba,
                1000 + (at / SECTOR) as u64,
                "byte {at}"
            );
            assert!(!matches!(mismatch.found, Found::Other(_)), "byte {at}");
        }
    }

    #[test]
    fn foreign_data_is_found() {
        assert_eq!(check(STAMP, &[0; SECTOR]).unwrap_err().found, Found::Zeroes);
        assert_eq!(
            check(STAMP, &[1; SECTOR]).unwrap_err().found,
            Found::NoPattern
        );
    }
}
