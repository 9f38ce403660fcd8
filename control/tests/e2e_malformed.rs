//! Frames that no honest target sends: counted by reason, dropped, and the I/O is right all the same.

mod lab;

use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use lab::nbd::{Client, READ, WRITE};
use lab::target::Vblade;
use lab::tools::{fio, installed, wait_at_most, wait_until};
use lab::{Disk, Lab, MIB, Plan};
use serde_json::Value;

const FORGE: &str = include_str!("lab/forge.py");

/// A lab, if there is a Python to forge frames with.
fn start(plan: Plan) -> Option<Lab> {
    if !installed("python3") {
        skipped("python3 is not installed");
        return None;
    }
    Lab::start(plan)
}

/// A target that is the forger's own, over a file of 1 MiB; end it with `end`.
fn forged_target(lab: &Lab, slot: u8, more: &[String]) -> (Child, std::path::PathBuf) {
    let file = lab.file("forged.img");
    std::fs::write(&file, vec![0; MIB as usize]).expect("a disk");
    let slot_field = format!("slot={slot}");
    let mut args = vec![lab::tools::path(&file), "shelf=5", &slot_field];
    args.extend(more.iter().map(String::as_str));
    (forge(lab, "target", &args), file)
}

fn end(mut forger: Child) {
    forger.kill().and_then(|()| forger.wait()).expect("it ends");
}

/// Writes to a LUN of the forger's and reads it back.
fn works(lab: &Lab, address: &str, file: &std::path::Path) {
    let mut client = lab.open(address);
    assert_eq!(client.call(WRITE, 0, 0, 64 << 10).error, 0, "{address}");
    assert!(
        client.call(READ, 0, 0, 64 << 10).data == [0xab; 64 << 10],
        "{address}"
    );
    assert!(
        lab::tools::head(file, 64 << 10) == [0xab; 64 << 10],
        "{address}"
    );
    assert_eq!(lab.lun(address)["failed"], 0);
}

#[test]
fn tagged_frames() {
    let plan = Plan {
        disks: vec![],
        vlan: Some(100),
        ..Plan::default()
    };
    let Some(lab) = start(plan) else { return };
    // This one sees only what is tagged, and tags its answers; af_packet hands tags over apart.
    let (target, file) = forged_target(&lab, 1, &["vlan=100".to_owned()]);
    lab.daemon.wait_state("e5.1", "up");
    works(&lab, "e5.1", &file);
    end(target);
}

/// Starts the forger at the targets' end of the wire.
fn forge(lab: &Lab, mode: &str, args: &[&str]) -> Child {
    let script = lab.file("forge.py");
    std::fs::write(&script, FORGE).expect("a script");
    let mut command = lab.net.command("python3");
    command
        .arg(script)
        .args([mode, &lab.net.inner, &lab.net.outer_mac()])
        .args(args);
    command.stdout(Stdio::piped()).spawn().expect("python3")
}

/// Waits for the forger; what it says it has done.
fn done(forger: Child) -> Value {
    let output = forger.wait_with_output().expect("its end");
    assert!(output.status.success(), "the forger failed");
    let said = String::from_utf8(output.stdout).expect("text");
    serde_json::from_str(said.lines().last().expect("a line")).expect("JSON")
}

fn dropped(lab: &Lab, reason: &str) -> u64 {
    lab.core()["drops"][reason]
        .as_u64()
        .unwrap_or_else(|| panic!("no such reason: {reason}"))
}

#[test]
fn a_hundred_thousand_forged_frames() {
    let Some(mut lab) = start(Plan::default()) else {
        return;
    };
    let uri = lab.uri("e1.1");
    let verify = [
        "--verify=crc32c",
        "--verify_fatal=1",
        "--iodepth=16",
        "--rw=randrw",
    ];
    let job = [
        "--bsrange=512-64k",
        "--size=64M",
        "--time_based",
        "--runtime=15",
    ];
    let slowly = ["--rate=8M,8M", "--verify_backlog=64"];
    let said = std::thread::scope(|scope| {
        let job = scope.spawn(|| fio(&uri, &[&verify[..], &job, &slowly].concat()));
        let busy = || lab.lun("e1.1")["completed"].as_u64() > Some(50);
        wait_until("fio is busy", busy);
        let said = done(forge(&lab, "flood", &["100000", "1"]));
        job.join().expect("fio is content");
        said
    });
    assert!(
        said["seen"].as_u64() > Some(50),
        "too few answers to mutate: {said}"
    );
    assert!(lab.daemon.runs());
    let drops = lab.core()["drops"].clone();
    // A lower bound: the ring may have had no room for some of the 5,500 frames of each kind. With
    // one core all tags are its own, so none is foreign.
    for reason in ["not_aoe", "request", "stale_tag", "malformed", "version"] {
        assert!(drops[reason].as_u64() > Some(1000), "{reason}: {drops:#}");
    }
    let sum: u64 = drops
        .as_object()
        .expect("drops")
        .values()
        .filter_map(Value::as_u64)
        .sum();
    assert!(
        sum > 80_000,
        "nearly all were received and dropped: {drops:#}"
    );
    // The target's next true answer puts right what the forged announcements changed.
    lab.daemon.says(&["discover", "--wait", "300"]);
    wait_until("its limits are known again", || {
        let lun = lab.lun("e1.1");
        lun["buffer_count"] == 16 && lun["sectors_per_frame"] == 17
    });
    let lun = lab.lun("e1.1");
    assert_eq!(
        (&lun["state"], &lun["failed"], &lun["losses"]),
        (&"up".into(), &0.into(), &0.into())
    );
    fio(&uri, &[&verify[..], &["--bs=4k", "--size=16M"]].concat());
    lab.assert_idle();
}

