//! A blocking client of the control socket, for `aoectl` and for tests.

use crate::rpc::RpcError;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;
use thiserror::Error;

/// Why a call failed.
#[derive(Debug, Error)]
pub enum CallError {
    /// No daemon, or no permission.
    #[error("{socket}: {reason}; is aoed running, with this control.socket?")]
    Connect {
        /// The socket.
        socket: PathBuf,
        /// Why not.
        reason: std::io::Error,
    },
    /// The connection broke, or what came is no JSON-RPC.
    #[error("the daemon's answer is not usable: {0}")]
    Answer(String),
    /// The daemon refused.
    #[error("{}", .0.message)]
    Refused(RpcError),
}

/// Calls a method.
///
/// # Errors
/// If there is no daemon, or it refuses.
pub fn call(socket: &Path, method: &str, params: Value) -> Result<Value, CallError> {
    let connect = |reason| CallError::Connect {
        socket: socket.into(),
        reason,
    };
    let mut stream = UnixStream::connect(socket).map_err(connect)?;
    stream
        .set_read_timeout(Some(Duration::from_secs(60)))
        .map_err(connect)?;
    let request = json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params});
    let broken = |e: std::io::Error| CallError::Answer(e.to_string());
    writeln!(stream, "{request}").map_err(broken)?;
    let mut line = String::new();
    BufReader::new(stream)
        .read_line(&mut line)
        .map_err(broken)?;
    let mut answer: Value =
        serde_json::from_str(&line).map_err(|e| CallError::Answer(e.to_string()))?;
    if let Some(error) = answer.get_mut("error") {
        let error = serde_json::from_value(error.take());
        return Err(error.map_or_else(|e| CallError::Answer(e.to_string()), CallError::Refused));
    }
    match answer.get_mut("result") {
        Some(result) => Ok(result.take()),
        None => Err(CallError::Answer("neither result nor error".into())),
    }
}
