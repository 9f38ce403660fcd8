//! More answers to one broadcast than the ring and the target's frames hold: nothing is dropped, the
//! rest waits.

use aoe_engine::dpdk::{DeviceConfig, Eal, EalConfig, HugePages, IovaMap, ring_pair};
use aoe_engine::{Clock, Engine, TscClock};
use aoe_perf::disk::LabDisk;
use aoe_perf::host::open_one;
use aoe_perf::target::LabTarget;
use aoe_proto::ShelfSlot;
use aoe_proto::initiator::{Config, LunState};
use aoe_proto::target::TargetConfig;

/// Over several shelves with the same slots, so that the table of LUNs has chains.
const LUNS: u16 = 600;

#[test]
fn a_broadcast_is_answered_for_every_lun() {
    let eal = Eal::start(&EalConfig {
        memory_mb: 64,
        huge_pages: HugePages::Never,
        ..EalConfig::default()
    });
    let eal = eal.expect("the EAL starts");
    let (a, b) = ring_pair(eal, "many", 16).expect("rings");
    let config = |port: u16| DeviceConfig {
        mtu: Some(1500),
        slots: 32,
        rx_desc: 16,
        tx_desc: 16,
        header_overflow: 0,
        full_overflow: 0,
        copy_only: true,
        ..DeviceConfig::new(format!("port:{port}"))
    };
    let iova = IovaMap::new(eal);
    let (_ours, ours) = open_one(eal, &config(a), &iova).expect("a port");
    let (_theirs, theirs) = open_one(eal, &config(b), &iova).expect("a port");
    let mut target = LabTarget::new(theirs);
    for i in 0..LUNS {
        let addr = ShelfSlot {
            shelf: i / 100,
            slot: (i % 100) as u8,
        };
        assert!(target.add(TargetConfig::new(addr), LabDisk::ram(512)));
        assert!(
            !target.add(TargetConfig::new(addr), LabDisk::ram(512)),
            "{addr} twice"
        );
    }
    let mut engine = Engine::new(
        Config {
            luns: LUNS,
            ..Config::default()
        },
        u64::MAX,
    )
    .expect("an engine");
    engine.add_port(ours, None).expect("a port");
    let clock = TscClock::new();
    let up = |engine: &Engine<_>| engine.luns().filter(|l| l.state == LunState::Up).count();
    while up(&engine) < usize::from(LUNS) {
        let now = clock.now();
        assert!(
            now.0 < 20_000_000_000,
            "{} of {LUNS} LUNs are up",
            up(&engine)
        );
        engine.turn(now);
        target.turn();
    }
    let stats = target.stats();
    assert!(
        stats.blocked_turns > 0,
        "nothing ever had to wait: {stats:?}"
    );
    let queries: Vec<u64> = target
        .luns()
        .iter()
        .map(|lun| lun.stats().queries)
        .collect();
    assert!(queries.iter().all(|&n| n == queries[0]), "{queries:?}");
    assert_eq!(engine.drops().total(), 0, "{:?}", engine.drops());
}
