//! Keys of QEMU's `-device vfio-pci`, in a line that somebody pastes.

use devices::host::Problem;

/// Keys of QEMU's vfio-pci, which a pasted line may have and which mean nothing here.
const QEMU_KEYS: [(&str, &str); 13] = [
    ("bus", "the guest has one bus; choose the slot with addr="),
    ("bootindex", "Ferry boots the kernel that --kernel names"),
    (
        "multifunction",
        "it follows from the functions given for one slot",
    ),
    ("rombar", "hide the expansion ROM with rom=off"),
    ("romfile", "name the file with rom=PATH"),
    ("sysfsdev", "name the device with host=BDF"),
    ("iommufd", "Ferry uses the VFIO container"),
    ("display", "Ferry has no display"),
    ("enable-migration", "Ferry does not migrate guests"),
    ("failover_pair_id", "Ferry does not migrate guests"),
    ("x-vga", "Ferry does not route legacy VGA accesses"),
    (
        "x-igd-opregion",
        "Ferry has no support for integrated graphics",
    ),
    ("xres", "Ferry has no display"),
];

/// Why a key of QEMU's has no use here.
pub(super) fn foreign(key: &str) -> Option<&'static str> {
    let listed = QEMU_KEYS.iter().find(|(qemu, _)| *qemu == key);
    listed
        .map(|(_, meaning)| *meaning)
        // QEMU's prefix for experiments and workarounds.
        .or_else(|| key.starts_with("x-").then_some("it tunes QEMU's own code"))
}

/// All of QEMU's keys in a pasted line at once, and the line without them.
pub(super) fn foreign_keys(what: &str, options: &str) -> Problem {
    let (mut kept, mut reasons) = (Vec::new(), Vec::new());
    for option in options.split(',') {
        let key = option.split('=').next().unwrap_or_default();
        match foreign(key) {
            Some(meaning) => reasons.push(format!("'{key}' ({meaning})")),
            None => kept.push(option),
        }
    }
    let are = match reasons.len() {
        1 => "is a key",
        _ => "are keys",
    };
    let why = format!("{} {are} of QEMU's without use here", reasons.join(", "));
    Problem::new(what, why, format!("write --device {}", kept.join(",")))
}
