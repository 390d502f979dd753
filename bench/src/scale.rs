//! `hikyaku-bench scale`: how the cost of a message grows with everything that may grow.
//!
//! One dimension is varied at a time, the rest stays as in `load`. Each point is a run of the real
//! engine against the sink, verified as there; the waiting queue has a harness of its own
//! ([`backlog`]), because what is asked is the cost of a delivery while others wait. Prints a table
//! and, with `--html`, the same as plots in one file.

mod backlog;
mod plot;

use std::error::Error;
use std::path::PathBuf;

use clap::{Args, Parser as _, ValueEnum};
use serde_json::{Value, json};

use crate::cli::{Cli, Command, LoadArgs};
use crate::load;
use crate::programs::engine_path;
use crate::report::{self, Figures, Spread};
use crate::room::Room;
use backlog::Backlog;
pub use plot::Curve;

/// `hikyaku-bench scale`.
#[derive(Debug, Args)]
pub struct ScaleArgs {
    /// What is varied [default: everything]
    #[arg(long, value_enum, value_delimiter = ',')]
    pub vary: Vec<Dimension>,
    /// Largest value of each dimension, so that a small machine or a test can stop early
    #[arg(long, value_name = "N", default_value_t = u64::MAX)]
    pub up_to: u64,
    /// Messages of a run, where the dimension does not need more
    #[arg(long, value_name = "N", default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(100..))]
    pub messages: u64,
    /// Runs of each point
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    pub runs: u32,
    /// The engine [default: `hikyaku` beside this program]
    #[arg(long, value_name = "PATH")]
    pub engine: Option<PathBuf>,
    /// Further argument for `hikyaku run`; repeatable
    #[arg(long, value_name = "ARG", allow_hyphen_values = true)]
    pub engine_arg: Vec<String>,
    /// Where working directories are made [default: the temporary directory]
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// Write the plots here
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
    /// Seconds after which a run has failed
    #[arg(long, value_name = "SECONDS", default_value_t = 600.0)]
    pub timeout: f64,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// What grows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Dimension {
    /// Recipients that wait while others are delivered
    Waiting,
    /// Recipient domains, all of one size
    Domains,
    /// Recipient domains, as in a real consumer list
    RealDomains,
    /// Connections at once
    Connections,
    /// Bytes of a message
    Size,
    /// Shards
    Shards,
    /// Messages in a drop file
    Batch,
    /// Share of recipients deferred once, per cent
    Deferred,
}

impl Dimension {
    fn name(self) -> String {
        self.to_possible_value()
            .map_or_else(String::new, |value| value.get_name().to_owned())
    }

    const fn values(self) -> &'static [u64] {
        match self {
            Self::Waiting => &[10_000, 100_000, 1_000_000, 10_000_000],
            Self::Domains | Self::RealDomains => &[1, 100, 10_000, 100_000, 1_000_000],
            Self::Connections => &[1, 10, 100, 1_000, 5_000, 20_000],
            Self::Size => &[1 << 10, 4 << 10, 16 << 10, 64 << 10, 1 << 20, 10 << 20],
            Self::Shards => &[1, 2, 4, 8],
            Self::Batch => &[1, 10, 100, 1_000, 10_000, 100_000],
            Self::Deferred => &[0, 10, 25, 50],
        }
    }
}

/// One value of a dimension, measured.
struct Point {
    value: u64,
    runs: Vec<Figures>,
}

impl Point {
    fn spread(&self, figure: &str) -> Option<Spread> {
        Spread::of(self.runs.iter().filter_map(|run| run.get(figure)))
    }
}

/// Messages that a run has for each connection, so that all are open at once and for a while.
const MESSAGES_EACH: u64 = 25;

const CPU: &str = "engine_cpu_us_per_message";
const RATE: &str = "messages_per_s";
const MEMORY: &str = "engine_rss_peak_mib";
const MEMORY_OWN: &str = "engine_rss_anonymous_peak_mib";

/// Runs all points and prints; `Ok(false)` if one could not be verified.
///
/// # Errors
///
/// The engine is missing, a child failed, or the file system did.
pub fn run(args: &ScaleArgs) -> Result<bool, Box<dyn Error>> {
    let dimensions = if args.vary.is_empty() {
        Dimension::value_variants().to_vec()
    } else {
        args.vary.clone()
    };
    if !args.json {
        println!("{}", report::machine());
    }
    let (mut tables, mut faults) = (Vec::new(), Vec::new());
    for dimension in dimensions {
        let mut points = Vec::new();
        let values = dimension.values().iter().copied();
        for mut value in values.filter(|value| *value <= args.up_to) {
            if dimension == Dimension::Connections
                && let Err(why) = u32::try_from(value)
                    .map_err(|error| error.to_string())
                    .and_then(Room::make)
            {
                // Said, and as many as this machine allows are measured instead.
                faults.push(format!("{} {value}: {why}", dimension.name()));
                value = Room::most().into();
            }
            let mut point = Point {
                value,
                runs: Vec::new(),
            };
            for _ in 0..args.runs {
                match one(args, dimension, value) {
                    Ok((figures, broken)) => {
                        faults.extend(
                            broken
                                .into_iter()
                                .map(|fault| format!("{} {value}: {fault}", dimension.name())),
                        );
                        point.runs.push(figures);
                    }
                    Err(error) => faults.push(format!("{} {value}: {error}", dimension.name())),
                }
            }
            if !args.json {
                print_row(dimension, &point);
            }
            points.push(point);
        }
        tables.push((dimension, points));
    }
    if args.json {
        println!("{}", to_json(&tables, &faults));
    }
    for fault in &faults {
        eprintln!("FAILED: {fault}");
    }
    if let Some(file) = &args.html {
        std::fs::write(file, plot::page(&curves(&tables)))?;
    }
    Ok(faults.is_empty())
}

