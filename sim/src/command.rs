//! The command line of `cargo sim`.

#![allow(clippy::disallowed_methods)] // real time, for people who wait

use anyhow::{Context, bail};
use clap::{Parser, Subcommand, ValueEnum};
use gpujob_sim::run::{Schedule, Verdict, exhaustive, planted, play, random, threads};
use gpujob_sim::scenario::catalog;
use gpujob_sim::timeline::render;
use std::io::IsTerminal;
use std::ops::ControlFlow;
use std::panic::catch_unwind;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Runs the real operator, all of it, in virtual time, over an API server, a cloud and kubelets in memory.
///
/// Without arguments it shows the life of one job, write by write. Nothing is contacted: no cluster, no cloud, no root.
///
/// In a timeline every line is one thing that happened: virtual time, a mark, who, what. The marks: `*` a process begins or ends,
/// `$` a call that changes the cloud, `~` a fault, `!` a broken promise. A number in brackets counts the operator's writes.
#[derive(Debug, Parser)]
#[command(name = "cargo sim", bin_name = "cargo sim", version, max_term_width = 120)]
pub(crate) struct Args {
    /// Run so many schedules made by chance: any scenario, one to five faults each.
    #[arg(long, value_name = "N", conflicts_with_all = ["replay", "exhaustive"])]
    schedules: Option<u64>,
    /// The first seed of those schedules.
    #[arg(long, value_name = "SEED", default_value_t = 1, requires = "schedules")]
    seed: u64,
    /// Show one schedule again: a seed, or a name such as `plain/crash-7`, as failures print it.
    #[arg(long, value_name = "SEED", conflicts_with = "exhaustive")]
    replay: Option<String>,
    /// Crash after every single write of every scenario (or of the one that --scenario names).
    #[arg(long)]
    exhaustive: bool,
    /// With --exhaustive: have every single request arrive 3 s late, instead of crashes.
    #[arg(long, requires = "exhaustive")]
    late: bool,
    /// Stop at the first failure.
    #[arg(long)]
    first: bool,
    /// The scenario to show, or to crash in.
    #[arg(long, value_name = "NAME", conflicts_with_all = ["schedules", "replay"])]
    scenario: Option<String>,
    /// List the scenarios.
    #[arg(long)]
    list: bool,
    /// How to write results.
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
    /// Schedules at a time. Each is one thread.
    #[arg(long, value_name = "N", default_value_t = 2)]
    threads: usize,
    #[command(subcommand)]
    command: Option<Planted>,
}

/// What else it can do.
#[derive(Debug, Subcommand)]
enum Planted {
    /// Plants every bug of sim/bugs in a copy of this workspace and demands that the simulator finds it. Takes minutes.
    Planted {
        /// Only this one: the name of its patch without `.patch`.
        name: Option<String>,
    },
}

/// How results are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Output {
    /// For people.
    Text,
    /// One JSON document for a shown schedule; one JSON line for each failure and a summary otherwise.
    Json,
}

/// Does what was asked. `Ok(false)`: a promise was broken.
pub(crate) fn run(args: &Args) -> anyhow::Result<bool> {
    if let Some(Planted::Planted { name }) = &args.command {
        return planted::run(name.as_deref());
    }
    if args.list {
        return list(args.output);
    }
    let scenario = args.scenario.as_deref();
    if let Some(name) = scenario.filter(|n| catalog::named(n).is_none()) {
        bail!("there is no scenario {name:?}: `cargo sim --list` shows them");
    }
    if args.exhaustive {
        let names: Vec<String> =
            scenario.map_or_else(|| catalog::all().iter().map(|s| s.name.to_owned()).collect(), |name| vec![name.to_owned()]);
        let lists = threads::over(&names, args.threads, |name| exhaustive::of(name), |_, _| {});
        let faulty = lists.iter().flat_map(|(clean, crashes)| if args.late { exhaustive::late(clean) } else { crashes.clone() });
        let schedules: Vec<Schedule> = lists.iter().map(|(clean, _)| clean.schedule.clone()).chain(faulty).collect();
        return many(&schedules, args);
    }
    if let Some(count) = args.schedules {
        let last = args.seed.checked_add(count).context("--seed plus --schedules is more than a seed can be")?;
        let seeds: Vec<u64> = (args.seed..last).collect();
        return many(&seeds, args);
    }
    let name = args.replay.clone().unwrap_or_else(|| format!("{}/clean", scenario.unwrap_or("plain")));
    let schedule = exhaustive::named(&name)
        .with_context(|| format!("{name:?} names no schedule: give a seed, SCENARIO/clean, SCENARIO/crash-N or SCENARIO/late-N"))?;
    show(&schedule, args.output)
}

