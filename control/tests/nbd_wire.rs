//! The protocol byte by byte: handshake, refusals, limits, and what happens when either side goes.

mod nbd_support;

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, Instant};

use aoe_control::nbd::{self, BindError, ExportInfo, Op, Options};
use nbd_support::client::*;
use nbd_support::memory::{MemoryBackend, Pace, full_export};
use nbd_support::{Random, Server, runtime, wait_until};

const MIB: u64 = 1 << 20;
const EPERM: u32 = 1;
const EIO: u32 = 5;
const EINVAL: u32 = 22;
const ENOSPC: u32 = 28;

fn one_disk(pace: Pace) -> Server {
    Server::start(MemoryBackend::new(pace, [full_export("disk", 8 * MIB)]))
}

fn two_disks() -> Server {
    let exports = [full_export("a", MIB), full_export("b", 2 * MIB)];
    Server::start(MemoryBackend::new(Pace::Fast, exports))
}

fn haggler(server: &Server) -> Client {
    let mut client = Client::connect(&server.path);
    client.send(&3u32.to_be_bytes());
    client
}

#[test]
fn options_that_are_refused() {
    let server = one_disk(Pace::Fast);
    let mut client = haggler(&server);
    for unsupported in [4, 5, 9, 10, 11, 12, 1000, u32::MAX] {
        assert_eq!(client.option(unsupported, b"x"), [(ERR + 1, vec![])]);
    }
    for (option, data) in [
        (OPT_LIST, b"x".as_slice()),
        (OPT_STRUCTURED, b"x"),
        (OPT_GO, b""),
        (OPT_GO, b"\0\0\0\x09disk\0\0"),
        (OPT_INFO, b"\0\0\0\x04disk\0\x02\0\x01"),
    ] {
        assert_eq!(
            client.option(option, data)[0].0,
            ERR + 3,
            "{option} {data:?}"
        );
    }
    assert_eq!(client.option(OPT_GO, &vec![0; 65537])[0].0, ERR + 9);
    assert_eq!(client.option(OPT_GO, &info_data("nope", &[]))[0].0, ERR + 6);
    assert_eq!(
        client.option(OPT_INFO, &info_data("nope", &[]))[0].0,
        ERR + 6
    );
    server.backend.unavailable.store(true, SeqCst);
    let reply = client.option(OPT_GO, &info_data("disk", &[]));
    assert_eq!(reply, [(ERR + 6, b"the target does not answer".to_vec())]);
    assert_eq!(client.option(OPT_ABORT, b""), [(REP_ACK, vec![])]);
    client.expect_end();
}

#[test]
fn list_and_info() {
    let server = two_disks();
    let mut client = haggler(&server);
    let list = client.option(OPT_LIST, b"");
    assert_eq!(list[0], (2, b"\0\0\0\x01atest export a".to_vec()));
    assert_eq!(list[1], (2, b"\0\0\0\x01btest export b".to_vec()));
    assert_eq!(list[2], (REP_ACK, vec![]));
    let plain = client.option(OPT_INFO, &info_data("a", &[]));
    let export = [&[0, 0], &MIB.to_be_bytes()[..], &0x096du16.to_be_bytes()].concat();
    assert_eq!(plain, [(3, export.clone()), (REP_ACK, vec![])]);
    let all = client.option(OPT_INFO, &info_data("a", &[3, 2, 1, 500]));
    assert_eq!(all[0].1, export);
    assert_eq!(all[1].1, b"\0\x01a");
    assert_eq!(all[2].1, b"\0\x02test export a");
    assert_eq!(all[3].1, b"\0\x03\0\0\x02\0\0\0\x10\0\0\x10\0\0");
    assert_eq!(all.len(), 5);
    let no_default = client.option(OPT_GO, &info_data("", &[]));
    assert_eq!(
        no_default[0].0,
        ERR + 6,
        "two exports: none of them is the default"
    );
}

