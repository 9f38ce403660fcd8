//! What can go wrong between us and DPDK, in words that name the device and what to do.

use super::need::MemoryNeed;
use thiserror::Error;

/// Why something of DPDK's could not be had.
#[derive(Debug, Error)]
pub enum DpdkError {
    /// `rte_eal_init` failed.
    #[error(
        "DPDK's environment did not start ({reason}) with the arguments `{args}`; DPDK printed why above{hint}"
    )]
    Eal {
        /// `rte_strerror`.
        reason: String,
        /// What it was started with.
        args: String,
        /// What may help.
        hint: &'static str,
    },
    /// The CPU that the EAL is to run on is not there.
    #[error("CPU {cpu} is not among this process's CPUs {cpus}")]
    NoCpu {
        /// As asked for.
        cpu: usize,
        /// The CPUs that there are.
        cpus: String,
    },
    /// More memory than the machine has.
    #[error("{asked} MiB of memory are asked for, and the machine has {there} MiB")]
    TooMuch {
        /// MiB asked for.
        asked: u32,
        /// MiB of the machine.
        there: u64,
    },
    /// One EAL per process.
    #[error("DPDK's environment is already up in this process: attach to it instead")]
    EalTwice,
    /// Attached to an EAL that is not there.
    #[error("DPDK's environment is not up in this process")]
    NoEal,
    /// The device string or PCI address is not usable.
    #[error("port {device:?}: no such device: {reason}")]
    NoDevice {
        /// As configured.
        device: String,
        /// What DPDK said.
        reason: String,
    },
    /// The network interface of a vdev string does not exist.
    #[error("port {device:?}: there is no network interface {iface:?} here (`ip link` lists them)")]
    NoInterface {
        /// As configured.
        device: String,
        /// The interface in it.
        iface: String,
    },
    /// A step of bringing a device up failed.
    #[error("port {device:?}: {step} failed: {reason}")]
    Device {
        /// As configured.
        device: String,
        /// Which step.
        step: &'static str,
        /// `rte_strerror`.
        reason: String,
    },
    /// A setting that this device cannot have.
    #[error("port {device:?}: {what}")]
    Unfit {
        /// As configured.
        device: String,
        /// What does not fit.
        what: String,
    },
    /// Not enough memory for the pools.
    #[error("port {device:?}: its pools need {} MiB and {available} is there:\n{need}{hint}", .need.total_mib())]
    Memory {
        /// As configured.
        device: String,
        /// What is needed and for what.
        need: MemoryNeed,
        /// What DPDK still has.
        available: String,
        /// What to do.
        hint: &'static str,
    },
    /// Not enough DPDK memory for a buffer.
    #[error(
        "no {bytes} bytes of DPDK memory are left for {what}; give the EAL more (eal.memory_mb)"
    )]
    Buffer {
        /// How much was asked for.
        bytes: usize,
        /// What for.
        what: &'static str,
    },
    /// A thread could not be made known to DPDK.
    #[error("this thread cannot be registered with DPDK: {0}")]
    Thread(String),
}

/// DPDK's words for an error number, of either sign.
pub(super) fn strerror(code: i32) -> String {
    // SAFETY: returns a string of static or thread-local storage, never null.
    let text = unsafe { std::ffi::CStr::from_ptr(dpdk_sys::rte_strerror(code.abs())) };
    text.to_string_lossy().into_owned()
}

/// DPDK's words for `rte_errno`.
pub(super) fn last_error() -> String {
    // SAFETY: reads a thread-local.
    strerror(unsafe { dpdk_sys::aoe_errno() })
}
