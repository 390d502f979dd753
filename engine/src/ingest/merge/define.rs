//! XDFN, RCPT and XPRT: what one recipient has, and which part comes.
//!
//! `name=value name="value with blanks"`; names as placeholders have them, or reserved ones with `*`.
//! Everything that is defined belongs to the next RCPT and to nobody else.

use crate::ingest::bsmtp::parse_rcpt;
use crate::ingest::chunks::RowTerms;
use crate::ingest::eml::{Offence, excerpt, parse_address, parse_envid, parse_label};
use crate::ingest::{Limits, code};
use crate::job::merge::{NAME_MAX, PARTS_MAX, is_name};
use crate::limits::{JOB_COLUMNS_MAX, JOB_ROW_MAX};
use crate::mail::address::{Address, IpLiterals};

/// One recipient of a merge.
#[derive(Debug)]
pub(super) struct Recipient {
    /// Counted from 0 over the file.
    pub(super) number: u64,
    /// Line and offset of its RCPT.
    pub(super) line: u64,
    pub(super) offset: u64,
    pub(super) address: Address,
    pub(super) own: Own,
}

/// What was defined for a recipient.
#[derive(Debug, Default)]
pub(super) struct Own {
    /// Line and offset of the last XDFN.
    at: (u64, u64),
    /// Name in lower case, value.
    variables: Vec<(Box<str>, Box<str>)>,
    bytes: usize,
    /// A character for each part, its number.
    pub(super) parts: Option<String>,
    pub(super) from: Option<Box<str>>,
    pub(super) terms: RowTerms,
    pub(super) priority: Option<u8>,
}

impl Own {
    /// The value of a name in lower case.
    pub(super) fn value(&self, name: &str) -> Option<&str> {
        let found = self.variables.iter().find(|(own, _)| **own == *name);
        found.map(|(_, value)| &**value)
    }

    fn define(&mut self, name: &str, value: &str, literals: IpLiterals) -> Result<(), Offence> {
        let lower = name.to_ascii_lowercase();
        if self.value(&lower).is_some() {
            let detail = format_args!("{name} is defined twice for one recipient");
            return Err(Offence::new(code::MERGE, detail));
        }
        self.bytes += lower.len() + value.len();
        if self.variables.len() == JOB_COLUMNS_MAX || self.bytes > JOB_ROW_MAX {
            let detail = format_args!(
                "more than {JOB_COLUMNS_MAX} variables or {} KiB for one recipient",
                JOB_ROW_MAX >> 10
            );
            return Err(Offence::new(code::LIMIT, detail));
        }
        let bytes = value.as_bytes();
        match &*lower {
            "*parts" => self.parts = Some(parts(value)?),
            "*jobid" => self.terms.job = Some(parse_label("*jobid", bytes)?),
            "*vmta" => self.terms.source = Some(parse_label("*vmta", bytes)?),
            "*envid" => self.terms.envid = Some(parse_envid("*envid", bytes)?),
            "*from" => {
                let address = parse_address("*from", bytes, literals)?;
                if !address.as_str().is_ascii() {
                    return Err(not_ascii("*from", bytes));
                }
                self.from = Some(address.into_boxed_str());
            }
            "*priority" => {
                let priority = number(value).and_then(|number| u8::try_from(number).ok());
                let priority = priority.filter(|priority| (1..=100).contains(priority));
                self.priority = Some(priority.ok_or_else(|| {
                    let detail = format_args!("*priority \"{}\" is not 1 to 100", excerpt(bytes));
                    Offence::new(code::MERGE, detail)
                })?);
            }
            "*to" | "*date" => {
                let detail = format_args!("{name} is set by the engine, not by XDFN");
                return Err(Offence::new(code::MERGE, detail));
            }
            "*schedule" => {
                let detail = "*schedule: how a time is written there is not defined; leave it out, or drop a job with a [schedule] (`hikyaku drop --job`)";
                return Err(Offence::new(code::MERGE, detail));
            }
            plain if is_name(plain) => {}
            _ => {
                let detail = format_args!(
                    "\"{}\" is no name: a letter, then letters, digits and _, at most {NAME_MAX}; or *parts, *jobid, *vmta, *envid, *from, *priority",
                    excerpt(name.as_bytes())
                );
                return Err(Offence::new(code::MERGE, detail));
            }
        }
        self.variables.push((lower.into(), value.into()));
        Ok(())
    }
}

/// Collects definitions up to the RCPT that they belong to.
#[derive(Debug, Default)]
pub(super) struct Recipients {
    own: Own,
    count: u64,
}

impl Recipients {
    pub(super) const fn count(&self) -> u64 {
        self.count
    }

    /// XDFN.
    pub(super) fn define(
        &mut self,
        rest: &[u8],
        at: (u64, u64),
        literals: IpLiterals,
    ) -> Result<(), Offence> {
        self.own.at = at;
        definitions(rest, &mut |name, value| {
            self.own.define(name, value, literals)
        })
    }

    /// RCPT.
    pub(super) fn rcpt(
        &mut self,
        rest: &[u8],
        (line, offset): (u64, u64),
        limits: &Limits,
    ) -> Result<Recipient, Offence> {
        let address = parse_rcpt(rest, limits)?;
        if address.needs_smtputf8() {
            return Err(not_ascii("RCPT TO", address.as_str().as_bytes()));
        }
        let number = self.count;
        self.count += 1;
        Ok(Recipient {
            number,
            line,
            offset,
            address,
            own: std::mem::take(&mut self.own),
        })
    }

