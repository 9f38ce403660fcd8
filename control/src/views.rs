//! What the control socket shows, as JSON: names last their units, counters grouped by subject.

use crate::core::Snapshot;
use crate::registry::Registry;
use aoe_engine::dpdk::Device;
use aoe_engine::{PoolStats, PortStats};
use aoe_proto::initiator::{LunInfo, LunState};
use aoe_proto::wire::Identify;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

/// What stays the same while the daemon runs.
pub struct Appliance {
    /// DPDK's version.
    pub dpdk: String,
    /// Whether it runs on huge pages.
    pub huge_pages: bool,
    /// The devices, by port.
    pub devices: Vec<(String, Device)>,
    /// The NBD socket, if there is one.
    pub nbd_socket: Option<String>,
}

impl Appliance {
    /// With the devices' counters of this moment.
    #[must_use]
    pub fn now(&self) -> Value {
        let devices = self.devices.iter().map(|(name, device)| {
            let stats = device.stats();
            json!({
                "device": name,
                "driver": device.driver,
                "mac": device.info.mac.to_string(),
                "mtu": device.info.mtu,
                "link_up": device.link_is_up(),
                "rx_frames": stats.rx_frames,
                "tx_frames": stats.tx_frames,
                "rx_missed": stats.rx_missed,
                "rx_errors": stats.rx_errors,
                "tx_errors": stats.tx_errors,
                "rx_no_buffer": stats.rx_no_buffer,
            })
        });
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "dpdk": self.dpdk,
            "huge_pages": self.huge_pages,
            "nbd_socket": self.nbd_socket,
            "ports": devices.collect::<Vec<_>>(),
        })
    }
}

/// A LUN.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LunView {
    /// The name that it is exported under.
    pub name: String,
    /// Its address, such as `e1.1`.
    pub lun: String,
    /// `absent`, `identifying`, `up` or `lost`.
    pub state: String,
    /// Who answers for it.
    pub mac: String,
    /// Which port it is reached through.
    pub port: u8,
    /// Capacity in bytes.
    pub size_bytes: u64,
    /// The target's buffer count.
    pub buffer_count: u16,
    /// The target's most sectors in a frame.
    pub target_max_sectors: u8,
    /// Sectors in the frames that are sent.
    pub sectors_per_frame: u32,
    /// `flush`, `writethrough` or `unknown`.
    pub durability: String,
    /// Commands in flight at most, over all cores.
    pub window: u32,
    /// Commands in flight, over all cores.
    pub in_flight: u32,
    /// Smoothed round trip in microseconds.
    pub rtt_us: f64,
    /// I/Os completed without an error.
    pub completed: u64,
    /// I/Os failed.
    pub failed: u64,
    /// Commands sent.
    pub commands: u64,
    /// Commands sent again.
    pub resends: u64,
    /// Commands that were cut smaller because the target refused their size.
    pub resplits: u64,
    /// Answers with an AoE or ATA error.
    pub errors: u64,
    /// How often it was lost.
    pub losses: u64,
    /// Another MAC that answers for the same address and is not used.
    pub stranger: Option<String>,
    /// What IDENTIFY said.
    pub identify: Option<IdentifyView>,
}

/// What IDENTIFY said.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct IdentifyView {
    /// Model.
    pub model: String,
    /// Serial number.
    pub serial: String,
    /// Firmware.
    pub firmware: String,
    /// World wide name in hexadecimal.
    pub wwn: Option<String>,
    /// Sectors of 512 bytes.
    pub sectors: u64,
    /// Logical sector in bytes.
    pub logical_sector_bytes: u32,
    /// Physical sector in bytes.
    pub physical_sector_bytes: u32,
    /// 48-bit addresses.
    pub lba48: bool,
    /// FLUSH CACHE.
    pub flush: bool,
    /// FLUSH CACHE EXT.
    pub flush_ext: bool,
    /// The write cache is on.
    pub write_cache: bool,
    /// TRIM.
    pub trim: bool,
    /// Trimmed sectors read as zeroes.
    pub trim_zeroes: bool,
}

impl From<&Identify> for IdentifyView {
    fn from(id: &Identify) -> Self {
        Self {
            model: id.model_str(),
            serial: id.serial_str(),
            firmware: id.firmware_str(),
            wwn: id.wwn.map(|wwn| format!("{wwn:016x}")),
            sectors: id.sectors,
            logical_sector_bytes: id.logical_sector,
            physical_sector_bytes: id.physical_sector,
            lba48: id.lba48,
            flush: id.flush,
            flush_ext: id.flush_ext,
            write_cache: id.write_cache,
            trim: id.trim,
            trim_zeroes: id.trim_zeroes,
        }
    }
}

