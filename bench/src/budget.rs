//! `hikyaku-bench budget`: where the CPU time of a message goes.
//!
//! Each stage is measured alone, in this process; then the real engine is run on the same messages,
//! and its CPU time per message is put beside the sum. A stage is measured by calling the same
//! functions as the criterion benches, and the sockets and the disk by small loops on the same
//! executor that move what a real run moves. Nothing is fitted: what the sum does not explain is the
//! difference in the last line, and the command fails when that is more than `--within`.
//!
//! | file | what |
//! |---|---|
//! | `whole.rs`, `parse.rs` | ingest on a drop directory; its parse |
//! | `turn.rs`, `peer.rs` | the shard, from command to durable mark, without sockets |
//! | `parts.rs`, `dialogue.rs`, `queue.rs`, `spool.rs`, `lines.rs` | what the shard's work consists of |
//! | `commit.rs`, `wire.rs` | disk and sockets through the ring |
//! | `beside.rs` | stand-ins for the engine's other threads, while sockets are measured |
//! | `syscalls.rs` | how often a real run enters the kernel |
//! | `table.rs` | the table |

pub mod beside;
pub mod commit;
pub mod dialogue;
pub mod lines;
pub mod parse;
pub mod parts;
pub mod peer;
pub mod queue;
pub mod spool;
pub mod syscalls;
pub mod table;
pub mod turn;
pub mod whole;
pub mod wire;

use std::error::Error;
use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::{Value, json};

use crate::cli::LoadArgs;
use crate::cpu;
use crate::load;
use crate::process::Threads;
use crate::programs::{SinkProcess, engine_path};
use crate::report::{self, Figures, Spread};
use crate::workload::Workload;
use beside::Beside;
use syscalls::Counter;
use table::Table;
use turn::{Pipeline, TurnArgs, Turns};

/// `hikyaku-bench budget`. `--runs` counts real runs of each mode; the least CPU time of them counts.
#[derive(Debug, Args)]
pub struct BudgetArgs {
    /// What is run
    #[command(flatten)]
    pub load: LoadArgs,
    /// Messages of each sample of a stage
    #[arg(long, value_name = "N", default_value_t = 30_000, value_parser = clap::value_parser!(u64).range(100..))]
    pub sample: u64,
    /// Samples of each stage; the least counts
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    pub samples: u32,
    /// Count syscalls with `strace -c -f` instead of `perf stat`: slower, and every call is named
    #[arg(long)]
    pub strace: bool,
    /// Only this mode, and no syscalls are counted
    #[arg(long, value_name = "MODE", value_parser = MODES)]
    pub only: Option<String>,
    /// Difference between sum and real run, percent, above which the command fails
    #[arg(long, value_name = "PERCENT", default_value_t = 15.0)]
    pub within: f64,
}

/// Measures all and prints; `Ok(false)` if a real run could not be verified or a sum is too far off.
///
/// # Errors
///
/// The engine is missing, a child failed, or the file system did.
pub fn run(args: &BudgetArgs) -> Result<bool, Box<dyn Error>> {
    let engine = engine_path(args.load.engine.as_deref())?;
    let work = args.load.work.workload();
    let budget = Budget {
        args,
        engine: &engine,
        base: args.load.dir.clone().unwrap_or_else(std::env::temp_dir),
        work: Workload {
            messages: args.sample.min(work.messages),
            ..work.clone()
        },
    };
    if !args.load.json {
        println!(
            "seed {}: work {:016x}: {work:?}",
            work.seed,
            work.checksum()
        );
        println!("{}\n", report::machine());
    }
    let mut good = true;
    let mut tables = Vec::new();
    for mode in MODES
        .into_iter()
        .filter(|mode| args.only.as_deref().is_none_or(|only| only == *mode))
    {
        let (table, verified) = budget.table(mode)?;
        let near = table.difference_percent().abs() <= args.within;
        good &= verified && near;
        if !args.load.json {
            println!("{}", table.text());
            if !near {
                println!("the sum is more than {} % off\n", args.within);
            }
        }
        tables.push(table.json());
    }
    let counts = match args.only {
        Some(_) => Value::Null,
        None => budget.syscalls()?,
    };
    if args.load.json {
        println!(
            "{}",
            json!({
                "seed": work.seed, "work": format!("{:016x}", work.checksum()), "parameters": format!("{work:?}"),
                "machine": report::machine(), "good": good, "budgets": tables, "syscalls": counts,
            })
        );
    }
    Ok(good)
}

struct Budget<'a> {
    args: &'a BudgetArgs,
    engine: &'a Path,
    base: PathBuf,
    /// What a sample of a stage is made of.
    work: Workload,
}

