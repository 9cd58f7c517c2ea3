//! Command lines that are wrong by themselves.

use crate::USAGE;
use tests::{Attempt, Terminal};

/// Where a line points for all options.
const LIST: &str = "all options are listed by: ferry run --help";

#[test]
fn unknown_flag_gets_the_nearest_known_one() {
    let problem = Attempt::run(&["--memry", "1G"]).refused_for_one(USAGE);
    problem.tells(
        "--memry is not",
        "no such option",
        "did you mean '--memory'?",
    );
    let problem = Attempt::run(&["--frobnicate"]).refused_for_one(USAGE);
    problem.tells("--frobnicate is not", "no such option", LIST);
    let problem = Attempt::run(&["word"]).refused_for_one(USAGE);
    problem.tells("word is not", "belongs to no option", LIST);
}

#[test]
fn missing_and_repeated_options_are_named() {
    let problem = Attempt::ferry(&["run"]).refused_for_one(USAGE);
    problem.tells(
        "--kernel <PATH> is missing",
        "no guest",
        "ferry run --kernel /boot",
    );
    let problem = Attempt::run(&["--cpus"]).refused_for_one(USAGE);
    problem.tells("--cpus needs a value", "none follows", "write --cpus <N>");
    let problem = Attempt::run(&["--memory", "1G", "--memory", "2G"]).refused_for_one(USAGE);
    problem.tells(
        "--memory is given twice",
        "only one",
        "leave one --memory out",
    );
    let problem = Attempt::run(&["--no-reboot=1"]).refused_for_one(USAGE);
    problem.tells("--no-reboot takes no value", "'1'", "write --no-reboot");
}

#[test]
fn unknown_command_gets_the_nearest_known_one() {
    let problem = Attempt::ferry(&["rnu"]).refused_for_one(USAGE);
    problem.tells(
        "ferry rnu is not",
        "none of run",
        "did you mean 'ferry run'?",
    );
}

#[test]
fn number_of_cpus_is_1_to_254() {
    for text in ["0", "255", "1000", "-1", "1.5", "two", ""] {
        let problem = Attempt::run(&["--cpus", text]).refused_for_one(USAGE);
        let what = format!("--cpus {text}");
        problem.tells(what.trim_end(), "1 to 254 vCPUs", "--cpus 4");
    }
}

#[test]
fn size_of_memory_is_at_least_128_mib_in_steps_of_2() {
    for (text, why) in [
        ("64M", "it is 67108864 bytes, less than 128 MiB"),
        ("129M", "it is 135266304 bytes, no multiple of 2 MiB"),
        ("9000T", "more than a guest can address"),
        ("99999999999G", "more than 64 bits"),
        ("1X", "'X' is no unit (K, M, G or T)"),
        ("-1", "does not start with a number"),
        ("", "does not start with a number"),
    ] {
        let problem = Attempt::run(&["--memory", text]).refused_for_one(USAGE);
        let what = format!("--memory {text}");
        problem.tells(what.trim_end(), why, "e.g. --memory 512M");
    }
}

#[test]
fn serial_console_is_tty_none_or_a_file_that_can_be_written() {
    for (text, why, fix) in [
        (
            "tyt",
            "'tyt' is none of tty, none, file",
            "did you mean 'tty'?",
        ),
        (
            "pty,path=/x",
            "is none of",
            "write --serial tty, none or file=PATH",
        ),
        ("file=", "file needs a path", "write --serial file=PATH"),
        ("none=1", "'none' takes no value", "write --serial none"),
        (
            "file=/nonexistent/log",
            "/nonexistent: No such file",
            "name a file",
        ),
        ("file=/", "/ is a folder", "name a file"),
    ] {
        let problem = Attempt::run(&["--serial", text]).refused_for_one(USAGE);
        problem.tells(&format!("--serial {text} "), why, fix);
    }
}

#[test]
fn stats_go_where_a_file_can_be_written() {
    for (text, why) in [
        ("/nonexistent/figures", "/nonexistent: No such file"),
        ("/", "/ is a folder"),
        ("", "it is empty"),
    ] {
        let problem = Attempt::run(&["--stats", text]).refused_for_one(USAGE);
        problem.tells("--stats ", why, "name a file in a folder that exists");
    }
}

#[test]
fn events_go_where_lines_can_be_written() {
    for (text, why, fix) in [
        (
            "/nonexistent/events",
            "/nonexistent: No such file",
            "name a file",
        ),
        ("/", "/ is a folder", "name a file"),
        ("", "it is empty", "name a file"),
        ("fd=", "'' is no number of a descriptor", "e.g. fd=5"),
        (
            "fd=77",
            "without a descriptor 77",
            "have it open when ferry starts",
        ),
        (
            "fd=0",
            "descriptor 0: it is open for reading only",
            "pass the end of a pipe",
        ),
    ] {
        let problem = Attempt::run(&["--event-monitor", text]).refused_for_one(USAGE);
        problem.tells("--event-monitor ", why, fix);
    }
}

