//! When to send again, and how much may be in flight: one [`Pacing`] for each path.
//!
//! The timeout follows Jacobson's estimator. Every copy of a command has a tag of its own, so each
//! sample is of one frame that was sent once (Karn's ambiguity does not arise). A command's timeout
//! doubles with each of its copies. The window starts at the target's buffer count, halves at a loss (at most
//! once in a timeout) and grows by one for each window of answers, and never exceeds the
//! target's buffer count: what is beyond it, targets drop without a word.

use super::time::Time;

/// Bounds for [`Pacing`], in nanoseconds.
#[derive(Clone, Copy, Debug)]
pub struct PacingLimits {
    /// The least time before a frame is sent again.
    pub rto_min_ns: u64,
    /// The most time before a frame is sent again, back-off included.
    pub rto_max_ns: u64,
    /// The time before a frame is sent again while no round trip has been seen.
    pub rto_initial_ns: u64,
}

/// Round-trip estimate and window of one path.
#[derive(Clone, Copy, Debug)]
pub struct Pacing {
    srtt_ns: u64,
    deviation_ns: u64,
    rto_ns: u64,
    window: u32,
    window_max: u32,
    answers: u32,
    last_cut: Time,
}

impl Pacing {
    /// A path whose target can queue `window_max` commands (0 counts as 1).
    #[must_use]
    pub fn new(limits: &PacingLimits, window_max: u32) -> Self {
        let window_max = window_max.max(1);
        Self {
            srtt_ns: 0,
            deviation_ns: 0,
            rto_ns: limits.rto_initial_ns,
            window: window_max,
            window_max,
            answers: 0,
            last_cut: Time(0),
        }
    }

    /// How many commands may be unanswered at once.
    #[inline]
    #[must_use]
    pub fn window(&self) -> u32 {
        self.window
    }

    /// The smoothed round-trip time in nanoseconds, 0 before the first sample.
    #[must_use]
    pub fn srtt_ns(&self) -> u64 {
        self.srtt_ns
    }

    /// How long to wait for the answer to a command's `copy`th copy, counted from 0, before sending
    /// another one, in nanoseconds: twice as long for each.
    #[inline]
    #[must_use]
    pub fn rto_ns(&self, copy: u32, limits: &PacingLimits) -> u64 {
        (self.rto_ns << copy.min(16)).min(limits.rto_max_ns)
    }

    /// The target now says that it can queue `max` commands.
    pub fn set_window_max(&mut self, max: u32) {
        let max = max.max(1);
        if max > self.window_max && self.window == self.window_max {
            self.window = max;
        }
        self.window_max = max;
        self.window = self.window.min(max);
    }

    /// An answer came; `rtt_ns` is the age of the copy that it answers, if that is known.
    #[inline]
    pub fn answered(&mut self, rtt_ns: Option<u64>, limits: &PacingLimits) {
        if let Some(rtt) = rtt_ns {
            self.sample(rtt, limits);
        }
        if self.window < self.window_max {
            self.answers += 1;
            if self.answers >= self.window {
                self.answers = 0;
                self.window += 1;
            }
        }
    }

    #[inline]
    fn sample(&mut self, rtt: u64, limits: &PacingLimits) {
        if self.srtt_ns == 0 {
            self.srtt_ns = rtt.max(1);
            self.deviation_ns = rtt / 2;
        } else {
            let error = rtt.abs_diff(self.srtt_ns);
            self.deviation_ns = self.deviation_ns - self.deviation_ns / 4 + error / 4;
            self.srtt_ns = (self.srtt_ns - self.srtt_ns / 8 + rtt / 8).max(1);
        }
        self.rto_ns = (self.srtt_ns + 4 * self.deviation_ns).max(limits.rto_min_ns);
    }

    /// A command was not answered in time.
    pub fn timed_out(&mut self, now: Time) {
        if now.since(self.last_cut) > self.rto_ns {
            self.last_cut = now;
            self.window = (self.window / 2).max(1);
            self.answers = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: PacingLimits = PacingLimits {
        rto_min_ns: 1_000_000,
        rto_max_ns: 4_000_000_000,
        rto_initial_ns: 200_000_000,
    };

    #[test]
    fn the_timeout_follows_the_round_trip_within_its_bounds() {
        let mut p = Pacing::new(&LIMITS, 16);
        assert_eq!(p.rto_ns(0, &LIMITS), 200_000_000);
        for _ in 0..100 {
            p.answered(Some(10_000_000), &LIMITS);
        }
        assert!(
            (10_000_000..13_000_000).contains(&p.rto_ns(0, &LIMITS)),
            "{}",
            p.rto_ns(0, &LIMITS)
        );
        for _ in 0..200 {
            p.answered(Some(1_000), &LIMITS);
        }
        assert_eq!(p.rto_ns(0, &LIMITS), LIMITS.rto_min_ns);
    }

    #[test]
    fn each_copy_waits_twice_as_long_up_to_the_ceiling() {
        let p = Pacing::new(&LIMITS, 16);
        let waits: Vec<_> = [0, 1, 2, 255]
            .map(|copy| p.rto_ns(copy, &LIMITS) / 1_000_000)
            .into();
        assert_eq!(waits, [200, 400, 800, 4_000]);
    }

    #[test]
    fn the_window_closes_with_losses_and_opens_with_answers() {
        let mut p = Pacing::new(&LIMITS, 16);
        for i in 1..40 {
            p.timed_out(Time(i * 1_000_000_000));
        }
        assert_eq!(p.window(), 1);
        for _ in 0..1_000 {
            p.answered(Some(20_000), &LIMITS);
        }
        assert_eq!(p.window(), 16);
    }

    #[test]
    fn one_burst_of_losses_halves_the_window_once() {
        let mut p = Pacing::new(&LIMITS, 64);
        p.answered(Some(5_000_000), &LIMITS);
        for _ in 0..10 {
            p.timed_out(Time(1_000_000_000));
        }
        assert_eq!(p.window(), 32);
    }

    #[test]
    fn a_buffer_count_of_0_still_lets_one_command_out() {
        assert_eq!(Pacing::new(&LIMITS, 0).window(), 1);
        let mut p = Pacing::new(&LIMITS, 16);
        p.set_window_max(0);
        assert_eq!(p.window(), 1);
        p.set_window_max(8);
        assert_eq!(p.window(), 8);
    }
}
