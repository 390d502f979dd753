//! `hikyaku check message`: one finished message, its envelope and its DNS, as receivers will see them.
//!
//! The message is looked at in the form in which it will be sent: lines that end with LF alone are given
//! their CR, as intake does. Nothing is delivered and nothing is written. DNS is asked for at most a
//! minute; what is not answered by then is said and not judged.

use std::io::{Read, Write as _};
use std::net::IpAddr;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use super::sender::{domain_of, identities, settle, sources};
use crate::cli::{CheckMessageArgs, RunArgs};
use crate::commands::host;
use crate::dns::wire::normal_name;
use crate::io::clock::wall;
use crate::preflight::dns::{DnsCheck, SourceId};
use crate::preflight::message::Facts;
use crate::preflight::{Law, Profile, Report, examine_facts};
use crate::settings::Settings;
use crate::signing::Signer;

/// Largest file read, bytes.
const FILE_MAX: u64 = 256 << 20;
/// The file cannot be read or the command line is wrong.
const USAGE: u8 = 2;

/// Prints findings and verdicts.
#[must_use]
pub(super) fn check(args: &CheckMessageArgs) -> ExitCode {
    match run(args) {
        Ok((text, true)) => print(&text, ExitCode::SUCCESS),
        Ok((text, false)) => print(&text, ExitCode::FAILURE),
        Err(error) => {
            eprintln!("hikyaku: {error}");
            ExitCode::from(USAGE)
        }
    }
}

fn print(text: &str, status: ExitCode) -> ExitCode {
    // A reader that went away has read enough.
    let _ = std::io::stdout().lock().write_all(text.as_bytes());
    status
}

fn run(args: &CheckMessageArgs) -> Result<(String, bool), String> {
    let (report, json) = examine_message(&read(&args.file)?, args)?;
    let text = if args.json {
        format!("{json}\n")
    } else {
        report.for_people()
    };
    Ok((text, report.is_ok()))
}

/// What receivers will find in a message in the form in which it will be sent; also as an object. The file of
/// `args` is not looked at.
pub(super) fn examine_message(
    message: &[u8],
    args: &CheckMessageArgs,
) -> Result<(Report, serde_json::Value), String> {
    let settings = settings(args)?;
    let signer = match &settings {
        Some(settings) => Signer::load(&settings.dkim).map_err(|error| error.to_string())?,
        None => Signer::default(),
    };
    let given = args
        .from_ip
        .iter()
        .map(|text| source(text))
        .collect::<Result<Vec<_>, _>>()?;
    let reverse_path = args.reverse_path.as_deref().map(reverse_path).transpose()?;

    let mut profile = Profile {
        bulk: !args.transactional,
        now: wall(),
        reverse_path: reverse_path.clone(),
        will_sign: false,
        law: Law {
            sender_name: args.sender_name.clone(),
            opt_out: args.optout_url.clone(),
            contact: args.contact_url.clone(),
        },
    };
    let facts = Facts::read(message);
    let from_domain = facts.from_domain.as_deref();
    profile.will_sign = from_domain.is_some_and(|domain| signer.has_key_for(domain));
    let profile = Arc::new(profile);
    let examined = examine_facts(facts, &profile);
    let mut findings = examined.findings;
    let facts = examined.facts;

    let mut dns = None;
    if !args.offline {
        let sources = sources(given, settings.as_ref());
        let identities = identities(&facts, reverse_path, &signer, sources);
        let mut check = DnsCheck::new(identities);
        settle(&mut check, settings.as_ref());
        let bad = check.verify(message);
        findings.extend(check.examine(&profile, bad));
        dns = check.facts().cloned();
    }
    let report = Report::new(findings, dns.is_some(), &profile.law);
    let json = report.to_json(&facts, dns.as_ref());
    Ok((report, json))
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    let failed = |error: std::io::Error| format!("{}: cannot be read: {error}", path.display());
    let mut message = Vec::new();
    let limit = FILE_MAX + 1;
    if path == Path::new("-") {
        let input = std::io::stdin().lock();
        input
            .take(limit)
            .read_to_end(&mut message)
            .map_err(failed)?;
    } else {
        let file = std::fs::File::open(path).map_err(failed)?;
        file.take(limit).read_to_end(&mut message).map_err(failed)?;
    }
    if message.len() as u64 > FILE_MAX {
        return Err(format!("{}: larger than 256 MiB", path.display()));
    }
    Ok(with_crlf(message))
}

