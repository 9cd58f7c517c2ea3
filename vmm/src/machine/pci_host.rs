//! The PCI host bridge: decodes configuration accesses, and carries out what config writes ask of
//! the memory map and the buses.

use super::buses::{Buses, Space};
use super::preparation::DmaReadiness;
use crate::memory::MemoryMap;
use arch::platform::PlatformDescription;
use arch::x86_64::layout::{self, PAGE_SIZE};
use devices::bus::{BusConflict, BusDevice};
use devices::failures::Failures;
use devices::memory::{MemoryRegion, RegionKind};
use devices::pci::{
    BarIndex, BarKind, BarLayout, ConfigStep, ConfigWrite, GuestBdf, PciFunction, PciSegment,
};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

/// The windows through which BARs can be reached.
#[derive(Clone, Copy, Debug)]
pub(super) struct Windows {
    memory_32: (u64, u64),
    memory_64: (u64, u64),
    io: (u64, u64),
}

impl Windows {
    /// The windows that `platform` announces to the guest.
    #[must_use]
    pub(super) fn of(platform: &PlatformDescription) -> Self {
        let (w32, w64) = (&platform.pci_window_32, &platform.pci_window_64);
        let (io_base, io_len) = platform.pci_window_io;
        Self {
            memory_32: (w32.base, w32.len),
            memory_64: (w64.base, w64.len),
            io: (u64::from(io_base), u64::from(io_len)),
        }
    }

    /// Whether a BAR may decode at `base`.
    fn hold(&self, bar: &BarLayout, base: u64) -> bool {
        let inside = |(start, len): (u64, u64)| {
            base.checked_sub(start)
                .and_then(|offset| offset.checked_add(bar.size))
                .is_some_and(|end| end <= len)
        };
        match bar.kind {
            BarKind::Io => inside(self.io),
            BarKind::Memory32 { .. } | BarKind::Memory64 { .. } => {
                inside(self.memory_32) || inside(self.memory_64)
            }
        }
    }
}

/// The BARs that the guest can reach now.
type DecodedBars = BTreeMap<(GuestBdf, BarIndex), Decoded>;

/// A BAR that the guest can reach now.
struct Decoded {
    base: u64,
    space: Space,
    /// Guest addresses of its mapped parts.
    regions: Vec<u64>,
}

/// The host bridge.
pub(super) struct PciHost {
    segment: PciSegment,
    windows: Windows,
    memory: Arc<MemoryMap>,
    buses: Arc<Buses>,
    dma: Arc<DmaReadiness>,
    /// Taken for the whole of a config write and of what follows from it, so that two vCPUs' writes
    /// take effect in one order. No device calls back while it is held, so nothing can wait for it
    /// in turn.
    decoded: Mutex<DecodedBars>,
    /// BARs that can't be where the guest puts them.
    failures: Failures,
}

impl PciHost {
    /// A host bridge over `segment`.
    #[must_use]
    pub(super) fn new(
        segment: PciSegment,
        windows: Windows,
        memory: &Arc<MemoryMap>,
        buses: &Arc<Buses>,
        dma: Arc<DmaReadiness>,
    ) -> Self {
        Self {
            segment,
            windows,
            memory: Arc::clone(memory),
            buses: Arc::clone(buses),
            dma,
            decoded: Mutex::default(),
            failures: Failures::default(),
        }
    }

    /// The functions on the bus.
    #[must_use]
    pub(super) fn segment(&self) -> &PciSegment {
        &self.segment
    }

    /// The memory map that BARs come and go in.
    #[must_use]
    pub(super) fn memory(&self) -> &Arc<MemoryMap> {
        &self.memory
    }

    /// What a function's first DMA waits for.
    #[must_use]
    pub(super) fn dma(&self) -> &DmaReadiness {
        &self.dma
    }

    /// Puts the configuration mechanisms on `buses`.
    ///
    /// # Errors
    /// [`BusConflict`].
    pub(super) fn attach(self: &Arc<Self>, buses: &Buses) -> Result<(), BusConflict> {
        let ports = (
            u64::from(layout::PCI_CONFIG_ADDRESS_PORT),
            u64::from(layout::PCI_CONFIG_PORTS),
        );
        let ports_device = Arc::new(ConfigPorts(Arc::downgrade(self)));
        buses.insert(Space::Port, ports, "pci config", ports_device)?;
        let ecam = (layout::PCIE_ECAM_BASE, layout::PCIE_ECAM_LEN);
        let ecam_device = Arc::new(Ecam(Arc::downgrade(self)));
        buses.insert(Space::Memory, ecam, "pci config", ecam_device)
    }

    /// Carries a config write out. One that lets a function start DMA waits until guest RAM is mapped for it, holding no
    /// lock; it has no effect if the guest is stopped before.
    fn config_write(
        &self,
        starts_dma: bool,
        write: impl FnOnce(&PciSegment) -> Option<ConfigWrite>,
    ) {
        if starts_dma && !self.dma.wait() {
            return;
        }
        let mut decoded = self.decoded.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(ConfigWrite {
            bdf,
            function,
            steps,
        }) = write(&self.segment)
        {
            self.apply(&mut decoded, bdf, &function, &steps);
        }
    }

    /// Takes a function off the buses, whatever it decodes.
    pub(super) fn stop_decoding(&self, guest: GuestBdf, function: &Arc<dyn PciFunction>) {
        let mut decoded = self.decoded.lock().unwrap_or_else(PoisonError::into_inner);
        let steps = function.stop_decoding();
        self.apply(&mut decoded, guest, function, &steps);
    }

