//! ACPI.
use thiserror::Error;

use super::boot::GuestBlob;
use crate::platform::PlatformDescription;

/// Tables ready to be written into guest memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AcpiTables {
    /// Address of the RSDP.
    pub rsdp: u64,
    /// RSDP and tables.
    pub blobs: Vec<GuestBlob>,
}

/// Why a platform can't be described.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum AcpiError {
    /// x
    #[error("x")]
    X,
}

/// x
///
/// # Errors
/// x
pub fn build(platform: &PlatformDescription) -> Result<AcpiTables, AcpiError> {
    let _ = platform;
    todo!()
}
