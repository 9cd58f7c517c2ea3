//! Saved probes, and a host and a machine that check what is done to them.

use super::function::VfioPciDevice;
use super::host::{IrqIndex, VfioHost};
use super::plan::{PassthroughPlan, PassthroughSpec};
use super::probe::{IrqLine, MappableArea, Region, VfioProbe};
use super::sys::IrqAction;
use crate::host::{DeviceInterrupt, DeviceInterruptType};
use crate::interrupt::{IntxRouter, MsiMessage, MsiRouter, MsiVector};
use crate::mapping::{Access, HostMapping};
use crate::pci::{BarIndex, BarKind, ConfigOffset, ConfigStep, GuestBdf, HostSbdf, PciFunction};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use vfio_bindings::bindings::vfio::{
    VFIO_DEVICE_FLAGS_PCI, VFIO_DEVICE_FLAGS_RESET, VFIO_IRQ_INFO_EVENTFD, VFIO_IRQ_INFO_NORESIZE,
    VFIO_REGION_INFO_FLAG_MMAP, VFIO_REGION_INFO_FLAG_READ, VFIO_REGION_INFO_FLAG_WRITE,
};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

pub(super) const PAGE: u64 = 4096;
pub(super) const COMMAND: u16 = 0x04;
/// Where the igb's Power Management Control/Status is.
pub(super) const IGB_PMCSR: u16 = 0x44;
pub(super) const IGB_MSI: u16 = 0x50;
pub(super) const IGB_MSIX: u16 = 0x70;
pub(super) const IGB_EXPRESS: u16 = 0xa0;

pub(super) fn put(config: &mut [u8], offset: u16, bytes: &[u8]) {
    let start = usize::from(offset);
    config[start..start + bytes.len()].copy_from_slice(bytes);
}

pub(super) fn put32(config: &mut [u8], offset: u16, value: u32) {
    put(config, offset, &value.to_le_bytes());
}

pub(super) fn sbdf() -> HostSbdf {
    "01:00.0".parse().unwrap()
}

pub(super) fn spec() -> PassthroughSpec {
    PassthroughSpec {
        name: "nic".to_owned(),
        sbdf: sbdf(),
        guest: GuestBdf::new(3, 0).unwrap(),
        multifunction: false,
        intx_gsi: Some(19),
        page_size: PAGE,
    }
}

fn bar(index: u32, size: u64, mappable: bool) -> Region {
    let mut region = Region::new(index, size);
    region.flags = VFIO_REGION_INFO_FLAG_READ | VFIO_REGION_INFO_FLAG_WRITE;
    if mappable {
        region.flags |= VFIO_REGION_INFO_FLAG_MMAP;
        region.msix_mappable = true;
    }
    region
}

fn irqs(intx: u32, msi: u32, msix: u32) -> Vec<IrqLine> {
    let line = |index, count, flags| IrqLine {
        index,
        flags: VFIO_IRQ_INFO_EVENTFD | flags,
        count,
    };
    vec![
        line(0, intx, 0),
        line(1, msi, VFIO_IRQ_INFO_NORESIZE),
        line(2, msix, 0),
        line(3, 1, VFIO_IRQ_INFO_NORESIZE),
        line(4, 1, VFIO_IRQ_INFO_NORESIZE),
    ]
}

fn header(config: &mut [u8], vendor: u16, device: u16, first_capability: u8) {
    put(config, 0x00, &vendor.to_le_bytes());
    put(config, 0x02, &device.to_le_bytes());
    if first_capability != 0 {
        config[0x06] = 0x10;
        config[0x34] = first_capability;
    }
    config[0x3d] = 1;
}

fn probe(config: Vec<u8>, mut regions: Vec<Region>, irqs: Vec<IrqLine>) -> VfioProbe {
    regions.push(bar(7, config.len() as u64, false));
    VfioProbe {
        sbdf: sbdf(),
        flags: VFIO_DEVICE_FLAGS_PCI | VFIO_DEVICE_FLAGS_RESET,
        regions,
        irqs,
        config,
    }
}

