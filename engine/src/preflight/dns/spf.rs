//! SPF as receivers evaluate it (RFC 7208), for one source address.
//!
//! Records are parsed and macros expanded by mail-auth; the evaluation is here, because it has to count
//! what receivers count (10 look-ups, 2 void ones, 10 hosts of an MX) and to say why it ended. Loops of
//! include and redirect end at the tenth look-up.

use std::net::IpAddr;

use mail_auth::common::parse::TxtRecordParser;
use mail_auth::spf::{Macro, Mechanism, Qualifier, Spf, Variables};

use super::answers::{Answers, Pending, addresses, data, family, reverse_name, texts};
use crate::dns::Records;
use crate::dns::wire::{Data, Kind};
use crate::preflight::finding::shown;

/// Terms that ask DNS (RFC 7208 §4.6.4).
pub const LOOKUPS_MAX: u32 = 10;
/// Look-ups without an answer (ibid.).
pub const VOIDS_MAX: u32 = 2;
/// Hosts of one MX or names of one PTR (ibid.).
const HOSTS_MAX: usize = 10;
/// Longest name that a macro may expand to, octets (§7.3).
const NAME_MAX: usize = 253;

/// Result of an evaluation (RFC 7208 §2.6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SpfResult {
    /// The address may send.
    Pass,
    /// It may not.
    Fail,
    /// It probably may not.
    SoftFail,
    /// The domain says nothing about it.
    Neutral,
    /// There is no record.
    None,
    /// DNS did not answer.
    TempError,
    /// The record cannot be evaluated.
    PermError,
}

impl SpfResult {
    /// As Received-SPF has it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Fail => "fail",
            Self::SoftFail => "softfail",
            Self::Neutral => "neutral",
            Self::None => "none",
            Self::TempError => "temperror",
            Self::PermError => "permerror",
        }
    }
}

/// How an evaluation ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpfOutcome {
    /// The result.
    pub result: SpfResult,
    /// What decided.
    pub why: String,
    /// Look-ups used.
    pub lookups: u32,
    /// Void look-ups among them.
    pub voids: u32,
    /// A `ptr` was met, which RFC 7208 §5.5 asks not to use.
    pub uses_ptr: bool,
}

/// Who sends.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sender<'a> {
    pub(super) ip: IpAddr,
    /// Mailbox of the reverse-path.
    pub(super) mailbox: &'a str,
    pub(super) helo: &'a str,
}

/// Evaluates the record of `domain`.
pub(super) fn evaluate(
    answers: &mut Answers,
    sender: Sender<'_>,
    domain: &str,
) -> Result<SpfOutcome, Pending> {
    let sender = Sender {
        ip: sender.ip.to_canonical(),
        ..sender
    };
    let mut evaluation = Evaluation {
        answers,
        sender,
        lookups: 0,
        voids: 0,
        uses_ptr: false,
    };
    let (result, why) = match evaluation.check_host(domain, true) {
        Ok(decided) => decided,
        Err(Stop::End(result, why)) => (result, why),
        Err(Stop::Pending) => return Err(Pending),
    };
    Ok(SpfOutcome {
        result,
        why,
        lookups: evaluation.lookups,
        voids: evaluation.voids,
        uses_ptr: evaluation.uses_ptr,
    })
}

/// Ends the whole evaluation, through all includes.
enum Stop {
    Pending,
    End(SpfResult, String),
}

impl From<Pending> for Stop {
    fn from(_: Pending) -> Self {
        Self::Pending
    }
}

fn permanent(why: impl Into<String>) -> Stop {
    Stop::End(SpfResult::PermError, why.into())
}

struct Evaluation<'a> {
    answers: &'a mut Answers,
    sender: Sender<'a>,
    lookups: u32,
    voids: u32,
    uses_ptr: bool,
}

