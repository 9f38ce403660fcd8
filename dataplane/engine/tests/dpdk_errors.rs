//! What cannot be opened, and how the errors say so.

mod nic;
mod wire;

use aoe_engine::dpdk::{Device, DeviceConfig, DmaBuffer, DpdkError, Eal, EalConfig, IovaMap};
use wire::{device, eal};

fn error(eal: Eal, config: &DeviceConfig) -> DpdkError {
    let map = IovaMap::new(eal);
    Device::open(eal, config, &map)
        .map(|_| ())
        .expect_err(&config.device)
}

fn pair(eal: Eal, name: &str) -> (u16, u16) {
    aoe_engine::dpdk::ring_pair(eal, name, 64).unwrap()
}

#[test]
fn devices_that_are_not_there() {
    let Some((eal, _one)) = eal() else { return };
    for name in [
        "net_nonsense0",
        "port:99",
        "port:",
        "port:x",
        "port:70000",
        "port:-1",
        "",
        ",",
        "net_null0\0",
        "complete nonsense, with=arguments",
        "0000:ff:1f.7",
        "net_null0,nonsense=1",
    ] {
        let e = error(eal, &DeviceConfig::new(name));
        let DpdkError::NoDevice { device, reason } = &e else {
            panic!("{name:?}: {e:?}")
        };
        assert_eq!(device, name);
        assert!(!reason.is_empty());
        assert!(e.to_string().contains(&format!("{name:?}")), "{e}");
    }
}

#[test]
fn interfaces_that_are_not_there() {
    let Some((eal, _one)) = eal() else { return };
    for device in [
        "net_af_packet0,iface=nope0",
        "net_af_packet0,framesz=9216,iface=nope0",
    ] {
        let e = error(eal, &DeviceConfig::new(device));
        assert!(
            matches!(&e, DpdkError::NoInterface { iface, .. } if iface == "nope0"),
            "{e:?}"
        );
        let text = e.to_string();
        assert!(
            text.contains(&format!("{device:?}")) && text.contains("\"nope0\""),
            "{text}"
        );
    }
    let e = error(eal, &DeviceConfig::new("net_af_packet0,iface="));
    assert!(matches!(e, DpdkError::NoInterface { .. }), "{e:?}");
}

fn unfit(eal: Eal, config: &DeviceConfig, says: &[&str]) {
    let e = error(eal, config);
    assert!(matches!(e, DpdkError::Unfit { .. }), "{e:?}");
    let text = e.to_string();
    let named = says.iter().all(|part| text.contains(part));
    assert!(named && text.contains(&config.device), "{text}");
}

#[test]
fn settings_that_do_not_fit() {
    let Some((eal, _one)) = eal() else { return };
    let (a, _) = pair(eal, "unfit");
    let ok = device(a);
    for mtu in [0, 1, 533] {
        unfit(
            eal,
            &DeviceConfig {
                mtu: Some(mtu),
                ..ok.clone()
            },
            &[&mtu.to_string(), "534"],
        );
    }
    for mtu in [9217, 65_535, u32::MAX] {
        unfit(
            eal,
            &DeviceConfig {
                mtu: Some(mtu),
                ..ok.clone()
            },
            &[&mtu.to_string(), "9216"],
        );
    }
    unfit(
        eal,
        &DeviceConfig {
            queues: 0,
            ..ok.clone()
        },
        &["0 queue pairs"],
    );
    unfit(
        eal,
        &DeviceConfig {
            queues: 2,
            ..ok.clone()
        },
        &["2 queue pairs", "has 1"],
    );
    // Nothing of this has hurt it; closed, it is gone.
    let (b, _) = pair(eal, "fit");
    for (port, mtu) in [(a, 534), (b, 9216)] {
        let config = DeviceConfig {
            mtu: Some(mtu),
            ..device(port)
        };
        let (opened, ports) = Device::open(eal, &config, &IovaMap::new(eal)).unwrap();
        assert_eq!(
            (opened.info.mtu, ports.len(), opened.driver.as_str()),
            (mtu, 1, "net_ring")
        );
        drop((opened, ports));
        assert!(matches!(error(eal, &config), DpdkError::NoDevice { .. }));
    }
}

