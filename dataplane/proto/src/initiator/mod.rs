//! The initiator's state machine: no sockets, no clock, no memory of its callers.
//!
//! A host feeds it received frames and the time, and asks it what to send:
//!
//! ```text
//! submit ──▶ LUN queue ──▶ next_transmit ──▶ (the host's frame pool and port)
//!                               ▲                          │
//!                          timers: tick                    ▼
//! next_completion ◀── I/O table ◀── slot, by tag ◀── received
//! ```
//!
//! Each AoE command occupies a slot from the time that it is cut out of an I/O until it is
//! answered or given up, *and* no ring can still read the caller's payload. Each transmission of
//! a command has a tag of its own. Nothing here allocates after [`Initiator::new`].

mod config;
mod discovery;
mod durability;
mod error;
mod io;
mod lun;
mod pacing;
mod receive;
mod slots;
mod tags;
mod time;
mod timeout;
mod timers;
mod transmit;

pub use config::{Config, ConfigError};
pub use error::{DropReason, Drops, IoError, SubmitError};
pub use io::{IoId, Op};
pub use lun::{LunId, LunInfo, LunState, LunStats};
pub use pacing::{Pacing, PacingLimits};
pub use receive::{HEAD_MIN, LINEAR_MAX, Received};
pub use slots::AtaOp;
pub use tags::{Lap, TagLayout};
pub use time::{Time, nanos};
pub use transmit::{HEADER_ROOM, Payload, Transmit};

use crate::wire::Identify;
use crate::{Mac, ShelfSlot};
use io::{Io, IoTable, NONE};
use lun::Lun;
use slots::{Slots, State};
use std::collections::{HashMap, VecDeque};
use timers::Timers;

/// Ports that one initiator can use.
pub const MAX_PORTS: usize = 8;
/// Slots that data may not take, so that probes and IDENTIFY always get through.
const CONTROL_SLOTS: u32 = 16;
/// Events that wait for the host; beyond it the oldest are dropped and counted.
const EVENTS: usize = 1024;

/// One port, as far as frames depend on it.
#[derive(Clone, Copy, Debug)]
pub struct PortInfo {
    /// Source address of what is sent.
    pub mac: Mac,
    /// Bytes after the Ethernet header.
    pub mtu: u32,
    /// 802.1Q tag control information to send with.
    pub vlan: Option<u16>,
}

#[derive(Clone, Copy, Debug)]
struct PortState {
    info: PortInfo,
    /// Sequence number of the next frame that is put on this port's ring.
    next_seq: u64,
    /// All frames before this one were taken by the driver.
    accepted_seq: u64,
    /// All frames before this one are known to have left the ring.
    left_seq: u64,
    /// What the host cannot put on this port's ring now.
    blocked: Blocked,
}

/// What a host cannot put on a port's ring, for want of frames or of room.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Blocked {
    /// Everything can be sent.
    Nothing,
    /// What has to be copied: resends of writes, trims.
    Copies,
    /// Everything with a payload: the port copies all of them.
    Payloads,
    /// Nothing can be sent.
    All,
}

/// Something that a host may want to tell its users.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event {
    /// The LUN accepts I/O; `changed` if it is not what it was before it was lost.
    Up {
        /// Which LUN.
        lun: LunId,
        /// Its size or identity differs from what it had when it was last up.
        changed: bool,
    },
    /// The LUN's target has stopped answering; all its I/O has failed.
    Lost {
        /// Which LUN.
        lun: LunId,
    },
    /// The target now takes other frame sizes or another number of commands.
    Limits {
        /// Which LUN.
        lun: LunId,
    },
    /// Another MAC address answers for the LUN's shelf.slot; it is not used.
    Duplicate {
        /// Which LUN.
        lun: LunId,
        /// The stranger.
        mac: Mac,
    },
    /// IDENTIFY failed or said nothing usable; it is tried again with the next probe.
    IdentifyFailed {
        /// Which LUN.
        lun: LunId,
    },
}

/// What an initiator has seen, in counts.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counters {
    /// Responses that were matched to a command.
    pub matched: u64,
    /// Unasked config answers.
    pub announcements: u64,
    /// Commands sent again.
    pub resends: u64,
    /// How often data waited because no slot was free.
    pub no_slot: u64,
    /// How often a slot had to rest because its tags would have come back too soon.
    pub tag_rests: u64,
    /// Turns that came so late that timeouts were put off.
    pub pauses: u64,
    /// I/Os whose completion had to wait until a ring let go of their payload.
    pub drained: u64,
    /// Events that nobody fetched in time.
    pub events_lost: u64,
}

