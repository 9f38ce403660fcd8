//! The frame pool: which frames are free, which the driver still holds, and what to do when it
//! holds too many.
//!
//! A frame that was transmitted is not ours again until the driver has let go of it, and drivers
//! clean their rings late. So a frame is taken in this order:
//!
//! 1. a free one;
//! 2. one at the front of the held ones that has been released since;
//! 3. after a *nudge* to the driver, the same once more;
//! 4. *looking past* stuck frames: any held one that has been released;
//! 5. *overflow*: one of a capped number of extra frames;
//! 6. none: the caller holds new I/O back until the ring moves.
//!
//! Each step is counted. Nothing here waits, and nothing is allocated after the start. Frames are
//! numbers: what they are made of, and whether the driver has let go, is the [`FrameStore`]'s
//! business, which is a port.

use std::collections::VecDeque;

/// Names a frame of a port.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FrameId(pub u32);

/// Where the frames are.
pub trait FrameStore {
    /// Whether the driver has let go of a frame that it had taken.
    fn is_released(&self, frame: FrameId) -> bool;

    /// Makes a released frame ready for its next use.
    fn reset(&mut self, frame: FrameId);

    /// Asks the driver to clean its ring, if there is a way to ask it.
    fn nudge(&mut self);
}

/// How many frames a pool has, and how they are numbered: `first..first + base` are the
/// preallocated ones, followed by `overflow` more.
#[derive(Clone, Copy, Debug, Default)]
pub struct PoolSize {
    /// Number of the first frame.
    pub first: u32,
    /// Frames in the preallocated set.
    pub base: u32,
    /// The cap on frames beyond it.
    pub overflow: u32,
}

/// What happened in a pool: counts, and gauges where it says so.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PoolStats {
    /// Gauge: frames that the driver holds.
    pub held: u32,
    /// The most that it ever held.
    pub held_max: u32,
    /// Gauge: overflow frames in use.
    pub overflow: u32,
    /// The most overflow frames ever in use; never above the cap.
    pub overflow_max: u32,
    /// Frames taken from the overflow.
    pub overflow_taken: u64,
    /// Times that the driver was nudged because no frame was free.
    pub nudges: u64,
    /// Released frames that were found behind a stuck one.
    pub looked_past: u64,
    /// Times that a frame was wanted and there was none at all.
    pub starved: u64,
}

/// Bookkeeping for one kind of frames of one port.
#[derive(Debug)]
pub struct FramePool {
    size: PoolSize,
    free: Vec<u32>,
    overflow: Vec<u32>,
    /// What the driver holds, oldest first unless a stuck one was looked past.
    held: VecDeque<u32>,
    /// How often each frame was taken, so that an earlier use can be told from a later one.
    uses: Box<[u32]>,
    /// A look past stuck frames found nothing: not again before the next turn.
    looked: bool,
    stats: PoolStats,
}

/// Held frames that one look past a stuck one examines at most.
const LOOK_MAX: usize = 512;

impl FramePool {
    /// A pool with all frames free.
    #[must_use]
    pub fn new(size: PoolSize) -> Self {
        let all = size.base + size.overflow;
        Self {
            free: (size.first..size.first + size.base).rev().collect(),
            overflow: (size.first + size.base..size.first + all).rev().collect(),
            held: VecDeque::with_capacity(all as usize),
            uses: vec![0; all as usize].into_boxed_slice(),
            looked: false,
            stats: PoolStats::default(),
            size,
        }
    }

    /// Takes a frame, or counts that there is none.
    #[inline]
    pub fn take(&mut self, store: &mut impl FrameStore) -> Option<FrameId> {
        if self.free.is_empty() && !self.find(store) {
            return None;
        }
        let frame = match self.free.pop() {
            Some(frame) => frame,
            None => self.take_overflow()?,
        };
        let uses = &mut self.uses[(frame - self.size.first) as usize];
        *uses = uses.wrapping_add(1);
        Some(FrameId(frame))
    }

