//! Payload memory of the NBD exports: DPDK memory in two block sizes, so that small requests do not
//! use up what large ones need.

use crate::nbd;
use aoe_engine::dpdk::{DmaBlock, DmaPool, DpdkError, Eal, IovaMap};
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Bytes of a small block.
const SMALL: usize = 64 << 10;

/// The blocks of all exports.
#[derive(Clone, Debug)]
pub struct Buffers {
    small: Class,
    large: Class,
}

#[derive(Clone, Debug)]
struct Class {
    pool: DmaPool,
    free: Arc<Semaphore>,
}

impl Class {
    fn new(eal: Eal, block: usize, bytes: usize, iova: &IovaMap) -> Result<Self, DpdkError> {
        let count = (bytes / block).max(1) as u32;
        let pool = DmaPool::new(eal, block, count, "NBD payloads (pools.nbd_mb)", iova)?;
        Ok(Self {
            pool,
            free: Arc::new(Semaphore::new(count as usize)),
        })
    }
}

impl Buffers {
    /// Half of `bytes` in small blocks, half in blocks of `max_block` bytes.
    ///
    /// # Errors
    /// If DPDK has not that much memory.
    pub fn new(
        eal: Eal,
        bytes: usize,
        max_block: usize,
        iova: &IovaMap,
    ) -> Result<Self, DpdkError> {
        let half = bytes / 2;
        let small = Class::new(eal, SMALL.min(max_block), half, iova)?;
        let large = Class::new(eal, max_block, half, iova)?;
        Ok(Self { small, large })
    }

    /// Waits for a block and takes `len` bytes of it. That wait is the back-pressure on clients.
    pub async fn take(&self, len: usize) -> Result<Payload, nbd::NbdErrno> {
        let class = if len <= self.small.pool.block() {
            &self.small
        } else {
            &self.large
        };
        if len > class.pool.block() {
            return Err(nbd::NbdErrno::Inval);
        }
        let permit = class
            .free
            .clone()
            .acquire_owned()
            .await
            .map_err(|_| nbd::NbdErrno::NoMem)?;
        // A permit is given back only after its block.
        let block = class.pool.take().ok_or(nbd::NbdErrno::NoMem)?;
        Ok(Payload {
            block: Some(block),
            len,
            _permit: permit,
        })
    }
}

/// `len` bytes of a block. The block is away while the engine has it.
#[derive(Debug)]
pub struct Payload {
    block: Option<DmaBlock>,
    len: usize,
    _permit: OwnedSemaphorePermit,
}

impl Payload {
    /// Hands the block to the engine.
    pub fn lend(&mut self) -> Option<DmaBlock> {
        self.block.take()
    }

    /// Takes it back.
    pub fn restore(&mut self, block: Option<DmaBlock>) {
        self.block = block;
    }
}

impl nbd::Buffer for Payload {
    fn as_slice(&self) -> &[u8] {
        self.block
            .as_ref()
            .and_then(|b| b.as_slice().get(..self.len))
            .unwrap_or_default()
    }

    fn as_mut_slice(&mut self) -> &mut [u8] {
        self.block
            .as_mut()
            .and_then(|b| b.as_mut_slice().get_mut(..self.len))
            .unwrap_or_default()
    }
}
