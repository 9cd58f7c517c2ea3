//! Who is told what when the guest has ended.

use super::*;

#[test]
fn those_who_wait_for_the_end_are_told_how_it_was() {
    let served = Served::start();
    let mut streams = [served.connect(), served.connect()];
    for (stream, request) in streams
        .iter_mut()
        .zip(["GET /api/v1/ferry.wait", "PUT /api/v1/vmm.shutdown"])
    {
        stream
            .write_all(format!("{request} HTTP/1.1\r\n\r\n").as_bytes())
            .unwrap();
    }
    thread::sleep(Duration::from_millis(100));
    served.server.end(&json!({"exit_code": 10}));
    let [wait, stop] = &mut streams;
    assert!(response(wait).ends_with("{\"exit_code\":10}"));
    assert!(response(stop).starts_with("HTTP/1.1 204"));
}

#[test]
fn whoever_asks_while_the_guest_ends_is_told_how_as_well() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("api.sock");
    let server = Server::start(ApiSocket::bind(&path).unwrap()).unwrap();
    let asked = || {
        let mut stream = UnixStream::connect(&path).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
            .write_all(b"GET /api/v1/ferry.wait HTTP/1.1\r\n\r\n")
            .unwrap();
        thread::sleep(Duration::from_millis(50));
        stream
    };
    // Nobody takes commands any more: this one waits in the queue.
    let mut queued = asked();
    let ended = thread::spawn(move || server.end(&json!({"exit_code": 0})));
    assert!(response(&mut queued).ends_with("{\"exit_code\":0}"));
    ended.join().unwrap();
}

#[test]
fn a_command_that_nobody_carries_out_any_more_is_answered() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("api.sock");
    let server = Server::start(ApiSocket::bind(&path).unwrap()).unwrap();
    let mut stream = UnixStream::connect(&path).unwrap();
    stream
        .write_all(b"PUT /api/v1/vm.pause HTTP/1.1\r\n\r\n")
        .unwrap();
    thread::sleep(Duration::from_millis(50));
    drop(server);
    let answer = response(&mut stream);
    assert!(answer.starts_with("HTTP/1.1 500 "), "{answer}");
    assert!(answer.contains("the guest has ended"), "{answer}");
    assert!(!path.exists());
}
