//! A polling core: one engine, fed through queues by the control plane.
//!
//! The loop: commands, new I/O, one [`Engine::turn`], completions. It never blocks and makes no
//! system call except to wake a client that sleeps.

use crate::buffers::Payload;
use crate::nbd;
use aoe_engine::dpdk::{DmaBlock, DpdkPort};
use aoe_engine::{Clock, Completion, Engine, PortStats, Request, Sgl, TscClock};
use aoe_proto::ShelfSlot;
use aoe_proto::initiator::{
    Counters, DropReason, Event, IoError, LunId, LunInfo, Op, SubmitError, Time,
};
use aoe_proto::wire::{AoeError, ata_error};
use crossbeam_queue::ArrayQueue;
use slab::Slab;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::{Notify, oneshot};

/// What the control plane asks of a core. Each is rare.
pub enum Command {
    /// Look for targets now.
    Rescan,
    /// Another core has found this LUN.
    Find(ShelfSlot),
    /// Everything there is to know.
    Snapshot(oneshot::Sender<Snapshot>),
}

/// The state of a core at one moment.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// All its LUNs.
    pub luns: Vec<LunInfo>,
    /// Its ports' counters.
    pub ports: Vec<PortStats>,
    /// The state machine's counters.
    pub counters: Counters,
    /// Dropped frames by reason.
    pub drops: Vec<(DropReason, u64)>,
    /// I/Os in flight.
    pub in_flight: u32,
    /// Turns so far.
    pub turns: u64,
    /// Turns with something to do.
    pub busy_turns: u64,
    /// Frames that somebody wrote to after their release (with `engine.checks`).
    pub touched: u64,
}

/// What a core tells the control plane.
#[derive(Clone, Debug)]
pub struct CoreEvent {
    /// What happened.
    pub event: Event,
    /// The LUN afterwards.
    pub lun: LunInfo,
}

/// One client's end of the queues.
pub struct Client {
    /// Replies that it has not fetched.
    pub replies: ArrayQueue<nbd::Reply<Payload>>,
    /// Rung when there are some.
    pub bell: Notify,
    /// The core will ring at the end of its round.
    pub to_ring: AtomicBool,
}

/// A request on its way to the core.
pub struct Submission {
    /// Who asks.
    pub client: Arc<Client>,
    /// The LUN, as this core names it.
    pub lun: LunId,
    /// Which disk it was when the client opened it.
    pub identity: u32,
    /// What it asks for.
    pub request: nbd::Request<Payload>,
}

/// The queues between the control plane and one core.
pub struct Link {
    /// New I/O.
    pub submissions: ArrayQueue<Submission>,
    /// Commands.
    pub commands: ArrayQueue<Command>,
    /// Events; if nobody fetches them they are dropped.
    pub events: ArrayQueue<CoreEvent>,
    /// Rung when there are some.
    pub event_bell: Notify,
    /// Stop when all I/O has ended.
    pub stop: AtomicBool,
    /// The loop has ended.
    pub stopped: AtomicBool,
}

/// I/Os that wait in a core's queue at most.
pub const SUBMISSIONS: usize = 16_384;

impl Link {
    /// Empty queues, for a core with up to `luns` LUNs.
    #[must_use]
    pub fn new(luns: u16) -> Arc<Self> {
        Arc::new(Self {
            submissions: ArrayQueue::new(SUBMISSIONS),
            commands: ArrayQueue::new(64),
            events: ArrayQueue::new(1024.max(4 * usize::from(luns))),
            event_bell: Notify::new(),
            stop: AtomicBool::new(false),
            stopped: AtomicBool::new(false),
        })
    }

    /// Asks the core for its state; `None` if it has stopped or is swamped with commands.
    pub async fn snapshot(&self) -> Option<Snapshot> {
        let (to, from) = oneshot::channel();
        self.commands.push(Command::Snapshot(to)).ok()?;
        from.await.ok()
    }
}

/// A request that the engine has.
struct Pending {
    client: Arc<Client>,
    request: nbd::Request<Payload>,
    lun: LunId,
    identity: u32,
    /// The write is done, and the flush that makes it durable is under way.
    flushing: bool,
}

/// One core.
pub struct Core {
    engine: Engine<DpdkPort>,
    link: Arc<Link>,
    pending: Slab<Pending>,
    /// What the engine had no room for.
    waiting: VecDeque<usize>,
    /// Clients with new replies, each once.
    to_ring: Vec<Arc<Client>>,
    /// I/O is refused from now on.
    stopping: Option<Time>,
    turns: u64,
    busy_turns: u64,
}

/// How long a core that is told to stop waits for its last I/O, in nanoseconds.
const STOP_NS: u64 = 5_000_000_000;

