//! What the tests share: the golden frames, and a disk in memory.

#![allow(dead_code, reason = "each test file uses its own part")]

use aoe_proto::target::{Disk, DiskError};
use aoe_proto::wire::SECTOR;

/// The station that sent the golden requests.
pub const INITIATOR: aoe_proto::Mac = aoe_proto::Mac([2, 0, 0, 0, 0x0a, 1]);
/// The station of the vblade that answered them.
pub const TARGET: aoe_proto::Mac = aoe_proto::Mac([2, 0, 0, 0, 0x0a, 2]);
/// A third one, which sent nothing.
pub const OTHER: aoe_proto::Mac = aoe_proto::Mac([2, 0, 0, 0, 0x0a, 3]);
/// The LUN of that vblade.
pub const LUN: aoe_proto::ShelfSlot = aoe_proto::ShelfSlot { shelf: 7, slot: 3 };
/// Its size in sectors.
pub const SECTORS: u64 = 65536;

/// A recorded frame; `None` = the target kept silent.
pub struct Golden {
    pub name: &'static str,
    pub frame: Option<Vec<u8>>,
}

/// All recorded frames, in order.
pub fn golden() -> Vec<Golden> {
    let mut frames: Vec<Golden> = Vec::new();
    for line in include_str!("../golden/vblade.txt").lines() {
        if let Some(name) = line.strip_prefix('[').and_then(|l| l.strip_suffix(']')) {
            frames.push(Golden {
                name,
                frame: Some(Vec::new()),
            });
        } else if line == "silence" {
            frames.last_mut().unwrap().frame = None;
        } else if !line.starts_with('#') {
            let bytes =
                line.as_bytes().as_chunks::<2>().0.iter().map(|pair| {
                    u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()
                });
            frames
                .last_mut()
                .unwrap()
                .frame
                .as_mut()
                .unwrap()
                .extend(bytes);
        }
    }
    assert_eq!(frames.len(), 1 + 2 * 40, "announcement and 40 exchanges");
    frames
}

/// One recorded frame.
pub fn golden_frame(name: &str) -> Vec<u8> {
    let found = golden().into_iter().find(|g| g.name == name);
    found
        .unwrap_or_else(|| panic!("no {name}"))
        .frame
        .unwrap_or_else(|| panic!("{name} is silent"))
}

/// The bytes that capture.py writes: they tell sector and place.
pub fn pattern(sectors: usize, salt: usize) -> Vec<u8> {
    (0..sectors)
        .flat_map(|s| (0..SECTOR).map(move |i| (salt + s + i) as u8))
        .collect()
}

/// A disk in memory.
pub struct MemDisk {
    pub bytes: Vec<u8>,
    pub flushes: u32,
    pub read_only: bool,
    pub trim: bool,
    /// What every command fails with.
    pub failure: Option<DiskError>,
}

impl MemDisk {
    /// The disk of the golden frames: 16 sectors of pattern, then zeroes.
    pub fn golden() -> MemDisk {
        let mut disk = MemDisk::new(SECTORS);
        let pattern = pattern(16, 0);
        disk.bytes[..pattern.len()].copy_from_slice(&pattern);
        disk
    }

    pub fn new(sectors: u64) -> MemDisk {
        let bytes = vec![0; sectors as usize * SECTOR];
        MemDisk {
            bytes,
            flushes: 0,
            read_only: false,
            trim: false,
            failure: None,
        }
    }

    fn range(&mut self, lba: u64, len: usize) -> Result<&mut [u8], DiskError> {
        if let Some(failure) = self.failure {
            return Err(failure);
        }
        assert!(
            len > 0 && len.is_multiple_of(SECTOR),
            "the contract of Disk"
        );
        let at = lba as usize * SECTOR;
        Ok(&mut self.bytes[at..at + len])
    }
}

impl Disk for MemDisk {
    fn sectors(&self) -> u64 {
        (self.bytes.len() / SECTOR) as u64
    }

    fn read(&mut self, lba: u64, out: &mut [u8]) -> Result<(), DiskError> {
        out.copy_from_slice(self.range(lba, out.len())?);
        Ok(())
    }

    fn write(&mut self, lba: u64, data: &[u8]) -> Result<(), DiskError> {
        self.range(lba, data.len())?.copy_from_slice(data);
        Ok(())
    }

    fn flush(&mut self) -> Result<(), DiskError> {
        self.flushes += 1;
        self.failure.map_or(Ok(()), Err)
    }

    fn trim(&mut self, lba: u64, sectors: u64) -> Result<(), DiskError> {
        self.range(lba, sectors as usize * SECTOR)?.fill(0);
        Ok(())
    }

    fn read_only(&self) -> bool {
        self.read_only
    }

    fn trim_supported(&self) -> bool {
        self.trim
    }

    fn trim_zeroes(&self) -> bool {
        self.trim
    }
}
