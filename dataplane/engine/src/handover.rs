//! Frames that one core received and another one has to answer for.
//!
//! No NIC steers AoE by itself: EtherType 0x88A2 has no RSS. So a core that receives an answer to
//! another core's command passes the frame on, by the core bits of its tag, through that core's
//! inbox: a bounded lock-free queue for each core and device.

use crate::port::{BURST, Port};
use crossbeam_queue::ArrayQueue;

/// The inboxes of the cores that share a device. `F` is a received frame.
#[derive(Debug)]
pub struct Handover<F> {
    inboxes: Box<[ArrayQueue<F>]>,
}

/// Frames that wait for one core at most; more are dropped, and their commands are sent again.
pub(crate) const INBOX: usize = 1024;

impl<F> Handover<F> {
    /// Empty inboxes for `cores` cores.
    #[must_use]
    pub fn new(cores: u32) -> Self {
        Self {
            inboxes: (0..cores).map(|_| ArrayQueue::new(INBOX)).collect(),
        }
    }

    /// Puts a frame into a core's inbox; false, and the frame is dropped, if there is no room.
    pub fn give(&self, core: u32, frame: F) -> bool {
        self.inboxes
            .get(core as usize)
            .is_some_and(|inbox| inbox.push(frame).is_ok())
    }

    /// Moves up to a burst of a core's frames into its port's burst; returns how many.
    #[inline]
    pub(crate) fn collect<P: Port<Rx = F>>(&self, core: u32, port: &mut P) -> usize {
        let Some(inbox) = self.inboxes.get(core as usize) else {
            return 0;
        };
        let mut count = 0;
        while count < BURST {
            let Some(frame) = inbox.pop() else { break };
            if !port.rx_add(frame) {
                break;
            }
            count += 1;
        }
        count
    }
}
