//! An initiator, targets, and a wire with programmable faults between them, all in simulated time.
//!
//! [`Sim`] runs turns as a host does: time, received frames, timers, drained buffers, frames to
//! send, completions. It checks as it goes: each I/O completes once, what was read is what was
//! written, no buffer comes back while a transmit ring can still read it, frames fit the MTU.

#![allow(dead_code, unused_imports, reason = "each test file uses its own part")]

mod disk;
mod frames;
mod model;
mod turn;

pub use disk::{SparseDisk, content, contents};
pub use frames::*;
pub use model::{Model, POISON, Pending};

use aoe_proto::initiator::{
    Config, Event, Initiator, IoError, LunId, LunState, Op, PortInfo, SubmitError, Time,
};
use aoe_proto::target::{Target, TargetConfig};
use aoe_proto::{Mac, ShelfSlot};
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet, VecDeque};

pub const US: u64 = 1_000;
pub const MS: u64 = 1_000_000;
pub const SEC: u64 = 1_000_000_000;

/// The way that a frame goes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Way {
    ToTarget,
    ToInitiator,
}

/// What the wire does with a frame. Delays are in nanoseconds, on top of [`Sim::wire_ns`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fate {
    Pass,
    Drop,
    Delay(u64),
    Twice(u64),
}

/// Decides about a frame, and may change its bytes.
pub type Fault = Box<dyn FnMut(Way, &mut Vec<u8>) -> Fate>;

/// A frame that was sent, in the order of sending.
#[derive(Clone, Copy, Debug)]
pub struct Sent {
    pub at: u64,
    pub slot: u32,
    pub port: u8,
    pub info: Info,
}

/// A target and where it is attached.
pub struct Host {
    pub target: Target<SparseDisk>,
    pub mac: Mac,
    pub ports: Vec<u8>,
    pub alive: bool,
}

/// A payload that is read when the frame leaves its ring.
#[derive(Clone, Copy)]
struct InPlace {
    user: u64,
    offset: usize,
    len: usize,
}

struct RingFrame {
    slot: u32,
    bytes: Vec<u8>,
    in_place: Option<InPlace>,
}

/// Ordered by the time that it is due, then by the order of sending.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct OnWire {
    due: u64,
    seq: u64,
    way: Way,
    port: u8,
    bytes: Vec<u8>,
}

pub struct Sim {
    pub init: Initiator,
    pub config: Config,
    pub ports: Vec<PortInfo>,
    pub hosts: Vec<Host>,
    pub now: u64,
    /// Time of a turn while there is something to do.
    pub step_ns: u64,
    /// Time that a frame takes each way.
    pub wire_ns: u64,
    pub fault: Fault,
    /// Writes are sent from the caller's buffer.
    pub zero_copy: bool,
    /// Nothing leaves this port's ring.
    pub stuck: Vec<bool>,
    /// Frames that each port's driver has not taken yet; `None` while it takes them at once.
    pub untaken: Vec<Option<u64>>,
    /// The driver tells of frames that have left, as a PMD that cleans its ring does.
    pub reports_released: bool,
    /// The first bytes of a frame that are contiguous.
    pub head_len: usize,
    /// Frames that one turn receives at most.
    pub rx_burst: usize,
    /// What the disks should hold.
    pub model: Model,
    pub pending: HashMap<u64, Pending>,
    pub results: HashMap<u64, Result<(), IoError>>,
    /// Users in the order of completion.
    pub order: Vec<u64>,
    pub events: Vec<Event>,
    pub sent: Vec<Sent>,
    /// Responses as they reached the initiator.
    pub received: Vec<Vec<u8>>,
    pub record_received: bool,
    /// The most ATA commands that were unanswered at once, by LUN.
    pub max_open: HashMap<ShelfSlot, usize>,
    open: HashMap<ShelfSlot, HashSet<u32>>,
    by_tag: HashMap<u32, (ShelfSlot, u32)>,
    rings: Vec<VecDeque<RingFrame>>,
    released: HashSet<u32>,
    users: HashMap<u32, u64>,
    wire: BinaryHeap<Reverse<OnWire>>,
    seq: u64,
    next_user: u64,
}

