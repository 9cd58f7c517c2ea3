//! The model-specific registers a vCPU starts with (Intel SDM volume 3, 12.11 "Memory Type Range Registers" and
//! volume 4).

use kvm_bindings::kvm_msr_entry;

/// MSR indices, in ascending order.
mod index {
    pub(super) const TSC: u32 = 0x10;
    pub(super) const SYSENTER_CS: u32 = 0x174;
    pub(super) const SYSENTER_ESP: u32 = 0x175;
    pub(super) const SYSENTER_EIP: u32 = 0x176;
    pub(super) const MISC_ENABLE: u32 = 0x1A0;
    pub(super) const MTRR_FIX_64K_00000: u32 = 0x250;
    pub(super) const MTRR_FIX_16K_80000: u32 = 0x258;
    pub(super) const MTRR_FIX_16K_A0000: u32 = 0x259;
    pub(super) const MTRR_FIX_4K_C0000: u32 = 0x268;
    pub(super) const MTRR_FIX_4K_F8000: u32 = 0x26F;
    pub(super) const PAT: u32 = 0x277;
    pub(super) const MTRR_DEF_TYPE: u32 = 0x2FF;
    pub(super) const STAR: u32 = 0xC000_0081;
    pub(super) const LSTAR: u32 = 0xC000_0082;
    pub(super) const CSTAR: u32 = 0xC000_0083;
    pub(super) const SYSCALL_MASK: u32 = 0xC000_0084;
    pub(super) const KERNEL_GS_BASE: u32 = 0xC000_0102;
}

const MISC_ENABLE_FAST_STRING: u64 = 1 << 0;
/// PAT as the processor resets it: WB, WT, UC-, UC, twice.
const PAT_DEFAULT: u64 = 0x0007_0406_0007_0406;
/// MTRRs on, fixed ranges on, everything else write-back.
const MTRR_ENABLE: u64 = 1 << 11;
const MTRR_FIXED_ENABLE: u64 = 1 << 10;
const MTRR_TYPE_WRITE_BACK: u64 = 6;
const MTRR_FIXED_UNCACHED: u64 = 0;
/// Eight write-back ranges in one fixed-range register.
const MTRR_FIXED_WRITE_BACK: u64 = 0x0606_0606_0606_0606;

/// The MSRs to set on every vCPU before it first runs.
///
/// Memory is write-back from the start: where the IOMMU lacks snoop control KVM honours the guest's MTRRs, and at
/// their reset value the guest would run uncached. Since fixed ranges are enabled they are written, too; left at zero
/// they'd make the first MiB uncached. A TSC written as zero is how KVM knows to keep the vCPUs' TSCs in step.
#[must_use]
pub fn boot_msrs() -> Vec<kvm_msr_entry> {
    let plain = [
        (index::TSC, 0),
        (index::SYSENTER_CS, 0),
        (index::SYSENTER_ESP, 0),
        (index::SYSENTER_EIP, 0),
        (index::MISC_ENABLE, MISC_ENABLE_FAST_STRING),
        (index::MTRR_FIX_64K_00000, MTRR_FIXED_WRITE_BACK),
        (index::MTRR_FIX_16K_80000, MTRR_FIXED_WRITE_BACK),
        (index::MTRR_FIX_16K_A0000, MTRR_FIXED_UNCACHED),
        (index::PAT, PAT_DEFAULT),
        (index::STAR, 0),
        (index::LSTAR, 0),
        (index::CSTAR, 0),
        (index::SYSCALL_MASK, 0),
        (index::KERNEL_GS_BASE, 0),
    ];
    let upper_memory = (index::MTRR_FIX_4K_C0000..=index::MTRR_FIX_4K_F8000)
        .map(|msr| (msr, MTRR_FIXED_WRITE_BACK));
    // The ranges come before the switch that puts them into force.
    let switch = (
        index::MTRR_DEF_TYPE,
        MTRR_ENABLE | MTRR_FIXED_ENABLE | MTRR_TYPE_WRITE_BACK,
    );
    plain
        .into_iter()
        .chain(upper_memory)
        .chain([switch])
        .map(|(index, data)| kvm_msr_entry {
            index,
            data,
            ..Default::default()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(index: u32) -> Option<u64> {
        boot_msrs()
            .iter()
            .find(|msr| msr.index == index)
            .map(|msr| msr.data)
    }

    #[test]
    fn memory_is_write_back_before_the_first_instruction() {
        assert_eq!(value(0x2FF), Some(0xC06));
    }

    #[test]
    fn enabled_fixed_ranges_leave_only_the_vga_hole_uncached() {
        assert_eq!(value(0x250), Some(MTRR_FIXED_WRITE_BACK));
        assert_eq!(value(0x258), Some(MTRR_FIXED_WRITE_BACK));
        assert_eq!(value(0x259), Some(0));
        for index in 0x268..=0x26F {
            assert_eq!(value(index), Some(MTRR_FIXED_WRITE_BACK), "{index:#x}");
        }
    }

    #[test]
    fn fixed_ranges_are_written_before_they_are_enabled() {
        assert_eq!(boot_msrs().last().map(|msr| msr.index), Some(0x2FF));
    }

    #[test]
    fn no_msr_is_set_twice() {
        let mut indices: Vec<u32> = boot_msrs().iter().map(|msr| msr.index).collect();
        let count = indices.len();
        indices.sort_unstable();
        indices.dedup();
        assert_eq!(indices.len(), count);
    }
}
