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
/// Probes that are sent one by one at most, counted over all ports.
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
            if !self
                .draining
                .iter()
                .any(|&id| self.slots[id].port_first == port)
            {
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

    /// Asks all targets to answer, now. A LUN that is up and does not answer will be lost.
    pub fn rescan(&mut self) {
        let asked = self.broadcast(ShelfSlot::ALL);
        let wait = if asked {
            self.config.discovery_interval_ns
        } else {
            0
        };
        self.next_discovery = self.now.plus(wait);
        for lun in 0..self.luns.len() {
            if self.luns[lun].state == LunState::Up {
                self.query(lun as u16);
            }
        }
    }

    /// Asks on all ports; false if there was no slot for one of them.
    fn broadcast(&mut self, addr: ShelfSlot) -> bool {
        let mut ports = 0..self.ports.len() as u8;
        ports.all(|port| {
            self.control(Kind::Discover(addr), LunId(0), port, self.now)
                .is_some()
        })
    }

    /// Probes the LUNs that are not up: a few one by one, many with one question to all. And asks
    /// those again that may have changed or gone.
    fn probe_missing(&mut self) {
        let interval = self.config.probe_interval_ns;
        self.next_probe = self.now.plus(interval / 8);
        self.look_for_stuck();
        self.ask_again();
        let now = self.now;
        let missing = |lun: &super::Lun| {
            let due = lun.probed == Time(0) || now.since(lun.probed) >= interval;
            due && matches!(lun.state, LunState::Absent | LunState::Lost)
        };
        let count = self.luns.iter().filter(|lun| missing(lun)).count();
        let all = count * self.ports.len() > PROBES;
        if count == 0 || (all && !self.broadcast(ShelfSlot::ALL)) {
            return;
        }
        for i in 0..self.luns.len() {
            if missing(&self.luns[i]) && (all || self.broadcast(self.luns[i].addr)) {
                self.luns[i].probed = now.max(Time(1));
            }
        }
    }

    /// LUNs that are up: has the disk changed, and is the target still there?
    fn ask_again(&mut self) {
        for i in 0..self.luns.len() {
            let lun = &mut self.luns[i];
            if lun.state != LunState::Up {
                continue;
            }
            let rested = self.now.since(lun.probed) >= self.config.probe_interval_ns / 4;
            let port = lun.port;
            let silent = self.now.since(lun.last_answer) > self.config.discovery_interval_ns;
            let room = lun.inflight < lun.pacing.window();
            if lun.ask_again && rested && room {
                lun.probed = self.now.max(Time(1));
                self.query(i as u16);
                let id = LunId(i as u16);
                let asked = self.control(Kind::Ata(AtaOp::Identify), id, port, self.now);
                self.luns[i].ask_again = asked.is_none();
                self.make_ready(id);
            } else if silent {
                self.query(i as u16);
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
            return self.dropped(if ours {
                DropReason::StaleTag
            } else {
                DropReason::ForeignTag
            });
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
        self.announced(port, header);
        Received::Done
    }

    /// Somebody says that a target is there: asks it, unless it is up or was asked just now.
    fn announced(&mut self, port: u8, header: &Header) {
        let addr = header.addr;
        let soon = self.config.probe_interval_ns / 4;
        match self.find_lun(addr) {
            Some(id) => {
                let lun = &mut self.luns[usize::from(id.0)];
                let asked = lun.probed != Time(0) && self.now.since(lun.probed) < soon;
                match lun.state {
                    // Its target may have been restarted, over another disk perhaps.
                    LunState::Up | LunState::Identifying => {
                        lun.ask_again = true;
                        // To all, so it is no late answer to us.
                        if header.dst.is_group() && header.src == lun.mac {
                            lun.durability.restarted();
                        }
                    }
                    LunState::Absent | LunState::Lost if asked => {}
                    LunState::Absent | LunState::Lost => {
                        lun.probed = self.now.max(Time(1));
                        self.control(Kind::Discover(addr), id, port, self.now);
                    }
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
        let Some(lun) = known.or_else(|| self.lun_at(header.addr)) else {
            return self.dropped(DropReason::Unwanted);
        };
        match self.luns[usize::from(lun.0)].state {
            LunState::Absent | LunState::Lost => self.found(lun, port, header.src, &query),
            LunState::Up | LunState::Identifying => {
                self.seen(lun, (port, header.src), asked_one, &query)
            }
        }
        Received::Done
    }

    /// A target answers for a LUN that was not up.
    fn found(&mut self, id: LunId, port: u8, mac: Mac, query: &Query<'_>) {
        let lun = &mut self.luns[usize::from(id.0)];
        if lun.state == LunState::Lost {
            // Why it was away is not known; that it was restarted is the worse guess to get wrong.
            lun.durability.restarted();
        }
        (lun.port, lun.mac, lun.last_stranger) = (port, mac, None);
        lun.pacing = super::Pacing::new(&self.config.pacing, 1);
        self.limits(id, query);
        // Without a slot the next probe tries again.
        if self
            .control(Kind::Ata(AtaOp::Identify), id, port, self.now)
            .is_some()
        {
            self.luns[usize::from(id.0)].state = LunState::Identifying;
        }
    }

    /// A target answers for a LUN that has one.
    fn seen(&mut self, id: LunId, from: (u8, Mac), asked_one: bool, query: &Query<'_>) {
        let (port, mac) = from;
        let lun = &mut self.luns[usize::from(id.0)];
        if lun.mac == mac && lun.port != port {
            // The same target by another way, which is not used: it says nothing about this one.
            return;
        }
        if lun.mac == mac {
            lun.last_answer = self.now;
            // A round of discovery also finds out whether the disk is still the same.
            lun.ask_again |= !asked_one;
            self.limits(id, query);
            return;
        }
        self.drops.count(DropReason::DuplicateAddress);
        lun.last_stranger = Some(mac);
        let told = lun.stranger_told;
        if told == Time(0) || self.now.since(told) >= self.config.discovery_interval_ns / 2 {
            // A flood of forged ones is one event.
            lun.stranger_told = self.now.max(Time(1));
            self.event(Event::Duplicate { lun: id, mac });
        }
    }

    /// Takes over how much the target can take.
    fn limits(&mut self, id: LunId, query: &Query<'_>) {
        let lun = &mut self.luns[usize::from(id.0)];
        let mtu = self
            .ports
            .get(usize::from(lun.port))
            .map_or(0, |p| p.info.mtu);
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
        let before = lun.identity;
        lun.identified(identify);
        if was_up && lun.identity != before {
            // Another disk under the same address: what was meant for the old one ends here.
            self.fail_all(lun_id, super::IoError::LunLost);
        }
        let lun = &mut self.luns[usize::from(slot.lun)];
        lun.state = LunState::Up;
        if changed || !was_up {
            self.event(Event::Up {
                lun: lun_id,
                changed,
            });
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
        lun.state = if lun.identify.is_some() {
            LunState::Lost
        } else {
            LunState::Absent
        };
        self.event(Event::IdentifyFailed { lun: id });
    }

    /// A control command was never answered.
    pub(super) fn control_failed(&mut self, id: u32) {
        let slot = self.slots[id];
        self.retire(id, None);
        let lun = &self.luns[usize::from(slot.lun)];
        if slot.kind == Kind::Ata(AtaOp::Identify) {
            self.not_identified(LunId(slot.lun));
        } else if lun.state == LunState::Up && lun.last_answer <= slot.sent_first {
            // Nothing was in flight, and it does not answer a question either.
            self.lose(LunId(slot.lun));
        }
    }
}
