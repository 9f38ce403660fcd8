//! Finding LUNs: broadcasts, probes, config answers, IDENTIFY.
//!
//! Nothing is believed that was not asked for: an announcement only makes us ask, with a tag that
//! nobody can guess.

use super::slots::{Kind, Slot};
use super::{
    AtaOp, DropReason, Event, Initiator, LunId, LunState, Received, Time, lun::sectors_per_frame,
};
use crate::wire::query::Query;
use crate::wire::{Command, Header, Identify};
use crate::{Mac, ShelfSlot};

/// Rounds of discovery that follow each other quickly after a start.
const FAST_ROUNDS: u32 = 3;
/// LUNs that are probed one by one at most.
const PROBES: usize = 4;

impl Initiator {
    /// Broadcasts and probes that are due.
    pub(super) fn look_for_luns(&mut self) {
        if self.config.discover && self.now >= self.next_discovery {
            let fast = self.discovery_rounds < FAST_ROUNDS;
            self.discovery_rounds += 1;
            let wait = if fast {
                self.config.probe_interval_ns
            } else {
                self.config.discovery_interval_ns
            };
            self.next_discovery = self.now.plus(wait);
            self.broadcast(ShelfSlot::ALL);
        }
        if self.now >= self.next_probe {
            self.probe_missing();
        }
        if !self.draining.is_empty() && self.now >= self.next_drain_probe {
            self.next_drain_probe = self.now.plus(self.config.probe_interval_ns / 10);
            self.probe_draining();
        }
    }

    /// A ring that holds a caller's memory is flushed by any later frame whose answer comes back.
    fn probe_draining(&mut self) {
        for port in 0..self.ports.len() as u8 {
            if !self.draining.iter().any(|&id| self.slots[id].port_first == port) {
                continue;
            }
            let answers = |lun: &super::Lun| lun.state == LunState::Up && lun.port == port;
            match self.luns.iter().position(answers) {
                Some(lun) => self.query(lun as u16),
                None => {
                    self.control(Kind::Discover(ShelfSlot::ALL), LunId(0), port, self.now);
                }
            }
        }
    }

    /// Asks all targets to answer, now.
    pub fn rescan(&mut self) {
        self.next_discovery = self.now.plus(self.config.discovery_interval_ns);
        self.broadcast(ShelfSlot::ALL);
    }

    fn broadcast(&mut self, addr: ShelfSlot) {
        for port in 0..self.ports.len() {
            self.control(Kind::Discover(addr), LunId(0), port as u8, self.now);
        }
    }

    /// Probes the LUNs that are not up: a few one by one, many with one question to all.
    fn probe_missing(&mut self) {
        let interval = self.config.probe_interval_ns;
        self.next_probe = self.now.plus(interval / 8);
        self.look_for_stuck();
        let now = self.now;
        let missing = |lun: &super::Lun| {
            let due = lun.probed == Time(0) || now.since(lun.probed) >= interval;
            due && matches!(lun.state, LunState::Absent | LunState::Lost)
        };
        let many = self.luns.iter().filter(|lun| missing(lun)).count() > PROBES;
        if many {
            self.broadcast(ShelfSlot::ALL);
        }
        for i in 0..self.luns.len() {
            if !missing(&self.luns[i]) {
                continue;
            }
            self.luns[i].probed = now.max(Time(1));
            if !many {
                self.broadcast(self.luns[i].addr);
            }
        }
    }

    /// Asks a LUN's target for its limits.
    pub(super) fn query(&mut self, lun: u16) {
        if !self.luns[usize::from(lun)].querying {
            self.control(Kind::Query, LunId(lun), 0, self.now);
        }
    }

    /// A response whose tag is none of ours: an announcement, or nothing of use.
    pub(super) fn unmatched(
        &mut self,
        port: u8,
        header: &Header,
        head: &[u8],
        at: usize,
        len: usize,
    ) -> Received {
        if header.command != Command::Query as u8 {
            let ours = self.slots.layout.split(header.tag).is_some();
            return self.dropped(if ours { DropReason::StaleTag } else { DropReason::ForeignTag });
        }
        if header.version > 1 {
            return self.dropped(DropReason::Version);
        }
        if head.len() < len && head.len() < super::receive::LINEAR_MAX {
            return Received::Linearize(super::receive::LINEAR_MAX.min(len));
        }
        if header.flags.is_error() || Query::parse(head.get(at..).unwrap_or_default()).is_err() {
            return self.dropped(DropReason::Malformed);
        }
        if !header.addr.is_addressable() {
            return self.dropped(DropReason::BadAddress);
        }
        self.counters.announcements += 1;
        self.announced(port, header.addr);
        Received::Done
    }

    /// Somebody says that a target is there: asks it, unless it is up or was asked just now.
    fn announced(&mut self, port: u8, addr: ShelfSlot) {
        let soon = self.config.probe_interval_ns / 4;
        match self.find_lun(addr) {
            Some(id) => {
                let lun = &mut self.luns[usize::from(id.0)];
                let asked = lun.probed != Time(0) && self.now.since(lun.probed) < soon;
                if asked || lun.state == LunState::Identifying {
                    return;
                }
                lun.probed = self.now.max(Time(1));
                if lun.state == LunState::Up {
                    // Its target may have been restarted, over another disk perhaps.
                    self.query(id.0);
                    self.control(Kind::Ata(AtaOp::Identify), id, port, self.now);
                } else {
                    self.control(Kind::Discover(addr), id, port, self.now);
                }
            }
            // Bring the next round forward instead of answering each announcement with a frame.
            None if self.config.discover => {
                self.next_discovery = self.next_discovery.min(self.now.plus(soon));
            }
            None => self.drops.count(DropReason::Unwanted),
        }
    }

