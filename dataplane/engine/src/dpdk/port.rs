//! One queue pair of a DPDK device as a [`Port`].

use super::device::Inner;
use super::dma::{DmaBuffer, IovaLookup};
use super::drivers::{Driver, ZeroCopy};
use super::frames::FrameMemory;
use super::mempool::Mempool;
use crate::frame_pool::{FrameId, FrameStore};
use crate::port::{BURST, Frames, Port};
use aoe_proto::initiator::{HEADER_ROOM, PortInfo};
use dpdk_sys::rte_mbuf;
use std::ptr::{NonNull, null_mut};
use std::sync::{Arc, PoisonError};

/// Bytes of the zeroes that every port can send.
pub(super) const ZEROES: usize = 9216;
/// What received bytes are overwritten with before they are freed, when checks are on.
const POISON: u8 = 0xdf;

/// A received frame on its own, freed when it is dropped.
#[derive(Debug)]
pub struct RxFrame(NonNull<rte_mbuf>);

// SAFETY: an mbuf has one owner, and any thread may free it to its pool.
unsafe impl Send for RxFrame {}

impl Drop for RxFrame {
    fn drop(&mut self) {
        // SAFETY: received once, owned by this value alone.
        unsafe { dpdk_sys::aoe_pktmbuf_free(self.0.as_ptr()) };
    }
}

/// A queue pair of a started device. It is used by one thread at a time.
#[derive(Debug)]
pub struct DpdkPort {
    pub(super) queue: u16,
    pub(super) info: PortInfo,
    pub(super) driver: Driver,
    /// `None` only while it is dropped.
    pub(super) memory: Option<FrameMemory>,
    pub(super) rx_pool: Option<Mempool>,
    pub(super) zeroes: Arc<DmaBuffer>,
    pub(super) iova: IovaLookup,
    pub(super) checks: bool,
    /// `rte_eth_tx_done_cleanup` is worth calling.
    pub(super) cleanup: bool,
    pub(super) rx: [*mut rte_mbuf; BURST],
    pub(super) rx_count: usize,
    pub(super) tx: [*mut rte_mbuf; BURST],
    // Dropped last: the device is stopped and closed before the pools go.
    pub(super) device: Arc<Inner>,
}

// SAFETY: the pointers are mbufs that this value owns; DPDK lets a queue move between threads as
// long as one at a time uses it, and `&mut self` sees to that.
unsafe impl Send for DpdkPort {}

impl DpdkPort {
    /// The device's port number in DPDK.
    #[must_use]
    pub fn port_id(&self) -> u16 {
        self.device.port
    }

    /// What is known of its driver.
    #[must_use]
    pub fn driver(&self) -> &Driver {
        &self.driver
    }

    /// Frames that somebody wrote to after their release. Counted only with checks.
    #[must_use]
    pub fn touched(&self) -> u64 {
        self.memory.as_ref().map_or(0, |m| m.touched)
    }

    /// Buffers in the receive pool that no frame is in.
    #[must_use]
    pub fn rx_free(&self) -> u32 {
        self.rx_pool.as_ref().map_or(0, Mempool::available)
    }

    #[inline]
    fn memory(&self) -> &FrameMemory {
        self.memory.as_ref().expect("present until drop")
    }

    #[inline]
    fn memory_mut(&mut self) -> &mut FrameMemory {
        self.memory.as_mut().expect("present until drop")
    }

    /// The bytes of one segment.
    ///
    /// # Safety
    /// `mbuf` is a segment of a received frame that was not given back yet.
    #[inline]
    unsafe fn bytes<'a>(mbuf: *const rte_mbuf) -> &'a [u8] {
        // SAFETY: DPDK vouches for offset and length of what it received.
        unsafe {
            let data = (*mbuf)
                .buf_addr
                .cast::<u8>()
                .add(usize::from((*mbuf).data_off));
            std::slice::from_raw_parts(data, usize::from((*mbuf).data_len))
        }
    }

