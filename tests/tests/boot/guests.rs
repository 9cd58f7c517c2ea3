//! The guests that several tests look at: each is booted once, questioned, and ended.

use std::sync::LazyLock;
use std::thread;
use std::time::{SystemTime, UNIX_EPOCH};
use tests::site::Kernel;
use tests::{Figures, Guest, MOMENT, Run};

/// What a guest answered.
pub(crate) struct Answers {
    pub(crate) release: String,
    pub(crate) cmdline: String,
    /// Where the kernel's text lies.
    pub(crate) text: u64,
    /// Which boot protocol the kernel was told of (Documentation/arch/x86/boot.rst, `type_of_loader`).
    pub(crate) loader: u32,
    pub(crate) cpus: String,
    /// MemTotal in KiB.
    pub(crate) memory: u64,
    /// First and last byte of each range of RAM.
    pub(crate) ram: Vec<(u64, u64)>,
    pub(crate) clocksource: String,
    /// Lines of the kernel's log that some test cares for.
    pub(crate) log: String,
    /// The guest's RTC less the host's clock, in seconds.
    pub(crate) clock_error: i64,
    pub(crate) exit: i32,
    pub(crate) figures: Figures,
}

/// Lines of the kernel's log that tests look for, or for the absence of. More would take seconds on a
/// serial port.
const LOG: &str =
    "acpi.*(error|warning|exception|bug)|firmware (bug|warn)|calibrat|mtrr|rcu.*stall|lockup";

impl Answers {
    fn of(mut guest: Guest, end: &str) -> Self {
        guest.ok("echo 0 > /proc/sys/kernel/kptr_restrict");
        let text = guest.ok("grep -m 1 ' _text$' /proc/kallsyms");
        let loader = guest.ok("cat /proc/sys/kernel/bootloader_type");
        let memory = guest.ok("head -n 1 /proc/meminfo");
        let iomem = guest.ok("grep 'System RAM' /proc/iomem");
        let clock: i64 = guest
            .ok("cat /sys/class/rtc/rtc0/since_epoch")
            .trim()
            .parse()
            .unwrap();
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap()
            .as_secs();
        let answers = Self {
            release: guest.ok("uname -r"),
            cmdline: guest.ok("cat /proc/cmdline"),
            text: hex(text.split_whitespace().next().unwrap()),
            loader: loader.trim().parse().unwrap(),
            cpus: guest
                .ok("cat /sys/devices/system/cpu/online")
                .trim()
                .to_owned(),
            memory: memory.split_whitespace().nth(1).unwrap().parse().unwrap(),
            ram: iomem.lines().map(range).collect(),
            clocksource: guest
                .ok("cat /sys/devices/system/clocksource/clocksource0/current_clocksource")
                .trim()
                .to_owned(),
            log: guest.ok(&format!("dmesg | grep -iE '{LOG}' || :")),
            clock_error: clock - i64::try_from(now).unwrap(),
            exit: 0,
            figures: guest.figures(),
        };
        guest.begin(end);
        Self {
            exit: guest.ferry_mut().exit(MOMENT),
            figures: guest.ferry().last_figures(),
            ..answers
        }
    }
}

fn hex(digits: &str) -> u64 {
    u64::from_str_radix(digits, 16).unwrap()
}

/// A line of /proc/iomem.
fn range(line: &str) -> (u64, u64) {
    let (first, rest) = line.trim().split_once('-').unwrap();
    (hex(first), hex(rest.split(' ').next().unwrap()))
}

const POWER_OFF: &str = "poweroff -f";
/// Hands 42 to the debug-exit port.
const STATUS_42: &str = "printf '\\x2a' | dd of=/dev/port bs=1 seek=244";

/// Boots two guests side by side: the lab has two processors, and most of a boot needs one.
fn pair(runs: [(Run, &'static str); 2]) -> [Answers; 2] {
    let [first, second] = runs;
    thread::scope(|scope| {
        let first = scope.spawn(|| Answers::of(first.0.boot(), first.1));
        let second = Answers::of(second.0.boot(), second.1);
        match first.join() {
            Ok(first) => [first, second],
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

static SMALL_AND_OLDER: LazyLock<[Answers; 2]> = LazyLock::new(|| {
    let small = Run::new(Kernel::Packed)
        .cpus(1)
        .memory("128M")
        .cmdline("mtrr=debug");
    let older = Run::new(Kernel::Older).cpus(2).memory("512M");
    pair([(small, POWER_OFF), (older, STATUS_42)])
});

static LARGE: LazyLock<Answers> = LazyLock::new(|| {
    Answers::of(
        Run::new(Kernel::Packed).cpus(4).memory("5G").boot(),
        POWER_OFF,
    )
});

static MANY: LazyLock<Answers> = LazyLock::new(|| {
    Answers::of(
        Run::new(Kernel::Elf).cpus(16).memory("512M").boot(),
        POWER_OFF,
    )
});

/// Kernel 6.12 as a bzImage, 1 vCPU, 128 MiB; ended by a power-off.
pub(crate) fn small() -> &'static Answers {
    &SMALL_AND_OLDER[0]
}

/// Kernel 6.1 as a bzImage, 2 vCPUs, 512 MiB; ended by 42 at the debug-exit port.
pub(crate) fn older() -> &'static Answers {
    &SMALL_AND_OLDER[1]
}

/// Kernel 6.12 as a bzImage, 4 vCPUs, 5 GiB; ended by a power-off.
pub(crate) fn large() -> &'static Answers {
    &LARGE
}

/// Kernel 6.12 as an ELF file, 16 vCPUs, 512 MiB; ended by a power-off.
pub(crate) fn many() -> &'static Answers {
    &MANY
}
