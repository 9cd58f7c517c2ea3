//! Kernel files, and what they are told.

use crate::guests::{large, many, older, small};

/// `type_of_loader` as the kernel sets it when it was entered by PVH under a hypervisor that is not Xen
/// (arch/x86/platform/pvh/enlighten.c): a type of its own, 0xb, in the upper half.
const PVH_LOADER: u32 = 0xb0;

#[test]
fn bzimage_of_6_12_boots() {
    assert!(small().release.starts_with("6.12."), "{}", small().release);
    assert_ne!(small().loader, PVH_LOADER);
}

#[test]
fn bzimage_of_6_1_boots() {
    assert!(older().release.starts_with("6.1."), "{}", older().release);
    assert_ne!(older().loader, PVH_LOADER);
}

#[test]
fn elf_vmlinux_is_entered_by_pvh() {
    assert!(many().release.starts_with("6.12."), "{}", many().release);
    assert_eq!(many().loader, PVH_LOADER);
}

#[test]
fn kaslr_moves_the_kernel_from_boot_to_boot() {
    let kernels = [small(), large(), older()];
    for answers in kernels {
        assert!(!answers.cmdline.contains("nokaslr"), "{}", answers.cmdline);
    }
    // Two of them may meet: there are some 500 places.
    let places = kernels.map(|answers| answers.text);
    assert!(
        places.iter().any(|place| *place != places[0]),
        "{places:#x?}"
    );
    // An ELF file lies where it was linked: this shows that the addresses tell something.
    assert_eq!(many().text, 0xffff_ffff_8100_0000);
}

#[test]
fn command_line_reaches_the_kernel() {
    let line = "console=ttyS0 panic=-1 quiet mtrr=debug";
    assert_eq!(small().cmdline.trim_end(), line);
}