/// A request that waits at a stopped target while the forger answers it wrongly.
struct Waiting {
    lab: Lab,
    client: Client,
}

impl Waiting {
    fn start() -> Option<Self> {
        // No resend of its own gets in the way: the loss timeout is 5 s.
        let plan = Plan::default()
            .engine("rto_min_ms", 4000)
            .engine("rto_max_ms", 4000);
        let lab = start(
            plan.engine("rto_initial_ms", 4000)
                .engine("discovery_interval_ms", 60000),
        )?;
        let mut client = lab.open("e1.1");
        assert_eq!(client.call(WRITE, 0, 0, 8192).error, 0);
        Some(Self { lab, client })
    }

    /// Sends a read of 16 sectors that only the forger answers; how often it did.
    fn provoke(&mut self, kind: &str) -> u64 {
        self.lab.targets[0].signal("STOP");
        let mut forger = forge(&self.lab, "answer", &[kind, "0.5"]);
        let mut ready = String::new();
        let mut said = BufReader::new(forger.stdout.take().expect("a pipe"));
        said.read_line(&mut ready).expect("a line");
        assert_eq!(ready, "ready\n");
        self.client.request(READ, 0, 5, 0, 8192);
        forger.wait().expect("its end");
        let mut sent = String::new();
        said.read_line(&mut sent).expect("a line");
        let sent: Value = serde_json::from_str(&sent).expect("JSON");
        sent["sent"].as_u64().expect("a count")
    }
}

#[test]
fn wrong_answers_to_a_live_tag_are_dropped() {
    let Some(mut waiting) = Waiting::start() else {
        return;
    };
    for (kind, reason) in [
        ("mac", "wrong_mac"),
        ("lun", "wrong_lun"),
        ("command", "wrong_command"),
        ("short", "short_data"),
        ("tag", "stale_tag"),
        ("version", "version"),
    ] {
        let before = dropped(&waiting.lab, reason);
        assert_eq!(waiting.provoke(kind), 1, "{kind}: nothing is sent again");
        assert_eq!(dropped(&waiting.lab, reason), before + 1, "{kind}");
        // It, and perhaps an IDENTIFY, which goes out now and then.
        let waits = waiting.lab.lun("e1.1")["in_flight"].as_u64();
        assert!(waits.is_some_and(|n| n >= 1), "{kind}: it waits on");
        waiting.lab.targets[0].signal("CONT");
        let answer = waiting.client.answer(|_| 8192);
        assert_eq!((answer.handle, answer.error), (5, 0), "{kind}");
        assert!(
            answer.data == [0xab; 8192],
            "{kind}: the data of the true answer"
        );
    }
    waiting.lab.assert_idle();
}

#[test]
fn errors_fail_the_io_at_once_and_copy_nothing() {
    let Some(mut waiting) = Waiting::start() else {
        return;
    };
    for kind in [
        "aoe1", "aoe2", "aoe3", "aoe5", "aoe6", "ata41", "ata60", "ata48", "ataC0",
    ] {
        let start = Instant::now();
        let sent = waiting.provoke(kind);
        // Error 2 may mean that the frame is too large: 16, 8, 4, 2, 1 sectors are tried.
        assert_eq!(sent, if kind == "aoe2" { 5 } else { 1 }, "{kind}");
        let answer = waiting.client.answer(|_| 8192);
        assert!(
            start.elapsed() < Duration::from_secs(2),
            "{kind} took {:?}",
            start.elapsed()
        );
        // ENOTSUP for an unknown command, EPERM for a reserved target, EIO for the rest.
        let errno = match kind {
            "aoe1" => 95,
            "aoe6" => 1,
            _ => 5,
        };
        assert_eq!((answer.handle, answer.error), (5, errno), "{kind}");
        assert!(answer.data.is_empty(), "{kind}: {:?}", answer.data.len());
        assert!(!answer.text.is_empty(), "{kind} is explained");
        println!("{kind}: {}", answer.text);
        // The target's own, late answer must not complete anything a second time.
        waiting.lab.targets[0].signal("CONT");
        let answer = waiting.client.call(READ, 0, 4096, 4096);
        assert!(
            answer.error == 0 && answer.data == [0xab; 4096],
            "{kind}: {answer:?}"
        );
    }
    assert_eq!(waiting.lab.lun("e1.1")["state"], "up");
    waiting.lab.assert_idle();
}

