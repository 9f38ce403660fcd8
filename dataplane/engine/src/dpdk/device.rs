//! Bringing a device up: any driver, by PCI address, by vdev string, or by the number of a port
//! that is there already.

use super::dma::{DmaBuffer, IovaMap};
use super::drivers::Driver;
use super::eal::{Eal, hugepages_free_mb};
use super::error::{DpdkError, strerror};
use super::frames::{FrameMemory, HEADER_BUFFER};
use super::mempool::Mempool;
use super::need::MemoryNeed;
use super::port::{DpdkPort, ZEROES};
use super::probe::{argument, find_port, interface, is_pci_address};
use crate::frame_pool::PoolSize;
use crate::handover::INBOX;
use crate::port::{BURST, Frames};
use aoe_proto::Mac;
use aoe_proto::initiator::PortInfo;
use std::ffi::CStr;
use std::mem::MaybeUninit;
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, PoisonError};

/// Bytes of an Ethernet header with an 802.1Q tag.
const ETHERNET: u32 = 18;
/// Size of an lcore's cache of receive buffers; it keeps up to half as many more.
const RX_CACHE: u32 = 256;
const RX_CACHED: u32 = RX_CACHE + RX_CACHE / 2;

/// What a frame of the af_packet driver holds besides the MTU: its header, Ethernet, a VLAN tag.
const AF_PACKET_OVERHEAD: u32 = 32 + ETHERNET;

/// The least MTU in bytes: headers and one sector.
pub const MTU_MIN: u32 = 22 + 512;
/// The largest MTU in bytes that buffers are made for.
pub const MTU_MAX: u32 = 9216;

/// How to bring a device up.
#[derive(Clone, Debug)]
pub struct DeviceConfig {
    /// A PCI address (`0000:01:00.0`), a vdev string (`net_af_packet0,iface=eth1`), or
    /// `port:N` for a port that exists already.
    pub device: String,
    /// Bytes after the Ethernet header; `None` takes the interface's, or 9000 for a virtual device
    /// that has none.
    pub mtu: Option<u32>,
    /// 802.1Q tag control information to send with.
    pub vlan: Option<u16>,
    /// Queue pairs, one for each core.
    pub queues: u16,
    /// Receive descriptors of each queue.
    pub rx_desc: u16,
    /// Transmit descriptors of each queue.
    pub tx_desc: u16,
    /// Commands in flight on each core: that many frames may be filled at once.
    pub slots: u32,
    /// Header frames beyond the preallocated ones, at most.
    pub header_overflow: u32,
    /// Full frames for resends and copies, where payloads are sent in place.
    pub full_frames: u32,
    /// Full frames beyond the preallocated ones, at most.
    pub full_overflow: u32,
    /// Never send a caller's memory in place.
    pub copy_only: bool,
    /// Overwrite released and received frames, and check mbufs: slow.
    pub checks: bool,
}

impl DeviceConfig {
    /// The usual sizes.
    #[must_use]
    pub fn new(device: impl Into<String>) -> Self {
        Self {
            device: device.into(),
            mtu: None,
            vlan: None,
            queues: 1,
            rx_desc: 1024,
            tx_desc: 1024,
            slots: 1024,
            header_overflow: 256,
            full_frames: 256,
            full_overflow: 64,
            copy_only: false,
            checks: false,
        }
    }
}

/// A device's own counters.
#[derive(Clone, Copy, Debug, Default)]
pub struct DeviceStats {
    /// Frames received.
    pub rx_frames: u64,
    /// Frames sent.
    pub tx_frames: u64,
    /// Frames that were dropped because the receive ring was full.
    pub rx_missed: u64,
    /// Frames that were received with an error.
    pub rx_errors: u64,
    /// Frames that could not be sent.
    pub tx_errors: u64,
    /// Times that no receive buffer was left.
    pub rx_no_buffer: u64,
}

/// A started device. It is stopped and closed when the last of its ports is gone.
#[derive(Debug, Clone)]
pub struct Device {
    inner: Arc<Inner>,
    /// Name of its driver.
    pub driver: String,
    /// Addresses and sizes.
    pub info: PortInfo,
}

/// A device as its bus knows it.
#[derive(Debug, Clone, Copy)]
struct BusDevice(NonNull<dpdk_sys::rte_device>);

