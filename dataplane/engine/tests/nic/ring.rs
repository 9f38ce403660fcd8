//! A transmit ring of descriptors: what the simulated hardware has not sent yet, what it has sent,
//! and when its driver lets go of it.

use super::net::Random;
use std::collections::VecDeque;

/// When the driver lets go of what was sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Policy {
    /// Inside `tx_burst`: it copies.
    AtOnce,
    /// In the next `tx_burst`, even one of 0.
    NextBurst,
    /// virtio: in a `tx_burst` that finds fewer than so many free descriptors.
    NearlyFull(usize),
    /// e1000: when the descriptor is used again.
    Reuse,
    /// Any of them, at any time.
    Odd,
    /// Never by itself, nor are descriptors short.
    Never,
    /// The first so many never, the others in the next `tx_burst`.
    Stuck(usize),
}

/// What the hardware does with the ring.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Link {
    /// It sends.
    Up,
    /// The driver takes frames until the ring is full; nothing is sent.
    Down,
    /// The driver takes nothing, nothing is sent: a peer that has gone away.
    Gone,
}

/// What waits to be sent.
#[derive(Debug)]
pub enum Waiting {
    Frame(u32),
    Copy(Vec<u8>),
}

/// A part of a frame, which the driver lets go of on its own.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Part {
    Both,
    Head,
    Tail,
}

#[derive(Debug)]
pub struct Ring {
    pub size: usize,
    pub policy: Policy,
    pub link: Link,
    /// Header and tail of a frame are let go of at different times.
    pub split: bool,
    /// `tx_burst` takes only a part of what it could.
    pub partial: bool,
    /// Frames that one run of the hardware sends at most.
    pub rate: usize,
    /// The hardware gets round to its ring in one of so many turns.
    pub every: u64,
    runs: u64,
    pub random: Random,
    /// Frames whose parts were let go of one by one.
    pub split_count: u64,
    pub waiting: VecDeque<Waiting>,
    /// Frames, and whether they have a tail.
    sent: VecDeque<(u32, bool)>,
    halves: Vec<(u32, Part)>,
    stuck: Vec<u32>,
}

impl Ring {
    pub fn new(size: usize, policy: Policy, seed: u64) -> Self {
        Self {
            size,
            policy,
            link: Link::Up,
            split: false,
            partial: false,
            rate: usize::MAX,
            every: 1,
            runs: 0,
            random: Random(seed),
            split_count: 0,
            waiting: VecDeque::new(),
            sent: VecDeque::new(),
            halves: Vec::new(),
            stuck: Vec::new(),
        }
    }

    /// Frames that `tx_burst` takes of `offered`.
    pub fn takes(&mut self, offered: usize) -> usize {
        let used = match self.policy {
            Policy::NextBurst | Policy::NearlyFull(_) => self.waiting.len() + self.sent.len(),
            _ => self.waiting.len(),
        };
        let room = if self.link == Link::Gone {
            0
        } else {
            self.size.saturating_sub(used)
        };
        let most = offered.min(room);
        if self.partial && most > 0 {
            self.random.below(most as u64 + 1) as usize
        } else {
            most
        }
    }

    /// Frames, or parts of them, that the driver lets go of at the beginning of a `tx_burst`.
    pub fn clean(&mut self) -> Vec<(u32, Part)> {
        let mut gone = std::mem::take(&mut self.halves);
        let all = match self.policy {
            Policy::NextBurst | Policy::Stuck(_) => true,
            Policy::NearlyFull(least) => {
                self.size
                    .saturating_sub(self.waiting.len() + self.sent.len())
                    < least
            }
            Policy::AtOnce | Policy::Reuse | Policy::Odd | Policy::Never => false,
        };
        if all {
            while let Some(frame) = self.sent.pop_front() {
                self.let_go(frame, &mut gone);
            }
        }
        gone
    }

    /// A descriptor is about to be used: what else the driver lets go of.
    pub fn reuse(&mut self) -> Vec<(u32, Part)> {
        let mut gone = Vec::new();
        if self.policy == Policy::Reuse
            && self.waiting.len() + self.sent.len() >= self.size
            && let Some(frame) = self.sent.pop_front()
        {
            self.let_go(frame, &mut gone);
        }
        gone
    }

    fn let_go(&mut self, (frame, tail): (u32, bool), gone: &mut Vec<(u32, Part)>) {
        if !self.split || !tail {
            gone.push((frame, Part::Both));
            return;
        }
        let (now, later) = match self.random.chance(50) {
            true => (Part::Head, Part::Tail),
            false => (Part::Tail, Part::Head),
        };
        gone.push((frame, now));
        self.split_count += 1;
        self.halves.push((frame, later));
    }

    /// The frames that the hardware sends in one run.
    pub fn next_to_send(&mut self) -> Vec<Waiting> {
        self.runs += 1;
        if self.link != Link::Up || !self.runs.is_multiple_of(self.every) {
            return Vec::new();
        }
        let count = self.waiting.len().min(self.rate);
        self.waiting.drain(..count).collect()
    }

    /// A frame was sent; it is let go of later.
    pub fn was_sent(&mut self, frame: u32, tail: bool) {
        match self.policy {
            Policy::Stuck(most) if self.stuck.len() < most => self.stuck.push(frame),
            _ => self.sent.push_back((frame, tail)),
        }
    }

    /// What the driver lets go of at odd times, in odd order.
    pub fn odd(&mut self) -> Vec<(u32, Part)> {
        let mut gone = Vec::new();
        if self.policy != Policy::Odd {
            return gone;
        }
        let at = self.random.below(self.halves.len() as u64 + 1) as usize;
        gone.extend(self.halves.drain(at..));
        for _ in 0..self.random.below(self.sent.len() as u64 + 1) {
            let at = self.random.below(self.sent.len() as u64) as usize;
            if let Some(frame) = self.sent.remove(at) {
                self.let_go(frame, &mut gone);
            }
        }
        gone
    }

    /// Everything is dropped, sent or not.
    pub fn clear(&mut self) {
        self.waiting.clear();
        self.sent.clear();
        self.halves.clear();
        self.stuck.clear();
    }

    /// Lets go of all that was sent, whatever the policy.
    pub fn drain_sent(&mut self) -> Vec<(u32, Part)> {
        let mut gone = std::mem::take(&mut self.halves);
        gone.extend(self.stuck.drain(..).map(|frame| (frame, Part::Both)));
        gone.extend(self.sent.drain(..).map(|(frame, _)| (frame, Part::Both)));
        gone
    }
}
