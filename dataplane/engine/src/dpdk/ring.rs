//! Two DPDK ports in one process, joined by rings: a wire without a NIC and without privileges.

use super::eal::Eal;
use super::error::{DpdkError, last_error};
use std::ffi::CString;
use std::ptr::NonNull;

/// Makes a pair of `net_ring` devices whose rings hold `depth` frames each (rounded up to a power
/// of two); returns their port numbers. What one sends, the other receives: the very same mbufs.
///
/// # Errors
/// If DPDK has no memory or the name is taken.
pub fn ring_pair(_eal: Eal, name: &str, depth: u32) -> Result<(u16, u16), DpdkError> {
    let there = ring(&format!("{name}_ab"), depth)?;
    let back = ring(&format!("{name}_ba"), depth)?;
    let a = port(&format!("{name}_a"), back, there)?;
    let b = port(&format!("{name}_b"), there, back)?;
    Ok((a, b))
}

fn failed(name: &str, step: &'static str) -> DpdkError {
    DpdkError::Device {
        device: name.into(),
        step,
        reason: last_error(),
    }
}

fn ring(name: &str, depth: u32) -> Result<NonNull<dpdk_sys::rte_ring>, DpdkError> {
    let c_name = CString::new(name).unwrap_or_default();
    // SAFETY: the name lives through the call. The ring lives as long as the process.
    let raw = unsafe {
        dpdk_sys::rte_ring_create(c_name.as_ptr(), depth.max(2).next_power_of_two(), -1, 0)
    };
    NonNull::new(raw).ok_or_else(|| failed(name, "making a ring"))
}

fn port(
    name: &str,
    rx: NonNull<dpdk_sys::rte_ring>,
    tx: NonNull<dpdk_sys::rte_ring>,
) -> Result<u16, DpdkError> {
    let c_name = CString::new(name).unwrap_or_default();
    let (mut rx, mut tx) = ([rx.as_ptr()], [tx.as_ptr()]);
    // SAFETY: one ring each way, which live as long as the process; DPDK copies the arrays.
    let port = unsafe {
        dpdk_sys::rte_eth_from_rings(c_name.as_ptr(), rx.as_mut_ptr(), 1, tx.as_mut_ptr(), 1, 0)
    };
    u16::try_from(port).map_err(|_| failed(name, "making a ring device"))
}
