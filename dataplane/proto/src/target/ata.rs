//! The ATA commands of a target.

use super::{Disk, DiskError, Reply, Target};
use crate::addr::Mac;
use crate::wire::ata::{DSM_TRIM, LBA48_SECTORS, parse_trim_ranges};
use crate::wire::identify::ascii_field;
use crate::wire::{ATA_LEN, AoeError, AtaHeader, Identify, SECTOR, ata_cmd, ata_error, ata_status};

/// Why a command did not succeed.
enum Failure {
    /// Refused by the AoE layer.
    Aoe(AoeError),
    /// Failed by the disk: ATA status and error.
    Ata { status: u8, error: u8 },
}

const BAD_ARGUMENT: Failure = Failure::Aoe(AoeError::BadArgument);
const ABORTED: Failure = ata_failure(ata_status::ERR, ata_error::ABRT);

const fn ata_failure(status: u8, error: u8) -> Failure {
    Failure::Ata {
        status: ata_status::DRDY | status,
        error,
    }
}

impl From<DiskError> for Failure {
    fn from(error: DiskError) -> Failure {
        match error {
            DiskError::PastEnd => ata_failure(ata_status::ERR, ata_error::IDNF),
            DiskError::Uncorrectable => ata_failure(ata_status::ERR, ata_error::UNC),
            DiskError::Fault => ata_failure(ata_status::DF, 0),
            DiskError::Refused => ABORTED,
        }
    }
}

/// What a command that succeeded leaves in the answer.
#[derive(Default)]
struct Success {
    /// Bytes of data written behind the ATA header.
    data_len: usize,
    /// The sector count register: 0, as all was transferred, but for CHECK POWER.
    sectors: u8,
}

impl<D: Disk> Target<D> {
    #[inline]
    pub(super) fn ata(&mut self, src: Mac, payload: &[u8], body: &mut [u8]) -> Reply {
        let Ok((request, data)) = AtaHeader::parse(payload) else {
            return Reply::Error(AoeError::BadArgument);
        };
        if request.command_or_status != ata_cmd::IDENTIFY && !self.may_use(src) {
            return Reply::Error(AoeError::TargetReserved);
        }
        let room = body.get_mut(ATA_LEN..).unwrap_or_default();
        // Flags and LBA go back as they came; that is also what vblade does.
        let mut response = request;
        let data_len = match self.run(&request, data, room) {
            Ok(success) => {
                response.feature_or_error = 0;
                response.sectors = success.sectors;
                response.command_or_status = ata_status::DRDY;
                success.data_len
            }
            Err(Failure::Ata { status, error }) => {
                self.stats.ata_failed += 1;
                response.feature_or_error = error;
                response.command_or_status = status;
                0
            }
            Err(Failure::Aoe(error)) => return Reply::Error(error),
        };
        match response.emit(body) {
            Ok(len) => Reply::Body(len + data_len),
            // Unreachable: a response buffer holds at least the shortest frame.
            Err(_) => Reply::Silence,
        }
    }

    #[inline]
    fn run(&mut self, ata: &AtaHeader, data: &[u8], room: &mut [u8]) -> Result<Success, Failure> {
        match ata.command_or_status {
            ata_cmd::READ => self.read(ata, ata.lba28(), room),
            ata_cmd::READ_EXT => self.read(ata, ata.lba, room),
            ata_cmd::WRITE => self.write(ata, ata.lba28(), data),
            ata_cmd::WRITE_EXT => self.write(ata, ata.lba, data),
            ata_cmd::FLUSH | ata_cmd::FLUSH_EXT => {
                self.disk.flush()?;
                self.stats.flushes += 1;
                Ok(Success::default())
            }
            ata_cmd::IDENTIFY => self.identify(ata, room),
            ata_cmd::DSM if ata.feature_or_error & DSM_TRIM != 0 => self.trim(ata, data),
            ata_cmd::CHECK_POWER => {
                self.stats.power_checks += 1;
                // Active or idle.
                Ok(Success {
                    sectors: 0xff,
                    ..Success::default()
                })
            }
            _ => Err(ABORTED),
        }
    }

