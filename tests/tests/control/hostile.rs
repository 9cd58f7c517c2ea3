//! Requests that nobody should send, while the guest is at work.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread;
use std::time::Duration;
use tests::site::{self, Kernel};
use tests::{Api, MOMENT, Peer, Run, figure, noise, until};

/// Requests in all, of four clients at once.
const REQUESTS: usize = 1000;
const CLIENTS: usize = 4;

/// A request of the kind that `number` chooses, with `noise` in it.
fn request(number: usize, noise: &[u8]) -> Vec<u8> {
    let text = |text: &str| text.as_bytes().to_vec();
    let body = |path: &str, body: &[u8]| {
        let head = format!(
            "PUT /api/v1/{path} HTTP/1.1\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        [head.as_bytes(), body].concat()
    };
    match number % 12 {
        0 => noise.to_vec(),
        1 => text("GET /api/v1/vm.info HTTP/1.1\r\n\r\n"),
        2 => text("GET /api/v1/vm.info HT"),
        3 => text(&format!("GET /{} HTTP/1.1\r\n\r\n", "a".repeat(20_000))),
        4 => body("vm.add-device", noise),
        5 => body("vm.add-device", "[".repeat(60_000).as_bytes()),
        6 => text("PUT /api/v1/vm.add-device HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\n{}"),
        7 => text(
            "PUT /api/v1/vm.add-device HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        ),
        8 => body("vm.remove-device", b"{\"id\": \"no such device\"}"),
        9 => text(&"GET /api/v1/vmm.ping HTTP/1.1\r\n\r\n".repeat(50)),
        10 => body("vm.resume", b"{\"surprise\": true}"),
        _ => [
            b"PUT /api/v1/vm.pause HTTP/1.1\r\nContent-Length: 500\r\n\r\n",
            noise,
        ]
        .concat(),
    }
}

/// Sends one, reads some of the answer or none, and goes.
fn send(socket: &Path, number: usize, bytes: &[u8]) {
    let Ok(mut stream) = UnixStream::connect(socket) else {
        panic!("request {number}: nobody listens");
    };
    let _ = stream.set_read_timeout(Some(Duration::from_millis(20)));
    let _ = stream.set_write_timeout(Some(Duration::from_secs(1)));
    let _ = stream.write_all(bytes);
    if !number.is_multiple_of(3) {
        let _ = stream.read(&mut [0; 100]);
    }
}

#[test]
fn a_thousand_hostile_requests_do_not_touch_the_guests_traffic() {
    let peer = Peer::up();
    let nic = site::device("nic").assign();
    let api = Api::new();
    let run = Run::new(Kernel::Elf)
        .cpus(2)
        .modules("igb")
        .device(&nic, "");
    let mut guest = api.of(run).boot();
    peer.set_up_guest(&mut guest);
    let flood = peer.flood(&mut guest);
    guest.begin("ping -c 30 -i 0.2 -W 5 10.77.0.1");
    let before = flood.sent();
    let noise = noise(REQUESTS * 200);
    thread::scope(|scope| {
        for client in 0..CLIENTS {
            let (noise, socket) = (&noise, api.socket());
            scope.spawn(move || {
                for number in (client..REQUESTS).step_by(CLIENTS) {
                    let noise = &noise[number * 200..(number + 1) * 200];
                    send(&socket, number, &request(number, noise));
                }
            });
        }
    });
    until("more traffic", MOMENT, || {
        (flood.sent() > before + 8).then_some(())
    });
    figure(&format!(
        "{REQUESTS} requests, {} MiB meanwhile",
        flood.sent() - before
    ));
    let ping = guest.end(MOMENT).text;
    assert!(ping.contains(" 0% packet loss"), "{ping}");
    // None of them was a command in full.
    assert_eq!(api.info()["state"], "Running");
    assert_eq!(api.stats()["boots"], 1);
    flood.stop(&mut guest);
    // Its threads have gone, too: with deadlines of some seconds.
    let threads = format!("/proc/{}/task", guest.ferry().pid());
    until("the last client's thread to end", MOMENT, || {
        let names = std::fs::read_dir(&threads).ok()?;
        let names = names
            .filter_map(|thread| std::fs::read_to_string(thread.ok()?.path().join("comm")).ok());
        (names.filter(|name| name.starts_with("api-client")).count() == 0).then_some(())
    });
    guest.stop();
    assert_eq!(guest.ferry().errors().text(), "");
}
