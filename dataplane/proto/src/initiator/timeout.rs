//! Commands that are not answered: sent again, then given up, with their LUN or alone.

use super::io::NONE;
use super::slots::{Kind, State};
use super::{AtaOp, Event, Initiator, IoError, LunId, LunState, Time};

/// Ticks, that is milliseconds, that timers wait for a backlog of received frames at most.
const BACKLOG_TICKS: u32 = 16;
/// Copies of IDENTIFY before it is given up; the next probe starts over.
const CONTROL_COPIES: u8 = 5;

impl Initiator {
    /// Begins a turn: takes the time. Call it before any frame is handed over, so that answers are
    /// seen before timers, and [`Self::tick`] after the last one.
    #[inline]
    pub fn begin(&mut self, now: Time) {
        self.clock(now);
    }

    /// There is more to receive than the host handed over in this turn: no timer runs in it.
    #[inline]
    pub fn backlog(&mut self) {
        self.backlog = true;
    }

    /// Runs what is due: resends, losses, probes, discovery.
    #[inline]
    pub fn tick(&mut self) {
        // While answers wait to be looked at, what they answer is not late.
        let backlog = std::mem::take(&mut self.backlog);
        if !self.timers.tick_began(self.now) {
            return;
        }
        if backlog && self.ticks_left_out < BACKLOG_TICKS {
            // A flood must not switch the timers off altogether.
            self.ticks_left_out += 1;
            return;
        }
        self.ticks_left_out = 0;
        let mut sweep = self.timers.begin_sweep(self.now);
        while let Some(id) = self.timers.next_due(&mut sweep) {
            self.due(id);
        }
        self.look_for_luns();
    }

    fn due(&mut self, id: u32) {
        let slot = self.slots[id];
        match slot.kind {
            Kind::Discover(_) => self.retire(id, None),
            Kind::Ata(AtaOp::Identify) if slot.copies >= CONTROL_COPIES => self.control_failed(id),
            Kind::Query | Kind::Ata(AtaOp::Identify) if self.is_overdue(slot.sent_first) => {
                self.control_failed(id);
            }
            Kind::Ata(op) if op != AtaOp::Identify && self.is_overdue(slot.sent_first) => {
                self.overdue(id);
            }
            Kind::Query | Kind::Ata(_) => self.late(id),
        }
    }

    /// A command was not answered in time: sends it again, if there is a point in it.
    fn late(&mut self, id: u32) {
        let slot = self.slots[id];
        let ring = self.ports.get(usize::from(slot.port_last));
        let untaken = ring.is_some_and(|ring| slot.seq_last >= ring.accepted_seq);
        if slot.state != State::Sent || untaken {
            // Another copy behind one that the driver has not even taken would help nobody.
            let again = self.config.pacing.rto_min_ns;
            self.timers.arm(id, self.now.plus(again));
            return;
        }
        if slot.kind != Kind::Query {
            self.doubt(&slot);
        }
        let lun = &mut self.luns[usize::from(slot.lun)];
        lun.pacing.timed_out(self.now);
        lun.stats.resends += 1;
        self.counters.resends += 1;
        self.queue(id);
    }

    /// Half the loss timeout has passed without any answer: asks whether the target is there at
    /// all, so that one command that it never answers does not take the LUN down.
    fn doubt(&mut self, slot: &super::slots::Slot) {
        let unanswered = self.luns[usize::from(slot.lun)].last_answer <= slot.sent_first;
        if unanswered && self.now.since(slot.sent_first) >= self.config.loss_timeout_ns / 2 {
            self.query(slot.lun);
        }
    }

    /// LUNs whose I/O waits while nothing of it is in flight: their port takes nothing.
    pub(super) fn look_for_stuck(&mut self) {
        for i in 0..self.luns.len() {
            let lun = &mut self.luns[i];
            if lun.head == NONE || lun.inflight > 0 {
                lun.stuck_since = None;
                continue;
            }
            let since = *lun.stuck_since.get_or_insert(self.now);
            if self.is_overdue(since) {
                self.luns[i].stuck_since = None;
                self.lose(LunId(i as u16));
            }
        }
    }

    fn is_overdue(&self, since: Time) -> bool {
        self.now.since(since) >= self.config.loss_timeout_ns
    }

    /// The loss timeout of a command: if the LUN answered others in the meantime, only this one
    /// fails.
    fn overdue(&mut self, id: u32) {
        let slot = self.slots[id];
        if self.luns[usize::from(slot.lun)].last_answer > slot.sent_first {
            self.given_up += 1;
            self.retire(id, Some(IoError::TimedOut));
        } else {
            self.lose(LunId(slot.lun));
        }
    }

    /// Gives a LUN up: all its I/O fails, once, and it is probed for.
    pub(super) fn lose(&mut self, id: LunId) {
        let lun = &mut self.luns[usize::from(id.0)];
        lun.state = LunState::Lost;
        lun.stats.losses += 1;
        self.event(Event::Lost { lun: id });
        self.fail_all(id, IoError::LunLost);
    }

    /// Fails all I/O of a LUN, sent or not. Buffers that a ring may still read come back later.
    pub fn fail_all(&mut self, id: LunId, error: IoError) {
        let Some(lun) = self.luns.get(usize::from(id.0)) else {
            return;
        };
        let mut head = lun.head;
        while head != NONE {
            self.pop_io(id);
            let io = &mut self.ios[head];
            io.error.get_or_insert(error);
            io.left = 0;
            self.settle(head);
            head = self.luns[usize::from(id.0)].head;
        }
        for slot in 0..self.slots.len() {
            let row = &self.slots[slot];
            let sent = matches!(row.state, State::Sent | State::Queued);
            // IDENTIFY is nobody's I/O: it goes on.
            let io = matches!(row.kind, Kind::Ata(op) if op != AtaOp::Identify);
            if sent && row.lun == id.0 && io {
                self.given_up += 1;
                self.retire(slot, Some(error));
            }
        }
    }

    /// Fails all I/O of all LUNs, for a shutdown.
    pub fn abort_all(&mut self) {
        for lun in 0..self.luns.len() {
            self.fail_all(LunId(lun as u16), IoError::Aborted);
        }
    }
}
