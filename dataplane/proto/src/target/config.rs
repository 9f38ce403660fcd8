//! What a target is told at start.

use crate::addr::ShelfSlot;

/// What a target says of itself. Values are sent as they are, so that a test can say 0.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TargetConfig {
    /// The LUN's address, no wildcard in it.
    pub addr: ShelfSlot,
    /// Commands that the host queues for it, as told to initiators.
    pub buffer_count: u16,
    /// Most sectors in a frame: told to initiators, and more are refused with error 2.
    pub max_sectors: u8,
    /// Firmware version in query answers.
    pub firmware: u16,
    /// Serial number, at most 20 bytes of ASCII.
    pub serial: String,
    /// Model, at most 40 bytes of ASCII.
    pub model: String,
    /// Firmware revision in IDENTIFY, at most 8 bytes of ASCII.
    pub revision: String,
    /// World wide name.
    pub wwn: Option<u64>,
    /// Whether IDENTIFY says that a volatile write cache is on, so that FLUSH matters.
    pub write_cache: bool,
    /// Physical sector in bytes, a power of two from 512.
    pub physical_sector: u32,
}

impl TargetConfig {
    /// Defaults for an Ethernet MTU of 1500: 2 sectors a frame, 16 buffers as vblade has, a write
    /// cache that is on.
    pub fn new(addr: ShelfSlot) -> TargetConfig {
        TargetConfig {
            addr,
            buffer_count: 16,
            max_sectors: 2,
            firmware: 1,
            serial: format!("aoe-{}.{}", addr.shelf, addr.slot),
            model: "dpdk-aoe target".into(),
            revision: env!("CARGO_PKG_VERSION").into(),
            wwn: None,
            write_cache: true,
            physical_sector: 512,
        }
    }
}
