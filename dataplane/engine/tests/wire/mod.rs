//! A wire of DPDK rings: an engine on one end, a target on the other, both real [`DpdkPort`]s.

#![allow(dead_code, reason = "each test file uses its own part")]

use super::nic::net::MemDisk;
use aoe_engine::dpdk::{
    Device, DeviceConfig, DpdkError, DpdkPort, Eal, EalConfig, HugePages, IovaMap, RxFrame,
    ring_pair,
};
use aoe_engine::{Engine, FramePool, FrameStore, Port, PortStats};
use aoe_proto::ShelfSlot;
use aoe_proto::initiator::{Config, LunId, LunState, PacingLimits, Time};
use aoe_proto::target::{Target, TargetConfig};
use aoe_proto::wire::{Command, Header};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

pub const MS: u64 = 1_000_000;
pub const SEC: u64 = 1_000_000_000;
pub const LUN: ShelfSlot = ShelfSlot { shelf: 3, slot: 1 };

/// What went wrong without a return value: DPDK's mbuf checks and frames that were written to.
static ERRORS: AtomicU64 = AtomicU64::new(0);

struct CountErrors;

impl tracing::Subscriber for CountErrors {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        *metadata.level() == tracing::Level::ERROR
    }
    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }
    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}
    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
    fn event(&self, event: &tracing::Event<'_>) {
        eprintln!("{event:?}");
        ERRORS.fetch_add(1, Ordering::SeqCst);
    }
    fn enter(&self, _: &tracing::span::Id) {}
    fn exit(&self, _: &tracing::span::Id) {}
}

pub fn errors() -> u64 {
    ERRORS.load(Ordering::SeqCst)
}

/// The EAL of this process and the right to use it, one test at a time. `None`, with the reason
/// printed, if it cannot be had here.
pub fn eal() -> Option<(Eal, MutexGuard<'static, ()>)> {
    static ONE: Mutex<()> = Mutex::new(());
    static EAL: OnceLock<Option<Eal>> = OnceLock::new();
    let guard = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    let start = || {
        let _other = tracing::subscriber::set_global_default(CountErrors);
        let config = EalConfig {
            main_cpu: 0,
            memory_mb: 256,
            huge_pages: HugePages::Never,
            log_level: "critical".into(),
            ..EalConfig::default()
        };
        Eal::start(&config)
            .map_err(|e| skipped(&e.to_string()))
            .ok()
    };
    EAL.get_or_init(start).map(|eal| (eal, guard))
}

/// Small rings and pools, with all checks on.
pub fn device(port: u16) -> DeviceConfig {
    DeviceConfig {
        rx_desc: 128,
        tx_desc: 64,
        slots: 64,
        header_overflow: 16,
        full_frames: 64,
        full_overflow: 8,
        checks: true,
        ..DeviceConfig::new(format!("port:{port}"))
    }
}

pub fn open(eal: Eal, config: &DeviceConfig, map: &IovaMap) -> Result<DpdkPort, DpdkError> {
    let (_device, ports) = Device::open(eal, config, map)?;
    Ok(ports.into_iter().next().unwrap())
}

/// A target behind a port. It copies each request before it answers.
pub struct Responder {
    pub port: DpdkPort,
    pool: FramePool,
    headers: FramePool,
    pub target: Target<MemDisk>,
    /// Frames that it sits on.
    pub held: Vec<RxFrame>,
    pub sits: bool,
    pub asleep: bool,
    /// Answers with data go out as a header and an attached segment.
    pub split: bool,
    /// The data of split answers, which the engine reads from here.
    store: Vec<Vec<u8>>,
}

impl Responder {
    pub fn new(port: DpdkPort) -> Self {
        let config = TargetConfig {
            max_sectors: 16,
            buffer_count: 32,
            ..TargetConfig::new(LUN)
        };
        let disk = MemDisk {
            sectors: 1 << 20,
            ..MemDisk::default()
        };
        let frames = port.frames();
        Self {
            port,
            pool: FramePool::new(frames.full),
            headers: FramePool::new(frames.header),
            target: Target::new(config, disk),
            held: Vec::new(),
            sits: false,
            asleep: false,
            split: false,
            store: Vec::new(),
        }
    }

