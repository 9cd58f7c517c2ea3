//! What a person sees: numbered headings, the commands that are run, the guest's console in a margin, and the verdicts.

use anyhow::{Result, bail};

/// Escape sequences, or nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// For a terminal.
    Terminal,
    /// For a file or a pipe.
    Plain,
}

/// The demonstration as it is told.
#[derive(Debug)]
pub(super) struct Page {
    style: Style,
    step: u32,
    proven: Vec<String>,
}

impl Page {
    /// A page whose first heading has the number after `step`.
    pub(super) fn new(style: Style, step: u32) -> Self {
        Self {
            style,
            step,
            proven: Vec::new(),
        }
    }

    /// The number of the last heading.
    pub(super) fn step(&self) -> u32 {
        self.step
    }

    /// A heading.
    pub(super) fn heading(&mut self, text: &str) {
        self.step += 1;
        let heading = format!("{}. {text}", self.step);
        println!("\n{}", self.bold(&heading));
    }

    /// A line of explanation.
    pub(super) fn say(&self, text: &str) {
        println!("{}", format!("   {text}").trim_end());
    }

    /// A command that is run on the machine with the device.
    pub(super) fn command(&self, text: &str) {
        println!("   {}", self.bold(&format!("# {text}")));
    }

    /// A command that is run in the guest.
    pub(super) fn guest_command(&self, text: &str) {
        println!("   guest | {}", self.bold(&format!("# {text}")));
    }

    /// A line of the guest's console.
    pub(super) fn guest_line(&self, text: &str) {
        // What moves a cursor on a console would spoil the page.
        let text = text.replace(|c: char| c.is_control() && c != '\t', "");
        println!("{}", format!("   guest | {text}").trim_end());
    }

    /// A fact that must hold; the demonstration ends where one does not.
    pub(super) fn check(&mut self, holds: bool, what: &str, otherwise: &str) -> Result<()> {
        if !holds {
            bail!("this did not hold: {what}\n  why: {otherwise}");
        }
        println!("   {} {what}", self.green("ok"));
        Ok(())
    }

    /// A line for the summary.
    pub(super) fn prove(&mut self, text: impl Into<String>) {
        self.proven.push(text.into());
    }

    /// The summary.
    pub(super) fn close(&self) {
        println!("\n{}", self.bold("What was shown"));
        for line in &self.proven {
            println!("   {} {line}", self.green("*"));
        }
    }

    fn bold(&self, text: &str) -> String {
        self.sgr("1", text)
    }

    fn green(&self, text: &str) -> String {
        self.sgr("32", text)
    }

    fn sgr(&self, code: &str, text: &str) -> String {
        match self.style {
            Style::Terminal => format!("\u{1b}[{code}m{text}\u{1b}[0m"),
            Style::Plain => text.to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fact_that_does_not_hold_ends_the_demonstration_with_its_reason() {
        let mut page = Page::new(Style::Plain, 0);
        assert!(page.check(true, "it works", "").is_ok());
        let error = page.check(false, "no packet is lost", "1 of 5 came back");
        assert_eq!(
            error.unwrap_err().to_string(),
            "this did not hold: no packet is lost\n  why: 1 of 5 came back"
        );
    }

    #[test]
    fn escape_sequences_are_for_terminals() {
        assert_eq!(Page::new(Style::Plain, 0).bold("x"), "x");
        assert_eq!(
            Page::new(Style::Terminal, 0).bold("x"),
            "\u{1b}[1mx\u{1b}[0m"
        );
    }
}
