//! Callers' memory in every shape, and received frames in pieces.

mod nic;

use aoe_proto::initiator::{DropReason, Op, SubmitError};
use aoe_proto::wire::ata_cmd;
use nic::bench::{Memory, addr};
use nic::net::ata;
use nic::{Bench, Fate, MS, Policy, SEC, Shape, Way, is_ata};

/// Submits a write, waits for it, and returns how many of its frames were sent in place and how
/// many were copied.
fn written(b: &mut Bench, lba: u64, sectors: u32, memory: Memory) -> (u64, u64) {
    let before = b.stats(0);
    let user = b.submit(0, 0, Op::Write, lba, sectors, memory).unwrap();
    assert_eq!(b.wait(user), Ok(()));
    let after = b.stats(0);
    (
        after.zero_copy - before.zero_copy,
        after.bounced - before.bounced,
    )
}

#[test]
fn pieces_go_in_place_unless_a_frame_crosses_them() {
    let mut b = Bench::new(&Shape::default());
    let kib8 = 16 * 512;
    // Frames of 16 sectors.
    assert_eq!(written(&mut b, 0, 64, Memory::One), (4, 0));
    assert_eq!(
        written(&mut b, 64, 64, Memory::Pieces(vec![kib8; 4])),
        (4, 0)
    );
    assert_eq!(
        written(&mut b, 128, 64, Memory::Pieces(vec![2 * kib8, 2 * kib8])),
        (4, 0)
    );
    assert_eq!(
        written(
            &mut b,
            192,
            64,
            Memory::Pieces(vec![kib8 + 512, 3 * kib8 - 512])
        ),
        (3, 1)
    );
    assert_eq!(
        written(
            &mut b,
            256,
            64,
            Memory::Pieces(vec![0, kib8, 0, 0, 3 * kib8])
        ),
        (4, 0)
    );
    assert_eq!(
        written(&mut b, 320, 64, Memory::Pieces(vec![4096; 8])),
        (0, 4)
    );
    assert_eq!(
        written(&mut b, 384, 16, Memory::Pieces(vec![1, 3, kib8 - 5, 1])),
        (0, 1)
    );
    assert_eq!(
        written(&mut b, 400, 16, Memory::Pieces(vec![kib8, 0])),
        (1, 0)
    );
    let user = b.read(0, 416);
    assert_eq!(b.wait(user), Ok(()));
    b.finish();
}

#[test]
fn reads_scatter_over_pieces_of_any_size() {
    let mut b = Bench::new(&Shape::default());
    b.nic(0).piece_len = 1000;
    b.nic(0).head_len = 100;
    for sizes in [
        vec![32 * 512],
        vec![1; 1024].into_iter().chain([31 * 512 - 512]).collect(),
    ] {
        let user = b
            .submit(0, 0, Op::Read, 5, 32, Memory::Pieces(sizes))
            .unwrap();
        assert_eq!(b.wait(user), Ok(()));
    }
    let odd = vec![511, 513, 7, 8192 - 7, 16 * 512 - 1024 - 3, 3];
    let user = b
        .submit(0, 0, Op::Read, 5, 32, Memory::Pieces(odd))
        .unwrap();
    assert_eq!(b.wait(user), Ok(()));
    b.finish();
}

#[test]
fn zeroes_are_sent_without_any_memory() {
    for zero_copy in [true, false] {
        let mut b = Bench::new(&Shape {
            zero_copy,
            ..Shape::default()
        });
        let user = b.write(0, 40);
        assert_eq!(b.wait(user), Ok(()));
        let (in_place, copied) = written(&mut b, 8, 24, Memory::Zeroes);
        assert_eq!((in_place > 0, copied > 0), (zero_copy, !zero_copy));
        b.finish();
        let net = b.net.borrow();
        let disk = net.hosts[0].target.disk();
        assert!((8..32).all(|lba| disk.sector(lba) == [0; 512]));
    }
}

/// Nobody wants zeroes back, so they never wait for a ring.
#[test]
fn zeroes_wait_for_no_ring() {
    let mut b = Bench::new(&Shape {
        drain_ns: 100 * SEC,
        ..Shape::default()
    });
    b.nic(0).ring.link = nic::Link::Down;
    let user = b.submit(0, 0, Op::Write, 0, 16, Memory::Zeroes).unwrap();
    b.run(5 * MS);
    b.cores[0].abort_all();
    b.run(5 * MS);
    assert!(b.is_done(user));
    b.nic(0).ring.link = nic::Link::Up;
    b.finish();
}

#[test]
fn memory_that_the_device_cannot_read_is_copied() {
    let mut b = Bench::new(&Shape::default());
    b.nic(0).refuse_attach = true;
    assert_eq!(written(&mut b, 0, 64, Memory::One), (0, 4));
    assert_eq!(written(&mut b, 64, 64, Memory::Zeroes), (0, 4));
    b.finish();
}

#[test]
fn memory_that_is_too_small_is_refused() {
    let mut b = Bench::new(&Shape::default());
    let lun = b.lun(0, 0);
    for op in [Op::Read, Op::Write] {
        let memory = aoe_engine::Sgl::zeroes(8 * 512 - 1);
        let request = aoe_engine::Request {
            lun,
            op,
            lba: 0,
            sectors: 8,
            memory,
            user: 0,
        };
        let refused = SubmitError::ShortMemory {
            sectors: 8,
            bytes: 4095,
        };
        assert_eq!(b.cores[0].submit(&request), Err(refused));
    }
    let flush = b.submit(0, 0, Op::Flush, 0, 0, Memory::One).unwrap();
    let trim = b.submit(0, 0, Op::Trim, 1000, 100, Memory::One).unwrap();
    assert_eq!((b.wait(flush), b.wait(trim)), (Ok(()), Ok(())));
    let net = b.net.borrow();
    assert_eq!(net.hosts[0].target.disk().sector(1099), [0; 512]);
    assert!(net.hosts[0].target.disk().sector(1100) != [0; 512]);
}