    pub fn turn(&mut self) {
        if self.asleep {
            return;
        }
        let count = self.port.rx_burst();
        let mut answers = Vec::new();
        for i in 0..count {
            let mut request = vec![0; self.port.rx_len(i)];
            let len = request.len();
            self.port.rx_pieces(i, 0, len, |at, bytes| {
                request[at..at + bytes.len()].copy_from_slice(bytes);
            });
            let mut out = vec![0; 9018];
            if let Some(len) = self
                .target
                .respond(&request, self.port.info().mac, &mut out)
            {
                out.truncate(len);
                answers.push(out);
            }
            if self.sits {
                self.held.extend(self.port.rx_take(i));
            }
        }
        self.port.rx_done();
        answers.into_iter().for_each(|answer| self.send(answer));
        self.pool.reap(&mut self.port, usize::MAX);
        self.headers.reap(&mut self.port, usize::MAX);
    }

    fn send(&mut self, answer: Vec<u8>) {
        self.pool.begin_turn();
        let is_ata = Header::parse(&answer).unwrap().0.command == Command::Ata as u8;
        if self.split && is_ata && answer.len() > 60 {
            let frame = self.headers.take(&mut self.port).expect("a header frame");
            // The header's segment brings the first bytes of the data, too.
            self.port.header(frame, 60)[..60].copy_from_slice(&answer[..60]);
            self.store.push(answer[60..].to_vec());
            let data = self.store.last().unwrap();
            let at = NonNull::new(data.as_ptr().cast_mut()).unwrap();
            assert!(self.port.attach(frame, at, data.len() as u32));
            assert_eq!(self.port.tx_burst(&[frame]), 1);
            self.headers.hold(frame);
            return;
        }
        let frame = self.pool.take(&mut self.port).expect("a full frame");
        self.port.body(frame, answer.len()).copy_from_slice(&answer);
        assert_eq!(self.port.tx_burst(&[frame]), 1);
        self.pool.hold(frame);
    }
}

/// An engine, a ring pair, a responder.
pub struct Wire {
    pub engine: Engine<DpdkPort>,
    pub responder: Responder,
    pub now: u64,
}

impl Wire {
    pub fn new(eal: Eal, name: &str, drain_ns: u64, change: impl Fn(&mut DeviceConfig)) -> Self {
        let (a, b) = ring_pair(eal, name, 256).unwrap();
        let map = IovaMap::new(eal);
        let mut ours = device(a);
        change(&mut ours);
        let port = open(eal, &ours, &map).unwrap();
        let responder = Responder::new(open(eal, &device(b), &map).unwrap());
        let pacing = PacingLimits {
            rto_min_ns: 20 * MS,
            rto_max_ns: SEC,
            rto_initial_ns: 100 * MS,
        };
        let config = Config {
            slots: 64,
            ios: 64,
            luns: 4,
            loss_timeout_ns: 3 * SEC,
            probe_interval_ns: 200 * MS,
            pacing,
            seed: 7,
            ..Config::default()
        };
        let mut engine = Engine::new(config, drain_ns).unwrap();
        engine.add_port(port, None).unwrap();
        let mut wire = Self {
            engine,
            responder,
            now: SEC,
        };
        wire.run_until(|w| w.engine.luns().any(|l| l.state == LunState::Up));
        // The first rounds of discovery pass.
        wire.run(2 * SEC);
        wire
    }

    pub fn lun(&self) -> LunId {
        self.engine.find_lun(LUN).unwrap()
    }

    pub fn stats(&self) -> PortStats {
        self.engine.port_stats().next().unwrap()
    }

    pub fn turn(&mut self) {
        self.now += MS / 10;
        self.engine.turn(Time(self.now));
        self.responder.turn();
    }

    pub fn run(&mut self, ns: u64) {
        let end = self.now + ns;
        while self.now < end {
            self.turn();
        }
    }

    pub fn run_until(&mut self, done: impl Fn(&Self) -> bool) {
        let end = self.now + 20 * SEC;
        while !done(self) {
            assert!(
                self.now < end,
                "still waiting: {:?} {:?}",
                self.stats(),
                self.engine.drops()
            );
            self.turn();
        }
    }

    /// Both ends have all of their frames back, and nobody touched any.
    pub fn finish(mut self) {
        self.responder.held.clear();
        self.run_until(|w| w.engine.is_whole() && w.responder.pool.is_whole());
        assert_eq!(self.engine.in_flight(), 0);
        assert_eq!(
            self.engine.port(0).unwrap().touched(),
            0,
            "the engine's frames"
        );
        assert_eq!(self.responder.port.touched(), 0, "the responder's frames");
        let port = self.engine.port_mut(0).unwrap();
        port.nudge();
    }
}

/// Says why a test did nothing: past the harness, which keeps what a test prints to itself.
fn skipped(reason: &str) {
    use std::io::Write;
    let _ = writeln!(std::io::stderr(), "skipped: {reason}");
}
