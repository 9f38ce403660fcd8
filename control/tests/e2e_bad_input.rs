//! What a user can get wrong: each mistake is refused in words that name it, and nothing crashes.

mod lab;

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use lab::daemon::{aoed_fails, text};
use lab::nbd::{Client, ERR, OPT_GO, READ, info_data};
use lab::{Disk, Lab, MIB, Plan};
use serde_json::{Value, json};
use tempfile::TempDir;

const AOED: &str = env!("CARGO_BIN_EXE_aoed");
const PORT: &str = "[[port]]\ndevice = \"net_af_packet0,iface=lo\"\n";

/// A configuration in a directory of its own.
fn config(text: &str) -> (TempDir, std::path::PathBuf) {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("t.toml");
    std::fs::write(&path, text).expect("a file");
    (dir, path)
}

/// `aoed --check` refuses each text and names its key; without a start, so root is not needed.
fn all_refused(prefix: &str, table: &[(&str, &str)]) {
    for (text, key) in table {
        let (_dir, path) = config(&format!("{prefix}{text}\n"));
        let (code, said) = aoed_fails(&["--check"], &path);
        assert_eq!(code, Some(2), "{text:?}: {said}");
        assert!(said.contains(key), "{text:?}: no {key:?} in: {said}");
        assert!(!said.contains("panicked"), "{text:?}: {said}");
    }
}

#[test]
fn a_good_file_is_good() {
    let (_dir, path) = config(PORT);
    let (code, said) = aoed_fails(&["--check"], &path);
    assert_eq!(
        (code, said.trim()),
        (Some(0), "aoed: the configuration is good")
    );
    let documented = Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs/appliance.toml");
    if documented.exists() {
        let (code, said) = aoed_fails(&["--check"], &documented);
        assert_eq!(code, Some(0), "{said}");
    }
}

#[test]
fn unknown_keys_and_wrong_types() {
    all_refused(
        PORT,
        &[
            ("colour = \"red\"", "port[0].colour"),
            ("[engine]\nslotz = 1", "engine.slotz"),
            ("[eal]\nmemory = 1", "eal.memory"),
            ("[pools]\nheaders = 1", "pools.headers"),
            ("[nbd]\npath = \"x\"", "nbd.path"),
            ("[control]\nport = 1", "control.port"),
            ("[nonsense]\na = 1", "nonsense"),
            ("[[lun]]\naddress = \"e1.1\"\nnmae = \"x\"", "lun[0].nmae"),
            ("[engine]\nslots = \"many\"", "engine.slots"),
            ("[engine]\ncores = \"all\"", "engine.cores"),
            ("[engine]\ncores = [-1]", "engine.cores"),
            (
                "[engine]\nframe_lifetime_ms = -5",
                "engine.frame_lifetime_ms",
            ),
            ("[engine]\nios = 1000000000000", "engine.ios"),
            ("[eal]\nextra = \"-v\"", "eal.extra"),
            ("[eal]\nhuge_pages = \"maybe\"", "eal.huge_pages"),
            ("[nbd]\nexport = \"some\"", "nbd.export"),
            ("[pools]\nheader_overflow = -1", "pools.header_overflow"),
            ("[[lun]]\naddress = 1", "lun[0].address"),
            ("[[lun]]\nname = \"x\"", "lun[0]"),
            ("[engine", "line 3"),
        ],
    );
    all_refused(
        "",
        &[
            ("", "port"),
            ("port = []", "port"),
            ("[port]\ndevice = \"x\"", "port"),
        ],
    );
    all_refused(
        "",
        &[
            ("[[port]]\nmtu = 9000", "device"),
            ("zzz = 1\n[[port]]", "port"),
        ],
    );
}

