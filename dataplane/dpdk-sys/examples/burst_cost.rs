//! What a receive and an empty transmit burst cost: called in Rust over `rte_eth_fp_ops`, and
//! called through the C shim. `cargo run --release -p dpdk-sys --example burst_cost`

use dpdk_sys as dpdk;
use std::ffi::CString;

const PAIRS: u32 = 2_000_000;

fn main() {
    let args = [
        "burst_cost",
        "-l",
        "0",
        "--no-huge",
        "-m",
        "64",
        "--no-shconf",
        "--no-pci",
    ];
    let args = [
        &args[..],
        &["--no-telemetry", "--vdev=net_null0", "--log-level=error"],
    ]
    .concat();
    let owned: Vec<_> = args
        .iter()
        .map(|a| CString::new(*a).expect("no zero byte"))
        .collect();
    let mut argv: Vec<_> = owned.iter().map(|a| a.as_ptr().cast_mut()).collect();
    // SAFETY: the only EAL of this process, started once; the port is set up before it is used, by
    // this thread alone.
    unsafe {
        assert!(
            dpdk::rte_eal_init(argv.len() as i32, argv.as_mut_ptr()) >= 0,
            "no EAL"
        );
        set_up();
        let mut rounds: Vec<_> = (0..9).map(|_| (over_ops(), over_shim())).collect();
        rounds.sort_unstable();
        println!(
            "cycles for an rx and a tx burst of nothing, median of {}:",
            rounds.len()
        );
        println!("  Rust over rte_eth_fp_ops  {}", rounds[rounds.len() / 2].0);
        rounds.sort_unstable_by_key(|r| r.1);
        println!("  C shim                    {}", rounds[rounds.len() / 2].1);
    }
}

/// # Safety
/// The EAL is up, and port 0 is a `net_null` device that was never set up.
unsafe fn set_up() {
    // SAFETY: as the caller says; zeroes are a valid configuration.
    unsafe {
        let pool = dpdk::rte_pktmbuf_pool_create(c"pool".as_ptr(), 511, 0, 0, 2176, -1);
        let conf = std::mem::zeroed::<dpdk::rte_eth_conf>();
        assert_eq!(dpdk::rte_eth_dev_configure(0, 1, 1, &raw const conf), 0);
        assert_eq!(
            dpdk::rte_eth_tx_queue_setup(0, 0, 64, 0, std::ptr::null()),
            0
        );
        assert_eq!(
            dpdk::rte_eth_rx_queue_setup(0, 0, 64, 0, std::ptr::null(), pool),
            0
        );
        assert_eq!(dpdk::rte_eth_dev_start(0), 0);
    }
}

/// # Safety
/// Port 0 is started.
unsafe fn over_ops() -> u64 {
    // SAFETY: as the caller says; bursts of nothing move no mbuf.
    unsafe {
        let start = dpdk::aoe_rdtsc();
        for _ in 0..PAIRS {
            std::hint::black_box(dpdk::rx_burst(0, 0, &mut []));
            std::hint::black_box(dpdk::tx_burst(0, 0, &mut []));
        }
        (dpdk::aoe_rdtsc() - start) / u64::from(PAIRS)
    }
}

/// # Safety
/// Port 0 is started.
unsafe fn over_shim() -> u64 {
    // SAFETY: as the caller says; bursts of nothing move no mbuf.
    unsafe {
        // As in an empty slice: net_null returns at once for a null pointer.
        let none = std::ptr::dangling_mut();
        let start = dpdk::aoe_rdtsc();
        for _ in 0..PAIRS {
            std::hint::black_box(dpdk::aoe_eth_rx_burst(0, 0, none, 0));
            std::hint::black_box(dpdk::aoe_eth_tx_burst(0, 0, none, 0));
        }
        (dpdk::aoe_rdtsc() - start) / u64::from(PAIRS)
    }
}
