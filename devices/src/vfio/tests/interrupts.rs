use crate::interrupt::MsiMessage;
use crate::pci::PciFunction;
use crate::vfio::VfioProbe;
use crate::vfio::tests::support::{
    COMMAND, HostIrqs, IGB_MSI, IGB_MSIX, Machine, igb, put32, without_dynamic_msix,
};

const TABLE_BAR: u8 = 3;
const PBA: u64 = 0x2000;
const ENABLE: u32 = 1 << 15;
const FUNCTION_MASK: u32 = 1 << 14;
const MSI_ENABLE: u32 = 1;
const MEMORY: u32 = 2;
const BUS_MASTER: u32 = 4;
const INTERRUPT_DISABLE: u32 = 1 << 10;

fn control(machine: &mut Machine, value: u32) {
    machine.write(IGB_MSIX + 2, 2, value);
}

fn mask(machine: &Machine, vector: u64, masked: bool) {
    machine.table_write(TABLE_BAR, vector * 16 + 12, masked.into());
}

fn program(machine: &Machine, vector: u64, data: u32) {
    machine.table_write(TABLE_BAR, vector * 16, 0xfee0_1000);
    machine.table_write(TABLE_BAR, vector * 16 + 4, 0);
    machine.table_write(TABLE_BAR, vector * 16 + 8, data);
}

fn message(data: u32) -> MsiMessage {
    MsiMessage {
        address: 0xfee0_1000,
        data,
    }
}

/// A guest that has enabled MSI-X as Linux does: masked, table programmed, unmasked.
fn enabled(probe: &VfioProbe) -> Machine {
    let mut machine = Machine::new(probe);
    control(&mut machine, ENABLE | FUNCTION_MASK);
    for vector in 0..10 {
        program(&machine, vector, 0x40 + u32::try_from(vector).unwrap());
    }
    control(&mut machine, ENABLE);
    machine
}

#[test]
fn msix_enable_arms_no_vector() {
    let machine = enabled(&igb());
    assert_eq!(machine.calls(), ["2: trigger 0+1 (0)"]);
    assert_eq!(machine.device.armed_vectors(), [0u32; 0]);
    assert!(machine.router.routes().msi.is_empty());
    assert_eq!(machine.read(IGB_MSIX + 2, 2), ENABLE | 9);
}

#[test]
fn a_vector_is_armed_when_first_unmasked_and_stays_armed() {
    let machine = enabled(&igb());
    machine.calls();
    mask(&machine, 7, false);
    assert_eq!(machine.calls(), ["2: trigger 7+1 (1)"]);
    assert_eq!(machine.device.armed_vectors(), [7]);
    assert_eq!(machine.host.armed(), [7]);
    assert_eq!(machine.router.messages(), [message(0x47)]);
    mask(&machine, 7, true);
    assert_eq!(machine.router.messages(), []);
    assert_eq!(machine.device.armed_vectors(), [7]);
    mask(&machine, 7, false);
    assert_eq!(machine.router.messages(), [message(0x47)]);
    assert_eq!(machine.calls(), Vec::<String>::new());
}

#[test]
fn a_message_change_moves_the_route_alone() {
    let machine = enabled(&igb());
    mask(&machine, 0, false);
    machine.calls();
    machine.table_write(TABLE_BAR, 8, 0x99);
    assert_eq!(machine.router.messages(), [message(0x99)]);
    assert_eq!(machine.calls(), Vec::<String>::new());
}

#[test]
fn function_mask_detaches_all_and_gives_them_back() {
    let mut machine = enabled(&igb());
    mask(&machine, 0, false);
    mask(&machine, 9, false);
    machine.calls();
    control(&mut machine, ENABLE | FUNCTION_MASK);
    assert_eq!(machine.router.messages(), []);
    control(&mut machine, ENABLE);
    assert_eq!(machine.router.messages(), [message(0x40), message(0x49)]);
    assert_eq!(machine.calls(), Vec::<String>::new());
}

#[test]
fn a_masked_vector_is_pending_in_the_pba() {
    let machine = enabled(&igb());
    mask(&machine, 3, false);
    mask(&machine, 3, true);
    assert_eq!(machine.bar_read(TABLE_BAR, PBA), 0);
    let HostIrqs::Messages { triggers, .. } = machine.host.state().irqs.clone() else {
        panic!("MSI-X is off");
    };
    // The device signals through the eventfd that it was given.
    let path = format!("/proc/self/fd/{}", triggers[&3]);
    assert!(
        std::fs::read_link(path)
            .unwrap()
            .to_string_lossy()
            .contains("eventfd")
    );
    machine.router.signal_last();
    assert_eq!(machine.bar_read(TABLE_BAR, PBA), 1 << 3);
    mask(&machine, 3, false);
    assert_eq!(machine.bar_read(TABLE_BAR, PBA), 0);
}

