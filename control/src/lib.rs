//! The AoE appliance: the daemon `aoed` with its configuration, polling cores, NBD exports and
//! control socket, and what its client `aoectl` needs.
//!
//! ```text
//! NBD client ──▶ nbd::session ──▶ Link::submissions ──▶ Core ──▶ Engine::turn
//!            ◀──              ◀── Client::replies  ◀──      ◀──
//! ```
//!
//! There is no `unsafe` in this crate.
#![forbid(unsafe_code)]

pub mod backend;
pub mod buffers;
pub mod client;
pub mod config;
pub mod core;
pub mod daemon;
pub mod nbd;
pub mod registry;
pub mod rpc;
pub mod views;
