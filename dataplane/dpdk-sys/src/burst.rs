//! `rte_eth_rx_burst` and `rte_eth_tx_burst`, as their C inline versions do it: an indirect call
//! through the port's table of fast-path functions.

use crate::generated::{rte_eth_fp_ops, rte_mbuf};
use std::sync::atomic::AtomicU16;

/// Receives up to `mbufs.len()` packets; the first `n` entries are then ours.
///
/// # Safety
/// `port` is a started port and `queue` one of its receive queues, used by this thread alone.
#[inline]
pub unsafe fn rx_burst(port: u16, queue: u16, mbufs: &mut [*mut rte_mbuf]) -> u16 {
    // SAFETY: the caller vouches for port and queue, for which the EAL filled this table;
    // it is written only while the port is stopped.
    unsafe {
        let ops = (&raw const rte_eth_fp_ops)
            .cast::<crate::rte_eth_fp_ops>()
            .add(usize::from(port));
        let queue = *(*ops).rxq.data.add(usize::from(queue));
        let count = mbufs.len().min(usize::from(u16::MAX)) as u16;
        match (*ops).rx_pkt_burst {
            Some(burst) => burst(queue, mbufs.as_mut_ptr(), count),
            None => 0,
        }
    }
}

/// Offers `mbufs` to the driver and returns how many it took; the rest is still the caller's.
/// An empty slice is a legal nudge: some drivers clean their ring in it.
///
/// # Safety
/// `port` is a started port and `queue` one of its transmit queues, used by this thread alone;
/// every mbuf is a valid chain.
#[inline]
pub unsafe fn tx_burst(port: u16, queue: u16, mbufs: &mut [*mut rte_mbuf]) -> u16 {
    // SAFETY: as in `rx_burst`.
    unsafe {
        let ops = (&raw const rte_eth_fp_ops)
            .cast::<crate::rte_eth_fp_ops>()
            .add(usize::from(port));
        let queue = *(*ops).txq.data.add(usize::from(queue));
        let count = mbufs.len().min(usize::from(u16::MAX)) as u16;
        match (*ops).tx_pkt_burst {
            Some(burst) => burst(queue, mbufs.as_mut_ptr(), count),
            None => 0,
        }
    }
}

/// The mbuf's reference count, which a driver on another core may be lowering right now.
///
/// # Safety
/// `mbuf` points to an mbuf of a living mempool.
#[inline]
pub unsafe fn refcnt<'a>(mbuf: *mut rte_mbuf) -> &'a AtomicU16 {
    // SAFETY: the field is an aligned u16 that DPDK itself accesses atomically.
    unsafe { AtomicU16::from_ptr(&raw mut (*mbuf).refcnt) }
}
