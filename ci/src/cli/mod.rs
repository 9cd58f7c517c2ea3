//! The command line of `cargo ci`.

mod bench;
mod demo;
mod dist;
mod lab;
mod lint;
mod runner;
mod setup;
mod test;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Debug, Parser)]
#[command(name = "cargo ci", bin_name = "cargo ci", about = ABOUT, after_help = AFTER, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    chore: Chore,
}

const ABOUT: &str = "The chores of the Ferry project.\n\n\
    The lab machine (L1) is an emulated PC with a VT-d IOMMU, nested virtualisation and PCI devices to pass through. \
    No special hardware and no root are needed, and nothing is installed on this machine.";

const AFTER: &str = "Environment:\n  \
    FERRY_CACHE           where fetched and built files go (default: ~/.cache/ferry, 1.4 GB)\n  \
    FERRY_LAB_ACCEL       tcg or kvm: how L1 is run (default: kvm only if this host nests guests)\n  \
    FERRY_LAB_QEMU_ARGS   further arguments for L1's QEMU, separated by spaces\n  \
    FERRY_DEBIAN_MIRROR   the Debian mirror (default: http://deb.debian.org/debian)";

#[derive(Debug, Subcommand)]
enum Chore {
    Test(test::TestArgs),
    Lint(lint::LintArgs),
    Demo(demo::DemoArgs),
    Lab(lab::LabArgs),
    Bench(bench::BenchArgs),
    Dist(dist::DistArgs),
    Setup(setup::SetupArgs),
    Images(setup::ImagesArgs),
    #[command(hide = true)]
    DemoStage(demo::DemoStageArgs),
    #[command(hide = true)]
    BenchStage(bench::BenchStageArgs),
    #[command(hide = true)]
    Runner(runner::RunnerArgs),
}

/// Runs the chore that the arguments name.
pub fn run() -> ExitCode {
    let result = match Cli::parse().chore {
        Chore::Test(args) => test::run(&args),
        Chore::Lint(args) => lint::run(&args),
        Chore::Runner(args) => runner::run(args),
        Chore::Demo(args) => demo::run(args),
        Chore::DemoStage(args) => demo::stage(args),
        Chore::Lab(args) => lab::run(args),
        Chore::Bench(args) => bench::run(&args),
        Chore::Dist(args) => dist::run(&args),
        Chore::BenchStage(args) => bench::stage(args),
        Chore::Setup(args) => setup::run(&args),
        Chore::Images(args) => setup::images(&args),
    };
    match result {
        Ok(status) => ExitCode::from(status),
        Err(error) => {
            eprintln!("cargo ci: error: {error:#}");
            ExitCode::from(lab::status_of(&error))
        }
    }
}
