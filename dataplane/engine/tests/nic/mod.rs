//! A NIC without DPDK: [`Nic`] is a [`Port`] whose frames are heap buffers with the references that
//! a driver would hold, and whose hardware reads memory only when it sends.
//!
//! It checks the engine as it goes: a frame that the driver holds is never touched, and no frame
//! is offered twice. A caller's buffer that comes back too early shows on the wire, since
//! [`bench`] overwrites it at once.

#![allow(dead_code, unused_imports, reason = "each test file uses its own part")]

pub mod alloc;
pub mod bench;
pub mod net;
pub mod ring;

pub use bench::{Bench, Shape};
pub use net::{Fate, Net, Random, Way, content, is_ata};
pub use ring::{Link, Policy};

use alloc::uncounted;
use aoe_engine::port::{BURST, Frames, Port};
use aoe_engine::{FrameId, FrameStore};
use aoe_proto::initiator::{HEADER_ROOM, PortInfo};
use ring::{Part, Ring, Waiting};
use std::cell::RefCell;
use std::ptr::NonNull;
use std::rc::Rc;

pub const US: u64 = 1_000;
pub const MS: u64 = 1_000_000;
pub const SEC: u64 = 1_000_000_000;

static ZEROES: [u8; 9216] = [0; 9216];
/// What the bytes of a free frame hold.
const POISON: u8 = 0xdb;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Free,
    Filled,
    Taken,
}

struct Frame {
    bytes: Vec<u8>,
    len: usize,
    tail: Option<(NonNull<u8>, usize)>,
    state: State,
    /// The driver's references.
    head_held: bool,
    tail_held: bool,
}

impl Frame {
    fn new(room: usize) -> Self {
        Self {
            bytes: vec![POISON; room],
            len: 0,
            tail: None,
            state: State::Free,
            head_held: false,
            tail_held: false,
        }
    }

    /// As on a wire, read now.
    fn gather(&self) -> Vec<u8> {
        let mut out = self.bytes[..self.len].to_vec();
        if let Some((at, len)) = self.tail {
            // SAFETY: the bench keeps the memory of every I/O allocated to the end of the test,
            // and nobody writes to it during this call.
            out.extend_from_slice(unsafe { std::slice::from_raw_parts(at.as_ptr(), len) });
        }
        out
    }

    fn fill(&mut self, id: FrameId, len: usize) -> &mut Vec<u8> {
        assert_eq!(
            self.state,
            State::Free,
            "frame {} is filled while it is not free",
            id.0
        );
        self.state = State::Filled;
        self.len = len;
        &mut self.bytes
    }
}

/// What [`Port::flush`] does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Flush {
    /// Everything is let go of, nothing of it is sent.
    Works,
    /// Nothing: the device has other users, or its driver doesn't let go on a stop.
    Fails,
}

pub struct Nic {
    net: Rc<RefCell<Net>>,
    port: u8,
    core: usize,
    info: PortInfo,
    sizes: Frames,
    frames: Vec<Frame>,
    pub ring: Ring,
    pub zero_copy: bool,
    /// Memory of callers' cannot be read by the device.
    pub refuse_attach: bool,
    pub flush: Flush,
    pub flushes: u32,
    pub nudges: u32,
    /// The first contiguous bytes of a received frame, and those of each further piece.
    pub head_len: usize,
    pub piece_len: usize,
    rx: Vec<Option<Vec<u8>>>,
    /// Frames that the driver ever took.
    pub taken: u64,
}