/// An 82576 NIC behind a root port: MSI-X table and PBA in BAR 3, all the usual capabilities.
pub(super) fn igb() -> VfioProbe {
    let mut config = vec![0; 4096];
    header(&mut config, 0x8086, 0x10c9, 0x40);
    // The other function of the card is on the host's bus, not on the guest's.
    config[0x0e] = 0x80;
    put32(&mut config, 0x18, 0x1);
    // Power Management: no D1, no D2.
    put32(&mut config, 0x40, 0xc823_5001);
    // MSI: 64-bit, per-vector masking, one vector.
    put32(&mut config, IGB_MSI, 0x0180_7005);
    // MSI-X: 10 vectors, table at 0 and PBA at 0x2000 of BAR 3.
    put32(&mut config, IGB_MSIX, 0x0009_a011);
    put32(&mut config, IGB_MSIX + 4, 0x0000_0003);
    put32(&mut config, IGB_MSIX + 8, 0x0000_2003);
    // PCI Express 2.0 endpoint with FLR and LTR.
    put32(&mut config, IGB_EXPRESS, 0x0002_0010);
    put32(&mut config, IGB_EXPRESS + 4, 0x1000_8cc2);
    put32(&mut config, IGB_EXPRESS + 0x0c, 0x0004_2c41);
    put32(&mut config, IGB_EXPRESS + 0x24, 1 << 11 | 0x1f);
    put32(&mut config, 0x100, 0x1401_0001);
    put32(&mut config, 0x140, 0x1501_0003);
    put32(&mut config, 0x150, 0x1601_000e);
    put32(&mut config, 0x160, 0x0001_0010);
    let regions = vec![
        bar(0, 0x2_0000, true),
        bar(1, 0x40_0000, true),
        bar(2, 0x20, false),
        bar(3, 0x4000, true),
    ];
    probe(config, regions, irqs(1, 1, 10))
}

/// An NVMe controller: one 64-bit BAR with the MSI-X table at 0x2000 of it.
pub(super) fn nvme() -> VfioProbe {
    let mut config = vec![0; 4096];
    header(&mut config, 0x1b36, 0x0010, 0x40);
    put32(&mut config, 0x10, 0x4);
    put32(&mut config, 0x40, 0x0040_0011);
    put32(&mut config, 0x44, 0x0000_2000);
    put32(&mut config, 0x48, 0x0000_3000);
    probe(config, vec![bar(0, 0x4000, true)], irqs(1, 0, 65))
}

/// A conventional NIC: 256 bytes of configuration space, no capability, a sub-page BAR.
pub(super) fn rtl8139() -> VfioProbe {
    let mut config = vec![0; 256];
    header(&mut config, 0x10ec, 0x8139, 0);
    put32(&mut config, 0x10, 0x1);
    probe(
        config,
        vec![bar(0, 0x100, false), bar(1, 0x100, true)],
        irqs(1, 0, 0),
    )
}

/// The same device on a kernel that can't add MSI-X vectors in place.
pub(super) fn without_dynamic_msix(mut probe: VfioProbe) -> VfioProbe {
    probe.irqs[2].flags |= VFIO_IRQ_INFO_NORESIZE;
    probe
}

pub(super) fn area(offset: u64, size: u64) -> MappableArea {
    MappableArea { offset, size }
}

/// What vfio-pci has enabled.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum HostIrqs {
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
pub(super) struct HostState {
    pub(super) config: Vec<u8>,
    pub(super) irqs: HostIrqs,
    /// Every SET_IRQS: index, and a word on what was asked.
    pub(super) calls: Vec<String>,
    pub(super) config_writes: Vec<(u16, Vec<u8>)>,
    pub(super) bar_writes: Vec<(u8, u64, Vec<u8>)>,
    pub(super) resets: u32,
    /// Memory BARs that the guest reaches now.
    pub(super) mapped: BTreeSet<BarIndex>,
    /// SET_IRQS, config writes and BAR accesses fail from now on.
    pub(super) broken: bool,
    /// The most MSI vectors the host can give.
    pub(super) msi_limit: Option<u32>,
}

/// A host that behaves as vfio-pci does and panics at what would harm a real one.
pub(super) struct FakeHost {
    state: Mutex<HostState>,
    dynamic_msix: bool,
    msix_count: u32,
    file: std::fs::File,
}

/// A failed check poisons locks; the device is dropped all the same.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn invalid() -> io::Error {
    io::Error::from_raw_os_error(libc::EINVAL)
}

impl FakeHost {
    pub(super) fn new(probe: &VfioProbe) -> Arc<Self> {
        let file = tempfile::tempfile().unwrap();
        file.set_len(1 << 32).unwrap();
        let mut config = probe.config.clone();
        // As the kernel leaves it after opening the device.
        config[usize::from(COMMAND)] = 0x03;
        Arc::new(Self {
            state: Mutex::new(HostState {
                config,
                ..HostState::default()
            }),
            dynamic_msix: probe.irqs[2].resizable(),
            msix_count: probe.irqs[2].count,
            file,
        })
    }

