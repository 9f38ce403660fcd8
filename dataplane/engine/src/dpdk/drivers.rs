//! What is known of each driver and cannot be asked of it, measured or read from its source.
//!
//! No driver says whether it can transmit external buffers; the ones that can't put garbage on the
//! wire or wedge their queue, silently. So: a table by driver name, and a copy for the rest.

/// Which memory of a caller's a driver can transmit in place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ZeroCopy {
    /// None: it is copied.
    No,
    /// Any: the driver reads it with the processor.
    Any,
    /// DPDK's own, and what is registered with it.
    Registered,
}

/// One row of the table.
#[derive(Clone, Copy, Debug)]
pub struct Driver {
    /// `driver_name`; `*` for drivers that are not in the table.
    pub name: &'static str,
    /// Which memory it can transmit in place.
    pub zero_copy: ZeroCopy,
    /// Takes frames of more than one segment.
    pub multi_seg: bool,
    /// Receives into one mbuf of at least this many bytes, whatever the MTU. 0: what the MTU asks.
    pub rx_room_min: u32,
    /// Rings that it fills with receive buffers for each queue.
    pub rx_rings: u32,
    /// Receive buffers that it takes for itself beyond its descriptors.
    pub rx_extra: u32,
    /// Copies frames inside `tx_burst`, and so never holds one.
    pub copies: bool,
    /// Lets go of all frames when it is stopped. Drivers that don't are never given memory of a
    /// caller's: there would be no way to get it back from a dead link.
    pub releases_on_stop: bool,
    /// The largest MTU in bytes that works, 0 if there is no limit of its own.
    pub mtu_max: u32,
}

/// A physical device, or one that we know nothing about: what DPDK's API promises, and no more.
const UNKNOWN: Driver = Driver {
    name: "*",
    zero_copy: ZeroCopy::No,
    multi_seg: false,
    rx_room_min: 0,
    rx_rings: 1,
    rx_extra: 0,
    copies: false,
    releases_on_stop: false,
    mtu_max: 0,
};

/// Frames are copied inside `tx_burst`, so nothing is ever held.
const COPIES: Driver = Driver {
    zero_copy: ZeroCopy::Any,
    multi_seg: true,
    copies: true,
    releases_on_stop: true,
    ..UNKNOWN
};

/// Frames are read by the device, and come back when the driver cleans its ring.
const DMA: Driver = Driver {
    zero_copy: ZeroCopy::Registered,
    multi_seg: true,
    releases_on_stop: true,
    ..UNKNOWN
};

const DRIVERS: &[Driver] = &[
    Driver {
        name: "net_af_packet",
        rx_room_min: 9216 + 128,
        ..COPIES
    },
    Driver {
        name: "net_pcap",
        ..COPIES
    },
    Driver {
        name: "net_vhost",
        ..COPIES
    },
    // Its zero-copy mode needs the other end to read our memory: see `Driver::find`.
    Driver {
        name: "net_memif",
        ..COPIES
    },
    // The peer frees the very same mbuf: the closest thing here to a driver that hangs on. A stop
    // changes nothing about that; the peer is in this process, so it is ours to see that it does.
    Driver {
        name: "net_ring",
        zero_copy: ZeroCopy::Any,
        multi_seg: true,
        ..UNKNOWN
    },
    Driver {
        name: "net_tap",
        mtu_max: 1500,
        ..COPIES
    },
    // External buffers go out as garbage, and so does a second segment.
    // It fills a ring of 4096 of its own.
    Driver {
        name: "net_af_xdp",
        mtu_max: 3498,
        rx_extra: 4096,
        ..UNKNOWN
    },
    // Lets go on close only, so a dead peer would keep a caller's memory for ever.
    Driver {
        name: "net_virtio_user",
        multi_seg: true,
        ..UNKNOWN
    },
    Driver {
        name: "net_e1000_em",
        ..DMA
    },
    Driver {
        name: "net_vmxnet3",
        rx_rings: 2,
        ..DMA
    },
    Driver {
        name: "net_virtio",
        ..DMA
    },
];

impl Driver {
    /// The row for a driver, by its name and the device's arguments.
    #[must_use]
    pub fn find(name: &str, device: &str) -> Self {
        let row = DRIVERS
            .iter()
            .copied()
            .find(|row| row.name == name)
            .unwrap_or(UNKNOWN);
        // The arguments of a port that somebody else made are not known.
        if name == "net_memif" && (device.contains("zero-copy=yes") || device.starts_with("port:"))
        {
            // The peer reads our memory in place, holds it at will, and a close leaks it.
            return Self {
                zero_copy: ZeroCopy::No,
                copies: false,
                releases_on_stop: false,
                ..row
            };
        }
        row
    }

    /// Whether anything is known of it.
    #[must_use]
    pub fn is_known(&self) -> bool {
        self.name != UNKNOWN.name
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_that_could_not_be_had_back_is_never_lent() {
        for row in DRIVERS {
            let peer_is_ours = row.name == "net_ring";
            let comes_back = row.releases_on_stop || peer_is_ours;
            assert!(comes_back || row.zero_copy == ZeroCopy::No, "{}", row.name);
        }
    }

    #[test]
    fn unknown_drivers_copy() {
        let row = Driver::find("net_new", "net_new0");
        assert!(!row.is_known() && row.zero_copy == ZeroCopy::No);
    }

    #[test]
    fn memif_lends_only_without_its_zero_copy_mode() {
        assert_eq!(
            Driver::find("net_memif", "net_memif0,role=client").zero_copy,
            ZeroCopy::Any
        );
        let zc = Driver::find("net_memif", "net_memif0,zero-copy=yes");
        assert_eq!(zc.zero_copy, ZeroCopy::No);
    }
}
