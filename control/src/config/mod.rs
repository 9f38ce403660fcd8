//! The appliance's configuration: one TOML file, overridable by environment variables
//! (`AOED__ENGINE__SLOTS=2048` is `engine.slots`).
//!
//! Every field is documented in `configs/appliance.toml`. A key that does not exist, or a value
//! that cannot be, is an error that names the key.

mod check;

use aoe_engine::dpdk::{DeviceConfig, EalConfig, HugePages};
use aoe_proto::ShelfSlot;
use aoe_proto::initiator::{self, PacingLimits};
use serde::Deserialize;
use serde_json::Value;
use std::path::{Path, PathBuf};
use thiserror::Error;

/// Why a configuration cannot be used.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// The file cannot be read or is no TOML.
    #[error("{file}: {reason}")]
    File {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A key or a value of the wrong type.
    #[error("{file}: {key}: {reason}")]
    Key {
        /// The file.
        file: PathBuf,
        /// The key, with its table.
        key: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A value that cannot be.
    #[error("{key}: {reason}")]
    Value {
        /// The key, with its table.
        key: String,
        /// What is wrong with it and what would be right.
        reason: String,
    },
}

fn wrong<T>(key: impl Into<String>, reason: impl Into<String>) -> Result<T, ConfigError> {
    Err(ConfigError::Value {
        key: key.into(),
        reason: reason.into(),
    })
}

/// Everything.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// DPDK's environment.
    #[serde(default)]
    pub eal: Eal,
    /// The ports, at least one.
    #[serde(default)]
    pub port: Vec<Port>,
    /// The data plane.
    #[serde(default)]
    pub engine: Engine,
    /// Buffers.
    #[serde(default)]
    pub pools: Pools,
    /// LUNs that are expected, or that need settings of their own.
    #[serde(default)]
    pub lun: Vec<Lun>,
    /// The NBD exports.
    #[serde(default)]
    pub nbd: Nbd,
    /// The control socket.
    #[serde(default)]
    pub control: Control,
}

/// `[eal]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Eal {
    /// CPU of everything that does not poll.
    pub main_cpu: usize,
    /// MiB for pools and buffers.
    pub memory_mb: u32,
    /// `auto`, `always`, `never`.
    pub huge_pages: Huge,
    /// Scan the PCI bus.
    pub pci: bool,
    /// DPDK's log level.
    pub log_level: String,
    /// Further EAL arguments.
    pub extra: Vec<String>,
}

impl Default for Eal {
    fn default() -> Self {
        Self {
            main_cpu: 0,
            memory_mb: 512,
            huge_pages: Huge::Auto,
            pci: false,
            log_level: "error".into(),
            extra: Vec::new(),
        }
    }
}

/// Which pages.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(try_from = "String")]
pub enum Huge {
    /// Huge ones if there are enough.
    Auto,
    /// Huge ones or an error.
    Always,
    /// Ordinary ones.
    Never,
}

/// `[[port]]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Port {
    /// PCI address or vdev string.
    pub device: String,
    /// Bytes after the Ethernet header.
    pub mtu: Option<u32>,
    /// VLAN to send with, 1 to 4094.
    pub vlan: Option<u16>,
    /// Receive descriptors.
    #[serde(default = "descriptors")]
    pub rx_desc: u16,
    /// Transmit descriptors.
    #[serde(default = "descriptors")]
    pub tx_desc: u16,
    /// Never send a caller's memory in place.
    #[serde(default)]
    pub copy_only: bool,
}

fn descriptors() -> u16 {
    1024
}

/// `[engine]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Engine {
    /// CPUs that poll.
    pub cores: Vec<usize>,
    /// AoE commands in flight on each core.
    pub slots: u32,
    /// I/Os in flight on each core.
    pub ios: u32,
    /// LUNs at most.
    pub luns: u16,
    /// Add LUNs that nobody configured.
    pub discover: bool,
    /// Commands in flight to one LUN at most.
    pub window_max: u32,
    /// ms
    pub loss_timeout_ms: u64,
    /// ms
    pub probe_interval_ms: u64,
    /// ms
    pub discovery_interval_ms: u64,
    /// ms
    pub frame_lifetime_ms: u64,
    /// ms
    pub rto_min_ms: u64,
    /// ms
    pub rto_max_ms: u64,
    /// ms
    pub rto_initial_ms: u64,
    /// ms
    pub drain_timeout_ms: u64,
    /// Poison released frames and check mbufs.
    pub checks: bool,
}

