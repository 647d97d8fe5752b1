//! The `lab` command: sets the machine up and runs what needs guests.

#![forbid(unsafe_code)]

use anyhow::{Context, Result, ensure};
use clap::{Parser, Subcommand};
use moorline_lab::bench::report::Form;
use moorline_lab::bench::{self, Bench};
use moorline_lab::cache::Cache;
use moorline_lab::demo::{self, Mishap};
use moorline_lab::image::{Busybox, Debian};
use moorline_lab::package::{self, Packages, Purpose};
use moorline_lab::setup::{self, tools};
use std::process::ExitCode;

/// Real daemons and real guests, on one machine and without anything to set up by hand.
#[derive(Debug, Parser)]
#[command(name = "lab", bin_name = "cargo lab")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Show the main job: two real guests without a network card, and a change that reaches them.
    Demo {
        /// Leave everything running until Ctrl-C, and print commands to play with.
        #[arg(long)]
        keep: bool,
        /// Kill the control plane, the host daemon and the agents in turn, before each part.
        #[arg(long, conflicts_with = "keep")]
        kill: bool,
    },
    /// Set up what tests need, then run every test of the workspace.
    Test {
        /// Passed on to `cargo test`, after `--`: the name of a test, `--test NAME`, and so on.
        #[arg(last = true)]
        options: Vec<String>,
    },
    /// Measure, against peers from Debian's packages and against the physical limit.
    Bench {
        /// What to measure.
        #[arg(value_enum)]
        bench: Bench,
        /// Print JSON instead of a table.
        #[arg(long)]
        json: bool,
    },
    /// Be the hosts of `bench fanout`, by the plan on standard input.
    #[command(hide = true)]
    Hosts,
    /// Make the Debian packages and print where they are.
    Package,
    /// Build a guest image and print where it is, as variables for a shell.
    Image {
        /// What the image is made from.
        #[arg(value_enum, default_value_t)]
        recipe: Recipe,
    },
}

#[derive(Debug, Clone, Copy, Default, clap::ValueEnum)]
enum Recipe {
    /// A stock Debian kernel with a busybox initramfs.
    #[default]
    Busybox,
    /// Debian with systemd on a disk, and the agent's package installed.
    Debian,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let outcome = match Arguments::parse().task {
        Task::Demo { keep: true, .. } => demo::keep().await,
        Task::Demo {
            keep: false,
            kill: true,
        } => demo::run(Mishap::Kill).await.map(drop),
        Task::Demo {
            keep: false,
            kill: false,
        } => demo::run(Mishap::None).await.map(drop),
        Task::Test { options } => test(&options).await,
        Task::Bench { bench, json: true } => bench::run(bench, Form::Json).await,
        Task::Bench { bench, json: false } => bench::run(bench, Form::Table).await,
        Task::Hosts => be_hosts().await,
        Task::Package => make_packages().await,
        Task::Image { recipe } => print_image(recipe).await,
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("lab: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Sets up first and by itself, so that a test's time is the test's, then leaves the terminal to cargo.
async fn test(options: &[String]) -> Result<()> {
    setup::ready().await?;
    let others = ["--workspace", "--exclude", WORLD];
    if !options.is_empty() {
        return cargo_test(&others, options).await;
    }
    cargo_test(&["--profile", "world", "--package", WORLD], &[]).await?;
    // Everything but the examples in documents: there are none, and rustdoc would read every crate to find that out.
    cargo_test(&[&others[..], &["--all-targets"]].concat(), &[]).await
}

/// The package of the deterministic world, which runs so many schedules that it is worth its own profile.
const WORLD: &str = "moorline-world";

async fn cargo_test(packages: &[&str], options: &[String]) -> Result<()> {
    let mut command = tools::cargo();
    command
        .arg("test")
        .args(packages)
        .args(options)
        .current_dir(tools::workspace());
    let status = command.status().await.context("run cargo test")?;
    ensure!(status.success(), "cargo test ended with {status}");
    Ok(())
}

async fn be_hosts() -> Result<()> {
    let plan = serde_json::from_reader(std::io::stdin()).context("understand the plan")?;
    let measured = bench::hosts::run(plan).await?;
    println!("{}", serde_json::to_string(&measured)?);
    Ok(())
}

async fn make_packages() -> Result<()> {
    let cache = Cache::open()?;
    let Packages {
        control,
        host,
        command,
    } = Packages::make(&cache, Purpose::Use).await?;
    let up = package::up(&cache, Purpose::Use).await?;
    let agent = package::agent(&cache, Purpose::Use).await?;
    for made in [control, host, command, up, agent] {
        println!("{}", made.display());
    }
    Ok(())
}

async fn print_image(recipe: Recipe) -> Result<()> {
    let tools = setup::ready().await?;
    let image = match recipe {
        Recipe::Busybox => {
            let agent = tools::guest_program("moorline-agent", "moorline-agent").await?;
            Busybox::new().agent(agent).build(tools).await?
        }
        Recipe::Debian => {
            let agent = package::agent(&tools.cache, Purpose::Use).await?;
            let enabled = Debian::new()
                .installed(agent)
                .enabled("moorline-agent", "sysinit.target");
            enabled.build(tools).await?
        }
    };
    let (kernel, initrd) = (image.kernel.display(), image.initrd.display());
    println!(
        "KERNEL='{kernel}'\nINITRD='{initrd}'\nAPPEND='{}'",
        image.command_line
    );
    if let Some(disk) = image.disk {
        println!("DISK='{}'", disk.display());
    }
    println!("VSOCK_DEVICE='{}'", tools.vsock_device.display());
    Ok(())
}
