//! What a target needs of its disk.

/// Why a disk could not do it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DiskError {
    /// A sector past the end: ATA IDNF.
    #[error("sector past the end of the disk")]
    PastEnd,
    /// The data is lost: ATA UNC.
    #[error("uncorrectable data")]
    Uncorrectable,
    /// The disk failed: ATA device fault.
    #[error("the disk failed")]
    Fault,
    /// The disk does not do that, such as a write to a read-only one: ATA ABRT.
    #[error("the disk refuses the command")]
    Refused,
}

/// Sectors of 512 bytes. The target asks only for ranges within `sectors()`, and never for an empty
/// one.
pub trait Disk {
    /// Capacity in sectors.
    fn sectors(&self) -> u64;

    /// Fills `out`, a multiple of 512 bytes, from `lba` on.
    fn read(&mut self, lba: u64, out: &mut [u8]) -> Result<(), DiskError>;

    /// Writes `data`, a multiple of 512 bytes, from `lba` on.
    fn write(&mut self, lba: u64, data: &[u8]) -> Result<(), DiskError>;

    /// Returns when all that was written before outlives a loss of power.
    fn flush(&mut self) -> Result<(), DiskError>;

    /// Drops the content of `sectors` sectors from `lba` on.
    fn trim(&mut self, _lba: u64, _sectors: u64) -> Result<(), DiskError> {
        Err(DiskError::Refused)
    }

    /// Whether writes are refused.
    fn read_only(&self) -> bool {
        false
    }

    /// Whether IDENTIFY offers TRIM.
    fn trim_supported(&self) -> bool {
        false
    }

    /// Whether trimmed sectors are promised to read as zeroes.
    fn trim_zeroes(&self) -> bool {
        false
    }
}
