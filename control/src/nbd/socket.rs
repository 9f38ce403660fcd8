//! The Unix socket's place in the file system.

use std::fs::{self, Permissions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use thiserror::Error;
use tokio::net::{UnixListener, UnixSocket, UnixStream};
use tracing::{info, warn};

/// Only the owner may connect.
pub const DEFAULT_SOCKET_MODE: u32 = 0o600;

/// Connections that wait to be accepted.
const BACKLOG: u32 = 64;

/// Why a socket could not be bound.
#[derive(Debug, Error)]
pub enum BindError {
    /// A process listens there.
    #[error("{}: another process is serving this socket", .0.display())]
    InUse(PathBuf),
    /// Something that is no socket has that name; it is left alone.
    #[error("{}: exists and is not a socket", .0.display())]
    NotASocket(PathBuf),
    /// The system refused.
    #[error("{}: cannot {action}: {error}", path.display())]
    Io {
        /// The socket's path.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// What the system said.
        error: io::Error,
    },
}

/// Removes the socket's file when dropped, unless another file has taken its place.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    id: FileId,
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let is_ours =
            fs::symlink_metadata(&self.path).is_ok_and(|found| file_id(&found) == self.id);
        if is_ours && let Err(error) = fs::remove_file(&self.path) {
            warn!(path = %self.path.display(), %error, "cannot remove the nbd socket");
        }
    }
}

/// Listens at `path`, where a socket left behind by a dead process is replaced.
///
/// Keep the [`SocketFile`] as long as the server runs.
///
/// # Errors
///
/// When another process listens there, when the path is something else than a socket, or when the
/// system refuses; each names the path.
pub async fn bind(path: &Path, mode: u32) -> Result<(UnixListener, SocketFile), BindError> {
    let failed = |action| {
        let path = path.to_owned();
        move |error| BindError::Io {
            path,
            action,
            error,
        }
    };
    remove_stale(path).await?;
    let socket = UnixSocket::new_stream().map_err(failed("create a socket"))?;
    socket.bind(path).map_err(|error| match error.kind() {
        ErrorKind::AddrInUse => BindError::InUse(path.to_owned()),
        _ => failed("bind")(error),
    })?;
    let found = fs::symlink_metadata(path).map_err(failed("look at the new socket"))?;
    let file = SocketFile {
        path: path.to_owned(),
        id: file_id(&found),
    };
    // Nobody can connect before `listen`, so nobody slips in before the permissions are right.
    fs::set_permissions(path, Permissions::from_mode(mode)).map_err(failed("set permissions"))?;
    let listener = socket.listen(BACKLOG).map_err(failed("listen"))?;
    Ok((listener, file))
}

/// Device, inode and when it was made: file systems use inode numbers again at once.
type FileId = (u64, u64, i64, i64);

fn file_id(metadata: &fs::Metadata) -> FileId {
    (
        metadata.dev(),
        metadata.ino(),
        metadata.mtime(),
        metadata.mtime_nsec(),
    )
}

async fn remove_stale(path: &Path) -> Result<(), BindError> {
    let io = |action, error| BindError::Io {
        path: path.to_owned(),
        action,
        error,
    };
    let found = match fs::symlink_metadata(path) {
        Ok(found) => found,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(io("look at what is there", error)),
    };
    if !found.file_type().is_socket() {
        return Err(BindError::NotASocket(path.to_owned()));
    }
    match UnixStream::connect(path).await {
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => {}
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        // Would block: alive, but its backlog is full.
        Err(error) if error.kind() == ErrorKind::WouldBlock => {
            return Err(BindError::InUse(path.to_owned()));
        }
        Ok(_) => return Err(BindError::InUse(path.to_owned())),
        Err(error) => return Err(io("find out whether a process listens there", error)),
    }
    info!(path = %path.display(), "replacing a socket that nobody serves");
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(io("remove the stale socket", error))
        }
        _ => Ok(()),
    }
}