    /// Overwrites a received frame, so that whoever still looks at it is found out.
    fn poison(mbuf: *mut rte_mbuf) {
        let mut at = mbuf;
        while !at.is_null() {
            // SAFETY: a chain that we received. Only segments that are ours alone are touched: on
            // a ring of one process the peer keeps a reference to its own frames.
            unsafe {
                let mine = dpdk_sys::refcnt(at).load(std::sync::atomic::Ordering::Acquire) == 1;
                let external = (*at).ol_flags
                    & (dpdk_sys::AOE_MBUF_F_EXTERNAL | dpdk_sys::AOE_MBUF_F_INDIRECT);
                if mine && external == 0 {
                    let data = (*at).buf_addr.cast::<u8>().add(usize::from((*at).data_off));
                    std::ptr::write_bytes(data, POISON, usize::from((*at).data_len));
                }
                at = (*at).next;
            }
        }
    }
}

impl FrameStore for DpdkPort {
    #[inline]
    fn is_released(&self, frame: FrameId) -> bool {
        self.memory().is_released(frame)
    }

    #[inline]
    fn reset(&mut self, frame: FrameId) {
        self.memory_mut().reset(frame);
    }

    fn nudge(&mut self) {
        let (port, queue) = (self.device.port, self.queue);
        // SAFETY: the port is started and this queue is ours.
        unsafe {
            dpdk_sys::tx_burst(port, queue, &mut []);
            if self.cleanup {
                let rc = dpdk_sys::rte_eth_tx_done_cleanup(port, queue, 0);
                self.cleanup = rc != -libc::ENOTSUP && rc != -libc::ENODEV;
            }
        }
    }
}

impl Port for DpdkPort {
    type Rx = RxFrame;

    #[inline]
    fn info(&self) -> PortInfo {
        self.info
    }

    fn frames(&self) -> Frames {
        self.memory().sizes()
    }

    #[inline]
    fn zero_copy(&self) -> bool {
        self.driver.zero_copy != ZeroCopy::No
    }

    #[inline]
    fn header(&mut self, frame: FrameId, len: usize) -> &mut [u8; HEADER_ROOM] {
        let bytes = self.memory_mut().fill(frame, len.min(HEADER_ROOM));
        bytes
            .first_chunk_mut()
            .expect("a header frame has HEADER_ROOM bytes")
    }

    #[inline]
    fn attach(&mut self, frame: FrameId, bytes: NonNull<u8>, len: u32) -> bool {
        let iova = match self.driver.zero_copy {
            ZeroCopy::No => return false,
            ZeroCopy::Any => bytes.as_ptr() as u64,
            ZeroCopy::Registered => match self.iova.find(bytes, len) {
                Some(iova) => iova,
                None => return false,
            },
        };
        // SAFETY: the engine keeps the memory valid until the frame is released or has left the
        // ring; `iova` is its registered address, or one that this driver does not look at.
        unsafe { self.memory_mut().attach(frame, bytes, len, iova) }
    }

    fn attach_zeroes(&mut self, frame: FrameId, len: u32) -> bool {
        len as usize <= ZEROES && self.attach(frame, self.zeroes.as_ptr(), len)
    }

    #[inline]
    fn body(&mut self, frame: FrameId, len: usize) -> &mut [u8] {
        let bytes = self.memory_mut().fill(frame, len);
        let len = len.min(bytes.len());
        &mut bytes[..len]
    }

    #[inline]
    fn tx_burst(&mut self, frames: &[FrameId]) -> usize {
        let count = frames.len().min(BURST);
        for (i, &frame) in frames.iter().take(count).enumerate() {
            self.tx[i] = self.memory().mbuf(frame);
            if self.checks {
                self.memory().check(frame);
            }
        }
        // SAFETY: the port is started, this queue is ours, and the mbufs are valid chains.
        let taken =
            unsafe { dpdk_sys::tx_burst(self.device.port, self.queue, &mut self.tx[..count]) };
        usize::from(taken)
    }

