//! The registers the boot CPU enters the kernel with (Linux Documentation/arch/x86/boot.rst "64-bit Boot Protocol",
//! Xen docs/misc/pvh.pandoc; descriptors in Intel SDM volume 3, 3.4.5).

use kvm_bindings::{kvm_dtable, kvm_fpu, kvm_lapic_state, kvm_regs, kvm_segment, kvm_sregs};

use super::layout;

/// How the boot CPU enters the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntryPoint {
    /// The 64-bit entry of the Linux boot protocol.
    Linux64 {
        /// First instruction: [`super::boot::BZIMAGE_ENTRY_OFFSET`] into a bzImage, the entry of an ELF kernel.
        rip: u64,
        /// Address of the zero page.
        zero_page: u64,
    },
    /// The PVH entry: 32-bit protected mode, paging off.
    Pvh {
        /// First instruction, from the kernel's PVH note.
        rip: u64,
        /// Address of the `hvm_start_info`.
        start_info: u64,
    },
}

const RFLAGS_RESERVED_ONE: u64 = 1 << 1;
const CR0_PROTECTION_ENABLE: u64 = 1 << 0;
const CR0_EXTENSION_TYPE: u64 = 1 << 4;
const CR0_PAGING: u64 = 1 << 31;
const CR4_PHYSICAL_ADDRESS_EXTENSION: u64 = 1 << 5;
const EFER_LONG_MODE_ENABLE: u64 = 1 << 8;
const EFER_LONG_MODE_ACTIVE: u64 = 1 << 10;

/// `__BOOT_CS` and `__BOOT_DS`, which the boot protocol prescribes.
const BOOT_CODE_SELECTOR: u16 = 0x10;
const BOOT_DATA_SELECTOR: u16 = 0x18;
/// Segment types: code, execute/read, accessed; data, read/write, accessed; busy TSS.
const SEGMENT_CODE: u8 = 0xB;
const SEGMENT_DATA: u8 = 0x3;
const SEGMENT_BUSY_TSS: u8 = 0xB;
const TSS_LIMIT: u32 = 0x67;

/// Number of descriptors in the boot GDT, the null descriptors included.
const GDT_ENTRIES: usize = 4;
/// The IDT is one empty gate: an exception before the kernel has its own IDT is a triple fault, and shows as one.
pub(super) const IDT_BYTES: u16 = 8;

/// x87 control word and MXCSR as the processor resets them.
const FPU_CONTROL_WORD: u16 = 0x37F;
const FPU_MXCSR: u32 = 0x1F80;

/// General-purpose registers of the boot CPU.
#[must_use]
pub fn boot_regs(entry: &EntryPoint) -> kvm_regs {
    let common = kvm_regs {
        rflags: RFLAGS_RESERVED_ONE,
        ..Default::default()
    };
    match *entry {
        EntryPoint::Linux64 { rip, zero_page } => kvm_regs {
            rip,
            rsi: zero_page,
            rsp: layout::BOOT_STACK_POINTER,
            rbp: layout::BOOT_STACK_POINTER,
            ..common
        },
        EntryPoint::Pvh { rip, start_info } => kvm_regs {
            rip,
            rbx: start_info,
            ..common
        },
    }
}

/// System registers of the boot CPU; `initial` is what KVM gave a new vCPU, of which the APIC base survives.
///
/// Linux64 starts in long mode on the identity map, PVH in flat 32-bit protected mode without paging. The caches are
/// on (CR0.CD and NW clear) either way.
#[must_use]
pub fn boot_sregs(initial: kvm_sregs, entry: &EntryPoint) -> kvm_sregs {
    let data = data_segment();
    let flat = kvm_sregs {
        cs: code_segment(entry),
        ds: data,
        es: data,
        fs: data,
        gs: data,
        ss: data,
        tr: task_segment(),
        gdt: table(layout::GDT_ADDRESS, gdt_limit()),
        idt: table(layout::IDT_ADDRESS, IDT_BYTES - 1),
        cr0: CR0_PROTECTION_ENABLE | CR0_EXTENSION_TYPE,
        cr3: 0,
        cr4: 0,
        efer: 0,
        ..initial
    };
    match entry {
        EntryPoint::Pvh { .. } => flat,
        EntryPoint::Linux64 { .. } => kvm_sregs {
            cr0: flat.cr0 | CR0_PAGING,
            cr3: layout::PML4_ADDRESS,
            cr4: CR4_PHYSICAL_ADDRESS_EXTENSION,
            efer: EFER_LONG_MODE_ENABLE | EFER_LONG_MODE_ACTIVE,
            ..flat
        },
    }
}

