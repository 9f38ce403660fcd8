//! What the NBD tests share: an export in memory that answers out of order, a server around it,
//! and a client that speaks raw bytes.
#![allow(dead_code, reason = "each test program uses a part of it")]

pub mod client;
pub mod memory;

use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use aoe_control::nbd::{self, Options};
use memory::MemoryBackend;
use tempfile::TempDir;
use tokio::sync::watch;

/// A server on a thread of its own; stopped and checked when dropped.
pub struct Server {
    pub backend: Arc<MemoryBackend>,
    pub path: PathBuf,
    pub dir: TempDir,
    stop: Option<watch::Sender<bool>>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    pub fn start(backend: MemoryBackend) -> Self {
        Self::with_options(backend, Options::default())
    }

    pub fn with_options(backend: MemoryBackend, options: Options) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("nbd.sock");
        let backend = Arc::new(backend);
        let (stop, stopped) = watch::channel(false);
        let (ready, is_ready) = std::sync::mpsc::channel();
        let (socket, served) = (path.clone(), Arc::clone(&backend));
        let thread = std::thread::spawn(move || {
            runtime().block_on(async move {
                let (listener, _file) = nbd::bind(&socket, nbd::DEFAULT_SOCKET_MODE)
                    .await
                    .expect("bind");
                ready.send(()).expect("the test waits");
                nbd::serve(listener, served, options, stopped)
                    .await
                    .expect("serve");
            });
        });
        is_ready.recv().expect("the server starts");
        Self {
            backend,
            path,
            dir,
            stop: Some(stop),
            thread: Some(thread),
        }
    }

    pub fn uri(&self, export: &str) -> String {
        format!("nbd+unix:///{export}?socket={}", self.path.display())
    }

    /// Gives the order to stop and does not wait.
    pub fn order_stop(&self) {
        if let Some(stop) = &self.stop {
            stop.send_replace(true);
        }
    }

    pub fn has_stopped(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.backend.release();
        self.order_stop();
        if std::thread::panicking() {
            return;
        }
        wait_until("the server stops", || self.has_stopped());
        if let Some(thread) = self.thread.take() {
            thread.join().expect("the server ends well");
        }
        assert!(!self.path.exists(), "the socket's file is removed");
        self.backend.assert_clean();
    }
}

pub fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime")
}

pub fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !done() {
        assert!(Instant::now() < deadline, "timed out: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Numbers that look random, the same in every run.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    pub fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len.div_ceil(8))
            .flat_map(|_| self.next().to_le_bytes())
            .take(len)
            .collect()
    }
}