#[test]
fn the_only_export_is_the_default() {
    let server = one_disk(Pace::Fast);
    let mut client = Client::open(&server.path, "", true);
    assert_eq!(client.call(READ, 0, 0, 512).error, 0);
}

#[test]
fn export_name_with_and_without_padding() {
    let server = two_disks();
    for (flags, padding) in [(1u32, 124), (3, 0), (0, 124)] {
        let mut client = Client::connect(&server.path);
        client.send(&flags.to_be_bytes());
        client.send_option(OPT_EXPORT_NAME, b"b");
        assert_eq!(client.read_u64(), 2 * MIB);
        assert_eq!(client.read_u16(), 0x096d);
        assert_eq!(client.read(padding), vec![0; padding]);
        assert_eq!(client.call(READ, 0, 0, 512).data, vec![0; 512]);
        client.request(DISC, 0, 0, 0, 0);
        client.expect_end();
    }
    for name in [
        b"nope".as_slice(),
        b"",
        b"\xff",
        &[b'x'; 5000],
        &[b'x'; 70000],
    ] {
        let mut client = haggler(&server);
        client.send(b"IHAVEOPT\0\0\0\x01");
        client.send(&(name.len() as u32).to_be_bytes());
        // It may hang up on the length alone.
        let _ = client.stream.write_all(name);
        client.expect_end();
    }
}

#[test]
fn a_client_that_does_not_speak_nbd_is_cut_off() {
    let server = one_disk(Pace::Fast);
    for words in [
        b"\0\0\0\x04".as_slice(),
        b"\0\0\0\x03GET / HTTP/1.1\r\n\r\n",
        b"\xff\xff\xff\xff",
    ] {
        let mut client = Client::connect(&server.path);
        client.send(words);
        client.expect_end();
    }
    let mut client = Client::open(&server.path, "disk", true);
    client.request(READ, 0, 5, 0, 4096);
    client.send(&[0x55; 28]);
    assert_eq!(
        client.answer(|_| 4096).handle,
        5,
        "what was taken is still answered"
    );
    client.expect_end();
}

#[test]
fn refusals_leave_the_connection_usable() {
    let server = one_disk(Pace::Shuffled);
    let end = 8 * MIB;
    for structured in [false, true] {
        let mut client = Client::open(&server.path, "disk", structured);
        for (command, flags, offset, len, error) in [
            (READ, 0, 1, 512, EINVAL),
            (READ, 0, 0, 100, EINVAL),
            (READ, 0, 0, 0, EINVAL),
            (READ, 0, end, 512, EINVAL),
            (READ, 0, u64::MAX - 511, 512, EINVAL),
            (READ, 0, 0, 2 << 20, EINVAL),
            (READ, 2, 0, 512, EINVAL),
            (WRITE, 0, 512, 100, EINVAL),
            (WRITE, 0, 0, 0, EINVAL),
            (WRITE, 0, end - 512, 1024, ENOSPC),
            (WRITE, 0, 0, 2 << 20, EINVAL),
            (WRITE, 0x8000, 0, 4096, EINVAL),
            (ZEROES, 0, end, 512, ENOSPC),
            (TRIM, 0, end, 512, EINVAL),
            (FLUSH, 0, 0, 1, EINVAL),
            (5, 0, 0, 512, EINVAL),
            (7, 0, 0, 512, EINVAL),
            (99, 0, 0, 512, EINVAL),
        ] {
            let answer = client.call(command, flags, offset, len);
            assert_eq!(answer.error, error, "{command} {flags} {offset} {len}");
            if structured {
                assert!(!answer.text.is_empty());
                let inside = len > 0 && [READ, WRITE, TRIM, ZEROES].contains(&command);
                assert_eq!(answer.offset, inside.then_some(offset));
            }
        }
        assert_eq!(client.call(WRITE, 0, 0, 4096).error, 0);
        assert_eq!(client.call(READ, 0, 0, 4096).data, [0xab; 4096]);
        *server.backend.export(0).bad_byte.lock().unwrap() = Some(5000);
        assert_eq!(client.call(READ, 0, 4096, 4096).error, EIO);
        assert_eq!(client.call(WRITE, 0, 0, 8192).error, EIO);
        *server.backend.export(0).bad_byte.lock().unwrap() = None;
    }
}

