//! A host that behaves as vfio-pci does.

use super::probes::COMMAND;
use crate::host::{DeviceInterrupt, DeviceInterruptType};
use crate::mapping::{Access, HostMapping};
use crate::pci::BarIndex;
use crate::pci::capability::{CapabilityId, capabilities};
use crate::vfio::host::{IrqIndex, VfioHost};
use crate::vfio::motion::{Motion, MotionSupport};
use crate::vfio::probe::VfioProbe;
use crate::vfio::sys::IrqAction;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use vmm_sys_util::eventfd::EventFd;

/// What vfio-pci has enabled.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::vfio::tests) enum HostIrqs {
    #[default]
    None,
    Intx {
        unmask: Option<RawFd>,
    },
    Messages {
        index: u32,
        allocated: u32,
        triggers: BTreeMap<u32, RawFd>,
    },
}

#[derive(Default)]
pub(in crate::vfio::tests) struct HostState {
    pub(in crate::vfio::tests) config: Vec<u8>,
    pub(in crate::vfio::tests) irqs: HostIrqs,
    /// Every SET_IRQS: index, and a word on what was asked.
    pub(in crate::vfio::tests) calls: Vec<String>,
    pub(in crate::vfio::tests) config_writes: Vec<(u16, Vec<u8>)>,
    pub(in crate::vfio::tests) bar_writes: Vec<(u8, u64, Vec<u8>)>,
    /// Pieces of the expansion ROM that were read: offset, bytes.
    pub(in crate::vfio::tests) rom_reads: Vec<(u64, usize)>,
    pub(in crate::vfio::tests) resets: u32,
    /// The groups of each bus reset.
    pub(in crate::vfio::tests) bus_resets: Vec<Vec<u32>>,
    /// A group of the bus is not this machine's any longer.
    pub(in crate::vfio::tests) group_has_left: bool,
    /// Memory BARs that the guest reaches now.
    pub(in crate::vfio::tests) mapped: BTreeSet<BarIndex>,
    /// SET_IRQS, config writes and BAR accesses fail from now on.
    pub(in crate::vfio::tests) broken: bool,
    /// What the host has counted for the pin, whoever used it.
    pub(in crate::vfio::tests) pin_count: u64,
    /// Whether the device can be stopped, and made passive.
    pub(in crate::vfio::tests) motion: Option<MotionSupport>,
    /// What it was let do, each time.
    pub(in crate::vfio::tests) motions: Vec<Motion>,
    /// The most MSI vectors the host can give.
    pub(in crate::vfio::tests) msi_limit: Option<u32>,
}

/// A host that behaves as vfio-pci does and panics at what would harm a real one.
pub(in crate::vfio::tests) struct FakeHost {
    state: Mutex<HostState>,
    dynamic_msix: bool,
    msix_count: u32,
    /// Power Management Control/Status, where there is one.
    pmcsr: Option<u16>,
    /// The upper byte of Device Control, where there is one.
    flr: Option<u16>,
    file: std::fs::File,
}

/// A failed check poisons locks; the device is dropped all the same.
pub(in crate::vfio::tests) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn invalid() -> io::Error {
    io::Error::from_raw_os_error(libc::EINVAL)
}

impl FakeHost {
    pub(in crate::vfio::tests) fn new(probe: &VfioProbe) -> Arc<Self> {
        let file = tempfile::tempfile().unwrap();
        file.set_len(1 << 32).unwrap();
        let mut config = probe.config.clone();
        // As the kernel leaves it after opening the device.
        config[usize::from(COMMAND)] = 0x03;
        let register = |id, offset| {
            let found = capabilities(&config).find(|capability| capability.id == id)?;
            let register = found.offset + offset;
            (usize::from(register) < config.len()).then_some(register)
        };
        let pmcsr = register(CapabilityId::POWER_MANAGEMENT, 4);
        let flr = register(CapabilityId::PCI_EXPRESS, 9);
        if let Some(pmcsr) = pmcsr {
            config[usize::from(pmcsr)] &= !3;
        }
        Arc::new(Self {
            state: Mutex::new(HostState {
                config,
                ..HostState::default()
            }),
            dynamic_msix: probe.irqs[2].resizable(),
            msix_count: probe.irqs[2].count,
            pmcsr,
            flr,
            file,
        })
    }