impl Nic {
    pub fn new(net: Rc<RefCell<Net>>, port: u8, core: usize, shape: &Shape) -> Self {
        let sizes = shape.frames();
        let header = (0..sizes.full.first).map(|_| Frame::new(HEADER_ROOM));
        let fulls = sizes.full.base + sizes.full.overflow;
        let full = (0..fulls).map(|_| Frame::new(shape.full_room));
        Self {
            info: PortInfo {
                mac: net::port_mac(port),
                mtu: shape.mtu,
                vlan: shape.vlan,
            },
            frames: header.chain(full).collect(),
            ring: Ring::new(shape.ring, shape.policy, shape.seed ^ u64::from(port)),
            zero_copy: shape.zero_copy,
            refuse_attach: false,
            flush: Flush::Works,
            flushes: 0,
            nudges: 0,
            head_len: usize::MAX,
            piece_len: usize::MAX,
            rx: Vec::with_capacity(BURST),
            taken: 0,
            net,
            port,
            core,
            sizes,
        }
    }

    fn let_go(&mut self, gone: Vec<(u32, Part)>) {
        for (id, part) in gone {
            let frame = &mut self.frames[id as usize];
            assert_eq!(
                frame.state,
                State::Taken,
                "frame {id} was reset while it was held"
            );
            frame.head_held &= part == Part::Tail;
            frame.tail_held &= part == Part::Head;
        }
    }

    /// The hardware gets round to its ring.
    pub fn run(&mut self) {
        for waiting in self.ring.next_to_send() {
            let bytes = match waiting {
                Waiting::Copy(bytes) => bytes,
                Waiting::Frame(id) => {
                    let frame = &self.frames[id as usize];
                    assert_eq!(
                        frame.state,
                        State::Taken,
                        "frame {id} was reset in the ring"
                    );
                    self.ring.was_sent(id, frame.tail.is_some());
                    frame.gather()
                }
            };
            self.net.borrow_mut().put(Way::ToTarget, self.port, bytes);
        }
        let gone = self.ring.odd();
        self.let_go(gone);
    }

    /// The driver cleans its ring at last, whatever its policy.
    pub fn release_sent(&mut self) {
        let gone = self.ring.drain_sent();
        self.let_go(gone);
    }

    /// Frames that the driver holds.
    pub fn held(&self) -> usize {
        self.frames
            .iter()
            .filter(|f| f.head_held || f.tail_held)
            .count()
    }

    /// Frames in the ring that read a caller's memory when they are sent.
    pub fn in_place(&self) -> usize {
        let reads = |w: &&Waiting| match w {
            Waiting::Frame(id) => self.frames[*id as usize].tail.is_some(),
            Waiting::Copy(_) => false,
        };
        self.ring.waiting.iter().filter(reads).count()
    }

    fn take(&mut self, id: FrameId) {
        let gone = self.ring.reuse();
        self.let_go(gone);
        let copies = self.ring.policy == Policy::AtOnce;
        let frame = &mut self.frames[id.0 as usize];
        assert_eq!(
            frame.state,
            State::Filled,
            "frame {} is offered but not filled",
            id.0
        );
        frame.state = State::Taken;
        let waiting = if copies {
            Waiting::Copy(frame.gather())
        } else {
            frame.head_held = true;
            frame.tail_held = frame.tail.is_some();
            Waiting::Frame(id.0)
        };
        self.ring.waiting.push_back(waiting);
        self.taken += 1;
    }
}

impl FrameStore for Nic {
    fn is_released(&self, frame: FrameId) -> bool {
        let frame = &self.frames[frame.0 as usize];
        // As with counts: the driver's reference is there from the time that a frame is filled.
        frame.state != State::Filled && !frame.head_held && !frame.tail_held
    }

    fn reset(&mut self, id: FrameId) {
        let frame = &mut self.frames[id.0 as usize];
        let held = frame.head_held || frame.tail_held;
        assert!(!held, "frame {} is reset while the driver holds it", id.0);
        assert_ne!(frame.state, State::Free, "frame {} is reset twice", id.0);
        frame.bytes.fill(POISON);
        (frame.state, frame.tail, frame.len) = (State::Free, None, 0);
    }

    fn nudge(&mut self) {
        self.nudges += 1;
        uncounted(|| {
            let gone = self.ring.clean();
            self.let_go(gone);
        });
    }
}

impl Port for Nic {
    type Rx = Vec<u8>;

