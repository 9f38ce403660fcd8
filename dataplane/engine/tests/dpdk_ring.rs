//! The engine over real DPDK: a pair of ring devices, on which the peer frees the very mbufs that
//! the engine sent.

mod nic;
mod wire;

use aoe_engine::dpdk::{DmaBlock, DmaPool, Eal, IovaMap};
use aoe_engine::{Iovec, Request, Sgl};
use aoe_proto::initiator::{IoError, Op, SubmitError};
use nic::net::content;
use std::collections::HashMap;
use std::ptr::NonNull;
use std::sync::atomic::Ordering::SeqCst;
use wire::{MS, SEC, Wire, eal, errors};

fn pool(eal: Eal, count: u32) -> DmaPool {
    DmaPool::new(eal, 64 * 512, count, "a test", &IovaMap::new(eal)).unwrap()
}

fn fill(block: &mut DmaBlock, lba: u64, sectors: u32, stamp: u64) {
    for (i, sector) in block
        .as_mut_slice()
        .chunks_mut(512)
        .take(sectors as usize)
        .enumerate()
    {
        sector.copy_from_slice(&content(lba + i as u64, stamp));
    }
}

fn request(w: &Wire, op: Op, lba: u64, sectors: u32, user: u64) -> Request {
    Request {
        lun: w.lun(),
        op,
        lba,
        sectors,
        memory: Sgl::NONE,
        user,
    }
}

/// Waits for one completion and returns its block.
fn wait(w: &mut Wire, user: u64) -> (Option<DmaBlock>, Result<(), IoError>) {
    let end = w.now + 20 * SEC;
    loop {
        if let Some(done) = w.engine.next_completion() {
            assert_eq!(done.user, user);
            return (done.block, done.result);
        }
        assert!(w.now < end, "still waiting for {user}: {:?}", w.stats());
        w.turn();
    }
}

fn write(w: &mut Wire, mut block: DmaBlock, lba: u64, sectors: u32, stamp: u64) -> DmaBlock {
    fill(&mut block, lba, sectors, stamp);
    let r = request(w, Op::Write, lba, sectors, stamp);
    w.engine.submit_block(&r, block).unwrap();
    let (block, result) = wait(w, stamp);
    assert_eq!(result, Ok(()));
    let mut block = block.expect("the block comes back");
    block.as_mut_slice().fill(0xee);
    block
}

fn read(w: &mut Wire, block: DmaBlock, lba: u64, sectors: u32, stamp: u64) -> DmaBlock {
    let r = request(w, Op::Read, lba, sectors, 1 << 40);
    w.engine.submit_block(&r, block).unwrap();
    let (block, result) = wait(w, 1 << 40);
    assert_eq!(result, Ok(()));
    let block = block.expect("the block comes back");
    for (i, sector) in block
        .as_slice()
        .chunks(512)
        .take(sectors as usize)
        .enumerate()
    {
        assert_eq!(
            sector,
            content(lba + i as u64, stamp),
            "sector {i} from {lba}"
        );
    }
    block
}

#[test]
fn verified_io_with_blocks() {
    let Some((eal, _one)) = eal() else { return };
    for (copy_only, vlan, split) in [
        (false, None, false),
        (true, None, false),
        (false, Some(5), false),
        (false, None, true),
    ] {
        let name = format!("io{}{}{}", copy_only, vlan.is_some(), split);
        let mut w = Wire::new(eal, &name, SEC, |c| {
            c.copy_only = copy_only;
            c.vlan = vlan;
        });
        w.responder.split = split;
        let before = errors();
        let blocks = pool(eal, 2);
        let mut block = blocks.take().unwrap();
        for i in 0..200 {
            let (lba, sectors) = (i * 64, 1 + i as u32 % 64);
            block = write(&mut w, block, lba, sectors, i + 1);
            block = read(&mut w, block, lba, sectors, i + 1);
        }
        drop(block);
        assert_eq!(blocks.free(), 2);
        let stats = w.stats();
        assert_eq!(
            (stats.zero_copy > 0, stats.bounced > 0),
            (!copy_only, copy_only)
        );
        assert_eq!(
            (w.engine.counters().resends, w.engine.drops().total()),
            (0, 0)
        );
        w.finish();
        assert_eq!(errors(), before, "DPDK's checks");
    }
}