    pub(in crate::vfio::tests) fn state(&self) -> MutexGuard<'_, HostState> {
        lock(&self.state)
    }

    fn trigger(
        &self,
        state: &mut HostState,
        index: u32,
        start: u32,
        eventfds: &[Option<&EventFd>],
    ) -> io::Result<()> {
        let end = start + u32::try_from(eventfds.len()).unwrap();
        if index == 0 {
            match state.irqs {
                HostIrqs::None | HostIrqs::Intx { .. } if end == 1 => {
                    state.irqs = HostIrqs::Intx { unmask: None };
                    return Ok(());
                }
                _ => return Err(invalid()),
            }
        }
        if index > 2 {
            return Ok(());
        }
        if index == 2 && end > self.msix_count {
            return Err(invalid());
        }
        if index == 1 && state.msi_limit.is_some_and(|limit| end > limit) {
            return Err(io::Error::from_raw_os_error(libc::ENOSPC));
        }
        if state.irqs == HostIrqs::None {
            state.irqs = HostIrqs::Messages {
                index,
                allocated: end,
                triggers: BTreeMap::new(),
            };
        }
        match &mut state.irqs {
            HostIrqs::Messages {
                index: enabled,
                allocated,
                triggers,
            } if *enabled == index => {
                if end > *allocated && !(index == 2 && self.dynamic_msix) {
                    return Err(invalid());
                }
                for (vector, eventfd) in (start..).zip(eventfds) {
                    match eventfd {
                        Some(eventfd) => triggers.insert(vector, eventfd.as_raw_fd()),
                        None => triggers.remove(&vector),
                    };
                }
                Ok(())
            }
            _ => Err(invalid()),
        }
    }

    /// Whether memory decodes, by Command and the power state.
    pub(in crate::vfio::tests) fn decodes(&self, state: &HostState) -> bool {
        let byte = |at: u16| state.config[usize::from(at)];
        self.pmcsr.is_none_or(|at| byte(at) & 3 == 0) && byte(COMMAND) & 2 != 0
    }

    /// The eventfd numbers that the host signals, by vector.
    pub(in crate::vfio::tests) fn armed(&self) -> Vec<u32> {
        match &self.state().irqs {
            HostIrqs::Messages { triggers, .. } => triggers.keys().copied().collect(),
            _ => Vec::new(),
        }
    }
}

/// What the device's expansion ROM has at `offset`.
pub(in crate::vfio::tests) fn rom_byte(offset: u64) -> u8 {
    match offset {
        0 => 0x55,
        1 => 0xaa,
        _ => u8::try_from(offset % 251).unwrap(),
    }
}

impl VfioHost for FakeHost {
    fn config_read(&self, offset: u16, data: &mut [u8]) -> io::Result<()> {
        let state = self.state();
        let start = usize::from(offset);
        let bytes = state.config.get(start..start + data.len());
        data.copy_from_slice(bytes.ok_or_else(invalid)?);
        Ok(())
    }

    fn config_write(&self, offset: u16, data: &[u8]) -> io::Result<()> {
        let mut state = self.state();
        if state.broken {
            return Err(io::Error::from_raw_os_error(libc::EIO));
        }
        let end = offset + u16::try_from(data.len()).unwrap();
        assert!(
            end <= 0x10 || offset >= 0x28 && !(0x30..0x34).contains(&offset),
            "a BAR register of the host was written"
        );
        state.config_writes.push((offset, data.to_vec()));
        for (at, byte) in (offset..).zip(data) {
            if self.pmcsr == Some(at) && matches!(byte & 3, 1 | 2) {
                // It has neither D1 nor D2.
                continue;
            }
            // Registers that a device lets write; the rest is read-only.
            let writable = match at {
                0x04 => 0x57,
                0x05 => 0x05,
                _ if self.pmcsr == Some(at) => 0x03,
                _ => 0,
            };
            let old = &mut state.config[usize::from(at)];
            *old = *old & !writable | byte & writable;
        }
        let flr = (offset..)
            .zip(data)
            .any(|(at, byte)| self.flr == Some(at) && byte & 0x80 != 0);
        if let Some(pmcsr) = self.pmcsr.filter(|_| flr) {
            // The kernel saves and restores around an FLR, but for the power state.
            state.config[usize::from(pmcsr)] &= !3;
        }
        let gone = !self.decodes(&state) && !state.mapped.is_empty();
        assert!(!gone, "decoding went off under a mapped BAR");
        Ok(())
    }