#[test]
fn without_dynamic_msix_a_higher_vector_rearms_all() {
    let mut machine = enabled(&without_dynamic_msix(igb()));
    machine.calls();
    mask(&machine, 0, false);
    assert_eq!(machine.calls(), ["2: trigger 0+1 (1)"]);
    mask(&machine, 4, false);
    assert_eq!(machine.calls(), ["2: disable", "2: trigger 0+5 (2)"]);
    mask(&machine, 2, false);
    assert_eq!(machine.calls(), ["2: trigger 2+1 (1)"]);
    assert_eq!(machine.host.armed(), [0, 2, 4]);
    // Unmasked all at once: one re-arm.
    control(&mut machine, ENABLE | FUNCTION_MASK);
    for vector in 5..10 {
        mask(&machine, vector, false);
    }
    assert_eq!(machine.calls(), Vec::<String>::new());
    control(&mut machine, ENABLE);
    let calls = machine.calls();
    assert_eq!(calls.iter().filter(|c| *c == "2: disable").count(), 1);
    assert_eq!(machine.device.armed_vectors(), [0, 2, 4, 5, 6, 7, 8, 9]);
    assert_eq!(machine.host.armed(), machine.device.armed_vectors());
}

/// What the device signalled while they were off is lost: the guest looks for itself.
#[test]
fn without_dynamic_msix_vectors_that_were_off_for_another_get_an_interrupt() {
    let pending = |probe: &VfioProbe| {
        let machine = enabled(probe);
        mask(&machine, 0, false);
        mask(&machine, 4, false);
        // An interrupt that nobody took is pending once its vector is masked.
        mask(&machine, 0, true);
        mask(&machine, 4, true);
        machine.bar_read(TABLE_BAR, PBA)
    };
    assert_eq!(pending(&without_dynamic_msix(igb())), 1 << 0);
    assert_eq!(pending(&igb()), 0, "none was off");
}

#[test]
fn disabling_msix_gives_every_gsi_back() {
    let mut machine = enabled(&igb());
    mask(&machine, 1, false);
    control(&mut machine, 0);
    assert_eq!(machine.host.state().irqs, HostIrqs::None);
    assert!(machine.router.routes().msi.is_empty());
    // The table keeps what the guest wrote.
    control(&mut machine, ENABLE);
    assert_eq!(machine.router.messages(), [message(0x41)]);
}

#[test]
fn a_machine_out_of_gsis_loses_the_vector_and_says_so() {
    let machine = enabled(&igb());
    machine.router.routes().left = Some(1);
    mask(&machine, 0, false);
    mask(&machine, 1, false);
    assert_eq!(machine.device.armed_vectors(), [0]);
    assert_eq!(machine.device.failures(), 1);
}

#[test]
fn a_host_that_refuses_is_asked_again_at_the_next_unmask() {
    let machine = enabled(&igb());
    machine.host.state().broken = true;
    mask(&machine, 5, false);
    assert_eq!(machine.device.armed_vectors(), [0u32; 0]);
    assert_eq!(machine.device.failures(), 1);
    machine.host.state().broken = false;
    mask(&machine, 5, true);
    mask(&machine, 5, false);
    assert_eq!(machine.device.armed_vectors(), [5]);
}

/// An igb with four MSI vectors.
fn with_msi() -> VfioProbe {
    let mut probe = igb();
    put32(&mut probe.config, IGB_MSI, 0x0184_7005);
    probe.irqs[1].count = 4;
    probe
}

fn enable_msi(machine: &mut Machine) {
    machine.write(IGB_MSI + 4, 4, 0xfee0_1000);
    machine.write(IGB_MSI + 0xc, 2, 0x40);
    machine.write(IGB_MSI + 2, 2, 2 << 4 | MSI_ENABLE);
}

#[test]
fn msi_vectors_count_in_the_low_bits_and_are_armed_together() {
    let mut machine = Machine::new(&with_msi());
    enable_msi(&mut machine);
    assert_eq!(machine.calls(), ["1: trigger 0+4 (4)"]);
    let messages: Vec<u32> = machine.router.messages().iter().map(|m| m.data).collect();
    assert_eq!(messages, [0x40, 0x41, 0x42, 0x43]);
    // Mask Bits: vector 2 waits.
    machine.write(IGB_MSI + 0x10, 4, 1 << 2);
    assert_eq!(machine.router.messages().len(), 3);
    machine.router.signal_last();
    assert_eq!(machine.read(IGB_MSI + 0x14, 4), 0);
    machine.write(IGB_MSI + 0x10, 4, 1 << 3);
    assert_eq!(machine.read(IGB_MSI + 0x14, 4), 1 << 3);
    machine.write(IGB_MSI + 2, 2, 0);
    assert!(machine.router.routes().msi.is_empty());
    assert_eq!(machine.device.failures(), 0);
}

