//! The memory of the I/Os: one piece of DPDK memory for each I/O in flight.
//!
//! The only `unsafe` of this crate is here. An [`Sgl`] is the promise that nobody touches the
//! memory while the engine has it; this file keeps that promise by counting a piece as *lent* from
//! [`IoBuffers::lend`] to [`IoBuffers::give_back`] and refusing to look at it meanwhile.

use anyhow::{Context, Result};
use aoe_engine::Sgl;
use aoe_engine::dpdk::{DmaBuffer, Eal, IovaMap};
use std::ptr::NonNull;

/// Pieces of equal size.
#[derive(Debug)]
pub struct IoBuffers {
    /// `None` only while it is dropped.
    memory: Option<DmaBuffer>,
    each: usize,
    lent: Box<[bool]>,
}

impl IoBuffers {
    /// `count` pieces of `each` bytes, registered for devices. Before the device is opened.
    ///
    /// # Errors
    /// If DPDK has not so much memory.
    pub fn new(eal: Eal, iova: &IovaMap, count: usize, each: u32) -> Result<Self> {
        let memory = DmaBuffer::new(eal, count * each as usize, "I/O buffers")
            .context("--memory-mb is too small for --depth I/Os of --bs bytes")?;
        iova.register(&memory);
        let lent = vec![false; count].into_boxed_slice();
        Ok(Self {
            memory: Some(memory),
            each: each as usize,
            lent,
        })
    }

    /// Memory that they take, in MiB, rounded up.
    #[must_use]
    pub fn mib(count: usize, each: u32) -> u32 {
        (count as u64 * u64::from(each))
            .div_ceil(1 << 20)
            .min(u64::from(u32::MAX)) as u32
    }

    /// The start of a piece that is not lent.
    ///
    /// # Panics
    /// If it is lent.
    #[inline]
    fn piece(&self, i: usize) -> NonNull<u8> {
        assert!(!self.lent[i], "buffer {i} is lent");
        let memory = self.memory.as_ref().expect("present until drop");
        assert!((i + 1) * self.each <= memory.len());
        // SAFETY: within the allocation, by the line before.
        unsafe { memory.as_ptr().add(i * self.each) }
    }

    /// Lends the first `len` bytes of a piece to the engine, until [`Self::give_back`].
    ///
    /// # Panics
    /// If it is lent already, or too small.
    #[inline]
    pub fn lend(&mut self, i: usize, len: u32) -> Sgl {
        assert!(len as usize <= self.each);
        let base = self.piece(i);
        self.lent[i] = true;
        // SAFETY: the memory lives until `drop`, which leaks it while anything is lent, and no
        // reference to this piece is made until it is given back.
        unsafe { Sgl::one(base, len) }
    }

    /// The I/O of piece `i` has completed, or was not accepted.
    #[inline]
    pub fn give_back(&mut self, i: usize) {
        self.lent[i] = false;
    }

    /// The bytes of a piece.
    ///
    /// # Panics
    /// If it is lent.
    #[inline]
    #[must_use]
    pub fn bytes(&self, i: usize) -> &[u8] {
        // SAFETY: `piece` has checked bounds and that it is ours; the memory is initialised.
        unsafe { std::slice::from_raw_parts(self.piece(i).as_ptr(), self.each) }
    }

    /// The bytes of a piece, to change.
    ///
    /// # Panics
    /// If it is lent.
    #[inline]
    pub fn bytes_mut(&mut self, i: usize) -> &mut [u8] {
        // SAFETY: as above, and the borrow of `self` is the only one.
        unsafe { std::slice::from_raw_parts_mut(self.piece(i).as_ptr(), self.each) }
    }
}

impl Drop for IoBuffers {
    fn drop(&mut self) {
        if self.lent.contains(&true) {
            // The engine may still write to it.
            std::mem::forget(self.memory.take());
        }
    }
}
