//! The NBD server's backend: requests go to a polling core and replies come back, both through
//! lock-free queues.

use crate::buffers::{Buffers, Payload};
use crate::core::{Client, Link, Submission};
use crate::nbd::{self, Backend, ExportInfo, OpenError};
use crate::registry::{Missing, Opened, Registry};
use aoe_proto::initiator::LunId;
use crossbeam_queue::ArrayQueue;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use tokio::sync::Notify;

/// All LUNs of the appliance, as NBD exports.
pub struct Luns {
    registry: Arc<Registry>,
    links: Vec<Arc<Link>>,
    buffers: Buffers,
    max_in_flight: u32,
    next_core: AtomicUsize,
}

impl Luns {
    /// Connections are spread over the cores behind `links`.
    #[must_use]
    pub fn new(
        registry: Arc<Registry>,
        links: Vec<Arc<Link>>,
        buffers: Buffers,
        max_in_flight: u32,
    ) -> Self {
        Self {
            registry,
            links,
            buffers,
            max_in_flight,
            next_core: AtomicUsize::new(0),
        }
    }
}

impl Backend for Luns {
    type Session = LunSession;

    fn list(&self) -> Vec<ExportInfo> {
        self.registry.exports()
    }

    fn open(&self, name: &str) -> Result<(ExportInfo, LunSession), OpenError> {
        let next = self.next_core.fetch_add(1, Ordering::Relaxed);
        let opened = self.registry.open(name, next);
        let Opened {
            info,
            core,
            lun,
            identity,
        } = opened.map_err(|missing| match missing {
            Missing::Unknown => OpenError::Unknown(name.into()),
            Missing::Down(reason) => OpenError::Unavailable {
                name: name.into(),
                reason,
            },
        })?;
        let link = self
            .links
            .get(core)
            .ok_or_else(|| OpenError::Unknown(name.into()))?
            .clone();
        let client = Arc::new(Client {
            replies: ArrayQueue::new(self.max_in_flight as usize + 1),
            bell: Notify::new(),
            to_ring: AtomicBool::new(false),
        });
        let buffers = self.buffers.clone();
        Ok((
            info,
            LunSession {
                link,
                client,
                lun,
                identity,
                buffers,
            },
        ))
    }
}

/// One connection's LUN.
pub struct LunSession {
    link: Arc<Link>,
    client: Arc<Client>,
    lun: LunId,
    identity: u32,
    buffers: Buffers,
}

impl nbd::Session for LunSession {
    type Buffer = Payload;

    async fn alloc(&self, len: usize) -> Result<Payload, nbd::NbdErrno> {
        self.buffers.take(len).await
    }

    fn submit(&self, request: nbd::Request<Payload>) -> Result<(), nbd::Request<Payload>> {
        if self.link.stopped.load(Ordering::Acquire) {
            // Nobody would ever take it out of the queue.
            let reply = nbd::Reply {
                cookie: request.cookie,
                result: Err(nbd::NbdErrno::Shutdown),
                buffer: request.buffer,
            };
            let _ = self.client.replies.push(reply);
            self.client.bell.notify_one();
            return Ok(());
        }
        let (client, lun, identity) = (self.client.clone(), self.lun, self.identity);
        let submission = Submission {
            client,
            lun,
            identity,
            request,
        };
        self.link
            .submissions
            .push(submission)
            .map_err(|back| back.request)
    }

    async fn replies(&self, out: &mut Vec<nbd::Reply<Payload>>) {
        loop {
            let before = out.len();
            while let Some(reply) = self.client.replies.pop() {
                out.push(reply);
            }
            if out.len() > before {
                return;
            }
            self.client.bell.notified().await;
        }
    }
}
