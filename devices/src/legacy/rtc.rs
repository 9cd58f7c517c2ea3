//! The real-time clock and CMOS RAM (Motorola MC146818A, at ports 70 and 71).

use super::calendar::DateTime;
use crate::bus::BusDevice;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

/// Wall clock.
pub trait Clock: Send + Sync {
    /// Seconds since 1970-01-01 00:00:00 UTC.
    fn seconds(&self) -> u64;
}

impl<F: Fn() -> u64 + Send + Sync> Clock for F {
    fn seconds(&self) -> u64 {
        self()
    }
}

/// The host's wall clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn seconds(&self) -> u64 {
        // A host clock before 1970 is no clock; the guest then starts in 1970.
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        since.map_or(0, |duration| duration.as_secs())
    }
}

/// Port offset of the index; bit 7 of it masks NMIs and is not part of it.
const INDEX: u64 = 0;
/// Port offset of the data.
const DATA: u64 = 1;
const INDEX_BITS: u8 = 0x7f;

/// Bytes of CMOS RAM, clock registers included.
const CMOS_LEN: usize = 128;

const SECONDS: u8 = 0x00;
const MINUTES: u8 = 0x02;
const HOURS: u8 = 0x04;
const DAY_OF_WEEK: u8 = 0x06;
const DAY_OF_MONTH: u8 = 0x07;
const MONTH: u8 = 0x08;
const YEAR: u8 = 0x09;
const REGISTER_A: u8 = 0x0a;
const REGISTER_B: u8 = 0x0b;
const REGISTER_C: u8 = 0x0c;
const REGISTER_D: u8 = 0x0d;
/// Where the ACPI FADT says that the century is.
const CENTURY: u8 = 0x32;

/// Register A: update in progress. Reads as zero at all times: time is taken when it is asked for, so
/// no update makes a guest wait.
const UPDATE_IN_PROGRESS: u8 = 1 << 7;
/// Register A after reset: 32.768 kHz time base, 1024 Hz rate.
const REGISTER_A_RESET: u8 = 0x26;
/// Register B: the guest sets the time; the clock stands.
const SET: u8 = 1 << 7;
/// Register B: the three interrupt enables. They read as zero: no interrupt line is wired.
const INTERRUPT_ENABLES: u8 = 0b111 << 4;
/// Register B: binary rather than BCD.
const BINARY: u8 = 1 << 2;
/// Register B: hours from 0 to 23 rather than 1 to 12.
const HOURS_24: u8 = 1 << 1;
/// Register D: the battery is good, RAM and time are valid.
const VALID: u8 = 1 << 7;
/// Hours in the 12-hour form: afternoon.
const PM: u8 = 1 << 7;

/// The real-time clock: the host's time, 128 bytes of RAM, no interrupts.
///
/// A guest may set the time; the difference from the host's clock is kept.
pub struct Rtc {
    clock: Box<dyn Clock>,
    state: Mutex<State>,
}

struct State {
    index: u8,
    /// All bytes as written; those of the time count only while the guest sets it.
    cmos: [u8; CMOS_LEN],
    /// What the guest's time is ahead of the clock, in seconds.
    ahead: i64,
    /// The clock when the guest last saw that no update is in progress: all parts of the time that
    /// it reads now are of this moment.
    snapshot: u64,
}

fn is_time(register: u8) -> bool {
    matches!(
        register,
        SECONDS | MINUTES | HOURS | DAY_OF_WEEK | DAY_OF_MONTH | MONTH | YEAR | CENTURY
    )
}

impl State {
    fn new() -> Self {
        let mut state = Self {
            index: 0,
            cmos: [0; CMOS_LEN],
            ahead: 0,
            snapshot: 0,
        };
        state.put(REGISTER_A, REGISTER_A_RESET);
        state.put(REGISTER_B, HOURS_24);
        state
    }

    fn get(&self, register: u8) -> u8 {
        self.cmos[usize::from(register & INDEX_BITS)]
    }

    fn put(&mut self, register: u8, value: u8) {
        self.cmos[usize::from(register & INDEX_BITS)] = value;
    }

    fn control(&self, bit: u8) -> bool {
        self.get(REGISTER_B) & bit != 0
    }

