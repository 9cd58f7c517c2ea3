//! The one guest: it is asked, resets a device, reboots, and is asked again.

use crate::bridge::{self, Neighbour};
use crate::resets::{Kept, Marked};
use crate::rom::{self, Image, Roms};
use std::sync::LazyLock;
use tests::site::{self, Kernel};
use tests::{Guest, Run};

/// Where the devices are in the guest.
pub(crate) const VGA: &str = "0000:00:01.0";
pub(crate) const E1000: &str = "0000:00:02.0";
pub(crate) const RTL8139: &str = "0000:00:03.0";
pub(crate) const IGB: &str = "0000:00:04.0";
pub(crate) const CONVENTIONAL: &str = "0000:00:05.0";

/// What was found out.
pub(crate) struct Answers {
    pub(crate) roms: Roms,
    pub(crate) kept: Kept,
    pub(crate) neighbour: Neighbour,
    /// What Ferry said while the guest rebooted.
    pub(crate) warnings: String,
}

static ANSWERS: LazyLock<Answers> = LazyLock::new(|| {
    let conventional = site::devices("conventional");
    let roles = ["vga", "e1000", "rtl8139", "nic"].map(site::device);
    // Before VFIO has them.
    let of_host = [&roles[0], &conventional[0]].map(rom::of_host);
    let [vga, e1000, rtl8139, igb] = roles.map(|device| device.assign());
    let [given, left] = [0, 1].map(|index: usize| conventional[index].assign());
    let image = Image::make();
    let mut guest = Run::new(Kernel::Elf)
        .memory("256M")
        .cmdline("iomem=relaxed")
        .device(&vga, ",addr=1")
        .device(&e1000, &format!(",addr=2,rom={}", image.path().display()))
        .device(&rtl8139, ",addr=3,rom=off")
        .device(&igb, ",addr=4")
        .device(&given, ",addr=5")
        .boot();
    let roms = rom::look(&mut guest, of_host, &image);
    let neighbour = bridge::look(&mut guest, &given, &left);
    let marked = Marked::all(&mut guest);
    let said = guest.ferry().errors().len();
    reboot(&mut guest);
    let kept = marked.look_again(&mut guest);
    let warnings = guest.ferry().errors().since(said);
    guest.stop();
    Answers {
        roms,
        kept,
        neighbour: neighbour.after(&left),
        warnings,
    }
});

fn reboot(guest: &mut Guest) {
    guest.begin("reboot -f");
    guest.wait_for_shell();
}

/// What was found out.
pub(crate) fn answers() -> &'static Answers {
    &ANSWERS
}