#[test]
fn impossible_values() {
    all_refused(
        PORT,
        &[
            ("mtu = 10", "port[0].mtu"),
            ("mtu = 70000", "port[0].mtu"),
            ("vlan = 0", "port[0].vlan"),
            ("vlan = 4095", "port[0].vlan"),
            ("rx_desc = 1", "port[0].rx_desc"),
            ("tx_desc = 100000", "port[0].tx_desc"),
            (
                "[[port]]\ndevice = \"net_af_packet0,iface=lo\"",
                "port[1].device",
            ),
            ("[[port]]\ndevice = \"\"", "port[1].device"),
            ("[eal]\nmain_cpu = 999", "eal.main_cpu"),
            ("[eal]\nmemory_mb = 0", "eal.memory_mb"),
            ("[engine]\nslots = 1000", "engine.slots"),
            ("[engine]\nslots = 131072", "engine.slots"),
            ("[engine]\ncores = []", "engine.cores"),
            ("[engine]\ncores = [999]", "engine.cores"),
            ("[engine]\ncores = [1, 1]", "engine.cores"),
            ("[engine]\nluns = 0", "engine.luns"),
            ("[engine]\nios = 0", "engine.ios"),
            ("[engine]\nwindow_max = 0", "engine.window_max"),
            (
                "[engine]\nprobe_interval_ms = 0",
                "engine.probe_interval_ms",
            ),
            ("[engine]\nloss_timeout_ms = 0", "engine.loss_timeout_ms"),
            ("[engine]\nrto_min_ms = 5000", "engine.rto_min_ms"),
            ("[engine]\nloss_timeout_ms = 1000", "engine.rto_max_ms"),
            (
                "[engine]\nframe_lifetime_ms = 86400000",
                "engine.frame_lifetime_ms",
            ),
            ("[pools]\nnbd_mb = 0", "pools.nbd_mb"),
            ("[nbd]\nmode = \"999\"", "nbd.mode"),
            ("[nbd]\nmax_block_kb = 7", "nbd.max_block_kb"),
            ("[nbd]\nmax_block_kb = 65536", "nbd.max_block_kb"),
            ("[nbd]\nmax_in_flight = 0", "nbd.max_in_flight"),
            ("[nbd]\nmax_connections = 0", "nbd.max_connections"),
            (
                "[nbd]\nsocket = \"/x\"\n[control]\nsocket = \"/x\"",
                "nbd.socket",
            ),
            ("[control]\nsocket = \"\"", "control.socket"),
            ("[[lun]]\naddress = \"e1\"", "lun[0].address"),
            ("[[lun]]\naddress = \"e1.255\"", "lun[0].address"),
            ("[[lun]]\naddress = \"e65535.1\"", "lun[0].address"),
            ("[[lun]]\naddress = \"e99999.1\"", "lun[0].address"),
            ("[[lun]]\naddress = \"e1.1\"\nname = \"\"", "lun[0].name"),
            (
                "[[lun]]\naddress = \"e1.1\"\n[[lun]]\naddress = \"e1.1\"",
                "lun[1].address",
            ),
            (
                "[[lun]]\naddress = \"e1.1\"\nname = \"e1.2\"\n[[lun]]\naddress = \"e1.2\"",
                "lun[0].name",
            ),
        ],
    );
}

#[test]
fn the_environment_and_the_arguments() {
    let (_dir, path) = config(PORT);
    for (name, value, key) in [
        ("AOED__ENGINE__SLOTZ", "2", "engine.slotz"),
        ("AOED__ENGINE__SLOTS", "3", "engine.slots"),
        ("AOED__ENGINE__CORES", "1,x", "engine.cores"),
        ("AOED__NONSENSE", "3", "nonsense"),
    ] {
        let mut command = Command::new(AOED);
        command
            .args(["--check", "--config"])
            .arg(&path)
            .env(name, value);
        let output = command.output().expect("aoed");
        assert_eq!(output.status.code(), Some(2), "{name}: {}", text(&output));
        assert!(text(&output).contains(key), "{name}: {}", text(&output));
    }
    for args in [
        &["--check"][..],
        &["--bogus"],
        &["--check", "--config", "/nowhere.toml"],
    ] {
        let output = Command::new(AOED).args(args).output().expect("aoed");
        assert_eq!(output.status.code(), Some(2), "{args:?}: {}", text(&output));
        assert!(
            text(&output).contains(args[args.len() - 1]),
            "{args:?}: {}",
            text(&output)
        );
    }
}

