//! The AoE data plane: ports, the frame pool, and one [`Engine::turn`] for each core.
//!
//! ```text
//!            submit                              next_completion
//!               │                                       ▲
//! ┌─────────────▼───────────────────────────────────────┴─────────────┐
//! │ Engine::turn(now)                                                  │
//! │   rx_burst ─▶ match by tag ─▶ copy to the caller ─▶ complete       │
//! │   timers, probes                                                   │
//! │   cut the next command ─▶ take a frame ─▶ fill ─▶ tx_burst         │
//! │   reap what the driver has let go of                               │
//! └──────────┬───────────────────────────────────────────▲────────────┘
//!            ▼                                           │
//!        Port: DPDK queue pair, or a simulated network ──┘
//! ```
//!
//! The rule that everything stands on: **a frame that was offered to the driver is not touched
//! until the driver has let go of it, and a caller's memory is not handed back while a ring could
//! still read it.** [`frame_pool`] keeps the books, [`dpdk`] the references.
//!
//! `unsafe` is in [`mem`], [`netif`] and [`dpdk`] alone.

pub mod clock;
pub mod dpdk;
mod engine;
pub mod frame_pool;
mod handover;
pub mod mem;
pub mod netif;
pub mod port;
mod unit;

pub use clock::{Clock, TscClock};
pub use engine::{Completion, Engine, Request, Turn};
pub use frame_pool::{FrameId, FramePool, FrameStore, PoolSize, PoolStats};
pub use handover::Handover;
pub use mem::{Iovec, Sgl};
pub use port::{BURST, Frames, Port};
pub use unit::PortStats;
