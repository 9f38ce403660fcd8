//! A mempool of packet buffers that is freed with its owner.

use super::error::{DpdkError, last_error};
use std::ffi::CString;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};

/// Bytes of an mbuf's own header, in DPDK's ABI.
const MBUF: usize = size_of::<dpdk_sys::rte_mbuf>();

/// A mempool. Its buffers must all be back, or it leaks itself rather than free memory that a
/// driver may still use.
#[derive(Debug)]
pub(super) struct Mempool {
    raw: NonNull<dpdk_sys::rte_mempool>,
    count: u32,
}

// SAFETY: a mempool may be used from any thread; its caches are per lcore.
unsafe impl Send for Mempool {}
// SAFETY: as above.
unsafe impl Sync for Mempool {}

impl Mempool {
    /// `count` buffers with `room` bytes each, headroom included, and a cache of `cache` for each
    /// lcore.
    pub fn new(what: &str, count: u32, room: u32, cache: u32) -> Result<Self, DpdkError> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = CString::new(format!("aoe_{what}_{number}")).unwrap_or_default();
        let Ok(room) = u16::try_from(room) else {
            let reason = format!("an mbuf cannot have {room} bytes");
            return Err(DpdkError::Device {
                device: what.into(),
                step: "making a mempool",
                reason,
            });
        };
        // SAFETY: the name lives through the call; DPDK checks the rest.
        let raw =
            unsafe { dpdk_sys::rte_pktmbuf_pool_create(name.as_ptr(), count, cache, 0, room, -1) };
        match NonNull::new(raw) {
            Some(raw) => Ok(Self { raw, count }),
            None => Err(DpdkError::Device {
                device: what.into(),
                step: "making a mempool",
                reason: last_error(),
            }),
        }
    }

    /// Memory that such a pool takes, in bytes, rounded up generously.
    pub fn bytes(count: u32, room: u32) -> u64 {
        // Object header, mbuf, buffer, each aligned to cache lines; the ring of free ones.
        let object = 64 + MBUF + (room as usize).next_multiple_of(64);
        count as u64 * (object as u64 + 16) + 65_536
    }

    pub fn raw(&self) -> *mut dpdk_sys::rte_mempool {
        self.raw.as_ptr()
    }

    /// Buffers that are in the pool or its caches.
    pub fn available(&self) -> u32 {
        // SAFETY: the pool is alive.
        unsafe { dpdk_sys::rte_mempool_avail_count(self.raw.as_ptr()) }
    }

    /// Takes a buffer out.
    pub fn take(&self) -> Option<NonNull<dpdk_sys::rte_mbuf>> {
        // SAFETY: the pool is alive.
        NonNull::new(unsafe { dpdk_sys::aoe_pktmbuf_alloc(self.raw.as_ptr()) })
    }
}

impl Drop for Mempool {
    fn drop(&mut self) {
        let away = self.count - self.available().min(self.count);
        if away > 0 {
            tracing::warn!(
                away,
                "a driver still holds buffers of a mempool; its memory is not freed"
            );
            return;
        }
        // SAFETY: all buffers are back, so nobody uses its memory.
        unsafe { dpdk_sys::rte_mempool_free(self.raw.as_ptr()) };
    }
}
