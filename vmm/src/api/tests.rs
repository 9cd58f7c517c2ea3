//! The server with a control thread of its own that answers as if there were a guest.

mod cloud_hypervisor;
mod end;

use super::server::TOLD;
use super::*;
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// More than anything here takes, and less than a test may.
const PATIENCE: Duration = Duration::from_secs(20);

/// A server whose commands are answered, but for waits.
struct Served {
    server: Arc<Server>,
    stop: Arc<AtomicBool>,
    control: Option<JoinHandle<u64>>,
    _folder: TempDir,
}

impl Served {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let socket = ApiSocket::bind(&folder.path().join("api.sock")).unwrap();
        let server = Arc::new(Server::start(socket).unwrap());
        let stop = Arc::new(AtomicBool::new(false));
        let control = {
            let (server, stop) = (Arc::clone(&server), Arc::clone(&stop));
            thread::spawn(move || answer(&server, &stop))
        };
        Self {
            server,
            stop,
            control: Some(control),
            _folder: folder,
        }
    }

    fn connect(&self) -> UnixStream {
        let stream = UnixStream::connect(self.server.path()).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    /// Sends bytes on a connection of their own and gives all that comes back.
    fn exchange(&self, bytes: &[u8]) -> String {
        let mut stream = self.connect();
        stream.write_all(bytes).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    fn request(&self, method: &str, path: &str, body: &str) -> String {
        let length = body.len();
        self.exchange(
            format!(
                "{method} /api/v1/{path} HTTP/1.1\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}"
            )
            .as_bytes(),
        )
    }

    fn works(&self) {
        let answer = self.request("GET", "vmm.ping", "");
        assert!(answer.starts_with("HTTP/1.1 200 \r\n"), "{answer}");
    }

    /// How many commands there were.
    fn finish(mut self) -> u64 {
        self.stop.store(true, Ordering::SeqCst);
        self.control.take().unwrap().join().unwrap()
    }
}

fn answer(server: &Server, stop: &AtomicBool) -> u64 {
    let mut count = 0;
    while !stop.load(Ordering::SeqCst) {
        let Some(Call { command, reply }) = server.next_call() else {
            thread::sleep(Duration::from_millis(1));
            continue;
        };
        count += 1;
        match command {
            Command::Ping => reply.send(Ok(Done::with(&Ping::own()))),
            Command::Wait => server.tell_end(reply),
            Command::Shutdown => server.confirm_end(reply),
            Command::Stats => reply.send(Ok(Done::With(json!(["x".repeat(2 << 20)])))),
            Command::Info => reply.send(Ok(Done::With(
                json!({"k\u{e4}rnel": "\u{20ac}".repeat(1000)}),
            ))),
            _ => reply.send(Ok(Done::Silently)),
        }
    }
    count
}

/// Reads one response, which leaves the connection open.
fn response(stream: &mut UnixStream) -> String {
    let mut text = Vec::new();
    let mut byte = [0];
    while !text.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).unwrap();
        text.push(byte[0]);
    }
    let head = String::from_utf8(text).unwrap();
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("Content-Length: "));
    let mut body = vec![0; length.map_or(0, |length| length.parse().unwrap())];
    stream.read_exact(&mut body).unwrap();
    head + &String::from_utf8(body).unwrap()
}

#[test]
fn a_ping_is_answered() {
    let served = Served::start();
    let answer = served.request("GET", "vmm.ping", "");
    assert!(
        answer.contains("Content-Type: application/json\r\n"),
        "{answer}"
    );
    assert!(answer.contains("\"version\":"), "{answer}");
    assert_eq!(served.finish(), 1);
}

#[test]
fn a_command_without_an_answer_is_confirmed() {
    let served = Served::start();
    let answer = served.request("PUT", "vm.pause", "");
    assert!(answer.starts_with("HTTP/1.1 204 \r\n"), "{answer}");
    assert!(answer.ends_with("\r\n\r\n"), "{answer}");
}

