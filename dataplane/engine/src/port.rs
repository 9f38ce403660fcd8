//! The seam between the engine and whatever carries its frames: DPDK in production, a simulated
//! network in tests.

use crate::frame_pool::{FrameId, FrameStore, PoolSize};
use aoe_proto::initiator::HEADER_ROOM;
use aoe_proto::initiator::PortInfo;
use std::ptr::NonNull;

/// A port's transmit frames, of two kinds.
#[derive(Clone, Copy, Debug, Default)]
pub struct Frames {
    /// Header frames: a header of up to 64 bytes, to which memory of a caller's can be attached.
    pub header: PoolSize,
    /// Full frames: one contiguous buffer for a whole frame.
    pub full: PoolSize,
}

/// One queue pair of a network device, with its frames.
///
/// Life of a frame: taken from the pool; filled with [`Self::header`] and [`Self::attach`], or
/// with [`Self::body`]; offered to the driver; held until [`FrameStore::is_released`]; reset.
pub trait Port: FrameStore {
    /// A received frame on its own, on its way to another core.
    type Rx: Send;

    /// Addresses and sizes.
    fn info(&self) -> PortInfo;

    /// How many frames there are. Numbers of both kinds are distinct.
    fn frames(&self) -> Frames;

    /// Whether the driver can transmit a caller's memory in place, behind a header. If so,
    /// [`Self::attach`] may still refuse some of it.
    fn zero_copy(&self) -> bool;

    /// The header bytes of a header frame, of which `len` will be sent.
    fn header(&mut self, frame: FrameId, len: usize) -> &mut [u8; HEADER_ROOM];

    /// Appends `len` bytes of a caller's memory to a header frame, in place. False if this memory
    /// cannot be read by the device.
    ///
    /// The memory stays valid until the frame is released, or known to have left the ring: the
    /// engine's give-back rule.
    fn attach(&mut self, frame: FrameId, bytes: NonNull<u8>, len: u32) -> bool;

    /// Appends `len` zeroes, at most 8 KiB, to a header frame, in place.
    fn attach_zeroes(&mut self, frame: FrameId, len: u32) -> bool;

    /// The bytes of a full frame, of which `len` will be sent. Empty if they do not fit.
    fn body(&mut self, frame: FrameId, len: usize) -> &mut [u8];

    /// Offers frames to the driver, in order; returns how many it took. The rest is still ours.
    fn tx_burst(&mut self, frames: &[FrameId]) -> usize;

    /// Receives a burst and returns how many frames it has. They stay valid until
    /// [`Self::rx_done`].
    fn rx_burst(&mut self) -> usize;

    /// The first contiguous bytes of the `i`th received frame.
    fn rx_head(&self, i: usize) -> &[u8];

    /// The whole length of the `i`th received frame in bytes.
    fn rx_len(&self, i: usize) -> usize;

    /// Calls `f` with the pieces of `len` bytes from `at` on of the `i`th received frame, and with
    /// the offset of each from the first.
    fn rx_pieces(&self, i: usize, at: usize, len: usize, f: impl FnMut(usize, &[u8]));

    /// Takes the `i`th received frame out of the burst, to hand it over to another core.
    fn rx_take(&mut self, i: usize) -> Option<Self::Rx>;

    /// Adds a frame that another core received to the burst; false, and the frame is dropped, if it
    /// is full.
    fn rx_add(&mut self, frame: Self::Rx) -> bool;

    /// Gives the received frames back.
    fn rx_done(&mut self);

    /// Stops the queue and starts it again. True if the driver then holds no frame any more.
    fn flush(&mut self) -> bool;
}

/// Frames in a burst, at most.
pub const BURST: usize = 32;
