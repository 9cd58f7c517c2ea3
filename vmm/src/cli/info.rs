//! `ferry info`.

use super::Failure;
use super::guest::Target;
use serde_json::Value;
use std::io::{self, Write};
use std::process::ExitCode;

/// Say what a running guest is made of, and whether it runs
#[derive(clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    target: Target,
    /// As JSON
    #[arg(long)]
    json: bool,
}

/// Prints it.
pub(super) fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let guest = arguments.target.guest()?;
    let info = guest.get("vm.info")?;
    if arguments.json {
        // A reader that has gone wanted no more.
        let _ = writeln!(io::stdout(), "{info:#}");
        return Ok(ExitCode::SUCCESS);
    }
    let ping = guest.get("vmm.ping")?;
    let stats = guest.get("ferry.stats")?;
    let _ = io::stdout().write_all(text(&info, &ping, &stats).as_bytes());
    Ok(ExitCode::SUCCESS)
}

fn text(info: &Value, ping: &Value, stats: &Value) -> String {
    let word = |value: &Value| match value {
        Value::String(text) => text.clone(),
        Value::Null => "?".to_owned(),
        value => value.to_string(),
    };
    let config = &info["config"];
    let mut text = String::new();
    let mut line = |name: &str, value: &str| text.push_str(&format!("{name:<10}{value}\n"));
    let seconds = stats["uptime"].as_u64().unwrap_or(0) / 1_000_000;
    let state = word(&info["state"]).to_lowercase();
    line(
        "state",
        &format!(
            "{state}, up {}, boot {}",
            span(seconds),
            word(&stats["boots"])
        ),
    );
    line(
        "process",
        &format!("{} ({})", word(&ping["pid"]), word(&ping["build_version"])),
    );
    line("vCPUs", &word(&config["cpus"]["boot_vcpus"]));
    let mebibytes = info["memory_actual_size"].as_u64().unwrap_or(0) >> 20;
    line("memory", &format!("{mebibytes} MiB"));
    line("kernel", &word(&config["payload"]["kernel"]));
    if let Some(initramfs) = config["payload"]["initramfs"].as_str() {
        line("initramfs", initramfs);
    }
    line("cmdline", &word(&config["payload"]["cmdline"]));
    for device in stats["devices"].as_array().into_iter().flatten() {
        let [id, host, guest] = ["id", "host", "guest"].map(|key| word(&device[key]));
        let named = if id == host {
            host
        } else {
            format!("{id}, {host}")
        };
        line("device", &format!("{named}, in the guest {guest}"));
    }
    text
}

/// Seconds as a person says them.
pub(super) fn span(seconds: u64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86400);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, _) => format!("{minutes} min {} s", seconds % 60),
        (0, _, _) => format!("{hours} h {} min", minutes % 60),
        _ => format!("{days} d {} h", hours % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_guest_is_told_in_a_few_lines() {
        let info = json!({
            "state": "Paused", "memory_actual_size": 512 << 20,
            "config": {"cpus": {"boot_vcpus": 2}, "payload": {"kernel": "/k", "cmdline": "quiet"}}
        });
        let stats = json!({
            "uptime": 3_700_000_000_u64, "boots": 2,
            "devices": [{"id": "nic0", "host": "0000:01:00.0", "guest": "0000:00:01.0"}]
        });
        let ping = json!({"pid": 7, "build_version": "ferry 0"});
        assert_eq!(
            text(&info, &ping, &stats),
            "state     paused, up 1 h 1 min, boot 2\n\
             process   7 (ferry 0)\n\
             vCPUs     2\n\
             memory    512 MiB\n\
             kernel    /k\n\
             cmdline   quiet\n\
             device    nic0, 0000:01:00.0, in the guest 0000:00:01.0\n"
        );
    }

    #[test]
    fn spans_have_two_units() {
        assert_eq!(
            [5, 61, 3600, 90_000].map(span),
            ["5 s", "1 min 1 s", "1 h 0 min", "1 d 1 h"]
        );
    }
}