    /// Whether [`Self::take`] would succeed. Goes through the same steps.
    #[inline]
    pub fn ready(&mut self, store: &mut impl FrameStore) -> bool {
        !self.free.is_empty() || self.find(store)
    }

    /// Steps 2 to 5; true if a frame can be taken.
    #[cold]
    fn find(&mut self, store: &mut impl FrameStore) -> bool {
        if self.reap(store, usize::MAX) > 0 {
            return true;
        }
        if !self.looked {
            self.looked = true;
            self.stats.nudges += 1;
            store.nudge();
            if self.reap(store, usize::MAX) > 0 || self.look_past(store) {
                return true;
            }
        }
        self.stats.starved += u64::from(self.overflow.is_empty());
        !self.overflow.is_empty()
    }

    fn take_overflow(&mut self) -> Option<u32> {
        let frame = self.overflow.pop()?;
        self.stats.overflow += 1;
        self.stats.overflow_max = self.stats.overflow_max.max(self.stats.overflow);
        self.stats.overflow_taken += 1;
        Some(frame)
    }

    /// Takes back released frames from the front of the held ones, `most` at most; returns how many
    /// preallocated ones are free because of it.
    #[inline]
    pub fn reap(&mut self, store: &mut impl FrameStore, most: usize) -> usize {
        let mut found = 0;
        for _ in 0..most {
            match self.held.front() {
                Some(&frame) if store.is_released(FrameId(frame)) => {
                    self.held.pop_front();
                    found += usize::from(self.release(store, frame));
                }
                _ => break,
            }
        }
        self.stats.held = self.held.len() as u32;
        found
    }

    /// Takes back released frames behind a stuck one; stuck ones go to the back of the queue.
    fn look_past(&mut self, store: &mut impl FrameStore) -> bool {
        let mut found = 0;
        for _ in 0..self.held.len().min(LOOK_MAX) {
            let Some(frame) = self.held.pop_front() else {
                break;
            };
            if store.is_released(FrameId(frame)) {
                self.stats.looked_past += 1;
                found += usize::from(self.release(store, frame));
            } else {
                self.held.push_back(frame);
            }
        }
        self.stats.held = self.held.len() as u32;
        found > 0
    }

    /// True if it was one of the preallocated ones.
    #[inline]
    fn release(&mut self, store: &mut impl FrameStore, frame: u32) -> bool {
        store.reset(FrameId(frame));
        if frame < self.size.first + self.size.base {
            self.free.push(frame);
            true
        } else {
            self.overflow.push(frame);
            self.stats.overflow -= 1;
            false
        }
    }

    /// A turn begins: look past stuck frames again if need be.
    #[inline]
    pub fn begin_turn(&mut self) {
        self.looked = false;
    }

    /// The driver took the frame.
    #[inline]
    pub fn hold(&mut self, frame: FrameId) {
        self.held.push_back(frame.0);
        self.stats.held = self.held.len() as u32;
        self.stats.held_max = self.stats.held_max.max(self.stats.held);
    }

    /// A frame that was taken was not transmitted after all.
    pub fn put_back(&mut self, store: &mut impl FrameStore, frame: FrameId) {
        self.release(store, frame.0);
    }

    /// Which use of the frame this is, for [`Self::is_over`].
    #[inline]
    #[must_use]
    pub fn use_of(&self, frame: FrameId) -> u32 {
        self.uses[(frame.0 - self.size.first) as usize]
    }

    /// Whether the driver has let go of the frame since it was taken for that use.
    #[must_use]
    pub fn is_over(&self, store: &impl FrameStore, frame: FrameId, used: u32) -> bool {
        self.use_of(frame) != used || store.is_released(frame)
    }

