//! The serial console: a 16550A at a COM port.

use crate::bus::BusDevice;
use std::io::{self, Write};
use std::sync::{Mutex, MutexGuard, PoisonError};
use vm_superio::serial::{Error, SerialEvents};
use vm_superio::{Serial as Uart, Trigger};
use vmm_sys_util::eventfd::EventFd;

/// Transmitter Holding and Receiver Buffer Register.
const DATA: u8 = 0;
/// Interrupt Enable Register.
const INTERRUPT_ENABLE: u8 = 1;
/// Interrupt Identification Register.
const INTERRUPT_IDENTIFICATION: u8 = 2;
/// Line Status Register.
const LINE_STATUS: u8 = 5;

/// Line Control Register.
const LINE_CONTROL: u8 = 3;
/// Modem Control Register.
const MODEM_CONTROL: u8 = 4;
/// Scratch Register.
const SCRATCH: u8 = 7;

/// Interrupt Enable: Received Data Available.
const ENABLE_RECEIVED_DATA: u8 = 1 << 0;
/// Interrupt Identification: nothing is pending.
const NOT_PENDING: u8 = 1 << 0;
/// Interrupt Identification: the field that tells which interrupt is pending.
const IDENTITY: u8 = 0b111 << 1 | NOT_PENDING;
/// Interrupt Identification: Transmitter Holding Register Empty.
const TRANSMITTER_EMPTY: u8 = 0b001 << 1;
/// Interrupt Identification: Received Data Available.
const RECEIVED_DATA: u8 = 0b010 << 1;
/// Line Control after reset: 8 data bits, divisor latch closed.
const EIGHT_BITS: u8 = 0b11;
/// Modem Control after reset: OUT2, which lets the interrupt out.
const OUT2: u8 = 1 << 3;
/// Modem Control: the receiver hears the transmitter, and nothing else.
const LOOPBACK: u8 = 1 << 4;

/// Depth of the receive FIFO as vm-superio has it.
const RECEIVE_FIFO: usize = 64;

/// Output goes out at the latest when so many bytes wait.
const OUTPUT_BUFFER: usize = 512;

/// The line to the interrupt controller, edge triggered.
struct InterruptLine(EventFd);

impl Trigger for InterruptLine {
    type E = io::Error;

    fn trigger(&self) -> io::Result<()> {
        self.0.write(1)
    }
}

/// Tells who feeds the input that there is room for it.
struct Drained(EventFd);

impl SerialEvents for Drained {
    fn buffer_read(&self) {}
    fn out_byte(&self) {}
    fn tx_lost_byte(&self) {}
    fn in_buffer_empty(&self) {
        if let Err(error) = self.0.write(1) {
            log::warn!("serial: signal for drained input: {error}");
        }
    }
}

/// Gathers the bytes that the UART writes one by one.
///
/// The UART flushes after each byte; here that does nothing, [`Output::send`] does.
struct Output {
    waiting: Vec<u8>,
    sink: Box<dyn Write + Send>,
    /// A failed sink is told of once, until it works again.
    failed: bool,
}

