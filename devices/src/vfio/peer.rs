//! BARs that assigned devices reach in each other: peer-to-peer DMA.
//!
//! A BAR is mapped for DMA when the guest lets it decode, and not before: vfio-pci lets nobody look a
//! BAR up that doesn't decode. Before Linux 6.15 mapping looks up every 4 KiB of it, which takes
//! seconds for some GiB, and the guest's CPU would stand still that long. So a large BAR is mapped
//! piece by piece on a thread of its own, and its peers reach it a moment after its decoding is on.
//! Unmapping is not put off: a BAR leaves the IOMMU before it stops decoding.

use crate::failures::Failures;
use crate::mapping::HostRange;
use crate::memory::{DmaMapper, Iova};
use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

/// A BAR up to this size is mapped before the guest goes on.
const AT_ONCE: usize = 64 << 20;

/// A larger one is mapped in pieces of the IOMMU's largest page. Taking the BAR away waits for one at most.
const PIECE: u64 = 1 << 30;

/// The BARs that decode, of all devices of one container.
pub(super) struct PeerBars {
    shared: Arc<Shared>,
    worker: Mutex<Option<JoinHandle<()>>>,
}

struct Shared {
    mapper: Arc<dyn DmaMapper>,
    state: Mutex<State>,
    changed: Condvar,
    /// A guest can turn the decoding of a BAR on as often as it likes.
    failures: Failures,
}

#[derive(Default)]
struct State {
    /// There are devices to reach each other's BARs: a device has no need of its own.
    peers: bool,
    /// By IOVA.
    bars: BTreeMap<u64, Bar>,
    /// The one of which a piece is being mapped, with no lock held.
    busy: Option<u64>,
    ended: bool,
}

struct Bar {
    host: HostRange,
    /// Bytes from the start that the kernel has mapped.
    mapped: usize,
    /// Nothing more of it is to be mapped: it could not be, or it is being taken away.
    closed: bool,
}

impl Bar {
    /// What is to be mapped next: its IOVA and where it is.
    fn next_piece(&self, iova: u64) -> Option<(u64, HostRange)> {
        if self.closed {
            return None;
        }
        let start = iova + self.mapped as u64;
        let piece = usize::try_from(PIECE - start % PIECE).ok()?;
        let left = self.host.len() - self.mapped;
        Some((start, self.host.part(self.mapped, piece.min(left))?))
    }
}

impl PeerBars {
    /// No BAR yet, and no peers.
    pub(super) fn new(mapper: Arc<dyn DmaMapper>) -> Self {
        let shared = Shared {
            mapper,
            state: Mutex::default(),
            changed: Condvar::new(),
            failures: Failures::default(),
        };
        Self {
            shared: Arc::new(shared),
            worker: Mutex::default(),
        }
    }

    /// How many devices there are now.
    pub(super) fn devices(&self, count: usize) {
        let mut state = self.shared.lock();
        // What was mapped for a peer that left may stay: another can come.
        state.peers |= count > 1;
        if count == 0 {
            // First, or the thread would go on to the next piece for ever.
            state.peers = false;
            state = self.shared.unmap_all(state);
        }
        let work = state.peers && state.next_piece().is_some();
        drop(state);
        if work {
            self.wake();
        }
    }

    /// Bytes that are mapped.
    pub(super) fn mapped(&self) -> u64 {
        let state = self.shared.lock();
        state.bars.values().map(|bar| bar.mapped as u64).sum()
    }

    /// A BAR decodes at `iova` from now on.
    pub(super) fn add(&self, iova: Iova, host: &HostRange) {
        let mut state = self.shared.lock();
        let bar = Bar {
            host: host.clone(),
            mapped: 0,
            closed: false,
        };
        state.bars.insert(iova.0, bar);
        if !state.peers {
            return;
        }
        if host.len() <= AT_ONCE {
            let result = self.shared.mapper.map(iova, host);
            self.shared.done(&mut state, iova.0, host.len(), result);
        } else {
            drop(state);
            self.wake();
        }
    }

    /// The BAR at `iova` is about to stop decoding. Waits for the piece that is being mapped.
    ///
    /// # Errors
    /// `ENOENT` if there is none; the errno of `VFIO_IOMMU_UNMAP_DMA`.
    pub(super) fn remove(&self, iova: Iova) -> io::Result<()> {
        let absent = || io::Error::from_raw_os_error(libc::ENOENT);
        let mut state = self.shared.lock();
        state.bars.get_mut(&iova.0).ok_or_else(absent)?.closed = true;
        state = self.shared.idle(state, iova.0);
        let bar = state.bars.remove(&iova.0).ok_or_else(absent)?;
        match bar.mapped {
            0 => Ok(()),
            mapped => self.shared.mapper.unmap(iova, mapped as u64),
        }
    }