    /// Whether all frames are back.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.free.len() == self.size.base as usize
            && self.overflow.len() == self.size.overflow as usize
    }

    /// Counters and gauges.
    #[must_use]
    pub fn stats(&self) -> PoolStats {
        self.stats
    }

    /// How many frames there are.
    #[must_use]
    pub fn size(&self) -> PoolSize {
        self.size
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    /// A driver that lets go of frames when the test says so.
    #[derive(Default)]
    struct Driver {
        held: HashSet<u32>,
        on_nudge: Vec<u32>,
        nudged: u32,
    }

    impl FrameStore for Driver {
        fn is_released(&self, frame: FrameId) -> bool {
            !self.held.contains(&frame.0)
        }
        fn reset(&mut self, frame: FrameId) {
            assert!(
                !self.held.contains(&frame.0),
                "frame {} is still held",
                frame.0
            );
        }
        fn nudge(&mut self) {
            self.nudged += 1;
            for frame in self.on_nudge.drain(..) {
                self.held.remove(&frame);
            }
        }
    }

    fn send(pool: &mut FramePool, driver: &mut Driver) -> Option<u32> {
        let frame = pool.take(driver)?;
        driver.held.insert(frame.0);
        pool.hold(frame);
        Some(frame.0)
    }

    fn pool(base: u32, overflow: u32) -> (FramePool, Driver) {
        (
            FramePool::new(PoolSize {
                first: 10,
                base,
                overflow,
            }),
            Driver::default(),
        )
    }

    /// Hazard 6: a driver that never cleans its ring meets a cap, then recovers.
    #[test]
    fn hazard_06_overflow_has_a_ceiling_and_then_recovers() {
        let (mut p, mut d) = pool(4, 2);
        let sent: Vec<_> = std::iter::from_fn(|| send(&mut p, &mut d)).collect();
        assert_eq!(sent.len(), 6);
        assert_eq!(sent.iter().collect::<HashSet<_>>().len(), 6);
        let s = p.stats();
        assert_eq!(
            (s.held, s.overflow, s.overflow_max, s.starved),
            (6, 2, 2, 1)
        );
        d.held.clear();
        assert!(send(&mut p, &mut d).is_some());
        d.held.clear();
        p.reap(&mut d, usize::MAX);
        assert!(p.is_whole());
        assert_eq!(p.stats().overflow, 0);
    }

    /// Hazard 7: one stuck frame does not hide the free ones behind it.
    #[test]
    fn hazard_07_looks_past_a_stuck_frame() {
        let (mut p, mut d) = pool(4, 0);
        let sent: Vec<_> = std::iter::from_fn(|| send(&mut p, &mut d)).collect();
        p.begin_turn();
        for frame in &sent[1..] {
            d.held.remove(frame);
        }
        for _ in 0..3 {
            let next = send(&mut p, &mut d).unwrap();
            assert_ne!(next, sent[0]);
        }
        assert_eq!(p.stats().looked_past, 3);
        assert_eq!(send(&mut p, &mut d), None);
    }

    #[test]
    fn a_nudge_comes_before_the_overflow() {
        let (mut p, mut d) = pool(2, 2);
        let (a, _) = (send(&mut p, &mut d).unwrap(), send(&mut p, &mut d).unwrap());
        d.on_nudge.push(a);
        assert_eq!(send(&mut p, &mut d), Some(a));
        assert_eq!((d.nudged, p.stats().overflow_taken), (1, 0));
        // Once a turn: then the overflow is drawn on at once.
        assert!(send(&mut p, &mut d).unwrap() >= 12);
        assert_eq!(d.nudged, 1);
    }

    #[test]
    fn overflow_frames_go_back_to_the_overflow() {
        let (mut p, mut d) = pool(1, 1);
        send(&mut p, &mut d);
        send(&mut p, &mut d);
        d.held.clear();
        assert_eq!(send(&mut p, &mut d), Some(10));
        assert_eq!(p.stats().overflow, 0);
    }

    #[test]
    fn an_earlier_use_is_over_when_the_frame_is_taken_again() {
        let (mut p, mut d) = pool(1, 0);
        let frame = FrameId(send(&mut p, &mut d).unwrap());
        let used = p.use_of(frame);
        assert!(!p.is_over(&d, frame, used));
        d.held.clear();
        assert!(p.is_over(&d, frame, used));
        send(&mut p, &mut d).unwrap();
        assert!(!d.is_released(frame) && p.is_over(&d, frame, used));
    }
}
