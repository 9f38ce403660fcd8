//! aoed, aoectl and NBD clients against vblade: what works on a good day.

mod lab;

use std::time::{Duration, Instant};

use lab::daemon::aoed_fails;
use lab::nbd::{Client, FLUSH, READ, TRIM, WRITE, ZEROES};
use lab::tools::{assert_same, fail, fio, head, path, random, run, succeed};
use lab::{Disk, Lab, MIB, Plan};

const FUA: u16 = 1;
const FAST_ZERO: u16 = 1 << 4;
const EPERM: u32 = 1;
const EINVAL: u32 = 22;
const ENOSPC: u32 = 28;

fn assert_says(said: &str, expected: &[&str]) {
    for word in expected {
        assert!(said.contains(word), "no {word:?} in:\n{said}");
    }
}

#[test]
fn aoectl_lists_and_identifies() {
    let Some(lab) = Lab::start(Plan::patient()) else {
        return;
    };
    let lun = lab.lun("e1.1");
    for (key, value) in [
        ("name", "e1.1".into()),
        ("size_bytes", (256 * MIB).into()),
        ("sectors_per_frame", 17.into()),
        ("target_max_sectors", 17.into()),
        ("buffer_count", 16.into()),
        ("durability", "unknown".into()),
        ("stranger", serde_json::Value::Null),
    ] {
        assert_eq!(lun[key], value, "{key} of {lun:#}");
    }
    assert!(lun["rtt_us"].as_f64().expect("a time") > 0.0, "{lun:#}");
    let mac = lun["mac"].as_str().expect("a MAC");
    assert_eq!(
        lab.daemon.json(&["discover", "--wait", "50"])["luns"][0]["mac"],
        mac
    );
    for command in ["list", "discover"] {
        let said = lab.daemon.says(&[command]);
        let row = said.lines().find(|line| line.starts_with("e1.1 "));
        assert_says(row.unwrap_or(&said), &["up", "256.0 MiB", mac, "17"]);
    }

    let disk = lab.daemon.json(&["identify", "e1.1"]);
    let serial = disk["identify"]["serial"]
        .as_str()
        .expect("a serial number");
    assert!(serial.starts_with("1.1:"), "{serial}");
    assert_eq!(disk["identify"]["model"], "Coraid EtherDrive vblade");
    assert_eq!(disk["identify"]["sectors"], 256 * MIB / 512);
    let said = lab.daemon.says(&["identify", "e1.1"]);
    assert_says(
        &said,
        &[
            serial,
            "Coraid EtherDrive vblade",
            "256.0 MiB",
            "unknown",
            mac,
        ],
    );
    let none = lab.daemon.ctl(&["identify", "e9.9"]);
    assert_eq!(none.status.code(), Some(1));
    assert_says(&lab::daemon::text(&none), &["e9.9"]);
}

#[test]
fn aoectl_counts() {
    let Some(lab) = Lab::start(Plan::patient()) else {
        return;
    };
    assert_eq!(lab.open("e1.1").call(READ, 0, 0, 64 << 10).error, 0);
    let stat = lab.daemon.json(&["stat"]);
    let port = &stat["appliance"]["ports"][0];
    assert_eq!(port["driver"], "net_af_packet");
    assert_eq!(port["mtu"], 9000);
    assert_eq!(port["link_up"], true);
    assert_eq!(port["mac"], lab.net.outer_mac());
    let core = &stat["cores"][0];
    // 128 sectors in frames of at most 17, and what discovery took.
    assert!(core["matched"].as_u64() >= Some(8), "{core:#}");
    assert_eq!(
        core["matched"], core["ports"][0]["transmitted"],
        "each has its answer"
    );
    assert_eq!(core["luns"][0]["completed"], 1, "{core:#}");
    assert_says(
        &lab.daemon.says(&["stat"]),
        &["net_af_packet", "mtu", "9000", "matched"],
    );
    lab.assert_clean();
}

