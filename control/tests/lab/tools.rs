//! The programs that the tests run, and a few ways to wait and compare.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use super::daemon::text;

const NEEDED: [&str; 9] = [
    "ip", "setpriv", "taskset", "sysctl", "fio", "nbdcopy", "nbdinfo", "qemu-img", "qemu-io",
];

/// Whether this machine can have a lab; says why not.
pub fn can_run() -> bool {
    let skip = |reason: &str| {
        skipped(reason);
        false
    };
    if std::fs::metadata("/proc/self").map_or(u32::MAX, |me| me.uid()) != 0 {
        return skip("only root makes network namespaces");
    }
    if let Some(missing) = NEEDED.iter().find(|program| !installed(program)) {
        return skip(&format!("{missing} is not installed"));
    }
    if !Path::new("/usr/sbin/vblade").is_file() {
        return skip("/usr/sbin/vblade is not installed");
    }
    if std::thread::available_parallelism().map_or(1, usize::from) < 2 {
        return skip("it takes two CPUs");
    }
    let netns = Command::new("ip").args(["netns", "list"]).output();
    netns.is_ok_and(|output| output.status.success()) || skip("`ip netns` does not work here")
}

pub fn installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| dir.join(program).is_file())
}

/// A client's command; it may not hang, and leaves CPU 1 to the daemon.
pub fn client(program: &str, args: &[&str]) -> Command {
    let mut command = Command::new("setpriv");
    command.args([
        "--pdeathsig",
        "KILL",
        "taskset",
        "-c",
        "0",
        "timeout",
        "60",
        program,
    ]);
    command.args(args).stdin(Stdio::null());
    command
}

pub fn run(program: &str, args: &[&str]) -> Output {
    client(program, args).output().expect("setpriv")
}

/// Runs a client that must succeed; gives what it said.
pub fn succeed(program: &str, args: &[&str]) -> String {
    let output = run(program, args);
    assert!(
        output.status.success(),
        "{program} {args:?}: {}",
        text(&output)
    );
    text(&output)
}

/// Runs a client that must fail; gives what it said.
pub fn fail(program: &str, args: &[&str]) -> String {
    let output = run(program, args);
    assert_ne!(
        output.status.code(),
        Some(124),
        "{program} {args:?} hung: {}",
        text(&output)
    );
    assert!(
        !output.status.success(),
        "{program} {args:?} succeeded: {}",
        text(&output)
    );
    text(&output)
}

/// The arguments of fio for an export; no file is left in the working directory.
pub fn fio_args(uri: &str, more: &[&str]) -> Vec<String> {
    let mut args = vec![
        "--name=e2e".to_owned(),
        "--ioengine=nbd".into(),
        format!("--uri={uri}"),
    ];
    args.extend(["--verify_state_save=0".into(), "--randrepeat=1".into()]);
    args.extend(more.iter().map(|&arg| arg.to_owned()));
    args
}

/// Runs fio, which must find no error.
pub fn fio(uri: &str, more: &[&str]) -> String {
    let args = fio_args(uri, more);
    let said = succeed("fio", &args.iter().map(String::as_str).collect::<Vec<_>>());
    assert!(said.contains("err= 0"), "{said}");
    said
}

pub fn path(path: &Path) -> &str {
    path.to_str().expect("a path in UTF-8")
}

pub fn wait_until(what: &str, done: impl FnMut() -> bool) {
    wait_at_most(Duration::from_secs(20), what, done);
}

/// Waits, and panics after `limit`.
pub fn wait_at_most(limit: Duration, what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + limit;
    while !done() {
        assert!(
            Instant::now() < deadline,
            "timed out after {limit:?}: {what}"
        );
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Bytes that look random, the same for a seed in every run.
pub fn random(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed;
    let mut next = move || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    };
    (0..len.div_ceil(8))
        .flat_map(|_| next().to_le_bytes())
        .take(len)
        .collect()
}

/// The first `len` bytes of a file.
pub fn head(file: &Path, len: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    File::open(file)
        .and_then(|f| f.take(len).read_to_end(&mut bytes))
        .expect("a file");
    assert_eq!(bytes.len() as u64, len, "{} is shorter", file.display());
    bytes
}

/// Compares the first bytes of two files; says where they differ, not what they hold.
pub fn assert_same(a: &Path, b: &Path, len: u64) {
    let (left, right) = (head(a, len), head(b, len));
    let differs = left.iter().zip(&right).position(|(x, y)| x != y);
    assert_eq!(differs, None, "{} and {} differ", a.display(), b.display());
}

/// Says why a test did nothing: past the harness, which keeps what a test prints to itself.
fn skipped(reason: &str) {
    use std::io::Write;
    let _ = writeln!(std::io::stderr(), "skipped: {reason}");
}
