//! AoE LUNs as SPDK bdevs. There is no bdev module here yet: the crate finds out whether SPDK is
//! installed, and says so.

/// Whether this build found SPDK, and what to do if it did not.
pub const STATUS: &str = env!("SPDK_STATUS");

/// Whether this build found SPDK.
pub const FOUND: bool = cfg!(spdk);

#[cfg(test)]
mod tests {
    #[test]
    fn says_whether_spdk_is_there() {
        println!("{}", super::STATUS);
        assert_eq!(super::FOUND, super::STATUS.ends_with("is installed"));
    }
}