#[test]
fn verified_io_in_pieces_and_zeroes() {
    let Some((eal, _one)) = eal() else { return };
    let mut w = Wire::new(eal, "pieces", SEC, |_| {});
    let mut bytes: Vec<Vec<u8>> = [8192, 4096, 12288, 1, 8191].map(|n| vec![0; n]).into();
    let whole: Vec<u8> = (0..64).flat_map(|lba| content(lba, 3)).collect();
    let mut at = 0;
    for piece in &mut bytes {
        let len = piece.len();
        piece.copy_from_slice(&whole[at..at + len]);
        at += len;
    }
    let mut iov: Vec<_> = bytes
        .iter_mut()
        .map(|p| Iovec {
            base: p.as_mut_ptr(),
            len: p.len(),
        })
        .collect();
    // SAFETY: vectors and pieces live until the completions were fetched.
    let memory = unsafe { Sgl::many(NonNull::new(iov.as_mut_ptr()).unwrap(), iov.len() as u32) };
    w.engine
        .submit(&Request {
            memory,
            ..request(&w, Op::Write, 0, 64, 1)
        })
        .unwrap();
    assert_eq!(wait(&mut w, 1).1, Ok(()));
    assert!((0..64).all(|lba| w.responder.target.disk().sector(lba) == content(lba, 3)));
    let stats = w.stats();
    assert!(stats.zero_copy >= 1 && stats.bounced >= 1, "{stats:?}");
    bytes.iter_mut().for_each(|piece| piece.fill(0));
    w.engine
        .submit(&Request {
            memory,
            ..request(&w, Op::Read, 0, 64, 2)
        })
        .unwrap();
    assert_eq!(wait(&mut w, 2).1, Ok(()));
    assert_eq!(bytes.concat(), whole);
    let memory = Sgl::zeroes(40 * 512);
    w.engine
        .submit(&Request {
            memory,
            ..request(&w, Op::Write, 4, 40, 3)
        })
        .unwrap();
    assert_eq!(wait(&mut w, 3).1, Ok(()));
    assert!((4..44).all(|lba| w.responder.target.disk().sector(lba) == [0; 512]));
    w.finish();
}

/// Hazard 6 on real mbufs: the peer keeps every frame that it received.
#[test]
fn a_peer_that_sits_on_our_frames_meets_a_cap() {
    let Some((eal, _one)) = eal() else { return };
    let mut w = Wire::new(eal, "sits", SEC, |_| {});
    let blocks = pool(eal, 64);
    w.responder.sits = true;
    // Slots, transmit ring and a burst, and the overflow.
    let (base, cap) = (64 + 64 + 32, 16);
    let mut done = 0;
    for user in 0.. {
        let Some(mut block) = blocks.take() else {
            panic!("the engine never says no")
        };
        let op = if user % 2 == 0 { Op::Write } else { Op::Read };
        fill(&mut block, user * 16, 16, user + 1);
        let accepted = w
            .engine
            .submit_block(&request(&w, op, user * 16, 16, user), block);
        if let Err((e, _block)) = accepted {
            assert_eq!(e, SubmitError::Busy);
            break;
        }
        for _ in 0..3 {
            w.turn();
        }
        done += std::iter::from_fn(|| w.engine.next_completion()).count();
    }
    let stats = w.stats();
    assert_eq!(
        (stats.header.held, stats.header.held_max),
        (base + cap, base + cap)
    );
    assert_eq!(
        (stats.header.overflow, stats.header.overflow_max),
        (cap, cap)
    );
    assert!(stats.blocked_turns > 0 && stats.header.nudges > 0 && stats.header.starved > 0);
    assert_eq!(w.responder.held.len() as u32, base + cap);
    assert!(
        done as u32 >= base + cap - 4,
        "what was answered completes, held or not: {done}"
    );
    // Every other one is let go of, the oldest not among them.
    let mut n = 0;
    w.responder.held.retain(|_| {
        n += 1;
        n % 2 == 1
    });
    w.responder.sits = false;
    for _ in 0..10 {
        w.turn();
    }
    done += std::iter::from_fn(|| w.engine.next_completion()).count();
    assert!(w.stats().header.looked_past > 0, "{:?}", w.stats());
    for user in 1000..1200 {
        let block = blocks.take().unwrap();
        drop(read(&mut w, block, 1 << 19, 16, 0));
        assert!(user > done as u64);
    }
    w.finish();
    assert_eq!(blocks.free(), 64);
}

