//! Engines on simulated NICs: submits I/O, runs turns, and checks what completes.
//!
//! As soon as a completion was fetched, the caller's memory is overwritten with [`AFTER`]: a
//! buffer that came back while a ring could still read it shows on the target's disk.

use super::alloc::counted;
use super::net::{Net, content};
use super::ring::Policy;
use super::{MS, Nic, SEC, US};
use aoe_engine::port::Frames;
use aoe_engine::{Engine, Handover, Iovec, PoolSize, PortStats, Request, Sgl};
use aoe_proto::ShelfSlot;
use aoe_proto::initiator::{
    Config, Event, IoError, LunId, LunState, Op, PacingLimits, SubmitError, Time,
};
use aoe_proto::wire::SECTOR;
use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::ptr::NonNull;
use std::rc::Rc;
use std::sync::Arc;

/// What a caller does to its memory after a completion.
pub const AFTER: u8 = 0xee;

/// Sizes of everything.
#[derive(Clone, Debug)]
pub struct Shape {
    pub cores: u32,
    pub ports: u8,
    /// Preallocated frames and the cap on more.
    pub header: (u32, u32),
    pub full: (u32, u32),
    pub full_room: usize,
    pub mtu: u32,
    pub vlan: Option<u16>,
    /// Transmit descriptors.
    pub ring: usize,
    pub policy: Policy,
    pub zero_copy: bool,
    pub seed: u64,
    pub drain_ns: u64,
    pub config: Config,
}

impl Default for Shape {
    fn default() -> Self {
        let pacing = PacingLimits {
            rto_min_ns: 20 * MS,
            rto_max_ns: SEC,
            rto_initial_ns: 100 * MS,
        };
        let config = Config {
            slots: 64,
            ios: 64,
            luns: 8,
            loss_timeout_ns: 3 * SEC,
            probe_interval_ns: 200 * MS,
            pacing,
            seed: 42,
            ..Config::default()
        };
        Self {
            cores: 1,
            ports: 1,
            header: (160, 16),
            full: (160, 16),
            full_room: 9018,
            mtu: 9000,
            vlan: None,
            ring: 64,
            policy: Policy::NextBurst,
            zero_copy: true,
            seed: 1,
            drain_ns: SEC,
            config,
        }
    }
}

impl Shape {
    pub fn frames(&self) -> Frames {
        let (header, full) = (self.header, self.full);
        Frames {
            header: PoolSize {
                first: 0,
                base: header.0,
                overflow: header.1,
            },
            full: PoolSize {
                first: header.0 + header.1,
                base: full.0,
                overflow: full.1,
            },
        }
    }
}

/// A caller's memory.
#[derive(Clone, Debug)]
pub enum Memory {
    One,
    /// Pieces of these lengths in bytes.
    Pieces(Vec<usize>),
    Zeroes,
}

/// An I/O and its memory, which stays allocated to the end of the test.
pub struct Io {
    pub host: usize,
    pub op: Op,
    pub lba: u64,
    pub sectors: u32,
    pub pieces: Vec<Vec<u8>>,
    iov: Vec<Iovec>,
}

pub struct Bench {
    pub net: Rc<RefCell<Net>>,
    pub cores: Vec<Engine<Nic>>,
    /// Cores that do not run.
    pub asleep: Vec<bool>,
    pub now: u64,
    /// Time of a turn while there is something to do.
    pub step_ns: u64,
    pub pending: HashMap<u64, Io>,
    pub done: HashMap<u64, Result<(), IoError>>,
    pub events: Vec<Event>,
    grave: Vec<Io>,
    /// What each sector of a host may hold; those that are missing were never written.
    model: HashMap<(usize, u64), Vec<u64>>,
    zeroed: HashSet<u64>,
    next_user: u64,
}

pub fn addr(host: usize) -> ShelfSlot {
    ShelfSlot {
        shelf: 1,
        slot: host as u8,
    }
}

impl Bench {
    /// Engines, ports and a target on each port, all up.
    pub fn new(shape: &Shape) -> Self {
        let mut bench = Self::without_luns(shape);
        bench.wait_up();
        bench
    }

    pub fn without_luns(shape: &Shape) -> Self {
        let mut net = Net::new(usize::from(shape.ports), shape.cores as usize, shape.seed);
        for port in 0..shape.ports {
            net.add_host(addr(usize::from(port)), port, 1 << 20, 16);
        }
        let net = Rc::new(RefCell::new(net));
        let handovers: Vec<_> = (0..shape.ports)
            .map(|_| Arc::new(Handover::new(shape.cores)))
            .collect();
        let core = |core: u32| {
            let config = Config {
                core,
                cores: shape.cores,
                ..shape.config.clone()
            };
            let mut engine = Engine::new(config, shape.drain_ns).unwrap();
            for port in 0..shape.ports {
                let nic = Nic::new(net.clone(), port, core as usize, shape);
                let handover = (shape.cores > 1).then(|| handovers[usize::from(port)].clone());
                assert_eq!(engine.add_port(nic, handover), Ok(port));
            }
            engine
        };
        let cores: Vec<_> = (0..shape.cores).map(core).collect();
        Self {
            asleep: vec![false; cores.len()],
            cores,
            net,
            now: 1_000 * SEC,
            step_ns: 100 * US,
            pending: HashMap::new(),
            done: HashMap::new(),
            events: Vec::new(),
            grave: Vec::new(),
            model: HashMap::new(),
            zeroed: HashSet::new(),
            next_user: 1,
        }
    }