/// The lab's configuration with a change that must stop aoed at its start; the lab's own aoed has
/// been stopped.
fn start_refused(lab: &Lab, from: &str, to: &str, expected: &[&str]) {
    let good = std::fs::read_to_string(&lab.daemon.config).expect("the configuration");
    assert!(good.contains(from), "nothing to change: {from}");
    let path = lab.file("bad.toml");
    std::fs::write(&path, good.replace(from, to)).expect("a file");
    let start = Instant::now();
    let (code, said) = aoed_fails(&[], &path);
    assert!(matches!(code, Some(1 | 2)), "{to}: {code:?} {said}");
    let words = said
        .lines()
        .filter(|line| line.starts_with("aoed: "))
        .count();
    assert_eq!(words, 1, "one line says it: {said}");
    for word in expected {
        assert!(said.contains(word), "{to}: no {word:?} in {said}");
    }
    assert!(!said.contains("panicked"), "{said}");
    assert!(start.elapsed() < Duration::from_secs(10));
}

#[test]
fn a_start_that_cannot_succeed() {
    let Some(mut lab) = Lab::start(Plan::default()) else {
        return;
    };
    lab.daemon.stop();
    let device = lab.net.device();
    let iface = format!("iface={}", lab.net.outer);
    start_refused(
        &lab,
        &iface,
        "iface=nosuch0",
        &["net_af_packet0", "\"nosuch0\"", "ip link"],
    );
    start_refused(
        &lab,
        &device,
        "complete nonsense",
        &["\"complete nonsense\"", "vdev"],
    );
    start_refused(&lab, &device, "net_bogus0", &["\"net_bogus0\""]);
    start_refused(
        &lab,
        &device,
        "0000:99:00.0",
        &["0000:99:00.0", "vfio-pci", "eal.pci"],
    );
    start_refused(&lab, &iface, &format!("{iface},bogus=1"), &["bogus=1"]);
    start_refused(
        &lab,
        "cores = [1]",
        "cores = [0, 1]",
        &["queue pairs", "net_af_packet0"],
    );
    start_refused(&lab, "cores = [1]", "cores = [77]", &["engine.cores", "77"]);
    let mtu = format!("{device}\"\nmtu = 9216");
    start_refused(&lab, &format!("{device}\""), &mtu, &["9216", "9000"]);
    // Too little memory: how much is needed, and by whom.
    let text = std::fs::read_to_string(&lab.daemon.config).expect("the configuration");
    let text = text.replace("memory_mb = 256", "memory_mb = 32");
    let text = text.replace("[engine]", "[pools]\nnbd_mb = 4\n[engine]\nslots = 65536");
    std::fs::write(&lab.daemon.config, text).expect("a file");
    let holders = [
        "header frames",
        "payload mbufs",
        "receive mbufs",
        "slots 65536",
    ];
    let needed = ["its pools need", "MiB is there", "eal.memory_mb"];
    start_refused(
        &lab,
        "memory_mb = 32",
        "memory_mb = 32",
        &[&holders[..], &needed].concat(),
    );
    start_refused(
        &lab,
        "nbd_mb = 4",
        "nbd_mb = 64",
        &["pools.nbd_mb", "eal.memory_mb"],
    );
}

#[test]
fn sockets_in_impossible_places() {
    let Some(mut lab) = Lab::start(Plan::default()) else {
        return;
    };
    lab.daemon.stop();
    let dir = lab.dir.path().to_str().expect("UTF-8").to_owned();
    let own = format!("{dir}/nbd.sock");
    start_refused(
        &lab,
        &own,
        "/proc/nbd.sock",
        &["nbd.socket", "/proc/nbd.sock"],
    );
    let control = format!("{dir}/control.sock");
    start_refused(
        &lab,
        &control,
        "/proc/c.sock",
        &["control.socket", "/proc/c.sock"],
    );
    let long = format!("{dir}/{}", "a".repeat(120));
    start_refused(&lab, &own, &long, &["nbd.socket", &long]);
    std::fs::write(lab.file("precious"), "text").expect("a file");
    let precious = format!("{dir}/precious");
    start_refused(
        &lab,
        &own,
        &precious,
        &["nbd.socket", "precious", "not a socket"],
    );
    assert_eq!(
        std::fs::read_to_string(&precious).expect("it is there"),
        "text"
    );
}

