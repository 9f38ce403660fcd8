//! Load and lab for AoE: a load generator, a poll-mode target, a self-test of both.
//!
//! ```text
//! aoe-perf run       cli ─▶ run ─▶ load (region, pattern, buffers) ─▶ report
//! aoe-target         serve ─▶ target ─▶ disk
//! aoe-perf selftest  load's parts and target, on two joined ports in one thread
//! ```
//!
//! `unsafe` is in [`buffers`] alone.

pub mod buffers;
pub mod cli;
pub mod disk;
pub mod host;
pub mod load;
pub mod lun_spec;
pub mod pattern;
pub mod progress;
pub mod region;
pub mod report;
pub mod rng;
pub mod run;
pub mod selftest;
pub mod serve;
pub mod size;
pub mod target;
