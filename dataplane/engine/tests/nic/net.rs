//! The network: targets, a wire with faults, and the receive queues of the simulated NICs.

use aoe_proto::target::{Disk, DiskError, Target, TargetConfig};
use aoe_proto::wire::{AtaHeader, Command, Header, SECTOR};
use aoe_proto::{Mac, ShelfSlot};
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};

/// A stream of numbers from a seed (SplitMix64).
#[derive(Clone, Debug)]
pub struct Random(pub u64);

impl Random {
    pub fn word(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.word() % end
    }

    /// True in `percent` of the cases.
    pub fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}

/// The way that a frame goes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Way {
    ToTarget,
    ToInitiator,
}

/// What the wire does with a frame. Delays are in nanoseconds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fate {
    Pass,
    Drop,
    Delay(u64),
    Twice(u64),
}

/// Decides about a frame.
pub type Fault = Box<dyn FnMut(Way, &[u8]) -> Fate>;

/// Ordered by the time that it is due, then by the order of sending.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct OnWire {
    due: u64,
    seq: u64,
    way: Way,
    port: u8,
    bytes: Vec<u8>,
}

/// A target and the port that it is reached through.
pub struct Host {
    pub target: Target<MemDisk>,
    pub mac: Mac,
    pub port: u8,
    pub alive: bool,
}

pub struct Net {
    pub now: u64,
    pub wire_ns: u64,
    pub hosts: Vec<Host>,
    pub fault: Fault,
    pub random: Random,
    /// Percentage of answers that arrive at another core's queue.
    pub astray: u64,
    /// By port, then by core.
    pub rx: Vec<Vec<VecDeque<Vec<u8>>>>,
    /// Frames that initiators sent, as they were on the wire.
    pub seen: Vec<Vec<u8>>,
    pub record: bool,
    wire: BinaryHeap<Reverse<OnWire>>,
    seq: u64,
}

pub fn port_mac(port: u8) -> Mac {
    Mac([2, 0, 0, 0, 0, port])
}

impl Net {
    pub fn new(ports: usize, cores: usize, seed: u64) -> Self {
        Self {
            now: 0,
            wire_ns: 20_000,
            hosts: Vec::new(),
            fault: Box::new(|_, _| Fate::Pass),
            random: Random(seed),
            astray: 0,
            rx: (0..ports)
                .map(|_| (0..cores).map(|_| VecDeque::new()).collect())
                .collect(),
            seen: Vec::new(),
            record: false,
            wire: BinaryHeap::new(),
            seq: 0,
        }
    }

    pub fn add_host(&mut self, addr: ShelfSlot, port: u8, sectors: u64, max_sectors: u8) {
        let config = TargetConfig {
            max_sectors,
            buffer_count: 32,
            ..TargetConfig::new(addr)
        };
        let mac = Mac([2, 0, 0, 0, 1, self.hosts.len() as u8]);
        let target = Target::new(
            config,
            MemDisk {
                sectors,
                ..MemDisk::default()
            },
        );
        self.hosts.push(Host {
            target,
            mac,
            port,
            alive: true,
        });
    }

    pub fn is_quiet(&self) -> bool {
        self.wire.is_empty() && self.rx.iter().flatten().all(VecDeque::is_empty)
    }

    /// A frame leaves a NIC, or a target answers.
    pub fn put(&mut self, way: Way, port: u8, bytes: Vec<u8>) {
        if self.record && way == Way::ToTarget {
            self.seen.push(bytes.clone());
        }
        let delays: &[u64] = match (self.fault)(way, &bytes) {
            Fate::Drop => &[],
            Fate::Pass => &[0],
            Fate::Delay(ns) => &[ns],
            Fate::Twice(ns) => &[0, ns],
        };
        for delay in delays {
            self.seq += 1;
            let due = self.now + self.wire_ns + delay;
            self.wire.push(Reverse(OnWire {
                due,
                seq: self.seq,
                way,
                port,
                bytes: bytes.clone(),
            }));
        }
    }

