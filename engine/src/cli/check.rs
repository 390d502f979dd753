//! `hikyaku check`: of settings and host, of a message, of a job.

use super::RunArgs;
use clap::{Args, Subcommand};
use std::path::PathBuf;

/// `hikyaku check`.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct CheckArgs {
    /// What to check instead of settings and host
    #[command(subcommand)]
    pub what: Option<CheckCommand>,
    /// What the run would be started with
    #[command(flatten)]
    pub run: Box<RunArgs>,
    /// Also ask this host's name servers for the records that receivers look at: PTR of every
    /// source, SPF, DKIM and DMARC of this domain; repeatable
    #[arg(long, value_name = "DOMAIN")]
    pub domain: Vec<String>,
}

/// What else can be checked.
#[derive(Debug, Subcommand)]
pub enum CheckCommand {
    /// Check one message as receivers will: header, sizes, unsubscribing, SPF, DKIM, DMARC, PTR
    Message(CheckMessageArgs),
    /// Check a job: its files, every row, and the message of one row as `check message` does
    Job(CheckJobArgs),
}

/// `hikyaku check job`.
#[derive(Debug, Args)]
#[command(after_help = CHECK_JOB_EXAMPLES)]
pub struct CheckJobArgs {
    /// Directory with job.toml, the files that it names, and the recipients
    #[arg(value_name = "DIR")]
    pub dir: PathBuf,
    /// Row whose message is looked at, from 1 [default: the one with the largest message]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub row: Option<u64>,
    /// Settings file: its sources, DKIM keys and resolvers are used
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
    /// Address that receivers will see, and the name said in EHLO; repeatable [default: those of the
    /// settings]
    #[arg(long, value_name = "IP[,EHLO]")]
    pub from_ip: Vec<String>,
    /// Transactional mail: nothing about unsubscribing is asked for
    #[arg(long)]
    pub transactional: bool,
    /// DNS resolver; repeatable [default: those of the settings, else /etc/resolv.conf]
    #[arg(long, value_name = "IP[:PORT]", help_heading = "DNS")]
    pub resolver: Vec<String>,
    /// Ask nobody: check the job alone
    #[arg(long, conflicts_with = "resolver", help_heading = "DNS")]
    pub offline: bool,
}

const CHECK_JOB_EXAMPLES: &str = "\
Examples:
  hikyaku check job spring --config /etc/hikyaku/hikyaku.toml
  hikyaku check job spring --offline --row 17

Sender, opt-out and contact that the message must show are those of the job's [sender] and [list].
Status: 0 nothing fails, 1 a finding is a failure, 2 the job would be refused, or the command line is wrong.";

/// `hikyaku check message`.
#[derive(Debug, Args)]
#[command(after_help = CHECK_MESSAGE_EXAMPLES)]
pub struct CheckMessageArgs {
    /// The finished message (RFC 5322); `-` is standard input
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Settings file: its sources, DKIM keys and resolvers are used
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,

    /// Reverse-path, `<>` for none [default: the address in From]
    #[arg(long, value_name = "ADDRESS", help_heading = "Envelope")]
    pub reverse_path: Option<String>,
    /// Address that receivers will see, and the name said in EHLO; repeatable [default: those of the
    /// settings]
    #[arg(long, value_name = "IP[,EHLO]", help_heading = "Envelope")]
    pub from_ip: Vec<String>,
    /// Marketing mail, which must offer to unsubscribe [default]
    #[arg(long, overrides_with = "transactional", help_heading = "Envelope")]
    pub bulk: bool,
    /// Transactional mail: receipts, passwords; nothing about unsubscribing is asked for
    #[arg(long, overrides_with = "bulk", help_heading = "Envelope")]
    pub transactional: bool,

    /// DNS resolver; repeatable [default: those of the settings, else /etc/resolv.conf]
    #[arg(long, value_name = "IP[:PORT]", help_heading = "DNS")]
    pub resolver: Vec<String>,
    /// Ask nobody: check the message alone
    #[arg(long, conflicts_with = "resolver", help_heading = "DNS")]
    pub offline: bool,

    /// Name of the sender that the body must show
    #[arg(
        long,
        value_name = "NAME",
        help_heading = "Japanese law (no legal advice)"
    )]
    pub sender_name: Option<String>,
    /// Link or address for refusing mail, one of which the body must show; links may go on behind it;
    /// repeatable
    #[arg(
        long,
        value_name = "URL|ADDRESS",
        help_heading = "Japanese law (no legal advice)"
    )]
    pub optout_url: Vec<String>,
    /// Link that leads to postal address and contact
    #[arg(
        long,
        value_name = "URL",
        help_heading = "Japanese law (no legal advice)"
    )]
    pub contact_url: Option<String>,
}

const CHECK_MESSAGE_EXAMPLES: &str = "\
Examples:
  hikyaku check message news.eml --config /etc/hikyaku/hikyaku.toml
  hikyaku check message news.eml --from-ip 192.0.2.7,mx1.example.com --reverse-path bounce@example.com
  hikyaku check message news.eml --offline --sender-name 株式会社飛脚 --optout-url https://example.com/u/

Status: 0 nothing fails, 1 a finding is a failure, 2 the command line is wrong or the file cannot be read.";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Command;
    use crate::cli::tests::parse;

    #[test]
    fn check_is_of_the_host_or_of_a_message() {
        let Ok(Command::Check(CheckArgs {
            what: Some(CheckCommand::Message(args)),
            ..
        })) =
            parse("hikyaku check message a.eml --from-ip 192.0.2.7,mx.test --transactional --json")
        else {
            panic!("check message")
        };
        assert!(args.json && args.transactional && !args.bulk);
        assert_eq!(args.from_ip, ["192.0.2.7,mx.test"]);
        let Ok(Command::Check(CheckArgs {
            what: None, run, ..
        })) = parse("hikyaku check --config h")
        else {
            panic!("check")
        };
        assert!(run.config.is_some());
        for line in [
            "hikyaku check message",
            "hikyaku check message a b",
            "hikyaku check --once message a",
            "hikyaku check message a --offline --resolver ::1",
            "hikyaku check something",
        ] {
            assert!(parse(line).is_err(), "{line}");
        }
    }
}
