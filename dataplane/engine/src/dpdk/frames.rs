//! Transmit frames as mbufs that are ours for good.
//!
//! Each frame owns its mbufs for the whole life of the port and lends them to the driver with a
//! reference of the driver's own: the count is 2 when the frame is offered, and the driver's
//! "free" brings it back to 1 without giving the mbuf to its pool. A *header* frame is a small mbuf
//! and, for a caller's memory behind it, a second one without a buffer; a *full* frame is one mbuf
//! that a whole frame fits into.
//!
//! A driver may free the segments of a chain one by one while the head still points at the rest.
//! So a frame is released when *each* of its counts is 1, and the chain is never followed from
//! its head.

use super::error::DpdkError;
use super::mempool::Mempool;
use crate::frame_pool::FrameId;
use crate::port::Frames;
use aoe_proto::initiator::HEADER_ROOM;
use dpdk_sys::{rte_mbuf, rte_mbuf_ext_shared_info};
use std::ptr::{NonNull, null_mut};
use std::sync::atomic::Ordering;

/// What released bytes are overwritten with when checks are on.
const POISON: u8 = 0xdb;
const HEADROOM: u16 = dpdk_sys::RTE_PKTMBUF_HEADROOM as u16;

/// Room of a header frame's buffer in bytes.
pub(super) const HEADER_BUFFER: u32 = HEADROOM as u32 + HEADER_ROOM as u32;

#[derive(Debug)]
struct Frame {
    head: NonNull<rte_mbuf>,
    /// Behind a header frame; null for a full one.
    tail: *mut rte_mbuf,
    attached: bool,
}

/// The frames of one queue and the pools that their mbufs are from.
#[derive(Debug)]
pub(super) struct FrameMemory {
    frames: Box<[Frame]>,
    sizes: Frames,
    full_room: usize,
    /// Overwrite what is released, and look whether it still is when it is taken again.
    checks: bool,
    /// Frames that somebody wrote to after their release.
    pub touched: u64,
    /// What an external buffer's mbuf must point to. Nothing ever looks at it: our mbufs are not
    /// detached, since the driver's "free" never brings their count to 0.
    shared: Box<rte_mbuf_ext_shared_info>,
    // Dropped last: the mbufs go back before the pools go.
    _pools: [Mempool; 3],
}

// SAFETY: the mbufs are owned by this value; drivers touch only counts, atomically.
unsafe impl Send for FrameMemory {}

impl FrameMemory {
    /// Allocates all frames; `full_room` is the room of a full frame in bytes.
    pub fn new(sizes: Frames, full_room: u32, checks: bool) -> Result<Self, DpdkError> {
        let headers = sizes.header.base + sizes.header.overflow;
        let fulls = sizes.full.base + sizes.full.overflow;
        let header_pool = Mempool::new("header", headers, HEADER_BUFFER, 0)?;
        let tail_pool = Mempool::new("tail", headers, 0, 0)?;
        let full_pool = Mempool::new("full", fulls, full_room + u32::from(HEADROOM), 0)?;
        let missing = || DpdkError::Buffer {
            bytes: 0,
            what: "transmit frames",
        };
        let mut frames = Vec::with_capacity((headers + fulls) as usize);
        for _ in 0..headers {
            let head = header_pool.take().ok_or_else(missing)?;
            let tail = tail_pool.take().ok_or_else(missing)?.as_ptr();
            frames.push(Frame {
                head,
                tail,
                attached: false,
            });
        }
        for _ in 0..fulls {
            let head = full_pool.take().ok_or_else(missing)?;
            frames.push(Frame {
                head,
                tail: null_mut(),
                attached: false,
            });
        }
        let mut memory = Self {
            frames: frames.into_boxed_slice(),
            sizes,
            full_room: full_room as usize,
            checks,
            touched: 0,
            shared: Box::default(),
            _pools: [header_pool, tail_pool, full_pool],
        };
        for frame in 0..memory.frames.len() {
            memory.reset(FrameId(frame as u32));
        }
        Ok(memory)
    }

    pub fn sizes(&self) -> Frames {
        self.sizes
    }

    #[inline]
    fn frame(&self, id: FrameId) -> &Frame {
        &self.frames[id.0 as usize]
    }

    /// What to offer to the driver.
    #[inline]
    pub fn mbuf(&self, id: FrameId) -> *mut rte_mbuf {
        self.frame(id).head.as_ptr()
    }

    #[inline]
    pub fn is_released(&self, id: FrameId) -> bool {
        let frame = self.frame(id);
        // SAFETY: the mbufs are ours and alive. Acquire: what the driver did to them before it let
        // go has happened.
        unsafe {
            dpdk_sys::refcnt(frame.head.as_ptr()).load(Ordering::Acquire) == 1
                && (!frame.attached || dpdk_sys::refcnt(frame.tail).load(Ordering::Acquire) == 1)
        }
    }