/// The address e`shelf`.`slot`.
pub fn at(shelf: u16, slot: u8) -> ShelfSlot {
    ShelfSlot { shelf, slot }
}

pub fn port_mac(port: u8) -> Mac {
    Mac([2, 0, 0, 0, 0, port])
}

pub fn host_mac(host: usize) -> Mac {
    Mac([2, 0, 0, 0, 1, host as u8])
}

/// A configuration for tests: tables that are small, and a seed that stays the same.
pub fn config() -> Config {
    Config {
        slots: 256,
        ios: 256,
        luns: 64,
        seed: 42,
        ..Config::default()
    }
}

impl Sim {
    /// One port with an MTU of 1500, no targets yet.
    pub fn new(config: Config) -> Self {
        Self::with_ports(config, &[1500])
    }

    /// Ports with these MTUs.
    pub fn with_ports(config: Config, mtus: &[u32]) -> Self {
        let info = |(i, &mtu): (usize, _)| PortInfo {
            mac: port_mac(i as u8),
            mtu,
            vlan: None,
        };
        Self::with_port_infos(config, mtus.iter().enumerate().map(info).collect())
    }

    pub fn with_port_infos(config: Config, ports: Vec<PortInfo>) -> Self {
        let mut init = Initiator::new(config.clone()).unwrap();
        for (i, info) in ports.iter().enumerate() {
            assert_eq!(init.add_port(*info), Ok(i as u8));
        }
        Self {
            init,
            config,
            hosts: Vec::new(),
            now: 1_000 * SEC,
            step_ns: 100 * US,
            wire_ns: 20 * US,
            fault: Box::new(|_, _| Fate::Pass),
            zero_copy: false,
            stuck: vec![false; ports.len()],
            untaken: vec![None; ports.len()],
            reports_released: true,
            head_len: 64,
            rx_burst: usize::MAX,
            model: Model::default(),
            pending: HashMap::new(),
            results: HashMap::new(),
            order: Vec::new(),
            events: Vec::new(),
            sent: Vec::new(),
            received: Vec::new(),
            record_received: false,
            max_open: HashMap::new(),
            open: HashMap::new(),
            by_tag: HashMap::new(),
            rings: ports.iter().map(|_| VecDeque::new()).collect(),
            released: HashSet::new(),
            users: HashMap::new(),
            wire: BinaryHeap::new(),
            seq: 0,
            next_user: 1,
            ports,
        }
    }

    /// Attaches a target to port 0: a disk of `sectors`, the largest frames that port 0 can take.
    pub fn add_target(&mut self, addr: ShelfSlot, sectors: u64) -> usize {
        let mut config = TargetConfig::new(addr);
        config.max_sectors = ((self.ports[0].mtu - 22) / 512).min(255) as u8;
        let mac = host_mac(self.hosts.len());
        let target = Target::new(config, SparseDisk::new(sectors));
        self.hosts.push(Host {
            target,
            mac,
            ports: vec![0],
            alive: true,
        });
        self.hosts.len() - 1
    }

    pub fn target_config(&mut self, host: usize) -> &mut TargetConfig {
        self.hosts[host].target.config_mut()
    }

    pub fn disk(&mut self, host: usize) -> &mut SparseDisk {
        self.hosts[host].target.disk_mut()
    }

    pub fn on_wire(&mut self, fault: impl FnMut(Way, &mut Vec<u8>) -> Fate + 'static) {
        self.fault = Box::new(fault);
    }

    pub fn no_faults(&mut self) {
        self.on_wire(|_, _| Fate::Pass);
    }

