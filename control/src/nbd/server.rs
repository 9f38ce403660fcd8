//! Accepts connections and sees them through to their end.

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{sleep, timeout};
use tracing::{Instrument, debug, info, info_span, warn};

use super::backend::Backend;
use super::error::ConnectionError;
use super::handshake::negotiate;
use super::session::transmit;

/// Read from the socket at once: many requests, or the payloads of small writes with them.
/// Payloads larger than this go past it, straight to the backend's memory.
const READ_AHEAD_BYTES: usize = 32 << 10;
/// After an accept that failed for lack of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How the server behaves.
#[derive(Clone, Debug)]
pub struct Options {
    /// Requests that one connection may have unanswered; more stay in the socket.
    pub max_in_flight: u32,
    /// Connections served at once; further ones are closed at once.
    pub max_connections: u32,
    /// From the connection to the chosen export.
    pub handshake_timeout: Duration,
    /// How long a closing connection waits for a client that reads none of its replies; it takes
    /// up to twice as long to notice.
    pub stall_timeout: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            max_in_flight: 128,
            max_connections: 64,
            handshake_timeout: Duration::from_secs(10),
            stall_timeout: Duration::from_secs(5),
        }
    }
}

/// Serves clients until `shutdown` holds `true`, or its sender is gone.
///
/// Then it stops accepting, lets every connection answer the requests it has taken, closes them
/// and returns. Dropping the future in place of that stops only the accepting: connections run in
/// tasks of their own, because their buffers must outlive their requests.
///
/// # Errors
///
/// Only when the listener is beyond use. Trouble with one connection is logged.
pub async fn serve<B: Backend>(
    listener: UnixListener,
    backend: Arc<B>,
    options: Options,
    mut shutdown: watch::Receiver<bool>,
) -> io::Result<()> {
    let limit = options.max_connections.max(1);
    let places = Arc::new(Semaphore::new(limit as usize));
    let result = loop {
        let accepted = tokio::select! {
            biased;
            () = stopped(&mut shutdown) => break Ok(()),
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => match Arc::clone(&places).try_acquire_owned() {
                Ok(place) => start(stream, place, &backend, &options, &shutdown),
                Err(_) => warn!(
                    peer = peer_of(&stream),
                    limit, "nbd connection refused: too many"
                ),
            },
            Err(error) if is_passing(&error) => {
                warn!(%error, "nbd accept failed");
                sleep(ACCEPT_PAUSE).await;
            }
            Err(error) => break Err(error),
        }
    };
    drop(listener);
    info!(
        connections = limit as usize - places.available_permits(),
        "nbd server stops"
    );
    // All places free: all connections are over.
    let _ = places.acquire_many(limit).await;
    result
}

/// Waits for the order to stop.
pub(super) async fn stopped(shutdown: &mut watch::Receiver<bool>) {
    // An error means that the sender is gone, and with it whoever wanted a server.
    let _ = shutdown.wait_for(|stop| *stop).await;
}

/// Whether a listener that gave this error may work again a moment later.
fn is_passing(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(
            libc::ECONNABORTED
                | libc::EINTR
                | libc::EMFILE
                | libc::ENFILE
                | libc::ENOBUFS
                | libc::ENOMEM
                | libc::EPERM
        )
    )
}

fn peer_of(stream: &UnixStream) -> String {
    match stream.peer_cred() {
        Ok(peer) => format!("pid {} uid {}", peer.pid().unwrap_or_default(), peer.uid()),
        Err(_) => "unknown".to_owned(),
    }
}

fn start<B: Backend>(
    stream: UnixStream,
    place: OwnedSemaphorePermit,
    backend: &Arc<B>,
    options: &Options,
    shutdown: &watch::Receiver<bool>,
) {
    let span = info_span!("nbd", peer = peer_of(&stream));
    let (backend, options, shutdown) = (Arc::clone(backend), options.clone(), shutdown.clone());
    let connection = async move {
        let (reader, writer) = stream.into_split();
        let result = serve_connection(reader, writer, &*backend, &options, shutdown).await;
        drop(place);
        report(result);
    };
    tokio::spawn(connection.instrument(span));
}

fn report(result: Result<(), ConnectionError>) {
    match result {
        Ok(()) => debug!("nbd connection closed"),
        Err(error) if error.is_violation() => {
            warn!(%error, "nbd client broke the protocol, connection closed");
        }
        Err(error) => debug!(%error, "nbd connection ended"),
    }
}

/// Serves one client over any pair of byte streams, from the greeting to the end.
///
/// Do not drop the future before it is done once the client has sent requests: the backend's
/// session would go while requests are unanswered.
///
/// # Errors
///
/// What ended the connection, unless the client ended it in good order or `shutdown` did.
pub async fn serve_connection<B, R, W>(
    reader: R,
    mut writer: W,
    backend: &B,
    options: &Options,
    mut shutdown: watch::Receiver<bool>,
) -> Result<(), ConnectionError>
where
    B: Backend,
    R: AsyncRead + Unpin + Send,
    W: AsyncWrite + Unpin + Send,
{
    let mut reader = BufReader::with_capacity(READ_AHEAD_BYTES, reader);
    let handshake = within(
        options.handshake_timeout,
        negotiate(&mut reader, &mut writer, backend),
    );
    let agreed = tokio::select! {
        agreed = handshake => agreed?,
        () = stopped(&mut shutdown) => return Ok(()),
    };
    let Some(agreed) = agreed else { return Ok(()) };
    let export = agreed.export.name.clone();
    info!(
        export,
        structured = agreed.structured,
        "nbd client connected"
    );
    let result = transmit(&mut reader, &mut writer, agreed, options, &mut shutdown).await;
    match &result {
        Ok(()) => info!(export, "nbd client disconnected"),
        Err(error) => info!(export, %error, "nbd client lost"),
    }
    result
}

async fn within<T>(
    limit: Duration,
    handshake: impl Future<Output = Result<T, ConnectionError>>,
) -> Result<T, ConnectionError> {
    match timeout(limit, handshake).await {
        Ok(result) => result,
        Err(_) => {
            debug!("nbd handshake timed out");
            Err(ConnectionError::HandshakeTimeout(limit))
        }
    }
}