/// The state machine. One for each core; they share nothing.
#[derive(Debug)]
pub struct Initiator {
    config: Config,
    ports: Vec<PortState>,
    luns: Vec<Lun>,
    by_addr: HashMap<ShelfSlot, LunId>,
    slots: Slots,
    ios: IoTable,
    timers: Timers,
    /// Slots to send: control commands and what is sent again.
    send: VecDeque<u32>,
    /// LUNs that have something to send and an open window, each at most once.
    ready: VecDeque<LunId>,
    /// Slots of discovery and probes that are out.
    discovers: u32,
    /// The host has not handed over all that it received.
    backlog: bool,
    given_up: u64,
    /// Ticks in a row that were left out because of it.
    ticks_left_out: u32,
    done: VecDeque<u32>,
    draining: Vec<u32>,
    events: VecDeque<Event>,
    counters: Counters,
    drops: Drops,
    last_turn: Option<Time>,
    paused_ns: u64,
    now: Time,
    next_discovery: Time,
    discovery_rounds: u32,
    next_probe: Time,
    next_drain_probe: Time,
}

impl Initiator {
    /// Allocates all tables.
    ///
    /// # Errors
    /// If the slots do not fit the tags, or there is no room for any I/O.
    pub fn new(config: Config) -> Result<Self, ConfigError> {
        let (core, cores, slots) = (config.core, config.cores.max(1), config.slots);
        if core >= cores {
            return Err(ConfigError::Core { core, cores });
        }
        let layout = TagLayout::new(core, cores, slots)
            .filter(|_| slots >= 2 * CONTROL_SLOTS)
            .ok_or(ConfigError::Slots { slots, cores })?;
        if config.ios == 0 {
            return Err(ConfigError::Ios);
        }
        let mut seed = tags::Seed(config.seed);
        Ok(Self {
            ports: Vec::with_capacity(MAX_PORTS),
            luns: Vec::with_capacity(usize::from(config.luns)),
            by_addr: HashMap::with_capacity(usize::from(config.luns)),
            slots: Slots::new(layout, slots, config.frame_lifetime_ns, &mut seed),
            ios: IoTable::new(config.ios),
            timers: Timers::new(slots),
            send: VecDeque::with_capacity(slots as usize),
            ready: VecDeque::with_capacity(usize::from(config.luns)),
            discovers: 0,
            backlog: false,
            given_up: 0,
            ticks_left_out: 0,
            done: VecDeque::with_capacity(config.ios as usize),
            draining: Vec::with_capacity(slots as usize),
            events: VecDeque::with_capacity(EVENTS),
            counters: Counters::default(),
            drops: Drops::default(),
            last_turn: None,
            paused_ns: 0,
            now: Time(0),
            next_discovery: Time(0),
            discovery_rounds: 0,
            next_probe: Time(0),
            next_drain_probe: Time(0),
            config,
        })
    }

    /// Adds a port and returns its number.
    ///
    /// # Errors
    /// If there are [`MAX_PORTS`] already.
    pub fn add_port(&mut self, info: PortInfo) -> Result<u8, ConfigError> {
        if self.ports.len() >= MAX_PORTS {
            return Err(ConfigError::Ports);
        }
        self.ports.push(PortState {
            info,
            next_seq: 0,
            accepted_seq: 0,
            left_seq: 0,
            blocked: Blocked::Nothing,
        });
        Ok(self.ports.len() as u8 - 1)
    }

    /// Adds a LUN that is looked for until it answers; `None` if the table is full or the address
    /// is a wildcard. Adding it twice is the same as once.
    pub fn add_lun(&mut self, addr: ShelfSlot) -> Option<LunId> {
        let id = self.lun_at(addr)?;
        self.next_probe = Time(0);
        Some(id)
    }

    fn lun_at(&mut self, addr: ShelfSlot) -> Option<LunId> {
        if let Some(&id) = self.by_addr.get(&addr) {
            return Some(id);
        }
        if !addr.is_addressable() || self.luns.len() >= usize::from(self.config.luns) {
            return None;
        }
        let id = LunId(self.luns.len() as u16);
        self.luns.push(Lun::new(addr, &self.config.pacing));
        self.by_addr.insert(addr, id);
        Some(id)
    }

