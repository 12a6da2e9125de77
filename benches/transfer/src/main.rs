//! `gpujob-transfer` beside s5cmd, rclone and the AWS CRT, against a server that drops what it is sent: what is measured is the client.
//!
//! `cargo run -p gpujob-transfer-bench -- --help`. Build `gpujob-transfer` first: its roles are run as they are, from the same folder.

#![allow(clippy::disallowed_methods)] // it measures

mod answers;
mod delay;
mod objects;
mod peers;
mod roles;
mod shape;
mod sink;
mod table;

use anyhow::{Context, Result};
use clap::Parser;
use peers::Peer;
use shape::{SHAPES, Way};
use sink::Sink;
use std::time::Duration;

/// Measures uploads and downloads and prints the table of ratios.
#[derive(Parser)]
struct Arguments {
    /// Rounds; the middle one counts
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Only these shapes (large, many, small); all of them when absent
    #[arg(long)]
    shape: Vec<String>,
    /// Only these programs beside our own (s5cmd, rclone, crt); all of them when absent
    #[arg(long)]
    peer: Vec<String>,
    /// Only this way (up, down)
    #[arg(long)]
    way: Option<String>,
    /// Over TLS
    #[arg(long)]
    tls: bool,
    /// Milliseconds added to each round trip
    #[arg(long, default_value_t = 0)]
    delay: u64,
    /// Divides the number of bytes and files
    #[arg(long, default_value_t = 1)]
    divide: u64,
}

fn main() -> Result<()> {
    let asked = Arguments::parse();
    let folder = tempfile::tempdir_in(if std::path::Path::new("/dev/shm").is_dir() { "/dev/shm" } else { "/tmp" })?;
    let sink = Sink::start(asked.tls, folder.path())?;
    let port = if asked.delay == 0 { sink.port } else { delay::proxy(sink.port, Duration::from_millis(asked.delay))? };
    let place = peers::Place { port, tls: asked.tls, certificate: sink.certificate.clone(), folder: folder.path().into() };
    let peers = Peer::install(&asked.peer).context("installing the programs to compare with")?;
    println!("{}", table::head(asked.tls, asked.delay, &table::load()));
    for shape in SHAPES.iter().filter(|s| asked.shape.is_empty() || asked.shape.iter().any(|name| name == s.name)) {
        let shape = shape.divided(asked.divide);
        for way in [Way::Up, Way::Down].into_iter().filter(|w| asked.way.as_deref().is_none_or(|name| name == w.name())) {
            sink.objects.reset(&shape);
            let source = folder.path().join("source");
            if way == Way::Up {
                shape.write(&source)?;
            }
            let mut rows = vec![table::Row::new("ours"), table::Row::new("(its commit)")];
            rows.extend(peers.iter().map(|peer| table::Row::new(peer.name())));
            // In turns: what else happens on this machine meets all of them.
            for round in 0..asked.rounds {
                sink.objects.reset(&shape);
                let (moved, commit) = roles::run(&place, way, &source, round)?;
                rows[0].add(moved);
                commit.into_iter().for_each(|used| rows[1].add(used));
                for (n, peer) in peers.iter().enumerate() {
                    sink.objects.reset(&shape);
                    rows[n + 2].add(peer.run(&place, way, &shape, &source)?);
                }
            }
            let _ = std::fs::remove_dir_all(&source);
            print!("{}", table::section(&shape, way, &rows));
        }
    }
    Ok(())
}