/// Submissions that one round takes in at most, so that the ring is looked at again soon.
const ROUND: usize = 64;

impl Core {
    /// A core over an engine whose ports and LUNs were added.
    #[must_use]
    pub fn new(engine: Engine<DpdkPort>, link: Arc<Link>) -> Self {
        Self {
            engine,
            link,
            pending: Slab::with_capacity(SUBMISSIONS),
            waiting: VecDeque::with_capacity(SUBMISSIONS),
            to_ring: Vec::with_capacity(SUBMISSIONS),
            stopping: None,
            turns: 0,
            busy_turns: 0,
        }
    }

    /// Runs until it is told to stop and all I/O has ended.
    pub fn run(mut self) {
        let clock = TscClock::new();
        loop {
            while let Some(command) = self.link.commands.pop() {
                self.command(command);
            }
            self.take_in();
            let turn = self.engine.turn(clock.now());
            self.turns += 1;
            self.busy_turns += u64::from(turn.is_busy());
            while let Some(done) = self.engine.next_completion() {
                self.completed(done);
            }
            self.ring();
            self.tell_events();
            if self.link.stop.load(Ordering::Relaxed) && self.may_stop(clock.now()) {
                break;
            }
        }
        self.link.stopped.store(true, Ordering::Release);
    }

    /// Ends what is in flight. What a ring still reads after [`STOP_NS`] is left to it: the engine
    /// never gives that memory back.
    fn may_stop(&mut self, now: Time) -> bool {
        let since = match self.stopping {
            Some(since) => since,
            None => {
                self.engine.abort_all();
                *self.stopping.insert(now)
            }
        };
        let idle = self.pending.is_empty() && self.link.submissions.is_empty();
        idle || now.since(since) >= STOP_NS
    }

    fn command(&mut self, command: Command) {
        match command {
            Command::Rescan => self.engine.rescan(),
            Command::Find(addr) => {
                if self.engine.find_lun(addr).is_none() {
                    self.engine.add_lun(addr);
                }
            }
            Command::Snapshot(to) => {
                let touched = (0_u8..)
                    .map_while(|i| self.engine.port(i))
                    .map(DpdkPort::touched);
                let snapshot = Snapshot {
                    touched: touched.sum(),
                    luns: self.engine.luns().collect(),
                    ports: self.engine.port_stats().collect(),
                    counters: self.engine.counters(),
                    drops: self.engine.drops().iter().collect(),
                    in_flight: self.engine.in_flight(),
                    turns: self.turns,
                    busy_turns: self.busy_turns,
                };
                // Whoever asked may be gone.
                let _ = to.send(snapshot);
            }
        }
    }

    /// New I/O, after what had to wait.
    fn take_in(&mut self) {
        for _ in 0..self.waiting.len().min(ROUND) {
            let Some(key) = self.waiting.pop_front() else {
                break;
            };
            if !self.start(key) {
                // To the back: what waits for a stuck port must not hold up the others.
                self.waiting.push_back(key);
            }
        }
        for _ in 0..ROUND {
            if self.pending.len() >= SUBMISSIONS {
                return;
            }
            let Some(submission) = self.link.submissions.pop() else {
                return;
            };
            let Submission {
                client,
                lun,
                identity,
                request,
            } = submission;
            let pending = Pending {
                client,
                request,
                lun,
                identity,
                flushing: false,
            };
            let key = self.pending.insert(pending);
            if !self.start(key) {
                self.waiting.push_back(key);
            }
        }
    }

    /// Hands a request to the engine; false if it has to wait.
    fn start(&mut self, key: usize) -> bool {
        let Some(pending) = self.pending.get_mut(key) else {
            return true;
        };
        if self.stopping.is_some() {
            self.reply(key, Err(nbd::NbdErrno::Shutdown));
            return true;
        }
        if self.engine.identity(pending.lun) != pending.identity {
            // Another disk answers there now: nothing of this client's belongs on it.
            self.reply(key, Err(nbd::NbdErrno::Io));
            return true;
        }
        let request = &mut pending.request;
        let (op, memory) = match request.op {
            _ if pending.flushing => (Op::Flush, Sgl::NONE),
            nbd::Op::Read => (Op::Read, Sgl::NONE),
            nbd::Op::Write => (Op::Write, Sgl::NONE),
            nbd::Op::WriteZeroes => (Op::Write, Sgl::zeroes(request.len)),
            nbd::Op::Flush => (Op::Flush, Sgl::NONE),
            nbd::Op::Trim => (Op::Trim, Sgl::NONE),
        };
        let io = Request {
            lun: pending.lun,
            op,
            lba: request.offset / 512,
            sectors: request.len / 512,
            memory,
            user: key as u64,
        };
        let moves_data = matches!(request.op, nbd::Op::Read | nbd::Op::Write) && !pending.flushing;
        let refused = if moves_data {
            let Some(block) = request.buffer.as_mut().and_then(Payload::lend) else {
                self.reply(key, Err(nbd::NbdErrno::Inval));
                return true;
            };
            match self.engine.submit_block(&io, block) {
                Ok(()) => None,
                Err((e, block)) => {
                    restore(&mut self.pending[key], Some(block));
                    Some(e)
                }
            }
        } else {
            self.engine.submit(&io).err()
        };
        match refused {
            None => true,
            Some(SubmitError::Busy) => false,
            Some(error) => {
                self.reply(key, Err(refusal(error)));
                true
            }
        }
    }