// SAFETY: it is only handed back to DPDK, once, when the device is closed.
unsafe impl Send for BusDevice {}
// SAFETY: as above.
unsafe impl Sync for BusDevice {}

/// What the ports of a device share.
#[derive(Debug)]
pub(super) struct Inner {
    pub port: u16,
    queues: u16,
    /// Frames and pools of ports that are gone, until the device is closed.
    grave: Mutex<Vec<(Option<FrameMemory>, Option<Mempool>)>>,
    /// The bus device, if it was probed for this.
    probed: Option<BusDevice>,
    /// DPDK's control functions want one caller at a time.
    pub control: Mutex<()>,
    /// What ports send when they send zeroes: a ring may read it until the device is closed.
    _zeroes: Arc<DmaBuffer>,
}

impl Inner {
    pub fn is_sole_queue(&self) -> bool {
        self.queues == 1
    }

    pub fn bury(&self, frames: Option<FrameMemory>, pool: Option<Mempool>) {
        self.grave
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push((frames, pool));
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // SAFETY: no port of ours uses the device any more. What is in the grave is freed
        // afterwards, when no driver can look at it.
        unsafe {
            dpdk_sys::rte_eth_dev_stop(self.port);
            dpdk_sys::rte_eth_dev_close(self.port);
            if let Some(device) = self.probed {
                // Plugged out as well, so that it can be opened once more.
                dpdk_sys::rte_dev_remove(device.0.as_ptr());
            }
        }
    }
}

impl Device {
    /// Brings a device up and returns it with a port for each of its queues.
    ///
    /// # Errors
    /// If there is no such device, it cannot do what is asked, or memory is short; the error names
    /// the device and says what to do.
    pub fn open(
        eal: Eal,
        config: &DeviceConfig,
        iova: &IovaMap,
    ) -> Result<(Self, Vec<DpdkPort>), DpdkError> {
        Opening::new(eal, config)?.open(iova)
    }

    /// The device's own counters.
    #[must_use]
    pub fn stats(&self) -> DeviceStats {
        let _one = self
            .inner
            .control
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let mut raw = dpdk_sys::rte_eth_stats::default();
        // SAFETY: the port exists; DPDK fills the structure.
        if unsafe { dpdk_sys::rte_eth_stats_get(self.inner.port, &raw mut raw) } != 0 {
            return DeviceStats::default();
        }
        DeviceStats {
            rx_frames: raw.ipackets,
            tx_frames: raw.opackets,
            rx_missed: raw.imissed,
            rx_errors: raw.ierrors,
            tx_errors: raw.oerrors,
            rx_no_buffer: raw.rx_nombuf,
        }
    }

    /// Whether the link is up, as far as the driver knows.
    #[must_use]
    pub fn link_is_up(&self) -> bool {
        let _one = self
            .inner
            .control
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let mut link = MaybeUninit::<dpdk_sys::rte_eth_link>::zeroed();
        // SAFETY: the port exists; DPDK fills the structure, of which zeroes are a valid value.
        let link = unsafe {
            dpdk_sys::rte_eth_link_get_nowait(self.inner.port, link.as_mut_ptr());
            link.assume_init()
        };
        link.link_status() != 0
    }
}

/// A device on its way up.
struct Opening<'a> {
    eal: Eal,
    config: &'a DeviceConfig,
    port: u16,
    probed: Option<BusDevice>,
    is_pci: bool,
    limits: dpdk_sys::rte_eth_dev_info,
    driver_name: String,
    driver: Driver,
    mtu: u32,
    /// Descriptors as the driver will make them, which may be more than were asked for.
    rx_desc: u16,
    tx_desc: u16,
}

