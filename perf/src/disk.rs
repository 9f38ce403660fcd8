//! The disks behind the lab target: memory, or a file.
//!
//! A file is read and written with `pread` and `pwrite`: a system call for each command, which
//! costs about a microsecond more than memory does, but needs no `unsafe`, and a file that is cut
//! short under us is an ATA error instead of a SIGBUS. FLUSH is `fdatasync`.

use crate::lun_spec::{Backing, LunSpec};
use anyhow::{Context, Result, bail};
use aoe_proto::target::{Disk, DiskError};
use std::fs::{File, OpenOptions};
use std::io::{Seek, SeekFrom};
use std::os::unix::fs::FileExt;

const SECTOR: u64 = crate::size::SECTOR;
/// Zeroes that one write of a trimmed file carries.
const ZEROES: usize = 1 << 20;

/// What a LUN of the lab target is made of.
#[derive(Debug)]
pub struct LabDisk {
    store: Store,
    sectors: u64,
    read_only: bool,
    trim: bool,
}

#[derive(Debug)]
enum Store {
    Ram(Vec<u8>),
    File { file: File, zeroes: Box<[u8]> },
}

impl LabDisk {
    /// Memory of `bytes` bytes, all zeroes and touched, so that no page fault comes later.
    #[must_use]
    pub fn ram(bytes: u64) -> Self {
        let mut memory = vec![0_u8; bytes as usize];
        for byte in memory.iter_mut().step_by(4096) {
            *byte = std::hint::black_box(0);
        }
        Self {
            store: Store::Ram(memory),
            sectors: bytes / SECTOR,
            read_only: false,
            trim: false,
        }
    }

    /// Offers TRIM, after which sectors read as zeroes.
    #[must_use]
    pub fn with_trim(self, trim: bool) -> Self {
        Self { trim, ..self }
    }

    /// Refuses writes.
    #[must_use]
    pub fn with_read_only(self, read_only: bool) -> Self {
        Self { read_only, ..self }
    }

    /// The disk that a `--lun` asks for.
    ///
    /// # Errors
    /// If its file cannot be opened, or holds no sector.
    pub fn open(spec: &LunSpec) -> Result<Self> {
        let disk = match &spec.backing {
            Backing::Ram(size) => Self::ram(size.0),
            Backing::File { path, size } => {
                let mut file = OpenOptions::new()
                    .read(true)
                    .write(!spec.read_only)
                    .create(size.is_some() && !spec.read_only)
                    .truncate(false)
                    .open(path)
                    .with_context(|| {
                        format!("--lun {}: cannot open {}", spec.addr, path.display())
                    })?;
                // The end of a block device is where a seek to it stops; its metadata says 0.
                let mut bytes = file.seek(SeekFrom::End(0))?;
                if let Some(size) = size.filter(|size| size.0 > bytes) {
                    file.set_len(size.0).with_context(|| {
                        format!("--lun {}: cannot extend {}", spec.addr, path.display())
                    })?;
                    bytes = size.0;
                }
                if bytes < SECTOR {
                    bail!(
                        "--lun {}: {} holds no sector; append `,size=1G` to make it larger",
                        spec.addr,
                        path.display()
                    );
                }
                let zeroes = if spec.trim {
                    vec![0; ZEROES]
                } else {
                    Vec::new()
                };
                let store = Store::File {
                    file,
                    zeroes: zeroes.into_boxed_slice(),
                };
                Self {
                    store,
                    sectors: bytes / SECTOR,
                    read_only: false,
                    trim: false,
                }
            }
        };
        Ok(disk.with_trim(spec.trim).with_read_only(spec.read_only))
    }
}

fn fault(error: std::io::Error) -> DiskError {
    tracing::error!(%error, "a LUN's file failed");
    DiskError::Fault
}

/// The bytes of a range that the target has checked.
#[inline]
fn range(lba: u64, len: usize) -> std::ops::Range<usize> {
    let start = (lba * SECTOR) as usize;
    start..start + len
}

impl Disk for LabDisk {
    #[inline]
    fn sectors(&self) -> u64 {
        self.sectors
    }

    #[inline]
    fn read(&mut self, lba: u64, out: &mut [u8]) -> Result<(), DiskError> {
        match &self.store {
            Store::Ram(memory) => {
                let from = memory
                    .get(range(lba, out.len()))
                    .ok_or(DiskError::PastEnd)?;
                out.copy_from_slice(from);
                Ok(())
            }
            Store::File { file, .. } => file.read_exact_at(out, lba * SECTOR).map_err(fault),
        }
    }

    #[inline]
    fn write(&mut self, lba: u64, data: &[u8]) -> Result<(), DiskError> {
        match &mut self.store {
            Store::Ram(memory) => {
                let to = memory
                    .get_mut(range(lba, data.len()))
                    .ok_or(DiskError::PastEnd)?;
                to.copy_from_slice(data);
                Ok(())
            }
            Store::File { file, .. } => file.write_all_at(data, lba * SECTOR).map_err(fault),
        }
    }

    fn flush(&mut self) -> Result<(), DiskError> {
        match &self.store {
            Store::Ram(_) => Ok(()),
            Store::File { file, .. } => file.sync_data().map_err(fault),
        }
    }

    fn trim(&mut self, lba: u64, sectors: u64) -> Result<(), DiskError> {
        let bytes = (sectors * SECTOR) as usize;
        match &mut self.store {
            Store::Ram(memory) => {
                memory
                    .get_mut(range(lba, bytes))
                    .ok_or(DiskError::PastEnd)?
                    .fill(0);
                Ok(())
            }
            Store::File { file, zeroes } => {
                let (mut at, mut left) = (lba * SECTOR, bytes);
                while left > 0 {
                    let n = left.min(zeroes.len());
                    file.write_all_at(&zeroes[..n], at).map_err(fault)?;
                    (at, left) = (at + n as u64, left - n);
                }
                Ok(())
            }
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn exercise(disk: &mut LabDisk) {
        assert_eq!(disk.sectors(), 128);
        disk.write(3, &[7; 1024]).unwrap();
        disk.flush().unwrap();
        let mut out = [1; 2048];
        disk.read(2, &mut out).unwrap();
        assert!(out[..512].iter().all(|&b| b == 0) && out[512..1536].iter().all(|&b| b == 7));
        disk.trim(3, 1).unwrap();
        disk.read(3, &mut out[..1024]).unwrap();
        assert!(out[..512].iter().all(|&b| b == 0) && out[512..1024].iter().all(|&b| b == 7));
    }

    #[test]
    fn memory_and_files_do_the_same() {
        exercise(&mut LabDisk::ram(65536).with_trim(true));
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk");
        let spec: LunSpec = format!("e1.0=file:{},trim,size=64K", path.display())
            .parse()
            .unwrap();
        exercise(&mut LabDisk::open(&spec).unwrap());
        let spec: LunSpec = format!("e1.0=file:{},ro", path.display()).parse().unwrap();
        let disk = LabDisk::open(&spec).unwrap();
        assert!(disk.read_only() && !disk.trim_supported());
        assert_eq!(disk.sectors(), 128);
    }

    #[test]
    fn a_missing_file_is_named() {
        let spec: LunSpec = "e7.3=file:/nonexistent/disk".parse().unwrap();
        let error = LabDisk::open(&spec).unwrap_err().to_string();
        assert!(
            error.contains("e7.3") && error.contains("/nonexistent/disk"),
            "{error}"
        );
    }
}
