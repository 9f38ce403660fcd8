//! A laboratory for tests of the real aoed: a network namespace with vblade targets in it, a veth
//! pair, and the daemon on our end of the wire. All that a lab started is stopped and removed when
//! it is dropped, after a panic too; what a killed test program left is swept by the next one.
#![allow(dead_code, reason = "each test program uses a part of it")]

pub mod daemon;
#[path = "../nbd_support/client.rs"]
pub mod nbd;
pub mod net;
pub mod target;
pub mod tools;

use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard};

use daemon::Daemon;
use net::Net;
use serde_json::Value;
use target::Vblade;
use tempfile::TempDir;

pub const MIB: u64 = 1 << 20;

/// One lab at a time: there are two CPUs, and the daemon polls on one of them.
static TURN: Mutex<()> = Mutex::new(());

/// A disk that a vblade serves.
#[derive(Clone, Debug)]
pub struct Disk {
    pub shelf: u16,
    pub slot: u8,
    pub bytes: u64,
    /// Further arguments of vblade.
    pub args: Vec<String>,
}

impl Disk {
    pub fn new(shelf: u16, slot: u8, bytes: u64) -> Self {
        Self {
            shelf,
            slot,
            bytes,
            args: Vec::new(),
        }
    }

    pub fn address(&self) -> String {
        format!("e{}.{}", self.shelf, self.slot)
    }
}

/// What a lab is made of.
#[derive(Clone, Debug)]
pub struct Plan {
    pub mtu: u32,
    /// Whether there is a switch in the middle.
    pub switch: bool,
    /// The VLAN that the daemon is in.
    pub vlan: Option<u16>,
    pub disks: Vec<Disk>,
    /// Lines for `[engine]`: a key here replaces the lab's own value.
    pub engine: Vec<(&'static str, String)>,
    /// Further tables, `[[lun]]` for example.
    pub tables: String,
}

impl Default for Plan {
    fn default() -> Self {
        let disks = vec![Disk::new(1, 1, 256 * MIB)];
        Self {
            mtu: 9000,
            switch: false,
            vlan: None,
            disks,
            engine: Vec::new(),
            tables: String::new(),
        }
    }
}

impl Plan {
    /// Sends nothing again for 2 s, so that only a frame that is really lost is sent twice, however
    /// busy this machine is.
    pub fn patient() -> Self {
        let keys = ["rto_min_ms", "rto_initial_ms", "rto_max_ms"];
        let plan = keys
            .into_iter()
            .fold(Self::default(), |plan, key| plan.engine(key, 2000));
        plan.engine("loss_timeout_ms", 15_000)
    }

    pub fn engine(mut self, key: &'static str, value: impl ToString) -> Self {
        self.engine.push((key, value.to_string()));
        self
    }

    pub fn tables(mut self, toml: &str) -> Self {
        self.tables.push_str(toml);
        self
    }
}

/// Times that fit tests; a loaded machine must not make a resend of a slow answer.
const ENGINE: [(&str, &str); 8] = [
    ("cores", "[1]"),
    ("loss_timeout_ms", "5000"),
    ("probe_interval_ms", "200"),
    ("discovery_interval_ms", "2000"),
    ("frame_lifetime_ms", "1000"),
    ("rto_min_ms", "100"),
    ("rto_max_ms", "1000"),
    ("drain_timeout_ms", "1000"),
];

/// The lab. Fields are dropped in this order.
pub struct Lab {
    pub daemon: Daemon,
    pub targets: Vec<Vblade>,
    pub net: Net,
    pub plan: Plan,
    pub dir: TempDir,
    _turn: MutexGuard<'static, ()>,
}

impl Lab {
    /// A lab with the daemon and all LUNs up, or none if this machine cannot have one.
    pub fn start(plan: Plan) -> Option<Self> {
        let lab = Self::without_luns(plan)?;
        for target in &lab.targets {
            lab.daemon.wait_state(&target.disk.address(), "up");
        }
        Some(lab)
    }

