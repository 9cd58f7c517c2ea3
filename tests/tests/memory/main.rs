//! Guest RAM and what devices reach: the pages RAM is made of, its mappings, and DMA from device to device.
//!
//! | Guest | RAM | Devices |
//! |---|---|---|
//! | [`guests::peers`] | 1 GiB in one page | edu, ivshmem of 16 GiB; they reach each other |
//! | [`guests::strangers`] | 256 MiB in pages of 2 MiB, around a reserved range | the same; they don't |
#![expect(
    clippy::unwrap_used,
    reason = "outside of test functions, too, a fact that is missing fails the test"
)]

mod guests;
mod limits;
mod page_sizes;
mod pages;
mod peers;
mod placement;
