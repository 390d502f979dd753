//! Settings that come in lists: routes, sources, limits, DKIM keys.
//!
//! Each is checked alone and against those before it, so that the message can name both places.

use super::document::{Document, Raw, Section, SectionsOrList};
use super::error::{Origin, SettingsError};
use super::network::{self, Ehlo, Route, Source};
use super::value::{boolean, refuse};
use super::{Host, RawLimit};
use crate::cli::RunArgs;
use crate::dns::route::{Pattern, SMTP_PORT, Target};
use crate::mail::domain::is_domain_name;
use crate::signing::DkimKey;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;

pub(super) fn routes(
    document: &mut Document<'_>,
    args: &RunArgs,
) -> Result<Vec<Route>, SettingsError> {
    let mut routes: Vec<Route> = Vec::new();
    for given in &args.route {
        let origin = Origin::Flag("--route");
        let Some((pattern, target)) = given.split_once('=') else {
            let reason = "has no `=`: write PATTERN=HOST[:PORT], such as '*=127.0.0.1:2525'".into();
            return Err(refuse(&Raw::Text(given.clone()), &origin, reason));
        };
        let route = route(pattern, &origin, target, &origin)?;
        unreachable(&routes, &route)?;
        routes.push(route);
    }
    let flags = routes.len();
    for mut section in document.sections("route")? {
        let (pattern, at) = needed(
            &mut section,
            "pattern",
            "write the domains it is for, such as \"*.example.com\"",
        )?;
        let (target, target_at) = needed(&mut section, "target", "write HOST or HOST:PORT")?;
        section.finish()?;
        let route = route(&pattern, &at, &target, &target_at)?;
        // A flag may take a route's place; two routes of the file contradict.
        unreachable(&routes[flags..], &route)?;
        routes.push(route);
    }
    Ok(routes)
}

fn route(
    pattern: &str,
    at: &Origin,
    target: &str,
    target_at: &Origin,
) -> Result<Route, SettingsError> {
    let value = |text: &str| Raw::Text(text.into());
    let target = Target::parse(target, SMTP_PORT)
        .map_err(|reason| refuse(&value(target), target_at, reason))?;
    let pattern = Pattern::parse(pattern).map_err(|reason| refuse(&value(pattern), at, reason))?;
    Ok(Route {
        pattern,
        target,
        origin: at.clone(),
    })
}

fn unreachable(before: &[Route], route: &Route) -> Result<(), SettingsError> {
    let Some(first) = before
        .iter()
        .find(|before| before.pattern.covers(&route.pattern))
    else {
        return Ok(());
    };
    let problem = format!(
        "a route for {} never applies behind the one for {} ({}), because the first match counts: put it before",
        route.pattern, first.pattern, first.origin
    );
    Err(SettingsError::Conflict {
        origin: route.origin.clone(),
        problem,
    })
}

pub(super) fn sources(
    document: &mut Document<'_>,
    args: &RunArgs,
    host: &Host,
) -> Result<Vec<Source>, SettingsError> {
    let ehlo_default = match &host.name {
        Some(name) if network::is_fqdn(&name.to_ascii_lowercase()) => {
            Ehlo::Name(name.to_ascii_lowercase())
        }
        _ => Ehlo::AddressLiteral,
    };
    let mut found: Vec<(Source, Origin)> = Vec::new();
    for mut section in document.sections("source")? {
        let (ip, at) = needed(&mut section, "ip", "write the local address to send from")?;
        let ehlo = optional_text(&mut section, "ehlo")?;
        let name = optional_text(&mut section, "name")?;
        section.finish()?;
        let source = source(
            (&ip, &at),
            ehlo.as_ref().map(|(text, at)| (text.as_str(), at)),
            name,
            &ehlo_default,
        )?;
        found.push((source, at));
    }
    if !args.source.is_empty() {
        found.clear();
    }
    for given in &args.source {
        let origin = Origin::Flag("--source");
        let (ip, ehlo) = given
            .split_once(',')
            .map_or((given.as_str(), None), |(ip, ehlo)| (ip, Some(ehlo)));
        let source = source(
            (ip, &origin),
            ehlo.map(|ehlo| (ehlo, &origin)),
            None,
            &ehlo_default,
        )?;
        found.push((source, origin));
    }
    for (index, (source, origin)) in found.iter().enumerate() {
        for (before, first) in &found[..index] {
            let problem = if before.ip == source.ip {
                format!(
                    "address {} is a source already ({first}): remove one",
                    source.ip
                )
            } else if before.name == source.name {
                format!(
                    "name \"{}\" is a source already ({first}): choose another",
                    source.name
                )
            } else {
                continue;
            };
            return Err(SettingsError::Conflict {
                origin: origin.clone(),
                problem,
            });
        }
    }
    let mut sources: Vec<_> = found.into_iter().map(|(source, _)| source).collect();
    if sources.is_empty() {
        let ip = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
        sources.push(Source {
            name: "default".into(),
            ip,
            ehlo: ehlo_default,
        });
    }
    Ok(sources)
}

