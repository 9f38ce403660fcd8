//! Finds the system's libdpdk, generates the bindings and compiles the shim.
//!
//! Every way in which this can fail on a fresh machine ends in a message that names the Debian
//! package to install.

use std::path::PathBuf;

const MIN_DPDK: &str = "22.11";

fn main() {
    println!("cargo:rerun-if-changed=shim.h");
    println!("cargo:rerun-if-changed=shim.c");
    println!("cargo:rerun-if-env-changed=PKG_CONFIG_PATH");

    let dpdk = match pkg_config::Config::new()
        .atleast_version(MIN_DPDK)
        .cargo_metadata(false)
        .env_metadata(true)
        .probe("libdpdk")
    {
        Ok(lib) => lib,
        Err(pkg_config::Error::Command { command, .. }) => fail(&format!(
            "cannot run `{command}`: install it with `apt-get install pkg-config`"
        )),
        Err(e) => fail(&format!(
            "libdpdk >= {MIN_DPDK} was not found by pkg-config; install it with \
             `apt-get install libdpdk-dev dpdk`, or point PKG_CONFIG_PATH at the folder of your \
             own libdpdk.pc.\n\n{e}"
        )),
    };
    link(&dpdk);

    // libdpdk.pc's own flags (`-include rte_config.h -march=...`) belong to both compilers.
    let flags = cflags();
    generate(&flags);
    compile(&flags);
    println!("cargo:version={}", dpdk.version);
}

/// The driver libraries are plugins that the EAL opens by itself, so only what is called from
/// here is linked. pkg-config's own `--as-needed` is left out: it would drop a PMD that a
/// user's libdpdk.pc lists on purpose.
fn link(dpdk: &pkg_config::Library) {
    for path in &dpdk.link_paths {
        println!("cargo:rustc-link-search=native={}", path.display());
    }
    for lib in [
        "eal", "mempool", "mbuf", "ethdev", "net_ring", "ring", "bus_vdev", "log",
    ] {
        let name = format!("rte_{lib}");
        // `rte_log` is a library of its own only from 23.11 on; drivers are never listed, and the
        // ring driver is called by name.
        if lib == "net_ring" || dpdk.libs.contains(&name) {
            println!("cargo:rustc-link-lib=dylib={name}");
        }
    }
}

fn cflags() -> Vec<String> {
    let out = std::process::Command::new("pkg-config")
        .args(["--cflags", "libdpdk"])
        .output()
        .unwrap_or_else(|e| fail(&format!("cannot run pkg-config: {e}")));
    String::from_utf8_lossy(&out.stdout)
        .split_whitespace()
        .map(str::to_owned)
        .collect()
}

fn generate(flags: &[String]) {
    if let Err(e) = probe_libclang() {
        fail(&format!(
            "bindgen needs libclang: install it with `apt-get install libclang-dev clang`, or set \
             LIBCLANG_PATH.\n\n{e}"
        ));
    }
    let bindings = bindgen::Builder::default()
        .header("shim.h")
        .clang_args(flags)
        .allowlist_function("rte_(eal|eth|dev|mempool|pktmbuf|mbuf|ring|malloc|thread|mem|memzone|lcore|log|vdev|version|extmem|strerror|socket|openlog).*")
        .allowlist_function("rte_(malloc|zmalloc|free|exit|strerror|get_tsc_hz|version)")
        .allowlist_function("aoe_.*")
        .allowlist_var("AOE_.*")
        .allowlist_var("RTE_(MAX_ETHPORTS|PKTMBUF_HEADROOM|MAX_LCORE|MEMPOOL_CACHE_MAX_SIZE|ETHER_.*)")
        .allowlist_var("rte_eth_fp_ops")
        .allowlist_type("rte_mbuf|rte_mbuf_ext_shared_info|rte_mempool|rte_eth_conf|rte_eth_dev_info|rte_eth_stats|rte_eth_link|rte_iova_mode")
        // Types that no call of ours looks into: opaque keeps the bindings small and free of
        // over-aligned packed structs that Rust cannot express.
        .opaque_type("rte_(flow|mtr|tm|security|crypto|ether_hdr|arp|ipv4|ipv6|l2tpv2).*")
        .blocklist_function("rte_eth_(dev_get_sec_ctx|speed_lanes.*)")
        .derive_default(true)
        .layout_tests(false)
        .generate_comments(false)
        .generate()
        .unwrap_or_else(|e| fail(&format!("bindgen cannot read DPDK's headers: {e}")));
    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    bindings
        .write_to_file(out.join("bindings.rs"))
        .unwrap_or_else(|e| fail(&format!("cannot write the bindings: {e}")));
}

/// bindgen panics when libclang is missing; asking first turns that into a sentence.
fn probe_libclang() -> Result<(), String> {
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let found = std::panic::catch_unwind(bindgen::clang_version);
    std::panic::set_hook(hook);
    match found {
        Ok(_) => Ok(()),
        Err(e) => Err(e
            .downcast_ref::<String>()
            .cloned()
            .unwrap_or_else(|| "libclang could not be loaded".to_owned())),
    }
}

fn compile(flags: &[String]) {
    let mut build = cc::Build::new();
    build.file("shim.c").warnings(true).opt_level(3);
    for flag in flags {
        build.flag(flag);
    }
    if std::env::var_os("CARGO_FEATURE_MBUF_DEBUG").is_some() {
        // Turns on the checks inside DPDK's inline mbuf functions. It changes no structure.
        build.define("RTE_LIBRTE_MBUF_DEBUG", "1");
    }
    if let Err(e) = build.try_compile("aoe_dpdk_shim") {
        fail(&format!(
            "the C shim does not compile: {e}\n(`apt-get install gcc libc6-dev`?)"
        ));
    }
}

fn fail(message: &str) -> ! {
    eprintln!("\ndpdk-sys: {message}\n");
    std::process::exit(1)
}
