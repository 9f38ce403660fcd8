//! A deadline for each slot: a dense array, swept once a tick.
//!
//! Arming is one store and disarming another, which is all that the fault-free path pays; a sweep
//! over 4,096 slots takes about a microsecond a millisecond.

use super::time::Time;

/// Ticks of 2^20 ns, about 1 ms.
const TICK_SHIFT: u32 = 20;

/// Deadlines, `Time::NEVER` where none is armed.
#[derive(Debug)]
pub(super) struct Timers {
    due: Box<[Time]>,
    tick: u64,
    now: Time,
}

impl Timers {
    pub fn new(slots: u32) -> Self {
        let due = vec![Time::NEVER; slots as usize].into_boxed_slice();
        Self {
            due,
            tick: 0,
            now: Time(0),
        }
    }

    #[inline]
    pub fn arm(&mut self, slot: u32, at: Time) {
        self.due[slot as usize] = at;
    }

    #[inline]
    pub fn disarm(&mut self, slot: u32) {
        self.due[slot as usize] = Time::NEVER;
    }

    /// Whether a new tick has begun since the last sweep.
    #[inline]
    pub fn tick_began(&self, now: Time) -> bool {
        now.0 >> TICK_SHIFT != self.tick
    }

    /// Starts a sweep at `now`; follow with [`Self::next_due`] until it is `None`.
    pub fn begin_sweep(&mut self, now: Time) -> Sweep {
        self.tick = now.0 >> TICK_SHIFT;
        self.now = now;
        Sweep { at: 0 }
    }

    /// The next slot that is due, which is disarmed.
    pub fn next_due(&mut self, sweep: &mut Sweep) -> Option<u32> {
        let rest = self.due.get(sweep.at..)?;
        let found = rest.iter().position(|&due| due <= self.now)?;
        let slot = sweep.at + found;
        sweep.at = slot + 1;
        self.due[slot] = Time::NEVER;
        Some(slot as u32)
    }
}

/// How far a sweep has come.
#[derive(Debug)]
pub(super) struct Sweep {
    at: usize,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn due(t: &mut Timers, now: Time) -> Vec<u32> {
        let mut sweep = t.begin_sweep(now);
        std::iter::from_fn(|| t.next_due(&mut sweep)).collect()
    }

    #[test]
    fn fires_once_and_never_early() {
        let mut t = Timers::new(4);
        t.arm(1, Time(5_000_000));
        t.arm(3, Time(50_000_000));
        t.arm(0, Time(5_000_000));
        t.disarm(0);
        for ns in (0..5_000_000).step_by(100_000) {
            assert_eq!(due(&mut t, Time(ns)), []);
        }
        assert_eq!(due(&mut t, Time(5_000_000)), [1]);
        assert_eq!(due(&mut t, Time(6_000_000)), []);
        assert_eq!(due(&mut t, Time(50_000_000)), [3]);
    }
}
