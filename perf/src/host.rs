//! What both programs need of their host: options for the EAL and the device, and bringing both up.

use crate::size::SECTOR;
use anyhow::{Context, Result};
use aoe_engine::dpdk::{
    Device, DeviceConfig, DpdkPort, Eal, EalConfig, HugePages, IovaMap, is_pci_address,
};
use clap::{Args, ValueEnum};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// Bytes of AoE and ATA header, which the MTU counts.
const HEADERS_IN_MTU: u32 = 22;

/// `--huge`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, ValueEnum)]
pub enum Huge {
    /// Huge pages if enough of them are free, ordinary ones otherwise.
    #[default]
    Auto,
    /// Huge pages, or an error.
    Always,
    /// Ordinary pages: no privileges needed.
    Never,
}

/// Options of the EAL and the port.
#[derive(Args, Clone, Debug)]
pub struct HostArgs {
    /// Bytes after the Ethernet header; the interface's, or 9000, if not given.
    #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(u32).range(534..=65_000))]
    pub mtu: Option<u32>,
    /// CPU that the poll loop is pinned to. Two programs on one machine need two.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub cpu: usize,
    /// Memory for packet buffers, in MiB.
    #[arg(long, value_name = "MIB", default_value_t = 256)]
    pub memory_mb: u32,
    /// Whether that memory is in huge pages.
    #[arg(long, value_enum, default_value_t = Huge::Auto)]
    pub huge: Huge,
    /// Receive descriptors.
    #[arg(long, value_name = "N", default_value_t = 1024)]
    pub rx_desc: u16,
    /// Transmit descriptors.
    #[arg(long, value_name = "N", default_value_t = 1024)]
    pub tx_desc: u16,
    /// Overwrite released and received frames and check every mbuf: slow, finds misuse.
    #[arg(long)]
    pub checks: bool,
    /// A further argument for DPDK's environment (repeatable), such as --eal-arg=--iova-mode=va.
    #[arg(long, value_name = "ARG", allow_hyphen_values = true)]
    pub eal_arg: Vec<String>,
}

impl HostArgs {
    /// Starts the EAL on the calling thread, for `port`.
    ///
    /// # Errors
    /// If DPDK refuses; it has then printed why.
    pub fn start_eal(&self, port: &str) -> Result<Eal> {
        let huge_pages = match self.huge {
            Huge::Auto => HugePages::Auto,
            Huge::Always => HugePages::Always,
            Huge::Never => HugePages::Never,
        };
        let config = EalConfig {
            main_cpu: self.cpu,
            memory_mb: self.memory_mb,
            huge_pages,
            pci: is_pci_address(port),
            extra: self.eal_arg.clone(),
            ..EalConfig::default()
        };
        Eal::start(&config)
            .with_context(|| format!("--cpu {} --memory-mb {}", self.cpu, self.memory_mb))
    }

    /// The device as these options want it.
    #[must_use]
    pub fn device_config(&self, port: &str) -> DeviceConfig {
        DeviceConfig {
            mtu: self.mtu,
            rx_desc: self.rx_desc,
            tx_desc: self.tx_desc,
            checks: self.checks,
            ..DeviceConfig::new(port)
        }
    }
}

/// Opens a device that has one queue.
///
/// # Errors
/// If it cannot be opened; the error names it.
pub fn open_one(eal: Eal, config: &DeviceConfig, iova: &IovaMap) -> Result<(Device, DpdkPort)> {
    let (device, mut ports) = Device::open(eal, config, iova).context("--port")?;
    let port = ports.pop().context("the device came up without a queue")?;
    Ok((device, port))
}

/// Sectors that fit a frame of this MTU.
#[must_use]
pub fn max_sectors(mtu: u32) -> u8 {
    u8::try_from(mtu.saturating_sub(HEADERS_IN_MTU) / SECTOR as u32).unwrap_or(u8::MAX)
}

/// A flag that SIGINT and SIGTERM set; the second of them ends the process at once.
///
/// # Errors
/// If the handlers cannot be installed.
pub fn stop_flag() -> Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register_conditional_shutdown(signal, 130, stop.clone())
            .and_then(|_| signal_hook::flag::register(signal, stop.clone()))
            .context("installing a signal handler")?;
    }
    Ok(stop)
}

/// Log lines to stderr, warnings unless `RUST_LOG` says otherwise.
pub fn start_log() {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("warn"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .without_time()
        .init();
}

/// Prints an error with all its causes; the exit code for it.
#[must_use]
pub fn report_error(program: &str, error: &anyhow::Error) -> std::process::ExitCode {
    eprintln!("{program}: {error:#}");
    std::process::ExitCode::from(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sectors_of_a_frame() {
        assert_eq!(
            (max_sectors(1500), max_sectors(9000), max_sectors(534)),
            (2, 17, 1)
        );
    }
}