#[test]
fn copies_there_and_back() {
    let Some(lab) = Lab::start(Plan::patient()) else {
        return;
    };
    let uri = lab.uri("e1.1");
    let info = succeed("nbdinfo", &[&uri]);
    assert_says(
        &info,
        &["export-size: 268435456", "can_flush: true", "can_fua: true"],
    );
    assert_says(
        &info,
        &["can_trim: false", "can_zero: true", "is_read_only: false"],
    );
    assert_says(&info, &["block_size_minimum: 512", "can_multi_conn: true"]);

    let source = lab.random_file("source", 64 * MIB, 1);
    let disk = &lab.targets[0].file;
    succeed("nbdcopy", &["--flush", path(&source), &uri]);
    assert_same(&source, disk, 64 * MIB);
    let back = lab.file("back");
    succeed("nbdcopy", &[&uri, path(&back)]);
    assert_same(disk, &back, 256 * MIB);

    let other = lab.random_file("other", 256 * MIB, 2);
    let convert = [
        "convert",
        "-n",
        "-f",
        "raw",
        "-O",
        "raw",
        path(&other),
        &uri,
    ];
    succeed("qemu-img", &convert);
    assert_same(&other, disk, 256 * MIB);
    let compare = |file| {
        run(
            "qemu-img",
            &["compare", "-f", "raw", "-F", "raw", file, &uri],
        )
    };
    assert_eq!(compare(path(&other)).status.code(), Some(0));
    assert_eq!(
        compare(path(&back)).status.code(),
        Some(1),
        "they do differ"
    );
    lab.assert_clean();
}

#[test]
fn fio_verifies() {
    let Some(lab) = Lab::start(Plan::patient()) else {
        return;
    };
    let uri = lab.uri("e1.1");
    let verify = [
        "--verify=crc32c",
        "--verify_fatal=1",
        "--iodepth=16",
        "--rw=randrw",
    ];
    fio(&uri, &[&verify[..], &["--bs=4k", "--size=64M"]].concat());
    fio(
        &uri,
        &[&verify[..], &["--bsrange=512-256k", "--size=128M"]].concat(),
    );
    let core = lab.core();
    assert!(
        core["ports"][0]["zero_copy"].as_u64() > Some(1000),
        "{core:#}"
    );
    assert_eq!(
        core["ports"][0]["bounced"], 0,
        "af_packet takes any memory: {core:#}"
    );
    lab.assert_clean();
}

#[test]
fn released_frames_are_left_alone() {
    let plan = Plan::patient().engine("checks", true);
    let Some(lab) = Lab::start(plan) else { return };
    let verify = [
        "--verify=crc32c",
        "--iodepth=16",
        "--rw=randrw",
        "--bsrange=512-128k",
    ];
    fio(&lab.uri("e1.1"), &[&verify[..], &["--size=32M"]].concat());
    assert!(lab.core()["ports"][0]["zero_copy"].as_u64() > Some(100));
    lab.assert_clean();
}

#[test]
fn small_frames() {
    let plan = Plan {
        mtu: 1500,
        ..Plan::patient()
    };
    let Some(lab) = Lab::start(plan) else { return };
    assert_eq!(lab.lun("e1.1")["sectors_per_frame"], 2);
    assert_eq!(
        lab.daemon.json(&["stat"])["appliance"]["ports"][0]["mtu"],
        1500
    );
    let source = lab.random_file("source", 8 * MIB, 3);
    succeed("nbdcopy", &[path(&source), &lab.uri("e1.1")]);
    assert_same(&source, &lab.targets[0].file, 8 * MIB);
    let verify = [
        "--verify=crc32c",
        "--iodepth=16",
        "--rw=randrw",
        "--bsrange=512-64k",
    ];
    fio(&lab.uri("e1.1"), &[&verify[..], &["--size=16M"]].concat());
    lab.assert_clean();
}

