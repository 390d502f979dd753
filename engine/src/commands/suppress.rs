//! `hikyaku suppress`: who gets no mail. Works beside a running engine, which sees each change at once.
//!
//! What cannot be an address is refused with its line, and nothing of its file is added. An import is read to its end and
//! sorted before anything is added, at once or in parts; one that is killed leaves some of them, and importing the file again
//! adds the rest.

use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, IsTerminal, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use hikyaku_spool::suppress::{Entry, Import, Scope, SuppressError, Suppressions};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::{NOT_ALL, refuse};
use crate::cli::{SuppressArgs, SuppressCommand, SuppressImportArgs, SuppressRemoveArgs};
use crate::io::clock;
use crate::mail::address::{Address, AddressError};
use crate::settings::units::parse_size;
use crate::time::WallTime;

/// Octets of one line of an import.
const LINE_MAX: u64 = 4096;
/// Entries between two signs of life.
const PROGRESS: u64 = 10_000;

/// Why `hikyaku suppress` fails.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    List(#[from] SuppressError),
    #[error("{text:?} is no scope: `global`, `sender:DOMAIN` or `list:ID`")]
    Scope { text: String },
    #[error("{text:?} is no address: {source}")]
    Address { text: String, source: AddressError },
    #[error("{}, line {line}: {problem}; nothing was added", path.display())]
    Line {
        path: PathBuf,
        line: u64,
        problem: String,
    },
    #[error("--memory {text:?} {why}")]
    Memory { text: String, why: String },
    #[error("cannot read {}: {source}", path.display())]
    File { path: PathBuf, source: io::Error },
    #[error("standard output: {0}")]
    Output(#[from] io::Error),
}

