//! Crate.
pub mod nbd;
