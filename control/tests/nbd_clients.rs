//! The server as real clients see it: libnbd's tools, qemu's, and fio.

mod nbd_support;

use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use aoe_control::nbd::{ExportInfo, Op};
use nbd_support::memory::{MemoryBackend, Pace, full_export};
use nbd_support::{Random, Server, wait_until};

const MIB: u64 = 1 << 20;

fn server() -> Server {
    let exports = [
        full_export("disk", 32 * MIB),
        full_export("other", 32 * MIB),
    ];
    Server::start(MemoryBackend::new(Pace::Shuffled, exports))
}

fn installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).any(|dir| dir.join(program).is_file());
    if !found {
        skipped(&format!("{program} is not installed"));
    }
    found
}

/// Runs a client that must not hang.
fn run(program: &str, args: &[&str]) -> Output {
    let mut command = Command::new("timeout");
    let output = command
        .args(["120", program])
        .args(args)
        .stdin(Stdio::null())
        .output();
    output.expect("timeout(1) is always there")
}

fn text(output: &Output) -> String {
    let (out, err) = (&output.stdout, &output.stderr);
    format!(
        "{}\n{}",
        String::from_utf8_lossy(out),
        String::from_utf8_lossy(err)
    )
}

/// Runs a client that must succeed; gives what it said.
fn succeed(program: &str, args: &[&str]) -> String {
    let output = run(program, args);
    assert!(
        output.status.success(),
        "{program} {args:?}: {}",
        text(&output)
    );
    text(&output)
}

fn fail(program: &str, args: &[&str]) -> String {
    let output = run(program, args);
    assert!(
        !output.status.success(),
        "{program} {args:?} succeeded: {}",
        text(&output)
    );
    text(&output)
}

fn file(server: &Server, name: &str) -> String {
    server
        .dir
        .path()
        .join(name)
        .to_str()
        .expect("a path")
        .to_owned()
}

fn random_file(server: &Server, name: &str) -> String {
    let path = file(server, name);
    std::fs::write(&path, Random(9).bytes(32 << 20)).expect("a file");
    path
}

fn same(a: impl AsRef<Path>, b: &[u8]) -> bool {
    std::fs::read(a).expect("a file") == b
}

#[test]
fn nbdinfo() {
    if !installed("nbdinfo") {
        return;
    }
    let server = server();
    let json =
        succeed("nbdinfo", &["--json", &server.uri("disk")]).replace(char::is_whitespace, "");
    for expected in [
        "\"protocol\":\"newstyle-fixed\"",
        "\"structured\":true",
        "\"export-name\":\"disk\"",
        "\"description\":\"testexportdisk\"",
        "\"export-size\":33554432",
        "\"is_read_only\":false",
        "\"can_df\":true",
        "\"can_flush\":true",
        "\"can_fua\":true",
        "\"can_trim\":true",
        "\"can_zero\":true",
        "\"can_fast_zero\":true",
        "\"can_multi_conn\":true",
        "\"block_size_minimum\":512",
        "\"block_size_preferred\":4096",
        "\"block_size_maximum\":1048576",
    ] {
        assert!(json.contains(expected), "{expected} is not in {json}");
    }
    let list = succeed("nbdinfo", &["--list", "--json", &server.uri("")]);
    assert!(
        list.contains("\"disk\"") && list.contains("\"other\""),
        "{list}"
    );
    fail("nbdinfo", &[&server.uri("nope")]);
}

#[test]
fn nbdcopy_both_ways() {
    if !installed("nbdcopy") {
        return;
    }
    let server = server();
    let (from, to) = (random_file(&server, "from"), file(&server, "to"));
    succeed("nbdcopy", &[&from, &server.uri("disk")]);
    assert!(same(&from, &server.backend.export(0).data.lock().unwrap()));
    succeed("nbdcopy", &[&server.uri("disk"), &to]);
    assert!(same(&to, &std::fs::read(&from).unwrap()));
    succeed(
        "nbdcopy",
        &["--flush", &server.uri("disk"), &server.uri("other")],
    );
    assert!(same(&from, &server.backend.export(1).data.lock().unwrap()));
    let seen = server.backend.export(1).seen.lock().unwrap();
    assert!(seen.iter().any(|seen| seen.op == Op::Flush));
}