/// Carries out one of the subcommands.
#[must_use]
pub fn suppress(args: &SuppressArgs) -> ExitCode {
    let mut out = BufWriter::new(io::stdout().lock());
    let done = Suppressions::open(&args.list)
        .map_err(Failure::from)
        .and_then(|list| carry_out(&list, &args.command, &mut out));
    let flushed = out.flush().map_err(Failure::Output);
    match done.and_then(|status| flushed.map(|()| status)) {
        Ok(status) => ExitCode::from(status),
        Err(Failure::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => {
            ExitCode::SUCCESS
        }
        Err(error) => refuse(&error),
    }
}

fn carry_out(
    list: &Suppressions,
    command: &SuppressCommand,
    out: &mut impl Write,
) -> Result<u8, Failure> {
    match command {
        SuppressCommand::Add(args) => {
            let scope = scope(&args.scope)?.to_string();
            let now = clock::wall();
            let entries: Result<Vec<Entry>, Failure> = args
                .addresses
                .iter()
                .map(|address| entry(address, &scope, &args.reason, now))
                .collect();
            let added = list.add(&entries?)?;
            writeln!(out, "{added} added, {} in the list", list.len()?)?;
            Ok(0)
        }
        SuppressCommand::Remove(args) => {
            let mut removed = 0;
            for (address, scope) in pairs(args)? {
                removed += u64::from(list.remove(&address, scope)?);
            }
            writeln!(out, "{removed} removed, {} in the list", list.len()?)?;
            Ok(0)
        }
        SuppressCommand::Check(args) => check(list, args, out),
        SuppressCommand::Import(args) => import(list, args, out),
        SuppressCommand::Export => export(list, out),
    }
}

fn check(
    list: &Suppressions,
    args: &SuppressRemoveArgs,
    out: &mut impl Write,
) -> Result<u8, Failure> {
    let scopes: Result<Vec<Scope<'_>>, Failure> =
        args.scope.iter().map(|text| scope(text)).collect();
    let (scopes, view) = (scopes?, list.view()?);
    let mut status = 0;
    for text in &args.addresses {
        let address = address(text)?;
        match view.check(address.as_str(), &scopes)? {
            Some(scope) => {
                status = NOT_ALL;
                writeln!(out, "{text}: suppressed, {scope}")?;
            }
            None => writeln!(out, "{text}: not suppressed")?,
        }
    }
    Ok(status)
}

fn import(
    list: &Suppressions,
    args: &SuppressImportArgs,
    out: &mut impl Write,
) -> Result<u8, Failure> {
    let failed = |source| Failure::File {
        path: args.file.clone(),
        source,
    };
    let mut input: Box<dyn BufRead> = if args.file == Path::new("-") {
        Box::new(io::stdin().lock())
    } else {
        Box::new(BufReader::new(File::open(&args.file).map_err(failed)?))
    };
    scope(&args.scope)?;
    let memory = parse_size(&args.memory).map_err(|why| Failure::Memory {
        text: args.memory.clone(),
        why,
    })?;
    let mut import = Import::new(list, usize::try_from(memory).unwrap_or(usize::MAX));
    let bar = progress();
    let mut number = 0;
    let mut line = Vec::new();
    let now = clock::wall();
    loop {
        line.clear();
        number += 1;
        let read = input
            .by_ref()
            .take(LINE_MAX)
            .read_until(b'\n', &mut line)
            .map_err(failed)?;
        if read == 0 {
            break;
        }
        let problem = |problem: String| Failure::Line {
            path: args.file.clone(),
            line: number,
            problem,
        };
        if read as u64 == LINE_MAX {
            return Err(problem(format!("it has more than {LINE_MAX} octets")));
        }
        let text = std::str::from_utf8(&line)
            .map_err(|_| problem("it is not UTF-8".into()))?
            .trim();
        if text.is_empty() || text.starts_with('#') || text.starts_with("address,") {
            continue;
        }
        let entry = imported(text, args, now).map_err(|error| problem(error.to_string()))?;
        import.push(&entry)?;
        if import.len().is_multiple_of(PROGRESS) {
            bar.set_message(format!("{} read", import.len()));
        }
    }
    let all = import.len();
    let added = import.finish(|seen, _| bar.set_message(format!("{seen} of {all} added")));
    bar.finish_and_clear();
    let added = added?;
    writeln!(out, "{added} added, {} in the list", list.len()?)?;
    Ok(0)
}

/// On a terminal, how far it is.
fn progress() -> ProgressBar {
    let target = if io::stderr().is_terminal() {
        ProgressDrawTarget::stderr_with_hz(4)
    } else {
        ProgressDrawTarget::hidden()
    };
    let bar = ProgressBar::with_draw_target(None, target);
    bar.set_style(
        ProgressStyle::with_template("{spinner} {msg}")
            .unwrap_or_else(|_| ProgressStyle::default_spinner()),
    );
    bar
}

/// A line: `address[,scope[,reason[,added]]]`, as `export` writes it.
fn imported(text: &str, args: &SuppressImportArgs, now: WallTime) -> Result<Entry, Failure> {
    let mut fields = fields(text).into_iter();
    let mut next = || fields.next().filter(|field| !field.is_empty());
    let address = next().unwrap_or_default();
    let scope_text = next().unwrap_or_else(|| args.scope.clone());
    let reason = next().unwrap_or_else(|| args.reason.clone());
    let added = next().and_then(|time| time.parse::<jiff::Timestamp>().ok());
    let scope = scope(&scope_text)?.to_string();
    let mut entry = entry(&address, &scope, &reason, now)?;
    if let Some(added) = added.and_then(|added| u64::try_from(added.as_millisecond()).ok()) {
        entry.added_wall_ms = added;
    }
    Ok(entry)
}

fn export(list: &Suppressions, out: &mut impl Write) -> Result<u8, Failure> {
    writeln!(out, "address,scope,reason,added")?;
    let view = list.view()?;
    for entry in view.entries()? {
        let entry = entry?;
        let ms = i64::try_from(entry.added_wall_ms).unwrap_or(0);
        let added = jiff::Timestamp::from_millisecond(ms).unwrap_or_default();
        let (address, scope, reason) = (
            quoted(&entry.address),
            quoted(&entry.scope),
            quoted(&entry.reason),
        );
        writeln!(out, "{address},{scope},{reason},{added}")?;
    }
    Ok(0)
}

/// Fields of a line of CSV (RFC 4180), without line breaks in them.
fn fields(line: &str) -> Vec<String> {
    let (mut fields, mut field, mut inside) = (Vec::new(), String::new(), false);
    let mut chars = line.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '"' if inside && chars.peek() == Some(&'"') => {
                chars.next();
                field.push('"');
            }
            '"' => inside = !inside,
            ',' if !inside => fields.push(std::mem::take(&mut field).trim().to_owned()),
            c => field.push(c),
        }
    }
    fields.push(field.trim().to_owned());
    fields
}