    /// A config answer that was asked for.
    pub(super) fn config_answer(
        &mut self,
        port: u8,
        id: u32,
        slot: &Slot,
        header: &Header,
        body: &[u8],
    ) -> Received {
        let asked_one = slot.kind == Kind::Query;
        let query = match Query::parse(body) {
            Ok(query) if !header.flags.is_error() => query,
            _ => return self.dropped(DropReason::Malformed),
        };
        self.counters.matched += 1;
        if asked_one {
            self.luns[usize::from(slot.lun)].last_answer = self.now;
            self.retire(id, None);
        }
        let known = self.find_lun(header.addr);
        if known.is_none() && !self.config.discover {
            return self.dropped(DropReason::Unwanted);
        }
        let Some(lun) = known.or_else(|| self.lun_at(header.addr, false)) else {
            return self.dropped(DropReason::Unwanted);
        };
        match self.luns[usize::from(lun.0)].state {
            LunState::Absent | LunState::Lost => self.found(lun, port, header.src, &query),
            LunState::Up | LunState::Identifying => self.seen(lun, header.src, &query),
        }
        Received::Done
    }

    /// A target answers for a LUN that was not up.
    fn found(&mut self, id: LunId, port: u8, mac: Mac, query: &Query<'_>) {
        let lun = &mut self.luns[usize::from(id.0)];
        (lun.port, lun.mac, lun.last_stranger) = (port, mac, None);
        lun.pacing = super::Pacing::new(&self.config.pacing, 1);
        self.limits(id, query);
        // Without a slot the next probe tries again.
        if self.control(Kind::Ata(AtaOp::Identify), id, port, self.now).is_some() {
            self.luns[usize::from(id.0)].state = LunState::Identifying;
        }
    }

    /// A target answers for a LUN that has one.
    fn seen(&mut self, id: LunId, mac: Mac, query: &Query<'_>) {
        let lun = &mut self.luns[usize::from(id.0)];
        if lun.mac == mac {
            self.limits(id, query);
            return;
        }
        self.drops.count(DropReason::DuplicateAddress);
        if lun.last_stranger != Some(mac) {
            lun.last_stranger = Some(mac);
            self.event(Event::Duplicate { lun: id, mac });
        }
    }

    /// Takes over how much the target can take.
    fn limits(&mut self, id: LunId, query: &Query<'_>) {
        let lun = &mut self.luns[usize::from(id.0)];
        let mtu = self.ports.get(usize::from(lun.port)).map_or(0, |p| p.info.mtu);
        let sectors = sectors_per_frame(query.max_sectors, mtu);
        let share = u32::from(query.buffer_count) / self.config.cores.max(1);
        let window = share.clamp(1, self.config.window_max.max(1));
        let changed =
            (lun.buffer_count, lun.target_max_sectors) != (query.buffer_count, query.max_sectors);
        lun.buffer_count = query.buffer_count;
        lun.target_max_sectors = query.max_sectors;
        lun.firmware = query.firmware;
        lun.sectors_per_frame = sectors;
        lun.pacing.set_window_max(window);
        if changed && lun.state == LunState::Up {
            self.event(Event::Limits { lun: id });
        }
        self.make_ready(id);
    }

    /// IDENTIFY was answered: the LUN is up.
    pub(super) fn identified(&mut self, id: u32, slot: &Slot, identify: &Identify) -> Received {
        self.retire(id, None);
        let lun_id = LunId(slot.lun);
        if identify.sectors == 0 {
            self.not_identified(lun_id);
            return Received::Done;
        }
        let lun = &mut self.luns[usize::from(slot.lun)];
        let was_up = lun.state == LunState::Up;
        let changed = lun.identify.is_some_and(|old| {
            (old.sectors, old.serial, old.model)
                != (identify.sectors, identify.serial, identify.model)
        });
        lun.identified(identify);
        lun.state = LunState::Up;
        if changed || !was_up {
            self.event(Event::Up { lun: lun_id, changed });
        }
        self.make_ready(lun_id);
        Received::Done
    }

    /// IDENTIFY was refused.
    pub(super) fn identify_failed(&mut self, id: u32, slot: &Slot) -> Received {
        self.retire(id, None);
        self.not_identified(LunId(slot.lun));
        Received::Done
    }

    fn not_identified(&mut self, id: LunId) {
        let lun = &mut self.luns[usize::from(id.0)];
        if lun.state == LunState::Up {
            // Asked once more while it works: what it said before still holds.
            return;
        }
        lun.state = if lun.identify.is_some() { LunState::Lost } else { LunState::Absent };
        self.event(Event::IdentifyFailed { lun: id });
    }

    /// A control command was never answered.
    pub(super) fn control_failed(&mut self, id: u32) {
        let slot = self.slots[id];
        self.retire(id, None);
        if slot.kind == Kind::Ata(AtaOp::Identify) {
            self.not_identified(LunId(slot.lun));
        }
    }
}