/// Hazard 32 on real mbufs: a driver lets go of the segments of a chain one by one.
#[test]
fn both_segments_of_a_frame_are_watched() {
    let Some((eal, _one)) = eal() else { return };
    for head_first in [true, false] {
        let mut w = Wire::new(eal, &format!("parts{head_first}"), SEC, |_| {});
        let blocks = pool(eal, 1);
        let block = blocks.take().unwrap();
        w.responder.asleep = true;
        w.engine
            .submit_block(&request(&w, Op::Write, 0, 16, 1), block)
            .unwrap();
        w.turn();
        let peer = w.responder.port.port_id();
        let mut mbufs = [std::ptr::null_mut(); 4];
        // SAFETY: the peer's queue is used by this thread alone, and what it received is a chain
        // of two of the engine's mbufs, which live as long as its port; each reference of ours is
        // given back once.
        let parts = unsafe {
            assert_eq!(dpdk_sys::rx_burst(peer, 0, &mut mbufs), 1);
            let (head, tail) = (mbufs[0], (*mbufs[0]).next);
            assert!(!tail.is_null() && (*tail).next.is_null());
            [dpdk_sys::refcnt(head), dpdk_sys::refcnt(tail)]
        };
        let order = if head_first { [0, 1] } else { [1, 0] };
        assert_eq!((parts[0].load(SeqCst), parts[1].load(SeqCst)), (2, 2));
        parts[order[0]].fetch_sub(1, SeqCst);
        w.engine.abort_all();
        w.run(MS);
        let held = w.stats().header.held;
        assert!(held >= 1, "one part is still out");
        assert!(
            w.engine.next_completion().is_none(),
            "head first: {head_first}"
        );
        parts[order[1]].fetch_sub(1, SeqCst);
        w.run(MS);
        assert_eq!(w.stats().header.held, held - 1);
        assert_eq!(wait(&mut w, 1).1, Err(IoError::Aborted));
        w.responder.asleep = false;
        w.finish();
    }
}

/// Hazard 24, 31: nobody reads the ring; the block stays until somebody has.
#[test]
fn an_aborted_write_keeps_its_block_while_it_is_in_the_ring() {
    let Some((eal, _one)) = eal() else { return };
    let mut w = Wire::new(eal, "abort", 200 * MS, |_| {});
    let blocks = pool(eal, 1);
    let mut block = blocks.take().unwrap();
    fill(&mut block, 0, 48, 5);
    w.responder.asleep = true;
    w.engine
        .submit_block(&request(&w, Op::Write, 0, 48, 9), block)
        .unwrap();
    w.run(5 * MS);
    w.engine.abort_all();
    w.run(2 * SEC);
    assert!(w.stats().flushes > 0, "the drain timeout has passed");
    let early = w.engine.next_completion();
    if let Some(done) = early {
        done.block.unwrap().as_mut_slice().fill(0xee);
        w.responder.asleep = false;
        w.run(SEC);
        for (lba, sector) in &w.responder.target.disk().written {
            assert_eq!(sector, &content(*lba, 5), "the block came back too early");
        }
        panic!("the block came back while the ring could read it");
    }
    assert_eq!(blocks.free(), 0);
    w.responder.asleep = false;
    let (block, result) = wait(&mut w, 9);
    assert_eq!(result, Err(IoError::Aborted));
    drop(block);
    w.run(SEC);
    assert!(
        w.responder
            .target
            .disk()
            .written
            .iter()
            .all(|(lba, s)| *s == content(*lba, 5))
    );
    let block = write(&mut w, blocks.take().unwrap(), 100, 64, 6);
    drop(read(&mut w, block, 100, 64, 6));
    w.finish();
}

