//! `aoe-target`: options, the loop, what is said at the end.

use crate::disk::LabDisk;
use crate::host::{self, HostArgs};
use crate::lun_spec::LunSpec;
use crate::target::{LabStats, LabTarget};
use anyhow::{Context, Result, bail};
use aoe_engine::dpdk::{DeviceConfig, DpdkPort, Eal, IovaMap, rdtsc, tsc_hz};
use aoe_engine::{BURST, PoolStats};
use aoe_proto::target::{Target, TargetConfig, TargetStats};
use clap::Parser;
use serde::Serialize;
use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};

const EXAMPLES: &str = "\
Examples:
  Two LUNs in memory on a network interface (as root):
    aoe-target --port net_af_packet0,iface=eth1,framesz=9216,blocksz=36864,framecnt=1024 \\
        --lun e1.0=ram:1G --lun e1.1=ram:256M,trim --cpu 1

  A file, made at 10 GiB if it is not there, over shared memory without privileges:
    aoe-target --port net_memif0,role=server,socket=/tmp/m.sock,socket-abstract=no,bsize=9216 \\
        --lun e2.0=file:/var/tmp/disk.img,size=10G --huge never
    aoe-perf run --port net_memif0,role=client,socket=/tmp/m.sock,socket-abstract=no,bsize=9216 \\
        --huge never --cpu 1 --lun e2.0 --rw randread

  A NIC that is bound to vfio-pci:
    aoe-target --port 0000:01:00.0 --mtu 9000 --lun e1.0=ram:8G --memory-mb 512

It prints one line `aoe-target: ready, ...` once it serves (with --json to standard error), and stops
cleanly on SIGINT or SIGTERM. Exit codes: 0 stopped, 1 failed, 2 wrong usage.
A file is used with pread and pwrite, a system call for each command; FLUSH is fdatasync.";

/// A poll-mode AoE target for the lab: LUNs in memory or in files, on any DPDK port.
#[derive(Parser, Debug)]
#[command(name = "aoe-target", version, after_help = EXAMPLES, max_term_width = 100)]
pub struct TargetArgs {
    /// The port: a vdev string of DPDK's, or a PCI address.
    #[arg(long, value_name = "DEVICE", required_unless_present = "completions")]
    pub port: Option<String>,
    /// A LUN (repeatable): SHELF.SLOT=ram:SIZE or SHELF.SLOT=file:PATH; append `,ro` to refuse
    /// writes, `,trim` to offer TRIM, `,size=SIZE` to make or extend a file.
    #[arg(long, value_name = "SPEC", required_unless_present = "completions")]
    pub lun: Vec<LunSpec>,
    /// Commands that initiators may keep in flight to each LUN.
    #[arg(long, value_name = "N", default_value_t = 128)]
    pub buffer_count: u16,
    /// Most sectors in a frame; what the MTU holds if not given.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..))]
    pub max_sectors: Option<u8>,
    /// Options of the host.
    #[command(flatten)]
    pub host: HostArgs,
    /// Stop by itself after so many seconds.
    #[arg(long, value_name = "SECONDS")]
    pub time: Option<f64>,
    /// Print statistics as one JSON document at the end.
    #[arg(long)]
    pub json: bool,
    /// Tell everybody of the LUNs at the start.
    #[arg(
        long,
        value_name = "BOOL",
        default_value_t = true,
        default_missing_value = "true",
        num_args = 0..=1,
        action = clap::ArgAction::Set
    )]
    pub announce: bool,
    /// Print a completion script for a shell and exit.
    #[arg(long, value_name = "SHELL")]
    pub completions: Option<clap_complete::Shell>,
}

/// What is said at the end.
#[derive(Serialize)]
struct Report {
    seconds: f64,
    port: LabStats,
    frames: FrameReport,
    luns: Vec<LunReport>,
}

#[derive(Serialize)]
struct FrameReport {
    held: u32,
    held_max: u32,
    overflow_max: u32,
    looked_past: u64,
    nudges: u64,
    starved: u64,
    /// Frames that somebody wrote to after their release; counted with `--checks`.
    touched: u64,
}

#[derive(Serialize)]
struct LunReport {
    lun: String,
    sectors: u64,
    reads: u64,
    writes: u64,
    sectors_read: u64,
    sectors_written: u64,
    flushes: u64,
    trims: u64,
    identifies: u64,
    queries: u64,
    ata_failed: u64,
    refused: u64,
    ignored: u64,
}