#[test]
fn two_luns_at_once() {
    let disks = vec![Disk::new(1, 1, 64 * MIB), Disk::new(2, 7, 96 * MIB)];
    let Some(lab) = Lab::start(Plan {
        disks,
        ..Plan::patient()
    }) else {
        return;
    };
    assert_eq!(lab.lun("e2.7")["size_bytes"], 96 * MIB);
    assert_ne!(lab.lun("e1.1")["mac"], serde_json::Value::Null);
    let listed = succeed("nbdinfo", &["--list", &lab.uri("")]);
    assert_says(&listed, &["export=\"e1.1\"", "export=\"e2.7\""]);
    let sources = [
        lab.random_file("a", 64 * MIB, 4),
        lab.random_file("b", 64 * MIB, 5),
    ];
    let uris = [lab.uri("e1.1"), lab.uri("e2.7")];
    let copies: Vec<_> = sources
        .iter()
        .zip(&uris)
        .map(|(from, to)| {
            lab::tools::client("nbdcopy", &[path(from), to])
                .spawn()
                .expect("it")
        })
        .collect();
    for mut copy in copies {
        assert!(copy.wait().expect("its end").success());
    }
    assert_same(&sources[0], &lab.targets[0].file, 64 * MIB);
    assert_same(&sources[1], &lab.targets[1].file, 64 * MIB);
    lab.assert_clean();
}

#[test]
fn flush_fua_zeroes_and_trim() {
    let Some(lab) = Lab::start(Plan::patient()) else {
        return;
    };
    let mut client = lab.open("e1.1");
    let commands = || lab.lun("e1.1")["commands"].as_u64().expect("a count");
    let before = commands();
    assert_eq!(client.call(WRITE, 0, 0, 4096).error, 0);
    assert_eq!(commands(), before + 1, "one frame");
    assert_eq!(client.call(FLUSH, 0, 0, 0).error, 0);
    assert_eq!(commands(), before + 2, "a flush is a command to the target");
    assert_eq!(client.call(WRITE, FUA, 8192, 4096).error, 0);
    assert_eq!(commands(), before + 4, "FUA is the write and a flush");
    assert_eq!(head(&lab.targets[0].file, 4096), [0xab; 4096]);

    // A trim that was not offered is refused; zeroes are written out.
    assert_eq!(client.call(TRIM, 0, 0, 4096).error, EINVAL);
    assert_eq!(head(&lab.targets[0].file, 4096), [0xab; 4096]);
    assert_ne!(
        client.call(ZEROES, FAST_ZERO, 0, 4096).error,
        0,
        "it cannot be fast"
    );
    assert_eq!(client.call(ZEROES, 0, 512, 1024).error, 0);
    let mut expected = vec![0xab; 4096];
    expected[512..1536].fill(0);
    assert!(head(&lab.targets[0].file, 4096) == expected);

    let uri = lab.uri("e1.1");
    std::fs::write(&lab.targets[0].file, vec![0x5a; 256 * MIB as usize]).expect("a disk");
    let qemu = |command: &str| succeed("qemu-io", &["-f", "raw", "-c", command, &uri]);
    qemu("write -z 1M 3M");
    let disk = head(&lab.targets[0].file, 5 * MIB);
    let zeroed = |range: std::ops::Range<u64>, byte| {
        disk[range.start as usize..range.end as usize]
            .iter()
            .all(|&b| b == byte)
    };
    assert!(zeroed(0..MIB, 0x5a) && zeroed(MIB..4 * MIB, 0) && zeroed(4 * MIB..5 * MIB, 0x5a));
    lab.assert_clean();
}

#[test]
fn bad_requests_are_refused() {
    let Some(lab) = Lab::start(Plan::patient()) else {
        return;
    };
    let mut client = lab.open("e1.1");
    let end = 256 * MIB;
    for (command, offset, len, error) in [
        (READ, 1, 512, EINVAL),
        (READ, 0, 100, EINVAL),
        (WRITE, 511, 512, EINVAL),
        (WRITE, 512, 513, EINVAL),
        (ZEROES, 256, 512, EINVAL),
        (READ, 0, 2 << 20, EINVAL),
        (READ, end, 512, EINVAL),
        (READ, end - 512, 1024, EINVAL),
        (WRITE, end, 512, ENOSPC),
        (WRITE, end - 512, 1024, ENOSPC),
        (WRITE, u64::MAX - 511, 512, ENOSPC),
    ] {
        let answer = client.call(command, 0, offset, len);
        let what = format!("command {command} at {offset}, {len} bytes: {answer:?}");
        assert_eq!((answer.error, answer.data.len()), (error, 0), "{what}");
    }
    assert_eq!(
        client.call(READ, 0, end - 512, 512).data,
        [0; 512],
        "the connection lives"
    );
    assert!(
        head(&lab.targets[0].file, 4096) == [0; 4096],
        "nothing was written"
    );
    lab.assert_clean();
}