/// Each size of an I/O around the frame's, at each alignment.
#[test]
fn lengths_and_offsets_around_a_frame() {
    let mut b = Bench::new(&Shape {
        vlan: Some(7),
        ..Shape::default()
    });
    let mut lba = 0;
    for sectors in [1, 7, 8, 9, 15, 16, 17, 31, 32, 33, 100, 2000] {
        for shift in [0, 1, 5] {
            let user = b.write(lba + shift, sectors);
            assert_eq!(b.wait(user), Ok(()));
            let user = b.read(lba, sectors + 10);
            assert_eq!(b.wait(user), Ok(()));
            lba += u64::from(sectors) + 16;
        }
    }
    b.finish();
}

/// Hazard 25, and frames whose first segment is short: header split, a peer that sends headers in
/// an mbuf of their own. The state machine wants 40 contiguous bytes unless a frame is shorter.
#[test]
fn a_short_first_segment_is_made_contiguous() {
    for head_len in [1, 14, 18, 24, 28, 35, 36, 39] {
        for vlan in [None, Some(5)] {
            let mut b = Bench::without_luns(&Shape {
                vlan,
                ..Shape::default()
            });
            b.nic(0).head_len = head_len;
            b.nic(0).piece_len = 64;
            b.wait_up();
            for op in [Op::Read, Op::Write, Op::Flush] {
                let user = b.submit(0, 0, op, 0, 40, Memory::One).unwrap();
                b.run(200 * MS);
                assert!(
                    b.is_done(user),
                    "{op:?} with a head of {head_len}: {}",
                    b.summary()
                );
            }
            assert_eq!(b.cores[0].drops().total(), 0, "head of {head_len}");
            b.finish();
        }
    }
}

#[test]
fn a_first_segment_of_40_bytes_is_enough() {
    for head_len in [40, 60, 64, 128] {
        for vlan in [None, Some(5)] {
            let mut b = Bench::without_luns(&Shape {
                vlan,
                ..Shape::default()
            });
            b.nic(0).head_len = head_len;
            b.nic(0).piece_len = 64;
            b.wait_up();
            for op in [Op::Write, Op::Read, Op::Flush] {
                let user = b.submit(0, 0, op, 0, 40, Memory::One).unwrap();
                assert_eq!(b.wait(user), Ok(()));
            }
            assert_eq!(b.cores[0].drops().total(), 0);
            b.finish();
        }
    }
}

/// Runts, foreign frames and garbage of every length.
#[test]
fn garbage_is_dropped_and_counted() {
    let mut b = Bench::new(&Shape::default());
    let user = b.write(0, 16);
    let sizes = (0..100).chain([1513, 9018, 9019, 20_000]);
    let mut count = 0;
    for len in sizes {
        for fill in [0x00, 0xff, 0x88] {
            let mut frame = vec![fill; len];
            if len > 14 && fill == 0x88 {
                frame[12..14].copy_from_slice(&[0x88, 0xa2]);
            }
            b.net.borrow_mut().rx[0][0].push_back(frame);
            count += 1;
        }
    }
    b.run(5 * MS);
    assert_eq!(b.cores[0].drops().total(), count);
    assert!(b.cores[0].drops().get(DropReason::NotAoe) > 100);
    assert_eq!(b.wait(user), Ok(()));
    b.finish();
}

/// Two ports of different MTUs; each LUN's frames fit its own.
#[test]
fn writes_over_small_frames() {
    let mut b = Bench::new(&Shape {
        mtu: 1500,
        full_room: 1518,
        ..Shape::default()
    });
    b.net.borrow_mut().record = true;
    assert_eq!(written(&mut b, 1, 20, Memory::One), (11, 0));
    assert_eq!(b.stats(0).unsendable, 0);
    let net = b.net.borrow();
    let writes = net.seen.iter().filter(|f| is_ata(f, ata_cmd::WRITE_EXT));
    assert!(writes.clone().all(|f| f.len() <= 1514));
    assert_eq!(
        writes
            .map(|f| u32::from(ata(f).unwrap().sectors))
            .sum::<u32>(),
        20
    );
}

/// Hazard 29, as far as it applies: reads are copied at once, so receive buffers never pile up.
#[test]
fn hazard_29_no_received_frame_is_kept() {
    let mut b = Bench::new(&Shape {
        policy: Policy::Odd,
        ..Shape::default()
    });
    b.net.borrow_mut().fault = Box::new({
        let mut n = 0;
        move |way, _| {
            n += 1;
            if way == Way::ToInitiator && n % 2 == 0 {
                Fate::Twice(MS)
            } else {
                Fate::Pass
            }
        }
    });
    for i in 0..50 {
        // The NIC panics if a burst is not given back before the next one.
        let user = b.read(i * 100, 100);
        assert_eq!(b.wait(user), Ok(()));
    }
    b.finish();
    assert!(b.cores[0].find_lun(addr(0)).is_some());
}
