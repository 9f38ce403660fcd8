//! Where a host takes the time from that it hands to the engine.

use aoe_proto::initiator::Time;

/// A clock that never runs backwards.
pub trait Clock {
    /// Now.
    fn now(&self) -> Time;
}

/// The processor's time-stamp counter, by DPDK's calibration: some 25 cycles a reading, and no
/// system call.
#[derive(Clone, Copy, Debug)]
pub struct TscClock {
    start: u64,
    /// Nanoseconds for each cycle, times 2^32.
    scale: u64,
}

impl TscClock {
    /// A clock that starts now at about 0. The EAL has to be up.
    #[must_use]
    pub fn new() -> Self {
        let hz = crate::dpdk::tsc_hz().max(1);
        let scale = ((1_000_000_000_u128 << 32) / u128::from(hz)) as u64;
        Self {
            start: crate::dpdk::rdtsc(),
            scale,
        }
    }
}

impl Default for TscClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for TscClock {
    #[inline]
    fn now(&self) -> Time {
        let cycles = crate::dpdk::rdtsc().wrapping_sub(self.start);
        Time(((u128::from(cycles) * u128::from(self.scale)) >> 32) as u64)
    }
}