impl Default for Engine {
    fn default() -> Self {
        Self {
            cores: vec![1],
            slots: 1024,
            ios: 1024,
            luns: 256,
            discover: true,
            window_max: 256,
            loss_timeout_ms: 30_000,
            probe_interval_ms: 1_000,
            discovery_interval_ms: 60_000,
            frame_lifetime_ms: 10_000,
            rto_min_ms: 20,
            rto_max_ms: 4_000,
            rto_initial_ms: 200,
            drain_timeout_ms: 10_000,
            checks: false,
        }
    }
}

/// `[pools]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Pools {
    /// Cap on header frames beyond the preallocated ones.
    pub header_overflow: u32,
    /// Full frames for resends and copies.
    pub full_frames: u32,
    /// Cap on full frames beyond the preallocated ones.
    pub full_overflow: u32,
    /// MiB of payload buffers for NBD.
    pub nbd_mb: u32,
}

impl Default for Pools {
    fn default() -> Self {
        Self {
            header_overflow: 256,
            full_frames: 256,
            full_overflow: 64,
            nbd_mb: 64,
        }
    }
}

/// `[[lun]]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lun {
    /// `e1.1`
    pub address: String,
    /// Its export name, if not its address.
    pub name: Option<String>,
    /// Refuse writes.
    #[serde(default)]
    pub read_only: bool,
    /// Whether it is exported.
    #[serde(default = "yes")]
    pub export: bool,
}

fn yes() -> bool {
    true
}

/// `[nbd]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Nbd {
    /// Unix socket; empty for none.
    pub socket: PathBuf,
    /// Permissions of the socket, in octal.
    pub mode: String,
    /// `all`, `configured`, `none`.
    pub export: Export,
    /// Requests in flight on a connection.
    pub max_in_flight: u32,
    /// Connections.
    pub max_connections: u32,
    /// KiB in one request.
    pub max_block_kb: u32,
}

impl Default for Nbd {
    fn default() -> Self {
        Self {
            socket: "/run/aoed/nbd.sock".into(),
            mode: "600".into(),
            export: Export::All,
            max_in_flight: 128,
            max_connections: 64,
            max_block_kb: 1024,
        }
    }
}

/// Which LUNs are exported.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(try_from = "String")]
pub enum Export {
    /// All that are up.
    All,
    /// Those with a `[[lun]]` of their own.
    Configured,
    /// None.
    None,
}

/// `[control]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Control {
    /// Unix socket.
    pub socket: PathBuf,
}

impl Default for Control {
    fn default() -> Self {
        Self {
            socket: "/run/aoed/control.sock".into(),
        }
    }
}

impl TryFrom<String> for Huge {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        match text.as_str() {
            "auto" => Ok(Self::Auto),
            "always" => Ok(Self::Always),
            "never" => Ok(Self::Never),
            _ => Err(format!(
                "{text:?} is none of \"auto\", \"always\", \"never\""
            )),
        }
    }
}

impl TryFrom<String> for Export {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        match text.as_str() {
            "all" => Ok(Self::All),
            "configured" => Ok(Self::Configured),
            "none" => Ok(Self::None),
            _ => Err(format!(
                "{text:?} is none of \"all\", \"configured\", \"none\""
            )),
        }
    }
}

impl Config {
    /// Reads and checks a file.
    ///
    /// # Errors
    /// If it cannot be read or used; the error names the key.
    pub fn load(file: &Path) -> Result<Self, ConfigError> {
        let in_file = |reason: String| ConfigError::File {
            file: file.into(),
            reason,
        };
        if !file.is_file() {
            return Err(in_file("there is no such file".into()));
        }
        let source = config::File::from(file).format(config::FileFormat::Toml);
        let raw = config::Config::builder()
            .add_source(source)
            .add_source(environment())
            .build()
            .map_err(|e| in_file(e.to_string()))?;
        // By way of JSON, because `config` itself would turn "yes", 1.9 and 7 into what fits.
        let mut json: Value = raw.try_deserialize().map_err(|e| in_file(e.to_string()))?;
        environment_as_meant(&mut json);
        let config: Self =
            serde_path_to_error::deserialize(json).map_err(|e| ConfigError::Key {
                file: file.into(),
                key: e.path().to_string(),
                reason: e.inner().to_string(),
            })?;
        config.check()?;
        Ok(config)
    }