    /// Delivers what is due.
    pub fn run(&mut self, now: u64) {
        self.now = now;
        while self
            .wire
            .peek()
            .is_some_and(|Reverse(frame)| frame.due <= now)
        {
            let Some(Reverse(frame)) = self.wire.pop() else {
                break;
            };
            match frame.way {
                Way::ToTarget => self.ask_targets(&frame),
                Way::ToInitiator => self.arrive(&frame),
            }
        }
    }

    fn ask_targets(&mut self, frame: &OnWire) {
        let mut answers = Vec::new();
        let mut out = vec![0; 64 + 255 * SECTOR];
        for host in self
            .hosts
            .iter_mut()
            .filter(|h| h.alive && h.port == frame.port)
        {
            if let Some(len) = host.target.respond(&frame.bytes, host.mac, &mut out) {
                answers.push(out[..len].to_vec());
            }
        }
        for answer in answers {
            self.put(Way::ToInitiator, frame.port, answer);
        }
    }

    /// The first queue is the one that a NIC without steering would use for all; here frames go to
    /// the core that asked, or astray.
    fn arrive(&mut self, frame: &OnWire) {
        let astray = self.random.chance(self.astray);
        let queues = &mut self.rx[usize::from(frame.port)];
        let (header, _) = Header::parse(&frame.bytes).unwrap();
        let owner = match queues.len() {
            1 => 0,
            _ => (header.tag.0 >> 31) as usize,
        };
        let at = if astray {
            (owner + 1) % queues.len()
        } else {
            owner
        };
        queues[at].push_back(frame.bytes.clone());
    }
}

/// The ATA header of a request, if it is one.
pub fn ata(frame: &[u8]) -> Option<AtaHeader> {
    let (header, at) = Header::parse(frame).ok()?;
    (header.command == Command::Ata as u8).then_some(())?;
    AtaHeader::parse(&frame[at..]).ok().map(|(ata, _)| ata)
}

/// Whether the frame is a request with this ATA command.
pub fn is_ata(frame: &[u8], command: u8) -> bool {
    ata(frame).is_some_and(|ata| ata.command_or_status == command)
}

/// The content of a sector as the write with this stamp leaves it; 0 is the initial content.
pub fn content(lba: u64, stamp: u64) -> [u8; SECTOR] {
    let mut sector = [0; SECTOR];
    for (i, word) in sector.as_chunks_mut::<8>().0.iter_mut().enumerate() {
        let value = if i % 2 == 0 {
            lba
        } else {
            stamp << 8 | i as u64
        };
        *word = value.to_le_bytes();
    }
    sector
}

/// A sparse disk.
#[derive(Default)]
pub struct MemDisk {
    pub sectors: u64,
    pub written: HashMap<u64, [u8; SECTOR]>,
}

impl MemDisk {
    pub fn sector(&self, lba: u64) -> [u8; SECTOR] {
        self.written
            .get(&lba)
            .copied()
            .unwrap_or_else(|| content(lba, 0))
    }
}

impl Disk for MemDisk {
    fn sectors(&self) -> u64 {
        self.sectors
    }

    fn read(&mut self, lba: u64, out: &mut [u8]) -> Result<(), DiskError> {
        for (sector, lba) in out.as_chunks_mut::<SECTOR>().0.iter_mut().zip(lba..) {
            *sector = self.sector(lba);
        }
        Ok(())
    }

    fn write(&mut self, lba: u64, data: &[u8]) -> Result<(), DiskError> {
        for (sector, lba) in data.as_chunks::<SECTOR>().0.iter().zip(lba..) {
            self.written.insert(lba, *sector);
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), DiskError> {
        Ok(())
    }

    fn trim(&mut self, lba: u64, sectors: u64) -> Result<(), DiskError> {
        for lba in lba..lba + sectors {
            self.written.insert(lba, [0; SECTOR]);
        }
        Ok(())
    }

    fn trim_supported(&self) -> bool {
        true
    }
}