    /// The recipients are over.
    pub(super) fn check_nothing_left(&self) -> Result<(), Offence> {
        if self.own.variables.is_empty() {
            return Ok(());
        }
        let detail = format_args!(
            "the XDFN of line {} is not followed by a RCPT",
            self.own.at.0
        );
        Err(Offence::new(code::COMMAND, detail))
    }
}

fn not_ascii(what: &str, address: &[u8]) -> Offence {
    let detail = format_args!(
        "{what} \"{}\": the local part is not ASCII: few receivers take such addresses (SMTPUTF8), and jobs do not send to them",
        excerpt(address)
    );
    Offence::new(code::ADDRESS, detail)
}

/// The arguments of XDFN, at least one.
fn definitions(
    text: &[u8],
    on: &mut dyn FnMut(&str, &str) -> Result<(), Offence>,
) -> Result<(), Offence> {
    let text = str::from_utf8(text)
        .map_err(|_| Offence::new(code::UTF8, "a value that is neither ASCII nor UTF-8"))?;
    let wrong = |what| Err(Offence::new(code::MERGE, what));
    let is_bad = |c: char| c.is_control() || matches!(c, '\u{2028}' | '\u{2029}');
    if text.contains(is_bad) {
        return wrong("a control character or line separator in a value");
    }
    if text.contains('\\') {
        return wrong(
            "a backslash in XDFN: whether it stands for itself is not defined; leave it out",
        );
    }
    let mut rest = text.trim_matches(' ');
    if rest.is_empty() {
        return wrong("XDFN without name=value");
    }
    while !rest.is_empty() {
        let Some((name, after)) = rest.split_once('=') else {
            return wrong("write XDFN name=value, or name=\"value\" where the value has blanks");
        };
        if name.contains([' ', '"']) {
            return wrong(
                "write XDFN name=value without blanks around =, and a value with blanks in double quotes",
            );
        }
        let (value, behind) = if let Some(quoted) = after.strip_prefix('"') {
            let Some(parted) = quoted.split_once('"') else {
                return wrong("a value whose closing double quote is missing");
            };
            parted
        } else {
            let end = after.find(' ').unwrap_or(after.len());
            let (value, behind) = after.split_at(end);
            if value.is_empty() {
                return wrong("a name without value; write name=\"\" for an empty one");
            }
            if value.contains('"') {
                return wrong(
                    "a double quote within a value: how one is written there is not defined",
                );
            }
            (value, behind)
        };
        if !behind.is_empty() && !behind.starts_with(' ') {
            return wrong("something follows the closing double quote of a value without a blank");
        }
        on(name, value)?;
        rest = behind.trim_start_matches(' ');
    }
    Ok(())
}

/// `1-3`, `1,3,2`, `1,3-4`: one character a part.
fn parts(value: &str) -> Result<String, Offence> {
    let wrong = |what: std::fmt::Arguments<'_>| {
        let value = excerpt(value.as_bytes());
        Offence::new(code::MERGE, format_args!("*parts \"{value}\": {what}"))
    };
    let one = |text: &str| {
        number(text)
            .filter(|number| (1..=PARTS_MAX).contains(number))
            .ok_or_else(|| {
                wrong(format_args!(
                    "write it like 1-3 or 1,3,2, of numbers from 1 to {PARTS_MAX}"
                ))
            })
    };
    let mut seen = String::new();
    for item in value.split(',') {
        let (from, to) = item.split_once('-').unwrap_or((item, item));
        let (from, to) = (one(from)?, one(to)?);
        if from > to {
            return Err(wrong(format_args!("{from}-{to} runs backwards")));
        }
        // At most 255 of them, or one is there twice.
        for number in from..=to {
            let part = u8::try_from(number).map(char::from).unwrap_or_default();
            if seen.contains(part) {
                return Err(wrong(format_args!(
                    "part {number} twice: what that means is not defined"
                )));
            }
            seen.push(part);
        }
    }
    Ok(seen)
}

/// The arguments of XPRT, whose number must be `due`: whether it is the last.
pub(super) fn part(rest: &[u8], due: usize) -> Result<bool, Offence> {
    let wrong = |what: std::fmt::Arguments<'_>| Err(Offence::new(code::MERGE, what));
    let mut words = rest.split(|&c| c == b' ').filter(|word| !word.is_empty());
    let found = words
        .next()
        .and_then(|word| number(str::from_utf8(word).ok()?));
    let last = match words.next() {
        None => false,
        Some(word) if word.eq_ignore_ascii_case(b"last") && words.next().is_none() => true,
        Some(_) => return wrong(format_args!("write XPRT {due}, or XPRT {due} LAST")),
    };
    match found {
        None => wrong(format_args!("write XPRT {due}, or XPRT {due} LAST")),
        Some(_) if due > PARTS_MAX => wrong(format_args!("more than {PARTS_MAX} parts")),
        Some(found) if found == due => Ok(last),
        Some(found) => wrong(format_args!(
            "part {found} where part {due} is due: parts come in the order of their numbers, from 1, each once"
        )),
    }
}

/// A number in decimal digits, and nothing else.
fn number(text: &str) -> Option<usize> {
    let is_number = !text.is_empty() && text.bytes().all(|c| c.is_ascii_digit());
    is_number.then(|| text.parse().ok()).flatten()
}