    /// The permissions of the NBD socket.
    ///
    /// # Errors
    /// If they are not octal.
    pub fn nbd_mode(&self) -> Result<u32, ConfigError> {
        let digits = self.nbd.mode.bytes().all(|b| b.is_ascii_digit());
        match u32::from_str_radix(&self.nbd.mode, 8) {
            Ok(mode) if mode <= 0o777 && digits => Ok(mode),
            _ => wrong("nbd.mode", "octal permissions such as \"660\" are needed"),
        }
    }

    /// For the EAL.
    #[must_use]
    pub fn eal(&self) -> EalConfig {
        EalConfig {
            main_cpu: self.eal.main_cpu,
            memory_mb: self.eal.memory_mb,
            huge_pages: match self.eal.huge_pages {
                Huge::Auto => HugePages::Auto,
                Huge::Always => HugePages::Always,
                Huge::Never => HugePages::Never,
            },
            pci: self.eal.pci,
            extra: self.eal.extra.clone(),
            log_level: self.eal.log_level.clone(),
        }
    }

    /// For a device.
    #[must_use]
    pub fn device(&self, port: &Port) -> DeviceConfig {
        DeviceConfig {
            device: port.device.clone(),
            mtu: port.mtu,
            vlan: port.vlan,
            queues: self.engine.cores.len() as u16,
            rx_desc: port.rx_desc,
            tx_desc: port.tx_desc,
            slots: self.engine.slots,
            header_overflow: self.pools.header_overflow,
            full_frames: self.pools.full_frames,
            full_overflow: self.pools.full_overflow,
            copy_only: port.copy_only,
            checks: self.engine.checks,
        }
    }

    /// For the initiator of the `core`th core.
    #[must_use]
    pub fn initiator(&self, core: usize, seed: u64) -> initiator::Config {
        const MS: u64 = 1_000_000;
        let e = &self.engine;
        initiator::Config {
            core: core as u32,
            cores: e.cores.len() as u32,
            slots: e.slots,
            ios: e.ios,
            luns: e.luns,
            discover: e.discover,
            frame_lifetime_ns: e.frame_lifetime_ms * MS,
            loss_timeout_ns: e.loss_timeout_ms * MS,
            probe_interval_ns: e.probe_interval_ms * MS,
            discovery_interval_ns: e.discovery_interval_ms * MS,
            window_max: e.window_max,
            pacing: PacingLimits {
                rto_min_ns: e.rto_min_ms * MS,
                rto_max_ns: e.rto_max_ms * MS,
                rto_initial_ns: e.rto_initial_ms * MS,
            },
            seed,
            ..initiator::Config::default()
        }
    }
}

const PREFIX: &str = "AOED";

fn environment() -> config::Environment {
    config::Environment::with_prefix(PREFIX)
        .prefix_separator("__")
        .separator("__")
        .try_parsing(true)
}

/// Values from the environment are guessed to be numbers or truths where they can be; these are
/// texts, or lists with commas, whatever they look like.
fn environment_as_meant(json: &mut Value) {
    const TEXTS: [&str; 6] = [
        "eal.log_level",
        "eal.huge_pages",
        "nbd.socket",
        "nbd.mode",
        "nbd.export",
        "control.socket",
    ];
    let variable = |key: &str| {
        let name = format!("{PREFIX}__{}", key.replace('.', "__").to_uppercase());
        std::env::var(name).ok()
    };
    let items = |text: String| -> Vec<String> {
        text.split(',')
            .map(|item| item.trim().to_owned())
            .filter(|s| !s.is_empty())
            .collect()
    };
    let mut set = |key: &str, value: Value| {
        let place = json.pointer_mut(&format!("/{}", key.replace('.', "/")));
        if let Some(place) = place {
            *place = value;
        }
    };
    for key in TEXTS {
        if let Some(text) = variable(key) {
            set(key, text.into());
        }
    }
    if let Some(text) = variable("eal.extra") {
        set("eal.extra", items(text).into());
    }
    if let Some(text) = variable("engine.cores") {
        let number = |item: String| item.parse::<u64>().map_or(Value::String(item), Value::from);
        set(
            "engine.cores",
            items(text).into_iter().map(number).collect(),
        );
    }
}

impl Lun {
    /// The address of the `i`th LUN of the file.
    ///
    /// # Errors
    /// If it is none, or a wildcard.
    pub fn address(&self, i: usize) -> Result<ShelfSlot, ConfigError> {
        let key = format!("lun[{i}].address");
        match self.address.parse::<ShelfSlot>() {
            Ok(address) if address.is_addressable() => Ok(address),
            Ok(_) => wrong(key, format!("{:?} is a wildcard", self.address)),
            Err(e) => wrong(key, e.to_string()),
        }
    }
}
