//! The self-test as a program: no NIC, no huge pages, and no privileges either.

use std::process::Command;
use std::time::{Duration, Instant};

fn selftest(command: &mut Command) -> (String, Duration) {
    let start = Instant::now();
    let out = command
        .args(["selftest", "--time", "0.3"])
        .output()
        .expect("aoe-perf starts");
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{:?}\n{text}\n{said}", out.status);
    (text, start.elapsed())
}

#[test]
fn the_selftest_passes_quickly() {
    let (text, took) = selftest(&mut Command::new(env!("CARGO_BIN_EXE_aoe-perf")));
    assert!(text.ends_with("selftest: ok\n"), "{text}");
    assert!(!text.contains("FAILED"), "{text}");
    assert!(took < Duration::from_secs(30), "{took:?}");
}

#[test]
fn its_json_is_json() {
    let out = Command::new(env!("CARGO_BIN_EXE_aoe-perf"))
        .args(["selftest", "--time", "0.1", "--json"])
        .output()
        .expect("aoe-perf starts");
    let found: serde_json::Value = serde_json::from_slice(&out.stdout).expect("JSON");
    assert_eq!(found["ok"], true, "{found}");
    assert_eq!(found["speed"].as_array().map(Vec::len), Some(3), "{found}");
}

#[test]
fn it_needs_no_privileges() {
    let is_root = Command::new("id")
        .arg("-u")
        .output()
        .is_ok_and(|out| out.stdout == b"0\n");
    if !is_root {
        skipped("not root, so the other test has shown it");
        return;
    }
    // The binary may be where nobody else can look.
    let dir = tempfile::Builder::new()
        .prefix("aoe-perf")
        .tempdir()
        .expect("a directory");
    let binary = dir.path().join("aoe-perf");
    std::fs::copy(env!("CARGO_BIN_EXE_aoe-perf"), &binary).expect("a copy");
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(dir.path(), open).expect("permissions");
    let mut command = Command::new("setpriv");
    command.args([
        "--reuid=65534",
        "--regid=65534",
        "--clear-groups",
        "--bounding-set=-all",
    ]);
    command
        .arg("--no-new-privs")
        .env_remove("XDG_RUNTIME_DIR")
        .env_remove("HOME");
    if !Command::new("setpriv")
        .arg("--version")
        .output()
        .is_ok_and(|o| o.status.success())
    {
        skipped("there is no setpriv here");
        return;
    }
    let (text, _) = selftest(command.arg(&binary));
    assert!(text.ends_with("selftest: ok\n"), "{text}");
}

/// Says why a test did nothing: past the harness, which keeps what a test prints to itself.
fn skipped(reason: &str) {
    use std::io::Write;
    let _ = writeln!(std::io::stderr(), "skipped: {reason}");
}
