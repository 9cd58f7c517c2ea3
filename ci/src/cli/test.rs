//! `cargo ci test`.

use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result};
use clap::Args;

use super::lint::{self, Check};
use super::runner;
use crate::lab::Accel;
use crate::suite::{EndToEnd, Tally, cargo_test, end_to_end};
use crate::workspace::Workspace;

/// Guests of up to 5 GiB run in them, whose memory is this machine's.
const MACHINES_MAX: usize = 2;

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
        let (tally, good) = cargo_test(workspace.root(), args, |line| println!("{line}"))?;
        self.here.push((name.to_owned(), tally));
        Ok(good)
    }

    fn count_end_to_end(&mut self, workspace: &Workspace, table: &[EndToEnd]) -> Result<bool> {
        // Once, so that no machine waits for another's build.
        let arguments: Vec<&str> = table
            .iter()
            .flat_map(|test| ["--package", &test.package, "--test", &test.binary])
            .chain(["--no-run"])
            .collect();
        cargo_test(workspace.root(), &arguments, |line| println!("{line}"))?;
        let queue = Mutex::new(table.iter());
        let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).next();
        let worker = || -> Result<Vec<Verdict>> {
            std::iter::from_fn(next)
                .map(|test| run_end_to_end(workspace, test))
                .collect()
        };
        let verdicts = thread::scope(|scope| {
            let workers: Vec<_> = (0..machines()?).map(|_| scope.spawn(worker)).collect();
            let ended = workers.into_iter().map(|worker| match worker.join() {
                Ok(verdicts) => verdicts,
                Err(panic) => std::panic::resume_unwind(panic),
            });
            ended.collect::<Result<Vec<_>>>()
        })?;
        let verdicts: Vec<_> = verdicts.into_iter().flatten().collect();
        // A binary that reports no test at all did not do its work.
        let good = |verdict: &Verdict| verdict.good && verdict.tally.passed > 0;
        let all_good = verdicts.iter().all(good);
        let counts = verdicts
            .into_iter()
            .map(|Verdict { binary, tally, .. }| (binary, tally));
        self.end_to_end.extend(counts);
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

/// How one end-to-end binary went.
struct Verdict {
    binary: String,
    tally: Tally,
    good: bool,
}

/// Runs a binary, and shows what it printed when it has ended: others run beside it.
fn run_end_to_end(workspace: &Workspace, test: &EndToEnd) -> Result<Verdict> {
    let name = format!("{} ({})", test.binary, test.topology.about);
    println!("-- begun: {name}");
    let started = Instant::now();
    let mut text = String::new();
    let args = ["--package", &test.package, "--test", &test.binary];
    let (tally, good) = cargo_test(workspace.root(), &args, |line| {
        text.push_str(line);
        text.push('\n');
    })?;
    println!(
        "\n-- {name}: {:.0} s\n{text}",
        started.elapsed().as_secs_f64()
    );
    Ok(Verdict {
        binary: test.binary.clone(),
        tally,
        good,
    })
}

/// How many binaries run at once: an emulated machine keeps little more than one processor busy. A real machine has each
/// device once.
fn machines() -> Result<usize> {
    if runner::on_this_machine() {
        return Ok(1);
    }
    Ok(thread::available_parallelism()
        .context("cannot count processors")?
        .get()
        .min(MACHINES_MAX))
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