    fn bar_read(&self, bar: BarIndex, offset: u64, data: &mut [u8]) -> io::Result<()> {
        let mut state = self.state();
        if state.broken {
            return Err(io::Error::from_raw_os_error(libc::EIO));
        }
        if bar == BarIndex::ROM {
            state.rom_reads.push((offset, data.len()));
            for (at, byte) in (offset..).zip(data) {
                *byte = rom_byte(at);
            }
            return Ok(());
        }
        data.fill(offset.to_le_bytes()[0]);
        Ok(())
    }

    fn bar_write(&self, bar: BarIndex, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut state = self.state();
        state.bar_writes.push((bar.get(), offset, data.to_vec()));
        Ok(())
    }

    fn map(&self, _: BarIndex, offset: u64, len: u64) -> io::Result<HostMapping> {
        let access = Access {
            read: true,
            write: true,
        };
        HostMapping::shared(
            self.file.as_fd(),
            offset,
            usize::try_from(len).unwrap(),
            access,
            offset,
        )
    }

    fn set_irqs(&self, index: IrqIndex, action: IrqAction<'_>) -> io::Result<()> {
        let mut state = self.state();
        if state.broken {
            return Err(io::Error::from_raw_os_error(libc::EIO));
        }
        let index = index.number();
        let call = match action {
            IrqAction::Trigger { start, eventfds } => {
                let given = eventfds.iter().flatten().count();
                format!("{index}: trigger {start}+{} ({given})", eventfds.len())
            }
            IrqAction::UnmaskOn(_) => format!("{index}: unmask"),
            IrqAction::Disable => format!("{index}: disable"),
        };
        state.calls.push(call);
        match action {
            IrqAction::Trigger { start, eventfds } => {
                self.trigger(&mut state, index, start, eventfds)
            }
            IrqAction::UnmaskOn(eventfd) => match &mut state.irqs {
                HostIrqs::Intx { unmask } => {
                    *unmask = Some(eventfd.as_raw_fd());
                    Ok(())
                }
                _ => Err(invalid()),
            },
            IrqAction::Disable => {
                let enabled = match &state.irqs {
                    HostIrqs::None => None,
                    HostIrqs::Intx { .. } => Some(0),
                    HostIrqs::Messages { index, .. } => Some(*index),
                };
                if enabled != Some(index) {
                    return Err(invalid());
                }
                state.irqs = HostIrqs::None;
                Ok(())
            }
        }
    }

    fn reset(&self) -> io::Result<()> {
        self.state().resets += 1;
        Ok(())
    }

    fn reset_bus(&self, groups: &[u32]) -> io::Result<()> {
        let mut state = self.state();
        let quiet = state.config[usize::from(COMMAND)] & 7 == 0 && state.irqs == HostIrqs::None;
        assert!(quiet, "reset with its bus while it works");
        if state.group_has_left {
            return Err(io::Error::from_raw_os_error(libc::ENOENT));
        }
        state.bus_resets.push(groups.to_vec());
        Ok(())
    }

    fn motion(&self) -> Option<MotionSupport> {
        self.state().motion
    }

    fn set_motion(&self, motion: Motion) -> io::Result<()> {
        self.state().motions.push(motion);
        Ok(())
    }

    /// Each armed MSI-X vector has taken three interrupts.
    fn interrupts(&self) -> Vec<DeviceInterrupt> {
        let state = self.state();
        if let HostIrqs::Intx { .. } = state.irqs {
            return vec![DeviceInterrupt {
                kind: DeviceInterruptType::Intx,
                vector: 0,
                count: state.pin_count,
            }];
        }
        drop(state);
        let taken = |vector| DeviceInterrupt {
            kind: DeviceInterruptType::Msix,
            vector,
            count: 3,
        };
        let vectors = self.armed().into_iter();
        vectors
            .map(|vector| taken(u16::try_from(vector).unwrap()))
            .collect()
    }
}