    fn completed(&mut self, done: Completion) {
        let key = done.user as usize;
        let Some(pending) = self.pending.get_mut(key) else {
            return;
        };
        if done.block.is_some() {
            restore(pending, done.block);
        }
        let writes = matches!(pending.request.op, nbd::Op::Write | nbd::Op::WriteZeroes);
        if done.result.is_ok() && pending.request.fua && writes && !pending.flushing {
            pending.flushing = true;
            if !self.start(key) {
                self.waiting.push_back(key);
            }
            return;
        }
        self.reply(key, done.result.map_err(failure));
    }

    fn reply(&mut self, key: usize, result: Result<(), nbd::NbdErrno>) {
        let Pending {
            client, request, ..
        } = self.pending.remove(key);
        let reply = nbd::Reply {
            cookie: request.cookie,
            result,
            buffer: request.buffer,
        };
        // There is a place for each request that a client may have in flight.
        if client.replies.push(reply).is_err() {
            tracing::error!("a client has more replies than requests");
        }
        if !client.to_ring.swap(true, Ordering::Relaxed) {
            self.to_ring.push(client);
        }
    }

    /// Wakes each client once in a round.
    fn ring(&mut self) {
        for client in self.to_ring.drain(..) {
            client.to_ring.store(false, Ordering::Relaxed);
            client.bell.notify_one();
        }
    }

    fn tell_events(&mut self) {
        while let Some(event) = self.engine.next_event() {
            let (Event::Up { lun, .. }
            | Event::Lost { lun }
            | Event::Limits { lun }
            | Event::Duplicate { lun, .. }
            | Event::IdentifyFailed { lun }) = event;
            if let Some(lun) = self.engine.lun(lun) {
                let _ = self.link.events.force_push(CoreEvent { event, lun });
                self.link.event_bell.notify_one();
            }
        }
    }
}

fn restore(pending: &mut Pending, block: Option<DmaBlock>) {
    if let Some(buffer) = pending.request.buffer.as_mut() {
        buffer.restore(block);
    }
}

/// The error that an NBD client sees when the engine does not accept its I/O.
fn refusal(error: SubmitError) -> nbd::NbdErrno {
    match error {
        SubmitError::Busy => nbd::NbdErrno::NoMem,
        SubmitError::NoSuchLun | SubmitError::NotReady => nbd::NbdErrno::Io,
        SubmitError::OutOfRange { .. } => nbd::NbdErrno::NoSpc,
        SubmitError::Empty | SubmitError::TooLarge { .. } | SubmitError::ShortMemory { .. } => {
            nbd::NbdErrno::Inval
        }
        SubmitError::Unsupported(_) => nbd::NbdErrno::NotSup,
    }
}

/// The error that an NBD client sees when its I/O failed.
fn failure(error: IoError) -> nbd::NbdErrno {
    match error {
        IoError::Aoe(AoeError::TargetReserved) => nbd::NbdErrno::Perm,
        IoError::Aoe(AoeError::UnrecognisedCommand) => nbd::NbdErrno::NotSup,
        IoError::Ata { error, .. } if error & ata_error::IDNF != 0 => nbd::NbdErrno::NoSpc,
        IoError::Aborted => nbd::NbdErrno::Shutdown,
        IoError::Aoe(
            AoeError::BadArgument
            | AoeError::DeviceUnavailable
            | AoeError::ConfigStringPresent
            | AoeError::UnsupportedVersion
            | AoeError::Other(_),
        )
        | IoError::Ata { .. }
        | IoError::Restarted
        | IoError::TimedOut
        | IoError::LunLost => nbd::NbdErrno::Io,
    }
}

/// LUNs that every core looks for from the start.
pub fn add_luns(engine: &mut Engine<DpdkPort>, luns: &[ShelfSlot]) -> bool {
    luns.iter().all(|&lun| engine.add_lun(lun).is_some())
}