fn source(
    ip: (&str, &Origin),
    ehlo: Option<(&str, &Origin)>,
    name: Option<(String, Origin)>,
    ehlo_default: &Ehlo,
) -> Result<Source, SettingsError> {
    let (text, at) = ip;
    let address: IpAddr = text.trim().parse().map_err(|_| {
        let reason =
            "is not an IP address: write one of this machine, such as 192.0.2.7 or 2001:db8::7";
        refuse(&Raw::Text(text.into()), at, reason.into())
    })?;
    if address.is_multicast() || address == IpAddr::V4(Ipv4Addr::BROADCAST) {
        let reason = "is no address to send from: write one of this machine".into();
        return Err(refuse(&Raw::Text(text.into()), at, reason));
    }
    let ehlo = match ehlo {
        None => ehlo_default.clone(),
        Some((text, at)) => Ehlo::parse(text, address)
            .map_err(|reason| refuse(&Raw::Text(text.into()), at, reason))?,
    };
    let name = match name {
        None => address.to_string(),
        Some((name, at)) => {
            let printable = |c: char| c.is_ascii_graphic() && c != ',';
            if name.is_empty() || name.len() > 64 || !name.chars().all(printable) {
                let reason = "is no name: write at most 64 letters, digits or signs without blanks and commas";
                return Err(refuse(&Raw::Text(name), &at, reason.into()));
            }
            name
        }
    };
    Ok(Source {
        name,
        ip: address,
        ehlo,
    })
}

/// Limits stay text: their grammar and their meaning belong to the profiles.
pub(super) fn limits(
    document: &mut Document<'_>,
    args: &RunArgs,
) -> Result<Vec<RawLimit>, SettingsError> {
    let mut limits = Vec::new();
    match document.sections_or_list("limit")? {
        SectionsOrList::List(items, origin) => {
            limits.extend(items.into_iter().map(|text| RawLimit {
                text,
                origin: origin.clone(),
            }));
        }
        SectionsOrList::Sections(sections) => {
            for mut section in sections {
                let (pattern, origin) = needed(
                    &mut section,
                    "pattern",
                    "write the domains it is for, such as \"*.example.com\"",
                )?;
                let mut parts = Vec::new();
                for (key, raw, at) in section.take_rest() {
                    let value = match &raw {
                        Raw::Text(text) => text.clone(),
                        Raw::Integer(number) => number.to_string(),
                        // Hours and days, which a flag separates by blanks.
                        Raw::List(items) => items.join(" "),
                        _ => {
                            return Err(refuse(
                                &raw,
                                &at,
                                "is no limit: write a number, or text such as \"10/s\"".into(),
                            ));
                        }
                    };
                    parts.push(format!("{}={value}", key.replace('_', "-")));
                }
                limits.push(RawLimit {
                    text: format!("{pattern}={}", parts.join(",")),
                    origin,
                });
            }
        }
    }
    // A flag takes the place of the file's limit for the same pattern.
    let pattern = |text: &str| {
        text.split('=')
            .next()
            .unwrap_or_default()
            .trim()
            .to_ascii_lowercase()
    };
    let flags: Vec<_> = args.limit.iter().map(|text| pattern(text)).collect();
    limits.retain(|limit| !flags.contains(&pattern(&limit.text)));
    limits.extend(args.limit.iter().map(|text| RawLimit {
        text: text.clone(),
        origin: Origin::Flag("--limit"),
    }));
    for limit in &limits {
        if !limit
            .text
            .split_once('=')
            .is_some_and(|(pattern, limit)| !pattern.trim().is_empty() && !limit.is_empty())
        {
            let reason =
                "is no limit: write PATTERN=LIMIT, such as '*.example.com=10/s,connections=2'"
                    .into();
            return Err(refuse(
                &Raw::Text(limit.text.clone()),
                &limit.origin,
                reason,
            ));
        }
    }
    Ok(limits)
}

pub(super) fn dkim(
    document: &mut Document<'_>,
    directory: &Path,
) -> Result<Vec<DkimKey>, SettingsError> {
    let mut keys: Vec<DkimKey> = Vec::new();
    for mut section in document.sections("dkim")? {
        let (domain, domain_at) = needed(&mut section, "domain", "write the signing domain")?;
        let (selector, selector_at) = needed(
            &mut section,
            "selector",
            "write the selector that its DNS record has",
        )?;
        let (key, key_at) = needed(&mut section, "key", "name the PEM file of the private key")?;
        let subdomains = match section.take("subdomains") {
            None => true,
            Some((raw, at)) => boolean(&raw).map_err(|reason| refuse(&raw, &at, reason))?,
        };
        section.finish()?;
        let domain = mail_auth::common::to_a_label(&domain).into_owned();
        for (name, at) in [(&domain, &domain_at), (&selector, &selector_at)] {
            if !is_domain_name(name) {
                let reason = "is no domain name: write letters, digits, hyphens and dots".into();
                return Err(refuse(&Raw::Text(name.clone()), at, reason));
            }
        }
        if key.is_empty() {
            return Err(refuse(
                &Raw::Text(key),
                &key_at,
                "is empty: name a path".into(),
            ));
        }
        if keys
            .iter()
            .any(|known| known.domain == domain && known.selector == selector)
        {
            let problem =
                format!("{domain} has a key with selector {selector} already: each needs its own");
            return Err(SettingsError::Conflict {
                origin: selector_at,
                problem,
            });
        }
        keys.push(DkimKey {
            domain,
            selector,
            key: directory.join(key),
            subdomains,
        });
    }
    Ok(keys)
}

fn needed(
    section: &mut Section,
    key: &'static str,
    remedy: &'static str,
) -> Result<(String, Origin), SettingsError> {
    optional_text(section, key)?.ok_or_else(|| SettingsError::Missing {
        origin: section.origin().clone(),
        key,
        remedy,
    })
}

fn optional_text(
    section: &mut Section,
    key: &'static str,
) -> Result<Option<(String, Origin)>, SettingsError> {
    match section.take(key) {
        None => Ok(None),
        Some((Raw::Text(text), origin)) => Ok(Some((text, origin))),
        Some((raw, origin)) => Err(refuse(&raw, &origin, "must be text in quotes".into())),
    }
}
