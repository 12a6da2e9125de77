//! `gpujob-lab`: a real cluster on this machine, and EC2 to launch into. `cargo lab` for short.

#![allow(clippy::disallowed_methods)] // the lab works in real time

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use gpujob_e2e::fault::Fault;
use gpujob_e2e::host::Paths;
use gpujob_e2e::lab::Lab;
use gpujob_e2e::soak::{self, Soak};
use gpujob_e2e::{demo, down, images, install, instance, measure, publish, status, up};
use std::path::PathBuf;
use std::process::ExitCode;

#[derive(Parser)]
#[command(name = "lab", about = "A real cluster on this machine, and an EC2 to launch into")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Bring the lab up; what runs is left running
    Up,
    /// End everything the lab started and leave nothing behind
    Down,
    /// Print `export NAME=value` lines that let any client work against the lab
    Env,
    /// Show parts, instances, nodes, pods and today's bill
    Status,
    /// Build and push the images, install the chart, and make a sample pool
    Install,
    /// Build a folder with a Containerfile and push it; prints the image's reference
    Push {
        /// The folder
        context: PathBuf,
        /// The image's name, with or without a tag
        name: String,
    },
    /// Build the two images of a real cluster and push them to a registry of yours; prints what helm must be told. Needs no lab
    Images {
        /// The registry and what the images' names begin with: `registry.example/team`. buildah's or docker's login is used
        prefix: String,
        /// The tag; the chart's version if none is given
        #[arg(long)]
        tag: Option<String>,
        /// The registry speaks plain HTTP, or TLS that this machine does not trust
        #[arg(long)]
        insecure: bool,
    },
    /// Make something go wrong on purpose
    Fault {
        #[command(subcommand)]
        fault: Fault,
    },
    /// From nothing to results to zero: the main job on real input
    Demo {
        /// Leave the lab up
        #[arg(long)]
        keep: bool,
    },
    /// Long proofs: kill, takeover, nobody-home, and those of the simulator
    Soak {
        /// Leave the lab up
        #[arg(long, global = true)]
        keep: bool,
        #[command(subcommand)]
        soak: Soak,
    },
    /// Print how quick the installed operator is
    #[command(hide = true)]
    Measure,
    /// What the EC2 layer calls
    #[command(hide = true)]
    Instance {
        #[command(subcommand)]
        command: Instance,
    },
}

#[derive(Subcommand)]
enum Instance {
    /// Start an instance; its event is on standard input
    Boot { id: String },
    /// End an instance at once
    End { id: String },
    /// Watch an instance to its end
    Supervise { id: String },
    /// Be an instance's first process
    Init { id: String },
}

fn main() -> ExitCode {
    match start(Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn start(arguments: Arguments) -> Result<()> {
    let paths = Paths::here();
    // An instance's first process reaps every orphan of its namespace, so nothing else may wait for children there.
    if let Command::Instance { command: Instance::Init { id } } = &arguments.command {
        return instance::init(&paths, id);
    }
    tokio::runtime::Runtime::new()?.block_on(run(arguments.command, &paths))
}

/// A value as a shell takes it: bare where it can be.
fn quoted(value: &str) -> String {
    let plain = |letter: char| letter.is_ascii_alphanumeric() || "-_./:=@%+,".contains(letter);
    if value.chars().all(plain) { value.to_owned() } else { format!("'{}'", value.replace('\'', "'\\''")) }
}

async fn run(command: Command, paths: &Paths) -> Result<()> {
    match command {
        Command::Up => up::up(paths).await,
        Command::Down => down::down(paths).await,
        Command::Env => {
            for (name, value) in Lab::default().environment() {
                println!("export {name}={}", quoted(&value));
            }
            Ok(())
        }
        Command::Status => {
            print!("{}", status::status(paths).await?);
            Ok(())
        }
        Command::Install => install::install(paths).await,
        Command::Push { context, name } => {
            println!("{}", images::push(paths, &context, &name).await?);
            Ok(())
        }
        Command::Images { prefix, tag, insecure } => publish::publish(paths, &prefix, tag.as_deref(), !insecure).await,
        Command::Fault { fault } => fault.apply(paths).await,
        Command::Demo { keep } => demo::run(keep).await,
        Command::Soak { keep, soak } => soak::run(soak, keep).await,
        Command::Measure => measure::run().await,
        Command::Instance { command } => match command {
            Instance::Boot { id } => {
                let event = std::io::read_to_string(std::io::stdin())?;
                let event: instance::Event = serde_json::from_str(&event).context("the event is not understood")?;
                anyhow::ensure!(event.id == id, "the event is about {}, not {id}", event.id);
                instance::boot(paths, &event)
            }
            Instance::End { id } => {
                instance::end(paths, &id).await;
                Ok(())
            }
            Instance::Supervise { id } => instance::supervise(paths, &id).await,
            Instance::Init { id } => instance::init(paths, &id),
        },
    }
}
