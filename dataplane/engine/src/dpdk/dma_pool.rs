//! Blocks of DPDK memory that are lent out one by one and come back when they are dropped.

use super::dma::{DmaBuffer, IovaMap};
use super::eal::Eal;
use super::error::DpdkError;
use crate::mem::Sgl;
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, PoisonError};

/// A number of blocks of one size.
#[derive(Clone, Debug)]
pub struct DmaPool(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    memory: DmaBuffer,
    block: usize,
    free: Mutex<Vec<u32>>,
}

impl DmaPool {
    /// `count` blocks of `block` bytes each, registered so that devices may read them.
    ///
    /// # Errors
    /// If DPDK has not that much memory left.
    pub fn new(
        eal: Eal,
        block: usize,
        count: u32,
        what: &'static str,
        iova: &IovaMap,
    ) -> Result<Self, DpdkError> {
        let block = block.max(1).next_multiple_of(512);
        let memory = DmaBuffer::new(eal, block * count as usize, what)?;
        iova.register(&memory);
        let free = Mutex::new((0..count).rev().collect());
        Ok(Self(Arc::new(Inner {
            memory,
            block,
            free,
        })))
    }

    /// Bytes of a block.
    #[must_use]
    pub fn block(&self) -> usize {
        self.0.block
    }

    /// Blocks that are free now.
    #[must_use]
    pub fn free(&self) -> usize {
        self.0
            .free
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .len()
    }

    /// Takes a block, `None` while all are lent. Its content is whatever it was.
    #[must_use]
    pub fn take(&self) -> Option<DmaBlock> {
        let number = self
            .0
            .free
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pop()?;
        Some(DmaBlock {
            pool: self.0.clone(),
            number,
        })
    }
}

/// One block of a [`DmaPool`], which stays alive with it.
#[derive(Debug)]
pub struct DmaBlock {
    pool: Arc<Inner>,
    number: u32,
}

impl DmaBlock {
    #[inline]
    fn base(&self) -> NonNull<u8> {
        // SAFETY: numbers are below the count that the memory was allocated for.
        unsafe {
            self.pool
                .memory
                .as_ptr()
                .add(self.number as usize * self.pool.block)
        }
    }

    /// The bytes.
    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        // SAFETY: this block is ours alone until it is dropped.
        unsafe { std::slice::from_raw_parts(self.base().as_ptr(), self.pool.block) }
    }

    /// The bytes, to change.
    #[must_use]
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        // SAFETY: as above, and the reference is the only one.
        unsafe { std::slice::from_raw_parts_mut(self.base().as_ptr(), self.pool.block) }
    }

    /// The block as an I/O's memory. The engine keeps the block itself until the completion.
    pub(crate) fn sgl(&mut self) -> Sgl {
        let len = u32::try_from(self.pool.block).unwrap_or(u32::MAX);
        // SAFETY: whoever calls this keeps the block, and nobody can look at it in the meantime.
        unsafe { Sgl::one(self.base(), len) }
    }
}

impl Drop for DmaBlock {
    fn drop(&mut self) {
        self.pool
            .free
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(self.number);
    }
}
