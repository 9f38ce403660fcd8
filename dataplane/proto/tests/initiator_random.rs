//! Random I/O, faults and times: each I/O completes once, no data is wrong, nothing is left behind.
//!
//! Requests reach a target in the order of sending, so that the outcome of a write can be told;
//! answers are reordered.

mod harness;

use aoe_proto::initiator::{self, Config, IoError, LunId, LunState, Op, PacingLimits, SubmitError};
use harness::*;
use proptest::collection::vec;
use proptest::prelude::*;

const SECTORS: u64 = 400;

#[derive(Clone, Copy, Debug)]
enum Step {
    Submit {
        lun: usize,
        op: Op,
        lba: u64,
        sectors: u32,
    },
    Run {
        us: u64,
    },
    Wire {
        loss: u64,
        double: u64,
        delay_ms: u64,
    },
    Alive {
        host: usize,
        alive: bool,
    },
    Stuck(bool),
    Blocked(bool),
    MaxSectors {
        host: usize,
        max: u8,
    },
    BufferCount {
        host: usize,
        count: u16,
    },
    Abort {
        lun: usize,
    },
    Pause {
        ms: u64,
    },
    Rescan,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![4 => Just(Op::Read), 4 => Just(Op::Write), 1 => Just(Op::Flush), 1 => Just(Op::Trim)]
}

fn step() -> impl Strategy<Value = Step> {
    let submit = (0..2_usize, op(), 0..SECTORS, 1..80_u32).prop_map(|(lun, op, lba, sectors)| {
        Step::Submit {
            lun,
            op,
            lba,
            sectors,
        }
    });
    prop_oneof![
        30 => submit,
        6 => (50..3_000_u64).prop_map(|us| Step::Run { us }),
        6 => (1..300_u64).prop_map(|ms| Step::Run { us: ms * 1_000 }),
        4 => (0..40_u64, 0..40_u64, 0..6_u64)
            .prop_map(|(loss, double, delay_ms)| Step::Wire { loss, double, delay_ms }),
        2 => (0..2_usize, any::<bool>()).prop_map(|(host, alive)| Step::Alive { host, alive }),
        2 => any::<bool>().prop_map(Step::Stuck),
        1 => any::<bool>().prop_map(Step::Blocked),
        2 => (0..2_usize, 0..18_u8).prop_map(|(host, max)| Step::MaxSectors { host, max }),
        1 => (0..2_usize, 0..40_u16).prop_map(|(host, count)| Step::BufferCount { host, count }),
        1 => (0..2_usize).prop_map(|lun| Step::Abort { lun }),
        1 => (1..2_000_u64).prop_map(|ms| Step::Pause { ms }),
        1 => Just(Step::Rescan),
    ]
}

fn make(seed: u64, mtu: u32, slots: u32, zero_copy: bool) -> (Sim, [LunId; 2]) {
    let pacing = PacingLimits {
        rto_min_ns: 20 * MS,
        rto_max_ns: 100 * MS,
        rto_initial_ns: 50 * MS,
    };
    let config = Config {
        slots,
        ios: 24,
        luns: 4,
        loss_timeout_ns: 700 * MS,
        probe_interval_ns: 100 * MS,
        discovery_interval_ns: 500 * SEC,
        frame_lifetime_ns: 100 * MS,
        pacing,
        seed,
        ..config()
    };
    let mut sim = Sim::with_ports(config, &[mtu]);
    sim.zero_copy = zero_copy;
    sim.add_target(at(1, 0), SECTORS);
    sim.add_target(at(1, 1), SECTORS);
    let luns = [sim.up(at(1, 0)), sim.up(at(1, 1))];
    (sim, luns)
}

fn submit(sim: &mut Sim, lun: LunId, op: Op, lba: u64, sectors: u32) {
    let wanted = Pending::new(lun, op, lba, sectors, 0, aoe_proto::initiator::IoId(0));
    if Model::conflicts(&wanted, &sim.pending) {
        return;
    }
    match sim.submit(lun, op, lba, sectors) {
        Ok(_) | Err(SubmitError::Busy | SubmitError::NotReady) => {}
        Err(SubmitError::OutOfRange { .. }) => assert!(lba + u64::from(sectors) > SECTORS),
        Err(other) => panic!("{other}"),
    }
}

fn set_wire(sim: &mut Sim, seed: u64, loss: u64, double: u64, delay_ms: u64) {
    let mut random = Random(seed);
    sim.on_wire(move |way, _| match way {
        _ if random.chance(loss) => Fate::Drop,
        _ if random.chance(double) => Fate::Twice(0),
        Way::ToInitiator if delay_ms > 0 => Fate::Delay(random.below(delay_ms * MS)),
        _ => Fate::Pass,
    });
}

fn run(sim: &mut Sim, luns: [LunId; 2], seed: u64, step: Step) {
    match step {
        Step::Submit {
            lun,
            op,
            lba,
            sectors,
        } => submit(sim, luns[lun], op, lba, sectors),
        Step::Run { us } => sim.run(us * US),
        Step::Wire {
            loss,
            double,
            delay_ms,
        } => set_wire(sim, seed, loss, double, delay_ms),
        Step::Alive { host, alive } => sim.hosts[host].alive = alive,
        Step::Stuck(stuck) => sim.stuck[0] = stuck,
        Step::Blocked(blocked) => sim.init.set_blocked(
            0,
            if blocked {
                initiator::Blocked::All
            } else {
                initiator::Blocked::Nothing
            },
        ),
        Step::MaxSectors { host, max } => {
            let fits = (sim.ports[0].mtu - 22) / 512;
            sim.target_config(host).max_sectors = max.min(fits as u8).max(1);
        }
        Step::BufferCount { host, count } => sim.target_config(host).buffer_count = count,
        Step::Abort { lun } => {
            sim.init.fail_all(luns[lun], IoError::Aborted);
            sim.turn_at_once();
        }
        Step::Pause { ms } => sim.now += ms * MS,
        Step::Rescan => sim.init.rescan(),
    }
}

/// After all faults are gone, everything completes, both LUNs are up and hold what they should.
fn heal_and_check(sim: &mut Sim, luns: [LunId; 2]) {
    sim.no_faults();
    sim.stuck[0] = false;
    sim.init.set_blocked(0, initiator::Blocked::Nothing);
    for host in &mut sim.hosts {
        host.alive = true;
    }
    sim.run_until(60 * SEC, |sim| sim.pending.is_empty());
    sim.run_until(60 * SEC, |sim| {
        sim.init.luns().all(|lun| lun.state == LunState::Up)
    });
    sim.finish();
    for lun in luns {
        let user = sim.read(lun, 0, SECTORS as u32);
        assert_eq!(sim.wait(user), Ok(()));
    }
    sim.finish();
    let stats: u64 = luns
        .map(|lun| sim.init.lun(lun).unwrap().stats)
        .iter()
        .map(|stats| stats.completed + stats.failed)
        .sum();
    assert_eq!(stats, sim.results.len() as u64);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 250, failure_persistence: None, ..Default::default() })]

    #[test]
    fn each_io_completes_once_with_the_right_data(
        seed: u64,
        mtu in prop_oneof![Just(1500_u32), Just(9000)],
        slots in 32..80_u32,
        zero_copy: bool,
        steps in vec(step(), 10..200),
    ) {
        let (mut sim, luns) = make(seed, mtu, slots, zero_copy);
        for (i, step) in steps.into_iter().enumerate() {
            run(&mut sim, luns, seed ^ i as u64, step);
        }
        heal_and_check(&mut sim, luns);
    }
}
