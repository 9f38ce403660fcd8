//! `aoe-perf run`: from options to a report.

use crate::buffers::IoBuffers;
use crate::cli::{RunArgs, Rw};
use crate::host::{self, HostArgs};
use crate::load::{Load, Plan, Tally};
use crate::progress::Progress;
use crate::region::{self, Range};
use crate::report::{self, Direction, Report, Verified};
use crate::rng::Rng;
use anyhow::{Context, Result, bail};
use aoe_engine::dpdk::{Device, DeviceConfig, DpdkPort, IovaMap};
use aoe_engine::{Clock, Engine, Port, TscClock};
use aoe_proto::initiator::{Config, LunId, LunState};
use std::sync::atomic::{AtomicBool, Ordering};

/// With `--all`: no new LUN for so long means that there are no more.
const SETTLED_NS: u64 = 500_000_000;
/// How long the driver may keep frames after the end of a run before that is said.
const SETTLE_NS: u64 = 500_000_000;
/// How long an engine waits before it stops a port whose ring keeps memory of callers'.
const DRAIN_NS: u64 = 2_000_000_000;

/// How a run ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// All I/O was good.
    Good,
    /// I/O failed.
    Errors,
    /// Data is not what was written.
    Mismatch,
}

impl Outcome {
    /// The exit code that says so.
    #[must_use]
    pub const fn exit_code(self) -> u8 {
        match self {
            Self::Good => 0,
            Self::Errors => 1,
            Self::Mismatch => 3,
        }
    }
}

/// Runs and prints the report.
///
/// # Errors
/// If the port or a LUN cannot be had, or a LUN goes away.
pub fn run(args: &RunArgs) -> Result<Outcome> {
    let stop = host::stop_flag()?;
    let (depth, block) = (args.depth as usize, args.bs.0 as u32);
    let memory_mb = args
        .host
        .memory_mb
        .saturating_add(IoBuffers::mib(depth, block) + 1);
    let eal = HostArgs {
        memory_mb,
        ..args.host.clone()
    }
    .start_eal(&args.port)?;
    let iova = IovaMap::new(eal);
    let buffers = IoBuffers::new(eal, &iova, depth, block)?;
    let config = DeviceConfig {
        slots: args.slots,
        copy_only: args.copy_only,
        ..args.host.device_config(&args.port)
    };
    let (device, port) = host::open_one(eal, &config, &iova)?;
    let mut engine = engine(args, port)?;
    let clock = TscClock::new();
    let luns = wait_for_luns(args, &mut engine, &clock, &stop)?;
    if luns.len() > depth {
        bail!(
            "--depth {depth}: there are {} LUNs, and each needs an I/O of its own",
            luns.len()
        );
    }
    let range = Range {
        offset: args.offset.0,
        size: args.size.map(|size| size.0),
        block: args.bs.0,
    };
    let regions = luns
        .iter()
        .map(|&lun| region::region(&engine, lun, range, args.verify));
    let regions = regions.collect::<Result<Vec<_>>>()?;
    let names = regions.iter().map(|r| r.addr.to_string()).collect();
    let mut load = Load::new(engine, clock, plan(args), regions, buffers);
    measure(args, &mut load, &stop)?;
    if !load.settle(SETTLE_NS) {
        tracing::info!("the driver still holds frames");
    }
    say(args, &device, names, &load)
}

fn engine(args: &RunArgs, port: DpdkPort) -> Result<Engine<DpdkPort>> {
    let config = Config {
        slots: args.slots,
        ios: args.depth,
        window_max: args.slots,
        seed: Rng::unpredictable_seed(),
        ..Config::default()
    };
    let mut engine =
        Engine::new(config, DRAIN_NS).with_context(|| format!("--slots {}", args.slots))?;
    engine.add_port(port, None)?;
    Ok(engine)
}

fn plan(args: &RunArgs) -> Plan {
    let seconds = args.time.or(if args.count.is_none() {
        Some(10.0)
    } else {
        None
    });
    Plan {
        read_percent: args.rw.read_percent(args.rwmix),
        random: args.rw.is_random(),
        depth: args.depth as usize,
        time_ns: seconds.map(|s| (s * 1e9) as u64),
        count: args.count,
        verify: args.verify,
        no_copy: args.no_copy,
        seed: args.seed.unwrap_or_else(Rng::unpredictable_seed),
    }
}