#[test]
fn read_only_and_named() {
    let tables = "[[lun]]\naddress = \"e1.1\"\nname = \"backup\"\nread_only = true\n\
                  [[lun]]\naddress = \"e1.2\"\nexport = false\n";
    let disks = vec![Disk::new(1, 1, 16 * MIB), Disk::new(1, 2, 16 * MIB)];
    let plan = Plan {
        disks,
        ..Plan::patient()
    }
    .tables(tables);
    let Some(lab) = Lab::start(plan) else { return };
    let marked = random(6, 4096);
    std::fs::write(
        &lab.targets[0].file,
        [&marked[..], &vec![0; 16 * MIB as usize]].concat(),
    )
    .expect("a disk");
    assert_eq!(lab.lun("e1.1")["name"], "backup");
    assert_eq!(lab.daemon.json(&["identify", "backup"])["lun"], "e1.1");
    assert_says(
        &succeed("nbdinfo", &[&lab.uri("backup")]),
        &["is_read_only: true"],
    );
    let mut client = lab.open("backup");
    for command in [WRITE, ZEROES] {
        assert_eq!(client.call(command, 0, 0, 512).error, EPERM);
    }
    assert!(client.call(READ, 0, 0, 4096).data == marked);
    let source = lab.random_file("source", MIB, 7);
    fail("nbdcopy", &[path(&source), &lab.uri("backup")]);
    assert!(
        head(&lab.targets[0].file, 4096) == marked,
        "nothing was written"
    );
    fail("nbdinfo", &[&lab.uri("e1.2")]);
    let listed = succeed("nbdinfo", &["--list", &lab.uri("")]);
    assert!(
        listed.contains("backup") && !listed.contains("e1.2"),
        "{listed}"
    );
}

#[test]
fn starts_and_stops() {
    let Some(mut lab) = Lab::start(Plan::patient()) else {
        return;
    };
    let start = Instant::now();
    let (code, said) = aoed_fails(&[], &lab.daemon.config);
    assert_eq!(code, Some(1), "{said}");
    let named = [path(&lab.daemon.nbd), path(&lab.daemon.control)];
    assert!(named.iter().any(|socket| said.contains(socket)), "{said}");
    assert!(start.elapsed() < Duration::from_secs(10));
    assert_eq!(
        lab.open("e1.1").call(READ, 0, 0, 512).error,
        0,
        "the first goes on"
    );

    // A client that has a connection open does not hold it up.
    let mut client = lab.open("e1.1");
    let start = Instant::now();
    lab.daemon.stop();
    assert!(
        start.elapsed() < Duration::from_secs(3),
        "{:?}",
        start.elapsed()
    );
    client.expect_end();
    let gone = lab.daemon.ctl(&["list"]);
    assert_eq!(gone.status.code(), Some(1));
    assert_says(
        &lab::daemon::text(&gone),
        &[path(&lab.daemon.control), "is aoed running"],
    );

    lab.daemon.start();
    lab.daemon.wait_state("e1.1", "up");
    lab.daemon.kill();
    assert!(
        lab.daemon.nbd.exists() && lab.daemon.control.exists(),
        "kill -9 leaves them"
    );
    lab.daemon.start();
    lab.daemon.wait_state("e1.1", "up");
    let mut client: Client = lab.open("e1.1");
    assert_eq!(client.call(WRITE, FUA, 0, 8192).error, 0);
    assert_eq!(head(&lab.targets[0].file, 8192), [0xab; 8192]);
}