impl Budget<'_> {
    fn table(&self, mode: &str) -> Result<(Table, bool), Box<dyn Error>> {
        self.say(&format!("the engine, {mode}"));
        let (run, verified) = self.real(mode)?;
        let messages = self.args.load.work.messages as f64;
        let figure = |name: &str| run.figures.get(name).unwrap_or(0.0);
        let each_us = |ns: u64| ns as f64 / 1e3 / messages;
        let mut table = Table {
            mode: mode.to_owned(),
            measured_us: figure("engine_cpu_us_per_message"),
            measured_parts: (
                figure("engine_user_us_per_message"),
                figure("engine_system_us_per_message"),
            ),
            measured_threads: run
                .engine_threads
                .iter()
                .map(|(name, used)| (name.clone(), each_us(used.cpu_ns)))
                .collect(),
            ..Table::default()
        };
        let commits = figure("engine_commits").max(figure("engine_fsyncs"));
        let per_commit = messages / commits.max(1.0);
        let pipeline = match mode {
            "stream" => Pipeline::Stream(hikyaku::limits::STREAM_DEPTH),
            _ => Pipeline::Transaction,
        };
        self.say("shard");
        let shard = self.shard(pipeline, per_commit)?;
        self.say("ingest");

        let per_file = self.args.load.drop_batch;
        let mut fault = None;
        let ingest = cpu::least(self.args.samples, || {
            whole::us_per_message(&self.work, per_file, &self.base).unwrap_or_else(|error| {
                fault = Some(error);
                f64::MAX
            })
        });
        if let Some(fault) = fault {
            return Err(fault);
        }
        self.say("commit");
        let batch = (shard.batch_bytes / 4096.0).ceil() * 4096.0;
        let committed = self.commit(batch as usize)?;
        self.say("sockets");
        let commits_us = committed.cpu_us * shard.commits;
        let beside = [
            Beside {
                core: Some(INGEST_CORE),
                us_per_message: ingest,
            },
            Beside {
                core: None,
                us_per_message: commits_us + shard.beside_us,
            },
        ];
        let wire = self.wire(pipeline, shard.us, &beside)?;
        table.thread = "hikyaku-ingest";
        table.stage(
            "ingest: claim, read, parse, hand over, remove",
            ingest,
            format!("the ingestion core on files of {per_file}, shards that say yes"),
        );
        table.part("parse", parts::parse_us(&self.work), "a file in memory");
        table.part(
            "hand over",
            parts::hand_over_us(&self.work),
            "ring, by messages in a command",
        );
        table.rest("the rest", "scan, rename, read, receipts, unlink, flushes");
        let [append, batches, mark] = parts::spool_us(&self.work, &self.base)?;
        table.thread = SHARD;
        table.stage(
            "shard: intake",
            shard.intake_us,
            "a real shard without sockets: commands carried out",
        );
        table.part(
            "append",
            append,
            "record, checksum, hash of the batch: spool alone",
        );
        table.rest(
            "the rest",
            "tables, fresh memory, dropping what ingest made",
        );
        table.stage(
            "shard: batches, and what is durable",
            shard.batches_us,
            format!("{per_commit:.0} messages between commits"),
        );
        table.part("batch", batches, "header, bookkeeping: spool alone");
        table.part(
            "enqueue",
            parts::enqueue_us(&self.work),
            "domain, ready list",
        );
        table.rest("the rest", "activation, slots, reclaiming segments");
        table.stage(
            "shard: deliver",
            shard.us - shard.intake_us - shard.batches_us,
            format!("{:.1} turns for each message", shard.turns),
        );
        table.part("read and mark", mark, "view, checksum, mark: spool alone");
        table.part(
            "in-doubt slot",
            parts::slot_us(&self.base)?,
            "claim, sent, accepted, free",
        );
        table.part("bucket", parts::limit_us(), "gate of a path");
        let replies = parts::replies_us(pipeline);
        let session = parts::session_us(&self.work, pipeline);
        table.part(
            "session turn",
            (session - replies).max(0.0),
            "envelope, copy of the content",
        );
        table.part("reply parse", replies, "all replies to a message");
        table.part("verdict", parts::verdict_us(), "classify a delivery");
        table.part("log line", parts::line_us(), "one delivery");
        table.part(
            "clocks",
            parts::clocks_us() * shard.turns,
            "both, at each turn",
        );
        table.rest(
            "the rest",
            "dispatch, settle, first touch of mapped pages, cold caches",
        );
        table.thread = "spool-pool-";
        table.stage("spare segments", shard.beside_us, "zeros written ahead");
        table.thread = "iou-wrk-";
        table.stage(
            "commit: pwrite, fdatasync",
            commits_us,
            format!(
                "{:.0} us for each batch of {:.0} KiB ({:.0} us wall)",
                committed.cpu_us,
                batch / 1024.0,
                committed.wall_us
            ),
        );
        table.thread = SHARD;
        let of_shard = run.engine_threads.get(SHARD);
        let switches =
            |count: fn(&Threads) -> u64| of_shard.map_or(0.0, |of| count(of) as f64 / messages);
        table.stage(
            "sockets: write, read, ring, switches",
            wire.us_per_message,
            format!(
                "{:.2} writes, {:.2} reads; put aside {:.2} times (in the run {:.2}), asleep {:.3} ({:.3})",
                wire.writes,
                wire.reads,
                wire.switches.1,
                switches(|of| of.involuntary),
                wire.switches.0,
                switches(|of| of.voluntary),
            ),
        );
        let connections = figure("connections");
        table.stage(
            "connect, greeting, EHLO",
            wire.us_per_connection * connections / messages,
            format!(
                "{:.0} us for each of {connections:.0}",
                wire.us_per_connection
            ),
        );
        let line_bytes = shard.log_bytes;
        let bytes = (line_bytes * self.work.messages as f64) as usize;
        table.thread = "hikyaku-log";
        table.stage(
            "log file",
            lines::file_us(&self.base, bytes)? / self.work.messages as f64,
            format!("{line_bytes:.0} bytes for each message"),
        );
        self.say("start and stop");
        let start = self.start(mode)?;
        table.thread = "hikyaku";
        table.stage(
            "start and stop",
            start / messages,
            format!("{:.0} ms for each process", start / 1e3),
        );
        Ok((table, verified))
    }

    /// What is measured now, for whoever waits.
    fn say(&self, what: &str) {
        if !self.args.load.json {
            eprintln!("measuring: {what}");
        }
    }

    fn load(&self, mode: &str) -> LoadArgs {
        let mut load = self.args.load.clone();
        load.engine_arg.push(format!("--pipeline={mode}"));
        load.sink_core.get_or_insert(SINK_CORE);
        load
    }

    /// The run with the least CPU time, and whether all could be verified.
    fn real(&self, mode: &str) -> Result<(load::Run, bool), Box<dyn Error>> {
        let load = self.load(mode);
        let work = load.work.workload();
        let mut best: Option<load::Run> = None;
        let mut verified = true;
        let cpu = |figures: &Figures| figures.get("engine_cpu_us_per_message").unwrap_or(f64::MAX);
        let mut seen = Vec::new();
        for _ in 0..load.runs + u32::from(load.warm) {
            let run = load::one_run(&load, self.engine, &work)?;
            for fault in &run.faults {
                verified = false;
                eprintln!("NOT VERIFIED: {fault}");
            }
            seen.push(cpu(&run.figures));
            if best
                .as_ref()
                .is_none_or(|best| cpu(&run.figures) < cpu(&best.figures))
            {
                best = Some(run);
            }
        }
        if let Some(spread) = Spread::of(seen).filter(|_| !load.json) {
            let Spread { median, min, max } = spread;
            println!("{mode}: {min:.2} to {max:.2} us in real runs, median {median:.2}");
        }
        Ok((best.ok_or("no run was made")?, verified))
    }

    /// A process that has one message to deliver, microseconds.
    fn start(&self, mode: &str) -> Result<f64, Box<dyn Error>> {
        let mut load = self.load(mode);
        load.work.messages = 1;
        let work = load.work.workload();
        let mut least = f64::MAX;
        for _ in 0..self.args.samples {
            let run = load::one_run(&load, self.engine, &work)?;
            least = least.min(
                run.figures
                    .get("engine_cpu_us_per_message")
                    .unwrap_or(f64::MAX),
            );
        }
        Ok(least)
    }

    fn shard(&self, pipeline: Pipeline, per_commit: f64) -> Result<ShardCost, Box<dyn Error>> {
        let turns = TurnArgs {
            work: self.args.load.work.workload(),
            pipeline,
            connections: self.args.load.connections,
            per_commit: per_commit.round().max(1.0) as u32,
        };
        let mut turns = Turns::new(&turns, &self.base)?;
        turns.deliver(self.work.messages / 5)?;
        let mut cost = ShardCost {
            us: f64::MAX,
            ..ShardCost::default()
        };
        let (mut beside, mut messages) = (0.0, 0.0);
        for _ in 0..self.args.samples {
            let spent = turns.deliver(self.work.messages)?;
            beside += cpu::us(spent.beside);
            messages += spent.messages as f64;
            let us = spent.us(spent.shard);
            if us < cost.us {
                cost = ShardCost {
                    us,
                    intake_us: spent.us(spent.intake),
                    batches_us: spent.us(spent.batches),
                    turns: spent.each(spent.turns),
                    beside_us: 0.0,
                    commits: spent.each(spent.commits),
                    batch_bytes: spent.batch_bytes as f64 / spent.commits.max(1) as f64,
                    log_bytes: spent.each(spent.log_bytes),
                };
            }
        }
        // A segment is made now and then: only the mean over all says what it costs.
        cost.beside_us = beside / f64::max(messages, 1.0);
        Ok(cost)
    }

    /// The exchange with a sink, beside others that take so much for each message.
    fn wire(
        &self,
        pipeline: Pipeline,
        shard_us: f64,
        beside: &[Beside],
    ) -> Result<wire::Wire, Box<dyn Error>> {
        let dir = tempfile::Builder::new()
            .prefix("hikyaku-wire-")
            .tempdir_in(&self.base)?;
        let mut best: Option<wire::Wire> = None;
        for _ in 0..self.args.samples {
            let stderr = dir.path().join("sink.err");
            let mut sink = SinkProcess::start(1, self.args.load.timeout, &stderr, |command| {
                command.args(["--without", "starttls"]);
            })?;
            sink.pin(self.args.load.sink_core.unwrap_or(SINK_CORE));
            let wire = wire::run(&wire::WireArgs {
                work: self.work.clone(),
                pipeline,
                connections: self.args.load.connections,
                shard_us,
                beside: beside.to_vec(),
                sink: sink.address(),
            })?;
            sink.stop()?;
            if best.is_none_or(|best| wire.us_per_message < best.us_per_message) {
                best = Some(wire);
            }
        }
        Ok(best.unwrap_or_default())
    }

    fn commit(&self, bytes: usize) -> Result<commit::Committed, Box<dyn Error>> {
        let mut best: Option<commit::Committed> = None;
        for _ in 0..self.args.samples {
            let committed = commit::run(&self.base, bytes, COMMITS)?;
            if best.is_none_or(|best| committed.cpu_us < best.cpu_us) {
                best = Some(committed);
            }
        }
        Ok(best.unwrap_or_default())
    }

    /// Calls into the kernel per message of real runs, printed and as JSON.
    fn syscalls(&self) -> Result<Value, Box<dyn Error>> {
        let counter = if self.args.strace {
            Counter::Strace
        } else {
            Counter::Perf
        };
        if let Err(why) = counter.try_out() {
            eprintln!("syscalls are not counted: {why}");
            return Ok(json!({ "not_counted": why }));
        }
        let mut all = serde_json::Map::new();
        for (case, mode, per_file) in [
            ("transaction", "transaction", None),
            ("stream", "stream", None),
            ("one file per message", "transaction", Some(1)),
        ] {
            let mut load = self.load(mode);
            load.drop_batch = per_file.unwrap_or(load.drop_batch);
            // Enough for what happens once not to matter, and soon done under strace.
            load.work.messages = load.work.messages.min(self.args.sample);
            let calls = counter.count(&load, self.engine)?;
            let messages = load.work.messages as f64;
            let mut counts: Vec<(&str, u64)> = calls
                .by_name
                .iter()
                .map(|(name, count)| (&name[..], *count))
                .collect();
            counts.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
            if !self.args.load.json {
                let named: Vec<String> = counts
                    .iter()
                    .filter(|(_, count)| *count as f64 / messages >= 0.005)
                    .map(|(name, count)| format!("{name} {:.2}", *count as f64 / messages))
                    .collect();
                println!(
                    "syscalls per message, {case}: {:.2} ({})",
                    calls.total as f64 / messages,
                    named.join(", ")
                );
            }
            all.insert(
                case.replace(' ', "_"),
                json!({ "messages": load.work.messages, "total": calls.total, "calls": calls.by_name }),
            );
        }
        Ok(all.into())
    }
}

/// What the shard costs for each message.
#[derive(Debug, Clone, Copy, Default)]
struct ShardCost {
    us: f64,
    /// Of it.
    intake_us: f64,
    batches_us: f64,
    turns: f64,
    beside_us: f64,
    commits: f64,
    /// Of each batch.
    batch_bytes: f64,
    log_bytes: f64,
}

/// Name of the shards' threads, numbers left out.
const SHARD: &str = "hikyaku-";
/// The processor that the engine gives to ingestion.
const INGEST_CORE: usize = 0;
/// Where the sink is, in real runs and beside the sockets alone: what a send costs depends on whether it wakes somebody
/// there or here, and the kernel chooses otherwise each time.
const SINK_CORE: usize = INGEST_CORE;
/// Ways in which a message is sent.
const MODES: [&str; 2] = ["transaction", "stream"];
/// Batches of one sample.
const COMMITS: usize = 100;
