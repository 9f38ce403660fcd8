//! DPDK: bringing up the EAL and devices, and the [`Port`](crate::Port) over one queue pair.

mod device;
mod dma;
mod dma_pool;
mod drivers;
mod eal;
mod error;
mod frames;
mod mempool;
mod need;
mod port;
mod probe;
mod ring;

pub use device::{Device, DeviceConfig, DeviceStats, MTU_MAX, MTU_MIN};
pub use dma::{DmaBuffer, IovaMap};
pub use dma_pool::{DmaBlock, DmaPool};
pub use drivers::{Driver, ZeroCopy};
pub use eal::{Eal, EalConfig, HugePages, hugepages_free_mb};
pub use error::DpdkError;
pub use need::MemoryNeed;
pub use port::{DpdkPort, RxFrame};
pub use probe::is_pci_address;
pub use ring::ring_pair;

/// The time-stamp counter's frequency in Hz.
#[must_use]
pub fn tsc_hz() -> u64 {
    // SAFETY: reads a variable that the EAL set at its start, 0 before.
    unsafe { dpdk_sys::rte_get_tsc_hz() }
}

/// The time-stamp counter.
#[inline]
#[must_use]
pub fn rdtsc() -> u64 {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: every x86-64 processor has it.
    unsafe {
        core::arch::x86_64::_rdtsc()
    }
    #[cfg(not(target_arch = "x86_64"))]
    // SAFETY: DPDK's own reading of the counter, without side effects.
    unsafe {
        dpdk_sys::aoe_rdtsc()
    }
}