#[test]
fn a_read_only_export_stays_as_it_is() {
    let export = ExportInfo {
        read_only: true,
        ..full_export("ro", MIB)
    };
    let server = Server::start(MemoryBackend::new(Pace::Fast, [export]));
    let mut client = Client::open(&server.path, "ro", true);
    for command in [WRITE, TRIM, ZEROES] {
        assert_eq!(client.call(command, 0, 0, 4096).error, EPERM);
    }
    assert_eq!(client.call(READ, 0, 0, 4096).data, [0; 4096]);
    assert_eq!(client.call(FLUSH, 0, 0, 0).error, 0);
}

#[test]
fn flags_reach_the_backend() {
    let server = one_disk(Pace::Fast);
    let mut client = Client::open(&server.path, "disk", true);
    let (fua, no_hole, df, fast) = (1, 2, 4, 16);
    assert_eq!(client.call(WRITE, fua, 0, MIB as u32).error, 0);
    assert_eq!(
        client.call(READ, df, 0, MIB as u32).data,
        vec![0xab; MIB as usize]
    );
    assert_eq!(client.call(TRIM, fua, 512, 512).error, 0);
    // Larger than the largest payload: it has none.
    assert_eq!(
        client
            .call(ZEROES, fua | no_hole | fast, 1024, 4 << 20)
            .error,
        0
    );
    assert_eq!(client.call(ZEROES, 0, 1024, 512).error, 0);
    assert_eq!(client.call(FLUSH, fua, 0, 0).error, 0);
    let data = client.call(READ, 0, 0, 2048).data;
    assert_eq!(data, [vec![0xab; 512], vec![0; 1536]].concat());
    let seen = server.backend.export(0).seen.lock().unwrap();
    let flags = |index: usize| (seen[index].op, seen[index].fua, seen[index].no_hole);
    assert_eq!(flags(0), (Op::Write, true, false));
    assert_eq!(flags(2), (Op::Trim, true, false));
    assert_eq!(flags(3), (Op::WriteZeroes, true, true));
    assert!(seen[3].fast_zero && seen[3].len == 4 << 20);
    assert_eq!(flags(4), (Op::WriteZeroes, false, false));
    assert_eq!(flags(5), (Op::Flush, true, false));
}

#[test]
fn a_write_too_large_to_skip_ends_the_connection() {
    let server = one_disk(Pace::Fast);
    let mut client = Client::open(&server.path, "disk", true);
    client.request(WRITE, 0, 1, 0, nbd::MAX_PAYLOAD + 512);
    client.expect_end();
}

#[test]
fn many_requests_at_once_answered_in_any_order() {
    let server = one_disk(Pace::Shuffled);
    for structured in [false, true] {
        let mut client = Client::open(&server.path, "disk", structured);
        let mut random = Random(4);
        let content = random.bytes(1 << 20);
        let blocks: Vec<_> = content.chunks(4096).collect();
        let mut sender = client.stream.try_clone().unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for (index, block) in blocks.iter().enumerate() {
                    let offset = index as u64 * 4096;
                    sender
                        .write_all(&header(WRITE, 0, index as u64, offset, 4096))
                        .unwrap();
                    sender.write_all(block).unwrap();
                }
            });
            let mut seen: Vec<_> = (0..256).map(|_| client.answer(|_| 0).handle).collect();
            assert!(!seen.is_sorted(), "the backend shuffles");
            seen.sort();
            assert!(seen.into_iter().eq(0..256));
        });
        let reads: Vec<u8> = (0..256)
            .flat_map(|index| header(READ, 0, index, index * 4096, 4096))
            .collect();
        client.send(&reads);
        for _ in 0..256 {
            let answer = client.answer(|_| 4096);
            assert_eq!(answer.data, blocks[answer.handle as usize]);
        }
    }
}