    /// Undoes what filling and the driver did to a released frame.
    #[inline]
    pub fn reset(&mut self, id: FrameId) {
        let room = self.room(id);
        let frame = &mut self.frames[id.0 as usize];
        frame.attached = false;
        // SAFETY: the driver has let go of the frame, so its mbufs are ours alone.
        unsafe {
            let head = frame.head.as_mut();
            dpdk_sys::refcnt(head).store(1, Ordering::Relaxed);
            head.next = null_mut();
            head.nb_segs = 1;
            head.ol_flags = 0;
            head.data_off = HEADROOM;
            if let Some(tail) = frame.tail.as_mut() {
                dpdk_sys::refcnt(tail).store(1, Ordering::Relaxed);
                tail.next = null_mut();
            }
            if self.checks {
                let data = head.buf_addr.cast::<u8>().add(usize::from(HEADROOM));
                std::ptr::write_bytes(data, POISON, room);
            }
        }
    }

    #[inline]
    fn room(&self, id: FrameId) -> usize {
        if id.0 >= self.sizes.full.first {
            self.full_room
        } else {
            HEADER_ROOM
        }
    }

    /// The bytes of a released frame, of which `len` will be sent; the frame then counts as the
    /// driver's too.
    #[inline]
    pub fn fill(&mut self, id: FrameId, len: usize) -> &mut [u8] {
        let room = self.room(id);
        if len > room {
            return &mut [];
        }
        let frame = &mut self.frames[id.0 as usize];
        // SAFETY: the frame is released, so its mbuf is ours alone; its buffer has `room` bytes
        // behind the headroom.
        let bytes = unsafe {
            let head = frame.head.as_mut();
            head.data_len = len as u16;
            head.pkt_len = len as u32;
            dpdk_sys::refcnt(head).store(2, Ordering::Relaxed);
            let data = head.buf_addr.cast::<u8>().add(usize::from(HEADROOM));
            std::slice::from_raw_parts_mut(data, room)
        };
        if self.checks && bytes.iter().any(|&b| b != POISON) {
            self.touched += 1;
            tracing::error!(frame = id.0, "a released frame was written to");
        }
        bytes
    }

    /// Appends memory that is not ours to a filled header frame.
    ///
    /// # Safety
    /// The memory is valid for reads, by the processor and under `iova` by the device, until the
    /// frame is released or has left the ring.
    #[inline]
    pub unsafe fn attach(&mut self, id: FrameId, bytes: NonNull<u8>, len: u32, iova: u64) -> bool {
        let frame = &mut self.frames[id.0 as usize];
        let Ok(len16) = u16::try_from(len) else {
            return false;
        };
        // SAFETY: the frame is filled and not offered yet, so its mbufs are ours alone.
        unsafe {
            let Some(tail) = frame.tail.as_mut() else {
                return false;
            };
            tail.buf_addr = bytes.as_ptr().cast();
            tail.buf_iova = iova;
            tail.buf_len = len16;
            tail.data_off = 0;
            tail.data_len = len16;
            tail.pkt_len = len;
            tail.nb_segs = 1;
            tail.ol_flags = dpdk_sys::AOE_MBUF_F_EXTERNAL;
            tail.shinfo = &raw mut *self.shared;
            tail.next = null_mut();
            dpdk_sys::refcnt(tail).store(2, Ordering::Relaxed);
            let head = frame.head.as_mut();
            head.next = tail;
            head.nb_segs = 2;
            head.pkt_len += len;
        }
        frame.attached = true;
        true
    }

    /// DPDK's own checks of a filled frame, if checks are on.
    pub fn check(&self, id: FrameId) {
        if !self.checks {
            return;
        }
        let mut reason = std::ptr::null();
        // SAFETY: a filled frame is a valid chain of ours.
        let rc = unsafe { dpdk_sys::aoe_mbuf_check(self.mbuf(id), 1, &raw mut reason) };
        if rc != 0 {
            // SAFETY: DPDK sets the reason to a static string when it finds one.
            let why = unsafe { std::ffi::CStr::from_ptr(reason) };
            tracing::error!(frame = id.0, ?why, "DPDK's mbuf check failed");
        }
    }
}

impl Drop for FrameMemory {
    fn drop(&mut self) {
        for id in 0..self.frames.len() {
            let id = FrameId(id as u32);
            if !self.is_released(id) {
                // The driver still has it, even though its port is closed: the pool leaks itself.
                continue;
            }
            self.reset(id);
            let frame = &self.frames[id.0 as usize];
            // SAFETY: released and reset, each mbuf goes back to its pool once. A tail's buffer
            // fields are the pool's business only through `rte_pktmbuf_init`, at its creation.
            unsafe {
                dpdk_sys::aoe_pktmbuf_free(frame.head.as_ptr());
                if let Some(tail) = frame.tail.as_mut() {
                    tail.ol_flags = 0;
                    tail.nb_segs = 1;
                    dpdk_sys::aoe_pktmbuf_free(tail);
                }
            }
        }
    }
}
