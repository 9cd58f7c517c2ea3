//! What clients of Cloud Hypervisor's API make of the answers.

use super::*;

/// As the `api_client` of Cloud Hypervisor does, by which `ch-remote` and others talk: up to 256 bytes at a time, each of which
/// must be text, until there is as much body as is announced; no announcement means no body. All between the version and the end
/// of the line is the status.
fn read_as_cloud_hypervisors_client(stream: &mut UnixStream) -> (usize, Option<Value>) {
    let mut text = String::new();
    let (end, length) = loop {
        let mut chunk = [0; 256];
        let count = stream.read(&mut chunk).unwrap();
        assert_ne!(count, 0, "{text}");
        text += std::str::from_utf8(&chunk[..count]).unwrap();
        let Some(end) = text.find("\r\n\r\n") else {
            continue;
        };
        let after = |mark: &str| {
            let at = text.find(mark)? + mark.len();
            text[at..].split('\r').next()
        };
        let length =
            after("Content-Length: ").map(|number| number.trim().parse::<usize>().unwrap());
        if text.len() >= end + 4 + length.unwrap_or(0) {
            break (end, length);
        }
    };
    let status = text.split_once("HTTP/1.1 ").unwrap().1;
    let status = status.split('\r').next().unwrap().trim();
    let body = length.map(|_| serde_json::from_str(&text[end + 4..]).unwrap());
    (status.parse().unwrap(), body)
}

#[test]
fn cloud_hypervisors_clients_understand_every_answer() {
    let served = Served::start();
    let ask = |method: &str, name: &str, body: Option<&str>| {
        let mut stream = served.connect();
        let head =
            format!("{method} /api/v1/{name} HTTP/1.1\r\nHost: localhost\r\nAccept: */*\r\n");
        stream.write_all(head.as_bytes()).unwrap();
        if let Some(body) = body {
            let length = format!("Content-Length: {}\r\n", body.len());
            stream.write_all(length.as_bytes()).unwrap();
        }
        stream.write_all(b"\r\n").unwrap();
        stream
            .write_all(body.unwrap_or_default().as_bytes())
            .unwrap();
        read_as_cloud_hypervisors_client(&mut stream)
    };
    let (status, ping) = ask("GET", "vmm.ping", None);
    assert_eq!(
        (status, &ping.unwrap()["pid"]),
        (200, &json!(std::process::id()))
    );
    // Whatever its characters, and however they lie in the pieces.
    let (status, info) = ask("GET", "vm.info", None);
    let expected = json!({"k\u{e4}rnel": "\u{20ac}".repeat(1000)});
    assert_eq!((status, info), (200, Some(expected)));
    assert_eq!(ask("PUT", "vm.pause", None), (204, None));
    assert_eq!(
        ask("PUT", "vm.remove-device", Some("{\"id\":\"a\"}")),
        (204, None)
    );
    let (status, problems) = ask("PUT", "vm.add-device", Some("{\"path\":\"/k\u{e4}se\"}"));
    assert_eq!(
        (status, problems.unwrap().as_array().unwrap().len()),
        (400, 3)
    );
    assert_eq!(ask("GET", "vm.k\u{e4}se", None).0, 404);
    assert_eq!(ask("PUT", "vm.resize", Some("{}")).0, 404);
    assert_eq!(ask("PUT", "vmm.ping", None).0, 405);
}
