//! What a guest does to a function, decoded from bytes: any bytes are a program.

use super::host::HostIrqs;
use super::machine::Machine;
use super::probes::spec;
use super::saved::saved_probes;
use crate::pci::{BarIndex, ConfigOffset, PciFunction};
use crate::vfio::plan::{PassthroughPlan, PassthroughSpec, PlanError};
use crate::vfio::probe::VfioProbe;

/// Bytes of a program, read from the front; zeros when there are no more.
struct Bytes<'a>(&'a [u8]);

impl Bytes<'_> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        let mut taken = [0; N];
        let len = N.min(self.0.len());
        taken[..len].copy_from_slice(&self.0[..len]);
        self.0 = &self.0[len..];
        taken
    }

    fn byte(&mut self) -> u8 {
        u8::from_le_bytes(self.take())
    }

    fn word(&mut self) -> u16 {
        u16::from_le_bytes(self.take())
    }

    fn dword(&mut self) -> u32 {
        u32::from_le_bytes(self.take())
    }
}

/// Gives one of the saved probes, which the first byte picks, to a machine whose guest does what the other bytes say. The
/// host and the machine check each step; at the end the function leaves, and nothing of it may stay behind.
#[cfg_attr(test, expect(unreachable_pub, reason = "public for the fuzz target"))]
pub fn run_guest_program(program: &[u8]) {
    let probes = saved_probes();
    let Some((first, program)) = program.split_first() else {
        return;
    };
    let (name, probe) = &probes[usize::from(*first) % probes.len()];
    if let Err(error) = run_on(probe, program) {
        panic!("{name}: {error}");
    }
}

/// The same on any probe; the error is that of its plan.
pub(in crate::vfio) fn run_on(probe: &VfioProbe, program: &[u8]) -> Result<(), PlanError> {
    let of_probe = PassthroughSpec {
        sbdf: probe.sbdf,
        ..spec()
    };
    let plan = PassthroughPlan::new(probe, &of_probe)?;
    let mut machine = Machine::with_plan(probe, plan);
    let mut bytes = Bytes(program);
    let vendor = machine.read(0, 2);
    while !bytes.0.is_empty() {
        step(&mut machine, &mut bytes);
        assert_eq!(machine.read(0, 2), vendor, "another vendor");
    }
    machine.device.quiesce();
    let steps = machine.device.stop_decoding();
    machine.carry_out(&steps);
    assert!(machine.map.is_empty(), "{:?} decodes still", machine.map);
    let irqs = machine.host.state().irqs.clone();
    assert_eq!(irqs, HostIrqs::None, "interrupts stay enabled");
    Ok(())
}

/// One access, or a reset. Registers that do most are met more often than by chance.
fn step(machine: &mut Machine, bytes: &mut Bytes<'_>) {
    match bytes.byte() % 8 {
        0 => access_config(machine, bytes, 0x04),
        1 => {
            let register = 0x10 + 4 * u16::from(bytes.byte() % 9);
            access_config(machine, bytes, register);
        }
        2 | 3 => {
            let offset = bytes.word() % 0x100;
            access_config(machine, bytes, offset);
        }
        4 => {
            let offset = bytes.word() % ConfigOffset::SPACE;
            access_config(machine, bytes, offset);
        }
        5 | 6 => access_bar(machine, bytes),
        _ => {
            let steps = machine.device.stop_decoding();
            machine.carry_out(&steps);
            // A device without any reset says so.
            let _ = machine.device.reset();
        }
    }
}

/// Writes 1, 2 or 4 bytes that are aligned, at or before `offset`, and reads them back.
fn access_config(machine: &mut Machine, bytes: &mut Bytes<'_>, offset: u16) {
    let len = 1 << (bytes.byte() % 3);
    let offset = offset & !(len - 1);
    let value = bytes.dword();
    machine.write(offset, usize::from(len), value);
    machine.read(offset, usize::from(len));
}

/// Writes 1 to 8 bytes of a BAR, as far as they fit, and reads them back.
fn access_bar(machine: &mut Machine, bytes: &mut Bytes<'_>) {
    let layouts = machine.device.bars();
    if layouts.is_empty() {
        return;
    }
    let layout = &layouts[usize::from(bytes.byte()) % layouts.len()];
    let (bar, size): (BarIndex, u64) = (layout.index, layout.size);
    let offset = u64::from(bytes.dword()) % size;
    let len = (1 << (bytes.byte() % 4)).min(size - offset);
    let mut data = bytes.take::<8>();
    let data = &mut data[..usize::try_from(len).unwrap()];
    machine.device.bar_write(bar, offset, data);
    machine.device.bar_read(bar, offset, data);
}
