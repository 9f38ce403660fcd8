//! What the self-test checks, in order.

use super::pair::{BUFFERS, DISK, DISK_BYTES, Pair, READ_ONLY, READ_ONLY_BYTES};
use crate::pattern::{self, SECTOR, Stamp};
use crate::report;
use anyhow::{Result, bail, ensure};
use aoe_proto::initiator::{IoError, LunState, Op, SubmitError};
use aoe_proto::wire::{ata_error, ata_status};

/// A check; what it says if all is well.
type Check = fn(&mut Pair) -> Result<String>;

/// All checks.
pub const ALL: &[(&str, Check)] = &[
    ("discovery", discovery),
    ("identify", identify),
    ("writes and reads", mixed),
    ("flush", flush),
    ("trim", trim),
    ("past the end", past_the_end),
    ("read-only LUN", read_only),
    ("pools", whole),
];

/// Sectors of the I/Os of [`mixed`]: around frame, page and split sizes, up to 1 MiB.
const SIZES: &[u32] = &[
    1, 2, 3, 7, 8, 9, 16, 17, 18, 33, 64, 127, 255, 256, 1000, 2048,
];
const SEED: u64 = 0x5e1f_7e57;

/// Both LUNs come up.
pub fn discovery(pair: &mut Pair) -> Result<String> {
    pair.target.announce();
    pair.until("two LUNs", |pair| {
        pair.engine
            .luns()
            .filter(|lun| lun.state == LunState::Up)
            .count()
            == 2
    })?;
    let (a, b) = (pair.lun(DISK)?, pair.lun(READ_ONLY)?);
    Ok(format!("{} and {} at {}", a.addr, b.addr, a.mac))
}

fn identify(pair: &mut Pair) -> Result<String> {
    let lun = pair.lun(DISK)?;
    let Some(id) = lun.identify else {
        bail!("no IDENTIFY")
    };
    ensure!(lun.sectors == DISK_BYTES / 512, "{} sectors", lun.sectors);
    ensure!(
        id.lba48 && id.flush && id.trim && id.trim_zeroes,
        "capabilities are missing: {id:?}"
    );
    ensure!(
        lun.sectors_per_frame == 17,
        "{} sectors in a frame",
        lun.sectors_per_frame
    );
    ensure!(
        pair.lun(READ_ONLY)?.sectors == READ_ONLY_BYTES / 512,
        "the other LUN's size"
    );
    Ok(format!(
        "{}, {} sectors, 17 in a frame",
        id.model_str(),
        lun.sectors
    ))
}

/// Where the I/Os of [`mixed`] go: one behind the other from an odd LBA on, so that they start and
/// end at odd places and every neighbour's damage is seen.
fn places() -> Vec<(u64, u32)> {
    let mut lba = 1;
    let mut places = Vec::new();
    for &sectors in SIZES.iter().chain(SIZES) {
        places.push((lba, sectors));
        lba += u64::from(sectors);
    }
    places
}

fn stamp(lba: u64, generation: u32) -> Stamp {
    Stamp {
        seed: SEED,
        lun: DISK,
        lba,
        generation,
    }
}

/// Writes all places, reads them back, overwrites every third, reads all back.
fn mixed(pair: &mut Pair) -> Result<String> {
    let places = places();
    let all: Vec<_> = places.iter().map(|&place| (place, 1)).collect();
    transfer(pair, Op::Write, &all)?;
    transfer(pair, Op::Read, &all)?;
    let third: Vec<_> = places.iter().step_by(3).map(|&place| (place, 2)).collect();
    transfer(pair, Op::Write, &third)?;
    let mut now = all.clone();
    now.iter_mut()
        .step_by(3)
        .for_each(|(_, generation)| *generation = 2);
    transfer(pair, Op::Read, &now)?;
    let port = pair.engine.port_stats().next().unwrap_or_default();
    ensure!(port.zero_copy > 0, "no write was sent in place");
    let ios = 3 * all.len() + third.len();
    Ok(format!(
        "{ios} I/Os of 512 B to 1 MiB, {} frames in place",
        port.zero_copy
    ))
}