/// FPU state as the processor resets it.
#[must_use]
pub fn boot_fpu() -> kvm_fpu {
    kvm_fpu {
        fcw: FPU_CONTROL_WORD,
        mxcsr: FPU_MXCSR,
        ..Default::default()
    }
}

/// Wires the local interrupt pins as the MADT says: LINT0 is ExtINT, LINT1 is NMI.
///
/// LINT0 is masked. Under hardware-reduced ACPI the guest never programs the PIC, whose vector base is 0; its output
/// would reach the CPU as exceptions.
#[must_use]
pub fn lapic_with_lint(mut lapic: kvm_lapic_state) -> kvm_lapic_state {
    set_local_vector(
        &mut lapic,
        LAPIC_LVT_LINT0,
        LVT_DELIVERY_EXTINT | LVT_MASKED,
    );
    set_local_vector(&mut lapic, LAPIC_LVT_LINT1, LVT_DELIVERY_NMI);
    lapic
}

/// The GDT that [`boot_sregs`] points at, as it lies in memory.
pub(super) fn gdt_bytes(entry_is_64_bit: bool) -> Vec<u8> {
    let code = flat_code_segment(entry_is_64_bit);
    let table: [u64; GDT_ENTRIES] = [0, 0, descriptor(&code), descriptor(&data_segment())];
    table.into_iter().flat_map(u64::to_le_bytes).collect()
}

/// Offsets of the local vector table in the APIC page.
const LAPIC_LVT_LINT0: usize = 0x350;
const LAPIC_LVT_LINT1: usize = 0x360;
const LVT_DELIVERY_NMI: u32 = 4 << 8;
const LVT_DELIVERY_EXTINT: u32 = 7 << 8;
const LVT_MASKED: u32 = 1 << 16;

fn set_local_vector(lapic: &mut kvm_lapic_state, offset: usize, value: u32) {
    let bytes = value.to_le_bytes().map(u8::cast_signed);
    for (register, byte) in lapic.regs.iter_mut().skip(offset).zip(bytes) {
        *register = byte;
    }
}

fn code_segment(entry: &EntryPoint) -> kvm_segment {
    flat_code_segment(matches!(entry, EntryPoint::Linux64 { .. }))
}

fn flat_code_segment(long_mode: bool) -> kvm_segment {
    kvm_segment {
        selector: BOOT_CODE_SELECTOR,
        type_: SEGMENT_CODE,
        db: u8::from(!long_mode),
        l: u8::from(long_mode),
        ..flat_segment()
    }
}

fn data_segment() -> kvm_segment {
    kvm_segment {
        selector: BOOT_DATA_SELECTOR,
        type_: SEGMENT_DATA,
        db: 1,
        ..flat_segment()
    }
}

fn flat_segment() -> kvm_segment {
    kvm_segment {
        base: 0,
        limit: u32::MAX,
        present: 1,
        s: 1,
        g: 1,
        ..Default::default()
    }
}

/// The processor insists on a busy TSS; nobody uses it, so the GDT has no descriptor for it.
fn task_segment() -> kvm_segment {
    kvm_segment {
        base: 0,
        limit: TSS_LIMIT,
        type_: SEGMENT_BUSY_TSS,
        present: 1,
        ..Default::default()
    }
}

fn table(base: u64, limit: u16) -> kvm_dtable {
    kvm_dtable {
        base,
        limit,
        ..Default::default()
    }
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "four descriptors of 8 bytes"
)]
const fn gdt_limit() -> u16 {
    (GDT_ENTRIES * size_of::<u64>() - 1) as u16
}

