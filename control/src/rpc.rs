//! The control socket: JSON-RPC 2.0 over a Unix socket, one request and one response a line.
//!
//! | method | params | result |
//! |---|---|---|
//! | `discover` | `{"wait_ms": 1000}` | all LUNs, after asking all targets |
//! | `list` | | all LUNs |
//! | `stat` | | ports, frame pools, counters, drops |
//! | `identify` | `{"lun": "e1.1"}` | what IDENTIFY said |

use crate::core::{Command, Link};
use crate::registry::Registry;
use crate::views::{self, Appliance, LunView};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;

/// Bytes of a request at most.
const LINE_MAX: u64 = 64 << 10;
/// How long a client may take over one request.
const IDLE: Duration = Duration::from_secs(60);
/// The most that `discover` waits.
const WAIT_MAX_MS: u64 = 30_000;

#[derive(Debug, Deserialize)]
struct Call {
    jsonrpc: Option<String>,
    #[serde(default)]
    id: Value,
    method: String,
    #[serde(default)]
    params: Value,
}

/// A JSON-RPC error.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RpcError {
    /// The code, by the specification or one of ours.
    pub code: i32,
    /// What is wrong.
    pub message: String,
}

/// No such LUN.
pub const NO_LUN: i32 = 1;
/// A core does not answer.
pub const NO_CORE: i32 = 2;
const PARSE: i32 = -32700;
const INVALID: i32 = -32600;
const NO_METHOD: i32 = -32601;
const PARAMS: i32 = -32602;

fn error(code: i32, message: impl Into<String>) -> RpcError {
    RpcError {
        code,
        message: message.into(),
    }
}

/// What the methods work on.
pub struct Service {
    /// The cores.
    pub links: Vec<Arc<Link>>,
    /// The LUNs' names.
    pub registry: Arc<Registry>,
    /// What does not change.
    pub appliance: Appliance,
}

impl Service {
    /// Serves until `stop` holds `true`.
    pub async fn serve(self: Arc<Self>, listener: UnixListener, mut stop: watch::Receiver<bool>) {
        loop {
            tokio::select! {
                () = stopped(&mut stop) => return,
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) => {
                        let service = self.clone();
                        tokio::spawn(async move { service.client(stream).await });
                    }
                    Err(e) => {
                        tracing::warn!(%e, "control socket");
                        tokio::time::sleep(Duration::from_millis(100)).await;
                    }
                },
            }
        }
    }

    async fn client(&self, stream: UnixStream) {
        let (reader, mut writer) = stream.into_split();
        let mut reader = BufReader::new(reader);
        loop {
            let mut line = Vec::new();
            let mut limited = (&mut reader).take(LINE_MAX);
            let read = tokio::time::timeout(IDLE, limited.read_until(b'\n', &mut line)).await;
            match read {
                Ok(Ok(n)) if n > 0 => {}
                _ => return,
            }
            let too_long = line.len() as u64 == LINE_MAX && line.last() != Some(&b'\n');
            let mut answer = if too_long {
                failure(
                    &Value::Null,
                    &error(INVALID, format!("a request of more than {LINE_MAX} bytes")),
                )
            } else {
                self.answer(&line).await
            };
            answer.push('\n');
            if writer.write_all(answer.as_bytes()).await.is_err() || too_long {
                return;
            }
        }
    }

    async fn answer(&self, line: &[u8]) -> String {
        let call: Call = match serde_json::from_slice(line) {
            Ok(call) => call,
            Err(e) if e.is_data() => return failure(&Value::Null, &error(INVALID, e.to_string())),
            Err(e) => return failure(&Value::Null, &error(PARSE, e.to_string())),
        };
        if call.jsonrpc.as_deref() != Some("2.0") {
            return failure(&call.id, &error(INVALID, "`jsonrpc` must be \"2.0\""));
        }
        match self.call(&call.method, call.params).await {
            Ok(result) => json!({"jsonrpc": "2.0", "id": call.id, "result": result}).to_string(),
            Err(e) => failure(&call.id, &e),
        }
    }

    async fn call(&self, method: &str, params: Value) -> Result<Value, RpcError> {
        match method {
            "discover" => self.discover(parameters(params)?).await,
            "list" => {
                let _: NoParams = parameters(params)?;
                Ok(json!({ "luns": self.luns().await? }))
            }
            "stat" => {
                let _: NoParams = parameters(params)?;
                self.stat().await
            }
            "identify" => self.identify(parameters(params)?).await,
            _ => {
                let known = "discover, list, stat, identify";
                Err(error(
                    NO_METHOD,
                    format!("there is no method {method:?}; there are {known}"),
                ))
            }
        }
    }

    async fn discover(&self, params: Discover) -> Result<Value, RpcError> {
        for link in &self.links {
            // A full queue means that others are asking for the same already.
            let _ = link.commands.push(Command::Rescan);
        }
        tokio::time::sleep(Duration::from_millis(params.wait_ms.min(WAIT_MAX_MS))).await;
        Ok(json!({ "luns": self.luns().await? }))
    }

    async fn luns(&self) -> Result<Vec<LunView>, RpcError> {
        let mut all = Vec::new();
        for link in &self.links {
            let snapshot = link.snapshot().await.ok_or_else(no_core)?;
            views::merge(&mut all, &snapshot.luns, &self.registry);
        }
        Ok(all)
    }

    async fn stat(&self) -> Result<Value, RpcError> {
        let mut cores = Vec::new();
        for (i, link) in self.links.iter().enumerate() {
            let snapshot = link.snapshot().await.ok_or_else(no_core)?;
            cores.push(views::core(i, &snapshot, &self.registry));
        }
        Ok(json!({ "appliance": self.appliance.now(), "cores": cores }))
    }

    async fn identify(&self, params: Identify) -> Result<Value, RpcError> {
        let luns = self.luns().await?;
        let found = luns
            .into_iter()
            .find(|l| l.name == params.lun || l.lun == params.lun);
        let lun = found.ok_or_else(|| {
            error(
                NO_LUN,
                format!("there is no LUN {:?}; `list` names them", params.lun),
            )
        })?;
        if lun.identify.is_none() {
            return Err(error(
                NO_LUN,
                format!("{}: its target has not answered", params.lun),
            ));
        }
        serde_json::to_value(lun).map_err(|e| error(INVALID, e.to_string()))
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Discover {
    #[serde(default = "second")]
    wait_ms: u64,
}

fn second() -> u64 {
    1000
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Identify {
    lun: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct NoParams {}

/// Parameters by name; none at all are the same as an empty object.
fn parameters<T: serde::de::DeserializeOwned>(params: Value) -> Result<T, RpcError> {
    let params = if params.is_null() { json!({}) } else { params };
    serde_json::from_value(params).map_err(|e| error(PARAMS, e.to_string()))
}

fn no_core() -> RpcError {
    error(NO_CORE, "a polling core does not answer")
}

fn failure(id: &Value, e: &RpcError) -> String {
    json!({"jsonrpc": "2.0", "id": id, "error": e}).to_string()
}

/// Until `stop` holds `true` or nobody is left to set it.
async fn stopped(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}
