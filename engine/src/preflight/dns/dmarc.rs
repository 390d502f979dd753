//! DMARC: the record that holds for a From domain, and which domains are aligned with it.
//!
//! The organisational domain is found by the tree walk of RFC 7489's successor (DMARCbis §4.10), which
//! needs no list of public suffixes: at most 8 names are asked for, and the record nearest to the root
//! decides, unless one says `psd=`. Records at a top-level domain count only with `psd=`: without it one
//! there would make all its domains one organisation. mail-auth parses the records.

use mail_auth::common::parse::TxtRecordParser;
use mail_auth::dmarc::{Alignment, Dmarc, Policy, Psd};

use super::answers::{Answers, Pending, texts};
use crate::dns::Records;
use crate::dns::wire::Kind;

/// Names asked for in one walk.
const WALK_MAX: usize = 8;

/// What holds for a From domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DmarcFacts {
    /// The record that holds, and where it is.
    pub record: Option<DmarcRecord>,
    /// Records that are there and useless.
    pub problem: Option<String>,
    /// DNS did not answer where a record could be.
    pub unknown: bool,
    /// The organisational domain.
    pub organisation: String,
}

/// A record in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DmarcRecord {
    /// The domain that it is published for.
    pub domain: String,
    /// `none`, `quarantine` or `reject`, as it holds for the From domain.
    pub policy: &'static str,
    /// SPF must be of the From domain itself.
    pub strict_spf: bool,
    /// DKIM must be of the From domain itself.
    pub strict_dkim: bool,
    /// Somebody gets reports.
    pub reports: bool,
}

/// Names that a walk asks for, longest first.
fn walk(domain: &str) -> Vec<&str> {
    let mut names = vec![domain];
    let labels = domain.split('.').count();
    let mut rest = domain;
    for left in (1..labels).rev() {
        let Some((_, parent)) = rest.split_once('.') else {
            break;
        };
        rest = parent;
        // Of a long name, those between the first one and its last 7 labels are passed over.
        if left < WALK_MAX {
            names.push(rest);
        }
    }
    names
}

enum Published {
    Nothing,
    Record(Box<Dmarc>),
    Problem(String),
    Unknown,
}

fn published(answers: &mut Answers, domain: &str) -> Result<Published, Pending> {
    let records = answers.get(&format!("_dmarc.{domain}"), Kind::Txt)?;
    if matches!(*records, Records::Failed(_)) {
        return Ok(Published::Unknown);
    }
    let mut candidates = texts(&records).filter(|text| {
        let start = text.get(..8).unwrap_or_default();
        start.eq_ignore_ascii_case(b"v=DMARC1")
    });
    let Some(text) = candidates.next() else {
        return Ok(Published::Nothing);
    };
    if candidates.next().is_some() {
        let text = format!("_dmarc.{domain} has several DMARC records: receivers ignore them all");
        return Ok(Published::Problem(text));
    }
    Ok(match Dmarc::parse(text) {
        Ok(dmarc) => Published::Record(Box::new(dmarc)),
        Err(_) => Published::Problem(format!(
            "the record at _dmarc.{domain} cannot be read: {}",
            crate::preflight::finding::shown(&String::from_utf8_lossy(text))
        )),
    })
}

/// All records of a walk; all of its questions are noted at once.
fn records<'a>(
    answers: &mut Answers,
    domain: &'a str,
) -> Result<Vec<(&'a str, Published)>, Pending> {
    let names = walk(domain);
    let all: Vec<_> = names
        .into_iter()
        .map(|name| published(answers, name).map(|found| (name, found)))
        .collect();
    all.into_iter().collect()
}

/// The organisational domain (DMARCbis §4.10.2).
pub(super) fn organisation(answers: &mut Answers, domain: &str) -> Result<String, Pending> {
    let found = records(answers, domain)?;
    Ok(organisation_of(domain, &found).to_owned())
}

fn organisation_of<'a>(domain: &'a str, found: &[(&'a str, Published)]) -> &'a str {
    let mut best = domain;
    let mut below = domain;
    for (name, published) in found {
        if let Published::Record(dmarc) = published {
            match dmarc.psd {
                Psd::No => return name,
                Psd::Yes if *name != domain => return below,
                _ if name.contains('.') => best = name,
                _ => {}
            }
        }
        below = name;
    }
    best
}

/// What holds for `domain` as From domain.
pub(super) fn facts(answers: &mut Answers, domain: &str) -> Result<DmarcFacts, Pending> {
    let found = records(answers, domain)?;
    let organisation = organisation_of(domain, &found).to_owned();
    let mut problem = None;
    let mut unknown = false;
    let mut record = None;
    for (name, published) in &found {
        let holds = *name == domain || *name == organisation;
        match published {
            Published::Unknown => unknown |= record.is_none(),
            Published::Problem(text) if holds || record.is_none() => {
                problem.get_or_insert_with(|| text.clone());
            }
            Published::Record(dmarc) if holds && record.is_none() => {
                let policy = if *name == domain { dmarc.p } else { dmarc.sp };
                record = Some(DmarcRecord {
                    domain: (*name).to_owned(),
                    policy: match policy {
                        Policy::Reject => "reject",
                        Policy::Quarantine => "quarantine",
                        Policy::None => "none",
                        // Taken for none where reports are wanted, else for no record (RFC 7489 §6.6.3).
                        Policy::Unspecified => "",
                    },
                    strict_spf: dmarc.aspf == Alignment::Strict,
                    strict_dkim: dmarc.adkim == Alignment::Strict,
                    reports: !dmarc.rua.is_empty(),
                });
            }
            _ => {}
        }
    }
    if let Some(unusable) = record.take_if(|record| record.policy.is_empty()) {
        if unusable.reports {
            record = Some(DmarcRecord {
                policy: "none",
                ..unusable
            });
        } else {
            problem = Some(format!(
                "the record at _dmarc.{} has no p=",
                unusable.domain
            ));
        }
    }
    if record.is_some() {
        problem = None;
    }
    Ok(DmarcFacts {
        record,
        problem,
        unknown,
        organisation,
    })
}

/// Whether mail authenticated as `domain` counts as mail from `from` (RFC 7489 §3.1).
pub(super) fn aligned(
    answers: &mut Answers,
    from: &str,
    from_organisation: &str,
    domain: &str,
    strict: bool,
) -> Result<bool, Pending> {
    if domain == from {
        return Ok(true);
    }
    if strict {
        return Ok(false);
    }
    Ok(organisation(answers, domain)? == from_organisation)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_walk_is_short() {
        assert_eq!(walk("a.b.test"), ["a.b.test", "b.test", "test"]);
        assert_eq!(walk("test"), ["test"]);
        let long = "a.b.c.d.e.f.g.h.i.j.mail.example.com";
        let names = walk(long);
        assert_eq!(names.len(), WALK_MAX);
        assert_eq!(names[..2], [long, "g.h.i.j.mail.example.com"]);
        assert_eq!(names[7], "com");
    }
}