#[test]
fn what_is_no_command_never_reaches_the_control_thread() {
    let served = Served::start();
    let status = |answer: String| answer.split(' ').nth(1).unwrap_or_default().to_owned();
    assert_eq!(status(served.request("GET", "vm.resize", "")), "404");
    assert_eq!(status(served.exchange(b"GET / HTTP/1.0\r\n\r\n")), "404");
    let wrong = served.request("PUT", "vm.info", "");
    assert!(wrong.contains("Allow: GET\r\n"), "{wrong}");
    assert_eq!(status(wrong), "405");
    let bad = served.request("PUT", "vm.add-device", "{\"hots\": 1}");
    assert!(bad.contains("unknown field `hots`"), "{bad}");
    assert_eq!(status(bad), "400");
    assert_eq!(status(served.exchange(b"hello\r\n\r\n")), "400");
    let large = format!(
        "PUT /api/v1/vm.pause HTTP/1.1\r\nContent-Length: {}\r\n\r\n",
        BODY_LIMIT + 1
    );
    assert_eq!(status(served.exchange(large.as_bytes())), "413");
    let long = format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(2 * HEAD_LIMIT));
    assert_eq!(status(served.exchange(long.as_bytes())), "431");
    served.works();
    assert_eq!(served.finish(), 1);
}

#[test]
fn requests_of_one_connection_are_answered_in_their_order() {
    let served = Served::start();
    let mut stream = served.connect();
    let ping = "GET /api/v1/vmm.ping HTTP/1.1\r\n\r\n";
    // Two at once, then one whose body comes late.
    stream
        .write_all(format!("{ping}PUT /api/v1/vm.pause HTTP/1.1\r\n\r\n").as_bytes())
        .unwrap();
    assert!(response(&mut stream).starts_with("HTTP/1.1 200"));
    assert!(response(&mut stream).starts_with("HTTP/1.1 204"));
    stream
        .write_all(b"PUT /api/v1/vm.remove-device HTTP/1.1\r\nContent-Length: 10\r\n\r\n{\"id\":")
        .unwrap();
    stream.write_all(b"\"a\"}").unwrap();
    assert!(response(&mut stream).starts_with("HTTP/1.1 204"));
}

#[test]
fn a_client_that_waits_before_its_body_is_told_to_send_it() {
    let served = Served::start();
    let mut stream = served.connect();
    let head = "PUT /api/v1/vm.remove-device HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 10\r\n\r\n";
    stream.write_all(head.as_bytes()).unwrap();
    assert_eq!(response(&mut stream), "HTTP/1.1 100 \r\n\r\n");
    stream.write_all(b"{\"id\":\"a\"}").unwrap();
    assert!(response(&mut stream).starts_with("HTTP/1.1 204"));
}

#[test]
fn a_half_closed_client_gets_its_answer() {
    let served = Served::start();
    let mut stream = served.connect();
    stream
        .write_all(b"GET /api/v1/vmm.ping HTTP/1.1\r\n\r\n")
        .unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    assert!(response(&mut stream).starts_with("HTTP/1.1 200"));
    assert_eq!(stream.read(&mut [0]).unwrap(), 0);
}

#[test]
fn a_request_for_a_head_gets_no_body_and_empty_lines_are_no_request() {
    let served = Served::start();
    let mut stream = served.connect();
    let ping = "GET /api/v1/vmm.ping HTTP/1.1\r\n\r\n";
    stream
        .write_all(
            format!("HEAD /api/v1/vmm.ping HTTP/1.1\r\n\r\n\r\n{ping}\r\n\r\n{ping}\r\n")
                .as_bytes(),
        )
        .unwrap();
    let head = response(&mut stream);
    assert!(
        head.starts_with("HTTP/1.1 405 \r\n") && head.ends_with("Allow: GET\r\n\r\n"),
        "{head}"
    );
    assert!(response(&mut stream).starts_with("HTTP/1.1 200 "));
    assert!(response(&mut stream).starts_with("HTTP/1.1 200 "));
    // What is left is the beginning of nothing: longer than a request may take it is not complained of.
    stream
        .set_read_timeout(Some(Duration::from_secs(6)))
        .unwrap();
    let error = stream.read(&mut [0]).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock);
}

#[test]
fn a_client_of_http_1_0_is_told_and_gets_the_end() {
    let served = Served::start();
    let answer =
        served.exchange(b"GET /api/v1/vmm.ping HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
    assert!(answer.contains("\r\nConnection: close\r\n"), "{answer}");
}

/// Two that ask as soon as they are answered, and do not stop when the guest does.
#[test]
fn clients_that_never_stop_asking_do_not_keep_the_server_from_its_end() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("api.sock");
    let server = Server::start(ApiSocket::bind(&path).unwrap()).unwrap();
    let clients: Vec<_> = (0..4)
        .map(|_| {
            let mut stream = UnixStream::connect(&path).unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            thread::spawn(move || {
                let ping = b"GET /api/v1/vmm.ping HTTP/1.1\r\n\r\n";
                while stream.write_all(ping).is_ok()
                    && stream.read(&mut [0; 4096]).is_ok_and(|count| count > 0)
                {}
            })
        })
        .collect();
    thread::sleep(Duration::from_millis(100));
    let started = Instant::now();
    drop(server);
    assert!(started.elapsed() < PATIENCE / 2);
    clients
        .into_iter()
        .for_each(|client| client.join().unwrap());
}