/// Far too many queues are far too many, whatever memory they would need.
#[test]
fn far_too_many_queues() {
    let Some((eal, _one)) = eal() else { return };
    let (a, _) = pair(eal, "queues");
    unfit(
        eal,
        &DeviceConfig {
            queues: 1000,
            ..device(a)
        },
        &["1000 queue pairs", "has 1"],
    );
}

#[test]
fn too_little_memory_for_the_pools() {
    let Some((eal, _one)) = eal() else { return };
    let (a, _) = pair(eal, "memory");
    let config = DeviceConfig {
        slots: 1 << 20,
        ..device(a)
    };
    let e = error(eal, &config);
    let DpdkError::Memory { need, .. } = &e else {
        panic!("{e:?}")
    };
    let (need, text) = (need.total_mib(), e.to_string());
    assert!(
        need > 256 && text.contains(&format!("{need} MiB")),
        "{text}"
    );
    for part in [
        "header frames",
        "payload mbufs",
        "full frames",
        "receive mbufs",
        "slots 1048576",
        "transmit ring 64",
        "burst 32",
        "overflow cap 16",
        "resends and copies 64",
        "receive ring 128",
        "eal.memory_mb",
    ] {
        assert!(text.contains(part), "{part:?} is not in:\n{text}");
    }
    // It is still there for one that fits.
    let map = IovaMap::new(eal);
    assert!(Device::open(eal, &device(a), &map).is_ok());
}

/// Sizes that no machine has are an error, not an overflow.
#[test]
fn absurd_sizes_are_an_error() {
    let Some((eal, _one)) = eal() else { return };
    let (a, _) = pair(eal, "absurd");
    for config in [
        DeviceConfig {
            slots: u32::MAX,
            ..device(a)
        },
        DeviceConfig {
            header_overflow: u32::MAX,
            ..device(a)
        },
        DeviceConfig {
            slots: 1 << 24,
            queues: 300,
            ..device(a)
        },
    ] {
        let opened = std::panic::catch_unwind(|| error(eal, &config));
        assert!(matches!(
            opened,
            Ok(DpdkError::Memory { .. } | DpdkError::Unfit { .. })
        ));
    }
}

/// A device that is in use cannot be opened again, and goes on.
#[test]
fn a_device_is_opened_once() {
    let Some((eal, _one)) = eal() else { return };
    let mut w = wire::Wire::new(eal, "once", wire::SEC, |_| {});
    let port = w.engine.port(0).unwrap().port_id();
    let e = error(eal, &device(port));
    assert!(matches!(e, DpdkError::Device { .. }), "{e:?}");
    w.engine.rescan();
    let before = w.engine.counters().matched;
    w.run(wire::SEC);
    assert!(w.engine.counters().matched > before, "it still works");
    w.finish();
}

/// A virtual device that was closed can be opened again by its name.
#[test]
fn a_device_can_be_opened_again_after_it_was_closed() {
    let Some((eal, _one)) = eal() else { return };
    let map = IovaMap::new(eal);
    let config = DeviceConfig {
        device: "net_null7".into(),
        ..device(0)
    };
    for round in 0..3 {
        let opened = Device::open(eal, &config, &map);
        assert!(opened.is_ok(), "round {round}: {}", opened.unwrap_err());
    }
}

#[test]
fn one_eal_in_a_process() {
    let Some((eal, _one)) = eal() else { return };
    let e = Eal::start(&EalConfig::default()).unwrap_err();
    assert!(matches!(e, DpdkError::EalTwice), "{e:?}");
    assert!(e.to_string().contains("attach"));
    assert!(Eal::attach().is_ok());
    assert!(!eal.version().is_empty() && !eal.has_hugepages());
    let thread = std::thread::spawn(move || eal.register_thread());
    assert!(thread.join().unwrap().is_ok());
}

#[test]
fn a_buffer_that_is_too_large() {
    let Some((eal, _one)) = eal() else { return };
    let e = DmaBuffer::new(eal, 1 << 40, "everything")
        .map(|_| ())
        .unwrap_err();
    assert!(matches!(e, DpdkError::Buffer { .. }));
    assert!(
        e.to_string().contains("everything") && e.to_string().contains("memory_mb"),
        "{e}"
    );
    let buffer = DmaBuffer::new(eal, 5000, "a test").unwrap();
    assert_eq!((buffer.len(), buffer.is_empty()), (8192, false));
    assert!(buffer.as_slice().iter().all(|&b| b == 0));
}