impl<'a> Opening<'a> {
    fn new(eal: Eal, config: &'a DeviceConfig) -> Result<Self, DpdkError> {
        let device = config.device.as_str();
        let interface_mtu = match interface(device) {
            Some(iface) => {
                Some(
                    crate::netif::mtu(iface).ok_or_else(|| DpdkError::NoInterface {
                        device: device.into(),
                        iface: iface.into(),
                    })?,
                )
            }
            None => None,
        };
        let (port, probed) = find_port(device)?;
        let mut limits = MaybeUninit::<dpdk_sys::rte_eth_dev_info>::zeroed();
        // SAFETY: the port exists; DPDK fills the structure, of which zeroes are a valid value.
        let (rc, limits) = unsafe {
            let rc = dpdk_sys::rte_eth_dev_info_get(port, limits.as_mut_ptr());
            (rc, limits.assume_init())
        };
        check(device, "reading the device's limits", rc)?;
        let driver_name = if limits.driver_name.is_null() {
            String::new()
        } else {
            // SAFETY: a static string of the driver's.
            unsafe { CStr::from_ptr(limits.driver_name) }
                .to_string_lossy()
                .into_owned()
        };
        let mut driver = Driver::find(&driver_name, device);
        driver.multi_seg |= limits.tx_offload_capa & dpdk_sys::AOE_TX_OFFLOAD_MULTI_SEGS != 0;
        // To get memory back from a dead link, the device has to be stopped, and other cores may be
        // using it.
        let stoppable = driver.copies || config.queues <= 1;
        if config.copy_only || !driver.multi_seg || !stoppable {
            driver.zero_copy = super::ZeroCopy::No;
        }
        let (mut rx_desc, mut tx_desc) = (config.rx_desc, config.tx_desc);
        // SAFETY: the port exists; DPDK changes the two numbers.
        let rc = unsafe {
            dpdk_sys::rte_eth_dev_adjust_nb_rx_tx_desc(port, &raw mut rx_desc, &raw mut tx_desc)
        };
        check(device, "adjusting the ring sizes", rc)?;
        let is_pci = is_pci_address(device);
        let default = if is_pci { 1500 } else { 9000 };
        if device.starts_with("net_af_packet") {
            // Longer frames are dropped and count as sent.
            let framesz = argument(device, "framesz")
                .and_then(|n| n.parse().ok())
                .unwrap_or(2048);
            driver.mtu_max = u32::saturating_sub(framesz, AF_PACKET_OVERHEAD);
            if config
                .mtu
                .or(interface_mtu)
                .is_some_and(|mtu| mtu > driver.mtu_max)
            {
                tracing::warn!(
                    device,
                    framesz,
                    mtu = driver.mtu_max,
                    "frames are smaller than the interface's MTU because of framesz; 9216 holds \
                     9000 bytes (with blocksz=36864)"
                );
            }
        }
        let driver_max = if driver.mtu_max == 0 {
            u32::MAX
        } else {
            driver.mtu_max
        };
        let there = interface_mtu
            .unwrap_or(default)
            .min(driver_max)
            .min(MTU_MAX);
        let mtu = config.mtu.unwrap_or(there);
        let unfit = |what| {
            Err(DpdkError::Unfit {
                device: device.into(),
                what,
            })
        };
        let (queues, there) = (
            config.queues,
            limits.max_rx_queues.min(limits.max_tx_queues),
        );
        if queues == 0 || queues > there {
            return unfit(format!(
                "{queues} queue pairs asked for, and the device has {there}"
            ));
        }
        if mtu < MTU_MIN {
            return unfit(format!(
                "an MTU of {mtu} has no room for a sector: {MTU_MIN} is the least"
            ));
        }
        let most = interface_mtu
            .unwrap_or(MTU_MAX)
            .min(driver_max)
            .min(MTU_MAX);
        if mtu > most {
            return unfit(format!("an MTU of {mtu} is more than the device's {most}"));
        }
        Ok(Self {
            eal,
            config,
            port,
            probed: probed
                .then_some(NonNull::new(limits.device).map(BusDevice))
                .flatten(),
            is_pci,
            limits,
            driver_name,
            driver,
            mtu,
            rx_desc,
            tx_desc,
        })
    }