#[test]
fn a_slow_client_is_told_and_holds_nobody_up() {
    let served = Served::start();
    let mut slow = served.connect();
    slow.write_all(b"GET /api/v1/vmm.ping HT").unwrap();
    served.works();
    let mut answer = String::new();
    slow.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
}

#[test]
fn clients_that_say_nothing_make_room_for_one_that_does() {
    let served = Served::start();
    let silent: Vec<_> = (0..3 * connections::LIMIT)
        .map(|_| served.connect())
        .collect();
    let started = Instant::now();
    served.works();
    assert!(started.elapsed() < PATIENCE / 2);
    drop(silent);
}

/// Each could hold its place for the seconds that a request may take.
#[test]
fn clients_that_have_sent_half_a_request_make_room_as_well() {
    let served = Served::start();
    let half: Vec<_> = (0..connections::LIMIT)
        .map(|_| {
            let mut stream = served.connect();
            stream.write_all(b"GET /api/v1/vmm.ping HT").unwrap();
            stream
        })
        .collect();
    // Until all of them have been read.
    thread::sleep(Duration::from_millis(200));
    let started = Instant::now();
    served.works();
    assert!(started.elapsed() < Duration::from_secs(2));
    drop(half);
}

/// A client that reads slowly is owed the rest: it is not among those that are sent away.
#[test]
fn an_answer_is_sent_whole_before_its_client_may_be_sent_away() {
    let served = Served::start();
    let mut slow = served.connect();
    // More than fits into a socket's buffer.
    slow.write_all(b"GET /api/v1/ferry.stats HTTP/1.1\r\n\r\n")
        .unwrap();
    thread::sleep(Duration::from_millis(200));
    let silent: Vec<_> = (0..2 * connections::LIMIT)
        .map(|_| served.connect())
        .collect();
    thread::sleep(Duration::from_millis(200));
    let ending = {
        let server = Arc::clone(&served.server);
        thread::spawn(move || server.end(&json!({"exit_code": 0})))
    };
    thread::sleep(Duration::from_millis(200));
    let answer = response(&mut slow);
    assert!(answer.ends_with("\"]"), "{} bytes", answer.len());
    ending.join().unwrap();
    drop(silent);
}

#[test]
fn clients_that_went_away_are_forgotten() {
    let served = Served::start();
    for _ in 0..4 * connections::LIMIT {
        let mut stream = served.connect();
        stream
            .write_all(b"GET /api/v1/ferry.wait HTTP/1.1\r\n\r\n")
            .unwrap();
        // Until it waits: then it is no idle client that makes room for others.
        thread::sleep(Duration::from_millis(10));
        drop(stream);
        thread::sleep(Duration::from_millis(250));
    }
    served.works();
}

#[test]
fn too_many_clients_that_wait_are_told_so() {
    let served = Served::start();
    let mut waiting = Vec::new();
    for count in 0..=TOLD {
        let mut stream = served.connect();
        stream
            .write_all(b"GET /api/v1/ferry.wait HTTP/1.1\r\n\r\n")
            .unwrap();
        if count == TOLD {
            let answer = response(&mut stream);
            assert!(answer.starts_with("HTTP/1.1 429 "), "{answer}");
        }
        waiting.push(stream);
        // Its command is the next to be carried out.
        thread::sleep(Duration::from_millis(50));
    }
    served.works();
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(48))]

    /// Bytes that end in the middle of something are closed, the rest is answered; the server goes on.
    #[test]
    fn arbitrary_bytes_get_an_answer_or_a_close(
        start in proptest::sample::select(vec!["", "GET ", "PUT /api/v1/vm.add-device HTTP/1.1\r\n", "PUT /api/v1/vm.pause HTTP/1.1\r\nContent-Length: 8\r\n\r\n"]),
        bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200),
    ) {
        let served = Served::start();
        let mut stream = served.connect();
        // A server that has refused already may have closed.
        let _ = stream.write_all(&[start.as_bytes(), &bytes].concat());
        let _ = stream.shutdown(Shutdown::Write);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 "), "{answer:?}");
        served.works();
        served.finish();
    }
}