#[test]
fn no_more_requests_are_taken_than_the_limit() {
    let options = Options {
        max_in_flight: 4,
        ..Options::default()
    };
    let backend = MemoryBackend::new(Pace::Fast, [full_export("disk", MIB)]);
    let server = Server::with_options(backend, options);
    let mut client = Client::open(&server.path, "disk", true);
    server.backend.hold();
    for handle in 0..20 {
        client.request(READ, 0, handle, 0, 512);
    }
    wait_until("four requests arrive", || server.backend.in_backend() == 4);
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(server.backend.ledger.peak_in_backend.load(SeqCst), 4);
    server.backend.release();
    for _ in 0..20 {
        assert_eq!(client.answer(|_| 512).error, 0);
    }
    assert!(server.backend.ledger.peak_in_backend.load(SeqCst) <= 4);
}

#[test]
fn refusals_count_against_the_limit_too() {
    let server = one_disk(Pace::Fast);
    let mut client = Client::open(&server.path, "disk", true);
    client.stream.set_nonblocking(true).unwrap();
    let bad: Vec<u8> = (0..1000)
        .flat_map(|handle| header(READ, 0, handle, 1, 1))
        .collect();
    let mut sent = 0;
    // Never reads a reply: the server must stop to read in its turn.
    let stuck = loop {
        match client.stream.write(&bad) {
            Ok(len) => sent += len,
            Err(_) => {
                std::thread::sleep(Duration::from_millis(200));
                match client.stream.write(&bad) {
                    Ok(len) => sent += len,
                    Err(_) => break sent,
                }
            }
        }
        assert!(sent < 64 << 20, "the server takes everything");
    };
    assert!(stuck > 0);
}

#[test]
fn a_client_that_dies_leaves_its_buffers_until_they_are_answered() {
    let server = one_disk(Pace::Shuffled);
    server.backend.hold();
    let mut client = Client::open(&server.path, "disk", true);
    for handle in 0..40 {
        client.request(WRITE, 0, handle, handle * 4096, 4096);
        client.send(&[handle as u8; 4096]);
    }
    client.request(WRITE, 0, 40, 0, 4096);
    client.send(&[9; 100]);
    wait_until("the writes arrive", || server.backend.in_backend() == 40);
    drop(client);
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(
        server.backend.ledger.sessions.load(SeqCst),
        1,
        "the session waits"
    );
    assert_eq!(
        server.backend.ledger.buffers.load(SeqCst),
        40,
        "the half sent one is back"
    );
    let mut other = Client::connect(&server.path);
    other.send(&3u32.to_be_bytes());
    assert_eq!(
        other.option(OPT_LIST, b"").len(),
        2,
        "others are served meanwhile"
    );
    server.backend.release();
    wait_until("the session ends", || {
        server.backend.ledger.sessions.load(SeqCst) == 0
    });
    server.backend.assert_clean();
    let data = server.backend.export(0).data.lock().unwrap();
    assert!(
        (0..40).all(|n| data[n * 4096] == n as u8),
        "what was taken is written"
    );
}

#[test]
fn shutdown_answers_what_was_taken() {
    let server = one_disk(Pace::Fast);
    let mut client = Client::open(&server.path, "disk", true);
    let mut idle = Client::open(&server.path, "disk", true);
    let mut haggling = haggler(&server);
    server.backend.hold();
    for handle in 0..10 {
        client.request(READ, 0, handle, 0, 4096);
    }
    wait_until("the reads arrive", || server.backend.in_backend() == 10);
    server.order_stop();
    idle.expect_end();
    haggling.expect_end();
    assert!(std::os::unix::net::UnixStream::connect(&server.path).is_err());
    assert!(!server.has_stopped(), "requests are unanswered");
    server.backend.release();
    for _ in 0..10 {
        assert_eq!(client.answer(|_| 4096).error, 0);
    }
    client.expect_end();
    wait_until("the server stops", || server.has_stopped());
}

