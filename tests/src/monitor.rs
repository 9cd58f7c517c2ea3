//! Pulling devices out of the host: through the monitor of the lab machine's QEMU, or through sysfs.

use crate::{HostDevice, MOMENT};
use serde_json::{Value, json};
use std::env;
use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::sync::mpsc::{self, Receiver};
use std::sync::{LazyLock, Mutex, PoisonError};
use std::thread;

/// The port of L1's own monitor; not set on real hardware.
const PORT: &str = "FERRY_LAB_QMP";

/// QEMU's monitor (QMP). Its port can be opened only once.
struct Monitor {
    port: File,
    answers: Receiver<Value>,
}

static MONITOR: LazyLock<Option<Mutex<Monitor>>> = LazyLock::new(|| {
    let path = env::var_os(PORT)?;
    let opened = OpenOptions::new().read(true).write(true).open(&path);
    let Ok(port) = opened else {
        panic!("{}: {opened:?}", path.display());
    };
    let Ok(reader) = port.try_clone() else {
        panic!("a second descriptor of {}", path.display());
    };
    let (sender, answers) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(reader).lines().map_while(Result::ok) {
            let answer = serde_json::from_str(&line).unwrap_or(Value::Null);
            // The rest are greetings and events.
            if answer.get("return").or(answer.get("error")).is_some()
                && sender.send(answer).is_err()
            {
                break;
            }
        }
    });
    let mut monitor = Monitor { port, answers };
    monitor.run(&json!({"execute": "qmp_capabilities"}));
    Some(Mutex::new(monitor))
});

impl Monitor {
    #[track_caller]
    fn run(&mut self, command: &Value) -> Value {
        let sent = writeln!(self.port, "{command}");
        match (sent, self.answers.recv_timeout(MOMENT)) {
            (Ok(()), Ok(answer)) if answer.get("error").is_none() => answer,
            (sent, answer) => panic!("the monitor to {command}: {sent:?}, {answer:?}"),
        }
    }
}

/// Has the host lose a device for good: its slot's button is pressed in the lab, where `id` is the device's name, and its
/// driver is taken from it on real hardware. Does not wait.
///
/// # Panics
/// When the monitor does not take the command.
#[track_caller]
pub fn pull(device: &HostDevice, id: &str) {
    match MONITOR.as_ref() {
        Some(monitor) => {
            let mut monitor = monitor.lock().unwrap_or_else(PoisonError::into_inner);
            monitor.run(&json!({"execute": "device_del", "arguments": {"id": id}}));
        }
        None => {
            let remove = device.folder().join("remove");
            thread::spawn(move || fs::write(remove, "1"));
        }
    }
}