#[test]
fn a_host_without_vector_blocks_gets_one_msi_vector() {
    let mut machine = Machine::new(&with_msi());
    machine.host.state().msi_limit = Some(1);
    enable_msi(&mut machine);
    assert_eq!(machine.host.armed(), [0]);
    assert_eq!(machine.device.armed_vectors(), [0]);
}

#[test]
fn intx_is_wired_while_the_function_decodes_and_has_no_messages() {
    let mut machine = Machine::new(&igb());
    assert_eq!(machine.calls(), Vec::<String>::new());
    machine.write(COMMAND, 2, MEMORY);
    assert_eq!(machine.calls(), ["0: trigger 0+1 (1)", "0: unmask"]);
    assert!(machine.router.routes().intx.contains_key(&19));
    machine.write(COMMAND, 2, MEMORY | INTERRUPT_DISABLE);
    assert_eq!(machine.calls(), ["0: disable"]);
    assert!(machine.router.routes().intx.is_empty());
    machine.write(COMMAND, 2, MEMORY);
    machine.calls();
    control(&mut machine, ENABLE);
    assert_eq!(machine.calls(), ["0: disable", "2: trigger 0+1 (0)"]);
    control(&mut machine, 0);
    assert_eq!(
        machine.calls(),
        ["2: disable", "0: trigger 0+1 (1)", "0: unmask"]
    );
    machine.device.quiesce();
    assert_eq!(machine.host.state().irqs, HostIrqs::None);
    assert_eq!(machine.device.failures(), 0);
}

#[test]
fn msix_wins_over_msi_and_one_is_enabled_at_a_time() {
    let mut machine = Machine::new(&with_msi());
    enable_msi(&mut machine);
    machine.calls();
    control(&mut machine, ENABLE);
    assert_eq!(machine.calls(), ["1: disable", "2: trigger 0+1 (0)"]);
    control(&mut machine, 0);
    assert_eq!(machine.calls(), ["2: disable", "1: trigger 0+4 (4)"]);
}

#[test]
fn dropping_the_device_leaves_nothing_armed_and_no_bus_mastering() {
    let mut machine = enabled(&igb());
    mask(&machine, 1, false);
    machine.write(COMMAND, 2, MEMORY | BUS_MASTER);
    let Machine {
        device,
        host,
        router,
        ..
    } = machine;
    drop(device);
    assert_eq!(host.state().irqs, HostIrqs::None);
    assert!(router.routes().msi.is_empty());
    let command = u32::from(host.state().config[usize::from(COMMAND)]);
    assert_eq!(command & BUS_MASTER, 0);
}

#[test]
fn interrupts_of_a_disarmed_vector_stay_counted() {
    let mut machine = enabled(&igb());
    mask(&machine, 2, false);
    control(&mut machine, 0);
    control(&mut machine, ENABLE);
    mask(&machine, 2, true);
    mask(&machine, 2, false);
    mask(&machine, 5, false);
    let taken = machine.device.interrupts();
    let counts: Vec<_> = taken.iter().map(|i| (i.vector, i.count)).collect();
    assert_eq!(counts, [(2, 6), (5, 3)]);
}

/// The row of a pin in the host's /proc/interrupts goes on from where its last user left it.
#[test]
fn interrupts_of_a_pin_are_counted_once_however_often_it_is_wired() {
    let mut machine = Machine::new(&igb());
    machine.host.state().pin_count = 100;
    for _ in 0..3 {
        machine.write(COMMAND, 2, MEMORY);
        machine.host.state().pin_count += 5;
        machine.write(COMMAND, 2, MEMORY | INTERRUPT_DISABLE);
        machine.host.state().pin_count += 1000;
    }
    machine.write(COMMAND, 2, MEMORY);
    machine.host.state().pin_count += 2;
    let taken = machine.device.interrupts();
    assert_eq!(taken.len(), 1);
    assert_eq!(taken[0].count, 17);
}

#[test]
fn accesses_to_the_msix_table_are_counted_where_they_went() {
    let machine = Machine::new(&igb());
    program(&machine, 1, 0x41);
    mask(&machine, 1, false);
    mask(&machine, 1, true);
    machine.bar_read(TABLE_BAR, PBA);
    let told: Vec<_> = machine.device.bar_traps();
    let told: Vec<_> = told
        .iter()
        .map(|(place, counts)| {
            assert_eq!(place.bar.get(), TABLE_BAR);
            (place.offset.unwrap(), counts.reads, counts.writes)
        })
        .collect();
    assert_eq!(
        told,
        [
            (0x10, 0, 1),
            (0x14, 0, 1),
            (0x18, 0, 1),
            (0x1c, 0, 2),
            (PBA, 1, 0)
        ]
    );
}