fn one(
    args: &ScaleArgs,
    dimension: Dimension,
    value: u64,
) -> Result<(Figures, Vec<String>), Box<dyn Error>> {
    if dimension == Dimension::Waiting {
        let backlog = Backlog {
            engine: engine_path(args.engine.as_deref())?,
            waiting: value,
            messages: args.messages,
            dir: args.dir.clone(),
            engine_args: args.engine_arg.clone(),
            limit: crate::cli::seconds(args.timeout),
        };
        return Ok((backlog.run()?, Vec::new()));
    }
    let (figures, mut faults) = load::measure(&load_args(args, dimension, value)?)?;
    let open = figures.get("connections_open_max").unwrap_or(0.0);
    if dimension == Dimension::Connections && open < value as f64 {
        faults.push(format!("only {open} were open at once"));
    }
    Ok((figures, faults))
}

/// The flags of `load` that make this point.
fn load_args(
    args: &ScaleArgs,
    dimension: Dimension,
    value: u64,
) -> Result<LoadArgs, Box<dyn Error>> {
    let mut messages = args.messages;
    let mut list: Vec<String> = ["hikyaku-bench", "load", "--runs", "1", "--timeout"]
        .map(String::from)
        .to_vec();
    list.push(args.timeout.to_string());
    let mut flag = |name: &str, value: String| list.extend([format!("--{name}"), value]);
    match dimension {
        Dimension::Waiting => {}
        Dimension::Domains | Dimension::RealDomains => {
            messages = messages.max(value);
            flag("domains", value.to_string());
            if dimension == Dimension::RealDomains {
                flag("mix", "real".to_owned());
            }
        }
        Dimension::Connections => {
            // They open while others are at work, each for so many that wait.
            messages = messages.max(value.saturating_mul(MESSAGES_EACH));
            flag("connections", value.to_string());
        }
        Dimension::Size => {
            // As many bytes as a run of the usual size, and enough messages to divide by.
            messages = (messages * 4096 / value.max(4096)).max(200);
            flag("size", value.to_string());
        }
        Dimension::Shards => flag("shards", value.to_string()),
        Dimension::Batch => flag("drop-batch", value.to_string()),
        Dimension::Deferred => {
            if value > 0 {
                flag("script", format!("defer={value}%"));
            }
            flag("engine-arg", "--retry-first=1s".to_owned());
        }
    }
    flag("messages", messages.to_string());
    for argument in &args.engine_arg {
        flag("engine-arg", argument.clone());
    }
    for (name, path) in [("engine", &args.engine), ("dir", &args.dir)] {
        if let Some(path) = path {
            flag(name, path.display().to_string());
        }
    }
    match Cli::try_parse_from(list)?.command {
        Command::Load(load) => Ok(load),
        _ => Err("not the flags of load".into()),
    }
}

fn print_row(dimension: Dimension, point: &Point) {
    let cell = |figure: &str| {
        point.spread(figure).map_or_else(
            || "-".to_owned(),
            |s| format!("{:.1} ({:.1} … {:.1})", s.median, s.min, s.max),
        )
    };
    println!(
        "{:12} {:>10}  CPU µs/message {:24} messages/s {:30} peak MiB {}, without files {}",
        dimension.name(),
        point.value,
        cell(CPU),
        cell(RATE),
        cell(MEMORY),
        cell(MEMORY_OWN)
    );
}

fn curves(tables: &[(Dimension, Vec<Point>)]) -> Vec<Curve> {
    let mut curves = Vec::new();
    for (dimension, points) in tables {
        for (figure, unit) in [
            (CPU, "engine CPU, µs per message"),
            (RATE, "messages per second"),
        ] {
            let points = points
                .iter()
                .filter_map(|point| Some((point.value, point.spread(figure)?)));
            curves.push(Curve {
                title: format!("{}: {unit}", dimension.name()),
                points: points.collect(),
            });
        }
    }
    curves
}

fn to_json(tables: &[(Dimension, Vec<Point>)], faults: &[String]) -> Value {
    let tables: serde_json::Map<_, _> = tables
        .iter()
        .map(|(dimension, points)| {
            let points: Vec<Value> = points
                .iter()
                .map(|point| json!({ "value": point.value, "summary": report::summary_json(&point.runs) }))
                .collect();
            (dimension.name(), points.into())
        })
        .collect();
    json!({ "machine": report::machine(), "dimensions": tables, "faults": faults })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(clap::Parser)]
    struct Scale {
        #[command(flatten)]
        args: ScaleArgs,
    }

    #[test]
    fn every_point_is_a_valid_run() {
        let args = Scale::parse_from(["scale", "--messages", "1000"]).args;
        for dimension in Dimension::value_variants() {
            for value in dimension.values() {
                let load = load_args(&args, *dimension, *value).unwrap();
                assert!(load.work.messages >= 200, "{dimension:?} {value}");
            }
        }
    }
}