fn quoted(field: &str) -> String {
    // A spreadsheet takes a field that begins so for a formula.
    let formula = field.starts_with(['=', '+', '-', '@']);
    if formula || field.contains([',', '"', '\n', '\r']) {
        format!("\"{}\"", field.replace('"', "\"\""))
    } else {
        field.to_owned()
    }
}

fn pairs(args: &SuppressRemoveArgs) -> Result<Vec<(String, Scope<'_>)>, Failure> {
    let mut pairs = Vec::new();
    for text in &args.addresses {
        let address = address(text)?;
        for text in &args.scope {
            pairs.push((address.as_str().to_owned(), scope(text)?));
        }
    }
    Ok(pairs)
}

fn entry(text: &str, scope: &str, reason: &str, now: WallTime) -> Result<Entry, Failure> {
    Ok(Entry {
        address: address(text)?.as_str().to_owned(),
        scope: scope.to_owned(),
        added_wall_ms: now.unix_millis(),
        reason: reason.to_owned(),
    })
}

fn address(text: &str) -> Result<Address, Failure> {
    Address::parse(text).map_err(|source| Failure::Address {
        text: text.to_owned(),
        source,
    })
}

fn scope(text: &str) -> Result<Scope<'_>, Failure> {
    Scope::parse(text).ok_or_else(|| Failure::Scope {
        text: text.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Command};
    use clap::Parser;

    fn run(list: &Path, line: &str) -> Result<(u8, String), Failure> {
        let words = ["hikyaku", "suppress"]
            .into_iter()
            .chain(line.split_whitespace());
        let Command::Suppress(args) = Cli::try_parse_from(words).unwrap().command else {
            panic!()
        };
        let mut out = Vec::new();
        let list = Suppressions::open(list)?;
        let status = carry_out(&list, &args.command, &mut out)?;
        Ok((status, String::from_utf8(out).unwrap()))
    }

    #[test]
    fn what_is_exported_can_be_imported() {
        let dir = tempfile::tempdir().unwrap();
        let (one, two, file) = (
            dir.path().join("1"),
            dir.path().join("2"),
            dir.path().join("f.csv"),
        );
        run(
            &one,
            "add --scope sender:a.example --reason complaint x@b.example Y@c.example",
        )
        .unwrap();
        let (_, exported) = run(&one, "export").unwrap();
        std::fs::write(&file, &exported).unwrap();
        let (_, said) = run(&two, &format!("import {}", file.display())).unwrap();
        assert_eq!(said, "2 added, 2 in the list\n");
        // In whatever order: each list has its own.
        let sorted = |text: &str| {
            text.lines()
                .map(str::to_owned)
                .collect::<std::collections::BTreeSet<_>>()
        };
        assert_eq!(sorted(&run(&two, "export").unwrap().1), sorted(&exported));
        assert_eq!(
            run(&two, "check --scope sender:a.example y@C.example")
                .unwrap()
                .0,
            NOT_ALL
        );
        assert_eq!(
            run(&two, "check y@c.example").unwrap().0,
            0,
            "not suppressed for all"
        );
        assert_eq!(
            run(&two, "remove --scope sender:a.example y@c.example")
                .unwrap()
                .1,
            "1 removed, 1 in the list\n"
        );
    }

    #[test]
    fn a_bad_line_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("f");
        for (content, problem) in [
            ("a@b.example\nnonsense\n", "line 2"),
            ("a@b.example,everywhere\n", "is no scope"),
            (&format!("{}\n", "x".repeat(5000)), "octets"),
        ] {
            std::fs::write(&file, content).unwrap();
            let error =
                run(&dir.path().join("l"), &format!("import {}", file.display())).unwrap_err();
            assert!(error.to_string().contains(problem), "{error}");
        }
        std::fs::write(&file, b"\xff\n").unwrap();
        assert!(run(&dir.path().join("l"), &format!("import {}", file.display())).is_err());
    }

    #[test]
    fn fields_are_split_as_rfc_4180_has_it() {
        assert_eq!(
            fields("a@b.example, \"x,\"\"y\" ,z"),
            ["a@b.example", "x,\"y", "z"]
        );
        assert_eq!(quoted("a,b"), "\"a,b\"");
        assert_eq!(quoted("=1+1"), "\"=1+1\"");
    }
}
