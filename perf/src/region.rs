//! The part of a LUN that a run works on, cut into blocks: what to touch next, what is in flight,
//! and what was written.

use crate::rng::Rng;
use aoe_engine::Engine;
use aoe_proto::ShelfSlot;
use aoe_proto::initiator::LunId;

/// A block that this run has not written.
const UNWRITTEN: u32 = 0;
/// A block whose write has failed: the old content, the new one, or a mixture.
const IN_DOUBT: u32 = u32::MAX;
/// Busy blocks that a random choice steps over before it gives up for now.
const PROBES: u64 = 64;

/// The blocks of one LUN.
#[derive(Debug)]
pub struct Region {
    /// The LUN.
    pub lun: LunId,
    /// Its address.
    pub addr: ShelfSlot,
    /// First sector.
    pub base: u64,
    /// Blocks.
    pub blocks: u64,
    /// Sectors of a block.
    pub block_sectors: u32,
    cursor: u64,
    books: Option<Books>,
}

/// Kept only for verified runs.
#[derive(Debug)]
struct Books {
    /// Which write of each block was the last to succeed.
    generations: Box<[u32]>,
    busy: Box<[u64]>,
    /// Writes that followed a failed one.
    doubts: u32,
}

impl Region {
    /// Blocks of `block_sectors` each from sector `base` on; with books for a verified run.
    #[must_use]
    pub fn new(
        (lun, addr): (LunId, ShelfSlot),
        base: u64,
        blocks: u64,
        block_sectors: u32,
        verify: bool,
    ) -> Self {
        let books = verify.then(|| Books {
            generations: vec![UNWRITTEN; blocks as usize].into_boxed_slice(),
            busy: vec![0; blocks.div_ceil(64) as usize].into_boxed_slice(),
            doubts: 0,
        });
        Self {
            lun,
            addr,
            base,
            blocks,
            block_sectors,
            cursor: 0,
            books,
        }
    }

    /// First sector of a block.
    #[inline]
    #[must_use]
    pub fn lba(&self, block: u64) -> u64 {
        self.base + block * u64::from(self.block_sectors)
    }

    /// The next block for the load; `None` if it is in flight already. The block counts as in
    /// flight from now on.
    #[inline]
    pub fn next(&mut self, rng: Option<&mut Rng>) -> Option<u64> {
        let block = match rng {
            Some(rng) => {
                let first = rng.below(self.blocks);
                let most = if self.books.is_some() {
                    PROBES.min(self.blocks)
                } else {
                    1
                };
                (0..most)
                    .map(|i| (first + i) % self.blocks)
                    .find(|&b| !self.is_busy(b))?
            }
            None => {
                let block = self.cursor;
                if self.is_busy(block) {
                    return None;
                }
                self.cursor = if block + 1 == self.blocks {
                    0
                } else {
                    block + 1
                };
                block
            }
        };
        self.set_busy(block, true);
        Some(block)
    }

    /// Starts the pass over all that was written.
    pub fn rewind(&mut self) {
        self.cursor = 0;
    }

    /// The block that was chosen last could not be submitted: it is the next one again.
    pub fn put_back(&mut self, block: u64) {
        self.set_busy(block, false);
        self.cursor = block;
    }

    /// Whether the pass over all that was written is at its end.
    #[must_use]
    pub fn is_at_end(&self) -> bool {
        self.cursor >= self.blocks
    }

    /// The next block that was written, `None` at the end. It counts as in flight from now on.
    pub fn next_written(&mut self) -> Option<u64> {
        while self.cursor < self.blocks {
            let block = self.cursor;
            self.cursor += 1;
            if self.expected(block).is_some() {
                self.set_busy(block, true);
                return Some(block);
            }
        }
        None
    }

    /// Which write of a block a read should find; `None` if there is nothing to compare with.
    #[inline]
    #[must_use]
    pub fn expected(&self, block: u64) -> Option<u32> {
        let generation = self.books.as_ref()?.generations[block as usize];
        (generation != UNWRITTEN && generation != IN_DOUBT).then_some(generation)
    }

    /// The generation for the next write of a block, if books are kept.
    #[inline]
    #[must_use]
    pub fn next_generation(&mut self, block: u64) -> Option<u32> {
        let books = self.books.as_mut()?;
        let last = books.generations[block as usize];
        if last != IN_DOUBT {
            return Some(last + 1);
        }
        // After a failed write any earlier generation may be there: the count starts again at a
        // number that no write of this block has had.
        books.doubts += 1;
        Some(1 << 31 | books.doubts << 12 >> 1)
    }

