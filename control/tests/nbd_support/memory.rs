//! Exports in memory, served by threads that answer in any order.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering::SeqCst};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use aoe_control::nbd::{
    Backend, Buffer, ExportInfo, NbdErrno, Op, OpenError, Reply, Request, Session,
};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

use super::Random;

/// How the backend answers.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Pace {
    /// At once, one thread.
    Fast,
    /// Four threads with random pauses, and a queue that is full every now and then.
    Shuffled,
}

/// What a request looked like when it arrived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    pub op: Op,
    pub offset: u64,
    pub len: u32,
    pub fua: bool,
    pub no_hole: bool,
    pub fast_zero: bool,
}

pub struct Export {
    pub info: ExportInfo,
    pub data: Mutex<Vec<u8>>,
    pub seen: Mutex<Vec<Seen>>,
    /// Reads and writes that touch this byte fail.
    pub bad_byte: Mutex<Option<u64>>,
}

#[derive(Default)]
struct Gate {
    held: Mutex<bool>,
    opened: Condvar,
}

/// Keeps count of everything that must come back.
#[derive(Default)]
pub struct Ledger {
    pub buffers: AtomicUsize,
    pub in_backend: AtomicUsize,
    pub peak_in_backend: AtomicUsize,
    pub sessions: AtomicUsize,
    pub sessions_dropped_early: AtomicUsize,
}

pub struct MemoryBackend {
    exports: Vec<Arc<Export>>,
    pool: Arc<Semaphore>,
    pub ledger: Arc<Ledger>,
    gate: Arc<Gate>,
    pace: Pace,
    jobs: Sender<Job>,
    pub unavailable: AtomicBool,
}

struct Job {
    export: Arc<Export>,
    mailbox: Arc<Mailbox>,
    request: Request<MemoryBuffer>,
}

#[derive(Default)]
struct Mailbox {
    replies: Mutex<Vec<Reply<MemoryBuffer>>>,
    ready: Notify,
    unanswered: AtomicUsize,
}

pub struct MemoryBuffer {
    bytes: Box<[u8]>,
    ledger: Arc<Ledger>,
    _permit: OwnedSemaphorePermit,
}

impl Drop for MemoryBuffer {
    fn drop(&mut self) {
        self.ledger.buffers.fetch_sub(1, SeqCst);
    }
}

impl Buffer for MemoryBuffer {
    fn as_slice(&self) -> &[u8] {
        &self.bytes
    }
    fn as_mut_slice(&mut self) -> &mut [u8] {
        &mut self.bytes
    }
}

/// A writable export with every feature.
pub fn full_export(name: &str, size_bytes: u64) -> ExportInfo {
    ExportInfo {
        description: format!("test export {name}"),
        flush: true,
        fua: true,
        trim: true,
        write_zeroes: true,
        fast_zero: true,
        multi_conn: true,
        ..ExportInfo::new(name, size_bytes)
    }
}

impl MemoryBackend {
    pub fn new(pace: Pace, exports: impl IntoIterator<Item = ExportInfo>) -> Self {
        let (jobs, taken) = channel::<Job>();
        let taken = Arc::new(Mutex::new(taken));
        let gate = Arc::new(Gate::default());
        let ledger = Arc::new(Ledger::default());
        let threads = if pace == Pace::Fast { 1 } else { 4 };
        for seed in 0..threads {
            let (taken, gate, ledger) = (taken.clone(), gate.clone(), ledger.clone());
            std::thread::spawn(move || work(&taken, &gate, &ledger, pace, Random(seed)));
        }
        let exports = exports.into_iter().map(|info| {
            let data = Mutex::new(vec![0; info.size_bytes as usize]);
            Arc::new(Export {
                info,
                data,
                seen: Mutex::default(),
                bad_byte: Mutex::default(),
            })
        });
        Self {
            exports: exports.collect(),
            pool: Arc::new(Semaphore::new(48)),
            ledger,
            gate,
            pace,
            jobs,
            unavailable: AtomicBool::new(false),
        }
    }

    pub fn export(&self, index: usize) -> &Export {
        &self.exports[index]
    }

    /// From now on requests stay unanswered.
    pub fn hold(&self) {
        *self.gate.held.lock().unwrap() = true;
    }

    pub fn release(&self) {
        *self.gate.held.lock().unwrap() = false;
        self.gate.opened.notify_all();
    }

    pub fn in_backend(&self) -> usize {
        self.ledger.in_backend.load(SeqCst)
    }

    /// Every buffer is back, and no session went before its requests.
    pub fn assert_clean(&self) {
        assert_eq!(
            self.ledger.buffers.load(SeqCst),
            0,
            "buffers not back in the pool"
        );
        assert_eq!(
            self.ledger.in_backend.load(SeqCst),
            0,
            "requests unanswered"
        );
        assert_eq!(self.ledger.sessions.load(SeqCst), 0, "sessions open");
        assert_eq!(
            self.ledger.sessions_dropped_early.load(SeqCst),
            0,
            "sessions dropped early"
        );
    }
}

impl Backend for MemoryBackend {
    type Session = MemorySession;

    fn list(&self) -> Vec<ExportInfo> {
        self.exports
            .iter()
            .map(|export| export.info.clone())
            .collect()
    }