    /// Accepts an I/O: `sectors` of 512 bytes from `lba` on (both ignored for a flush). `user` comes
    /// back with the completion.
    ///
    /// # Errors
    /// If it cannot be accepted now or ever; the caller still has it.
    #[inline]
    pub fn submit(
        &mut self,
        lun: LunId,
        op: Op,
        lba: u64,
        sectors: u32,
        user: u64,
    ) -> Result<IoId, SubmitError> {
        let row = self
            .luns
            .get_mut(usize::from(lun.0))
            .ok_or(SubmitError::NoSuchLun)?;
        if row.state != LunState::Up {
            return Err(SubmitError::NotReady);
        }
        let left = match op {
            Op::Flush => {
                supported(row, op)?;
                1
            }
            Op::Trim => {
                supported(row, op)?;
                in_range(row, lba, sectors)?
            }
            Op::Read | Op::Write if sectors > u32::MAX / 512 => {
                return Err(SubmitError::TooLarge { sectors });
            }
            Op::Read | Op::Write => in_range(row, lba, sectors)?,
        };
        let (port, waits) = (row.port, row.head != NONE);
        if waits && self.is_blocked(port, Some(op), false) {
            return Err(SubmitError::Busy);
        }
        let lba = if op == Op::Flush { 0 } else { lba };
        let io = Io {
            op,
            lun: lun.0,
            error: None,
            lba,
            left,
            offset: 0,
            open: 0,
            next: NONE,
            queued: true,
            user,
        };
        let id = self.ios.take(io).ok_or(SubmitError::Busy)?;
        let row = &mut self.luns[usize::from(lun.0)];
        if op == Op::Flush && row.durability.take_loss() {
            let io = &mut self.ios[id];
            (io.left, io.queued, io.error) = (0, false, Some(IoError::Restarted));
            self.settle(id);
            return Ok(IoId(id));
        }
        if row.tail == NONE {
            row.head = id;
        } else {
            self.ios[row.tail].next = id;
        }
        row.tail = id;
        self.make_ready(lun);
        Ok(IoId(id))
    }