    #[inline]
    fn read(&mut self, ata: &AtaHeader, lba: u64, room: &mut [u8]) -> Result<Success, Failure> {
        self.check_count(ata)?;
        let out = room.get_mut(..ata.data_len()).ok_or(BAD_ARGUMENT)?;
        self.check_range(lba, u64::from(ata.sectors))?;
        self.disk.read(lba, out)?;
        self.stats.reads += 1;
        self.stats.sectors_read += u64::from(ata.sectors);
        Ok(Success {
            data_len: ata.data_len(),
            sectors: 0,
        })
    }

    #[inline]
    fn write(&mut self, ata: &AtaHeader, lba: u64, data: &[u8]) -> Result<Success, Failure> {
        self.check_count(ata)?;
        let data = data.get(..ata.data_len()).ok_or(BAD_ARGUMENT)?;
        self.check_writable()?;
        self.check_range(lba, u64::from(ata.sectors))?;
        self.disk.write(lba, data)?;
        self.stats.writes += 1;
        self.stats.sectors_written += u64::from(ata.sectors);
        Ok(Success::default())
    }

    fn trim(&mut self, ata: &AtaHeader, data: &[u8]) -> Result<Success, Failure> {
        if !self.disk.trim_supported() {
            return Err(ABORTED);
        }
        self.check_count(ata)?;
        let payload = data.get(..ata.data_len()).ok_or(BAD_ARGUMENT)?;
        self.check_writable()?;
        // All or nothing: a payload with one bad range trims none.
        for (lba, sectors) in parse_trim_ranges(payload) {
            self.check_range(lba, u64::from(sectors))?;
        }
        for (lba, sectors) in parse_trim_ranges(payload) {
            self.disk.trim(lba, u64::from(sectors))?;
        }
        self.stats.trims += 1;
        Ok(Success::default())
    }

    fn identify(&mut self, ata: &AtaHeader, room: &mut [u8]) -> Result<Success, Failure> {
        let out = room
            .first_chunk_mut::<SECTOR>()
            .filter(|_| ata.sectors == 1);
        let identify = Identify {
            lba48: true,
            sectors: self.capacity(),
            serial: ascii_field(&self.config.serial),
            firmware: ascii_field(&self.config.revision),
            model: ascii_field(&self.config.model),
            wwn: self.config.wwn,
            flush: true,
            flush_ext: true,
            write_cache: self.config.write_cache,
            trim: self.disk.trim_supported(),
            trim_zeroes: self.disk.trim_zeroes(),
            logical_sector: SECTOR as u32,
            physical_sector: self.config.physical_sector,
        };
        identify.emit(out.ok_or(BAD_ARGUMENT)?);
        self.stats.identifies += 1;
        Ok(Success {
            data_len: SECTOR,
            sectors: 0,
        })
    }

    /// A count of 0 would mean 256 sectors to a disk, and no frame carries those: refused rather
    /// than done for zero sectors, which is how vblade reads it.
    #[inline]
    fn check_count(&self, ata: &AtaHeader) -> Result<(), Failure> {
        let fits = (1..=self.config.max_sectors).contains(&ata.sectors);
        if fits { Ok(()) } else { Err(BAD_ARGUMENT) }
    }

    #[inline]
    fn check_range(&self, lba: u64, sectors: u64) -> Result<(), Failure> {
        // Both come from at most 48 bits each.
        let within = lba + sectors <= self.capacity();
        if within {
            Ok(())
        } else {
            Err(DiskError::PastEnd.into())
        }
    }

    #[inline]
    fn check_writable(&self) -> Result<(), Failure> {
        if self.disk.read_only() {
            Err(DiskError::Refused.into())
        } else {
            Ok(())
        }
    }

    /// Sectors that 48 bits can address.
    #[inline]
    fn capacity(&self) -> u64 {
        self.disk.sectors().min(LBA48_SECTORS - 1)
    }
}