    fn open(&self, name: &str) -> Result<(ExportInfo, MemorySession), OpenError> {
        if self.unavailable.load(SeqCst) {
            let reason = "the target does not answer".to_owned();
            return Err(OpenError::Unavailable {
                name: name.to_owned(),
                reason,
            });
        }
        let found = self.exports.iter().find(|export| export.info.name == name);
        let export = found.ok_or_else(|| OpenError::Unknown(name.to_owned()))?;
        self.ledger.sessions.fetch_add(1, SeqCst);
        let session = MemorySession {
            export: export.clone(),
            pool: self.pool.clone(),
            ledger: self.ledger.clone(),
            mailbox: Arc::default(),
            jobs: self.jobs.clone(),
            pace: self.pace,
            submits: AtomicU32::new(0),
        };
        Ok((export.info.clone(), session))
    }
}

pub struct MemorySession {
    export: Arc<Export>,
    pool: Arc<Semaphore>,
    ledger: Arc<Ledger>,
    mailbox: Arc<Mailbox>,
    jobs: Sender<Job>,
    pace: Pace,
    submits: AtomicU32,
}

impl Drop for MemorySession {
    fn drop(&mut self) {
        if self.mailbox.unanswered.load(SeqCst) > 0 {
            self.ledger.sessions_dropped_early.fetch_add(1, SeqCst);
        }
        self.ledger.sessions.fetch_sub(1, SeqCst);
    }
}

impl Session for MemorySession {
    type Buffer = MemoryBuffer;

    async fn alloc(&self, len: usize) -> Result<MemoryBuffer, NbdErrno> {
        let permit = self
            .pool
            .clone()
            .acquire_owned()
            .await
            .map_err(|_| NbdErrno::NoMem)?;
        self.ledger.buffers.fetch_add(1, SeqCst);
        let (bytes, ledger) = (vec![0; len].into_boxed_slice(), self.ledger.clone());
        Ok(MemoryBuffer {
            bytes,
            ledger,
            _permit: permit,
        })
    }

    fn submit(&self, request: Request<MemoryBuffer>) -> Result<(), Request<MemoryBuffer>> {
        if self.pace == Pace::Shuffled && self.submits.fetch_add(1, SeqCst) % 16 == 15 {
            return Err(request);
        }
        let inside = self.ledger.in_backend.fetch_add(1, SeqCst) + 1;
        self.ledger.peak_in_backend.fetch_max(inside, SeqCst);
        self.mailbox.unanswered.fetch_add(1, SeqCst);
        let (export, mailbox) = (self.export.clone(), self.mailbox.clone());
        self.jobs
            .send(Job {
                export,
                mailbox,
                request,
            })
            .expect("the workers live");
        Ok(())
    }

    async fn replies(&self, out: &mut Vec<Reply<MemoryBuffer>>) {
        loop {
            let mut ready = std::mem::take(&mut *self.mailbox.replies.lock().unwrap());
            if !ready.is_empty() {
                self.mailbox.unanswered.fetch_sub(ready.len(), SeqCst);
                out.append(&mut ready);
                return;
            }
            self.mailbox.ready.notified().await;
        }
    }
}

fn work(jobs: &Mutex<Receiver<Job>>, gate: &Gate, ledger: &Ledger, pace: Pace, mut random: Random) {
    loop {
        let Ok(Job {
            export,
            mailbox,
            request,
        }) = jobs.lock().unwrap().recv()
        else {
            return;
        };
        let held = gate.held.lock().unwrap();
        drop(gate.opened.wait_while(held, |held| *held).unwrap());
        if pace == Pace::Shuffled && random.below(4) != 0 {
            std::thread::sleep(Duration::from_micros(random.below(300)));
        }
        let reply = answer(&export, request);
        ledger.in_backend.fetch_sub(1, SeqCst);
        mailbox.replies.lock().unwrap().push(reply);
        mailbox.ready.notify_one();
    }
}

fn answer(export: &Export, mut request: Request<MemoryBuffer>) -> Reply<MemoryBuffer> {
    let Request {
        cookie,
        op,
        offset,
        len,
        fua,
        no_hole,
        fast_zero,
        ..
    } = request;
    // Long runs of fio would fill the memory.
    let mut seen = export.seen.lock().unwrap();
    if seen.len() < 10_000 {
        seen.push(Seen {
            op,
            offset,
            len,
            fua,
            no_hole,
            fast_zero,
        });
    }
    drop(seen);
    let range = offset as usize..offset as usize + len as usize;
    let bad = export
        .bad_byte
        .lock()
        .unwrap()
        .is_some_and(|bad| range.contains(&(bad as usize)));
    let mut data = export.data.lock().unwrap();
    let result = match (op, request.buffer.as_mut()) {
        _ if bad => Err(NbdErrno::Io),
        (Op::Read, Some(buffer)) => {
            buffer.as_mut_slice().copy_from_slice(&data[range]);
            Ok(())
        }
        (Op::Write, Some(buffer)) => {
            data[range].copy_from_slice(buffer.as_slice());
            Ok(())
        }
        (Op::Trim | Op::WriteZeroes, None) => {
            data[range].fill(0);
            Ok(())
        }
        (Op::Flush, None) => Ok(()),
        (op, buffer) => panic!("{op:?} with buffer: {}", buffer.is_some()),
    };
    drop(data);
    Reply {
        cookie,
        result,
        buffer: request.buffer.filter(|_| op == Op::Read),
    }
}