#[test]
fn qemu_img() {
    if !installed("qemu-img") {
        return;
    }
    let server = server();
    let (disk, other) = (server.uri("disk"), server.uri("other"));
    assert!(succeed("qemu-img", &["info", &disk]).contains("32 MiB"));
    let from = random_file(&server, "from");
    succeed(
        "qemu-img",
        &[
            "convert", "-n", "-W", "-f", "raw", "-O", "raw", &from, &disk,
        ],
    );
    succeed(
        "qemu-img",
        &["compare", "-f", "raw", "-F", "raw", &from, &disk],
    );
    succeed(
        "qemu-img",
        &["convert", "-n", "-f", "raw", "-O", "raw", &disk, &other],
    );
    succeed(
        "qemu-img",
        &["compare", "-f", "raw", "-F", "raw", &disk, &other],
    );
    assert!(same(&from, &server.backend.export(1).data.lock().unwrap()));
}

#[test]
fn qemu_io() {
    if !installed("qemu-io") {
        return;
    }
    let server = server();
    let disk = server.uri("disk");
    let args = [
        "-f",
        "raw",
        "-c",
        "write -P 0x5a 0 1M",
        "-c",
        "write -f -P 0x5b 1M 64k",
    ];
    let more = [
        "-c",
        "write -z 4k 8k",
        "-c",
        "write -z -u 64k 64k",
        "-c",
        "discard 128k 64k",
    ];
    let check = [
        "-c",
        "flush",
        "-c",
        "read -P 0x5a 0 4k",
        "-c",
        "read -P 0 4k 8k",
    ];
    // qemu rounds to the block size by itself.
    let odd = [
        "-c",
        "read -P 0x5b 1049000 1000",
        "-c",
        "write -P 7 2097153 3",
        &disk,
    ];
    let said = succeed("qemu-io", &[&args[..], &more, &check, &odd].concat());
    assert!(!said.contains("failed"), "{said}");
    let seen = server.backend.export(0).seen.lock().unwrap();
    assert!(seen.iter().any(|seen| seen.op == Op::Write && seen.fua));
    assert!(
        seen.iter()
            .any(|seen| seen.op == Op::WriteZeroes && seen.no_hole)
    );
    assert!(
        seen.iter()
            .any(|seen| seen.op == Op::WriteZeroes && !seen.no_hole)
    );
    assert!(seen.iter().any(|seen| seen.op == Op::Trim));
    assert_eq!(
        server.backend.export(0).data.lock().unwrap()[2097152..][..5],
        [0, 7, 7, 7, 0]
    );
}

fn fio(server: &Server, more: &[&str]) -> Vec<String> {
    let mut args: Vec<String> = vec!["--name=nbd".into(), "--ioengine=nbd".into()];
    args.push(format!("--uri={}", server.uri("disk")));
    // fio would leave a file in the working directory.
    args.push("--verify_state_save=0".into());
    args.extend(more.iter().map(|&arg| arg.to_owned()));
    args
}

#[test]
fn fio_verifies() {
    if !installed("fio") {
        return;
    }
    let server = server();
    let size = ["--size=32M", "--iodepth=16"];
    for mix in [
        &["--rw=randrw", "--bs=4k", "--verify=crc32c", "--io_size=16M"][..],
        &["--rw=randwrite", "--bsrange=512-1M", "--verify=crc32c"],
        &["--rw=randtrimwrite", "--bs=64k", "--io_size=8M"],
    ] {
        let args = fio(&server, &[&size[..], mix].concat());
        let args: Vec<_> = args.iter().map(String::as_str).collect();
        let said = succeed("fio", &args);
        assert!(said.contains("err= 0"), "{said}");
    }
}

#[test]
fn fio_killed_in_the_middle() {
    if !installed("fio") {
        return;
    }
    let server = server();
    for round in 0..5 {
        let args = [
            "--rw=write",
            "--bs=256k",
            "--iodepth=64",
            "--size=32M",
            "--time_based",
        ];
        let args = fio(
            &server,
            &[&args[..], &["--runtime=60", "--thread"]].concat(),
        );
        let mut child = Command::new("fio")
            .args(args)
            .stdout(Stdio::null())
            .spawn()
            .expect("fio");
        let busy = || server.backend.in_backend() > 8;
        wait_until("fio writes", busy);
        std::thread::sleep(Duration::from_millis(20 * round));
        server.backend.hold();
        child.kill().expect("kill");
        child.wait().expect("wait");
        std::thread::sleep(Duration::from_millis(20));
        let ledger = &server.backend.ledger;
        assert!(server.backend.in_backend() == 0 || ledger.sessions.load(SeqCst) > 0);
        server.backend.release();
        wait_until("sessions end", || ledger.sessions.load(SeqCst) == 0);
        server.backend.assert_clean();
    }
}

