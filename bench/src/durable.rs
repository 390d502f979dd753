//! `hikyaku-bench durable`: what waiting for the disk costs.
//!
//! The same load with fdatasync and without, in turns, in pairs within one invocation: what the
//! machine's other work does to one half it does to the other. The figure is the ratio of each pair,
//! its median and its range; the goal is 0.90 of the throughput. CPU per message stands beside it,
//! because it is the one that noise moves least.

use std::error::Error;

use clap::Args;
use serde_json::json;

use crate::cli::LoadArgs;
use crate::load;
use crate::programs::engine_path;
use crate::report::{self, Spread};

/// `hikyaku-bench durable`. `--runs` counts pairs.
#[derive(Debug, Args)]
pub struct DurableArgs {
    /// What is run
    #[command(flatten)]
    pub load: LoadArgs,
    /// Median ratio of throughput below which the command fails
    #[arg(long, value_name = "RATIO", default_value_t = 0.90)]
    pub goal: f64,
}

/// Runs all pairs; `Ok(false)` if one could not be verified or the median is below the goal.
///
/// # Errors
///
/// The engine is missing, a child failed, or the file system did.
pub fn run(args: &DurableArgs) -> Result<bool, Box<dyn Error>> {
    let engine = engine_path(args.load.engine.as_deref())?;
    let work = args.load.work.workload();
    if !args.load.json {
        println!("seed {}: {work:?}", work.seed);
        println!("{}", report::machine());
    }
    let mut verified = true;
    let (mut rates, mut cpus, mut pairs) = (Vec::new(), Vec::new(), Vec::new());
    for pair in 0..args.load.runs + u32::from(args.load.warm) {
        let half = |sync: bool| {
            let mut arguments = args.load.engine_arg.clone();
            if !sync {
                arguments.push("--unsafe-no-sync".to_owned());
            }
            let load = LoadArgs {
                engine_arg: arguments,
                ..args.load.clone()
            };
            load::one_run(&load, &engine, &work)
        };
        // Who goes first takes turns, too.
        let (with, without) = if pair % 2 == 0 {
            let with = half(true)?;
            (with, half(false)?)
        } else {
            let without = half(false)?;
            (half(true)?, without)
        };
        for fault in with.faults.iter().chain(&without.faults) {
            verified = false;
            eprintln!("NOT VERIFIED: {fault}");
        }
        if args.load.warm && pair == 0 {
            continue;
        }
        let of = |name: &str| {
            let with = with.figures.get(name).unwrap_or(0.0);
            let without = without.figures.get(name).unwrap_or(0.0);
            (with, without)
        };
        let (fast, free) = of("messages_per_s");
        let (cpu, cpu_free) = of("engine_cpu_us_per_message");
        let syncs = with.figures.get("engine_fsyncs").unwrap_or(0.0);
        rates.push(fast / free.max(1e-9));
        cpus.push(cpu / cpu_free.max(1e-9));
        if !args.load.json {
            println!(
                "pair {}: {fast:.0} msg/s durable, {free:.0} without, ratio {:.3}; {cpu:.1} and {cpu_free:.1} us CPU; {syncs:.0} fdatasyncs",
                rates.len(),
                fast / free.max(1e-9)
            );
        }
        pairs.push(
            json!({ "durable": with.figures.to_json(), "without": without.figures.to_json() }),
        );
    }
    let (Some(rate), Some(cpu)) = (Spread::of(rates), Spread::of(cpus)) else {
        return Ok(false);
    };
    let reached = rate.median >= args.goal;
    if args.load.json {
        println!(
            "{}",
            json!({
                "seed": work.seed, "machine": report::machine(), "verified": verified, "goal": args.goal,
                "reached": reached, "pairs": pairs,
                "rate_ratio": { "median": rate.median, "min": rate.min, "max": rate.max },
                "cpu_ratio": { "median": cpu.median, "min": cpu.min, "max": cpu.max },
            })
        );
    } else {
        println!(
            "durable/without: throughput {:.3} ({:.3} to {:.3}), CPU per message {:.3} ({:.3} to {:.3}); goal {:.2}: {}",
            rate.median,
            rate.min,
            rate.max,
            cpu.median,
            cpu.min,
            cpu.max,
            args.goal,
            if reached { "reached" } else { "missed" }
        );
    }
    Ok(verified && reached)
}