    /// The same, but nobody has waited for the LUNs.
    pub fn without_luns(plan: Plan) -> Option<Self> {
        let turn = TURN.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if !tools::can_run() {
            return None;
        }
        let dir = tempfile::tempdir().expect("a directory");
        let net = Net::new(plan.mtu, plan.switch);
        let disks = plan.disks.iter();
        let targets: Vec<_> = disks
            .map(|disk| {
                let target = Vblade::new(&net.namespace, &net.inner, disk.clone(), dir.path());
                target.grow(disk.bytes);
                target
            })
            .collect();
        let config = toml(&net, &plan, &dir);
        let daemon = Daemon::new(dir.path(), &config);
        let mut lab = Self {
            daemon,
            targets,
            net,
            plan,
            dir,
            _turn: turn,
        };
        for target in &mut lab.targets {
            target.start();
        }
        lab.daemon.start();
        Some(lab)
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A file of `bytes` random bytes.
    pub fn random_file(&self, name: &str, bytes: u64, seed: u64) -> PathBuf {
        let path = self.file(name);
        std::fs::write(&path, tools::random(seed, bytes as usize)).expect("a file");
        path
    }

    /// The URI of a LUN's export.
    pub fn uri(&self, export: &str) -> String {
        format!("nbd+unix:///{export}?socket={}", self.daemon.nbd.display())
    }

    /// A client that has opened an export.
    pub fn open(&self, export: &str) -> nbd::Client {
        nbd::Client::open(&self.daemon.nbd, export, true)
    }

    /// What `aoectl --json list` says of a LUN.
    pub fn lun(&self, address: &str) -> Value {
        self.daemon
            .lun(address)
            .unwrap_or_else(|| panic!("{address} is not listed"))
    }

    /// The counters of the only core.
    pub fn core(&self) -> Value {
        self.daemon.json(&["stat"])["cores"][0].clone()
    }

    /// All that a quiet and whole wire promises: nothing lost, sent twice, failed or kept.
    pub fn assert_clean(&self) {
        let core = self.core();
        for (reason, count) in core["drops"].as_object().expect("drops") {
            assert_eq!(count, 0, "dropped as {reason}: {core:#}");
        }
        assert_eq!(core["resends"], 0, "{core:#}");
        assert_eq!(core["touched_after_release"], 0, "{core:#}");
        for lun in core["luns"].as_array().expect("luns") {
            assert_eq!(
                (&lun["failed"], &lun["errors"]),
                (&0.into(), &0.into()),
                "{lun:#}"
            );
        }
        self.assert_idle();
    }

    /// Nothing is in flight and nothing is held, soon.
    pub fn assert_idle(&self) {
        tools::wait_until("nothing is in flight or held", || {
            let core = self.core();
            let ports = core["ports"].as_array().expect("ports");
            let held = |port: &Value| {
                port["header_frames"]["held"] != 0 || port["full_frames"]["held"] != 0
            };
            core["ios_in_flight"] == 0 && !ports.iter().any(held)
        });
    }
}

/// The lab's configuration file.
pub fn toml(net: &Net, plan: &Plan, dir: &TempDir) -> String {
    let mut text = String::from("[eal]\nmain_cpu = 0\nmemory_mb = 256\nhuge_pages = \"never\"\n");
    let _ = writeln!(text, "[[port]]\ndevice = \"{}\"", net.device());
    if let Some(id) = plan.vlan {
        let _ = writeln!(text, "vlan = {id}");
    }
    text.push_str("[engine]\n");
    for (key, value) in ENGINE {
        let own = plan.engine.iter().rev().find(|(name, _)| *name == key);
        let _ = writeln!(text, "{key} = {}", own.map_or(value, |(_, value)| value));
    }
    for (key, value) in &plan.engine {
        if !ENGINE.iter().any(|(name, _)| name == key) {
            let _ = writeln!(text, "{key} = {value}");
        }
    }
    let dir = dir.path().display();
    let _ = writeln!(text, "[nbd]\nsocket = \"{dir}/nbd.sock\"");
    let _ = writeln!(text, "[control]\nsocket = \"{dir}/control.sock\"");
    text + &plan.tables
}
