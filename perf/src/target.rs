//! A poll-mode AoE target on the engine's own parts: a [`Port`], its full frames, and
//! [`aoe_proto::target::Target`] behind them.
//!
//! Nothing is dropped for want of room: while no frame is free or the ring takes no more, the rest
//! of the received burst waits where it is, and nothing more is received. An answer never points
//! into its request, so a peer that still owns the request's memory may have it back as soon as
//! it sees the answer.

use crate::disk::LabDisk;
use aoe_engine::{BURST, FrameId, FramePool, PoolStats, Port};
use aoe_proto::target::{Disk, Target, TargetConfig};
use aoe_proto::wire::{ATA_LEN, AtaHeader, Command, Header, MIN_FRAME, SECTOR, ata_cmd};
use aoe_proto::{Mac, ShelfSlot};

/// Requests up to this length are copied aside, so that the answer can go straight into its frame.
const SMALL: usize = 128;
/// Room for a frame of any MTU, in bytes.
const FRAME_MAX: usize = 1 << 16;
/// Received bursts that one turn answers at most.
const RX_BURSTS: usize = 4;

/// What a target's port has seen.
#[derive(Clone, Copy, Debug, Default, serde::Serialize)]
pub struct LabStats {
    /// Frames received.
    pub received: u64,
    /// Frames that the driver took.
    pub transmitted: u64,
    /// Received frames that were no AoE requests, or not for any of the LUNs.
    pub ignored: u64,
    /// Bursts of which the driver took only a part.
    pub ring_full: u64,
    /// Turns in which requests had to wait for a frame or for room in the ring.
    pub blocked_turns: u64,
}

/// The LUNs of one port. `D` is what they are made of.
pub struct LabTarget<P, D = LabDisk> {
    port: P,
    mac: Mac,
    luns: Vec<Target<D>>,
    index: LunIndex,
    full: FramePool,
    /// Answers that the driver has not taken yet, in order.
    batch: Vec<FrameId>,
    burst: Burst,
    /// The next LUN to announce.
    announce: usize,
    request: Box<[u8]>,
    answer: Box<[u8]>,
    stats: LabStats,
}

/// How far the received burst is answered.
#[derive(Clone, Copy, Default)]
struct Burst {
    count: usize,
    next: usize,
    /// The LUN that a broadcast waits for.
    lun: usize,
}

/// Finds a LUN by its address: a table by slot number, and in it a chain of the shelves.
struct LunIndex {
    by_slot: [u16; 256],
    next: Vec<u16>,
}

const NO_LUN: u16 = u16::MAX;

impl LunIndex {
    fn new<D>(luns: &[Target<D>]) -> Self
    where
        D: Disk,
    {
        let mut index = Self {
            by_slot: [NO_LUN; 256],
            next: vec![NO_LUN; luns.len()],
        };
        for (i, lun) in luns.iter().enumerate() {
            let head = &mut index.by_slot[usize::from(lun.config().addr.slot)];
            index.next[i] = std::mem::replace(head, i as u16);
        }
        index
    }

    #[inline]
    fn find<D: Disk>(&self, luns: &[Target<D>], addr: ShelfSlot) -> Option<usize> {
        let mut at = self.by_slot[usize::from(addr.slot)];
        while at != NO_LUN {
            if luns[usize::from(at)].config().addr == addr {
                return Some(usize::from(at));
            }
            at = self.next[usize::from(at)];
        }
        None
    }
}

/// Whether an answer could be queued.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Step {
    Done,
    Blocked,
}

impl<P: Port, D: Disk> LabTarget<P, D> {
    /// A target on `port`, without LUNs.
    #[must_use]
    pub fn new(port: P) -> Self {
        let frames = port.frames();
        Self {
            mac: port.info().mac,
            luns: Vec::new(),
            index: LunIndex {
                by_slot: [NO_LUN; 256],
                next: Vec::new(),
            },
            full: FramePool::new(frames.full),
            batch: Vec::with_capacity(BURST),
            burst: Burst::default(),
            announce: usize::MAX,
            request: vec![0; FRAME_MAX].into_boxed_slice(),
            answer: vec![0; FRAME_MAX].into_boxed_slice(),
            stats: LabStats::default(),
            port,
        }
    }

