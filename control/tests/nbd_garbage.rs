//! Random and almost right bytes at every stage: the server ends the connection, and that is all.

mod nbd_support;

use std::time::Duration;

use aoe_control::nbd::{self, ConnectionError, Options};
use nbd_support::client::{header, info_data};
use nbd_support::memory::{MemoryBackend, Pace, full_export};
use nbd_support::{Random, runtime};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::watch;

/// Feeds `bytes` to a server and hangs up; gives how the server took it.
async fn feed(backend: &MemoryBackend, bytes: &[u8]) -> Result<(), ConnectionError> {
    let (client, server) = UnixStream::pair().expect("a pair");
    let (_stop, stopped) = watch::channel(false);
    let (reader, writer) = server.into_split();
    let options = Options::default();
    let served = nbd::serve_connection(reader, writer, backend, &options, stopped);
    let spoken = async {
        let (mut from_server, mut to_server) = client.into_split();
        let talk = async move {
            // The server may well hang up first.
            let _ = to_server.write_all(bytes).await;
            let _ = to_server.shutdown().await;
        };
        let listen = async move {
            let mut heard = Vec::new();
            let _ = from_server.read_to_end(&mut heard).await;
        };
        tokio::join!(talk, listen);
    };
    let both = async { tokio::join!(served, spoken).0 };
    tokio::time::timeout(Duration::from_secs(20), both)
        .await
        .expect("the server hangs")
}

fn option(random: &mut Random) -> Vec<u8> {
    let mut bytes = b"IHAVEOPT".to_vec();
    let option = random.below(13) as u32;
    bytes.extend(option.to_be_bytes());
    let data = match random.below(4) {
        0 => vec![],
        1 => {
            let len = random.below(200) as usize;
            random.bytes(len)
        }
        2 => info_data("disk", &[1, 2, 3]),
        _ => info_data(if random.below(2) == 0 { "" } else { "none" }, &[9]),
    };
    let len = match random.below(16) {
        0 => random.next() as u32,
        1 => data.len() as u32 + 1,
        _ => data.len() as u32,
    };
    bytes.extend(len.to_be_bytes());
    bytes.extend(data);
    bytes
}

fn handshake(random: &mut Random) -> Vec<u8> {
    let mut bytes = match random.below(10) {
        0 => random.bytes(4),
        _ => (random.below(4) as u32).to_be_bytes().to_vec(),
    };
    for _ in 0..random.below(6) {
        bytes.extend(option(random));
    }
    if random.below(2) == 0 {
        let len = random.below(300) as usize;
        bytes.extend(random.bytes(len));
    }
    bytes
}

fn request(random: &mut Random) -> Vec<u8> {
    let command = random.below(9) as u16;
    let flags = if random.below(2) == 0 {
        0
    } else {
        random.below(64) as u16
    };
    let offset = match random.below(4) {
        0 => random.next(),
        _ => random.below(2100) * 512,
    };
    let len = match random.below(8) {
        0 => random.next() as u32,
        1 => random.below(5000) as u32,
        _ => random.below(16) as u32 * 512,
    };
    let mut bytes = header(command, flags, random.next(), offset, len);
    if command == 1 && len < 1 << 20 {
        bytes.extend(random.bytes(len as usize));
    }
    bytes
}

fn opened(random: &mut Random) -> Vec<u8> {
    let mut bytes = 3u32.to_be_bytes().to_vec();
    if random.below(2) == 0 {
        bytes.extend(b"IHAVEOPT\0\0\0\x08\0\0\0\0");
    }
    let data = info_data("disk", &[3]);
    bytes.extend(b"IHAVEOPT\0\0\0\x07");
    bytes.extend((data.len() as u32).to_be_bytes());
    bytes.extend(data);
    bytes
}

fn backend() -> MemoryBackend {
    MemoryBackend::new(Pace::Fast, [full_export("disk", 1 << 20)])
}

#[test]
fn random_handshakes() {
    runtime().block_on(async {
        let backend = backend();
        let mut random = Random(1);
        for round in 0..10_000 {
            let bytes = match round % 4 {
                0 => {
                    let len = random.below(400) as usize;
                    random.bytes(len)
                }
                _ => handshake(&mut random),
            };
            let _ = feed(&backend, &bytes).await;
        }
        backend.assert_clean();
    });
}

#[test]
fn random_requests() {
    runtime().block_on(async {
        let backend = backend();
        let mut random = Random(2);
        let mut violations = 0;
        for _ in 0..2_000 {
            let mut bytes = opened(&mut random);
            for _ in 0..random.below(40) {
                bytes.extend(request(&mut random));
            }
            if random.below(3) == 0 {
                let len = random.below(200) as usize;
                bytes.extend(random.bytes(len));
            }
            let ended = feed(&backend, &bytes).await;
            violations += usize::from(matches!(ended, Err(ConnectionError::RequestMagic(_))));
        }
        assert!(
            violations > 100,
            "the garbage reaches the transmission phase: {violations}"
        );
        backend.assert_clean();
    });
}

#[test]
fn every_way_to_cut_a_good_conversation() {
    runtime().block_on(async {
        let backend = backend();
        let mut bytes = opened(&mut Random(3));
        let handshake = bytes.len();
        bytes.extend(header(1, 0, 1, 0, 512));
        bytes.extend([7; 512]);
        bytes.extend(header(0, 0, 2, 0, 512));
        bytes.extend(header(2, 0, 3, 0, 0));
        for cut in 0..bytes.len() {
            let ended = feed(&backend, &bytes[..cut]).await;
            let between = [0, handshake, handshake + 28 + 512, handshake + 56 + 512];
            if between.contains(&cut) {
                assert!(ended.is_ok(), "cut at {cut}: {ended:?}");
            }
        }
        assert!(feed(&backend, &bytes).await.is_ok());
        backend.assert_clean();
    });
}