/// Sends a line to the control socket; the answer, unless the daemon hung up.
fn answer(stream: &mut UnixStream, line: &[u8]) -> Option<Value> {
    // The daemon may close while we still send a line that is too long.
    let _ = stream
        .write_all(line)
        .and_then(|()| stream.write_all(b"\n"));
    let mut said = String::new();
    BufReader::new(stream).read_line(&mut said).ok()?;
    (!said.is_empty()).then(|| serde_json::from_str(&said).expect("JSON"))
}

fn connect(lab: &Lab) -> UnixStream {
    let stream = UnixStream::connect(&lab.daemon.control).expect("the control socket");
    stream
        .set_read_timeout(Some(Duration::from_secs(10)))
        .expect("a timeout");
    stream
}

#[test]
fn garbage_on_the_control_socket() {
    let Some(mut lab) = Lab::start(Plan::default()) else {
        return;
    };
    let call = |method: &str, params: Value| {
        json!({"jsonrpc": "2.0", "id": 7, "method": method, "params": params}).to_string()
    };
    let mut stream = connect(&lab);
    for (line, code) in [
        ("garbage".to_owned(), -32700),
        ("{\"jsonrpc\": \"2.0\"".into(), -32700),
        ("{}".into(), -32600),
        ("[]".into(), -32600),
        ("17".into(), -32600),
        (
            "{\"jsonrpc\":\"1.0\",\"id\":7,\"method\":\"list\"}".into(),
            -32600,
        ),
        ("{\"jsonrpc\":\"2.0\",\"id\":7,\"method\":5}".into(), -32600),
        (call("format_disk", json!({})), -32601),
        (call("identify", json!({})), -32602),
        (call("identify", json!({"lun": 5})), -32602),
        (call("list", json!({"colour": 1})), -32602),
        (call("discover", json!({"wait_ms": -1})), -32602),
        (call("identify", json!({"lun": "e9.9"})), 1),
    ] {
        let said = answer(&mut stream, line.as_bytes()).expect("an answer");
        assert_eq!(said["error"]["code"], code, "{line}: {said}");
        assert!(
            said["error"]["message"]
                .as_str()
                .is_some_and(|m| !m.is_empty()),
            "{said}"
        );
        let id = if line.contains("\"id\":7") && code != -32600 {
            json!(7)
        } else {
            json!(null)
        };
        assert!(said["id"] == id || said["id"] == 7, "{line}: {said}");
    }
    assert!(answer(&mut stream, &[0xff, 0xfe, 0x00]).expect("an answer")["error"].is_object());
    let said = answer(&mut stream, call("list", json!({})).as_bytes()).expect("an answer");
    assert_eq!(
        (&said["id"], &said["result"]["luns"][0]["lun"]),
        (&json!(7), &json!("e1.1"))
    );

    // A line that never ends is cut off, and nested brackets do not eat the stack.
    for huge in [vec![b'x'; 8 << 20], vec![b'['; 60_000], vec![b'{'; 1 << 20]] {
        if let Some(said) = answer(&mut connect(&lab), &huge) {
            assert!(said["error"]["code"].as_i64() <= Some(-32600), "{said}");
        }
    }
    // Half a request, and nothing more.
    for _ in 0..100 {
        connect(&lab).write_all(b"{\"jsonrpc\":").expect("sent");
    }
    assert!(lab.daemon.runs());
    assert_eq!(lab.daemon.json(&["list"])["luns"][0]["state"], "up");
}