    /// A write has ended.
    #[inline]
    pub fn wrote(&mut self, block: u64, generation: u32, ok: bool) {
        if let Some(books) = &mut self.books {
            books.generations[block as usize] = if ok { generation } else { IN_DOUBT };
        }
    }

    /// The I/O of a block has ended.
    #[inline]
    pub fn release(&mut self, block: u64) {
        self.set_busy(block, false);
    }

    #[inline]
    fn is_busy(&self, block: u64) -> bool {
        let at = |books: &Books| books.busy[(block / 64) as usize] >> (block % 64) & 1 != 0;
        self.books.as_ref().is_some_and(at)
    }

    #[inline]
    fn set_busy(&mut self, block: u64, busy: bool) {
        if let Some(books) = &mut self.books {
            let word = &mut books.busy[(block / 64) as usize];
            let bit = 1 << (block % 64);
            *word = if busy { *word | bit } else { *word & !bit };
        }
    }
}

/// The range that a run asks for, in bytes, on each LUN.
#[derive(Clone, Copy, Debug)]
pub struct Range {
    /// Where it starts.
    pub offset: u64,
    /// How long it is; `None`: to the end.
    pub size: Option<u64>,
    /// Bytes of a block.
    pub block: u64,
}

/// Blocks that books are kept of at most, for each LUN: 5 bytes each.
const BOOKS_MAX: u64 = 1 << 28;

/// The region of a LUN that is up.
///
/// # Errors
/// If the range does not fit the LUN; the error names the option and the LUN.
pub fn region<P: aoe_engine::Port>(
    engine: &Engine<P>,
    lun: LunId,
    range: Range,
    verify: bool,
) -> anyhow::Result<Region> {
    let Some(info) = engine.lun(lun) else {
        anyhow::bail!("there is no such LUN")
    };
    let Range {
        offset,
        size,
        block,
    } = range;
    let capacity = info.sectors * crate::size::SECTOR;
    let room = capacity.saturating_sub(offset);
    let size = size.unwrap_or(room);
    if size > room || size < block {
        anyhow::bail!(
            "--offset {offset} --size {size}: {} has {capacity} bytes, and a block has {block}",
            info.addr
        );
    }
    let blocks = size / block;
    if verify && blocks > BOOKS_MAX {
        anyhow::bail!("--verify keeps books of {BOOKS_MAX} blocks at most: lower --size");
    }
    let sectors = |bytes: u64| bytes / crate::size::SECTOR;
    let who = (lun, info.addr);
    Ok(Region::new(
        who,
        sectors(offset),
        blocks,
        sectors(block) as u32,
        verify,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn new(blocks: u64, verify: bool) -> Region {
        let addr = ShelfSlot { shelf: 1, slot: 1 };
        Region::new((LunId(0), addr), 100, blocks, 8, verify)
    }

    #[test]
    fn no_block_is_in_flight_twice_when_verified() {
        let mut r = new(8, true);
        let mut rng = Rng::new(1);
        let mut out: Vec<_> = std::iter::from_fn(|| r.next(Some(&mut rng))).collect();
        out.sort_unstable();
        assert_eq!(out, (0..8).collect::<Vec<_>>());
        assert_eq!(r.next(None), None);
        r.release(5);
        assert_eq!(r.next(Some(&mut rng)), Some(5));
    }

    #[test]
    fn a_sequence_wraps() {
        let mut r = new(3, false);
        let blocks: Vec<_> = (0..5).filter_map(|_| r.next(None)).collect();
        assert_eq!(blocks, [0, 1, 2, 0, 1]);
        r.put_back(1);
        assert_eq!(r.next(None), Some(1));
        assert_eq!(r.lba(2), 116);
    }

    #[test]
    fn only_what_was_written_for_sure_is_read_back() {
        let mut r = new(4, true);
        for (block, ok) in [(1, true), (2, false), (3, true)] {
            let generation = r.next_generation(block).unwrap();
            r.wrote(block, generation, ok);
        }
        r.rewind();
        assert_eq!(
            (r.next_written(), r.next_written(), r.next_written()),
            (Some(1), Some(3), None)
        );
        assert_eq!(
            (r.expected(1), r.expected(2), r.expected(0)),
            (Some(1), None, None)
        );
        let again = r.next_generation(2).unwrap();
        assert!(again > 1);
        r.wrote(2, again, true);
        assert_eq!(r.expected(2), Some(again));
    }
}
