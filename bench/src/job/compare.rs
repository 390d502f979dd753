//! `hikyaku-bench job --compare`: the same job unsigned, with RSA-2048 signatures one at a time and in
//! batches, in turns, and in each turn what such a message cannot do without, measured alone.
//!
//! Counted for the engine is the CPU time of its whole process over the whole run (start, ingest, spool,
//! queue, SMTP, sockets, log), divided by the rows. Bare is what the harness measures on its own thread
//! with the same library code, key, template and rows (`bare.rs`):
//!
//! | figure | |
//! |---|---|
//! | `beyond_percent` | how much more the engine takes for a signed message, all of delivery included, than one signature and one rendering |
//! | `beyond_with_hashing_percent` | the same, what is hashed counted as bare, too |
//! | `signing_beyond_us` | what signing adds to an unsigned run, less one signature and its hashing |
//! | `batch_throughput_x` | messages per second while sending, batches over one at a time |
//! | `batch_cpu_x` | the same by CPU time |
//!
//! Wall-clock figures share the cores with the sink; those in CPU time do not care.

use std::error::Error;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::bare::{Bare, Bench};
use super::{Dkim, JobArgs, make_key, one_run};
use crate::report::{self, Figures, Spread, summarize};

/// The turns of each round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Turn {
    Unsigned,
    One,
    Batch,
}

/// Runs it; the faults of all runs.
pub(super) fn run(
    args: &JobArgs,
    engine: &Path,
    dir: &Path,
    seed: u64,
) -> Result<Vec<String>, Box<dyn Error>> {
    let work = args.work(seed);
    let signed = JobArgs {
        dkim: Dkim::Rsa,
        ..args.clone()
    };
    make_key(&signed, engine, dir)?;
    let library = args.dkim_batch_library.as_deref();
    let bench = Bench::new(&work, &dir.join("key"), library)?;
    if !bench.has_batches() {
        eprintln!(
            "batches left out: libcrypto_mb cannot be loaded (--dkim-batch-library) or does not run on this CPU"
        );
    }
    let mut faults = Vec::new();
    let mut rounds = Vec::new();
    for round in 0..args.rounds {
        let mut figures = Figures::default();
        let bare = bench.measure()?;
        let mut used = Vec::new();
        for turn in [Turn::Unsigned, Turn::One, Turn::Batch] {
            if turn == Turn::Batch && !bench.has_batches() {
                continue;
            }
            let place = dir.join(format!("round-{round}-{turn:?}"));
            std::fs::create_dir(&place)?;
            let run = one_run(&of_turn(args, turn), engine, &place, seed)?;
            if run.faults.is_empty() && !args.keep {
                std::fs::remove_dir_all(&place)?;
            }
            faults.extend(run.faults.iter().map(|what| format!("{turn:?}: {what}")));
            let told = |name| run.figures.get(name).unwrap_or(0.0);
            let cpu = told("engine_cpu_us_per_message");
            let rate = told("sending_messages_per_s");
            if !args.json {
                println!("round {round} {turn:?}: {cpu:.1} µs, {rate:.0} messages/s");
            }
            used.push((cpu, rate, told("signatures_per_batch")));
        }
        figures.add("bare_signature_us", bare.signature);
        if let Some(in_batch) = bare.in_batch {
            figures.add("bare_signature_in_batch_us", in_batch);
        }
        figures.add("bare_template_us", bare.template);
        figures.add("bare_hashing_us", bare.hashing);
        compare(&bare, &used, &mut figures);
        rounds.push(figures);
    }
    tell(args, seed, &rounds, &faults);
    Ok(faults)
}

