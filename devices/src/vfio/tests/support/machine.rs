//! A guest machine around one passed-through function.

use super::host::FakeHost;
use super::probes::spec;
use super::router::FakeRouter;
use crate::interrupt::{IntxRouter, MsiRouter};
use crate::pci::{BarIndex, BarKind, ConfigOffset, ConfigStep, PciFunction};
use crate::vfio::function::VfioPciDevice;
use crate::vfio::plan::PassthroughPlan;
use crate::vfio::probe::VfioProbe;
use std::collections::BTreeMap;
use std::sync::Arc;

/// A guest machine with one passed-through function in it.
pub(in crate::vfio::tests) struct Machine {
    pub(in crate::vfio::tests) device: Arc<VfioPciDevice>,
    pub(in crate::vfio::tests) host: Arc<FakeHost>,
    pub(in crate::vfio::tests) router: Arc<FakeRouter>,
    /// What is mapped where.
    pub(in crate::vfio::tests) map: BTreeMap<BarIndex, u64>,
}

impl Machine {
    pub(in crate::vfio::tests) fn new(probe: &VfioProbe) -> Self {
        let plan = PassthroughPlan::new(probe, &spec()).unwrap();
        Self::with_plan(probe, plan)
    }

    pub(in crate::vfio::tests) fn with_plan(probe: &VfioProbe, plan: PassthroughPlan) -> Self {
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

    pub(in crate::vfio::tests) fn read(&self, offset: u16, len: usize) -> u32 {
        let mut bytes = [0; 4];
        let offset = ConfigOffset::new(offset).unwrap();
        self.device.config_read(offset, &mut bytes[..len]);
        u32::from_le_bytes(bytes)
    }

    pub(in crate::vfio::tests) fn write(
        &mut self,
        offset: u16,
        len: usize,
        value: u32,
    ) -> Vec<ConfigStep> {
        let offset = ConfigOffset::new(offset).unwrap();
        let steps = self
            .device
            .config_write(offset, &value.to_le_bytes()[..len]);
        self.carry_out(&steps);
        steps
    }

    /// Carries steps out as the dispatcher does, and checks that they fit together.
    pub(in crate::vfio::tests) fn carry_out(&mut self, steps: &[ConfigStep]) {
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
                            self.host.decodes(&state),
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

    pub(in crate::vfio::tests) fn calls(&self) -> Vec<String> {
        std::mem::take(&mut self.host.state().calls)
    }

    pub(in crate::vfio::tests) fn table_write(&self, bar: u8, offset: u64, value: u32) {
        let bar = BarIndex::new(bar).unwrap();
        self.device.bar_write(bar, offset, &value.to_le_bytes());
    }

    pub(in crate::vfio::tests) fn bar_read(&self, bar: u8, offset: u64) -> u32 {
        let mut bytes = [0; 4];
        let bar = BarIndex::new(bar).unwrap();
        self.device.bar_read(bar, offset, &mut bytes);
        u32::from_le_bytes(bytes)
    }
}