    /// Waits until the LUN is up.
    pub fn up(&mut self, addr: ShelfSlot) -> LunId {
        let is_up = |sim: &Sim| {
            let lun = sim.init.find_lun(addr).and_then(|id| sim.init.lun(id));
            lun.is_some_and(|lun| lun.state == LunState::Up)
        };
        self.run_until(20 * SEC, is_up);
        self.init.find_lun(addr).unwrap()
    }

    /// A sim with one target at e1.1 that is up.
    pub fn one(config: Config, mtu: u32, sectors: u64) -> (Self, LunId) {
        let mut sim = Self::with_ports(config, &[mtu]);
        sim.add_target(at(1, 1), sectors);
        let lun = sim.up(at(1, 1));
        (sim, lun)
    }

    /// Submits an I/O; a write writes content with its own user number as the stamp.
    pub fn submit(
        &mut self,
        lun: LunId,
        op: Op,
        lba: u64,
        sectors: u32,
    ) -> Result<u64, SubmitError> {
        let user = self.next_user;
        let id = self.init.submit(lun, op, lba, sectors, user)?;
        self.next_user += 1;
        let pending = Pending::new(lun, op, lba, sectors, user, id);
        self.model.submitted(&pending, &self.pending);
        assert_eq!(self.users.insert(id.0, user), None, "{id:?} is in use");
        self.pending.insert(user, pending);
        Ok(user)
    }

    pub fn read(&mut self, lun: LunId, lba: u64, sectors: u32) -> u64 {
        self.submit(lun, Op::Read, lba, sectors).unwrap()
    }

    pub fn write(&mut self, lun: LunId, lba: u64, sectors: u32) -> u64 {
        self.submit(lun, Op::Write, lba, sectors).unwrap()
    }

    pub fn is_done(&self, user: u64) -> bool {
        self.results.contains_key(&user)
    }

    /// Waits for an I/O, 100 s at most.
    pub fn wait(&mut self, user: u64) -> Result<(), IoError> {
        self.run_until(100 * SEC, |sim| sim.is_done(user));
        self.results[&user]
    }

    pub fn run(&mut self, ns: u64) {
        let end = self.now + ns;
        while self.now < end {
            self.turn();
        }
    }

    pub fn run_until(&mut self, limit_ns: u64, done: impl Fn(&Self) -> bool) {
        let end = self.now + limit_ns;
        while !done(self) {
            assert!(
                self.now < end,
                "still waiting after {limit_ns} ns: {:?}",
                self.summary()
            );
            self.turn();
        }
    }

    fn summary(&self) -> String {
        let luns: Vec<_> = self
            .init
            .luns()
            .map(|l| (l.addr, l.state, l.inflight))
            .collect();
        format!(
            "{luns:?}, {} pending, {:?}",
            self.pending.len(),
            self.init.counters()
        )
    }

    /// Waits until all I/O is completed, and checks that nothing is left behind.
    pub fn finish(&mut self) {
        self.run_until(200 * SEC, |sim| sim.pending.is_empty());
        self.run_until(20 * SEC, |sim| {
            sim.init.free_slots() == sim.init.slots() && sim.wire.is_empty()
        });
        assert_eq!(self.init.in_flight(), 0);
        assert!(self.init.draining().is_empty());
        for lun in self.init.luns() {
            assert_eq!(lun.inflight, 0, "{:?}", lun.addr);
        }
    }

    /// Frames that were sent with this ATA command.
    pub fn sent_ata(&self, ata_command: u8) -> Vec<Sent> {
        let wanted = |s: &&Sent| {
            s.info
                .ata
                .is_some_and(|a| a.command_or_status == ata_command)
        };
        self.sent.iter().filter(wanted).copied().collect()
    }

    pub fn has_event(&self, event: &Event) -> bool {
        self.events.contains(event)
    }

    pub fn time(&self) -> Time {
        Time(self.now)
    }
}