/// Runs the program to its end.
///
/// # Errors
/// If a LUN, the EAL or the port cannot be had; the error names the option.
pub fn run(args: &TargetArgs) -> Result<()> {
    let device = args.port.as_deref().context("--port is missing")?;
    let stop = host::stop_flag()?;
    let mut disks = Vec::new();
    for spec in &args.lun {
        disks.push((spec, LabDisk::open(spec)?));
    }
    let eal = args.host.start_eal(device)?;
    let config = DeviceConfig {
        // Answers are written into whole frames: one for each descriptor and a few bursts.
        copy_only: true,
        slots: 8 * BURST as u32,
        header_overflow: 0,
        ..args.host.device_config(device)
    };
    let (opened, port) = host::open_one(eal, &config, &IovaMap::new(eal))?;
    let fit = host::max_sectors(opened.info.mtu);
    let max_sectors = args.max_sectors.unwrap_or(fit);
    if max_sectors > fit {
        bail!(
            "--max-sectors {max_sectors}: an MTU of {} holds {fit} at most",
            opened.info.mtu
        );
    }
    let mut target = LabTarget::new(port);
    for (spec, disk) in disks {
        let config = TargetConfig {
            buffer_count: args.buffer_count,
            max_sectors,
            ..TargetConfig::new(spec.addr)
        };
        if !target.add(config, disk) {
            bail!("--lun {}: there are two LUNs with this address", spec.addr);
        }
    }
    if args.announce {
        target.announce();
    }
    ready(&target, device, args.json)?;
    let cycles = poll(eal, &mut target, args.time, &stop);
    let seconds = cycles as f64 / tsc_hz().max(1) as f64;
    target.forget_unsent();
    say(&report(&target, seconds), args.json)
}

fn ready(target: &LabTarget<DpdkPort>, device: &str, json: bool) -> Result<()> {
    use aoe_engine::Port;
    let mac = target.port().info().mac;
    let luns = target.luns().len();
    let line = format!("aoe-target: ready, {luns} LUNs on {device} ({mac})");
    if json {
        // Standard output is for the document alone.
        return writeln!(std::io::stderr(), "{line}").context("standard error");
    }
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}")?;
    out.flush().context("standard output")
}

/// The loop. Returns how many cycles it ran.
fn poll(_eal: Eal, target: &mut LabTarget<DpdkPort>, time: Option<f64>, stop: &AtomicBool) -> u64 {
    let start = rdtsc();
    let most = time.map_or(u64::MAX, |seconds| (seconds * tsc_hz() as f64) as u64);
    while !stop.load(Ordering::Relaxed) && rdtsc().wrapping_sub(start) < most {
        // The clock and the flag are read once for many turns.
        for _ in 0..64 {
            target.turn();
        }
    }
    rdtsc().wrapping_sub(start)
}

fn report(target: &LabTarget<DpdkPort>, seconds: f64) -> Report {
    let PoolStats {
        held,
        held_max,
        overflow_max,
        looked_past,
        nudges,
        starved,
        ..
    } = target.pool_stats();
    let touched = target.port().touched();
    Report {
        seconds,
        port: target.stats(),
        frames: FrameReport {
            held,
            held_max,
            overflow_max,
            looked_past,
            nudges,
            starved,
            touched,
        },
        luns: target.luns().iter().map(lun_report).collect(),
    }
}

fn lun_report(lun: &Target<LabDisk>) -> LunReport {
    use aoe_proto::target::Disk;
    let s: &TargetStats = lun.stats();
    LunReport {
        lun: lun.config().addr.to_string(),
        sectors: lun.disk().sectors(),
        reads: s.reads,
        writes: s.writes,
        sectors_read: s.sectors_read,
        sectors_written: s.sectors_written,
        flushes: s.flushes,
        trims: s.trims,
        identifies: s.identifies,
        queries: s.queries,
        ata_failed: s.ata_failed,
        refused: s.refused,
        ignored: s.frames() - s.answered(),
    }
}

fn say(report: &Report, json: bool) -> Result<()> {
    let mut out = std::io::stdout().lock();
    if json {
        serde_json::to_writer_pretty(&mut out, report)?;
        writeln!(out)?;
        return Ok(());
    }
    let Report {
        seconds,
        port,
        frames,
        luns,
    } = report;
    writeln!(
        out,
        "aoe-target: {seconds:.1} s, {} frames received, {} sent; ring full {}, blocked {}, \
         frames held at most {}, overflow at most {}, starved {}, written to after release {}",
        port.received,
        port.transmitted,
        port.ring_full,
        port.blocked_turns,
        frames.held_max,
        frames.overflow_max,
        frames.starved,
        frames.touched,
    )?;
    for lun in luns {
        writeln!(
            out,
            "  {:<8} {} reads, {} writes, {} flushes, {} trims, {} failed, {} refused",
            lun.lun, lun.reads, lun.writes, lun.flushes, lun.trims, lun.ata_failed, lun.refused
        )?;
    }
    Ok(())
}
