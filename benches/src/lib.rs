//! How fast it is. The benchmarks are in `benches/`: `cargo bench`.
