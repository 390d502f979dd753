//! `hikyaku demo`, and the receiver that it starts as a process of its own.

use clap::Args;
use std::path::PathBuf;

/// `hikyaku demo`.
#[derive(Debug, Args)]
#[command(after_help = DEMO_EXAMPLES)]
pub struct DemoArgs {
    /// Messages to deliver
    #[arg(long, value_name = "N", default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
    pub messages: u64,
    /// Size of one message, 1KiB to 16MiB
    #[arg(long, value_name = "SIZE", default_value = "4KiB")]
    pub size: String,
    /// Recipient domains; the share of each is that of a real list of consumers
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub domains: u32,
    /// Shards, each a thread with its own executor [default: cores minus one, at least 1]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub shards: Option<u16>,
    /// Put drop directory, spool and log into DIR, new or empty, and keep them [default: a temporary
    /// directory under TMPDIR]
    #[arg(long, value_name = "DIR")]
    pub keep: Option<PathBuf>,
    /// Print the account as one JSON object
    #[arg(long)]
    pub json: bool,
}

const DEMO_EXAMPLES: &str = "\
Examples:
  hikyaku demo
  hikyaku demo --messages 1000000 --size 16KiB --domains 5000
  hikyaku demo --keep /tmp/demo --json";

/// `hikyaku sink-for-demo`.
#[derive(Debug, Args)]
pub struct SinkForDemoArgs {
    /// Messages expected, so that the table that finds duplicates need not grow
    #[arg(long, default_value_t = 0)]
    pub messages: u64,
}
