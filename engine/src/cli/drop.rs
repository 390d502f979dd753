//! `hikyaku drop`: messages and jobs on their way into the drop directory.

use clap::{Args, ValueEnum};
use std::path::PathBuf;

/// `hikyaku drop`.
#[derive(Debug, Args)]
#[command(after_help = DROP_EXAMPLES)]
pub struct DropArgs {
    /// Drop directory of the engine; it must exist
    #[arg(long, value_name = "DIR", required_unless_present_any = ["preview", "job_example"])]
    pub drop: Option<PathBuf>,
    /// What to put there: a message, an mbox file, a Maildir, batch SMTP (*.bsmtp), or `-` for a
    /// message or an mbox file on standard input
    #[arg(value_name = "FILE", required_unless_present_any = ["job", "job_example"])]
    pub files: Vec<PathBuf>,
    /// Take every FILE for a Maildir, whatever it looks like
    #[arg(long, conflicts_with = "mbox", help_heading = "Input")]
    pub maildir: bool,
    /// Take every FILE for an mbox file, whatever it looks like
    #[arg(long, help_heading = "Input")]
    pub mbox: bool,
    /// Largest message that the engine accepts [default: 32MiB]
    #[arg(long, value_name = "SIZE", help_heading = "Input")]
    pub message_size_max: Option<String>,

    /// Reverse-path of all messages; empty for the null reverse-path [default: that of the file]
    #[arg(long, value_name = "ADDRESS", help_heading = "Envelope")]
    pub from: Option<String>,
    /// Recipient of all messages; repeatable [default: those of the file]
    #[arg(long, value_name = "ADDRESS", help_heading = "Envelope")]
    pub to: Vec<String>,
    /// Take recipients that are missing from To, Cc and Bcc (which is removed), and a missing
    /// reverse-path from From
    #[arg(long, help_heading = "Envelope")]
    pub to_header: bool,
    /// Job id of all messages, for the log
    #[arg(long, value_name = "NAME", help_heading = "Envelope")]
    pub job_id: Option<String>,
    /// Envelope identifier of all messages (RFC 3461)
    #[arg(long, value_name = "ID", help_heading = "Envelope")]
    pub envid: Option<String>,
    /// Egress source or pool of all messages
    #[arg(long, value_name = "NAME", help_heading = "Envelope")]
    pub egress: Option<String>,

    /// Idempotency key of the drop file: the same file dropped again under it is not taken again, and
    /// another file under it is refused, for 7 days
    #[arg(long, value_name = "KEY", help_heading = "Envelope")]
    pub key: Option<String>,

    /// Drop the job in DIR: job.toml, the files that it names, and the recipients. Everything is checked
    /// first, and every message made once
    #[arg(long, value_name = "DIR", help_heading = "Jobs", conflicts_with_all = [
        "files", "maildir", "mbox", "message_size_max", "from", "to", "to_header", "job_id", "envid", "egress",
        "batch",
    ])]
    pub job: Option<PathBuf>,
    /// Show the message of row N (from 1) as it would be sent, and drop nothing
    #[arg(long, value_name = "N", requires = "job", conflicts_with = "wait", help_heading = "Jobs",
        value_parser = clap::value_parser!(u64).range(1..))]
    pub preview: Option<u64>,
    /// Show its octets, undecoded
    #[arg(
        long,
        requires = "preview",
        conflicts_with = "json",
        help_heading = "Jobs"
    )]
    pub raw: bool,
    /// Also write it to FILE, which must not exist
    #[arg(long, value_name = "FILE", requires = "preview", help_heading = "Jobs")]
    pub write: Option<PathBuf>,
    /// Spool of the engine, whose secret tokens are made with [default: a secret for previews]
    #[arg(long, value_name = "DIR", requires = "preview", help_heading = "Jobs")]
    pub spool: Option<PathBuf>,
    /// Check templates, but do not make every message
    #[arg(
        long,
        requires = "job",
        conflicts_with = "preview",
        help_heading = "Jobs"
    )]
    pub no_render: bool,
    /// Write a job that works and explains every key of job.toml to DIR, and drop nothing
    #[arg(long, value_name = "DIR", conflicts_with_all = ["job", "files", "drop", "wait"], help_heading = "Jobs")]
    pub job_example: Option<PathBuf>,

    /// Messages to one drop file, which is then batch SMTP [default: each message a file of its own]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub batch: Option<u32>,
    /// Wait until the engine has accepted the files, or (=final) until every recipient has a final
    /// state
    #[arg(long, value_enum, num_args = 0..=1, require_equals = true, default_missing_value = "accepted")]
    pub wait: Option<WaitFor>,
    /// Longest wait; ends with status 3
    #[arg(long, value_name = "TIME", default_value = "1m", requires = "wait")]
    pub timeout: String,
    /// Print one JSON object per file
    #[arg(long)]
    pub json: bool,
}

const DROP_EXAMPLES: &str = "\
Examples:
  hikyaku drop --drop drop news.eml
  hikyaku drop --drop drop --from news@example.com --to a@example.net --to b@example.org - < news.eml
  hikyaku drop --drop drop --to-header ~/Maildir --batch 1000
  hikyaku drop --drop drop --mbox archive --wait=final --timeout 10m
  hikyaku drop --job-example spring
  hikyaku drop --job spring --preview 2
  hikyaku drop --job spring --drop drop

Either every message is dropped or, if one of them would be refused, none.
Status: 0 done, 1 refused or failed, 2 wrong usage, 3 not all delivered, or --timeout passed.";

/// What `hikyaku drop --wait` waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum WaitFor {
    /// The spool holds every recipient on stable storage
    Accepted,
    /// Every recipient was delivered, bounced or expired
    Final,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Command;
    use crate::cli::tests::parse;

    #[test]
    fn drop_waits_with_an_equals_sign() {
        let Ok(Command::Drop(args)) = parse("hikyaku drop --drop d --wait a.eml -") else {
            panic!("drop")
        };
        assert_eq!((args.wait, args.files.len()), (Some(WaitFor::Accepted), 2));
        let Ok(Command::Drop(args)) =
            parse("hikyaku drop --drop d --wait=final --timeout 5m a.eml")
        else {
            panic!("drop")
        };
        assert_eq!(
            (args.wait, args.timeout.as_str()),
            (Some(WaitFor::Final), "5m")
        );
        for line in [
            "hikyaku drop --drop d",
            "hikyaku drop a.eml",
            "hikyaku drop --drop d --mbox --maildir x",
            "hikyaku drop --drop d --timeout 5m a.eml",
            "hikyaku drop --drop d --wait=sometime a.eml",
            "hikyaku drop --drop d --batch 0 a.eml",
        ] {
            assert!(parse(line).is_err(), "{line}");
        }
    }
}