/// Adds what the engine used in one round, by turn: CPU µs and messages per second, and signatures per
/// batch.
fn compare(bare: &Bare, used: &[(f64, f64, f64)], figures: &mut Figures) {
    let [
        (unsigned, unsigned_rate, _),
        (one, one_rate, _),
        ref batch @ ..,
    ] = *used
    else {
        return;
    };
    let percent = |of: f64| (one / of - 1.0) * 100.0;
    let needed = bare.signature + bare.template;
    figures.add("unsigned_cpu_us", unsigned);
    figures.add("unsigned_messages_per_s", unsigned_rate);
    figures.add("rsa_cpu_us", one);
    figures.add("rsa_messages_per_s", one_rate);
    figures.add("beyond_percent", percent(needed));
    figures.add(
        "beyond_with_hashing_percent",
        percent(needed + bare.hashing),
    );
    figures.add(
        "signing_beyond_us",
        one - unsigned - bare.signature - bare.hashing,
    );
    if let [(cpu, rate, lanes)] = *batch {
        figures.add("batch_cpu_us", cpu);
        figures.add("batch_messages_per_s", rate);
        figures.add("signatures_per_batch", lanes);
        figures.add("batch_throughput_x", rate / one_rate);
        figures.add("batch_cpu_x", one / cpu);
    }
}

fn tell(args: &JobArgs, seed: u64, rounds: &[Figures], faults: &[String]) {
    for fault in faults {
        eprintln!("BROKEN: {fault}");
    }
    if args.json {
        let all = json!({
            "seed": seed, "machine": report::machine(), "verified": faults.is_empty(),
            "summary": report::summary_json(rounds),
            "rounds": rounds.iter().map(Figures::to_json).collect::<Vec<Value>>(),
            "faults": faults,
        });
        return println!("{all}");
    }
    println!("{}", report::machine());
    print!("{}", report::table(rounds));
    for line in verdict(rounds) {
        println!("{line}");
    }
}

/// The two marks of the issue, in words.
fn verdict(rounds: &[Figures]) -> Vec<String> {
    let summary = summarize(rounds);
    let spread = |name| {
        summary
            .iter()
            .find(|(of, _)| *of == name)
            .map(|(_, it)| *it)
    };
    let mut lines = Vec::new();
    if let Some(Spread { median, min, max }) = spread("beyond_percent") {
        lines.push(format!(
            "engine beyond bare signature + template work: {median:.1} % ({min:.1} … {max:.1}), all of delivery included; at most 25 is the mark"
        ));
    }
    if let Some(Spread { median, min, max }) = spread("batch_throughput_x") {
        let cpu = spread("batch_cpu_x").map_or(0.0, |cpu| cpu.median);
        lines.push(format!(
            "batch × scalar throughput: {median:.2} ({min:.2} … {max:.2}), by CPU time {cpu:.2}; at least 2 is the mark"
        ));
    }
    lines
}

fn of_turn(args: &JobArgs, turn: Turn) -> JobArgs {
    let mut of = JobArgs {
        dkim: if turn == Turn::Unsigned {
            Dkim::None
        } else {
            Dkim::Rsa
        },
        ..args.clone()
    };
    if turn == Turn::Batch {
        of.engine_arg.push("--dkim-batch=auto".into());
        let library: Option<&PathBuf> = args.dkim_batch_library.as_ref();
        let named = library.map(|file| format!("--dkim-batch-library={}", file.display()));
        of.engine_arg.extend(named);
    }
    of
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_of_a_round_and_what_they_say() {
        let bare = Bare {
            signature: 290.0,
            in_batch: Some(110.0),
            hashing: 20.0,
            template: 10.0,
        };
        let used = [
            (40.0, 20_000.0, 0.0),
            (360.0, 2_500.0, 0.0),
            (180.0, 5_250.0, 7.9),
        ];
        let mut figures = Figures::default();
        compare(&bare, &used, &mut figures);
        for (name, expected) in [
            ("beyond_percent", 20.0),
            ("beyond_with_hashing_percent", 12.5),
            ("signing_beyond_us", 10.0),
            ("batch_throughput_x", 2.1),
            ("batch_cpu_x", 2.0),
        ] {
            let found = figures.get(name).unwrap_or_default();
            assert!((found - expected).abs() < 1e-9, "{name}: {found}");
        }
        assert_eq!(
            verdict(&[figures]),
            [
                "engine beyond bare signature + template work: 20.0 % (20.0 … 20.0), all of delivery included; at most 25 is the mark",
                "batch × scalar throughput: 2.10 (2.10 … 2.10), by CPU time 2.00; at least 2 is the mark"
            ]
        );
        let mut without = Figures::default();
        compare(&bare, &used[..2], &mut without);
        assert_eq!(verdict(&[without]).len(), 1);
    }
}