    /// Adds a LUN; false if there is one with its address, or too many.
    pub fn add(&mut self, config: TargetConfig, disk: D) -> bool {
        let full = self.luns.len() >= usize::from(NO_LUN);
        if full || self.index.find(&self.luns, config.addr).is_some() {
            return false;
        }
        self.luns.push(Target::new(config, disk));
        self.index = LunIndex::new(&self.luns);
        true
    }

    /// Tells everybody of all LUNs, with the next turns.
    pub fn announce(&mut self) {
        self.announce = 0;
    }

    /// One round: receive, answer, transmit, reap. Returns how many frames were received and
    /// transmitted.
    #[inline]
    pub fn turn(&mut self) -> usize {
        self.full.begin_turn();
        let mut done = self.flush();
        if self.announce < self.luns.len() {
            self.announce_some();
        }
        for _ in 0..RX_BURSTS {
            if self.burst.next == self.burst.count {
                self.receive();
                done += self.burst.count;
            }
            if self.answer_burst() == Step::Blocked {
                self.stats.blocked_turns += 1;
                break;
            }
            if self.burst.count < BURST {
                break;
            }
        }
        done += self.flush();
        self.full.reap(&mut self.port, 2 * BURST);
        done
    }

    #[inline]
    fn receive(&mut self) {
        self.port.rx_done();
        let count = self.port.rx_burst();
        self.burst = Burst {
            count,
            ..Burst::default()
        };
        self.stats.received += count as u64;
    }

    /// Answers what is left of the burst; its memory goes back when all is answered.
    #[inline]
    fn answer_burst(&mut self) -> Step {
        while self.burst.next < self.burst.count {
            if self.handle(self.burst.next) == Step::Blocked {
                return Step::Blocked;
            }
            self.burst.next += 1;
            self.burst.lun = 0;
        }
        self.port.rx_done();
        Step::Done
    }

    /// Answers one received frame, for each LUN that it is meant for.
    #[inline]
    fn handle(&mut self, i: usize) -> Step {
        let len = self.port.rx_len(i);
        let copied = len <= SMALL || self.port.rx_head(i).len() < len;
        if copied && len <= FRAME_MAX {
            let Self { port, request, .. } = self;
            port.rx_pieces(i, 0, len, |at, bytes| {
                request[at..at + bytes.len()].copy_from_slice(bytes);
            });
        }
        let bytes = if copied {
            self.request.get(..len).unwrap_or(&[])
        } else {
            self.port.rx_head(i)
        };
        let Some((header, at)) = Header::parse(bytes)
            .ok()
            .filter(|(h, _)| !h.flags.is_response())
        else {
            self.stats.ignored += 1;
            return Step::Done;
        };
        let small = if copied { Some((at, len)) } else { None };
        if header.addr.is_addressable() {
            return match self.index.find(&self.luns, header.addr) {
                Some(lun) => self.answer(i, lun, &header, small),
                None => {
                    self.stats.ignored += 1;
                    Step::Done
                }
            };
        }
        while self.burst.lun < self.luns.len() {
            let lun = self.burst.lun;
            if self.luns[lun].addressed_by(&header)
                && self.answer(i, lun, &header, small) == Step::Blocked
            {
                return Step::Blocked;
            }
            self.burst.lun += 1;
        }
        Step::Done
    }

