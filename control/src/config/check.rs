//! Values that cannot be: each is an error that names its key.

use super::{Config, ConfigError, wrong};
use aoe_engine::dpdk::{MTU_MAX, MTU_MIN};
use aoe_proto::{ShelfSlot, initiator};
use std::collections::HashSet;

/// Bytes of a Unix socket's path, at most.
const SOCKET_PATH_MAX: usize = 107;

impl Config {
    /// Looks for values that cannot be.
    ///
    /// # Errors
    /// The first one that is found.
    pub fn check(&self) -> Result<(), ConfigError> {
        self.check_ports()?;
        self.check_engine()?;
        self.check_luns()?;
        self.nbd_mode()?;
        self.check_sockets()?;
        between("eal.memory_mb", self.eal.memory_mb, 32, 1 << 20)?;
        between("nbd.max_in_flight", self.nbd.max_in_flight, 1, 4096)?;
        between("nbd.max_connections", self.nbd.max_connections, 1, 4096)?;
        between(
            "pools.header_overflow",
            self.pools.header_overflow,
            0,
            65_536,
        )?;
        between("pools.full_frames", self.pools.full_frames, 32, 65_536)?;
        between("pools.full_overflow", self.pools.full_overflow, 0, 65_536)?;
        between("pools.nbd_mb", self.pools.nbd_mb, 1, 1 << 20)?;
        let levels = [
            "emergency",
            "alert",
            "critical",
            "error",
            "warning",
            "notice",
            "info",
            "debug",
        ];
        let level = self.eal.log_level.as_str();
        if !levels.contains(&level) && !(1..=8).any(|n: u8| n.to_string() == level) {
            return wrong(
                "eal.log_level",
                format!("one of {levels:?} or 1 to 8 is needed"),
            );
        }
        if !(4..=32 * 1024).contains(&self.nbd.max_block_kb)
            || !self.nbd.max_block_kb.is_multiple_of(4)
        {
            return wrong(
                "nbd.max_block_kb",
                "a multiple of 4 from 4 to 32768 is needed",
            );
        }
        if self.pools.nbd_mb * 1024 < 4 * self.nbd.max_block_kb {
            let least = (4 * self.nbd.max_block_kb).div_ceil(1024);
            return wrong(
                "pools.nbd_mb",
                format!("nbd.max_block_kb needs at least {least}"),
            );
        }
        Ok(())
    }

    fn check_sockets(&self) -> Result<(), ConfigError> {
        if self.control.socket.as_os_str().is_empty() {
            return wrong("control.socket", "a path is needed");
        }
        if self.control.socket == self.nbd.socket {
            return wrong("nbd.socket", "this is control.socket as well");
        }
        for (key, path) in [
            ("control.socket", &self.control.socket),
            ("nbd.socket", &self.nbd.socket),
        ] {
            if path.as_os_str().len() > SOCKET_PATH_MAX {
                let path = path.display();
                return wrong(
                    key,
                    format!("{path} is longer than {SOCKET_PATH_MAX} bytes"),
                );
            }
        }
        Ok(())
    }

    fn check_ports(&self) -> Result<(), ConfigError> {
        if self.port.is_empty() {
            return wrong("port", "at least one [[port]] with a `device` is needed");
        }
        if self.port.len() > initiator::MAX_PORTS {
            return wrong(
                "port",
                format!("at most {} are possible", initiator::MAX_PORTS),
            );
        }
        let mut seen = HashSet::new();
        for (i, port) in self.port.iter().enumerate() {
            let key = |name| format!("port[{i}].{name}");
            let name = port.device.split(',').next().unwrap_or_default();
            if name.is_empty() {
                return wrong(key("device"), "a PCI address or a vdev string is needed");
            }
            if !seen.insert(name) {
                return wrong(
                    key("device"),
                    format!("{name} is another port's device as well"),
                );
            }
            if port
                .mtu
                .is_some_and(|mtu| !(MTU_MIN..=MTU_MAX).contains(&mtu))
            {
                return wrong(
                    key("mtu"),
                    format!("{MTU_MIN} (one sector) to {MTU_MAX} are possible"),
                );
            }
            if port.vlan.is_some_and(|vlan| !(1..=4094).contains(&vlan)) {
                return wrong(key("vlan"), "1 to 4094 are possible");
            }
            for (name, n) in [("rx_desc", port.rx_desc), ("tx_desc", port.tx_desc)] {
                if !(64..=16384).contains(&n) {
                    return wrong(key(name), format!("{n} is not within 64 to 16384"));
                }
            }
        }
        Ok(())
    }