    fn open(self, iova: &IovaMap) -> Result<(Device, Vec<DpdkPort>), DpdkError> {
        // Dropped after `inner`: the device is closed before its frames and pools go.
        let mut parts = Vec::new();
        let (frame_sizes, rx_count, need) = self.sizes();
        self.check_memory(&need)?;
        let device = &self.config.device;
        let zeroes = Arc::new(DmaBuffer::new(self.eal, ZEROES, "zeroes")?);
        iova.register(&zeroes);
        self.configure()?;
        // From here on the device is closed again if anything fails.
        let inner = Arc::new(Inner {
            port: self.port,
            queues: self.config.queues,
            grave: Mutex::default(),
            probed: self.probed,
            control: Mutex::default(),
            _zeroes: zeroes.clone(),
        });
        for queue in 0..self.config.queues {
            let rx_pool = Mempool::new("rx", rx_count, self.rx_room(), RX_CACHE)?;
            let memory = FrameMemory::new(frame_sizes, self.frame_room(), self.config.checks)?;
            self.setup_queue(queue, &rx_pool)?;
            parts.push((queue, memory, rx_pool));
        }
        // SAFETY: the port is configured and its queues are set up.
        check(device, "starting", unsafe {
            dpdk_sys::rte_eth_dev_start(self.port)
        })?;
        let info = PortInfo {
            mac: self.mac()?,
            mtu: self.mtu,
            vlan: self.config.vlan,
        };
        let ports = parts.into_iter().map(|(queue, memory, rx_pool)| DpdkPort {
            queue,
            info,
            driver: self.driver,
            memory: Some(memory),
            rx_pool: Some(rx_pool),
            zeroes: zeroes.clone(),
            iova: iova.snapshot(),
            checks: self.config.checks,
            cleanup: true,
            rx: [std::ptr::null_mut(); BURST],
            rx_count: 0,
            tx: [std::ptr::null_mut(); BURST],
            device: inner.clone(),
        });
        let ports = ports.collect();
        Ok((
            Device {
                inner,
                driver: self.driver_name.clone(),
                info,
            },
            ports,
        ))
    }

    /// Room for one frame, in bytes, without headroom.
    fn frame_room(&self) -> u32 {
        (self.mtu + ETHERNET).next_multiple_of(64)
    }

    fn rx_room(&self) -> u32 {
        let headroom = dpdk_sys::RTE_PKTMBUF_HEADROOM;
        (self.frame_room() + headroom)
            .max(2048 + headroom)
            .max(self.driver.rx_room_min)
    }

    /// Every pool's size, as a sum over all who may hold one of its buffers.
    fn sizes(&self) -> (Frames, u32, MemoryNeed) {
        let c = self.config;
        let (tx_ring, rx_ring, burst) = (
            u32::from(self.tx_desc),
            u32::from(self.rx_desc),
            BURST as u32,
        );
        let others = u32::from(c.queues.saturating_sub(1));
        // Frames of one kind may fill the whole ring; a driver that frees a frame only when its
        // descriptor is used again would otherwise wait for us and we for it.
        let ring = if self.driver.copies { 0 } else { tx_ring };
        let mut need = MemoryNeed::default();
        let headers = [
            ("slots", c.slots),
            ("transmit ring", ring),
            ("burst", burst),
            ("overflow cap", c.header_overflow),
        ];
        let header_count = need.add("header frames", c.queues, HEADER_BUFFER, &headers);
        need.add("payload mbufs", c.queues, 0, &headers);
        let copies = self.driver.zero_copy == super::ZeroCopy::No;
        let fulls = [
            ("slots", if copies { c.slots } else { 0 }),
            ("resends and copies", if copies { 0 } else { c.full_frames }),
            ("transmit ring", ring),
            ("burst", burst),
            ("overflow cap", c.full_overflow),
        ];
        let full_room = self.frame_room() + dpdk_sys::RTE_PKTMBUF_HEADROOM;
        let full_count = need.add("full frames", c.queues, full_room, &fulls);
        let rx = [
            ("receive ring", rx_ring * self.driver.rx_rings),
            ("driver", self.driver.rx_extra),
            ("bursts", 4 * burst),
            ("cache", RX_CACHED),
            ("other cores' caches", others * RX_CACHED),
            ("other cores' inboxes", others * INBOX as u32),
        ];
        let rx = need.add("receive mbufs", c.queues, self.rx_room(), &rx);
        let size = |first, count, overflow| PoolSize {
            first,
            base: count - overflow,
            overflow,
        };
        let frames = Frames {
            header: size(0, header_count, c.header_overflow),
            full: size(header_count, full_count, c.full_overflow),
        };
        (frames, rx, need)
    }