    /// Takes every function of `slot` off the guest's bus: configuration space and BARs read as ones from then on. The order
    /// is that of ARCHITECTURE.md, "Teardown". The host bridge stays.
    pub(super) fn withdraw(&self, slot: u8) {
        let mut decoded = self.decoded.lock().unwrap_or_else(PoisonError::into_inner);
        let functions = self.segment.functions().into_iter();
        for (guest, function) in functions.filter(|(guest, _)| guest.device() == slot && slot > 0) {
            self.segment.remove(guest);
            function.quiesce();
            let steps = function.stop_decoding();
            self.apply(&mut decoded, guest, &function, &steps);
        }
    }

    fn apply(
        &self,
        decoded: &mut DecodedBars,
        guest: GuestBdf,
        function: &Arc<dyn PciFunction>,
        steps: &[ConfigStep],
    ) {
        for step in steps {
            match *step {
                ConfigStep::Commit(write) => function.commit(write),
                ConfigStep::MapBar { bar, base } => {
                    let layout = function.bars().iter().find(|layout| layout.index == bar);
                    let Some(layout) = layout else { continue };
                    if let Some(done) = self.map_bar(decoded, function, layout, base) {
                        decoded.insert((guest, bar), done);
                    }
                }
                ConfigStep::UnmapBar { bar, .. } => {
                    if let Some(present) = decoded.remove(&(guest, bar)) {
                        self.unmap_bar(present);
                    }
                }
            }
        }
    }

    /// `None` when the BAR stays out of reach, which is no error: a guest may park a BAR anywhere.
    fn map_bar(
        &self,
        decoded: &mut DecodedBars,
        function: &Arc<dyn PciFunction>,
        layout: &BarLayout,
        base: u64,
    ) -> Option<Decoded> {
        let (name, bar) = (function.name(), layout.index);
        if !self.windows.hold(layout, base) {
            log::debug!("{name} {bar}: {base:#x} is outside the windows; left unmapped");
            return None;
        }
        let space = match layout.kind {
            BarKind::Io => Space::Port,
            BarKind::Memory32 { .. } | BarKind::Memory64 { .. } => Space::Memory,
        };
        let trap = Arc::new(BarTrap {
            function: Arc::clone(function),
            bar,
        });
        let label = format!("{name} {bar}");
        if let Err(error) = self.buses.insert(space, (base, layout.size), &label, trap) {
            self.failures
                .report(format_args!("{name} {bar} is left unmapped: {error}"));
            return None;
        }
        let mapped = layout.size >= PAGE_SIZE || self.has_page_alone(decoded, base);
        let segments = layout.segments.iter().filter(|_| mapped);
        let mut regions = Vec::with_capacity(layout.segments.len());
        for segment in segments {
            let guest_address = base + segment.offset;
            let added = self.memory.add(MemoryRegion {
                guest_address,
                host: segment.host.clone(),
                kind: RegionKind::Bar,
            });
            match added {
                Ok(()) => regions.push(guest_address),
                // The part still works, by exits.
                Err(error) => self
                    .failures
                    .report(format_args!("{name} {bar}: accesses will exit: {error}")),
            }
        }
        log::debug!("{name} {bar} decodes at {base:#x}");
        Some(Decoded {
            base,
            space,
            regions,
        })
    }

    /// Whether the BAR at `base`, smaller than a page, has its page to itself, so that the whole page
    /// can be mapped for it.
    ///
    /// BARs that share a page trap, all of them: the page of one would hide the others. One that was
    /// mapped before another came is unmapped here.
    fn has_page_alone(&self, decoded: &mut DecodedBars, base: u64) -> bool {
        let page = |address: u64| address & !(PAGE_SIZE - 1);
        let mut alone = base == page(base);
        let sharing = decoded
            .values_mut()
            .filter(|other| other.space == Space::Memory && page(other.base) == page(base));
        for other in sharing {
            alone = false;
            self.unmap_regions(std::mem::take(&mut other.regions));
        }
        alone
    }

    fn unmap_bar(&self, present: Decoded) {
        self.unmap_regions(present.regions);
        self.buses.bus(present.space).remove(present.base);
    }

    fn unmap_regions(&self, regions: Vec<u64>) {
        for address in regions {
            if let Err(error) = self.memory.remove(address) {
                log::error!("{error}");
            }
        }
    }
}

/// Configuration mechanism #1. The bridge owns the buses, so what is on them doesn't own the bridge.
struct ConfigPorts(Weak<PciHost>);

impl BusDevice for ConfigPorts {
    fn read(&self, offset: u64, data: &mut [u8]) {
        match self.0.upgrade() {
            Some(host) => host.segment.port_read(offset, data),
            None => data.fill(0xff),
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        if let Some(host) = self.0.upgrade() {
            let starts_dma = host.segment.port_write_starts_dma(offset, data);
            host.config_write(starts_dma, |segment| segment.port_write(offset, data));
        }
    }
}

/// The enhanced configuration access mechanism.
struct Ecam(Weak<PciHost>);

impl BusDevice for Ecam {
    fn read(&self, offset: u64, data: &mut [u8]) {
        match self.0.upgrade() {
            Some(host) => host.segment.ecam_read(offset, data),
            None => data.fill(0xff),
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        if let Some(host) = self.0.upgrade() {
            let starts_dma = host.segment.ecam_write_starts_dma(offset, data);
            host.config_write(starts_dma, |segment| segment.ecam_write(offset, data));
        }
    }
}

/// The parts of a BAR that are not mapped.
struct BarTrap {
    function: Arc<dyn PciFunction>,
    bar: BarIndex,
}

impl BusDevice for BarTrap {
    fn read(&self, offset: u64, data: &mut [u8]) {
        self.function.bar_read(self.bar, offset, data);
    }

    fn write(&self, offset: u64, data: &[u8]) {
        self.function.bar_write(self.bar, offset, data);
    }
}