#[test]
fn a_client_that_does_not_read_cannot_hold_up_the_end() {
    let options = Options {
        stall_timeout: Duration::from_millis(100),
        ..Options::default()
    };
    let backend = MemoryBackend::new(Pace::Fast, [full_export("disk", 8 * MIB)]);
    let server = Server::with_options(backend, options);
    let mut client = Client::open(&server.path, "disk", true);
    for handle in 0..32 {
        client.request(READ, 0, handle, 0, MIB as u32);
    }
    wait_until("answered", || server.backend.in_backend() == 0);
    server.order_stop();
    wait_until("the server stops", || server.has_stopped());
    server.backend.assert_clean();
}

#[test]
fn a_silent_handshake_times_out() {
    let options = Options {
        handshake_timeout: Duration::from_millis(150),
        ..Options::default()
    };
    let backend = MemoryBackend::new(Pace::Fast, [full_export("disk", MIB)]);
    let server = Server::with_options(backend, options);
    let begun = Instant::now();
    let mut open = Client::open(&server.path, "disk", false);
    let mut silent = Client::connect(&server.path);
    silent.expect_end();
    assert!(begun.elapsed() >= Duration::from_millis(150));
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(
        open.call(READ, 0, 0, 512).error,
        0,
        "an open export may idle"
    );
}

#[test]
fn connections_are_capped() {
    let options = Options {
        max_connections: 2,
        ..Options::default()
    };
    let backend = MemoryBackend::new(Pace::Fast, [full_export("disk", MIB)]);
    let server = Server::with_options(backend, options);
    let first = Client::open(&server.path, "disk", false);
    let mut second = Client::open(&server.path, "disk", false);
    let refused = std::os::unix::net::UnixStream::connect(&server.path).unwrap();
    Client {
        stream: refused,
        structured: false,
    }
    .expect_end();
    assert_eq!(second.call(READ, 0, 0, 512).error, 0);
    drop(first);
    wait_until("a place is free", || {
        server.backend.ledger.sessions.load(SeqCst) == 1
    });
    std::thread::sleep(Duration::from_millis(50));
    let mut third = Client::open(&server.path, "disk", false);
    assert_eq!(third.call(READ, 0, 0, 512).error, 0);
}

#[test]
fn binding() {
    runtime().block_on(async {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let (listener, file) = nbd::bind(&path, 0o620).await.unwrap();
        assert_eq!(
            std::fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o620
        );
        let error = nbd::bind(&path, 0o600).await.unwrap_err();
        assert!(matches!(error, BindError::InUse(_)), "{error}");
        assert!(error.to_string().contains(path.to_str().unwrap()));
        drop(listener);
        // File systems do not see smaller steps of time.
        std::thread::sleep(Duration::from_millis(20));
        let (_listener, newer) = nbd::bind(&path, 0o600).await.expect("a stale socket goes");
        drop(file);
        assert!(
            path.exists(),
            "the older guard leaves the newer socket alone"
        );
        drop(newer);
        assert!(!path.exists());
        std::fs::write(&path, "precious").unwrap();
        let error = nbd::bind(&path, 0o600).await.unwrap_err();
        assert!(matches!(error, BindError::NotASocket(_)), "{error}");
        assert_eq!(std::fs::read(&path).unwrap(), b"precious");
        let error = nbd::bind(&dir.path().join("no/such/dir"), 0o600)
            .await
            .unwrap_err();
        assert!(matches!(error, BindError::Io { .. }), "{error}");
    });
}