    fn check_memory(&self, need: &MemoryNeed) -> Result<(), DpdkError> {
        // SAFETY: the EAL is up.
        let sockets = unsafe { dpdk_sys::rte_socket_count() };
        let free = |socket: u32| {
            let mut stats = MaybeUninit::<dpdk_sys::rte_malloc_socket_stats>::zeroed();
            // SAFETY: DPDK fills the structure, of which zeroes are a valid value.
            unsafe {
                dpdk_sys::rte_malloc_get_socket_stats(socket as i32, stats.as_mut_ptr());
                stats.assume_init().heap_freesz_bytes as u64
            }
        };
        let heap: u64 = (0..sockets.max(1)).map(free).sum();
        let huge = if self.eal.has_hugepages() {
            hugepages_free_mb() << 20
        } else {
            0
        };
        if need.total() <= heap + huge {
            return Ok(());
        }
        Err(DpdkError::Memory {
            device: self.config.device.clone(),
            need: need.clone(),
            available: format!("{} MiB", (heap + huge) >> 20),
            hint: "raise eal.memory_mb, or lower engine.slots, or the port's rx_desc, tx_desc or mtu",
        })
    }

    fn configure(&self) -> Result<(), DpdkError> {
        let (name, queues) = (&self.config.device, self.config.queues);
        let mut conf = MaybeUninit::<dpdk_sys::rte_eth_conf>::zeroed();
        // SAFETY: zeroes are a valid configuration.
        let conf = unsafe {
            let conf = conf.assume_init_mut();
            // No FAST_FREE: it ignores the references that we keep.
            conf.txmode.offloads =
                self.limits.tx_offload_capa & dpdk_sys::AOE_TX_OFFLOAD_MULTI_SEGS;
            conf.rxmode.offloads = self.limits.rx_offload_capa & dpdk_sys::AOE_RX_OFFLOAD_SCATTER;
            // Virtual devices refuse a jumbo MTU here although they carry such frames.
            conf.rxmode.mtu = if self.is_pci { self.mtu } else { 0 };
            conf
        };
        // SAFETY: the port exists and is not started.
        let rc = unsafe { dpdk_sys::rte_eth_dev_configure(self.port, queues, queues, conf) };
        check(name, "configuring", rc)
    }

    fn setup_queue(&self, queue: u16, rx_pool: &Mempool) -> Result<(), DpdkError> {
        let (name, port) = (&self.config.device, self.port);
        let (rx, tx) = (self.rx_desc, self.tx_desc);
        // SAFETY: the port is configured and not started; the pool outlives it in `Inner`.
        unsafe {
            let mut tx_conf = self.limits.default_txconf;
            tx_conf.offloads = self.limits.tx_offload_capa & dpdk_sys::AOE_TX_OFFLOAD_MULTI_SEGS;
            let rc = dpdk_sys::rte_eth_tx_queue_setup(port, queue, tx, 0, &raw const tx_conf);
            check(name, "setting a transmit queue up", rc)?;
            let mut rx_conf = self.limits.default_rxconf;
            rx_conf.offloads = self.limits.rx_offload_capa & dpdk_sys::AOE_RX_OFFLOAD_SCATTER;
            let rc = dpdk_sys::rte_eth_rx_queue_setup(
                port,
                queue,
                rx,
                0,
                &raw const rx_conf,
                rx_pool.raw(),
            );
            check(name, "setting a receive queue up", rc)
        }
    }

    /// The device's address; a device without one gets a local one.
    fn mac(&self) -> Result<Mac, DpdkError> {
        let mut raw = dpdk_sys::rte_ether_addr::default();
        // SAFETY: the port exists; DPDK fills the structure.
        let rc = unsafe { dpdk_sys::rte_eth_macaddr_get(self.port, &raw mut raw) };
        check(&self.config.device, "reading its address", rc)?;
        if raw.addr_bytes == [0; 6] {
            let [high, low] = self.port.to_be_bytes();
            raw.addr_bytes = [0x02, 0xa0, 0xe0, 0, high, low];
            // SAFETY: the port exists. If it cannot take the address, it does not filter either.
            unsafe { dpdk_sys::rte_eth_dev_default_mac_addr_set(self.port, &raw mut raw) };
        }
        Ok(Mac(raw.addr_bytes))
    }
}

fn check(device: &str, step: &'static str, rc: i32) -> Result<(), DpdkError> {
    if rc == 0 {
        return Ok(());
    }
    Err(DpdkError::Device {
        device: device.into(),
        step,
        reason: strerror(rc),
    })
}
