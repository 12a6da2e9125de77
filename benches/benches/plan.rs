//! How long one plan of the scheduler takes: 10,000 waiting jobs, 1,000 nodes, 600 offers. The target is 10 ms.
#![allow(missing_docs)] // criterion's macros

use criterion::{Criterion, criterion_group, criterion_main};
use gpujob_operator::scheduler::bench::{plan_of, world};
use std::hint::black_box;

fn plans(c: &mut Criterion) {
    let mut group = c.benchmark_group("plan of 10,000 jobs, 1,000 nodes, 600 offers");
    for (name, limited) in [("all wait", true), ("all are bought for", false)] {
        let world = world(10_000, 1_000, 600, limited);
        let (actions, waiting) = plan_of(&world);
        println!("{name}: {actions} actions, {waiting} jobs wait");
        group.bench_function(name, |b| b.iter(|| plan_of(black_box(&world))));
    }
    group.finish();
}

criterion_group!(benches, plans);
criterion_main!(benches);
