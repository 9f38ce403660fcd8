//! `aoe-perf selftest`: initiator and target in one process and one thread, on two ports that are
//! joined by rings. No NIC, no huge pages, no privileges.

mod pair;
mod speed;
mod steps;

use crate::cli::SelftestArgs;
use crate::run::Outcome;
use anyhow::Result;
use aoe_engine::dpdk::{Eal, EalConfig, HugePages};
use pair::Pair;
use serde::Serialize;
use speed::Speed;

/// Memory for all pools and buffers.
const MEMORY_MB: u32 = 160;

/// What the self-test found.
#[derive(Serialize, Debug, Default)]
struct Findings {
    ok: bool,
    dpdk: String,
    steps: Vec<Step>,
    speed: Vec<Speed>,
}

#[derive(Serialize, Debug)]
struct Step {
    name: &'static str,
    ok: bool,
    detail: String,
}

/// Runs the self-test and prints what it found.
///
/// # Errors
/// If DPDK cannot be started at all.
pub fn run(args: &SelftestArgs) -> Result<Outcome> {
    let eal = Eal::start(&EalConfig {
        main_cpu: args.cpu,
        memory_mb: MEMORY_MB,
        huge_pages: HugePages::Never,
        ..EalConfig::default()
    })?;
    let mut findings = Findings {
        dpdk: eal.version(),
        ..Findings::default()
    };
    findings.ok = steps(eal, &mut findings.steps) && speeds(eal, args.time, &mut findings);
    if args.json {
        println!("{}", serde_json::to_string_pretty(&findings)?);
    } else {
        print(&findings);
    }
    Ok(if findings.ok {
        Outcome::Good
    } else {
        Outcome::Errors
    })
}

/// The checks, with poisoned frames. False at the first that fails.
fn steps(eal: Eal, found: &mut Vec<Step>) -> bool {
    let mut pair = match Pair::new(eal, "selftest_checks", true) {
        Ok(pair) => pair,
        Err(error) => return note(found, "ports", Err(error)),
    };
    steps::ALL
        .iter()
        .all(|(name, step)| note(found, name, step(&mut pair)))
}

fn note(found: &mut Vec<Step>, name: &'static str, result: Result<String>) -> bool {
    let ok = result.is_ok();
    let detail = result.unwrap_or_else(|error| format!("{error:#}"));
    found.push(Step { name, ok, detail });
    ok
}

fn speeds(eal: Eal, seconds: f64, findings: &mut Findings) -> bool {
    let result = Pair::new(eal, "selftest_speed", false).and_then(|mut pair| {
        steps::discovery(&mut pair)?;
        findings.speed = speed::measure(&mut pair, seconds)?;
        steps::whole(&mut pair)
    });
    note(&mut findings.steps, "speed, then pools", result)
}

fn print(findings: &Findings) {
    println!(
        "{}, initiator and target joined by rings, one thread",
        findings.dpdk
    );
    for Step { name, ok, detail } in &findings.steps {
        println!(
            "  {} {name:<20} {detail}",
            if *ok { "ok    " } else { "FAILED" }
        );
    }
    if !findings.speed.is_empty() {
        println!(
            "  {:<34} {:>12} {:>24}",
            "4 KiB, depth 32", "IOPS", "initiator's cycles/IO"
        );
    }
    for s in &findings.speed {
        println!(
            "  {:<34} {:>12.0} {:>24.0}",
            s.what, s.iops, s.initiator_cycles_per_io
        );
    }
    println!("selftest: {}", if findings.ok { "ok" } else { "FAILED" });
}