/// Lines that end with LF alone get their CR, as at intake.
fn with_crlf(message: Vec<u8>) -> Vec<u8> {
    let bare = |at: usize| at == 0 || message[at - 1] != b'\r';
    let count = memchr::memchr_iter(b'\n', &message)
        .filter(|at| bare(*at))
        .count();
    if count == 0 {
        return message;
    }
    let mut out = Vec::with_capacity(message.len() + count);
    let mut from = 0;
    for at in memchr::memchr_iter(b'\n', &message).filter(|at| bare(*at)) {
        out.extend_from_slice(&message[from..at]);
        out.push(b'\r');
        from = at;
    }
    out.extend_from_slice(&message[from..]);
    out
}

/// The settings, when something of them is named.
fn settings(args: &CheckMessageArgs) -> Result<Option<Settings>, String> {
    if args.config.is_none() && args.resolver.is_empty() {
        return Ok(None);
    }
    let run = RunArgs {
        config: args.config.clone(),
        resolver: args.resolver.clone(),
        ..RunArgs::default()
    };
    let settings = Settings::load(&run, &host());
    settings.map(Some).map_err(|error| error.to_string())
}

/// `IP[,EHLO]`.
fn source(text: &str) -> Result<SourceId, String> {
    let (ip, helo) = match text.split_once(',') {
        Some((ip, helo)) => (ip, Some(helo)),
        None => (text, None),
    };
    let wrong = || {
        format!(
            "--from-ip: {text:?} is not IP[,EHLO]: write 192.0.2.7 or 192.0.2.7,mx1.example.com"
        )
    };
    let ip: IpAddr = ip.trim().parse().map_err(|_| wrong())?;
    let helo = helo
        .map(|helo| normal_name(helo.trim()).map(std::borrow::Cow::into_owned))
        .transpose()
        .map_err(|_| wrong())?;
    Ok(SourceId { ip, helo })
}

/// An address, or nothing for `<>`.
fn reverse_path(text: &str) -> Result<String, String> {
    let bare = text.trim();
    let bare = bare
        .strip_prefix('<')
        .and_then(|rest| rest.strip_suffix('>'))
        .unwrap_or(bare);
    if bare.is_empty() || domain_of(bare).is_some() {
        return Ok(bare.to_owned());
    }
    Err(format!(
        "--reverse-path: {text:?} is no address: write bounce@example.com, or <>"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn line_ends_are_those_of_smtp() {
        for (given, sent) in [
            ("", ""),
            ("\n", "\r\n"),
            ("a\r\nb\nc\n\nd", "a\r\nb\r\nc\r\n\r\nd"),
            ("a\r\r\nb", "a\r\r\nb"),
        ] {
            assert_eq!(with_crlf(given.into()), sent.as_bytes(), "{given:?}");
        }
    }

    #[test]
    fn the_envelope_is_read() {
        assert_eq!(
            source("192.0.2.7, MX1.example.com."),
            Ok(SourceId {
                ip: "192.0.2.7".parse().unwrap(),
                helo: Some("mx1.example.com".into())
            })
        );
        assert!(source("mx1.example.com").is_err() && source("192.0.2.7,a b").is_err());
        assert_eq!(reverse_path("<>"), Ok(String::new()));
        assert_eq!(reverse_path("<b@d.test>"), Ok("b@d.test".into()));
        assert!(reverse_path("nobody").is_err());
    }
}
