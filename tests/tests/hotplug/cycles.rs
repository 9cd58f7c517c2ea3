//! A card comes and goes many times.

use crate::{appears, served};
use std::env;
use std::time::{Duration, Instant};
use tests::site;
use tests::{Census, Peer, Rebound, assert_no_growth, figure};

/// How often, unless `FERRY_CYCLES` says.
const CYCLES: usize = 8;

/// How long a step took, each time.
#[derive(Default)]
struct Times(Vec<Duration>);

impl Times {
    fn of<T>(&mut self, step: impl FnOnce() -> T) -> T {
        let started = Instant::now();
        let result = step();
        self.0.push(started.elapsed());
        result
    }

    fn median(&mut self) -> u128 {
        self.0.sort_unstable();
        self.0[self.0.len() / 2].as_millis()
    }
}

#[test]
fn nothing_is_left_of_a_card_that_comes_and_goes_many_times() {
    let peer = Peer::up();
    let nic = site::device("nic");
    let driver = nic.driver();
    let _back = Rebound(nic.clone());
    let (mut guest, api) = served();
    let cycles = env::var("FERRY_CYCLES").map_or(CYCLES, |text| text.parse().unwrap());
    let (mut adding, mut removing) = (Times::default(), Times::default());
    let mut censuses = Vec::new();
    for _ in 0..cycles {
        let device = format!("host={},id=nic0,managed=on", nic.address());
        adding.of(|| api.ok(&["add", &device]));
        assert_eq!(nic.driver().as_deref(), Some("vfio-pci"));
        appears(&mut guest, "/sys/class/net/eth0");
        peer.is_reached_by(&mut guest);
        removing.of(|| api.ok(&["remove", "nic0"]));
        assert_eq!(nic.driver(), driver, "back on the host's driver");
        assert_eq!(guest.functions(), [""; 0]);
        censuses.push(Census::of(&guest));
    }
    figure(&format!(
        "{cycles} times: added in {} ms, removed and back on the host's driver in {} ms (medians)",
        adding.median(),
        removing.median()
    ));
    // By then every thread has its arena of memory.
    let (half, last) = (&censuses[cycles / 2], &censuses[cycles - 1]);
    figure(&format!("{half:?}, then {last:?}"));
    let resident: Vec<_> = censuses.iter().map(|census| census.resident).collect();
    figure(&format!("resident KiB, each time: {resident:?}"));
    assert_eq!(last.pinned, 0);
    assert_no_growth(half, last);
    guest.stop();
}