#[test]
fn random_bytes_on_both_sockets() {
    let Some(mut lab) = Lab::start(Plan::default()) else {
        return;
    };
    for seed in 0..50 {
        let junk = lab::tools::random(seed, 5000);
        for socket in [&lab.daemon.control, &lab.daemon.nbd] {
            let mut stream = UnixStream::connect(socket).expect("a socket");
            stream
                .set_read_timeout(Some(Duration::from_secs(10)))
                .expect("a timeout");
            let _ = stream.write_all(&junk);
            let _ = stream.shutdown(std::net::Shutdown::Write);
            let _ = stream.read_to_end(&mut Vec::new());
        }
    }
    assert!(lab.daemon.runs());
    assert_eq!(lab.open("e1.1").call(READ, 0, 0, 4096).data, [0; 4096]);
    lab.assert_clean();
}

#[test]
fn aoectl_arguments() {
    let bad: [&[&str]; 5] = [
        &["frobnicate"],
        &["identify"],
        &["--bogus"],
        &["discover", "--wait", "x"],
        &[],
    ];
    for args in bad {
        let output = Command::new(env!("CARGO_BIN_EXE_aoectl"))
            .args(args)
            .output()
            .expect("it");
        assert_eq!(output.status.code(), Some(2), "{args:?}: {}", text(&output));
    }
    let mut command = Command::new(env!("CARGO_BIN_EXE_aoectl"));
    let output = command
        .args(["-s", "/nowhere/x.sock", "list"])
        .output()
        .expect("aoectl");
    assert_eq!(output.status.code(), Some(1));
    assert!(
        text(&output).contains("/nowhere/x.sock"),
        "{}",
        text(&output)
    );
}

#[test]
fn nobody_answers() {
    let plan = Plan {
        disks: vec![],
        ..Plan::default()
    }
    .tables("[[lun]]\naddress = \"e1.1\"\nname = \"missing\"\n");
    let Some(lab) = Lab::without_luns(plan) else {
        return;
    };
    // A configured LUN is listed as not up; a stat works; nothing is exported.
    let listed = lab.daemon.ctl(&["list"]);
    assert!(text(&listed).contains("missing"), "{}", text(&listed));
    let lun = lab.lun("e1.1");
    assert_ne!(lun["state"], "up", "{lun:#}");
    assert_eq!(
        lab.daemon.ctl(&["identify", "missing"]).status.code(),
        Some(1)
    );
    for (export, why) in [("missing", "does not answer"), ("e7.7", "no such export")] {
        let mut client = Client::connect(&lab.daemon.nbd);
        client.send(&3u32.to_be_bytes());
        let replies = client.option(OPT_GO, &info_data(export, &[3]));
        let (kind, reason) = replies.last().expect("a reply");
        assert!(kind & ERR != 0, "{export} was opened: {replies:?}");
        let reason = String::from_utf8_lossy(reason);
        assert!(reason.contains(why), "{export}: {reason:?}");
    }
}

#[test]
fn no_lun_at_all_is_exit_3() {
    let Some(mut lab) = Lab::without_luns(Plan {
        disks: vec![],
        ..Plan::default()
    }) else {
        return;
    };
    for args in [
        &["list"][..],
        &["discover", "--wait", "50"],
        &["--json", "list"],
    ] {
        let output = lab.daemon.ctl(args);
        assert_eq!(output.status.code(), Some(3), "{args:?}: {}", text(&output));
    }
    let said = text(&lab.daemon.ctl(&["list"]));
    assert!(said.contains("no target has answered"), "{said:?}");
    // A target that turns up later announces itself and is there.
    let disk = Disk::new(3, 2, 16 * MIB);
    let dir = lab.dir.path().to_owned();
    let mut late = lab::target::Vblade::new(&lab.net.namespace, &lab.net.inner, disk, &dir);
    late.grow(16 * MIB);
    late.start();
    lab.targets.push(late);
    assert!(lab.daemon.wait_state("e3.2", "up") < Duration::from_secs(3));
}
