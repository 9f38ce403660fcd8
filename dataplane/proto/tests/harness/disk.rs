//! A sparse disk: sectors that nobody wrote hold their initial content.

use aoe_proto::target::{Disk, DiskError};
use aoe_proto::wire::SECTOR;
use std::collections::{BTreeMap, HashMap};

/// The content of a sector as the write with this stamp leaves it; stamp 0 is the initial content.
pub fn content(lba: u64, stamp: u64) -> [u8; SECTOR] {
    let mut sector = [0; SECTOR];
    let (words, _) = sector.as_chunks_mut::<8>();
    for (i, word) in words.iter_mut().enumerate() {
        *word = match i % 2 {
            0 => lba.to_le_bytes(),
            _ => (stamp << 8 | i as u64).to_le_bytes(),
        };
    }
    sector
}

/// The content of `sectors` sectors from `lba` on.
pub fn contents(lba: u64, sectors: u32, stamp: u64) -> Vec<u8> {
    (lba..lba + u64::from(sectors))
        .flat_map(|lba| content(lba, stamp))
        .collect()
}

/// A disk of any size.
#[derive(Default)]
pub struct SparseDisk {
    pub sectors: u64,
    pub written: HashMap<u64, [u8; SECTOR]>,
    pub flushes: u32,
    /// Trimmed ranges: first sector and how many.
    pub trimmed: Vec<(u64, u64)>,
    /// What commands on a sector fail with.
    pub bad: BTreeMap<u64, DiskError>,
}

impl SparseDisk {
    pub fn new(sectors: u64) -> Self {
        Self {
            sectors,
            ..Self::default()
        }
    }

    pub fn sector(&self, lba: u64) -> [u8; SECTOR] {
        self.written
            .get(&lba)
            .copied()
            .unwrap_or_else(|| content(lba, 0))
    }

    fn check(&self, lba: u64, sectors: u64) -> Result<(), DiskError> {
        match self.bad.range(lba..lba + sectors).next() {
            Some((_, &error)) => Err(error),
            None => Ok(()),
        }
    }
}

impl Disk for SparseDisk {
    fn sectors(&self) -> u64 {
        self.sectors
    }

    fn read(&mut self, lba: u64, out: &mut [u8]) -> Result<(), DiskError> {
        self.check(lba, (out.len() / SECTOR) as u64)?;
        for (sector, lba) in out.as_chunks_mut::<SECTOR>().0.iter_mut().zip(lba..) {
            *sector = self.sector(lba);
        }
        Ok(())
    }

    fn write(&mut self, lba: u64, data: &[u8]) -> Result<(), DiskError> {
        self.check(lba, (data.len() / SECTOR) as u64)?;
        for (sector, lba) in data.as_chunks::<SECTOR>().0.iter().zip(lba..) {
            self.written.insert(lba, *sector);
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), DiskError> {
        self.flushes += 1;
        Ok(())
    }

    fn trim(&mut self, lba: u64, sectors: u64) -> Result<(), DiskError> {
        self.trimmed.push((lba, sectors));
        Ok(())
    }

    fn trim_supported(&self) -> bool {
        true
    }
}