/// Writes or reads and checks all of `work`: places and generations. As many in flight as there are
/// buffers.
fn transfer(pair: &mut Pair, op: Op, work: &[((u64, u32), u32)]) -> Result<()> {
    let lun = pair.lun(DISK)?.id;
    for part in work.chunks(BUFFERS) {
        for (i, &((lba, sectors), generation)) in part.iter().enumerate() {
            let bytes = &mut pair.buffers.bytes_mut(i)[..sectors as usize * SECTOR];
            match op {
                Op::Write => pattern::fill(stamp(lba, generation), bytes),
                _ => bytes.fill(0xa5),
            }
            pair.submit(lun, op, (lba, sectors), i)?;
        }
        let (mut done, mut failed) = (0, None);
        pair.until("the I/Os", |pair| {
            while let Some(c) = pair.completion() {
                done += 1;
                failed = failed.or(c.result.err());
            }
            done == part.len()
        })?;
        ensure!(failed.is_none(), "{op:?} failed: {failed:?}");
        if op == Op::Read {
            for (i, &((lba, sectors), generation)) in part.iter().enumerate() {
                let bytes = &pair.buffers.bytes(i)[..sectors as usize * SECTOR];
                if let Err(mismatch) = pattern::check(stamp(lba, generation), bytes) {
                    bail!("{sectors} sectors: {mismatch}");
                }
            }
        }
    }
    Ok(())
}

fn flush(pair: &mut Pair) -> Result<String> {
    let lun = pair.lun(DISK)?.id;
    pair.one(lun, Op::Flush, (0, 0))??;
    let flushes: u64 = pair
        .target
        .luns()
        .iter()
        .map(|lun| lun.stats().flushes)
        .sum();
    ensure!(flushes == 1, "the target saw {flushes}");
    Ok("reached the target".into())
}

/// Trims a part of the largest place and finds zeroes there, and the old data around it.
fn trim(pair: &mut Pair) -> Result<String> {
    let lun = pair.lun(DISK)?.id;
    let Some(&(lba, sectors)) = places().last() else {
        bail!("no place")
    };
    let (from, count) = (lba + 5, 100);
    pair.one(lun, Op::Trim, (from, count))??;
    pair.one(lun, Op::Read, (lba, sectors))??;
    let bytes = &pair.buffers.bytes(0)[..sectors as usize * SECTOR];
    let (start, end) = (5 * SECTOR, (5 + count as usize) * SECTOR);
    ensure!(
        bytes[start..end].iter().all(|&b| b == 0),
        "trimmed sectors are not zeroes"
    );
    for (part, at) in [
        (&bytes[..start], lba),
        (&bytes[end..], from + u64::from(count)),
    ] {
        if let Err(mismatch) = pattern::check(stamp(at, 1), part) {
            bail!("next to what was trimmed: {mismatch}");
        }
    }
    Ok(format!(
        "{count} sectors read as zeroes, their neighbours are as they were"
    ))
}

/// Refused by the engine, which knows the size; the last sector is not.
fn past_the_end(pair: &mut Pair) -> Result<String> {
    let lun = pair.lun(DISK)?;
    for (lba, sectors) in [(lun.sectors, 1), (lun.sectors - 1, 2), (u64::MAX, 1)] {
        let result = pair.submit(lun.id, Op::Read, (lba, sectors), 0);
        ensure!(
            matches!(result, Err(SubmitError::OutOfRange { .. })),
            "{lba}+{sectors}: {result:?}"
        );
    }
    pair.one(lun.id, Op::Read, (lun.sectors - 1, 1))??;
    Ok("refused; the last sector is read".into())
}

fn read_only(pair: &mut Pair) -> Result<String> {
    let lun = pair.lun(READ_ONLY)?.id;
    pair.one(lun, Op::Read, (0, 64))??;
    match pair.one(lun, Op::Write, (0, 64))? {
        Err(IoError::Ata { status, error })
            if status & ata_status::ERR != 0 && error & ata_error::ABRT != 0 =>
        {
            Ok("a write is answered with ABRT".into())
        }
        other => bail!("a write to it ended with {other:?}"),
    }
}

/// Everything is back where it belongs, and nobody wrote to released frames.
pub fn whole(pair: &mut Pair) -> Result<String> {
    let full = |pair: &Pair| {
        let ours = pair.engine.port(0).map_or(0, |port| port.rx_free());
        [ours, pair.target.port().rx_free()] == pair.rx_free
    };
    pair.until("the frames back in their pools", |pair| {
        pair.engine.is_whole() && pair.target.is_whole() && full(pair)
    })?;
    let ours = pair.engine.port(0).map_or(0, |port| port.touched());
    let theirs = pair.target.port().touched();
    ensure!(
        ours == 0 && theirs == 0,
        "frames written to after release: {ours} and {theirs}"
    );
    let drops = report::drops(&pair.engine);
    ensure!(drops.is_empty(), "frames dropped: {drops:?}");
    let resends = pair.engine.counters().resends;
    Ok(format!("whole, nothing dropped, {resends} resends"))
}
