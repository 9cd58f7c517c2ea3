//! Guest-physical memory: RAM, and the one map that KVM and the IOMMU follow.

use arch::platform::MemoryRange;
use arch::x86_64::layout::RamPlacement;
use devices::host::HugePageSize;
use devices::mapping::{HostRange, RamRegion};
use devices::memory::{MemoryListener, MemoryRegion, RegionKind};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create};
use std::collections::BTreeMap;
use std::io;
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use vm_memory::GuestRegionCollection;

/// Why guest RAM could not be made.
#[derive(Debug, thiserror::Error)]
pub enum RamError {
    /// The memory file could not be made.
    #[error("a memory file of {size:#x} bytes can't be made")]
    File {
        /// Its size in bytes.
        size: u64,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It could not be mapped.
    #[error("guest RAM can't be mapped")]
    Map(#[source] io::Error),
    /// There are not enough huge pages, although there were when the host was looked at.
    #[error("the host can't supply {size:#x} bytes of guest RAM in huge pages of {page}")]
    HugePages {
        /// Size in bytes.
        size: u64,
        /// The pages.
        page: HugePageSize,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The host has not enough memory.
    #[error("the host can't supply {size:#x} bytes of guest RAM")]
    Populate {
        /// Size in bytes.
        size: u64,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Guest RAM as vm-memory has it.
pub type GuestMemory = GuestRegionCollection<RamRegion>;

/// The guest's RAM: one shared memory file, mapped once.
///
/// It is shared and never private because VFIO pins it: the first write to a pinned private page
/// would copy it, and the device would go on with the old one.
pub struct GuestRam {
    memory: GuestMemory,
    regions: Vec<MemoryRegion>,
    huge_pages: Option<HugePageSize>,
}

/// What a thread populates at once, a multiple of the size of transparent huge pages so that no two threads fault the same
/// one. While it does, nothing else of the process can be mapped, a device's BARs for instance: longer pieces would hold
/// that up.
const POPULATE_PIECE: usize = 16 << 20;

impl GuestRam {
    /// Maps RAM where `placement` says; no page is present yet, but huge pages are set aside.
    ///
    /// # Errors
    /// [`RamError`].
    pub fn new(
        placement: &RamPlacement,
        huge_pages: Option<HugePageSize>,
    ) -> Result<Self, RamError> {
        let size = placement.ranges.iter().map(|range| range.len).sum();
        let file =
            memory_file(size, huge_pages).map_err(|source| RamError::File { size, source })?;
        let failed = |source| match huge_pages {
            Some(page) => RamError::HugePages { size, page, source },
            None => RamError::Map(source),
        };
        let mut mapped = Vec::with_capacity(placement.ranges.len());
        let mut offset = 0;
        for range in &placement.ranges {
            let region = RamRegion::map(file.as_fd(), offset, range.start, range.len);
            mapped.push(Arc::new(region.map_err(failed)?));
            offset += range.len;
        }
        let regions: Vec<_> = placement
            .ranges
            .iter()
            .zip(&mapped)
            .flat_map(|(range, region)| {
                parts(
                    range,
                    &HostRange::whole(Arc::clone(region.mapping())),
                    placement.cpu_only,
                )
            })
            .collect();
        for region in regions.iter().filter(|_| huge_pages.is_none()) {
            if let Err(error) = region.host.advise_huge_pages() {
                log::debug!("no transparent huge pages for guest RAM: {error}");
            }
        }
        let memory = GuestMemory::from_arc_regions(mapped)
            .map_err(|error| RamError::Map(io::Error::other(error.to_string())))?;
        Ok(Self {
            memory,
            regions,
            huge_pages,
        })
    }

    /// The huge pages that the RAM is made of, if it is.
    #[must_use]
    pub fn huge_pages(&self) -> Option<HugePageSize> {
        self.huge_pages
    }

    /// The RAM as vm-memory's type.
    #[must_use]
    pub fn memory(&self) -> &GuestMemory {
        &self.memory
    }

    /// The RAM as parts of the memory map.
    #[must_use]
    pub fn regions(&self) -> &[MemoryRegion] {
        &self.regions
    }
}

/// How far guest RAM has been faulted in.
#[derive(Debug, Default)]
pub struct Populating {
    cancelled: AtomicBool,
    done: AtomicU64,
}

impl Populating {
    /// Ends it early.
    pub fn cancel(&self) {
        self.cancelled.store(true, Ordering::Relaxed);
    }

    /// Whether it was to end early.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed)
    }

    /// Bytes that are there.
    #[must_use]
    pub fn done(&self) -> u64 {
        self.done.load(Ordering::Relaxed)
    }
}

/// Faults in every page of `regions`, by several threads: VFIO is about to pin them all, one after another, and most of
/// that time goes into clearing pages. Ends early, without an error, once `progress` is cancelled.
///
/// # Errors
/// [`RamError::Populate`].
pub fn populate(
    regions: &[MemoryRegion],
    huge_pages: Option<HugePageSize>,
    progress: &Populating,
) -> Result<(), RamError> {
    let size = regions.iter().map(|r| r.host.len() as u64).sum();
    let failed = |source| match huge_pages {
        Some(page) => RamError::HugePages { size, page, source },
        None => RamError::Populate { size, source },
    };
    let page = huge_pages.map_or(0, HugePageSize::bytes);
    let piece = usize::try_from(page)
        .unwrap_or(usize::MAX)
        .max(POPULATE_PIECE);
    // One processor is left to the guest, which boots meanwhile.
    let threads = thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let threads = threads.saturating_sub(1).max(1);
    let pieces: Vec<HostRange> = regions
        .iter()
        .flat_map(|region| pieces(&region.host, piece))
        .collect();
    let next = Mutex::new(pieces.iter());
    let work = || {
        loop {
            let piece = next.lock().unwrap_or_else(PoisonError::into_inner).next();
            let Some(piece) = piece.filter(|_| !progress.is_cancelled()) else {
                return Ok(());
            };
            match piece.populate() {
                // Before Linux 5.14 there is no such advice: VFIO then faults the pages itself.
                Err(error) if error.raw_os_error() == Some(libc::EINVAL) => return Ok(()),
                result => result?,
            }
            let bytes = piece.len() as u64;
            progress.done.fetch_add(bytes, Ordering::Relaxed);
        }
    };
    thread::scope(|scope| {
        let workers: Vec<_> = (1..threads.min(pieces.len()))
            .map(|_| scope.spawn(work))
            .collect();
        let mine = work();
        workers
            .into_iter()
            .map(|worker| {
                worker
                    .join()
                    .unwrap_or_else(|_| Err(io::Error::other("a populating thread ended")))
            })
            .fold(mine, Result::and)
    })
    .map_err(failed)
}

fn memory_file(size: u64, huge_pages: Option<HugePageSize>) -> io::Result<OwnedFd> {
    let pages = match huge_pages {
        None => MemfdFlags::empty(),
        Some(HugePageSize::Mib2) => MemfdFlags::HUGETLB | MemfdFlags::HUGE_2MB,
        Some(HugePageSize::Gib1) => MemfdFlags::HUGETLB | MemfdFlags::HUGE_1GB,
    };
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING | pages;
    let file = memfd_create("ferry-guest-ram", flags)?;
    ftruncate(&file, size)?;
    // Nobody can take memory away from under the guest and its devices.
    fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::SEAL)?;
    Ok(file)
}

/// The RAM of `range` as regions: what only the CPUs reach is one of its own.
fn parts(
    range: &MemoryRange,
    host: &HostRange,
    cpu_only: Option<MemoryRange>,
) -> Vec<MemoryRegion> {
    let cut = cpu_only.map_or((range.end(), range.end()), |only| {
        let inside = |address: u64| address.clamp(range.start, range.end());
        (inside(only.start), inside(only.end()))
    });
    [
        (range.start, cut.0, RegionKind::Ram),
        (cut.0, cut.1, RegionKind::CpuRam),
        (cut.1, range.end(), RegionKind::Ram),
    ]
    .into_iter()
    .filter_map(|(start, end, kind)| {
        let offset = usize::try_from(start - range.start).ok()?;
        let len = usize::try_from(end - start).ok().filter(|len| *len > 0)?;
        Some(MemoryRegion {
            guest_address: start,
            host: host.part(offset, len)?,
            kind,
        })
    })
    .collect()
}

fn pieces(host: &HostRange, piece: usize) -> Vec<HostRange> {
    (0..host.len())
        .step_by(piece)
        .filter_map(|offset| host.part(offset, piece.min(host.len() - offset)))
        .collect()
}

/// Why the memory map could not be changed.
#[derive(Debug, thiserror::Error)]
pub enum MapError {
    /// The new region overlaps a present one.
    #[error("guest memory {address:#x}+{len:#x} is taken already")]
    Taken {
        /// Guest-physical address.
        address: u64,
        /// Length in bytes.
        len: u64,
    },
    /// No region starts there.
    #[error("no guest memory region starts at {address:#x}")]
    Absent {
        /// Guest-physical address.
        address: u64,
    },
    /// A listener could not follow.
    #[error("guest memory {address:#x}+{len:#x} can't be mapped")]
    Listener {
        /// Guest-physical address.
        address: u64,
        /// Length in bytes.
        len: u64,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// The guest-physical memory map and those that follow it.
#[derive(Default)]
pub struct MemoryMap {
    state: Mutex<MapState>,
}

#[derive(Default)]
struct MapState {
    regions: BTreeMap<u64, MemoryRegion>,
    listeners: Vec<Arc<dyn MemoryListener>>,
}

impl MemoryMap {
    /// An empty map without listeners.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, MapState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets `listener` follow the map from now on, after telling it of what is there: RAM first, with no lock held. To map
    /// RAM for DMA takes seconds, in which vCPUs turn BARs on and off. RAM must not change meanwhile.
    ///
    /// # Errors
    /// [`MapError::Listener`]; the listener does not follow then, and was told to forget what it
    /// was told before.
    pub fn add_listener(&self, listener: Arc<dyn MemoryListener>) -> Result<(), MapError> {
        let of_kind = |state: &MapState, bars: bool| -> Vec<MemoryRegion> {
            let regions = state.regions.values();
            let wanted = regions.filter(|region| (region.kind == RegionKind::Bar) == bars);
            wanted.cloned().collect()
        };
        let ram = of_kind(&self.lock(), false);
        tell(listener.as_ref(), &ram)?;
        let mut state = self.lock();
        if let Err(error) = tell(listener.as_ref(), &of_kind(&state, true)) {
            ram.iter().for_each(|told| forget(listener.as_ref(), told));
            return Err(error);
        }
        state.listeners.push(listener);
        Ok(())
    }

    /// Adds `region`.
    ///
    /// # Errors
    /// [`MapError`]; the map is as before then.
    pub fn add(&self, region: MemoryRegion) -> Result<(), MapError> {
        let mut state = self.lock();
        let (address, len) = (region.guest_address, region.host.len() as u64);
        let taken = MapError::Taken { address, len };
        let Some(end) = address.checked_add(len) else {
            return Err(taken);
        };
        let before = state.regions.range(..end).next_back();
        if before.is_some_and(|(start, present)| start + present.host.len() as u64 > address) {
            return Err(taken);
        }
        for (count, listener) in state.listeners.iter().enumerate() {
            if let Err(source) = listener.region_added(&region) {
                for told in state.listeners.iter().take(count) {
                    forget(told.as_ref(), &region);
                }
                return Err(listener_failed(&region, source));
            }
        }
        state.regions.insert(address, region);
        Ok(())
    }

    /// Removes the region that starts at `guest_address`; its host memory lives until the last
    /// holder lets go.
    ///
    /// # Errors
    /// [`MapError::Absent`].
    pub fn remove(&self, guest_address: u64) -> Result<(), MapError> {
        let mut state = self.lock();
        let region = state
            .regions
            .remove(&guest_address)
            .ok_or(MapError::Absent {
                address: guest_address,
            })?;
        // The IOMMU joined after KVM and lets go before it.
        for listener in state.listeners.iter().rev() {
            forget(listener.as_ref(), &region);
        }
        Ok(())
    }
}

fn listener_failed(region: &MemoryRegion, source: io::Error) -> MapError {
    MapError::Listener {
        address: region.guest_address,
        len: region.host.len() as u64,
        source,
    }
}

/// Tells `listener` of all `regions`, or of none.
fn tell(listener: &dyn MemoryListener, regions: &[MemoryRegion]) -> Result<(), MapError> {
    for (count, region) in regions.iter().enumerate() {
        if let Err(source) = listener.region_added(region) {
            let told = regions.iter().take(count);
            told.for_each(|done| forget(listener, done));
            return Err(listener_failed(region, source));
        }
    }
    Ok(())
}

fn forget(listener: &dyn MemoryListener, region: &MemoryRegion) {
    if let Err(error) = listener.region_removed(region) {
        log::error!(
            "guest memory {:#x} could not be unmapped: {error}",
            region.guest_address
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::{Receiver, Sender, channel};
    use std::thread;

    #[derive(Default)]
    struct Log {
        events: Mutex<Vec<(char, u64)>>,
        refuse: Option<u64>,
    }

    impl MemoryListener for Log {
        fn region_added(&self, region: &MemoryRegion) -> io::Result<()> {
            if self.refuse == Some(region.guest_address) {
                return Err(io::Error::from_raw_os_error(libc::ENOMEM));
            }
            self.events
                .lock()
                .unwrap()
                .push(('+', region.guest_address));
            Ok(())
        }

        fn region_removed(&self, region: &MemoryRegion) -> io::Result<()> {
            self.events
                .lock()
                .unwrap()
                .push(('-', region.guest_address));
            Ok(())
        }
    }

    fn placed(ranges: &[(u64, u64)], cpu_only: Option<MemoryRange>) -> GuestRam {
        let range = |(start, len)| MemoryRange { start, len };
        let placement = RamPlacement {
            ranges: ranges.iter().copied().map(range).collect(),
            cpu_only,
        };
        GuestRam::new(&placement, None).unwrap()
    }

    fn ram(start: u64, len: u64) -> MemoryRegion {
        placed(&[(start, len)], None).regions()[0].clone()
    }

    #[test]
    fn a_late_listener_is_told_of_every_region() {
        let map = MemoryMap::new();
        map.add(ram(0, 0x1000)).unwrap();
        map.add(ram(0x10_0000, 0x1000)).unwrap();
        let log = Arc::new(Log::default());
        map.add_listener(Arc::clone(&log) as Arc<dyn MemoryListener>)
            .unwrap();
        map.remove(0).unwrap();
        assert_eq!(
            *log.events.lock().unwrap(),
            [('+', 0), ('+', 0x10_0000), ('-', 0)]
        );
    }

    /// Waits for leave to go on whenever it is told of RAM.
    struct Slow {
        log: Log,
        begun: Mutex<Sender<()>>,
        go_on: Mutex<Receiver<()>>,
    }

    impl MemoryListener for Slow {
        fn region_added(&self, region: &MemoryRegion) -> io::Result<()> {
            if region.kind == RegionKind::Ram {
                self.begun.lock().unwrap().send(()).unwrap();
                self.go_on.lock().unwrap().recv().unwrap();
            }
            self.log.region_added(region)
        }

        fn region_removed(&self, region: &MemoryRegion) -> io::Result<()> {
            self.log.region_removed(region)
        }
    }

    #[test]
    fn bars_come_and_go_while_a_listener_is_told_of_ram() {
        let bar = |address| MemoryRegion {
            kind: RegionKind::Bar,
            ..ram(address, 0x1000)
        };
        let map = MemoryMap::new();
        map.add(bar(0x1000)).unwrap();
        map.add(bar(0x2000)).unwrap();
        map.add(ram(0x8000, 0x1000)).unwrap();
        let (begin, begun) = channel();
        let (go, go_on) = channel();
        let slow = Arc::new(Slow {
            log: Log::default(),
            begun: Mutex::new(begin),
            go_on: Mutex::new(go_on),
        });
        thread::scope(|scope| {
            let listener = Arc::clone(&slow) as Arc<dyn MemoryListener>;
            scope.spawn(|| map.add_listener(listener).unwrap());
            begun.recv().unwrap();
            map.remove(0x1000).unwrap();
            map.add(bar(0x3000)).unwrap();
            go.send(()).unwrap();
        });
        let told = [('+', 0x8000), ('+', 0x2000), ('+', 0x3000)];
        assert_eq!(*slow.log.events.lock().unwrap(), told);
    }

    #[test]
    fn a_refused_region_is_rolled_back_everywhere() {
        let map = MemoryMap::new();
        let first = Arc::new(Log::default());
        let second = Arc::new(Log {
            refuse: Some(0x1000),
            ..Log::default()
        });
        map.add_listener(Arc::clone(&first) as Arc<dyn MemoryListener>)
            .unwrap();
        map.add_listener(second).unwrap();
        assert!(matches!(
            map.add(ram(0x1000, 0x1000)),
            Err(MapError::Listener { .. })
        ));
        assert_eq!(
            *first.events.lock().unwrap(),
            [('+', 0x1000), ('-', 0x1000)]
        );
        assert!(matches!(map.remove(0x1000), Err(MapError::Absent { .. })));
    }

    #[test]
    fn overlapping_regions_are_refused() {
        let map = MemoryMap::new();
        map.add(ram(0x10000, 0x4000)).unwrap();
        for (start, len) in [
            (0xf000, 0x2000),
            (0x13000, 0x1000),
            (0x10000, 0x1000),
            (0x8000, 0x10000),
        ] {
            assert!(
                matches!(map.add(ram(start, len)), Err(MapError::Taken { .. })),
                "{start:#x}"
            );
        }
        map.add(ram(0x14000, 0x1000)).unwrap();
    }

    #[test]
    fn populated_ram_is_resident() {
        let resident = || {
            let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
            statm.split(' ').nth(2).unwrap().parse::<u64>().unwrap() * 4096
        };
        let ram = placed(&[(0, 130 << 20)], None);
        let before = resident();
        let cancelled = Populating::default();
        cancelled.cancel();
        populate(ram.regions(), None, &cancelled).unwrap();
        assert_eq!(cancelled.done(), 0);
        assert!(resident() < before + (64 << 20), "cancelled");
        let progress = Populating::default();
        populate(ram.regions(), None, &progress).unwrap();
        let all: u64 = ram.regions().iter().map(|r| r.host.len() as u64).sum();
        assert_eq!(progress.done(), all);
        assert!(resident() >= before + (130 << 20));
    }

    #[test]
    fn what_no_device_reaches_is_a_region_of_its_own() {
        let firmware = MemoryRange {
            start: 0xa_0000,
            len: 0x6_0000,
        };
        let ram = placed(&[(0, 4 << 20), (4 << 30, 2 << 20)], Some(firmware));
        let base = ram.regions()[0].host.address();
        let shape: Vec<_> = ram
            .regions()
            .iter()
            .map(|region| (region.guest_address, region.host.len(), region.kind))
            .collect();
        assert_eq!(
            shape,
            [
                (0, 0xa_0000, RegionKind::Ram),
                (0xa_0000, 0x6_0000, RegionKind::CpuRam),
                (0x10_0000, 0x30_0000, RegionKind::Ram),
                (4 << 30, 2 << 20, RegionKind::Ram),
            ]
        );
        assert_eq!(ram.regions()[2].host.address(), base + 0x10_0000);
        let plain = placed(&[(0, 4 << 20)], None);
        assert_eq!(plain.regions().len(), 1);
    }
}