fn list(output: Output) -> anyhow::Result<bool> {
    let all = catalog::all();
    if output == Output::Json {
        let list: Vec<_> = all.iter().map(|s| serde_json::json!({"name": s.name, "about": s.about, "replicas": s.replicas})).collect();
        println!("{}", serde_json::to_string_pretty(&list)?);
        return Ok(true);
    }
    for scenario in all {
        println!("{:<22} {}", scenario.name, scenario.about);
    }
    Ok(true)
}

fn show(schedule: &Schedule, output: Output) -> anyhow::Result<bool> {
    let begun = Instant::now();
    let verdict = play(schedule);
    if output == Output::Json {
        println!("{}", serde_json::to_string_pretty(&verdict)?);
        return Ok(verdict.is_good());
    }
    println!("{schedule}\n");
    print!("{}", render(&verdict.timeline));
    println!();
    let wall = begun.elapsed();
    let (writes, requests, calls) = (verdict.writes, verdict.requests, verdict.calls);
    println!("{} s in {wall:.2?}: {writes} writes, {requests} requests, {calls} provider calls. {}", verdict.seconds, judged(&verdict));
    Ok(verdict.is_good())
}

fn judged(verdict: &Verdict) -> String {
    if verdict.is_good() { "Every promise was kept.".into() } else { format!("BROKEN:\n{}", verdict.complaint()) }
}

/// Something that stands for a schedule: making one from its seed takes a clean run, which is left to the threads.
trait Named: Sync {
    fn schedule(&self) -> Schedule;
}

impl Named for u64 {
    fn schedule(&self) -> Schedule {
        random::schedule(*self)
    }
}

impl Named for Schedule {
    fn schedule(&self) -> Schedule {
        self.clone()
    }
}

fn many<T: Named>(items: &[T], args: &Args) -> anyhow::Result<bool> {
    let begun = Instant::now();
    let (done, failed, virtual_s) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicUsize::new(0));
    let progress = std::io::stderr().is_terminal();
    let work = |item: &T| {
        let schedule = item.schedule();
        let mut verdict = catch_unwind(|| play(&schedule)).unwrap_or_else(|_| Verdict::panicked(&schedule));
        verdict.timeline.clear(); // a replay shows it again
        verdict
    };
    let told = |_: usize, verdict: &Verdict| {
        let n = done.fetch_add(1, Ordering::Relaxed) + 1;
        virtual_s.fetch_add(usize::try_from(verdict.seconds).unwrap_or(0), Ordering::Relaxed);
        if !verdict.is_good() {
            failed.fetch_add(1, Ordering::Relaxed);
            match args.output {
                Output::Text => print!("{}", verdict.complaint()),
                Output::Json => println!("{}", serde_json::to_string(verdict).unwrap_or_default()),
            }
        }
        if progress {
            eprint!("\r{n} of {}, {} failed, {:.0?} ", items.len(), failed.load(Ordering::Relaxed), begun.elapsed());
        } else if n.is_multiple_of(500) {
            eprintln!("{n} of {}, {} failed, {:.0?}", items.len(), failed.load(Ordering::Relaxed), begun.elapsed());
        }
        if args.first && !verdict.is_good() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    let verdicts = threads::until(items, args.threads, work, told);
    if progress {
        eprintln!();
    }
    let (count, failed, wall) = (verdicts.len(), failed.into_inner(), begun.elapsed());
    let per = wall.checked_div(u32::try_from(count.max(1)).unwrap_or(u32::MAX)).unwrap_or(Duration::ZERO)
        * u32::try_from(args.threads).unwrap_or(1);
    let hours = virtual_s.into_inner() / 3600;
    match args.output {
        Output::Text => println!("{count} schedules, {failed} failed, {hours} virtual hours in {wall:.1?}, {per:.1?} each on one core"),
        Output::Json => {
            println!("{}", serde_json::json!({"schedules": count, "failed": failed, "virtualHours": hours, "seconds": wall.as_secs_f64()}))
        }
    }
    Ok(failed == 0)
}