    pub fn wait_up(&mut self) {
        let hosts = self.net.borrow().hosts.len();
        self.run_until(20 * SEC, |b| {
            let up = |e: &Engine<Nic>| e.luns().filter(|l| l.state == LunState::Up).count();
            b.cores.iter().all(|e| up(e) == hosts)
        });
    }

    pub fn lun(&self, core: usize, host: usize) -> LunId {
        self.cores[core].find_lun(addr(host)).unwrap()
    }

    pub fn nic(&mut self, port: u8) -> &mut Nic {
        self.cores[0].port_mut(port).unwrap()
    }

    pub fn stats(&self, port: usize) -> PortStats {
        self.cores[0].port_stats().nth(port).unwrap()
    }

    pub fn write(&mut self, lba: u64, sectors: u32) -> u64 {
        self.submit(0, 0, Op::Write, lba, sectors, Memory::One)
            .expect("accepted")
    }

    pub fn read(&mut self, lba: u64, sectors: u32) -> u64 {
        self.submit(0, 0, Op::Read, lba, sectors, Memory::One)
            .expect("accepted")
    }

    pub fn submit(
        &mut self,
        core: usize,
        host: usize,
        op: Op,
        lba: u64,
        sectors: u32,
        memory: Memory,
    ) -> Result<u64, SubmitError> {
        let user = self.next_user;
        let (mut io, sgl) = Io::new(host, op, lba, sectors, user, &memory);
        let lun = self.lun(core, host);
        let request = Request {
            lun,
            op,
            lba,
            sectors,
            memory: sgl,
            user,
        };
        counted(|| self.cores[core].submit(&request))?;
        self.next_user += 1;
        if matches!(op, Op::Write | Op::Trim) {
            if op == Op::Trim || matches!(memory, Memory::Zeroes) {
                io.pieces.clear();
                self.zeroed.insert(user);
            }
            for lba in lba..lba + u64::from(sectors) {
                self.model
                    .entry((host, lba))
                    .or_insert_with(|| vec![0])
                    .push(user);
            }
        }
        assert!(self.pending.insert(user, io).is_none());
        Ok(user)
    }

    /// Lets one step of time pass: the network, a turn of each core, the hardware.
    pub fn turn(&mut self) {
        let waiting = |e: &Engine<Nic>| {
            (0..8)
                .filter_map(|i| e.port(i))
                .any(|nic| !nic.ring.waiting.is_empty())
        };
        let idle = self.net.borrow().is_quiet() && !self.cores.iter().any(waiting);
        self.now += if idle { MS } else { self.step_ns };
        self.turn_at_once();
    }

    pub fn turn_at_once(&mut self) {
        self.net.borrow_mut().run(self.now);
        for core in 0..self.cores.len() {
            if !self.asleep[core] {
                let now = Time(self.now);
                counted(|| self.cores[core].turn(now));
                self.fetch(core);
            }
        }
        for engine in &mut self.cores {
            for port in 0..8 {
                if let Some(nic) = engine.port_mut(port) {
                    nic.run();
                }
            }
        }
    }

    fn fetch(&mut self, core: usize) {
        while let Some(end) = counted(|| self.cores[core].next_completion()) {
            let mut io = self.pending.remove(&end.user).expect("completed once");
            assert_eq!(self.done.insert(end.user, end.result), None);
            self.judge(&io, end.user, end.result);
            io.pieces.iter_mut().for_each(|piece| piece.fill(AFTER));
            self.grave.push(io);
        }
        while let Some(event) = self.cores[core].next_event() {
            self.events.push(event);
        }
    }

    fn judge(&mut self, io: &Io, user: u64, result: Result<(), IoError>) {
        match (io.op, result) {
            (Op::Write | Op::Trim, Ok(())) => {
                for lba in io.lba..io.lba + u64::from(io.sectors) {
                    self.model.insert((io.host, lba), vec![user]);
                }
            }
            (Op::Read, Ok(())) => {
                let bytes = io.pieces.concat();
                for (lba, sector) in (io.lba..).zip(bytes.chunks(SECTOR)) {
                    self.check(io.host, lba, sector, "read");
                }
            }
            _ => {}
        }
    }

    fn check(&self, host: usize, lba: u64, sector: &[u8], what: &str) {
        let possible = self.model.get(&(host, lba)).map_or(&[0][..], Vec::as_slice);
        let fits = |&stamp: &u64| match self.zeroed.contains(&stamp) {
            true => sector.iter().all(|&b| b == 0),
            false => sector == content(lba, stamp),
        };
        assert!(
            possible.iter().any(fits),
            "{what} host {host} sector {lba}: not one of {possible:?} but {:x?}",
            &sector[..16]
        );
    }