    fn info(&self) -> PortInfo {
        self.info
    }

    fn frames(&self) -> Frames {
        self.sizes
    }

    fn zero_copy(&self) -> bool {
        self.zero_copy
    }

    fn header(&mut self, id: FrameId, len: usize) -> &mut [u8; HEADER_ROOM] {
        assert!(id.0 < self.sizes.full.first && len <= HEADER_ROOM);
        let bytes = self.frames[id.0 as usize].fill(id, len);
        bytes.first_chunk_mut().unwrap()
    }

    fn attach(&mut self, id: FrameId, bytes: NonNull<u8>, len: u32) -> bool {
        let frame = &mut self.frames[id.0 as usize];
        assert_eq!(
            frame.state,
            State::Filled,
            "memory is attached to frame {}",
            id.0
        );
        assert!(
            frame.tail.is_none(),
            "a second piece is attached to frame {}",
            id.0
        );
        if self.refuse_attach {
            return false;
        }
        frame.tail = Some((bytes, len as usize));
        true
    }

    fn attach_zeroes(&mut self, id: FrameId, len: u32) -> bool {
        len as usize <= ZEROES.len() && self.attach(id, NonNull::from(&ZEROES[0]), len)
    }

    fn body(&mut self, id: FrameId, len: usize) -> &mut [u8] {
        assert!(
            id.0 >= self.sizes.full.first,
            "frame {} is a header frame",
            id.0
        );
        let frame = &mut self.frames[id.0 as usize];
        let fits = len <= frame.bytes.len();
        let bytes = frame.fill(id, if fits { len } else { 0 });
        if fits { &mut bytes[..len] } else { &mut [] }
    }

    fn tx_burst(&mut self, frames: &[FrameId]) -> usize {
        assert!(frames.len() <= BURST);
        uncounted(|| {
            let gone = self.ring.clean();
            self.let_go(gone);
            let count = self.ring.takes(frames.len());
            frames[..count].iter().for_each(|&frame| self.take(frame));
            count
        })
    }

    fn rx_burst(&mut self) -> usize {
        assert!(self.rx.is_empty(), "the last burst was not given back");
        uncounted(|| {
            let mut net = self.net.borrow_mut();
            let queue = &mut net.rx[usize::from(self.port)][self.core];
            let count = queue.len().min(BURST);
            self.rx.extend(queue.drain(..count).map(Some));
            count
        })
    }

    fn rx_head(&self, i: usize) -> &[u8] {
        let frame = self.rx[i].as_ref().expect("the frame was taken out");
        &frame[..frame.len().min(self.head_len)]
    }

    fn rx_len(&self, i: usize) -> usize {
        self.rx[i].as_ref().expect("the frame was taken out").len()
    }

    fn rx_pieces(&self, i: usize, at: usize, len: usize, mut f: impl FnMut(usize, &[u8])) {
        let frame = self.rx[i].as_ref().expect("the frame was taken out");
        let (mut from, end) = (at, (at + len).min(frame.len()));
        while from < end {
            let to = match from.checked_sub(self.head_len) {
                None => self.head_len,
                Some(past) => from.saturating_add(self.piece_len - past % self.piece_len),
            };
            let to = to.min(end);
            f(from - at, &frame[from..to]);
            from = to;
        }
    }

    fn rx_take(&mut self, i: usize) -> Option<Vec<u8>> {
        self.rx[i].take()
    }

    fn rx_add(&mut self, frame: Vec<u8>) -> bool {
        let room = self.rx.len() < BURST;
        if room {
            self.rx.push(Some(frame));
        }
        room
    }

    fn rx_done(&mut self) {
        uncounted(|| self.rx.clear());
    }

    fn flush(&mut self) -> bool {
        self.flushes += 1;
        if self.flush == Flush::Fails {
            return false;
        }
        self.ring.clear();
        for frame in &mut self.frames {
            (frame.head_held, frame.tail_held) = (false, false);
        }
        true
    }
}