    /// Whether there is no room for another I/O.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.ios.is_full()
    }

    /// I/Os that were accepted and whose completion was not fetched yet.
    #[must_use]
    pub fn in_flight(&self) -> u32 {
        self.ios.used()
    }

    #[inline]
    fn make_ready(&mut self, id: LunId) {
        let lun = &mut self.luns[usize::from(id.0)];
        if !lun.in_ready && lun.is_ready() {
            lun.in_ready = true;
            self.ready.push_back(id);
        }
    }

    /// The next completed I/O: its name (free for reuse from now on), what the caller gave with
    /// it, and how it ended.
    #[inline]
    pub fn next_completion(&mut self) -> Option<(IoId, u64, Result<(), IoError>)> {
        let id = self.done.pop_front()?;
        let io = self.ios[id];
        self.ios.give_back(id);
        Some((IoId(id), io.user, io.error.map_or(Ok(()), Err)))
    }

    /// The next event.
    pub fn next_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    fn event(&mut self, event: Event) {
        if self.events.len() == EVENTS {
            self.events.pop_front();
            self.counters.events_lost += 1;
        }
        self.events.push_back(event);
    }

    /// The time that the state machine counts in: the host's, less the pauses.
    #[must_use]
    pub fn now(&self) -> Time {
        self.now
    }

    /// Grows with each command that was given up, sent or not.
    #[inline]
    #[must_use]
    pub fn given_up(&self) -> u64 {
        self.given_up
    }

    /// Lets an I/O go if nothing of it is open any more.
    #[inline]
    fn settle(&mut self, id: u32) {
        let io = &self.ios[id];
        if io.left == 0 && io.open == 0 && !io.queued {
            let stats = &mut self.luns[usize::from(io.lun)].stats;
            match io.error {
                None => stats.completed += 1,
                Some(_) => stats.failed += 1,
            }
            self.done.push_back(id);
        }
    }

    /// Ends a slot's command, with an error or without. The slot is free again unless a ring may
    /// still read the caller's payload.
    #[inline]
    fn retire(&mut self, id: u32, error: Option<IoError>) {
        self.timers.disarm(id);
        let slot = self.slots[id];
        match slot.kind {
            slots::Kind::Ata(_) => {
                self.luns[usize::from(slot.lun)].inflight -= 1;
                self.make_ready(LunId(slot.lun));
            }
            slots::Kind::Discover(_) => self.discovers -= 1,
            slots::Kind::Query => self.luns[usize::from(slot.lun)].querying = false,
        }
        if slot.io != NONE
            && let Some(error) = error
        {
            let io = &mut self.ios[slot.io];
            io.error.get_or_insert(error);
            io.left = 0;
        }
        if slot.zero_copy && !self.has_left(&slot) {
            self.slots[id].state = State::Draining;
            self.draining.push(id);
            self.counters.drained += 1;
        } else {
            self.close(id);
        }
    }

    /// Whether the copy that reads the caller's memory is known to have left its ring.
    #[inline]
    fn has_left(&self, slot: &slots::Slot) -> bool {
        self.ports[usize::from(slot.port_first)].left_seq > slot.seq_first
    }

    /// Frees a slot and lets its I/O go if it was the last one.
    #[inline]
    fn close(&mut self, id: u32) {
        let io = self.slots[id].io;
        self.slots.give_back(id);
        if io != NONE {
            self.ios[io].open -= 1;
            self.settle(io);
        }
    }

    /// Looks through the slots whose payload may still be read: closes those that have left their
    /// ring, and those of which `released` says that the driver has let go.
    pub fn drain(&mut self, mut released: impl FnMut(u32) -> bool) {
        let mut at = 0;
        while let Some(&id) = self.draining.get(at) {
            if self.has_left(&self.slots[id]) || released(id) {
                self.draining.swap_remove(at);
                self.close(id);
            } else {
                at += 1;
            }
        }
    }

    /// Slots whose command has ended while a ring may still read their payload.
    #[must_use]
    pub fn draining(&self) -> &[u32] {
        &self.draining
    }

    /// The number of slots.
    #[must_use]
    pub fn slots(&self) -> u32 {
        self.slots.len()
    }

    /// Slots that are free.
    #[must_use]
    pub fn free_slots(&self) -> u32 {
        self.slots.free_count()
    }

    /// Counters.
    #[must_use]
    pub fn counters(&self) -> Counters {
        Counters {
            tag_rests: self.slots.tag_rests,
            ..self.counters
        }
    }

    /// Dropped frames by reason.
    #[must_use]
    pub fn drops(&self) -> &Drops {
        &self.drops
    }

    /// The LUN with this address.
    #[must_use]
    pub fn find_lun(&self, addr: ShelfSlot) -> Option<LunId> {
        self.by_addr.get(&addr).copied()
    }

    /// Everything about one LUN.
    #[must_use]
    pub fn lun(&self, id: LunId) -> Option<LunInfo> {
        let lun = self.luns.get(usize::from(id.0))?;
        Some(LunInfo {
            id,
            addr: lun.addr,
            state: lun.state,
            mac: lun.mac,
            port: lun.port,
            sectors: lun.capacity,
            identity: lun.identity,
            identify: lun.identify,
            buffer_count: lun.buffer_count,
            target_max_sectors: lun.target_max_sectors,
            firmware: lun.firmware,
            sectors_per_frame: lun.sectors_per_frame,
            window: lun.pacing.window(),
            inflight: lun.inflight,
            srtt_ns: lun.pacing.srtt_ns(),
            rto_ns: lun.pacing.rto_ns(0, &self.config.pacing),
            stats: lun.stats,
            stranger: lun.last_stranger,
        })
    }

    /// Which disk a LUN is now: see [`LunInfo::identity`]. 0 if there is no such LUN.
    #[inline]
    #[must_use]
    pub fn identity(&self, id: LunId) -> u32 {
        self.luns
            .get(usize::from(id.0))
            .map_or(0, |lun| lun.identity)
    }

    /// All LUNs that were ever configured or seen.
    pub fn luns(&self) -> impl Iterator<Item = LunInfo> + '_ {
        (0..self.luns.len()).filter_map(|i| self.lun(LunId(i as u16)))
    }
}

fn supported(lun: &Lun, op: Op) -> Result<(), SubmitError> {
    let offered = lun.identify.is_some_and(|id: Identify| match op {
        Op::Flush => id.flush || id.flush_ext,
        Op::Trim => id.trim,
        Op::Read | Op::Write => true,
    });
    if offered {
        Ok(())
    } else {
        Err(SubmitError::Unsupported(op))
    }
}

#[inline]
fn in_range(lun: &Lun, lba: u64, sectors: u32) -> Result<u32, SubmitError> {
    if sectors == 0 {
        return Err(SubmitError::Empty);
    }
    match lba.checked_add(u64::from(sectors)) {
        Some(end) if end <= lun.capacity => Ok(sectors),
        _ => Err(SubmitError::OutOfRange {
            lba,
            sectors,
            capacity: lun.capacity,
        }),
    }
}
