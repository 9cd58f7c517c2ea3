//! A guest that answers on its serial console.

use crate::{BOOT, Ferry, Figures, MOMENT, until};
use rustix::process::Signal;
use std::time::Duration;

/// What the guest's /init says first.
const INIT: &str = "ferry-guest: init";

/// What its shell asks with.
const PROMPT: &str = "# ";

/// Reads a command a line and says how it ended. An interactive shell would echo and edit, and read on
/// while a command runs. `$(…)` keeps the end mark out of the echo of this very line.
const LOOP: &str = "stty -echo; exec sh -c 'n=0; while IFS= read -r l; do sh -c \"$l\" </dev/null \
                    2>&1; s=$?; n=$((n+1)); echo \"@@$n:$s@@\"; done'; exit\n";

/// A guest with a shell.
#[derive(Debug)]
pub struct Guest {
    ferry: Ferry,
    /// How much of the console was read.
    read: usize,
    /// How many commands it was given.
    commands: u32,
}

/// What a command did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommandOutput {
    /// Its exit status.
    pub status: i32,
    /// What it wrote.
    pub text: String,
}

impl Guest {
    /// Waits for the shell of Ferry's guest.
    ///
    /// # Panics
    /// When it does not come.
    #[must_use]
    #[track_caller]
    pub fn of(ferry: Ferry) -> Self {
        let mut guest = Self {
            ferry,
            read: 0,
            commands: 0,
        };
        guest.wait_for_shell();
        guest
    }

    /// Waits until the guest has booted (again) to its shell.
    ///
    /// # Panics
    /// When it doesn't.
    #[track_caller]
    pub fn wait_for_shell(&mut self) {
        let init = self.ferry.wait_for(self.read, INIT, BOOT);
        self.read = self.ferry.wait_for(init, PROMPT, BOOT);
        self.ferry.send(LOOP);
        self.commands = 0;
        let answer = self.run("echo ready");
        assert!(
            answer.text.ends_with("ready\n"),
            "{answer:?}{}",
            self.ferry.state()
        );
    }

    /// Runs a command of one line.
    ///
    /// # Panics
    /// When it takes longer than [`MOMENT`].
    #[track_caller]
    pub fn run(&mut self, command: &str) -> CommandOutput {
        self.begin(command);
        self.end(MOMENT)
    }

    /// Runs a command that must succeed and gives what it wrote.
    ///
    /// # Panics
    /// When its status is not 0.
    #[track_caller]
    pub fn ok(&mut self, command: &str) -> String {
        let CommandOutput { status, text } = self.run(command);
        assert_eq!(status, 0, "in the guest: {command}\n{text}");
        text
    }

    /// Starts a command; [`Self::end`] waits for it.
    ///
    /// # Panics
    /// When Ferry takes no input.
    #[track_caller]
    pub fn begin(&mut self, command: &str) {
        assert!(!command.contains('\n'), "one line only: {command}");
        self.commands += 1;
        self.ferry.send(&format!("{command}\n"));
    }

    /// Waits for the end of the command begun last.
    ///
    /// # Panics
    /// When it does not come.
    #[track_caller]
    pub fn end(&mut self, limit: Duration) -> CommandOutput {
        let mark = format!("@@{}:", self.commands);
        let text_end = self.ferry.wait_for(self.read, &mark, limit);
        let end = self.ferry.wait_for(text_end, "@@\n", MOMENT);
        let output = self.ferry.console().since(self.read);
        let text = output.get(..text_end - self.read - mark.len());
        let status = output.get(text_end - self.read..end - self.read);
        let parsed = status.and_then(|status| status.trim_end_matches("@@\n").parse().ok());
        self.read = end;
        match (parsed, text) {
            (Some(status), Some(text)) => CommandOutput {
                status,
                text: text.to_owned(),
            },
            _ => panic!("no status in {status:?}{}", self.ferry.state()),
        }
    }

    /// Waits until the console shows `marker`, unlike the answer to a command.
    ///
    /// # Panics
    /// When it doesn't.
    #[track_caller]
    pub fn wait_for(&mut self, marker: &str, limit: Duration) {
        self.read = self.ferry.wait_for(self.read, marker, limit);
    }

    /// Powers the guest off and gives Ferry's exit code.
    ///
    /// # Panics
    /// When Ferry does not end.
    #[track_caller]
    pub fn power_off(&mut self) -> i32 {
        self.begin("poweroff -f");
        self.ferry.exit(BOOT)
    }

    /// Ends a guest whose end is of no interest, faster than a power-off.
    ///
    /// # Panics
    /// When Ferry does not end.
    #[track_caller]
    pub fn stop(&mut self) {
        self.ferry.signal(Signal::INT);
        self.ferry.exit(MOMENT);
    }

    /// Gives an interface an address with its prefix length and waits until it sends.
    ///
    /// # Panics
    /// When it has no link before long.
    #[track_caller]
    pub fn bring_up(&mut self, interface: &str, address: &str) {
        self.ok(&format!(
            "ip addr add {address} dev {interface} && ip link set {interface} up"
        ));
        let state = format!("cat /sys/class/net/{interface}/operstate");
        until("a link on the guest's side of the wire", MOMENT, || {
            (self.run(&state).text == "up\n").then_some(())
        });
        // With the carrier there, packets are still dropped until the kernel has activated the queue, which it does right
        // behind "up" under the lock that this waits for (linkwatch_do_dev of net/core/link_watch.c).
        self.ok(&format!("ip link set {interface} up"));
    }

    /// Pings somebody three times.
    ///
    /// # Panics
    /// When an answer is missing.
    #[track_caller]
    pub fn pings(&mut self, address: &str) {
        let text = self.run(&format!("ping -c 3 -i 0.2 -W 2 {address}")).text;
        assert!(text.contains("3 packets received"), "{text}");
    }

    /// Its PCI functions besides the host bridge, as 06.0.
    #[must_use]
    #[track_caller]
    pub fn functions(&mut self) -> Vec<String> {
        let listed = self.ok("ls /sys/bus/pci/devices");
        let short = |address: &str| address.trim_start_matches("0000:00:").to_owned();
        let all = listed.split_whitespace().map(short);
        all.filter(|address| address != "00.0").collect()
    }

    /// Ferry's figures as of now.
    #[must_use]
    #[track_caller]
    pub fn figures(&self) -> Figures {
        self.ferry.figures()
    }

    /// Its Ferry.
    #[must_use]
    pub fn ferry(&self) -> &Ferry {
        &self.ferry
    }

    /// Its Ferry, to act on.
    #[must_use]
    pub fn ferry_mut(&mut self) -> &mut Ferry {
        &mut self.ferry
    }
}