    /// Has the thread look for work; starts it if there is none yet.
    fn wake(&self) {
        let mut worker = self.worker.lock().unwrap_or_else(PoisonError::into_inner);
        if worker.is_none() {
            let shared = Arc::clone(&self.shared);
            let started = thread::Builder::new()
                .name("peer-map".to_owned())
                .spawn(move || shared.work());
            match started {
                Ok(thread) => *worker = Some(thread),
                Err(error) => log::warn!(
                    "large BARs are not mapped for DMA, other assigned devices won't reach them: {error}"
                ),
            }
        }
        self.shared.changed.notify_all();
    }
}

impl Drop for PeerBars {
    fn drop(&mut self) {
        self.shared.lock().ended = true;
        self.shared.changed.notify_all();
        let worker = self
            .worker
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(thread) = worker.take() {
            // A panic of it was printed; nothing else is left to do here.
            let _ = thread.join();
        }
    }
}

impl State {
    /// Some BAR's next piece: the BAR's IOVA, the piece's, and where it is.
    fn next_piece(&self) -> Option<(u64, u64, HostRange)> {
        self.bars.iter().find_map(|(iova, bar)| {
            let (start, host) = bar.next_piece(*iova)?;
            Some((*iova, start, host))
        })
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until nothing of the BAR at `iova` is being mapped.
    fn idle<'a>(&self, state: MutexGuard<'a, State>, iova: u64) -> MutexGuard<'a, State> {
        self.changed
            .wait_while(state, |state| state.busy == Some(iova))
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// The thread: maps a piece at a time, until the end.
    fn work(&self) {
        let mut state = self.lock();
        while !state.ended {
            let piece = state.peers.then(|| state.next_piece()).flatten();
            let Some((bar, start, host)) = piece else {
                state = self
                    .changed
                    .wait(state)
                    .unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            state.busy = Some(bar);
            drop(state);
            let result = self.mapper.map(Iova(start), &host);
            state = self.lock();
            state.busy = None;
            self.done(&mut state, bar, host.len(), result);
            self.changed.notify_all();
        }
    }

    /// Notes that the next `len` bytes of the BAR at `iova` are mapped. If they aren't, none of it will be:
    /// that is no failure of the guest's, whose devices may well do without each other.
    fn done(&self, state: &mut State, iova: u64, len: usize, result: io::Result<()>) {
        let Some(bar) = state.bars.get_mut(&iova) else {
            return;
        };
        let Err(error) = result else {
            bar.mapped += len;
            return;
        };
        self.failures.report(format_args!(
            "BAR memory at {iova:#x}+{:#x} can't be mapped for DMA, other assigned devices won't reach it: {error}",
            bar.host.len()
        ));
        bar.closed = true;
        self.unmap(iova, bar);
    }

    /// Takes from the kernel what it has of `bar`.
    fn unmap(&self, iova: u64, bar: &mut Bar) {
        let mapped = std::mem::take(&mut bar.mapped) as u64;
        if mapped > 0
            && let Err(error) = self.mapper.unmap(Iova(iova), mapped)
        {
            log::error!("DMA mapping {iova:#x}+{mapped:#x} could not be undone: {error}");
        }
    }

    /// Takes everything from the kernel; what still decodes is mapped again when there are peers again.
    fn unmap_all<'a>(&self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        let mut state = self
            .changed
            .wait_while(state, |state| state.busy.is_some())
            .unwrap_or_else(PoisonError::into_inner);
        for (iova, bar) in &mut state.bars {
            self.unmap(*iova, bar);
        }
        state
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mapping::{Access, HostMapping};
    use std::os::fd::AsFd;
    use std::sync::mpsc::{Receiver, Sender, channel};

    /// Does as a kernel would; large mappings wait to be let through.
    struct Kernel {
        mappings: Mutex<Vec<(u64, u64)>>,
        gate: Mutex<Receiver<io::Result<()>>>,
        begun: Sender<u64>,
    }

    struct Bench {
        kernel: Arc<Kernel>,
        peers: PeerBars,
        gate: Sender<io::Result<()>>,
        begun: Receiver<u64>,
    }

    impl DmaMapper for Kernel {
        fn map(&self, iova: Iova, host: &HostRange) -> io::Result<()> {
            let len = host.len() as u64;
            if host.len() > AT_ONCE {
                self.begun.send(iova.0).unwrap();
                self.gate.lock().unwrap().recv().unwrap()?;
            }
            self.mappings.lock().unwrap().push((iova.0, len));
            Ok(())
        }

        fn unmap(&self, iova: Iova, len: u64) -> io::Result<()> {
            let mut mappings = self.mappings.lock().unwrap();
            let before: u64 = mappings.iter().map(|(_, len)| len).sum();
            mappings.retain(|(start, _)| *start < iova.0 || *start >= iova.0 + len);
            let after: u64 = mappings.iter().map(|(_, len)| len).sum();
            assert_eq!(before - after, len, "exactly what was mapped");
            Ok(())
        }
    }

    fn bench(devices: usize) -> Bench {
        let (gate, gated) = channel();
        let (begin, begun) = channel();
        let kernel = Arc::new(Kernel {
            mappings: Mutex::default(),
            gate: Mutex::new(gated),
            begun: begin,
        });
        let peers = PeerBars::new(Arc::clone(&kernel) as Arc<dyn DmaMapper>);
        peers.devices(devices);
        Bench {
            kernel,
            peers,
            gate,
            begun,
        }
    }

    impl Bench {
        fn mapped(&self) -> Vec<(u64, u64)> {
            self.kernel.mappings.lock().unwrap().clone()
        }

        /// Waits until so much is mapped.
        fn wait_for(&self, bytes: usize) {
            let state = self.peers.shared.lock();
            let mapped = |state: &State| state.bars.values().map(|bar| bar.mapped).sum::<usize>();
            let changed = &self.peers.shared.changed;
            drop(changed.wait_while(state, |state| mapped(state) < bytes));
        }
    }

    fn memory(len: u64) -> HostRange {
        let file = tempfile::tempfile().unwrap();
        file.set_len(len).unwrap();
        let access = Access {
            read: true,
            write: true,
        };
        let len = usize::try_from(len).unwrap();
        let mapping = HostMapping::shared(file.as_fd(), 0, len, access, 0).unwrap();
        HostRange::whole(Arc::new(mapping))
    }

    const GIB: u64 = 1 << 30;
    const PAGE: u64 = 4096;

    #[test]
    fn a_lone_device_has_its_bars_mapped_for_nobody() {
        let bench = bench(1);
        bench.peers.add(Iova(GIB), &memory(PAGE));
        assert_eq!(bench.mapped(), []);
        bench.peers.remove(Iova(GIB)).unwrap();
    }

    #[test]
    fn a_peer_that_comes_later_reaches_what_decodes() {
        let bench = bench(1);
        bench.peers.add(Iova(GIB), &memory(PAGE));
        bench.peers.devices(2);
        bench.wait_for(4096);
        assert_eq!(bench.mapped(), [(GIB, PAGE)]);
    }

    #[test]
    fn a_small_bar_is_mapped_before_the_guest_goes_on() {
        let bench = bench(2);
        bench.peers.add(Iova(GIB), &memory(AT_ONCE as u64));
        assert_eq!(bench.mapped(), [(GIB, AT_ONCE as u64)]);
        bench.peers.remove(Iova(GIB)).unwrap();
        assert_eq!(bench.mapped(), []);
    }

    #[test]
    fn nobody_waits_for_a_large_bar_and_its_pieces_are_whole_pages_of_the_iommu() {
        let bench = bench(2);
        // As behind an MSI-X table: not at the start of a large page.
        let start = 4 * GIB + PAGE;
        bench.peers.add(Iova(start), &memory(2 * GIB));
        assert_eq!(bench.mapped(), [], "add has returned");
        for _ in 0..3 {
            bench.gate.send(Ok(())).unwrap();
        }
        bench.wait_for(2 << 30);
        let pieces = [(start, GIB - PAGE), (5 * GIB, GIB), (6 * GIB, PAGE)];
        assert_eq!(bench.mapped(), pieces);
        bench.peers.remove(Iova(start)).unwrap();
        assert_eq!(bench.mapped(), []);
    }

    #[test]
    fn a_bar_that_is_taken_away_while_it_is_being_mapped_leaves_nothing() {
        let bench = bench(2);
        bench.peers.add(Iova(4 * GIB), &memory(3 * GIB));
        bench.gate.send(Ok(())).unwrap();
        assert_eq!(bench.begun.recv().unwrap(), 4 * GIB);
        assert_eq!(bench.begun.recv().unwrap(), 5 * GIB);
        thread::scope(|scope| {
            let remover = scope.spawn(|| bench.peers.remove(Iova(4 * GIB)));
            while !bench.peers.shared.lock().bars[&(4 * GIB)].closed {
                thread::yield_now();
            }
            assert!(!remover.is_finished(), "a piece is being mapped");
            bench.gate.send(Ok(())).unwrap();
            remover.join().unwrap().unwrap();
        });
        assert_eq!(bench.mapped(), []);
        assert!(bench.begun.try_recv().is_err(), "no third piece");
    }

    #[test]
    fn a_bar_that_can_not_be_mapped_whole_is_not_mapped_at_all_and_is_no_error() {
        let bench = bench(2);
        bench.peers.add(Iova(4 * GIB), &memory(2 * GIB));
        bench.gate.send(Ok(())).unwrap();
        let refused = io::Error::from_raw_os_error(libc::ENOSPC);
        bench.gate.send(Err(refused)).unwrap();
        let state = bench.peers.shared.lock();
        let changed = &bench.peers.shared.changed;
        drop(changed.wait_while(state, |state| !state.bars[&(4 * GIB)].closed));
        assert_eq!(bench.mapped(), []);
        bench.peers.remove(Iova(4 * GIB)).unwrap();
    }

    #[test]
    fn the_last_device_takes_every_mapping_with_it() {
        let bench = bench(2);
        bench.peers.add(Iova(GIB), &memory(PAGE));
        bench.peers.devices(1);
        assert_eq!(bench.mapped(), [(GIB, PAGE)]);
        bench.peers.devices(0);
        assert_eq!(bench.mapped(), []);
        bench.peers.remove(Iova(GIB)).unwrap();
    }
}
