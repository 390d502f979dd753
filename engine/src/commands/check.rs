//! `hikyaku check`: would a run start? Settings in force, and what the host offers. `check message`
//! and `check job` are in files of their own.

mod hours;
mod job;
mod message;
mod sender;

use std::io::Write;
use std::process::ExitCode;

use super::{host, refuse};
use crate::cli::{CheckArgs, CheckCommand};
use crate::dns::wire::normal_name;
use crate::engine;
use crate::io::clock;
use crate::preflight::dns::DnsCheck;
use crate::preflight::message::Facts;
use crate::preflight::{Profile, Report};
use crate::settings::Settings;
use crate::signing::Signer;

/// Prints the settings in force and every finding about the host; 1 when something stands against a run.
#[must_use]
pub fn check(args: &CheckArgs) -> ExitCode {
    match &args.what {
        Some(CheckCommand::Message(args)) => return message::check(args),
        Some(CheckCommand::Job(args)) => return job::check(args),
        None => {}
    }
    let settings = match Settings::load(&args.run, &host()) {
        Ok(settings) => settings,
        Err(error) => return refuse(&error),
    };
    let sites = match engine::check_settings(&settings) {
        Ok(sites) => sites,
        Err(error) => return refuse(&error),
    };
    let check = engine::judge_host(&settings);
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{}", settings.to_toml_redacted());
    for line in hours::lines(&sites, clock::wall().unix_millis()) {
        let _ = writeln!(out, "{line}");
    }
    for finding in &check.findings {
        let _ = writeln!(
            out,
            "{} {finding}",
            if finding.ok { "ok  " } else { "FAIL" }
        );
    }
    let mut ok = check.is_ok();
    for domain in &args.domain {
        match check_domain(domain, &settings) {
            Ok(report) => {
                let _ = write!(out, "\n{domain}\n{}", report.for_people());
                ok &= report.is_ok();
            }
            Err(error) => return refuse(&error),
        }
    }
    if ok {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// What receivers find in DNS when mail comes from `domain`, in From and reverse-path, by these settings.
fn check_domain(domain: &str, settings: &Settings) -> Result<Report, String> {
    let name = normal_name(domain)
        .map_err(|_| format!("--domain: {domain:?} is not a domain name: write example.com"))?;
    let signer = Signer::load(&settings.dkim).map_err(|error| error.to_string())?;
    let facts = Facts {
        from_domain: Some(name.clone().into_owned()),
        ..Facts::default()
    };
    let sources = sender::sources(Vec::new(), Some(settings));
    let reverse_path = Some(format!("postmaster@{name}"));
    let identities = sender::identities(&facts, reverse_path, &signer, sources);
    let mut check = DnsCheck::new(identities);
    sender::settle(&mut check, Some(settings));
    let profile = Profile {
        bulk: true,
        will_sign: signer.has_key_for(&name),
        ..Profile::default()
    };
    let findings = check.examine(&profile, Vec::new());
    Ok(Report::new(findings, true, &profile.law))
}