    /// The guest's time, in seconds since the epoch.
    ///
    /// Parts of one reading come from one moment if they are read within a second after register A;
    /// otherwise 12:59:59 could be read as 12:00:00 or 13:59:59.
    fn seconds(&self, clock: &dyn Clock) -> u64 {
        let now = clock.seconds();
        let fresh = now.checked_sub(self.snapshot).is_some_and(|age| age <= 1);
        let moment = if fresh { self.snapshot } else { now };
        moment.saturating_add_signed(self.ahead)
    }

    fn encode(&self, value: u8) -> u8 {
        if self.control(BINARY) {
            value
        } else {
            ((value / 10) << 4) | (value % 10)
        }
    }

    fn decode(&self, value: u8) -> Option<u8> {
        if self.control(BINARY) {
            return Some(value);
        }
        let (tens, ones) = (value >> 4, value & 0xf);
        (tens < 10 && ones < 10).then_some(tens * 10 + ones)
    }

    fn encode_hour(&self, hour: u8) -> u8 {
        if self.control(HOURS_24) {
            return self.encode(hour);
        }
        let afternoon = if hour >= 12 { PM } else { 0 };
        let hour = match hour % 12 {
            0 => 12,
            hour => hour,
        };
        self.encode(hour) | afternoon
    }

    fn decode_hour(&self, value: u8) -> Option<u8> {
        if self.control(HOURS_24) {
            return self.decode(value);
        }
        let hour = self.decode(value & !PM).filter(|h| (1..=12).contains(h))?;
        let afternoon = if value & PM != 0 { 12 } else { 0 };
        Some(hour % 12 + afternoon)
    }

    /// A register of the time at `seconds`.
    fn time_register(&self, register: u8, seconds: u64) -> u8 {
        let time = DateTime::of_seconds(seconds);
        let [century, year] = [time.year / 100, time.year % 100].map(|part| part.to_le_bytes()[0]);
        match register {
            SECONDS => self.encode(time.second),
            MINUTES => self.encode(time.minute),
            HOURS => self.encode_hour(time.hour),
            DAY_OF_WEEK => self.encode(DateTime::weekday(seconds)),
            DAY_OF_MONTH => self.encode(time.day),
            MONTH => self.encode(time.month),
            YEAR => self.encode(year),
            _ => self.encode(century),
        }
    }

    /// The time that the registers hold, if it exists.
    fn written_time(&self) -> Option<u64> {
        let part = |register| self.decode(self.get(register));
        let century = u16::from(part(CENTURY)?);
        DateTime {
            year: century * 100 + u16::from(part(YEAR)?),
            month: part(MONTH)?,
            day: part(DAY_OF_MONTH)?,
            hour: self.decode_hour(self.get(HOURS))?,
            minute: part(MINUTES)?,
            second: part(SECONDS)?,
        }
        .seconds()
    }

    fn read(&mut self, clock: &dyn Clock) -> u8 {
        match self.index {
            REGISTER_A => {
                self.snapshot = clock.seconds();
                self.get(REGISTER_A) & !UPDATE_IN_PROGRESS
            }
            REGISTER_C => 0,
            REGISTER_D => VALID,
            time if is_time(time) && !self.control(SET) => {
                self.time_register(time, self.seconds(clock))
            }
            register => self.get(register),
        }
    }

    fn write(&mut self, value: u8, clock: &dyn Clock) {
        match self.index {
            REGISTER_C | REGISTER_D => {}
            REGISTER_B => self.write_register_b(value, clock),
            time if is_time(time) && !self.control(SET) => {
                // A write without SET takes effect at once, on a running clock.
                self.fill_time(clock);
                self.put(time, value);
                self.take_time(clock);
            }
            register => self.put(register, value),
        }
    }

    fn write_register_b(&mut self, value: u8, clock: &dyn Clock) {
        let was_set = self.control(SET);
        let becomes_set = value & SET != 0;
        if !was_set && becomes_set {
            self.fill_time(clock);
        }
        // The registers were written in the form that held until now.
        if was_set && !becomes_set {
            self.take_time(clock);
        }
        self.put(REGISTER_B, value & !INTERRUPT_ENABLES);
    }

    /// Puts the running time into the registers.
    fn fill_time(&mut self, clock: &dyn Clock) {
        let seconds = self.seconds(clock);
        for register in (0..=INDEX_BITS).filter(|register| is_time(*register)) {
            self.put(register, self.time_register(register, seconds));
        }
    }

