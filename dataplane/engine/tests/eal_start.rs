//! An EAL that does not start. In a process of its own, since there is one for each.

use aoe_engine::dpdk::{DpdkError, Eal, EalConfig, HugePages};

#[test]
fn a_failed_start_is_not_a_start() {
    assert!(matches!(Eal::attach(), Err(DpdkError::NoEal)));
    let good = EalConfig {
        huge_pages: HugePages::Never,
        memory_mb: 64,
        log_level: "critical".into(),
        ..EalConfig::default()
    };
    let bad = EalConfig {
        extra: vec!["--no-such-option".into()],
        ..good.clone()
    };
    let e = Eal::start(&bad).unwrap_err();
    assert!(matches!(e, DpdkError::Eal { .. }), "{e:?}");
    assert!(e.to_string().contains("--no-such-option"), "{e}");
    assert!(
        matches!(Eal::attach(), Err(DpdkError::NoEal)),
        "nothing is up to attach to"
    );
    let again = Eal::start(&good);
    assert!(!matches!(again, Err(DpdkError::EalTwice)), "{again:?}");
}
