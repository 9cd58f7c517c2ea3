//! The KVM ioctls that kvm-ioctls 0.25 offers only as `unsafe`, or not at all.
#![expect(unsafe_code, reason = "KVM ioctls; docs/adr/0002")]

use devices::mapping::HostRange;
use kvm_bindings::{
    KVM_VCPU_TSC_CTRL, KVM_VCPU_TSC_OFFSET, KVMIO, kvm_device_attr, kvm_userspace_memory_region,
};
use kvm_ioctls::{VcpuFd, VmFd};
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd};
use vmm_sys_util::ioctl::{ioctl, ioctl_with_ref};
use vmm_sys_util::{ioctl_io_nr, ioctl_iow_nr};

/// `struct kvm_signal_mask` with room for the kernel's 64 signals.
#[repr(C, packed)]
struct SignalMask {
    len: u32,
    set: [u8; 8],
}

/// The header that the ioctl number encodes: `kvm_signal_mask` without its flexible array.
#[repr(C)]
struct SignalMaskHeader {
    len: u32,
}

ioctl_io_nr!(KVM_GET_STATS_FD, KVMIO, 0xce);
ioctl_iow_nr!(KVM_SET_SIGNAL_MASK, KVMIO, 0x8b, SignalMaskHeader);
ioctl_iow_nr!(KVM_SET_DEVICE_ATTR, KVMIO, 0xe1, kvm_device_attr);
ioctl_iow_nr!(KVM_GET_DEVICE_ATTR, KVMIO, 0xe2, kvm_device_attr);

/// Makes memslot `slot` show `host` at `guest_address`.
///
/// The caller keeps `host` alive until [`remove_slot`].
pub(super) fn set_slot(
    vm: &VmFd,
    slot: u32,
    guest_address: u64,
    host: &HostRange,
) -> io::Result<()> {
    let region = kvm_userspace_memory_region {
        slot,
        guest_phys_addr: guest_address,
        memory_size: host.len() as u64,
        userspace_addr: host.address() as u64,
        flags: 0,
    };
    // SAFETY: `host` is mapped for its whole length, and `MemorySlots` keeps it so until after the
    // slot was removed. The memory is not borrowed as Rust data anywhere: guest RAM is only reached
    // through vm-memory's volatile accesses, device memory not at all.
    unsafe { vm.set_user_memory_region(region) }.map_err(from_errno)
}

/// Removes memslot `slot`, which was at `guest_address`.
pub(super) fn remove_slot(vm: &VmFd, slot: u32, guest_address: u64) -> io::Result<()> {
    let region = kvm_userspace_memory_region {
        slot,
        guest_phys_addr: guest_address,
        memory_size: 0,
        userspace_addr: 0,
        flags: 0,
    };
    // SAFETY: a size of 0 deletes the slot; no memory is referred to.
    unsafe { vm.set_user_memory_region(region) }.map_err(from_errno)
}

/// While the guest runs, blocks all signals but `signal`, so that one that is pending (blocked by the
/// thread) ends `KVM_RUN` with `EINTR`: no window exists in which it could be missed.
pub(super) fn unblock_only_while_running(vcpu: &VcpuFd, signal: i32) -> io::Result<()> {
    let bit = u64::try_from(signal - 1).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
    let mask = SignalMask {
        len: 8,
        set: (!(1_u64 << bit)).to_le_bytes(),
    };
    // SAFETY: KVM_SET_SIGNAL_MASK reads `len` and then `len` bytes of set, which `SignalMask` has
    // right behind it (packed, 12 bytes).
    let result = unsafe { ioctl_with_ref(vcpu, KVM_SET_SIGNAL_MASK(), &mask) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Moves the vCPU's time stamp counter by `ticks`, which may wrap.
pub(super) fn move_tsc(vcpu: &VcpuFd, ticks: u64) -> io::Result<()> {
    let mut offset = 0_u64;
    let attribute = |address: u64| kvm_device_attr {
        flags: 0,
        group: KVM_VCPU_TSC_CTRL,
        attr: KVM_VCPU_TSC_OFFSET.into(),
        addr: address,
    };
    let place = attribute(std::ptr::from_mut(&mut offset).expose_provenance() as u64);
    // SAFETY: of this attribute the kernel writes a u64 to `addr`, which is `offset`; nothing else uses it meanwhile.
    let read = unsafe { ioctl_with_ref(vcpu, KVM_GET_DEVICE_ATTR(), &place) };
    if read < 0 {
        return Err(io::Error::last_os_error());
    }
    let offset = offset.wrapping_add(ticks);
    let place = attribute(std::ptr::from_ref(&offset).expose_provenance() as u64);
    // SAFETY: of this attribute the kernel reads a u64 from `addr`, which is `offset`.
    let written = unsafe { ioctl_with_ref(vcpu, KVM_SET_DEVICE_ATTR(), &place) };
    if written < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// The file that KVM keeps the statistics of a VM or a vCPU in.
pub(super) fn statistics_file(of: &impl AsRawFd) -> io::Result<File> {
    // SAFETY: KVM_GET_STATS_FD has no argument and touches no memory of this process.
    let fd = unsafe { ioctl(of, KVM_GET_STATS_FD()) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has made this descriptor for us, and nobody else has it.
    Ok(unsafe { File::from_raw_fd(fd) })
}

/// An errno of kvm-ioctls as an [`io::Error`].
pub(super) fn from_errno(error: kvm_ioctls::Error) -> io::Error {
    io::Error::from_raw_os_error(error.errno())
}