/// Turns until the LUNs are up; those named, or with `--all` whichever answer.
fn wait_for_luns<P: Port>(
    args: &RunArgs,
    engine: &mut Engine<P>,
    clock: &impl Clock,
    stop: &AtomicBool,
) -> Result<Vec<LunId>> {
    for &addr in &args.lun {
        engine
            .add_lun(addr)
            .with_context(|| format!("--lun {addr}: not the address of a LUN"))?;
    }
    let mut wanted: Vec<LunId> = args
        .lun
        .iter()
        .filter_map(|&a| engine.find_lun(a))
        .collect();
    wanted.sort_unstable();
    wanted.dedup();
    let start = clock.now();
    let (mut seen, mut changed) = (0, start);
    let up =
        |engine: &Engine<P>, id: LunId| engine.lun(id).is_some_and(|lun| lun.state == LunState::Up);
    while !stop.load(Ordering::Relaxed) {
        let now = clock.now();
        engine.turn(now);
        while engine.next_event().is_some() {}
        let over = now.since(start) as f64 > args.wait * 1e9;
        if args.all {
            let there: Vec<LunId> = engine
                .luns()
                .filter(|l| l.state == LunState::Up)
                .map(|l| l.id)
                .collect();
            if there.len() != seen {
                (seen, changed) = (there.len(), now);
            }
            if seen > 0 && (over || now.since(changed) > SETTLED_NS) {
                return Ok(there);
            }
        } else if wanted.iter().all(|&id| up(engine, id)) {
            return Ok(wanted);
        }
        if over {
            bail!("{}", what_is_there(args, engine));
        }
    }
    bail!("stopped while waiting for the LUNs")
}

/// Why the wait was in vain: which LUNs are missing, and what was seen instead.
fn what_is_there<P: Port>(args: &RunArgs, engine: &Engine<P>) -> String {
    let missing: Vec<String> = engine
        .luns()
        .filter(|l| l.state != LunState::Up && args.lun.contains(&l.addr))
        .map(|l| match l.state {
            LunState::Identifying => format!("{} (it answered, but IDENTIFY did not)", l.addr),
            _ => l.addr.to_string(),
        })
        .collect();
    let there: Vec<String> = engine
        .luns()
        .filter(|l| l.state == LunState::Up)
        .map(|l| format!("{} ({} sectors, {})", l.addr, l.sectors, l.mac))
        .collect();
    let received: u64 = engine.port_stats().map(|p| p.received).sum();
    let what = if args.all {
        "--all".to_owned()
    } else {
        format!("--lun {}", missing.join(", "))
    };
    let seen = if !there.is_empty() {
        format!("these LUNs are there: {}", there.join(", "))
    } else if received > 0 {
        let drops: Vec<String> = report::drops(engine)
            .iter()
            .map(|(why, n)| format!("{why} {n}"))
            .collect();
        format!(
            "{received} frames came, but none from a LUN ({})",
            drops.join(", ")
        )
    } else {
        "no frame came at all: is the cable, the switch port, the interface the right one?".into()
    };
    format!("{what}: not up after --wait {} seconds; {seen}", args.wait)
}

fn measure<P: Port>(args: &RunArgs, load: &mut Load<P, TscClock>, stop: &AtomicBool) -> Result<()> {
    let mut progress = Progress::new(plan(args).time_ns, args.count);
    load.run(stop, |ns, tally: &Tally| progress.tick(ns, tally))
        .context("a LUN takes no more I/O, so the load has stopped")?;
    progress.finish();
    if args.verify && args.rw != Rw::Read && args.rw != Rw::Randread {
        load.read_back(stop)
            .context("reading back what was written")?;
    }
    Ok(())
}

fn say<P: Port>(
    args: &RunArgs,
    device: &Device,
    luns: Vec<String>,
    load: &Load<P, TscClock>,
) -> Result<Outcome> {
    let (tally, engine) = (load.tally(), load.engine());
    let report = Report {
        port: args.port.clone(),
        driver: device.driver.clone(),
        luns,
        rw: args.rw.name(),
        block_bytes: args.bs.0,
        depth: args.depth as usize,
        seconds: tally.elapsed_ns as f64 / 1e9,
        read: Direction::new(&tally.read, tally.elapsed_ns),
        write: Direction::new(&tally.write, tally.elapsed_ns),
        errors: tally.errors,
        first_error: tally
            .first_error
            .map(|(op, lba, e)| format!("{op} of LBA {lba}: {e}")),
        verify: args.verify.then(|| Verified::new(tally)),
        frames: report::frames(engine),
        counters: report::counters(engine),
        drops: report::drops(engine),
    };
    if args.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        print!("{report}");
    }
    Ok(if tally.mismatches > 0 {
        Outcome::Mismatch
    } else if tally.errors > 0 {
        Outcome::Errors
    } else {
        Outcome::Good
    })
}