#[test]
fn a_read_only_export() {
    if !installed("nbdcopy") || !installed("nbdinfo") {
        return;
    }
    let export = ExportInfo {
        read_only: true,
        ..full_export("ro", MIB)
    };
    let server = Server::start(MemoryBackend::new(Pace::Shuffled, [export]));
    let (from, to) = (file(&server, "from"), file(&server, "to"));
    std::fs::write(&from, vec![1; MIB as usize]).unwrap();
    assert!(fail("nbdcopy", &[&from, &server.uri("ro")]).contains("read-only"));
    succeed("nbdcopy", &[&server.uri(""), &to]);
    assert!(same(&to, &vec![0; MIB as usize]));
    succeed("nbdinfo", &["--is", "read-only", &server.uri("ro")]);
}

#[test]
fn nbdsh() {
    if !installed("nbdsh") {
        return;
    }
    let server = server();
    let script = r#"
import errno
assert h.get_block_size(nbd.SIZE_MINIMUM) == 512
h.set_strict_mode(0)
h.pwrite(b"a" * 8192, 0, nbd.CMD_FLAG_FUA)
h.trim(512, 512, nbd.CMD_FLAG_FUA)
h.zero(512, 2048, nbd.CMD_FLAG_NO_HOLE | nbd.CMD_FLAG_FAST_ZERO)
h.zero(16 << 20, 16 << 20)
h.flush()
data = h.pread(4096, 0)
assert data == b"a" * 512 + bytes(512) + b"a" * 1024 + bytes(512) + b"a" * 1536
def refused(number, call):
    try:
        call()
    except nbd.Error as error:
        assert error.errnum == number, error
    else:
        assert False, "not refused"
refused(errno.EINVAL, lambda: h.pread(512, 1))
refused(errno.EINVAL, lambda: h.pread(100, 0))
refused(errno.EINVAL, lambda: h.pwrite(b"x" * 100, 0))
refused(errno.EINVAL, lambda: h.pread(512, 32 << 20))
refused(errno.ENOSPC, lambda: h.pwrite(bytes(512), 32 << 20))
refused(errno.EINVAL, lambda: h.pread(2 << 20, 0))
refused(errno.EINVAL, lambda: h.cache(512, 0))
assert h.pread(512, 0, nbd.CMD_FLAG_DF) == b"a" * 512
"#;
    succeed("nbdsh", &["-u", &server.uri("disk"), "-c", script]);
}

/// Figures, not a check: `cargo test --release -p aoe-control --test nbd_clients -- --ignored
/// --nocapture`.
#[test]
#[ignore = "takes a quarter of a minute and checks nothing"]
fn fio_figures() {
    if !installed("fio") {
        return;
    }
    for (rw, bs, depth) in [
        ("randread", "4k", "32"),
        ("randread", "4k", "1"),
        ("randwrite", "4k", "32"),
        ("read", "1M", "8"),
        ("write", "1M", "8"),
    ] {
        let export = full_export("disk", 256 * MIB);
        let server = Server::start(MemoryBackend::new(Pace::Fast, [export]));
        let (rw_arg, bs_arg) = (format!("--rw={rw}"), format!("--bs={bs}"));
        let depth_arg = format!("--iodepth={depth}");
        let args = [
            &rw_arg,
            &bs_arg,
            &depth_arg,
            "--size=256M",
            "--time_based",
            "--runtime=3",
        ];
        let args = fio(&server, &args);
        let args: Vec<_> = args.iter().map(String::as_str).collect();
        let said = succeed("fio", &args);
        println!("{rw} {bs} depth {depth}");
        let telling =
            |line: &&str| line.contains("IOPS=") || line.trim_start().starts_with("lat (");
        said.lines()
            .filter(telling)
            .take(2)
            .for_each(|line| println!("  {}", line.trim()));
    }
}

/// Says why a test did nothing: past the harness, which keeps what a test prints to itself.
fn skipped(reason: &str) {
    use std::io::Write;
    let _ = writeln!(std::io::stderr(), "skipped: {reason}");
}