impl Evaluation<'_> {
    /// RFC 7208 §4. Recursion is bounded by the look-ups that each level costs.
    fn check_host(&mut self, domain: &str, first: bool) -> Result<(SpfResult, String), Stop> {
        let mut domain = domain.to_ascii_lowercase();
        let mut first = first;
        loop {
            let Some(record) = self.record(&domain, first)? else {
                let why = format!("{domain} has no SPF record");
                return Ok((SpfResult::None, why));
            };
            for directive in &record.directives {
                if let Some(term) = self.matches(&directive.mechanism, &domain)? {
                    let result = match directive.qualifier {
                        Qualifier::Pass => SpfResult::Pass,
                        Qualifier::Fail => SpfResult::Fail,
                        Qualifier::SoftFail => SpfResult::SoftFail,
                        Qualifier::Neutral => SpfResult::Neutral,
                    };
                    return Ok((result, format!("{term} of {domain}")));
                }
            }
            let Some(redirect) = &record.redirect else {
                let why = format!("nothing in the record of {domain} matches");
                return Ok((SpfResult::Neutral, why));
            };
            self.count_lookup()?;
            let target = self.expand(redirect, &domain)?;
            if self.record(&target, false)?.is_none() {
                return Err(permanent(format!(
                    "{domain} redirects to {target}, which has no SPF record"
                )));
            }
            // That look-up was counted; a record that is there leaves nothing void.
            (domain, first) = (target, false);
        }
    }

    /// The one record of a domain. `first`: its absence is a result, and not counted.
    fn record(&mut self, domain: &str, first: bool) -> Result<Option<Spf>, Stop> {
        let records = if first {
            self.answers.get(domain, Kind::Txt)?
        } else {
            self.query(domain, Kind::Txt)?
        };
        if let Records::Failed(why) = &*records {
            return Err(Stop::End(SpfResult::TempError, why.clone()));
        }
        let mut candidates = texts(&records).filter(|text| is_spf(text));
        let Some(text) = candidates.next() else {
            return Ok(None);
        };
        if candidates.next().is_some() {
            return Err(permanent(format!("{domain} has several SPF records")));
        }
        if let Some(term) = unknown_term(text) {
            let term = shown(&String::from_utf8_lossy(term));
            return Err(permanent(format!(
                "the SPF record of {domain} has the unknown term {term:?}"
            )));
        }
        Spf::parse(text)
            .map(Some)
            .map_err(|_| permanent(format!("the SPF record of {domain} has a syntax error")))
    }

    fn count_lookup(&mut self) -> Result<(), Stop> {
        self.lookups += 1;
        if self.lookups > LOOKUPS_MAX {
            return Err(permanent(format!("more than {LOOKUPS_MAX} DNS look-ups")));
        }
        Ok(())
    }

    /// An answer, or the end when there is none for now or too often nothing.
    fn query(&mut self, name: &str, kind: Kind) -> Result<std::sync::Arc<Records>, Stop> {
        let records = self.answers.get(name, kind)?;
        match &*records {
            Records::Found(_) => {}
            Records::Nothing | Records::NoSuchDomain => {
                self.voids += 1;
                if self.voids > VOIDS_MAX {
                    return Err(permanent(format!(
                        "more than {VOIDS_MAX} void DNS look-ups, the last one for {name}"
                    )));
                }
            }
            Records::Failed(why) => return Err(Stop::End(SpfResult::TempError, why.clone())),
        }
        Ok(records)
    }

    /// The term that matches, as text; `None` when it does not.
    fn matches(&mut self, mechanism: &Mechanism, domain: &str) -> Result<Option<String>, Stop> {
        let ip = self.sender.ip;
        let matched = match mechanism {
            Mechanism::All => Some("all".to_owned()),
            Mechanism::Ip4 { addr, mask } => {
                in_network(ip, (*addr).into(), *mask, 0).then(|| format!("ip4:{addr}"))
            }
            Mechanism::Ip6 { addr, mask } => {
                in_network(ip, (*addr).into(), 0, *mask).then(|| format!("ip6:{addr}"))
            }
            Mechanism::A {
                macro_string,
                ip4_mask,
                ip6_mask,
            } => {
                self.count_lookup()?;
                let name = self.expand(macro_string, domain)?;
                let records = self.query(&name, family(ip))?;
                addresses(&records)
                    .any(|address| in_network(ip, address, *ip4_mask, *ip6_mask))
                    .then(|| format!("a:{name}"))
            }
            Mechanism::Mx {
                macro_string,
                ip4_mask,
                ip6_mask,
            } => {
                self.count_lookup()?;
                let name = self.expand(macro_string, domain)?;
                let records = self.query(&name, Kind::Mx)?;
                self.mx_has(&name, &records, *ip4_mask, *ip6_mask)?
                    .then(|| format!("mx:{name}"))
            }
            Mechanism::Include { macro_string } => {
                self.count_lookup()?;
                let name = self.expand(macro_string, domain)?;
                match self.check_host(&name, false)? {
                    (SpfResult::Pass, why) => Some(format!("include:{name} ({why})")),
                    (SpfResult::None, _) => {
                        return Err(permanent(format!(
                            "{domain} includes {name}, which has no SPF record"
                        )));
                    }
                    _ => None,
                }
            }
            Mechanism::Ptr { macro_string } => {
                self.uses_ptr = true;
                self.count_lookup()?;
                let name = self.expand(macro_string, domain)?;
                let names = self.validated_names()?;
                names
                    .iter()
                    .any(|found| is_within(found, &name))
                    .then(|| format!("ptr:{name}"))
            }
            Mechanism::Exists { macro_string } => {
                self.count_lookup()?;
                let name = self.expand(macro_string, domain)?;
                // Always A, whatever the family of the source (§5.7).
                let records = self.query(&name, Kind::A)?;
                (!data(&records).is_empty()).then(|| format!("exists:{name}"))
            }
        };
        Ok(matched)
    }

    fn mx_has(
        &mut self,
        name: &str,
        records: &Records,
        ip4_mask: u32,
        ip6_mask: u128,
    ) -> Result<bool, Stop> {
        let ip = self.sender.ip;
        let hosts = data(records).iter().filter_map(|data| match data {
            Data::Mx(_, Some(host)) if !host.is_empty() => Some(host),
            _ => None,
        });
        for (number, host) in hosts.enumerate() {
            if number >= HOSTS_MAX {
                return Err(permanent(format!(
                    "{name} has more than {HOSTS_MAX} MX hosts"
                )));
            }
            let found = self.query(host, family(ip))?;
            if addresses(&found).any(|address| in_network(ip, address, ip4_mask, ip6_mask)) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Names of the source that lead back to it (§5.5). Errors of DNS mean that there are none.
    fn validated_names(&mut self) -> Result<Vec<String>, Stop> {
        let ip = self.sender.ip;
        let records = self.answers.get(&reverse_name(ip), Kind::Ptr)?;
        let mut names = Vec::new();
        for record in data(&records).iter().take(HOSTS_MAX) {
            if let Data::Ptr(name) = record {
                let found = self.answers.get(name, family(ip))?;
                if addresses(&found).any(|address| address == ip) {
                    names.push(name.clone());
                }
            }
        }
        Ok(names)
    }

    /// A domain-spec with its macros expanded (§7); the domain itself where none is given.
    fn expand(&mut self, spec: &Macro, domain: &str) -> Result<String, Stop> {
        let validated = if spec.needs_ptr() {
            let names = self.validated_names()?;
            let best = names
                .iter()
                .find(|name| is_within(name, domain))
                .or(names.first());
            best.cloned().unwrap_or_else(|| "unknown".to_owned())
        } else {
            String::new()
        };
        let mailbox = match self.sender.mailbox.rsplit_once('@') {
            Some(("", domain)) => format!("postmaster@{domain}"),
            Some(_) => self.sender.mailbox.to_owned(),
            None => format!("postmaster@{}", self.sender.mailbox),
        };
        let mut variables = Variables::new();
        variables.set_ip(&self.sender.ip);
        variables.set_sender(mailbox.as_bytes());
        variables.set_domain(domain.as_bytes());
        variables.set_helo_domain(self.sender.helo.as_bytes());
        variables.set_host_domain(&b"unknown"[..]);
        variables.set_validated_domain(validated.as_bytes());
        let name = spec.eval(&variables, domain, false);
        let mut name = name.strip_suffix('.').unwrap_or(&name);
        while name.len() > NAME_MAX {
            // Labels are taken off the left (§7.3).
            match name.split_once('.') {
                Some((_, rest)) => name = rest,
                None => return Ok(String::new()),
            }
        }
        Ok(name.to_ascii_lowercase())
    }
}

/// A term that is neither a mechanism nor a modifier, `ipv4:` for example: an error of syntax (§4.6), which
/// mail-auth passes over.
fn unknown_term(text: &[u8]) -> Option<&[u8]> {
    const MECHANISMS: [&[u8]; 8] = [
        b"all", b"include", b"a", b"mx", b"ptr", b"ip4", b"ip6", b"exists",
    ];
    let mut terms = text.split(|byte| *byte == b' ').skip(1);
    terms.find(|term| {
        let bare = match term.split_first() {
            Some((b'+' | b'-' | b'~' | b'?', rest)) => rest,
            _ => term,
        };
        let end = bare.iter().position(|byte| b":/=".contains(byte));
        let modifier = end.is_some_and(|end| bare[end] == b'=');
        let name = &bare[..end.unwrap_or(bare.len())];
        let known = MECHANISMS
            .iter()
            .any(|known| known.eq_ignore_ascii_case(name));
        !(term.is_empty() || known || modifier && !name.is_empty())
    })
}

/// `v=spf1`, alone or before a space (§4.5).
pub(super) fn is_spf(text: &[u8]) -> bool {
    match text.split_at_checked(6) {
        Some((start, rest)) => {
            start.eq_ignore_ascii_case(b"v=spf1") && matches!(rest.first(), None | Some(b' '))
        }
        None => false,
    }
}

fn in_network(ip: IpAddr, network: IpAddr, ip4_mask: u32, ip6_mask: u128) -> bool {
    match (ip, network) {
        (IpAddr::V4(ip), IpAddr::V4(network)) => (ip.to_bits() ^ network.to_bits()) & ip4_mask == 0,
        (IpAddr::V6(ip), IpAddr::V6(network)) => (ip.to_bits() ^ network.to_bits()) & ip6_mask == 0,
        _ => false,
    }
}

/// `name` is `domain` or lies below it.
fn is_within(name: &str, domain: &str) -> bool {
    match name.strip_suffix(domain) {
        Some(rest) => rest.is_empty() || rest.ends_with('.'),
        None => false,
    }
}