    /// Goes on from the time in the registers; a time that doesn't exist is dropped.
    fn take_time(&mut self, clock: &dyn Clock) {
        if let Some(written) = self.written_time() {
            let now = clock.seconds();
            self.snapshot = now;
            self.ahead = written.checked_signed_diff(now).unwrap_or(0);
        }
    }
}

impl Rtc {
    /// How many ports it takes.
    pub const LEN: u64 = 2;
    /// What FADT `CENTURY` says.
    pub const CENTURY_REGISTER: u8 = CENTURY;

    /// A clock that shows `clock`'s time.
    #[must_use]
    pub fn new(clock: Box<dyn Clock>) -> Self {
        Self {
            clock,
            state: Mutex::new(State::new()),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl BusDevice for Rtc {
    fn read(&self, offset: u64, data: &mut [u8]) {
        match (offset, data) {
            (DATA, [byte]) => *byte = self.lock().read(self.clock.as_ref()),
            (_, data) => data.fill(0xff),
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        match (offset, data) {
            (INDEX, &[index]) => self.lock().index = index & INDEX_BITS,
            (DATA, &[value]) => self.lock().write(value, self.clock.as_ref()),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    /// 2024-02-29 13:05:09 UTC, a Thursday.
    const LEAP_DAY: u64 = 1_709_211_909;

    struct Bench {
        rtc: Rtc,
        now: Arc<AtomicU64>,
    }

    impl Bench {
        fn at(seconds: u64) -> Self {
            let now = Arc::new(AtomicU64::new(seconds));
            let clock = Arc::clone(&now);
            let rtc = Rtc::new(Box::new(move || clock.load(Ordering::Relaxed)));
            Self { rtc, now }
        }

        fn pass(&self, seconds: u64) {
            self.now.fetch_add(seconds, Ordering::Relaxed);
        }

        fn read(&self, register: u8) -> u8 {
            self.rtc.write(INDEX, &[register]);
            let mut byte = [0];
            self.rtc.read(DATA, &mut byte);
            byte[0]
        }

        fn write(&self, register: u8, value: u8) {
            self.rtc.write(INDEX, &[register]);
            self.rtc.write(DATA, &[value]);
        }

        /// As a driver reads: register A first.
        fn time(&self) -> [u8; 8] {
            assert_eq!(self.read(REGISTER_A) & UPDATE_IN_PROGRESS, 0);
            [
                CENTURY,
                YEAR,
                MONTH,
                DAY_OF_MONTH,
                DAY_OF_WEEK,
                HOURS,
                MINUTES,
                SECONDS,
            ]
            .map(|register| self.read(register))
        }
    }

    #[test]
    fn time_is_bcd_and_24_hours_after_reset() {
        let bench = Bench::at(LEAP_DAY);
        assert_eq!(
            bench.time(),
            [0x20, 0x24, 0x02, 0x29, 0x05, 0x13, 0x05, 0x09]
        );
        assert_eq!(bench.read(REGISTER_B), HOURS_24);
        assert_eq!(bench.read(REGISTER_D), VALID);
        assert_eq!(bench.read(REGISTER_C), 0);
    }

    #[test]
    fn register_b_chooses_binary_and_12_hours() {
        let bench = Bench::at(LEAP_DAY);
        bench.write(REGISTER_B, BINARY | HOURS_24);
        assert_eq!(bench.time(), [20, 24, 2, 29, 5, 13, 5, 9]);
        bench.write(REGISTER_B, 0);
        assert_eq!(bench.read(HOURS), 0x01 | PM);
        for (hour, shown) in [
            (0, 0x12),
            (1, 0x01),
            (11, 0x11),
            (12, 0x12 | PM),
            (23, 0x11 | PM),
        ] {
            let bench = Bench::at(hour * 3600);
            bench.write(REGISTER_B, 0);
            assert_eq!(bench.read(HOURS), shown, "{hour}");
        }
    }

    #[test]
    fn update_in_progress_is_never_set() {
        let bench = Bench::at(LEAP_DAY);
        bench.write(REGISTER_A, 0xff);
        for _ in 0..5 {
            assert_eq!(bench.read(REGISTER_A) & UPDATE_IN_PROGRESS, 0);
            bench.pass(1);
        }
    }

    #[test]
    fn parts_of_one_reading_are_of_one_moment() {
        // 12:59:59, and the second ends while the guest reads.
        let bench = Bench::at(12 * 3600 + 59 * 60 + 59);
        bench.read(REGISTER_A);
        assert_eq!(bench.read(HOURS), 0x12);
        bench.pass(1);
        assert_eq!((bench.read(MINUTES), bench.read(SECONDS)), (0x59, 0x59));
        bench.read(REGISTER_A);
        assert_eq!((bench.read(HOURS), bench.read(SECONDS)), (0x13, 0x00));
    }

    #[test]
    fn seconds_go_on_for_a_guest_that_never_reads_register_a() {
        let bench = Bench::at(LEAP_DAY);
        assert_eq!(bench.read(SECONDS), 0x09);
        bench.pass(2);
        assert_eq!(bench.read(SECONDS), 0x11);
        bench.read(REGISTER_A);
        bench.pass(2);
        assert_eq!(bench.read(SECONDS), 0x13);
    }

    #[test]
    fn a_time_that_the_guest_set_goes_on_from_there() {
        let bench = Bench::at(LEAP_DAY);
        bench.write(REGISTER_B, SET | HOURS_24);
        for (register, value) in [
            (CENTURY, 0x21),
            (YEAR, 0x00),
            (MONTH, 0x02),
            (DAY_OF_MONTH, 0x28),
            (HOURS, 0x23),
            (MINUTES, 0x59),
            (SECONDS, 0x58),
        ] {
            bench.write(register, value);
        }
        bench.pass(10);
        assert_eq!(bench.read(SECONDS), 0x58);
        bench.write(REGISTER_B, HOURS_24);
        bench.pass(2);
        // 2100 is no leap year.
        assert_eq!(
            bench.time(),
            [0x21, 0x00, 0x03, 0x01, 0x02, 0x00, 0x00, 0x00]
        );
    }

    #[test]
    fn a_time_that_does_not_exist_is_dropped() {
        let bench = Bench::at(LEAP_DAY);
        bench.write(REGISTER_B, SET | HOURS_24);
        bench.write(MONTH, 0x1f);
        bench.write(REGISTER_B, HOURS_24);
        assert_eq!(bench.read(MONTH), 0x02);
    }

    #[test]
    fn ram_keeps_its_bytes_and_the_nmi_mask_is_no_index() {
        let bench = Bench::at(0);
        bench.write(0x0f, 0x5a);
        bench.write(0x7f, 0xa5);
        assert_eq!(bench.read(0x80 | 0x0f), 0x5a);
        assert_eq!(bench.read(0x7f), 0xa5);
        assert_eq!(bench.read(0x38), 0);
    }

    #[test]
    fn interrupts_can_not_be_enabled() {
        let bench = Bench::at(0);
        bench.write(REGISTER_B, INTERRUPT_ENABLES | HOURS_24);
        assert_eq!(bench.read(REGISTER_B), HOURS_24);
    }

    #[test]
    fn the_index_port_and_words_read_as_ones() {
        let bench = Bench::at(0);
        let mut word = [0; 2];
        bench.rtc.read(INDEX, &mut word);
        assert_eq!(word, [0xff; 2]);
        let mut byte = [0];
        bench.rtc.read(INDEX, &mut byte);
        assert_eq!(byte, [0xff]);
    }

    proptest! {
        #[test]
        fn a_time_set_is_the_time_read(seconds in 0u64..253_402_300_000, format in 0u8..4) {
            let format = format << 1;
            let source = Bench::at(seconds);
            source.write(REGISTER_B, format);
            let shown = source.time();
            let bench = Bench::at(LEAP_DAY);
            bench.write(REGISTER_B, SET | format);
            let registers =
                [CENTURY, YEAR, MONTH, DAY_OF_MONTH, DAY_OF_WEEK, HOURS, MINUTES, SECONDS];
            for (register, value) in registers.into_iter().zip(shown) {
                bench.write(register, value);
            }
            bench.write(REGISTER_B, format);
            prop_assert_eq!(bench.time(), shown);
        }

        #[test]
        fn no_access_panics(
            now: u64,
            accesses in prop::collection::vec((any::<u8>(), any::<u8>(), any::<bool>()), 0..100),
        ) {
            let bench = Bench::at(now);
            for (register, value, write) in accesses {
                if write {
                    bench.write(register, value);
                } else {
                    bench.read(register);
                }
            }
        }
    }
}
