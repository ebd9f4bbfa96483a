//! The whole broker under deterministic simulation: its shards' loops on a simulated network, with clients that publish,
//! consume, stall, vanish and come back, all decided by a seed.
//!
//! `FULMAR_SIM_SEEDS=N` runs seeds 0 to N − 1 (default 200); `FULMAR_SIM_SEED=S` runs one and tells what happened in
//! it. A failing seed prints how to replay it.

mod broker;
mod consumer;
mod crash;
mod declare;
mod gardener;
mod ledger;
mod manager;
mod publisher;
mod queues;
mod report;
mod run;
mod store;
mod talk;
mod ways;
mod wire;
mod wire_0_10;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use report::Report;
use run::run;

/// Seeds run when nothing else is asked for.
const SEEDS: u64 = 200;

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable}={text} is not a number")))
}

#[test]
fn what_clients_may_rely_on_holds_whatever_the_network_does() {
    if let Some(seed) = number("FULMAR_SIM_SEED") {
        fulmar_server::logging::start(log::LevelFilter::Warn);
        let report = run(seed, true);
        println!("seed {seed}: {report:?}");
        return;
    }
    let seeds = number("FULMAR_SIM_SEEDS").unwrap_or(SEEDS);
    let next = Arc::new(AtomicU64::new(0));
    let total = Arc::new(Mutex::new((Report::default(), Vec::new())));
    let threads = thread::available_parallelism().map_or(1, |cores| cores.get());
    let runners: Vec<_> = (0..threads)
        .map(|_| {
            let (next, total) = (next.clone(), total.clone());
            thread::spawn(move || {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds {
                        return;
                    }
                    let result = catch_unwind(AssertUnwindSafe(|| run(seed, false)));
                    let mut total = total.lock().unwrap();
                    match result {
                        Ok(report) => total.0 += &report,
                        Err(_) => {
                            eprintln!("seed {seed} failed");
                            total.1.push(seed);
                        }
                    }
                }
            })
        })
        .collect();
    for runner in runners {
        runner.join().unwrap();
    }
    let total = total.lock().unwrap();
    println!("{seeds} seeds: {:?}", total.0);
    let replay = "cargo test --profile checked -p fulmar --test simulation -- --nocapture";
    let failed: Vec<_> = total.1.iter().map(|seed| format!("FULMAR_SIM_SEED={seed} {replay}")).collect();
    assert!(failed.is_empty(), "failed; to replay:\n{}", failed.join("\n"));
    assert!(total.0.consumed > 10 * seeds, "hardly anything was consumed: {:?}", total.0);
    if seeds >= 100 {
        assert!(
            total.0.resets > 0 && total.0.redelivered > 0 && total.0.tended > 0,
            "no fault had an effect: {:?}",
            total.0
        );
        let rdma = &total.0;
        let faults = [
            rdma.vanished,
            rdma.flushed,
            rdma.not_ready,
            rdma.unanswered,
            rdma.overruns,
            rdma.lost_grants,
            rdma.credit_stalls,
        ];
        assert!(rdma.over_rdma > 0 && !faults.contains(&0), "nothing went wrong over RDMA: {:?}", total.0);
        assert!(total.0.moved > 0, "nobody came back on another shard: {:?}", total.0);
        let (done, undone) = (total.0.unheard_done, total.0.unheard_undone);
        assert!(total.0.recovered > 0, "no branch was left alone: {:?}", total.0);
        assert!(total.0.refused > 0 && done > 0 && undone > 0, "transactions never failed: {:?}", total.0);
    }
}