/// Packs a segment into the memory format of its descriptor.
fn descriptor(segment: &kvm_segment) -> u64 {
    let limit = u64::from(if segment.g == 1 {
        segment.limit >> 12
    } else {
        segment.limit
    });
    let base = segment.base;
    let access =
        u64::from(segment.type_ | segment.s << 4 | segment.dpl << 5 | segment.present << 7);
    let flags = u64::from(segment.avl | segment.l << 1 | segment.db << 2 | segment.g << 3);
    (limit & 0xFFFF)
        | (base & 0xFF_FFFF) << 16
        | access << 40
        | (limit >> 16 & 0xF) << 48
        | flags << 52
        | (base >> 24 & 0xFF) << 56
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINUX: EntryPoint = EntryPoint::Linux64 {
        rip: 0x100_0200,
        zero_page: 0x7000,
    };
    const PVH: EntryPoint = EntryPoint::Pvh {
        rip: 0x100_0000,
        start_info: 0x6000,
    };

    fn initial() -> kvm_sregs {
        // What KVM gives a new vCPU: caches off, BSP and enable bits in the APIC base.
        kvm_sregs {
            cr0: 0x6000_0010,
            apic_base: 0xFEE0_0900,
            ..Default::default()
        }
    }

    #[test]
    fn linux_is_entered_with_the_zero_page_in_rsi() {
        let regs = boot_regs(&LINUX);
        assert_eq!((regs.rip, regs.rsi, regs.rflags), (0x100_0200, 0x7000, 2));
    }

    #[test]
    fn pvh_is_entered_with_the_start_info_in_ebx() {
        let regs = boot_regs(&PVH);
        assert_eq!((regs.rip, regs.rbx, regs.rflags), (0x100_0000, 0x6000, 2));
    }

    #[test]
    fn linux_starts_in_long_mode_with_caches_on() {
        let sregs = boot_sregs(initial(), &LINUX);
        assert_eq!(sregs.cr0, 0x8000_0011);
        assert_eq!(sregs.cr4, 0x20);
        assert_eq!(sregs.efer, 0x500);
        assert_eq!(sregs.cr3, 0x9000);
        assert_eq!((sregs.cs.selector, sregs.cs.l, sregs.cs.db), (0x10, 1, 0));
        assert_eq!(sregs.ds.selector, 0x18);
    }

    #[test]
    fn pvh_starts_in_flat_protected_mode_without_paging() {
        let sregs = boot_sregs(initial(), &PVH);
        assert_eq!(
            (sregs.cr0, sregs.cr4, sregs.efer, sregs.cr3),
            (0x11, 0, 0, 0)
        );
        assert_eq!((sregs.cs.l, sregs.cs.db, sregs.cs.limit), (0, 1, u32::MAX));
        assert_eq!((sregs.tr.type_, sregs.tr.limit, sregs.tr.s), (0xB, 0x67, 0));
    }

    #[test]
    fn the_apic_base_survives() {
        for entry in [LINUX, PVH] {
            assert_eq!(boot_sregs(initial(), &entry).apic_base, 0xFEE0_0900);
        }
    }

    #[test]
    fn descriptors_in_memory_are_those_in_the_segment_registers() {
        let descriptors = |long: bool| -> Vec<u64> {
            gdt_bytes(long)
                .chunks_exact(8)
                .map(|bytes| u64::from_le_bytes(bytes.try_into().unwrap()))
                .collect()
        };
        // The well-known encodings of flat 64-bit code, 32-bit code and data.
        assert_eq!(
            descriptors(true),
            [0, 0, 0x00AF_9B00_0000_FFFF, 0x00CF_9300_0000_FFFF]
        );
        assert_eq!(
            descriptors(false),
            [0, 0, 0x00CF_9B00_0000_FFFF, 0x00CF_9300_0000_FFFF]
        );
    }

    #[test]
    fn gdt_ends_before_the_idt() {
        let end = layout::GDT_ADDRESS + u64::try_from(gdt_bytes(true).len()).unwrap();
        assert!(end <= layout::IDT_ADDRESS);
        assert_eq!(u64::from(gdt_limit()) + 1, end - layout::GDT_ADDRESS);
    }

    #[test]
    fn fpu_starts_as_the_processor_resets_it() {
        let fpu = boot_fpu();
        assert_eq!((fpu.fcw, fpu.mxcsr), (0x37F, 0x1F80));
    }

    #[test]
    fn lint0_is_masked_extint_and_lint1_is_nmi() {
        let mut before = kvm_lapic_state::default();
        before.regs.fill(0x5A);
        let after = lapic_with_lint(before);
        let register = |offset: usize| -> u32 {
            let bytes: Vec<u8> = after.regs[offset..offset + 4]
                .iter()
                .map(|byte| byte.cast_unsigned())
                .collect();
            u32::from_le_bytes(bytes.try_into().unwrap())
        };
        assert_eq!(register(0x350), 0x1_0700);
        assert_eq!(register(0x360), 0x400);
        assert_eq!(register(0x34C), 0x5A5A_5A5A);
        assert_eq!(register(0x364), 0x5A5A_5A5A);
    }
}
