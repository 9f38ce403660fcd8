//! ATA over Ethernet without a socket, a clock or a thread: the wire formats, and a target as a
//! function from request to response.
//!
//! [`wire`] parses frames into plain values and emits them again; [`target`] answers requests.
//! Nothing here panics, whatever the bytes.

#![forbid(unsafe_code)]

pub mod addr;
pub mod initiator;
pub mod target;
pub mod wire;

pub use addr::{Mac, ShelfSlot, Tag};
