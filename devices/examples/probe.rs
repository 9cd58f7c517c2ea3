//! Prints what VFIO tells of a device that is bound to vfio-pci, in the form of the saved probes that the tests of
//! `devices::vfio` plan for: `cargo run -p devices --example probe -- 0000:01:00.0`. Nothing of it is secret but serial
//! numbers that a device keeps in its configuration space.

use devices::vfio::{OpenedDevice, PassedDescriptors, VfioContext, VfioProbe};
use std::error::Error;
use std::path::Path;

fn main() -> Result<(), Box<dyn Error>> {
    let address = std::env::args()
        .nth(1)
        .ok_or("which device? Give its address, e.g. 0000:01:00.0")?;
    let context = VfioContext::new(None, false, PassedDescriptors::default())?;
    let device = OpenedDevice::open(
        Path::new("/sys/bus/pci/devices"),
        address.parse()?,
        &context,
    )?;
    print!("{}", VfioProbe::read(&device)?);
    Ok(())
}