#[test]
fn impossible_limits_are_clamped() {
    let Some(lab) = start(Plan::default()) else {
        return;
    };
    let cases = [
        (0, 17),
        (1, 17),
        (65535, 17),
        (16, 0),
        (16, 255),
        (65535, 255),
        (16, 1),
        (0, 0),
        (8, 2),
    ];
    for (slot, (buffers, sectors)) in (1u8..).zip(cases) {
        let address = format!("e5.{slot}");
        let limits = [format!("buffers={buffers}"), format!("sectors={sectors}")];
        let (target, file) = forged_target(&lab, slot, &limits);
        lab.daemon.wait_state(&address, "up");
        let lun = lab.lun(&address);
        let frame = lun["sectors_per_frame"].as_u64().expect("a number");
        let fits = if sectors == 0 {
            1..=1
        } else {
            1..=sectors.min(17)
        };
        assert!(fits.contains(&frame), "{limits:?}: {lun:#}");
        let window = lun["window"].as_u64().expect("a number");
        assert!(
            window >= 1 && window <= u64::max(buffers, 1),
            "{limits:?}: {lun:#}"
        );
        works(&lab, &address, &file);
        end(target);
    }
}

#[test]
fn a_flood_of_announcements_fills_the_table_and_no_more() {
    let Some(lab) = start(Plan::default().engine("luns", 64)) else {
        return;
    };
    done(forge(
        &lab,
        "announce",
        &["shelf=100", "slot=0", "count=3000"],
    ));
    let list = lab.daemon.ctl(&["--json", "list"]);
    let list: Value = serde_json::from_slice(&list.stdout).expect("JSON");
    assert!(list["luns"].as_array().expect("luns").len() <= 64);
    let up = || lab.lun("e1.1")["state"] == "up";
    assert!(up());
    fio(
        &lab.uri("e1.1"),
        &["--rw=randrw", "--bs=4k", "--size=8M", "--verify=crc32c"],
    );
    assert_eq!(lab.lun("e1.1")["failed"], 0);
}

#[test]
fn a_real_target_is_found_after_a_flood_of_announcements() {
    let Some(mut lab) = start(Plan::default().engine("luns", 64)) else {
        return;
    };
    done(forge(
        &lab,
        "announce",
        &["shelf=100", "slot=0", "count=3000"],
    ));
    let mut late = Vblade::new(
        &lab.net.namespace,
        &lab.net.inner,
        Disk::new(2, 7, 16 * MIB),
        lab.dir.path(),
    );
    late.grow(16 * MIB);
    late.start();
    lab.targets.push(late);
    lab.daemon.wait_state("e2.7", "up");
}

#[test]
fn a_second_target_with_the_same_address_is_a_stranger() {
    let Some(mut lab) = start(Plan::default()) else {
        return;
    };
    let first = lab.lun("e1.1")["mac"].clone();
    assert_eq!(lab.open("e1.1").call(WRITE, 0, 0, 4096).error, 0);
    // Another disk, of another size, behind the same shelf and slot.
    lab.net.add_macvlan("mv0");
    let dir = lab.file("other");
    std::fs::create_dir(&dir).expect("a directory");
    let other = Disk::new(1, 1, 32 * MIB);
    let mut rogue = Vblade::new(&lab.net.namespace, "mv0", other, &dir);
    rogue.grow(32 * MIB);
    rogue.start();
    lab.targets.push(rogue);
    wait_at_most(Duration::from_secs(6), "the stranger is shown", || {
        !lab.lun("e1.1")["stranger"].is_null()
    });
    lab.daemon.says(&["discover", "--wait", "300"]);
    let lun = lab.lun("e1.1");
    assert_eq!(
        (&lun["mac"], &lun["size_bytes"]),
        (&first, &(256 * MIB).into()),
        "{lun:#}"
    );
    assert!(
        lab.daemon.log().contains("another target answers"),
        "it is said loudly: {}",
        lab.daemon.log()
    );
    let verify = [
        "--verify=crc32c",
        "--verify_fatal=1",
        "--iodepth=16",
        "--rw=randrw",
    ];
    fio(
        &lab.uri("e1.1"),
        &[&verify[..], &["--bsrange=512-64k", "--size=32M"]].concat(),
    );
    let stolen = lab::tools::head(&lab.targets[1].file, 32 * MIB);
    assert!(
        stolen.iter().all(|&b| b == 0),
        "the stranger's disk was written to"
    );
    assert_eq!(lab.lun("e1.1")["failed"], 0);
}

/// Says why a test did nothing: past the harness, which keeps what a test prints to itself.
fn skipped(reason: &str) {
    use std::io::Write;
    let _ = writeln!(std::io::stderr(), "skipped: {reason}");
}
