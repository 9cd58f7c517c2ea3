//! `cargo ci test`.

use anyhow::Result;
use clap::Args;

use super::lint::{self, Check};
use super::runner;
use crate::lab::Accel;
use crate::suite::{EndToEnd, Tally, cargo_test, end_to_end};
use crate::workspace::Workspace;

/// Run every check and every test
///
/// Lints and unit tests run here; the end-to-end tests run in the emulated VT-d machine, or with FERRY_LAB=host on this
/// machine, whose devices are then named in the file FERRY_DEVICES. To run one of them: cargo test -p tests --test nic NAME
#[derive(Debug, Args)]
pub(super) struct TestArgs {
    /// Leave the end-to-end tests out
    #[arg(long)]
    no_end_to_end: bool,
}

/// Tests by where they ran: a name and its count.
#[derive(Default)]
struct Counts {
    here: Vec<(String, Tally)>,
    end_to_end: Vec<(String, Tally)>,
}

pub(super) fn run(args: &TestArgs) -> Result<u8> {
    let workspace = Workspace::find()?;
    let table = end_to_end(workspace.root())?;
    let mut counts = Counts::default();
    let mut checks = lint::checks(&workspace)?;
    checks.push(Check::run("unit tests", || {
        let units = ["--workspace", "--lib", "--bins", "--quiet"];
        counts.count_here(&workspace, "unit tests", &units)
    })?);
    checks.push(Check::run("examples in the documentation", || {
        let examples = ["--workspace", "--doc", "--quiet"];
        counts.count_here(&workspace, "documentation", &examples)
    })?);
    if !args.no_end_to_end {
        checks.push(Check::run("end-to-end tests", || {
            counts.count_end_to_end(&workspace, &table)
        })?);
    }
    let good = counts.report(&checks)?;
    Ok(u8::from(!good))
}

impl Counts {
    fn count_here(&mut self, workspace: &Workspace, name: &str, args: &[&str]) -> Result<bool> {
        let (tally, good) = cargo_test(workspace.root(), args)?;
        self.here.push((name.to_owned(), tally));
        Ok(good)
    }

    fn count_end_to_end(&mut self, workspace: &Workspace, table: &[EndToEnd]) -> Result<bool> {
        let mut all_good = true;
        for test in table {
            println!("\n-- {} ({})", test.binary, test.topology.about);
            let args = ["--package", &test.package, "--test", &test.binary];
            let (tally, good) = cargo_test(workspace.root(), &args)?;
            // A binary that reports no test at all did not do its work.
            all_good &= good && tally.passed > 0;
            self.end_to_end.push((test.binary.clone(), tally));
        }
        Ok(all_good)
    }

    /// Says what ran where, and gives whether all of it is good. A test that was left out is not.
    fn report(&self, checks: &[Check]) -> Result<bool> {
        println!();
        for check in checks {
            println!("{}", check.row());
        }
        let mut all = Tally::default();
        let place = place()?;
        println!();
        for (place, counts) in [("here", &self.here), (&*place, &self.end_to_end)] {
            let names: Vec<_> = counts
                .iter()
                .map(|(name, tally)| format!("{name} {}", tally.passed))
                .collect();
            let mut sum = Tally::default();
            counts.iter().for_each(|(_, tally)| sum += *tally);
            println!("Tests that ran {place}: {sum} ({})", names.join(", "));
            all += sum;
        }
        println!("{all}");
        Ok(checks.iter().all(|check| check.good) && all.failed == 0 && all.ignored == 0)
    }
}

/// Where the end-to-end tests run.
fn place() -> Result<String> {
    if runner::on_this_machine() {
        return Ok("on this machine's own devices".to_owned());
    }
    let by = match Accel::choose()? {
        Accel::Tcg => "QEMU's emulation",
        Accel::Kvm => "nested KVM",
    };
    Ok(format!("in the VT-d machine of {by}"))
}
