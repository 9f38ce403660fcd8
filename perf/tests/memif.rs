//! Target and load generator as two programs, over shared memory (`net_memif`), without privileges.

use std::io::{BufRead, BufReader};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::Mutex;

/// Two poll loops need two CPUs, so one test at a time.
static CPUS: Mutex<()> = Mutex::new(());
const SIGSEGV: i32 = 11;

fn device(dir: &Path, role: &str) -> String {
    let socket = dir.join("memif.sock");
    format!(
        "net_memif0,role={role},socket={},socket-abstract=no,bsize=9216",
        socket.display()
    )
}

fn memif_is_there() -> bool {
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let drivers = [
        "/usr/lib/x86_64-linux-gnu/dpdk",
        "/usr/lib64/dpdk",
        "/usr/local/lib",
    ];
    let found = drivers.iter().any(|dir| {
        let out = Command::new("find")
            .args([dir, "-name", "librte_net_memif.so*"])
            .output();
        out.is_ok_and(|out| !out.stdout.is_empty())
    });
    if cpus < 2 {
        skipped("two poll loops need two CPUs");
    } else if !found {
        skipped("DPDK's memif driver is not there");
    }
    cpus >= 2 && found
}

struct Target(Child);

impl Target {
    /// Starts it and waits until it says that it serves.
    fn start(dir: &Path, extra: &[&str]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_aoe-target"))
            .args([
                "--port",
                &device(dir, "server"),
                "--huge",
                "never",
                "--cpu",
                "0",
            ])
            .args(["--json", "--time", "120"])
            .args(extra)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("aoe-target starts");
        // With --json, standard output is for the document alone.
        let said = BufReader::new(child.stderr.take().expect("a pipe"));
        let mut lines = said.lines().map_while(Result::ok);
        let ready = lines.any(|line| line.starts_with("aoe-target: ready, "));
        assert!(ready, "aoe-target ended without serving");
        // Read on, so that it never waits for us.
        std::thread::spawn(move || lines.for_each(drop));
        Self(child)
    }

    /// Stops it as a user would; what it said at the end. `None` if it is gone already: the memif
    /// driver of DPDK 22.11 frees its rings in another thread when the peer leaves, and whoever
    /// polls just then reads them all the same and crashes.
    fn stop(mut self) -> Option<serde_json::Value> {
        std::thread::sleep(std::time::Duration::from_millis(100));
        if let Some(status) = self.0.try_wait().expect("a child") {
            assert_eq!(status.signal(), Some(SIGSEGV), "{status}");
            skipped("DPDK's memif driver has crashed when its peer left");
            return None;
        }
        let pid = self.0.id().to_string();
        assert!(
            Command::new("kill")
                .args(["-TERM", &pid])
                .status()
                .expect("kill")
                .success()
        );
        let mut out = self.0.stdout.take().expect("a pipe");
        let report = serde_json::from_reader(&mut out).expect("JSON");
        assert!(self.0.wait().expect("an end").success());
        Some(report)
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn load(dir: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_aoe-perf"))
        .args([
            "run",
            "--port",
            &device(dir, "client"),
            "--huge",
            "never",
            "--cpu",
            "1",
        ])
        .args(args)
        .output()
        .expect("aoe-perf starts")
}

fn report(out: &Output) -> serde_json::Value {
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{:?}\n{said}", out.status);
    serde_json::from_slice(&out.stdout).expect("JSON")
}

fn assert_verified(report: &serde_json::Value) {
    let number = |value: &serde_json::Value| value.as_u64().unwrap_or(u64::MAX);
    assert_eq!(number(&report["errors"]), 0, "{report:#}");
    assert_eq!(number(&report["verify"]["mismatches"]), 0, "{report:#}");
    assert!(number(&report["verify"]["read_back"]) > 0, "{report:#}");
    assert_eq!(report["frames"]["whole"], true, "{report:#}");
    assert!(
        report["write"]["iops"]
            .as_f64()
            .is_some_and(|iops| iops > 0.0),
        "{report:#}"
    );
}

#[test]
fn verified_load_on_memory_and_file() {
    let _one = CPUS
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    if !memif_is_there() {
        return;
    }
    let dir = tempfile::tempdir().expect("a directory");
    let file = format!("e3.1=file:{},size=16M", dir.path().join("disk").display());
    let target = Target::start(dir.path(), &["--lun", "e3.0=ram:16M", "--lun", &file]);
    let both = ["--lun", "e3.0", "--lun", "e3.1"];
    let rw = [
        "--rw", "randrw", "--rwmix", "40", "--verify", "--count", "4000", "--json",
    ];
    let out = report(&load(
        dir.path(),
        &[&both[..], &rw, &["--bs", "4k"]].concat(),
    ));
    assert_verified(&out);
    assert!(out["verify"]["checked"].as_u64() > Some(0), "{out:#}");
    let Some(said) = target.stop() else { return };
    assert_eq!(said["luns"].as_array().map(Vec::len), Some(2), "{said:#}");
    assert!(said["luns"][1]["writes"].as_u64() > Some(0), "{said:#}");
}

#[test]
fn verified_load_of_odd_blocks_with_checks_on_both_sides() {
    let _one = CPUS
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    if !memif_is_there() {
        return;
    }
    let dir = tempfile::tempdir().expect("a directory");
    let target = Target::start(dir.path(), &["--lun", "e3.0=ram:16M", "--checks"]);
    let rest = [
        "--rw", "rw", "--verify", "--count", "600", "--json", "--checks", "--all",
    ];
    let odd = ["--bs", "35328", "--offset", "512", "--depth", "8"];
    let out = report(&load(dir.path(), &[&rest[..], &odd].concat()));
    assert_verified(&out);
    let Some(said) = target.stop() else { return };
    assert_eq!(said["frames"]["touched"].as_u64(), Some(0), "{said:#}");
}

#[test]
fn a_missing_lun_is_named_with_what_is_there_instead() {
    let _one = CPUS
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    if !memif_is_there() {
        return;
    }
    let dir = tempfile::tempdir().expect("a directory");
    let target = Target::start(dir.path(), &["--lun", "e3.0=ram:1M"]);
    let out = load(dir.path(), &["--lun", "e9.9", "--wait", "3"]);
    let said = String::from_utf8_lossy(&out.stderr);
    assert_eq!(out.status.code(), Some(1), "{said}");
    assert!(
        said.contains("e9.9") && said.contains("these LUNs are there: e3.0"),
        "{said}"
    );
    target.stop();
}

#[test]
fn wrong_usage_has_an_exit_code_of_its_own() {
    let dir = tempfile::tempdir().expect("a directory");
    let out = load(dir.path(), &["--lun", "nonsense"]);
    assert_eq!(out.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&out.stderr).contains("--lun"));
}

/// Says why a test did nothing: past the harness, which keeps what a test prints to itself.
fn skipped(reason: &str) {
    use std::io::Write;
    let _ = writeln!(std::io::stderr(), "skipped: {reason}");
}
