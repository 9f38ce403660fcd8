//! What one connection has taken from the client and not answered yet.
//!
//! Shared by the reading and the writing half of a connection, which run in one task: the mutexes
//! are never contended and never held across an await.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::backend::Op;
use super::check::Refusal;

/// What the reply to a request needs of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pending {
    /// The client's name for the request.
    pub handle: u64,
    /// `None` for an unknown command, which is always refused.
    pub op: Option<Op>,
    /// First byte of the range.
    pub offset: u64,
    /// Length of the range.
    pub len: u32,
}

/// The unanswered requests of one connection, at most as many as its limit.
pub struct InFlight {
    table: Mutex<Table>,
    limit: usize,
    room: Notify,
    changed: Notify,
    /// Odd while a write to the socket is under way; grows with every step of progress.
    write_progress: AtomicU64,
}

struct Table {
    slots: Vec<Slot>,
    free: Vec<u32>,
    refused: Vec<(Pending, Refusal)>,
    closing: bool,
}

struct Slot {
    /// Makes the cookie of a slot's next request differ, so that a backend that answers twice is
    /// found out rather than believed.
    generation: u32,
    pending: Option<Pending>,
}

impl InFlight {
    /// Room for `limit` requests, all of it allocated now.
    pub fn new(limit: u32) -> Self {
        let limit = limit.max(1);
        let table = Table {
            slots: (0..limit)
                .map(|_| Slot {
                    generation: 0,
                    pending: None,
                })
                .collect(),
            free: (0..limit).rev().collect(),
            refused: Vec::with_capacity(limit as usize),
            closing: false,
        };
        Self {
            table: Mutex::new(table),
            limit: limit as usize,
            room: Notify::new(),
            changed: Notify::new(),
            write_progress: AtomicU64::new(0),
        }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until there is room for one more request. Only the reading half adds requests, so
    /// the room is still there when it does.
    pub async fn room(&self) {
        loop {
            {
                let table = self.table();
                if table.in_backend() + table.refused.len() < self.limit {
                    return;
                }
            }
            self.room.notified().await;
        }
    }

    /// Notes a request that goes to the backend; gives its cookie, or `None` without room.
    pub fn insert(&self, pending: Pending) -> Option<u64> {
        let mut table = self.table();
        let index = table.free.pop()?;
        let slot = table.slots.get_mut(index as usize)?;
        slot.pending = Some(pending);
        Some(u64::from(slot.generation) << 32 | u64::from(index))
    }

    /// Takes out what a cookie stands for; `None` if it stands for nothing now.
    pub fn remove(&self, cookie: u64) -> Option<Pending> {
        let mut table = self.table();
        let (generation, index) = ((cookie >> 32) as u32, cookie as u32);
        let slot = table.slots.get_mut(index as usize)?;
        if slot.generation != generation {
            return None;
        }
        let pending = slot.pending.take()?;
        slot.generation = slot.generation.wrapping_add(1);
        table.free.push(index);
        drop(table);
        self.room.notify_one();
        Some(pending)
    }

    /// Notes a request that is answered with an error and never goes to the backend.
    pub fn refuse(&self, pending: Pending, refusal: Refusal) {
        self.table().refused.push((pending, refusal));
        self.changed.notify_one();
    }

    /// Moves the refused requests to `out`.
    pub fn take_refused(&self, mut out: impl FnMut(Pending, Refusal)) {
        let mut table = self.table();
        if table.refused.is_empty() {
            return;
        }
        for (pending, refusal) in table.refused.drain(..) {
            out(pending, refusal);
        }
        drop(table);
        self.room.notify_one();
    }

    /// How many requests the backend has.
    pub fn in_backend(&self) -> usize {
        self.table().in_backend()
    }

    /// No more requests will come.
    pub fn close(&self) {
        self.table().closing = true;
        self.changed.notify_one();
    }

    /// Closed, and everything was answered.
    pub fn is_finished(&self) -> bool {
        let table = self.table();
        table.closing && table.in_backend() == 0 && table.refused.is_empty()
    }

    /// Waits for a refusal, or for the end of requests.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Tells that a write to the socket begins.
    pub fn write_begins(&self) {
        self.write_progress.fetch_add(1, Relaxed);
    }

    /// Tells that the client took some bytes of it.
    pub fn write_moves(&self) {
        self.write_progress.fetch_add(2, Relaxed);
    }

    /// Tells that it is complete.
    pub fn write_ends(&self) {
        self.write_progress.fetch_add(1, Relaxed);
    }

    /// While a write is under way, a number that stays the same as long as it is stuck.
    pub fn unfinished_write(&self) -> Option<u64> {
        let progress = self.write_progress.load(Relaxed);
        (progress & 1 == 1).then_some(progress)
    }
}

impl Table {
    fn in_backend(&self) -> usize {
        self.slots.len() - self.free.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PENDING: Pending = Pending {
        handle: 7,
        op: Some(Op::Read),
        offset: 0,
        len: 512,
    };

    #[test]
    fn a_cookie_is_good_once() {
        let inflight = InFlight::new(2);
        let first = inflight.insert(PENDING).unwrap();
        assert_eq!(inflight.remove(first), Some(PENDING));
        assert_eq!(inflight.remove(first), None);
        let again = inflight.insert(PENDING).unwrap();
        assert_ne!(first, again, "same slot, another generation");
        assert_eq!(inflight.remove(first), None);
        assert_eq!(inflight.remove(u64::MAX), None);
        assert!(inflight.insert(PENDING).is_some());
        assert!(inflight.insert(PENDING).is_none(), "only two fit");
        assert_eq!(inflight.in_backend(), 2);
    }

    #[test]
    fn finished_only_when_closed_and_empty() {
        let inflight = InFlight::new(1);
        assert!(!inflight.is_finished());
        inflight.refuse(PENDING, super::super::backend::NbdErrno::Io.into());
        inflight.close();
        assert!(!inflight.is_finished());
        let mut seen = 0;
        inflight.take_refused(|_, _| seen += 1);
        assert_eq!(seen, 1);
        assert!(inflight.is_finished());
    }
}