    /// One LUN's answer to received frame `i`. `small` says where the copied request's body starts
    /// and where it ends. A frame is there before the command runs: it is never run twice.
    #[inline]
    fn answer(
        &mut self,
        i: usize,
        lun: usize,
        header: &Header,
        small: Option<(usize, usize)>,
    ) -> Step {
        if self.batch.len() == BURST {
            self.flush();
            if self.batch.len() == BURST {
                return Step::Blocked;
            }
        }
        let Some(mut frame) = self.full.take(&mut self.port) else {
            return Step::Blocked;
        };
        let Self {
            port,
            luns,
            request,
            answer,
            mac,
            full,
            ..
        } = self;
        let target = &mut luns[lun];
        let len = match small {
            Some((at, len)) => {
                let request = &request[..len];
                match expected(header, &request[at..], target.config()) {
                    Some(want) => {
                        let body = port.body(frame, at + want);
                        let len = target.respond(request, *mac, body);
                        if len == Some(body.len()) {
                            self.batch.push(frame);
                            return Step::Done;
                        }
                        // It failed: a shorter answer, in a frame that is filled anew.
                        let len = len.unwrap_or(0);
                        answer[..len].copy_from_slice(&body[..len]);
                        full.put_back(port, frame);
                        match full.take(port) {
                            Some(again) => frame = again,
                            None => return Step::Done,
                        }
                        Some(len).filter(|&len| len > 0)
                    }
                    None => target.respond(request, *mac, answer),
                }
            }
            None => target.respond(port.rx_head(i), *mac, answer),
        };
        self.send_aside(frame, len);
        Step::Done
    }

    /// Queues the answer that was written aside, if there is one, in `frame`.
    #[inline]
    fn send_aside(&mut self, frame: FrameId, len: Option<usize>) {
        if let Some(len) = len {
            let body = self.port.body(frame, len);
            if body.len() == len {
                body.copy_from_slice(&self.answer[..len]);
                self.batch.push(frame);
                return;
            }
        }
        self.full.put_back(&mut self.port, frame);
    }

    fn announce_some(&mut self) {
        while self.announce < self.luns.len() {
            if self.batch.len() == BURST || !self.full.ready(&mut self.port) {
                return;
            }
            let Some(frame) = self.full.take(&mut self.port) else {
                return;
            };
            let len = self.luns[self.announce].announce(self.mac, &mut self.answer);
            self.send_aside(frame, len);
            self.announce += 1;
        }
    }

    /// Offers the answers to the driver; what it does not take stays.
    #[inline]
    fn flush(&mut self) -> usize {
        if self.batch.is_empty() {
            return 0;
        }
        let taken = self.port.tx_burst(&self.batch);
        for &frame in &self.batch[..taken] {
            self.full.hold(frame);
        }
        self.stats.ring_full += u64::from(taken < self.batch.len());
        self.stats.transmitted += taken as u64;
        self.batch.drain(..taken);
        taken
    }

    /// Drops the answers that the driver has not taken: before an end that nobody waits for.
    pub fn forget_unsent(&mut self) {
        for frame in self.batch.drain(..) {
            self.full.put_back(&mut self.port, frame);
        }
    }

    /// The LUNs.
    #[must_use]
    pub fn luns(&self) -> &[Target<D>] {
        &self.luns
    }

    /// The LUNs, to change.
    pub fn luns_mut(&mut self) -> &mut [Target<D>] {
        &mut self.luns
    }

    /// The port, to look at.
    #[must_use]
    pub fn port(&self) -> &P {
        &self.port
    }

    /// What the port has seen.
    #[must_use]
    pub fn stats(&self) -> LabStats {
        self.stats
    }

    /// What has happened to its frames.
    #[must_use]
    pub fn pool_stats(&self) -> PoolStats {
        self.full.stats()
    }

    /// Whether everything received is answered and every frame is back.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.batch.is_empty() && self.burst.next == self.burst.count && self.full.is_whole()
    }
}

/// How many bytes behind the AoE header the answer to a request has if the command succeeds, for
/// commands that read; `None` for all others and for what will be refused anyway.
#[inline]
fn expected(header: &Header, body: &[u8], config: &TargetConfig) -> Option<usize> {
    if header.command != Command::Ata as u8 {
        return None;
    }
    let (ata, _) = AtaHeader::parse(body).ok()?;
    let reads = matches!(ata.command_or_status, ata_cmd::READ | ata_cmd::READ_EXT);
    if !reads || !(1..=config.max_sectors).contains(&ata.sectors) {
        return None;
    }
    let len = ATA_LEN + usize::from(ata.sectors) * SECTOR;
    debug_assert!(len > MIN_FRAME);
    Some(len)
}
