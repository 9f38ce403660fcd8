//! aoed and aoectl.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::target::signal;
use super::tools;

const AOED: &str = env!("CARGO_BIN_EXE_aoed");
const AOECTL: &str = env!("CARGO_BIN_EXE_aoectl");

pub struct Daemon {
    pub config: PathBuf,
    pub nbd: PathBuf,
    pub control: PathBuf,
    log: PathBuf,
    child: Option<Child>,
}

impl Daemon {
    /// A daemon that does not run yet.
    pub fn new(dir: &Path, config: &str) -> Self {
        let path = dir.join("aoed.toml");
        std::fs::write(&path, config).expect("a configuration");
        Self {
            config: path,
            nbd: dir.join("nbd.sock"),
            control: dir.join("control.sock"),
            log: dir.join("aoed.log"),
            child: None,
        }
    }

    /// Starts it and waits until it answers.
    pub fn start(&mut self) {
        assert!(self.child.is_none(), "it runs already");
        let log = File::options()
            .create(true)
            .append(true)
            .open(&self.log)
            .expect("a log");
        let mut command = Command::new("setpriv");
        command
            .args(["--pdeathsig", "KILL", AOED, "--config"])
            .arg(&self.config);
        command.env("NO_COLOR", "1").stdin(Stdio::null());
        command.stdout(log.try_clone().expect("a log")).stderr(log);
        self.child = Some(command.spawn().expect("aoed"));
        tools::wait_until("aoed answers", || {
            assert!(self.runs(), "aoed has ended:\n{}", self.log());
            self.control.exists() && self.ctl(&["stat"]).status.success()
        });
    }

    pub fn runs(&mut self) -> bool {
        let child = self.child.as_mut().expect("aoed was started");
        child.try_wait().expect("its status").is_none()
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    pub fn signal(&self, name: &str) {
        signal(self.child.as_ref().expect("it runs").id(), name);
    }

    /// Waits for its end, at most `limit`.
    pub fn wait_end(&mut self, limit: Duration) -> ExitStatus {
        let mut child = self.child.take().expect("it runs");
        let deadline = Instant::now() + limit;
        loop {
            if let Some(status) = child.try_wait().expect("its status") {
                return status;
            }
            if Instant::now() > deadline {
                let _ = child.kill();
                let _ = child.wait();
                panic!("aoed did not end within {limit:?}:\n{}", self.log());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Asks it to end, which must go well and leave nothing behind.
    pub fn stop(&mut self) {
        self.signal("TERM");
        let status = self.wait_end(Duration::from_secs(5));
        assert_eq!(status.code(), Some(0), "{}", self.log());
        assert!(
            !self.nbd.exists() && !self.control.exists(),
            "the sockets are removed"
        );
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Runs aoectl against it.
    pub fn ctl(&self, args: &[&str]) -> Output {
        let mut command = Command::new("timeout");
        command
            .args(["20", AOECTL, "--socket"])
            .arg(&self.control)
            .args(args);
        command.stdin(Stdio::null()).output().expect("aoectl")
    }

    /// What `aoectl` prints, once it succeeds.
    pub fn says(&self, args: &[&str]) -> String {
        let output = self.ctl(args);
        assert!(
            output.status.success(),
            "aoectl {args:?}: {}\n{}",
            text(&output),
            self.log()
        );
        String::from_utf8(output.stdout).expect("text")
    }

    /// The same as JSON.
    pub fn json(&self, args: &[&str]) -> Value {
        let said = self.says(&[&["--json"], args].concat());
        serde_json::from_str(&said).unwrap_or_else(|e| panic!("{e}: {said}"))
    }

    /// A LUN by its address, if `aoectl --json list` has it.
    pub fn lun(&self, address: &str) -> Option<Value> {
        let output = self.ctl(&["--json", "list"]);
        assert!(
            matches!(output.status.code(), Some(0 | 3)),
            "{}",
            text(&output)
        );
        let list: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        let luns = list["luns"].as_array().expect("luns");
        luns.iter().find(|lun| lun["lun"] == address).cloned()
    }

    /// Waits until a LUN has a state; how long it took.
    pub fn wait_state(&self, address: &str, state: &str) -> Duration {
        let start = Instant::now();
        let mut last = None;
        while last
            .as_ref()
            .is_none_or(|lun: &Value| lun["state"] != state)
        {
            let waited = start.elapsed();
            let log = || format!("{last:#?}\n{}", self.log());
            assert!(
                waited < Duration::from_secs(20),
                "{address} is not {state}: {}",
                log()
            );
            last = self.lun(address);
        }
        start.elapsed()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.log());
            self.kill();
        } else if self.child.is_some() {
            self.stop();
            let log = self.log();
            assert!(!log.contains("panicked"), "{log}");
        }
    }
}

/// All that a program said.
pub fn text(output: &Output) -> String {
    let (out, err) = (&output.stdout, &output.stderr);
    format!(
        "{}\n{}",
        String::from_utf8_lossy(out),
        String::from_utf8_lossy(err)
    )
}

/// Runs aoed in the foreground with a configuration that must stop it; its code and its words.
pub fn aoed_fails(args: &[&str], config: &Path) -> (Option<i32>, String) {
    let mut command = Command::new("timeout");
    command
        .args(["30", AOED, "--config"])
        .arg(config)
        .args(args);
    let output = command.stdin(Stdio::null()).output().expect("aoed");
    (output.status.code(), text(&output))
}