    /// What the disks hold is what was written, never what a caller wrote afterwards.
    pub fn check_disks(&self) {
        let net = self.net.borrow();
        for (number, host) in net.hosts.iter().enumerate() {
            for (&lba, sector) in &host.target.disk().written {
                self.check(number, lba, sector, "disk of");
            }
        }
        for &(host, lba) in self.model.keys() {
            self.check(
                host,
                lba,
                &net.hosts[host].target.disk().sector(lba),
                "disk of",
            );
        }
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
                "still waiting after {limit_ns} ns: {}",
                self.summary()
            );
            self.turn();
        }
    }

    pub fn summary(&self) -> String {
        let mut text = format!("{} pending", self.pending.len());
        for engine in &self.cores {
            let luns: Vec<_> = engine
                .luns()
                .map(|l| (l.addr, l.state, l.inflight))
                .collect();
            let ports: Vec<_> = engine.port_stats().collect();
            text += &format!("\n{luns:?}\n{:?}\n{ports:?}", engine.counters());
        }
        text
    }

    pub fn is_done(&self, user: u64) -> bool {
        self.done.contains_key(&user)
    }

    /// Waits for an I/O.
    pub fn wait(&mut self, user: u64) -> Result<(), IoError> {
        self.run_until(60 * SEC, |b| b.is_done(user));
        self.done[&user]
    }

    /// Waits until all I/O has completed and the network is quiet, lets the drivers release what
    /// they hold, and checks that nothing is missing.
    pub fn finish(&mut self) {
        self.run_until(60 * SEC, |b| b.pending.is_empty());
        self.run_until(20 * SEC, |b| {
            for engine in &b.cores {
                assert_eq!(engine.in_flight(), 0);
            }
            let slots = b.cores.iter().all(|e| e.luns().all(|l| l.inflight == 0));
            slots && b.net.borrow().is_quiet()
        });
        let end = self.now + 20 * SEC;
        while !self.cores.iter().all(Engine::is_whole) {
            assert!(self.now < end, "not whole: {}", self.summary());
            self.release_all();
            self.turn();
        }
        self.check_disks();
        self.check_stats();
    }

    fn release_all(&mut self) {
        for engine in &mut self.cores {
            for port in 0..8 {
                if let Some(nic) = engine.port_mut(port) {
                    nic.release_sent();
                }
            }
        }
    }

    fn check_stats(&self) {
        for engine in &self.cores {
            for (id, stats) in engine.port_stats().enumerate() {
                let sizes = aoe_engine::Port::frames(engine.port(id as u8).unwrap());
                for (pool, size) in [(stats.header, sizes.header), (stats.full, sizes.full)] {
                    assert!(pool.overflow_max <= size.overflow, "{pool:?}");
                    assert_eq!((pool.overflow, pool.held), (0, 0));
                    assert!(pool.held_max <= size.base + size.overflow);
                }
                assert_eq!(
                    stats.unsendable, 0,
                    "a frame was cut without a place for it"
                );
                assert_eq!(stats.transmitted, engine.port(id as u8).unwrap().taken);
            }
        }
    }
}

impl Io {
    fn new(host: usize, op: Op, lba: u64, sectors: u32, user: u64, memory: &Memory) -> (Self, Sgl) {
        let sized = matches!(op, Op::Read | Op::Write);
        let len = if sized { sectors as usize * SECTOR } else { 0 };
        let mut bytes = vec![0xdd; len];
        if op == Op::Write {
            for (lba, sector) in (lba..).zip(bytes.chunks_mut(SECTOR)) {
                sector.copy_from_slice(&content(lba, user));
            }
        }
        let mut pieces = Vec::new();
        match memory {
            _ if !sized => {}
            Memory::One | Memory::Zeroes => pieces.push(bytes),
            Memory::Pieces(lens) => {
                let mut rest = bytes.as_slice();
                for &len in lens {
                    let (piece, more) = rest.split_at(len);
                    pieces.push(piece.to_vec());
                    rest = more;
                }
                assert!(rest.is_empty(), "the pieces do not add up");
            }
        }
        let mut iov: Vec<_> = pieces
            .iter_mut()
            .map(|p| Iovec {
                base: p.as_mut_ptr(),
                len: p.len(),
            })
            .collect();
        let sgl = match memory {
            _ if len == 0 => Sgl::NONE,
            Memory::Zeroes => Sgl::zeroes(len as u32),
            // SAFETY: the bench keeps the memory until the end of the test.
            Memory::One => unsafe {
                Sgl::one(NonNull::new(iov[0].base).unwrap(), iov[0].len as u32)
            },
            // SAFETY: as above; the vectors stay where they are on the heap.
            Memory::Pieces(_) => unsafe {
                Sgl::many(NonNull::new(iov.as_mut_ptr()).unwrap(), iov.len() as u32)
            },
        };
        (
            Self {
                host,
                op,
                lba,
                sectors,
                pieces,
                iov,
            },
            sgl,
        )
    }
}
