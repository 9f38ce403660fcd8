//! Device strings: what they name, and the DPDK port behind it.

use super::error::{DpdkError, strerror};
use std::ffi::CString;

/// The value of `name=value` in a vdev string.
pub(super) fn argument<'a>(device: &'a str, name: &str) -> Option<&'a str> {
    device
        .split(',')
        .skip(1)
        .find_map(|arg| arg.strip_prefix(name)?.strip_prefix('='))
}

/// The Linux interface that a vdev string names; for other drivers `iface` is something else.
pub(super) fn interface(device: &str) -> Option<&str> {
    let on_interface = ["net_af_packet", "net_af_xdp", "net_pcap"];
    argument(device, "iface").filter(|_| on_interface.iter().any(|name| device.starts_with(name)))
}

/// `0000:01:00.0` or `01:00.0`, perhaps with arguments.
#[must_use]
pub fn is_pci_address(device: &str) -> bool {
    let address = device.split(',').next().unwrap_or_default();
    address.contains(':') && address.contains('.') && !address.starts_with("port:")
}

/// The port of a device, and whether it had to be probed for that.
pub(super) fn find_port(device: &str) -> Result<(u16, bool), DpdkError> {
    let missing = |reason: String| DpdkError::NoDevice {
        device: device.into(),
        reason,
    };
    if let Some(number) = device.strip_prefix("port:") {
        let port = number.parse::<u16>().map_err(|e| missing(e.to_string()))?;
        // SAFETY: looks at a table.
        let there = unsafe { dpdk_sys::rte_eth_dev_is_valid_port(port) } != 0;
        return if there {
            Ok((port, false))
        } else {
            Err(missing("no port has this number".into()))
        };
    }
    let name = device.split(',').next().unwrap_or_default();
    if name.is_empty() {
        return Err(missing("the string is empty".into()));
    }
    let c_device = CString::new(device).map_err(|e| missing(e.to_string()))?;
    let c_name = CString::new(name).unwrap_or_default();
    let by_name = || {
        let mut port = 0;
        // SAFETY: the name lives through the call.
        let rc = unsafe { dpdk_sys::rte_eth_dev_get_port_by_name(c_name.as_ptr(), &raw mut port) };
        (rc == 0).then_some(port)
    };
    if let Some(port) = by_name() {
        return Ok((port, false));
    }
    // SAFETY: the string lives through the call.
    let rc = unsafe { dpdk_sys::rte_dev_probe(c_device.as_ptr()) };
    if rc != 0 {
        let hint = if is_pci_address(device) {
            "; is it bound to vfio-pci (`dpdk-devbind.py --status`), and eal.pci on?"
        } else {
            "; a vdev string is a driver's name, a number, and its arguments, such as \
             net_af_packet0,iface=eth1,framesz=9216,blocksz=36864,framecnt=1024"
        };
        return Err(missing(format!("{}{hint}", strerror(rc))));
    }
    by_name()
        .map(|port| (port, true))
        .ok_or_else(|| missing("it was probed, but brought no Ethernet port".into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_strings() {
        assert!(is_pci_address("0000:01:00.0") && is_pci_address("01:00.1,arg=1"));
        assert!(!is_pci_address("net_af_packet0,iface=a:b.c") && !is_pci_address("port:1"));
        assert_eq!(
            argument("net_af_packet0,iface=eth1,x=2", "iface"),
            Some("eth1")
        );
        assert_eq!(argument("net_ring0", "iface"), None);
        assert_eq!(interface("net_af_xdp0,iface=eth1"), Some("eth1"));
        assert_eq!(interface("net_vhost0,iface=/tmp/socket"), None);
    }
}