#[test]
fn what_follows_a_panic_is_one_of_three_words() {
    let problem = Attempt::run(&["--on-panic", "rebot"]).refused_for_one(USAGE);
    problem.tells(
        "--on-panic rebot ",
        "none of stop, reboot, report",
        "did you mean 'reboot'?",
    );
}

#[test]
fn malformed_address_is_not_guessed() {
    for (text, why) in [
        ("01:00", "'01:00' is not of the form [SSSS:]BB:DD.F"),
        ("zz:00.0", "is not of the form"),
        ("1:00.0.0", "is not of the form"),
        ("01:20.0", "device number 0x20 of '01:20.0' is above 0x1f"),
        ("01:00.8", "function number 0x8 of '01:00.8' is above 7"),
        ("", "is not of the form"),
    ] {
        let device = format!("host={text}");
        let problem = Attempt::run(&["--device", &device]).refused_for_one(USAGE);
        problem.tells(
            &format!("--device {device} "),
            why,
            "e.g. host=0000:01:00.0",
        );
        assert_eq!(problem.command(), "ferry devices --all");
    }
}

#[test]
fn address_without_its_key_is_completed() {
    let problem = Attempt::run(&["--device", "01:00.0"]).refused_for_one(USAGE);
    problem.tells(
        "01:00.0",
        "not of the form key=value",
        "write --device host=01:00.0",
    );
}

#[test]
fn unknown_key_gets_the_nearest_known_one() {
    for (text, why, fix) in [
        ("hots=01:00.0", "'hots' is no key", "did you mean 'host='?"),
        (
            "host=01:00.0,adr=3",
            "'adr' is no key of --device (host, id, addr,",
            "'addr='?",
        ),
        (
            "host=01:00.0,colour=red",
            "'colour' is no key",
            "write --device host=BDF",
        ),
        ("id=nic0", "host= is missing", "write --device host=BDF"),
        (
            "host=01:00.0,host=02:00.0",
            "'host' is given twice",
            "leave one out",
        ),
        ("host=01:00.0,id=a b", "'a b' can't be an id", "id=nic0"),
        (
            "host=01:00.0,addr=0x20",
            "'0x20' is no place",
            "addr=0x6.0x1",
        ),
    ] {
        let problem = Attempt::run(&["--device", text]).refused_for_one(USAGE);
        problem.tells("--device ", why, fix);
    }
}

#[test]
fn keys_of_qemu_are_named_and_taken_out_of_the_line() {
    let pasted = "vfio-pci,host=01:00.0,x-foo=1";
    let problem = Attempt::run(&["--device", pasted]).refused_for_one(USAGE);
    problem.tells(pasted, "'x-foo'", "write --device host=01:00.0");
    let pasted = "vfio-pci,host=01:00.0,id=nic0,bus=rp1,rombar=0";
    let problem = Attempt::run(&["--device", pasted]).refused_for_one(USAGE);
    problem.tells(
        pasted,
        "keys of QEMU's",
        "write --device host=01:00.0,id=nic0",
    );
    assert!(problem.why.contains("'bus' (") && problem.why.contains("'rombar' ("));
}

#[test]
fn two_devices_with_one_address_are_refused() {
    let pair = |first: &str, second: &str| {
        Attempt::run(&["--device", first, "--device", second]).refused_for_one(USAGE)
    };
    let together = "these devices can't be in one guest";
    pair("host=01:00.0,addr=6", "host=02:00.0,addr=0x6.0").tells(
        together,
        "0000:01:00.0 and 0000:02:00.0 both have the guest address 0000:00:06.0",
        "give 0000:02:00.0 another addr=, or none",
    );
    pair("host=01:00.0", "host=0000:01:00.0").tells(
        together,
        "0000:01:00.0 is given twice",
        "leave one --device host=0000:01:00.0 out",
    );
    pair("host=01:00.0,id=a", "host=02:00.0,id=a").tells(
        together,
        "the id 'a' is given twice",
        "an id= of its own",
    );
    pair("host=01:00.0,addr=0", "host=02:00.0").tells(
        together,
        "slot 0 is the host bridge's",
        "from addr=0x1 to addr=0x1f",
    );
    pair("host=01:00.0,addr=6.1", "host=02:00.0").tells(
        together,
        "no function 0",
        "give a device addr=0x6",
    );
}

#[test]
fn terminal_stays_as_it_is() {
    for words in [["--memory", "64M"], ["--no-such", "flag"]] {
        let terminal = Terminal::open();
        let before = terminal.modes();
        let _ = Attempt::run(&words).on(&terminal).refused(USAGE);
        assert_eq!(terminal.modes(), before, "{words:?}");
    }
}
