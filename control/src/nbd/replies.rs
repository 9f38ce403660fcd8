//! The writing half of the transmission phase: collects what is ready and sends it in one go.

use std::collections::VecDeque;
use std::io::{self, IoSlice};

use tokio::io::{AsyncWrite, AsyncWriteExt};
use tracing::error;

use super::backend::{Buffer, NbdErrno, Op, Reply, Session};
use super::check::Refusal;
use super::inflight::{InFlight, Pending};
use super::proto;

/// Replies sent with one system call: with a head and a payload each, well below the 1024 pieces
/// that Linux takes.
const MAX_BATCH: usize = 64;
const MAX_PIECES: usize = 2 * MAX_BATCH;

/// A reply that waits to be sent.
struct Finished<B> {
    pending: Pending,
    result: Result<(), Refusal>,
    buffer: Option<B>,
}

/// Sends replies until the requests have ended and all of them are answered, or the socket fails.
pub async fn write_replies<S, W>(
    writer: &mut W,
    session: &S,
    inflight: &InFlight,
    structured: bool,
) -> io::Result<()>
where
    S: Session,
    W: AsyncWrite + Unpin + Send,
{
    let mut arrived = Vec::new();
    let mut queue = VecDeque::new();
    let mut batch = Batch::new(structured);
    loop {
        inflight.take_refused(|pending, refusal| {
            queue.push_back(Finished {
                pending,
                result: Err(refusal),
                buffer: None,
            });
        });
        if queue.is_empty() {
            if inflight.is_finished() {
                return writer.flush().await;
            }
            tokio::select! {
                biased;
                () = session.replies(&mut arrived) => accept(&mut arrived, inflight, &mut queue),
                () = inflight.changed() => {}
            }
        }
        batch.fill(&mut queue);
        batch.send(writer, inflight).await?;
    }
}

/// Waits until the backend has answered everything, and sends nothing: the client is gone, but
/// its buffers may still be read by the device.
pub async fn drain<S: Session>(session: &S, inflight: &InFlight) {
    let mut arrived = Vec::new();
    while inflight.in_backend() > 0 {
        session.replies(&mut arrived).await;
        for reply in arrived.drain(..) {
            forget_unknown(inflight.remove(reply.cookie), reply.cookie);
        }
    }
}

fn accept<B: Buffer>(
    arrived: &mut Vec<Reply<B>>,
    inflight: &InFlight,
    queue: &mut VecDeque<Finished<B>>,
) {
    for Reply {
        cookie,
        result,
        buffer,
    } in arrived.drain(..)
    {
        if let Some(pending) = forget_unknown(inflight.remove(cookie), cookie) {
            queue.push_back(Finished {
                pending,
                result: result.map_err(Refusal::from),
                buffer,
            });
        }
    }
}

fn forget_unknown(pending: Option<Pending>, cookie: u64) -> Option<Pending> {
    if pending.is_none() {
        error!(
            cookie,
            "nbd backend answered a request that it does not have"
        );
    }
    pending
}

/// Replies on their way to the socket: the heads in one piece of memory, the payloads where the
/// device put them.
struct Batch<B> {
    structured: bool,
    heads: Vec<u8>,
    parts: Vec<Part<B>>,
}

struct Part<B> {
    /// Where this reply's head ends in `heads`; it begins where the one before ends.
    head_end: usize,
    payload: Option<(B, usize)>,
}

impl<B: Buffer> Batch<B> {
    fn new(structured: bool) -> Self {
        Self {
            structured,
            heads: Vec::new(),
            parts: Vec::with_capacity(MAX_BATCH),
        }
    }

    fn fill(&mut self, queue: &mut VecDeque<Finished<B>>) {
        while self.parts.len() < MAX_BATCH {
            let Some(finished) = queue.pop_front() else {
                return;
            };
            self.add(finished);
        }
    }

    fn add(&mut self, finished: Finished<B>) {
        let Finished {
            pending,
            mut result,
            buffer,
        } = finished;
        let payload = match (pending.op, result) {
            (Some(Op::Read), Ok(())) => payload_of(buffer, &pending),
            _ => None,
        };
        if pending.op == Some(Op::Read) && result.is_ok() && payload.is_none() {
            result = Err(NbdErrno::Io.into());
        }
        self.put_head(&pending, result);
        self.parts.push(Part {
            head_end: self.heads.len(),
            payload,
        });
    }

    fn put_head(&mut self, p: &Pending, result: Result<(), Refusal>) {
        let out = &mut self.heads;
        match (self.structured, result) {
            (false, Ok(())) => proto::put_simple_reply(out, p.handle, 0),
            (false, Err(refusal)) => proto::put_simple_reply(out, p.handle, refusal.errno.code()),
            (true, Ok(())) if p.op == Some(Op::Read) => {
                proto::put_data_chunk(out, p.handle, p.offset, p.len);
            }
            (true, Ok(())) => proto::put_none_chunk(out, p.handle),
            (true, Err(refusal)) => {
                // The offset must lie inside the request's range, which must exist for that.
                let ranged = p.len > 0 && !matches!(p.op, None | Some(Op::Flush));
                let offset = ranged.then_some(p.offset);
                proto::put_error_chunk(out, p.handle, refusal.errno, refusal.text, offset);
            }
        }
    }

    /// Sends everything and gives the buffers back to their pool.
    async fn send<W>(&mut self, writer: &mut W, inflight: &InFlight) -> io::Result<()>
    where
        W: AsyncWrite + Unpin + Send,
    {
        let mut pieces = [IoSlice::new(&[]); MAX_PIECES];
        let count = pieces
            .iter_mut()
            .zip(self.pieces())
            .map(|(to, from)| *to = from)
            .count();
        let mut rest = pieces.get_mut(..count).unwrap_or_default();
        inflight.write_begins();
        while !rest.is_empty() {
            let sent = writer.write_vectored(rest).await?;
            if sent == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            inflight.write_moves();
            IoSlice::advance_slices(&mut rest, sent);
        }
        inflight.write_ends();
        self.heads.clear();
        self.parts.clear();
        Ok(())
    }

    /// Heads and payloads in order, without empty pieces.
    fn pieces(&self) -> impl Iterator<Item = IoSlice<'_>> {
        let mut heads = self.heads.as_slice();
        let mut taken = 0;
        self.parts.iter().flat_map(move |part| {
            let (head, rest) = heads
                .split_at_checked(part.head_end - taken)
                .unwrap_or_default();
            heads = rest;
            taken = part.head_end;
            let payload = part
                .payload
                .as_ref()
                .and_then(|(buffer, len)| buffer.as_slice().get(..*len));
            std::iter::once(head).chain(payload).map(IoSlice::new)
        })
    }
}

/// A read's payload, if the backend gave as much as was asked for.
fn payload_of<B: Buffer>(buffer: Option<B>, pending: &Pending) -> Option<(B, usize)> {
    let len = pending.len as usize;
    match buffer {
        Some(buffer) if buffer.as_slice().len() >= len => Some((buffer, len)),
        Some(_) | None => {
            error!(
                len,
                "nbd backend answered a read with less data than asked for"
            );
            None
        }
    }
}
