//! Looks for SPDK. Without it the crate still builds, and says why it is empty.

fn main() {
    println!("cargo:rerun-if-env-changed=PKG_CONFIG_PATH");
    println!("cargo:rustc-check-cfg=cfg(spdk)");
    let found = pkg_config::Config::new()
        .cargo_metadata(false)
        .probe("spdk_bdev");
    let status = match found {
        Ok(lib) => {
            println!("cargo:rustc-cfg=spdk");
            format!("SPDK {} is installed", lib.version)
        }
        Err(_) => "SPDK not found: pkg-config knows no spdk_bdev. Build SPDK with --with-shared \
                   and --with-dpdk, install it, and point PKG_CONFIG_PATH at its spdk_bdev.pc"
            .to_owned(),
    };
    println!("cargo:rustc-env=SPDK_STATUS={status}");
}