    #[inline]
    fn rx_burst(&mut self) -> usize {
        self.rx_done();
        // SAFETY: the port is started and this queue is ours.
        let count = unsafe { dpdk_sys::rx_burst(self.device.port, self.queue, &mut self.rx) };
        self.rx_count = usize::from(count);
        self.rx_count
    }

    #[inline]
    fn rx_head(&self, i: usize) -> &[u8] {
        match self.rx[..self.rx_count].get(i) {
            // SAFETY: received in this burst and not given back.
            Some(&mbuf) if !mbuf.is_null() => unsafe { Self::bytes(mbuf) },
            _ => &[],
        }
    }

    #[inline]
    fn rx_len(&self, i: usize) -> usize {
        match self.rx[..self.rx_count].get(i) {
            // SAFETY: received in this burst and not given back.
            Some(&mbuf) if !mbuf.is_null() => unsafe { (*mbuf).pkt_len as usize },
            _ => 0,
        }
    }

    #[inline]
    fn rx_pieces(&self, i: usize, at: usize, len: usize, mut f: impl FnMut(usize, &[u8])) {
        let mut mbuf = self.rx[..self.rx_count]
            .get(i)
            .copied()
            .unwrap_or(null_mut());
        let (mut skip, mut done) = (at, 0);
        while !mbuf.is_null() && done < len {
            // SAFETY: a segment of a frame that was received in this burst and not given back.
            let bytes = unsafe { Self::bytes(mbuf) };
            if skip < bytes.len() {
                let n = (bytes.len() - skip).min(len - done);
                f(done, &bytes[skip..skip + n]);
                (done, skip) = (done + n, 0);
            } else {
                skip -= bytes.len();
            }
            // SAFETY: as above.
            mbuf = unsafe { (*mbuf).next };
        }
    }

    fn rx_take(&mut self, i: usize) -> Option<RxFrame> {
        let mbuf = self.rx[..self.rx_count].get_mut(i)?;
        // Freeing a burst passes over null.
        NonNull::new(std::mem::replace(mbuf, null_mut())).map(RxFrame)
    }

    fn rx_add(&mut self, frame: RxFrame) -> bool {
        let Some(place) = self.rx.get_mut(self.rx_count) else {
            return false;
        };
        *place = frame.0.as_ptr();
        std::mem::forget(frame);
        self.rx_count += 1;
        true
    }

    #[inline]
    fn rx_done(&mut self) {
        let count = std::mem::take(&mut self.rx_count);
        if count == 0 {
            return;
        }
        if self.checks {
            self.rx[..count].iter().for_each(|&mbuf| Self::poison(mbuf));
        }
        // SAFETY: each was received once and is given back once.
        unsafe { dpdk_sys::rte_pktmbuf_free_bulk(self.rx.as_mut_ptr(), count as u32) };
    }

    fn flush(&mut self) -> bool {
        if self.driver.copies {
            // Nothing is held; and af_packet does not come back from a stop.
            return true;
        }
        if !self.device.is_sole_queue() {
            // Other cores are using the device right now.
            return false;
        }
        self.rx_done();
        let device = self.device.clone();
        let _one = device
            .control
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        // SAFETY: this is the only queue, and nobody else uses it.
        unsafe {
            dpdk_sys::rte_eth_dev_stop(self.device.port);
            let started = dpdk_sys::rte_eth_dev_start(self.device.port);
            if started != 0 {
                tracing::error!(
                    port = self.device.port,
                    started,
                    "a port did not start again"
                );
            }
        }
        self.driver.releases_on_stop
    }
}

impl Drop for DpdkPort {
    fn drop(&mut self) {
        self.rx_done();
        // The driver may hold frames until the device is closed.
        self.device.bury(self.memory.take(), self.rx_pool.take());
    }
}