    fn check_engine(&self) -> Result<(), ConfigError> {
        let e = &self.engine;
        if e.cores.is_empty() {
            return wrong("engine.cores", "at least one CPU is needed to poll");
        }
        let cpus = core_affinity::get_core_ids().unwrap_or_default();
        let there: HashSet<usize> = cpus.iter().map(|c| c.id).collect();
        let mut seen = HashSet::new();
        let cores = e.cores.iter().map(|cpu| ("engine.cores", *cpu));
        for (key, cpu) in cores.chain([("eal.main_cpu", self.eal.main_cpu)]) {
            if !there.is_empty() && !there.contains(&cpu) {
                let mut list: Vec<_> = there.iter().copied().collect();
                list.sort_unstable();
                return wrong(
                    key,
                    format!("CPU {cpu} is not among this process's CPUs {list:?}"),
                );
            }
        }
        if let Some(cpu) = e.cores.iter().find(|cpu| !seen.insert(**cpu)) {
            return wrong("engine.cores", format!("CPU {cpu} is there twice"));
        }
        if !(64..=65_536).contains(&e.slots) || !e.slots.is_power_of_two() {
            return wrong("engine.slots", "a power of two from 64 to 65536 is needed");
        }
        if u64::from(e.slots) * e.cores.len().next_power_of_two() as u64 > 1 << 24 {
            return wrong("engine.slots", "slots times cores is more than 2^24");
        }
        between("engine.ios", e.ios, 1, 1 << 20)?;
        between("engine.window_max", e.window_max, 1, 65_536)?;
        if usize::from(e.luns) < self.lun.len().max(1) {
            let text = format!("{} is less than the number of [[lun]] tables", e.luns);
            return wrong("engine.luns", text);
        }
        for (key, ms) in [
            ("engine.loss_timeout_ms", e.loss_timeout_ms),
            ("engine.probe_interval_ms", e.probe_interval_ms),
            ("engine.discovery_interval_ms", e.discovery_interval_ms),
            ("engine.rto_min_ms", e.rto_min_ms),
            ("engine.rto_max_ms", e.rto_max_ms),
            ("engine.rto_initial_ms", e.rto_initial_ms),
            ("engine.drain_timeout_ms", e.drain_timeout_ms),
        ] {
            if !(1..=86_400_000).contains(&ms) {
                return wrong(key, "1 ms to a day is possible");
            }
        }
        if e.frame_lifetime_ms > 600_000 {
            return wrong("engine.frame_lifetime_ms", "at most 600000 is possible");
        }
        if e.rto_min_ms > e.rto_max_ms {
            return wrong("engine.rto_min_ms", "this is more than engine.rto_max_ms");
        }
        if e.rto_max_ms > e.loss_timeout_ms {
            return wrong(
                "engine.rto_max_ms",
                "this is more than engine.loss_timeout_ms",
            );
        }
        Ok(())
    }

    fn check_luns(&self) -> Result<(), ConfigError> {
        let (mut addresses, mut names) = (HashSet::new(), HashSet::new());
        for (i, lun) in self.lun.iter().enumerate() {
            let key = |name| format!("lun[{i}].{name}");
            let address = lun.address(i)?;
            if !addresses.insert(address) {
                return wrong(key("address"), format!("{address} is configured twice"));
            }
            let name = lun.name.clone().unwrap_or_else(|| address.to_string());
            if name.is_empty() || name.len() > 255 || name.chars().any(char::is_control) {
                return wrong(
                    key("name"),
                    "1 to 255 bytes without control characters are needed",
                );
            }
            if name
                .parse::<ShelfSlot>()
                .is_ok_and(|other| other != address)
            {
                let text = format!("{name:?} is the name of another LUN, by its address");
                return wrong(key("name"), text);
            }
            if !names.insert(name.clone()) {
                return wrong(
                    key("name"),
                    format!("{name:?} is another LUN's name as well"),
                );
            }
        }
        Ok(())
    }
}

fn between(key: &str, value: u32, least: u32, most: u32) -> Result<(), ConfigError> {
    if (least..=most).contains(&value) {
        return Ok(());
    }
    wrong(key, format!("{value} is not within {least} to {most}"))
}
