//! Memory that devices can read, and the addresses by which they do.

use super::eal::Eal;
use super::error::DpdkError;
use std::ptr::NonNull;
use std::sync::{Arc, RwLock};

const PAGE: usize = 4096;

/// Zeroed memory of DPDK's own, aligned to 4 KiB.
#[derive(Debug)]
pub struct DmaBuffer {
    base: NonNull<u8>,
    len: usize,
}

// SAFETY: plain memory with one owner.
unsafe impl Send for DmaBuffer {}
// SAFETY: shared references only read.
unsafe impl Sync for DmaBuffer {}

impl DmaBuffer {
    /// Allocates `len` bytes for `what`.
    ///
    /// # Errors
    /// If DPDK has no such piece of memory left.
    pub fn new(_eal: Eal, len: usize, what: &'static str) -> Result<Self, DpdkError> {
        let len = len.max(1).next_multiple_of(PAGE);
        // SAFETY: the EAL is up; the type name may be null.
        let base = unsafe { dpdk_sys::rte_zmalloc(std::ptr::null(), len, PAGE as u32) };
        match NonNull::new(base.cast::<u8>()) {
            Some(base) => Ok(Self { base, len }),
            None => Err(DpdkError::Buffer { bytes: len, what }),
        }
    }

    /// First byte.
    #[must_use]
    pub fn as_ptr(&self) -> NonNull<u8> {
        self.base
    }

    /// Length in bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Never: there is at least a page.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The bytes.
    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        // SAFETY: our memory, for as long as we live.
        unsafe { std::slice::from_raw_parts(self.base.as_ptr(), self.len) }
    }

    /// The bytes, to change.
    #[must_use]
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        // SAFETY: our memory, and the reference is the only one.
        unsafe { std::slice::from_raw_parts_mut(self.base.as_ptr(), self.len) }
    }
}

impl Drop for DmaBuffer {
    fn drop(&mut self) {
        // SAFETY: allocated by `rte_zmalloc`, freed once.
        unsafe { dpdk_sys::rte_free(self.base.as_ptr().cast()) };
    }
}

/// A run of memory that is contiguous for the processor and for devices.
#[derive(Clone, Copy, Debug)]
struct Run {
    start: usize,
    end: usize,
    iova: u64,
}

/// Device addresses of registered memory. `rte_mem_virt2iova` opens a file on every call when
/// addresses are physical ones, so it is asked once, when memory is registered.
#[derive(Debug, Clone)]
pub struct IovaMap {
    iova_is_va: bool,
    runs: Arc<RwLock<Vec<Run>>>,
}

impl IovaMap {
    /// An empty map.
    #[must_use]
    pub fn new(eal: Eal) -> Self {
        Self {
            iova_is_va: eal.iova_is_va(),
            runs: Arc::default(),
        }
    }

    /// Registers memory that devices may read, page by page; runs end at discontinuities.
    pub fn register(&self, buffer: &DmaBuffer) {
        let base = buffer.base.as_ptr() as usize;
        let mut runs = self
            .runs
            .write()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        // Memory that was freed and allocated again may have moved for devices.
        runs.retain(|run| run.end <= base || run.start >= base + buffer.len);
        for start in (base..base + buffer.len).step_by(PAGE) {
            let iova = if self.iova_is_va {
                start as u64
            } else {
                // SAFETY: asks for the address of a page that we own.
                unsafe { dpdk_sys::rte_mem_virt2iova(start as *const _) }
            };
            if iova == dpdk_sys::AOE_BAD_IOVA {
                continue;
            }
            match runs.last_mut() {
                Some(run)
                    if run.end == start && run.iova + (run.end - run.start) as u64 == iova =>
                {
                    run.end += PAGE;
                }
                _ => runs.push(Run {
                    start,
                    end: start + PAGE,
                    iova,
                }),
            }
        }
        runs.sort_unstable_by_key(|run| run.start);
    }

    /// A copy for one core, to look addresses up in without a lock.
    pub(super) fn snapshot(&self) -> IovaLookup {
        let runs = self
            .runs
            .read()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        IovaLookup {
            runs: runs.clone().into_boxed_slice(),
            last: 0,
        }
    }
}

/// One core's copy of an [`IovaMap`].
#[derive(Debug, Default)]
pub(super) struct IovaLookup {
    runs: Box<[Run]>,
    last: usize,
}

impl IovaLookup {
    /// The device address of `len` bytes at `at`, if they are registered and in one run.
    #[inline]
    pub fn find(&mut self, at: NonNull<u8>, len: u32) -> Option<u64> {
        let (start, end) = (at.as_ptr() as usize, at.as_ptr() as usize + len as usize);
        let hit = |run: &Run| run.start <= start && end <= run.end;
        if !self.runs.get(self.last).is_some_and(hit) {
            self.last = self.runs.partition_point(|run| run.end <= start);
        }
        let run = self.runs.get(self.last).filter(|run| hit(run))?;
        Some(run.iova + (start - run.start) as u64)
    }
}
