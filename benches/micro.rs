//! The time of small pieces of the master's work (`src/work.rs`), by divan: `cargo bench -p actix-cluster-benches --bench micro`.
//!
//! On a machine that others share, believe `instructions` instead: it counts the same work.

use actix_cluster_benches::work::{WORKS, Work};
use divan::Bencher;

fn main() {
    divan::main();
}

#[divan::bench(args = WORKS.iter().map(|work| work.name))]
fn work(bencher: Bencher<'_, '_>, name: &str) {
    let work: &Work = WORKS.iter().find(|work| work.name == name).expect("one of the list");
    let once = (work.prepare)().expect("it can be prepared");
    bencher.bench_local(once);
}