impl Output {
    fn send(&mut self) {
        if self.waiting.is_empty() {
            return;
        }
        let sent = self
            .sink
            .write_all(&self.waiting)
            .and_then(|()| self.sink.flush());
        self.waiting.clear();
        match sent {
            Ok(()) => self.failed = false,
            Err(error) if !self.failed => {
                self.failed = true;
                log::warn!("serial: output is lost: {error}");
            }
            Err(_) => {}
        }
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.waiting.extend_from_slice(bytes);
        if self.waiting.len() >= OUTPUT_BUFFER || bytes.contains(&b'\n') {
            self.send();
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct State {
    uart: Uart<InterruptLine, Drained, Output>,
    /// The guest's last access read the line status.
    polling: bool,
    /// A transmitter interrupt that waits behind a receiver interrupt.
    transmitter_waits: bool,
}

impl State {
    fn input_waits(&self) -> bool {
        self.uart.fifo_capacity() < RECEIVE_FIFO
    }

    fn read(&mut self, register: u8) -> u8 {
        let polls = register == LINE_STATUS;
        if register == INTERRUPT_IDENTIFICATION || (polls && self.polling) {
            self.uart.writer_mut().send();
        }
        self.polling = polls;
        let value = self.uart.read(register);
        match register {
            INTERRUPT_IDENTIFICATION => value & !IDENTITY | self.identify(value & IDENTITY),
            _ => value,
        }
    }

    /// What Interrupt Identification shows where vm-superio shows `pending`.
    ///
    /// vm-superio ORs causes that are pending together, and forgets received data once it has told of
    /// it, so that a driver which reads a part of the FIFO would never hear of the rest. A 16550 shows
    /// one cause at a time, and received data for as long as there is any.
    fn identify(&mut self, pending: u8) -> u8 {
        if pending & (TRANSMITTER_EMPTY | NOT_PENDING) == TRANSMITTER_EMPTY {
            self.transmitter_waits = true;
        }
        let received = pending & (RECEIVED_DATA | NOT_PENDING) == RECEIVED_DATA;
        if received || (self.input_waits() && self.receive_enabled()) {
            RECEIVED_DATA
        } else if std::mem::take(&mut self.transmitter_waits) {
            TRANSMITTER_EMPTY
        } else {
            NOT_PENDING
        }
    }

    fn receive_enabled(&self) -> bool {
        self.uart.state().interrupt_enable & ENABLE_RECEIVED_DATA != 0
    }

    fn write(&mut self, register: u8, value: u8) {
        self.polling = false;
        if let Err(error) = self.uart.write(register, value) {
            report(&error);
        }
        match register {
            INTERRUPT_ENABLE => self.uart.writer_mut().send(),
            // Input that came during loopback was not accepted; it may be now.
            MODEM_CONTROL if value & LOOPBACK == 0 => self.uart.events().in_buffer_empty(),
            _ => {}
        }
    }

    fn free_space(&self) -> usize {
        if self.uart.state().modem_control & LOOPBACK != 0 {
            return 0;
        }
        self.uart.fifo_capacity()
    }

    fn reset(&mut self) {
        self.uart.writer_mut().send();
        self.write(LINE_CONTROL, EIGHT_BITS);
        self.write(MODEM_CONTROL, OUT2);
        self.write(INTERRUPT_ENABLE, 0);
        self.write(SCRATCH, 0);
        while self.input_waits() {
            self.uart.read(DATA);
        }
        self.uart.read(INTERRUPT_IDENTIFICATION);
        self.polling = false;
        self.transmitter_waits = false;
    }
}

/// The output's own errors end in [`Output::send`], so this is an eventfd that couldn't be written.
fn report(error: &Error<io::Error>) {
    log::warn!("serial: {error}");
}

/// A 16550A whose output goes to a writer and whose input comes by [`Serial::enqueue`].
///
/// Output leaves with the guest's next access that ends a burst of it: a newline, a write of Interrupt
/// Enable, a read of Interrupt Identification, or a second read of Line Status in a row, which is a
/// guest that waits for input. A driver does one of them after each burst, so echo is immediate while
/// a line of log is one system call.
pub struct Serial {
    state: Mutex<State>,
}

impl Serial {
    /// How many ports it takes.
    pub const LEN: u64 = 8;

    /// A UART that pulses `interrupt`, writes to `sink`, and signals `drained` each time the guest
    /// has read all input or ends a loopback. A write that blocks in `sink` blocks the vCPU.
    #[must_use]
    pub fn new(interrupt: EventFd, drained: EventFd, sink: Box<dyn Write + Send>) -> Self {
        let output = Output {
            waiting: Vec::with_capacity(OUTPUT_BUFFER),
            sink,
            failed: false,
        };
        let uart = Uart::with_events(InterruptLine(interrupt), Drained(drained), output);
        Self {
            state: Mutex::new(State {
                uart,
                polling: false,
                transmitter_waits: false,
            }),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives the guest input; returns how many of `bytes` were accepted, from the first on. The rest
    /// is for the caller to offer again when `drained` is signalled. None is accepted while the guest
    /// has the UART in loopback.
    pub fn enqueue(&self, bytes: &[u8]) -> usize {
        let uart = &mut self.lock().uart;
        let room = uart.fifo_capacity();
        match uart.enqueue_raw_bytes(bytes) {
            Ok(_) | Err(Error::FullFifo) => {}
            Err(error) => report(&error),
        }
        // Counted rather than returned: bytes are accepted even if their interrupt failed.
        room - uart.fifo_capacity()
    }

    /// How many bytes of input are accepted now.
    #[must_use]
    pub fn free_space(&self) -> usize {
        self.lock().free_space()
    }

    /// Writes out what waits.
    pub fn flush(&self) {
        self.lock().uart.writer_mut().send();
    }

    /// Back to the state after power-on; input that the guest has not read is gone.
    pub fn reset(&self) {
        self.lock().reset();
    }
}

impl Drop for Serial {
    fn drop(&mut self) {
        self.flush();
    }
}

impl BusDevice for Serial {
    fn read(&self, offset: u64, data: &mut [u8]) {
        match (u8::try_from(offset), data) {
            (Ok(register @ DATA..=SCRATCH), [byte]) => *byte = self.lock().read(register),
            (_, data) => data.fill(0xff),
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        if let (Ok(register @ DATA..=SCRATCH), &[value]) = (u8::try_from(offset), data) {
            self.lock().write(register, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::sync::Arc;
    use vmm_sys_util::eventfd::EFD_NONBLOCK;

    #[derive(Clone, Default)]
    struct Screen(Arc<Mutex<Vec<u8>>>);

    impl Screen {
        fn text(&self) -> String {
            String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
        }
    }

    impl Write for Screen {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    struct Bench {
        serial: Serial,
        screen: Screen,
        interrupt: EventFd,
        drained: EventFd,
    }

    impl Bench {
        fn new() -> Self {
            let (interrupt, drained) = (
                EventFd::new(EFD_NONBLOCK).unwrap(),
                EventFd::new(EFD_NONBLOCK).unwrap(),
            );
            let screen = Screen::default();
            let serial = Serial::new(
                interrupt.try_clone().unwrap(),
                drained.try_clone().unwrap(),
                Box::new(screen.clone()),
            );
            Self {
                serial,
                screen,
                interrupt,
                drained,
            }
        }

        fn read(&self, register: u8) -> u8 {
            let mut byte = [0];
            self.serial.read(u64::from(register), &mut byte);
            byte[0]
        }

        fn write(&self, register: u8, value: u8) {
            self.serial.write(u64::from(register), &[value]);
        }

        fn interrupted(&self) -> bool {
            self.interrupt.read().is_ok()
        }

        fn identity(&self) -> u8 {
            self.read(INTERRUPT_IDENTIFICATION) & IDENTITY
        }
    }

    #[test]
    fn a_line_of_output_leaves_with_its_newline() {
        let bench = Bench::new();
        for byte in b"hello\n" {
            // As a polled console does: line status before each byte.
            assert_eq!(bench.read(LINE_STATUS) & 0x60, 0x60);
            assert_eq!(bench.screen.text(), "");
            bench.write(DATA, *byte);
        }
        assert_eq!(bench.screen.text(), "hello\n");
    }

    #[test]
    fn echo_leaves_with_the_drivers_next_look_at_the_interrupt() {
        for register in [INTERRUPT_IDENTIFICATION, INTERRUPT_ENABLE] {
            let bench = Bench::new();
            bench.write(DATA, b'x');
            if register == INTERRUPT_ENABLE {
                bench.write(register, 0x05);
            } else {
                bench.read(register);
            }
            assert_eq!(bench.screen.text(), "x");
        }
    }

    #[test]
    fn a_prompt_leaves_when_a_polling_guest_waits_for_input() {
        let bench = Bench::new();
        for byte in b"> " {
            bench.read(LINE_STATUS);
            bench.write(DATA, *byte);
        }
        bench.read(LINE_STATUS);
        assert_eq!(bench.screen.text(), "");
        bench.read(LINE_STATUS);
        assert_eq!(bench.screen.text(), "> ");
    }

    #[test]
    fn output_that_waits_leaves_when_the_buffer_fills_and_when_the_machine_ends() {
        let bench = Bench::new();
        for _ in 0..OUTPUT_BUFFER {
            bench.write(DATA, b'.');
        }
        assert_eq!(bench.screen.text().len(), OUTPUT_BUFFER);
        bench.write(DATA, b'!');
        let screen = bench.screen.clone();
        drop(bench);
        assert!(screen.text().ends_with('!'));
    }

    #[test]
    fn received_data_interrupts_and_is_read_in_order() {
        let bench = Bench::new();
        bench.write(INTERRUPT_ENABLE, 0x01);
        assert_eq!(bench.serial.enqueue(b"ab"), 2);
        assert!(bench.interrupted());
        assert_eq!(bench.identity(), RECEIVED_DATA);
        assert_eq!((bench.read(DATA), bench.read(DATA)), (b'a', b'b'));
        assert_eq!(bench.identity(), NOT_PENDING);
        assert!(bench.drained.read().is_ok());
    }

    #[test]
    fn input_beyond_the_fifo_is_left_to_the_caller() {
        let bench = Bench::new();
        assert_eq!(bench.serial.enqueue(&[b'x'; 100]), RECEIVE_FIFO);
        assert_eq!(bench.serial.free_space(), 0);
        assert_eq!(bench.serial.enqueue(b"y"), 0);
        assert!(bench.drained.read().is_err());
        for _ in 0..RECEIVE_FIFO {
            assert_eq!(bench.read(DATA), b'x');
        }
        assert!(bench.drained.read().is_ok());
        assert_eq!(bench.serial.enqueue(b"y"), 1);
    }

    #[test]
    fn input_that_came_while_interrupts_were_masked_interrupts_on_unmask() {
        let bench = Bench::new();
        bench.serial.enqueue(b"a");
        assert!(!bench.interrupted());
        bench.write(INTERRUPT_ENABLE, 0x01);
        assert!(bench.interrupted());
    }

    #[test]
    fn received_data_stays_identified_while_the_fifo_holds_some() {
        let bench = Bench::new();
        bench.write(INTERRUPT_ENABLE, 0x01);
        bench.serial.enqueue(b"abc");
        assert_eq!(bench.identity(), RECEIVED_DATA);
        bench.read(DATA);
        assert_eq!(bench.identity(), RECEIVED_DATA);
        bench.write(INTERRUPT_ENABLE, 0x00);
        bench.identity();
        assert_eq!(bench.identity(), NOT_PENDING);
    }

    #[test]
    fn received_data_is_identified_before_an_empty_transmitter() {
        let bench = Bench::new();
        bench.write(INTERRUPT_ENABLE, 0x03);
        bench.serial.enqueue(b"a");
        assert_eq!(bench.identity(), RECEIVED_DATA);
        bench.read(DATA);
        assert_eq!(bench.identity(), TRANSMITTER_EMPTY);
        assert_eq!(bench.identity(), NOT_PENDING);
    }

    #[test]
    fn loopback_accepts_no_input_until_it_ends() {
        let bench = Bench::new();
        bench.write(MODEM_CONTROL, 0x10);
        assert_eq!(bench.serial.free_space(), 0);
        assert_eq!(bench.serial.enqueue(b"a"), 0);
        assert!(bench.drained.read().is_err());
        bench.write(MODEM_CONTROL, 0x08);
        assert!(bench.drained.read().is_ok());
        assert_eq!(bench.serial.enqueue(b"a"), 1);
    }

    #[test]
    fn reset_empties_the_fifo_and_masks_interrupts() {
        let bench = Bench::new();
        bench.write(LINE_CONTROL, 0x83);
        bench.write(INTERRUPT_ENABLE, 0x12);
        bench.serial.enqueue(b"abc");
        bench.serial.reset();
        assert_eq!(bench.serial.free_space(), RECEIVE_FIFO);
        assert_eq!(bench.read(LINE_CONTROL), EIGHT_BITS);
        assert_eq!(bench.read(INTERRUPT_ENABLE), 0);
        assert_eq!(bench.read(LINE_STATUS) & 1, 0);
    }

    #[test]
    fn a_failing_sink_costs_output_and_nothing_else() {
        struct Closed;
        impl Write for Closed {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::Error::from_raw_os_error(libc::EPIPE))
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let event = || EventFd::new(EFD_NONBLOCK).unwrap();
        let interrupt = event();
        let serial = Serial::new(interrupt.try_clone().unwrap(), event(), Box::new(Closed));
        serial.write(u64::from(INTERRUPT_ENABLE), &[0x02]);
        interrupt.read().unwrap();
        let mut identity = [0];
        serial.read(u64::from(INTERRUPT_IDENTIFICATION), &mut identity);
        serial.write(0, b"\n");
        assert!(interrupt.read().is_ok());
    }

    proptest! {
        #[test]
        fn no_access_panics(
            accesses in prop::collection::vec((any::<bool>(), 0u64..10, any::<u8>(), 0usize..5), 0..80)
        ) {
            let bench = Bench::new();
            for (write, offset, value, len) in accesses {
                bench.serial.enqueue(&[value]);
                let mut data = vec![value; len];
                if write {
                    bench.serial.write(offset, &data);
                } else {
                    bench.serial.read(offset, &mut data);
                    if len != 1 || offset > 7 {
                        prop_assert!(data.iter().all(|b| *b == 0xff));
                    }
                }
            }
        }
    }
}