/// What can be promised about acknowledged writes, as far as IDENTIFY tells. vblade offers FLUSH,
/// says that its cache is off, and buffers all the same unless it was started with `-s`.
#[must_use]
pub fn durability(id: Option<&Identify>) -> &'static str {
    match id {
        Some(id) if (id.flush || id.flush_ext) && id.write_cache => "flush",
        Some(id) if !id.write_cache && !id.model_str().contains("vblade") => "writethrough",
        _ => "unknown",
    }
}

fn state(state: LunState) -> &'static str {
    match state {
        LunState::Absent => "absent",
        LunState::Identifying => "identifying",
        LunState::Up => "up",
        LunState::Lost => "lost",
    }
}

fn lun(info: &LunInfo, registry: &Registry) -> LunView {
    LunView {
        name: registry.name(info.addr),
        lun: info.addr.to_string(),
        state: state(info.state).into(),
        mac: info.mac.to_string(),
        port: info.port,
        size_bytes: info.sectors * 512,
        buffer_count: info.buffer_count,
        target_max_sectors: info.target_max_sectors,
        sectors_per_frame: info.sectors_per_frame,
        durability: durability(info.identify.as_ref()).into(),
        window: info.window,
        in_flight: info.inflight,
        rtt_us: info.srtt_ns as f64 / 1e3,
        completed: info.stats.completed,
        failed: info.stats.failed,
        commands: info.stats.commands,
        resends: info.stats.resends,
        resplits: info.stats.resplits,
        errors: info.stats.errors,
        losses: info.stats.losses,
        stranger: info.stranger.map(|mac| mac.to_string()),
        identify: info.identify.as_ref().map(Into::into),
    }
}

/// Adds one core's view of the LUNs to that of the cores before it.
pub fn merge(all: &mut Vec<LunView>, luns: &[LunInfo], registry: &Registry) {
    for info in luns {
        let view = lun(info, registry);
        match all.iter_mut().find(|other| other.lun == view.lun) {
            None => all.push(view),
            Some(other) => {
                other.window += view.window;
                other.in_flight += view.in_flight;
                other.completed += view.completed;
                other.failed += view.failed;
                other.commands += view.commands;
                other.resends += view.resends;
                other.resplits += view.resplits;
                other.errors += view.errors;
                other.losses = other.losses.max(view.losses);
            }
        }
    }
    let address = |view: &LunView| view.lun.parse::<aoe_proto::ShelfSlot>().ok();
    all.sort_by_key(address);
}

fn pool(stats: &PoolStats) -> Value {
    json!({
        "held": stats.held,
        "held_max": stats.held_max,
        "overflow": stats.overflow,
        "overflow_max": stats.overflow_max,
        "overflow_taken": stats.overflow_taken,
        "nudges": stats.nudges,
        "looked_past": stats.looked_past,
        "starved": stats.starved,
    })
}

fn port(stats: &PortStats) -> Value {
    json!({
        "received": stats.received,
        "transmitted": stats.transmitted,
        "ring_full": stats.ring_full,
        "blocked_turns": stats.blocked_turns,
        "zero_copy": stats.zero_copy,
        "bounced": stats.bounced,
        "unsendable": stats.unsendable,
        "handed_over": stats.handed_over,
        "handover_full": stats.handover_full,
        "flushes": stats.flushes,
        "header_frames": pool(&stats.header),
        "full_frames": pool(&stats.full),
    })
}

/// One core's counters.
#[must_use]
pub fn core(number: usize, s: &Snapshot, registry: &Registry) -> Value {
    let drops: Map<_, _> = s
        .drops
        .iter()
        .map(|(why, n)| (why.name().to_owned(), json!(n)))
        .collect();
    let luns: Vec<_> = s.luns.iter().map(|info| lun(info, registry)).collect();
    json!({
        "core": number,
        "turns": s.turns,
        "busy_turns": s.busy_turns,
        "ios_in_flight": s.in_flight,
        "matched": s.counters.matched,
        "announcements": s.counters.announcements,
        "resends": s.counters.resends,
        "no_slot": s.counters.no_slot,
        "tag_rests": s.counters.tag_rests,
        "pauses": s.counters.pauses,
        "drained": s.counters.drained,
        "events_lost": s.counters.events_lost,
        "touched_after_release": s.touched,
        "drops": drops,
        "ports": s.ports.iter().map(port).collect::<Vec<_>>(),
        "luns": luns,
    })
}