/// The peer sleeps for less than the loss timeout: resends, duplicates, and the right data.
#[test]
fn a_peer_that_is_late_gets_private_copies() {
    let Some((eal, _one)) = eal() else { return };
    let mut w = Wire::new(eal, "late", SEC, |_| {});
    let blocks = pool(eal, 16);
    let mut open = HashMap::new();
    for round in 0..20_u64 {
        // Copies of the last round may still wait in the ring.
        w.run(20 * MS);
        w.responder.asleep = true;
        for i in 0..8 {
            let (user, mut block) = (round * 8 + i, blocks.take().unwrap());
            fill(&mut block, user * 64, 64, user + 1);
            w.engine
                .submit_block(&request(&w, Op::Write, user * 64, 64, user), block)
                .unwrap();
            open.insert(user, ());
        }
        w.run(SEC);
        w.responder.asleep = false;
        while !open.is_empty() {
            w.turn();
            while let Some(done) = w.engine.next_completion() {
                assert_eq!((done.result, open.remove(&done.user)), (Ok(()), Some(())));
                done.block.unwrap().as_mut_slice().fill(0xee);
            }
        }
    }
    w.run(SEC);
    assert!(w.engine.counters().resends > 0 && w.stats().bounced > 0);
    for (lba, sector) in &w.responder.target.disk().written {
        assert_eq!(sector, &content(*lba, lba / 64 + 1), "sector {lba}");
    }
    w.finish();
    assert_eq!(blocks.free(), 16);
}

/// An engine that is dropped in the middle of everything leaves nothing behind that crashes.
#[test]
fn dropped_in_the_middle() {
    let Some((eal, _one)) = eal() else { return };
    let blocks = pool(eal, 8);
    let mut w = Wire::new(eal, "dropped", SEC, |_| {});
    w.responder.sits = true;
    for user in 0..4 {
        let block = blocks.take().unwrap();
        w.engine
            .submit_block(&request(&w, Op::Write, user * 64, 64, user), block)
            .unwrap();
        w.turn();
    }
    let Wire {
        engine,
        mut responder,
        ..
    } = w;
    drop(engine);
    // The frames that the peer has are still there.
    responder.turn();
    responder.held.clear();
    responder.turn();
    drop(responder);
    let unfetched = 8 - blocks.free();
    assert!(
        unfetched >= 4,
        "blocks of unfinished I/O are lost rather than reused"
    );
}

#[test]
fn blocks_run_out_and_come_back() {
    let Some((eal, _one)) = eal() else { return };
    let blocks = DmaPool::new(eal, 1000, 3, "a test", &IovaMap::new(eal)).unwrap();
    assert_eq!((blocks.block(), blocks.free()), (1024, 3));
    let mut taken: Vec<_> = std::iter::from_fn(|| blocks.take()).collect();
    assert_eq!((taken.len(), blocks.free()), (3, 0));
    for (i, block) in taken.iter_mut().enumerate() {
        block.as_mut_slice().fill(i as u8 + 1);
    }
    assert!(
        taken
            .iter()
            .enumerate()
            .all(|(i, b)| b.as_slice() == [i as u8 + 1; 1024])
    );
    taken.pop();
    assert_eq!(blocks.free(), 1);
    assert!(blocks.take().is_some());
    let alone = taken.pop().unwrap();
    drop((taken, blocks));
    assert_eq!(alone.as_slice(), [2; 1024], "a block keeps its pool alive");
    assert_eq!(
        DmaPool::new(eal, 512, 0, "none", &IovaMap::new(eal))
            .unwrap()
            .free(),
        0
    );
}

#[test]
fn a_block_that_is_too_small_is_refused_and_given_back() {
    let Some((eal, _one)) = eal() else { return };
    let mut w = Wire::new(eal, "small", SEC, |_| {});
    let blocks = pool(eal, 1);
    let refused = w
        .engine
        .submit_block(&request(&w, Op::Read, 0, 65, 1), blocks.take().unwrap())
        .unwrap_err();
    assert_eq!(
        refused.0,
        SubmitError::ShortMemory {
            sectors: 65,
            bytes: 64 * 512
        }
    );
    let refused = w
        .engine
        .submit_block(&request(&w, Op::Read, 1 << 20, 1, 1), refused.1)
        .unwrap_err();
    assert!(matches!(refused.0, SubmitError::OutOfRange { .. }));
    drop(refused);
    assert_eq!(blocks.free(), 1);
    w.finish();
}