    pub(super) fn state(&self) -> MutexGuard<'_, HostState> {
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

    /// The eventfd numbers that the host signals, by vector.
    pub(super) fn armed(&self) -> Vec<u32> {
        match &self.state().irqs {
            HostIrqs::Messages { triggers, .. } => triggers.keys().copied().collect(),
            _ => Vec::new(),
        }
    }
}

/// Whether memory decodes, by Command and, if `pm` is there, the power state.
fn decodes(config: &[u8]) -> bool {
    let has_pm = config[usize::from(IGB_PMCSR) - 4] == 1;
    let awake = !has_pm || config[usize::from(IGB_PMCSR)] & 3 == 0;
    awake && config[usize::from(COMMAND)] & 2 != 0
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
            if at == IGB_PMCSR && matches!(byte & 3, 1 | 2) {
                // It has neither D1 nor D2.
                continue;
            }
            // Registers that a device lets write; the rest is read-only.
            let writable = match at {
                0x04 => 0x57,
                0x05 => 0x05,
                IGB_PMCSR => 0x03,
                _ => 0,
            };
            let old = &mut state.config[usize::from(at)];
            *old = *old & !writable | byte & writable;
        }
        let flr_at = IGB_EXPRESS + 9;
        if (offset..)
            .zip(data)
            .any(|(at, byte)| at == flr_at && byte & 0x80 != 0)
        {
            // The kernel saves and restores around an FLR, but for the power state.
            state.config[usize::from(IGB_PMCSR)] &= !3;
        }
        let gone = !decodes(&state.config) && !state.mapped.is_empty();
        assert!(!gone, "decoding went off under a mapped BAR");
        Ok(())
    }

    fn bar_read(&self, _: BarIndex, offset: u64, data: &mut [u8]) -> io::Result<()> {
        if self.state().broken {
            return Err(io::Error::from_raw_os_error(libc::EIO));
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

    /// Each armed MSI-X vector has taken three interrupts.
    fn interrupts(&self) -> Vec<DeviceInterrupt> {
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

/// Counts GSIs, and records what they carry.
#[derive(Default)]
pub(super) struct FakeRouter {
    routes: Arc<Mutex<Routes>>,
}

#[derive(Default)]
pub(super) struct Routes {
    next: u32,
    /// GSI → message of the attached; `None` for the detached.
    pub(super) msi: BTreeMap<u32, Option<MsiMessage>>,
    pub(super) intx: BTreeMap<u32, RawFd>,
    /// How many GSIs there are left.
    pub(super) left: Option<u32>,
    last_trigger: Option<EventFd>,
}

struct FakeVector {
    gsi: u32,
    trigger: EventFd,
    routes: Arc<Mutex<Routes>>,
}

impl FakeRouter {
    pub(super) fn routes(&self) -> MutexGuard<'_, Routes> {
        lock(&self.routes)
    }

    /// Signals the vector that was allocated last, as its device does.
    pub(super) fn signal_last(&self) {
        let trigger = self.routes().last_trigger.as_ref().map(EventFd::try_clone);
        trigger.unwrap().unwrap().write(1).unwrap();
    }

    /// The messages of the attached vectors.
    pub(super) fn messages(&self) -> Vec<MsiMessage> {
        self.routes().msi.values().copied().flatten().collect()
    }
}

impl MsiRouter for FakeRouter {
    fn allocate(&self) -> io::Result<Box<dyn MsiVector>> {
        let mut routes = self.routes();
        if let Some(left) = &mut routes.left {
            *left = left
                .checked_sub(1)
                .ok_or_else(|| io::Error::from_raw_os_error(libc::ENOSPC))?;
        }
        let gsi = routes.next;
        routes.next += 1;
        routes.msi.insert(gsi, None);
        let trigger = EventFd::new(EFD_NONBLOCK)?;
        routes.last_trigger = Some(trigger.try_clone()?);
        Ok(Box::new(FakeVector {
            gsi,
            trigger,
            routes: Arc::clone(&self.routes),
        }))
    }
}

impl MsiVector for FakeVector {
    fn trigger(&self) -> &EventFd {
        &self.trigger
    }

    fn attach(&self, message: MsiMessage) -> io::Result<()> {
        let mut routes = lock(&self.routes);
        routes.msi.insert(self.gsi, Some(message));
        Ok(())
    }

    fn detach(&self) -> io::Result<()> {
        lock(&self.routes).msi.insert(self.gsi, None);
        Ok(())
    }

    fn pending(&self) -> bool {
        let pending = self.trigger.read().is_ok();
        if pending {
            self.trigger.write(1).unwrap();
        }
        pending
    }
}

impl Drop for FakeVector {
    fn drop(&mut self) {
        lock(&self.routes).msi.remove(&self.gsi);
    }
}

impl IntxRouter for FakeRouter {
    fn attach(&self, gsi: u32, trigger: &EventFd, _: &EventFd) -> io::Result<()> {
        self.routes().intx.insert(gsi, trigger.as_raw_fd());
        Ok(())
    }

    fn detach(&self, gsi: u32, trigger: &EventFd) -> io::Result<()> {
        let removed = self.routes().intx.remove(&gsi);
        assert_eq!(
            removed,
            Some(trigger.as_raw_fd()),
            "detached what is not there"
        );
        Ok(())
    }
}

/// A guest machine with one passed-through function in it.
pub(super) struct Machine {
    pub(super) device: Arc<VfioPciDevice>,
    pub(super) host: Arc<FakeHost>,
    pub(super) router: Arc<FakeRouter>,
    /// What is mapped where.
    pub(super) map: BTreeMap<BarIndex, u64>,
}

impl Machine {
    pub(super) fn new(probe: &VfioProbe) -> Self {
        let plan = PassthroughPlan::new(probe, &spec()).unwrap();
        Self::with_plan(probe, plan)
    }

    pub(super) fn with_plan(probe: &VfioProbe, plan: PassthroughPlan) -> Self {
        let host = FakeHost::new(probe);
        let router = Arc::new(FakeRouter::default());
        let msi: Arc<dyn MsiRouter> = router.clone();
        let intx: Arc<dyn IntxRouter> = router.clone();
        let device = VfioPciDevice::on_host(host.clone(), plan, msi, intx).unwrap();
        Self {
            device,
            host,
            router,
            map: BTreeMap::new(),
        }
    }

    pub(super) fn read(&self, offset: u16, len: usize) -> u32 {
        let mut bytes = [0; 4];
        let offset = ConfigOffset::new(offset).unwrap();
        self.device.config_read(offset, &mut bytes[..len]);
        u32::from_le_bytes(bytes)
    }

    pub(super) fn write(&mut self, offset: u16, len: usize, value: u32) -> Vec<ConfigStep> {
        let offset = ConfigOffset::new(offset).unwrap();
        let steps = self
            .device
            .config_write(offset, &value.to_le_bytes()[..len]);
        self.carry_out(&steps);
        steps
    }

    /// Carries steps out as the dispatcher does, and checks that they fit together.
    pub(super) fn carry_out(&mut self, steps: &[ConfigStep]) {
        for step in steps {
            match *step {
                ConfigStep::UnmapBar { bar, base } => {
                    assert_eq!(self.map.remove(&bar), Some(base), "{bar} wasn't there");
                    self.host.state().mapped.remove(&bar);
                }
                ConfigStep::MapBar { bar, base } => {
                    assert_eq!(self.map.insert(bar, base), None, "{bar} was mapped");
                    if self.is_memory(bar) {
                        let mut state = self.host.state();
                        assert!(
                            decodes(&state.config),
                            "{bar} mapped while it doesn't decode"
                        );
                        state.mapped.insert(bar);
                    }
                }
                ConfigStep::Commit(write) => self.device.commit(write),
            }
        }
    }

    fn is_memory(&self, bar: BarIndex) -> bool {
        let layout = self.device.bars().iter().find(|l| l.index == bar);
        layout.is_some_and(|layout| layout.kind != BarKind::Io)
    }

    pub(super) fn calls(&self) -> Vec<String> {
        std::mem::take(&mut self.host.state().calls)
    }

    pub(super) fn table_write(&self, bar: u8, offset: u64, value: u32) {
        let bar = BarIndex::new(bar).unwrap();
        self.device.bar_write(bar, offset, &value.to_le_bytes());
    }

    pub(super) fn bar_read(&self, bar: u8, offset: u64) -> u32 {
        let mut bytes = [0; 4];
        let bar = BarIndex::new(bar).unwrap();
        self.device.bar_read(bar, offset, &mut bytes);
        u32::from_le_bytes(bytes)
    }
}
