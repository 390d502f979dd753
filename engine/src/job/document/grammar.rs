//! What the values of `job.toml` may look like. Each function reads one kind of text, or ends the
//! sentence that began with it.

pub(super) use hikyaku_tuning::hours::{day, window as hours};
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan};

use super::TEXT_MAX;
use crate::job::archive::check_name;
use crate::job::mime::header::is_field_name;
use crate::job::token::VERP_PREFIX_MAX;
use crate::job::{Mailbox, ReversePath};
use crate::limits::KEY_MAX;
use crate::mail::address::{Address, IpLiterals, parse_domain};

/// What stands for the recipient's token.
const TOKEN: &str = "{token}";

/// Text of one line that is not empty.
pub(super) fn text(text: &str) -> Result<Box<str>, String> {
    short(text, TEXT_MAX)
}

pub(super) fn short(text: &str, octets_max: usize) -> Result<Box<str>, String> {
    if text.trim().is_empty() {
        return Err("is empty: leave the key out instead".to_owned());
    }
    if text.len() > octets_max {
        return Err(format!("is longer than {octets_max} octets"));
    }
    if let Some(c) = text.chars().find(|c| c.is_control()) {
        return Err(format!(
            "has the control character U+{:04X}: it must be one line of text",
            u32::from(c)
        ));
    }
    Ok(text.into())
}

/// Printable ASCII without blanks.
pub(super) fn label(text: &str, octets_max: usize) -> Result<Box<str>, String> {
    if text.is_empty() || text.len() > octets_max || !text.bytes().all(|c| c.is_ascii_graphic()) {
        return Err(format!(
            "must be 1 to {octets_max} printable ASCII characters without blanks"
        ));
    }
    Ok(text.into())
}

/// An idempotency key, as other drop files have it, too.
pub(super) fn key(text: &str) -> Result<Box<str>, String> {
    label(text, KEY_MAX)
}

/// A file of the job.
pub(super) fn file(text: &str) -> Result<Box<str>, String> {
    let name = check_name(text.as_bytes())?;
    if name == super::DOCUMENT || name != text {
        return Err("must be the name of another file of the job".to_owned());
    }
    Ok(name.into())
}

/// A file name that a reader sees.
pub(super) fn shown_file(text: &str) -> Result<Box<str>, String> {
    if text.contains(['/', '\\']) {
        return Err("has a slash or a backslash: a file name has none".to_owned());
    }
    short(text, 255)
}

/// `Name <address>`, or an address alone.
pub(super) fn mailbox(text: &str) -> Result<Mailbox, String> {
    let text = text.trim();
    let (name, address) = match text
        .strip_suffix('>')
        .and_then(|text| text.rsplit_once('<'))
    {
        Some((name, address)) => (name.trim(), address),
        None => ("", text),
    };
    let name = match name
        .strip_prefix('"')
        .and_then(|name| name.strip_suffix('"'))
    {
        Some(name) => name,
        None => name,
    };
    let address = bare(address)?;
    let name = match name {
        "" => None,
        name => Some(short(name, 255)?),
    };
    Ok(Mailbox { name, address })
}

fn bare(text: &str) -> Result<Box<str>, String> {
    let address = Address::parse(text)
        .map_err(|error| format!("{error}; write \"Name <address>\" or \"address\""))?;
    if address.needs_smtputf8() {
        return Err("the local part is not ASCII, which few receivers take".to_owned());
    }
    Ok(address.into_boxed_str())
}

/// An address, or `prefix+{token}@domain`.
pub(super) fn reverse_path(text: &str) -> Result<ReversePath, String> {
    if !text.contains(['{', '}']) {
        let address = Address::parse(text).map_err(|error| {
            format!("{error}; bounces need an address, such as bounce+{TOKEN}@shop.example")
        })?;
        if address.needs_smtputf8() {
            return Err("the local part is not ASCII, which few receivers take".to_owned());
        }
        return Ok(ReversePath::Fixed(address.into_boxed_str()));
    }
    let wrong = || format!("write prefix+{TOKEN}@domain, such as bounce+{TOKEN}@shop.example");
    let (prefix, domain) = text
        .split_once(&format!("+{TOKEN}@"))
        .filter(|(prefix, domain)| !prefix.contains(['{', '}']) && !domain.contains(['{', '}']))
        .ok_or_else(wrong)?;
    // A token takes most of the 64 octets that a local part has.
    if prefix.len() > VERP_PREFIX_MAX || !prefix.is_ascii() || prefix.starts_with('"') {
        return Err(format!(
            "what stands before the token must be 1 to {VERP_PREFIX_MAX} ASCII characters"
        ));
    }
    let address = Address::parse(format!("{prefix}+t@{domain}"))
        .map_err(|error| format!("{error}; {}", wrong()))?;
    if prefix.is_empty() {
        return Err(wrong());
    }
    Ok(ReversePath::Verp {
        prefix: prefix.into(),
        domain: address.domain().into(),
    })
}

/// Fields that the engine writes itself, or that must not come from a job.
const OUR_FIELDS: [&str; 15] = [
    "from",
    "to",
    "cc",
    "bcc",
    "subject",
    "date",
    "message-id",
    "reply-to",
    "mime-version",
    "feedback-id",
    "dkim-signature",
    "received",
    "return-path",
    "authentication-results",
    "delivered-to",
];
const OUR_PREFIXES: [&str; 4] = ["content-", "list-", "resent-", "arc-"];

/// The name of a header field that a job may set (RFC 5322 §3.6.8).
pub(super) fn header_name(text: &str) -> Result<Box<str>, String> {
    if !is_field_name(text) {
        return Err(
            "must be 1 to 64 printable ASCII characters without blanks and colons".to_owned(),
        );
    }
    let lower = text.to_ascii_lowercase();
    if OUR_FIELDS.contains(&&*lower) || OUR_PREFIXES.iter().any(|p| lower.starts_with(p)) {
        return Err(match &*lower {
            "from" | "subject" | "reply-to" | "to" => {
                "is set by a key of its own: from, subject, reply_to, to_name".to_owned()
            }
            "feedback-id" => "is set by a key of its own: feedback_id".to_owned(),
            _ if lower.starts_with("list-") => {
                "is set by the table [list]: id, unsubscribe, unsubscribe_mailto".to_owned()
            }
            _ => "is set by the engine, or has no place in a message to one recipient".to_owned(),
        });
    }
    Ok(text.into())
}

/// RFC 2919: at least two atoms with a dot between them.
pub(super) fn list_id(text: &str) -> Result<Box<str>, String> {
    if !text.contains('.') {
        return Err("must be a name with a domain behind it, such as news.shop.example".to_owned());
    }
    parse_domain(text, IpLiterals::Refused)
        .map_err(|error| format!("{error}; write a name such as news.shop.example"))
}

/// An HTTPS address.
pub(super) fn url(text: &str) -> Result<Box<str>, String> {
    check_url(text)?;
    if text.contains(['{', '}', '#']) {
        return Err("must have no braces and no #: the token is appended".to_owned());
    }
    Ok(text.into())
}

/// An HTTPS address with one token, not in the host (RFC 8058).
pub(super) fn token_url(text: &str) -> Result<Box<str>, String> {
    let rest = check_url(text)?;
    let host_end = rest.find(['/', '?']).unwrap_or(rest.len());
    let plain = rest.replacen(TOKEN, "", 1);
    if plain.len() == rest.len()
        || plain.contains(['{', '}', '#'])
        || rest[..host_end].contains('{')
    {
        return Err(format!(
            "must hold {TOKEN} once, behind the host, such as https://shop.example/u/{TOKEN}"
        ));
    }
    Ok(text.into())
}

/// What stands behind `https://`.
fn check_url(text: &str) -> Result<&str, String> {
    let rest = text
        .get(..8)
        .filter(|scheme| scheme.eq_ignore_ascii_case("https://"))
        .and_then(|_| text.get(8..))
        .ok_or_else(|| "must begin with https://".to_owned())?;
    // What header fields and HTML attributes would have to escape is escaped by whoever writes it.
    let is_plain = |c: u8| c.is_ascii_graphic() && !b"<>\"'\\^`|".contains(&c);
    if text.len() > 900 || !rest.bytes().all(is_plain) {
        return Err(
            "must be at most 900 printable ASCII characters; others are written as %XX".to_owned(),
        );
    }
    let authority = &rest[..rest.find(['/', '?', '#']).unwrap_or(rest.len())];
    let (host, port) = authority.split_once(':').unwrap_or((authority, "443"));
    if host.contains('{') {
        return Err("must have a host without braces".to_owned());
    }
    parse_domain(host, IpLiterals::Refused).map_err(|error| error.to_string())?;
    if port.parse::<u16>().is_err() {
        return Err("must have a number for its port".to_owned());
    }
    Ok(rest)
}

/// An address that may hold one token in its local part.
pub(super) fn token_address(text: &str) -> Result<Box<str>, String> {
    let plain = text.replacen(TOKEN, "t", 1);
    let wrong = || format!("write an address that holds {TOKEN} at most once, before the @");
    if plain.contains(['{', '}']) {
        return Err(wrong());
    }
    let address = Address::parse(&plain).map_err(|error| format!("{error}; {}", wrong()))?;
    let at = text.rfind('@').unwrap_or(text.len());
    if address.needs_smtputf8() || text[at..].contains('{') || plain.starts_with('"') {
        return Err(wrong());
    }
    Ok(format!("{}@{}", &text[..at], address.domain()).into())
}

/// `type/subtype` (RFC 2045 §5.1).
pub(super) fn media_type(text: &str) -> Result<Box<str>, String> {
    let is_token = |text: &str| {
        let is = |c: u8| c.is_ascii_alphanumeric() || b"!#$&-^_.+".contains(&c);
        !text.is_empty() && text.len() <= 64 && text.bytes().all(is)
    };
    match text.split_once('/') {
        Some((kind, _)) if kind.eq_ignore_ascii_case("multipart") => {
            Err("must be no multipart: it is one file".to_owned())
        }
        Some((kind, subtype)) if is_token(kind) && is_token(subtype) => {
            Ok(text.to_ascii_lowercase().into())
        }
        _ => Err("must be a media type such as application/pdf, without parameters".to_owned()),
    }
}

/// By the extension, for those that every sender uses.
pub(super) fn media_type_of(file: &str) -> Option<Box<str>> {
    let (_, extension) = file.rsplit_once('.')?;
    let media_type = match extension.to_ascii_lowercase().as_str() {
        "png" => "image/png",
        "jpg" | "jpeg" => "image/jpeg",
        "gif" => "image/gif",
        "webp" => "image/webp",
        "svg" => "image/svg+xml",
        "pdf" => "application/pdf",
        "zip" => "application/zip",
        "csv" => "text/csv",
        "ics" => "text/calendar",
        "txt" => "text/plain",
        _ => return None,
    };
    Some(media_type.into())
}

/// A Content-ID without its brackets (RFC 2392).
pub(super) fn content_id(text: &str) -> Result<Box<str>, String> {
    let is = |c: u8| c.is_ascii_alphanumeric() || b"-_.@+".contains(&c);
    if text.is_empty() || text.len() > 64 || !text.bytes().all(is) {
        return Err(
            "must be 1 to 64 ASCII letters, digits or -_.@+, as in <img src=\"cid:logo\">"
                .to_owned(),
        );
    }
    Ok(text.into())
}

/// An IANA time zone.
pub(super) fn zone(text: &str) -> Result<Box<str>, String> {
    match find_zone(text) {
        Some(_) => Ok(text.into()),
        None => Err("is no time zone: write a name such as Asia/Tokyo or UTC".to_owned()),
    }
}

fn find_zone(text: &str) -> Option<TimeZone> {
    let zone = TimeZone::get(text).ok()?;
    (text.len() <= 64 && !zone.is_unknown()).then_some(zone)
}

/// A moment, milliseconds since 1970: a TOML date and time, or the same in quotes. Without an offset
/// it is what a clock in `zone` shows.
pub(super) fn moment(value: &toml::Value, zone: Option<&str>) -> Result<u64, String> {
    let wrong = || {
        "must be a date and a time, such as 2027-04-01T09:00:00+09:00 (or without the offset, with time_zone)"
            .to_owned()
    };
    let text = match value {
        toml::Value::Datetime(moment) => moment.to_string(),
        toml::Value::String(text) => text.clone(),
        _ => return Err(wrong()),
    };
    let timestamp = match text.parse::<Timestamp>() {
        Ok(timestamp) => timestamp,
        Err(_) => {
            // A date alone would read as midnight.
            let local: DateTime = text
                .parse()
                .ok()
                .filter(|_| text.contains(':'))
                .ok_or_else(wrong)?;
            let zone = zone.and_then(find_zone).ok_or_else(|| {
                format!("{text} has no offset: write {text}+09:00, or time_zone = \"Asia/Tokyo\"")
            })?;
            zone.to_timestamp(local).map_err(|_| wrong())?
        }
    };
    // Twenty years from anywhere near today would be a slip of the pen; the year 1 as well.
    let first: Timestamp = DateTime::constant(2020, 1, 1, 0, 0, 0, 0)
        .to_zoned(TimeZone::UTC)
        .map_err(|_| wrong())?
        .timestamp();
    let last = first
        .checked_add((24 * 366 * 50).hours())
        .map_err(|_| wrong())?;
    if timestamp < first || timestamp > last {
        return Err(format!("{text} is not within 2020 and 2070"));
    }
    u64::try_from(timestamp.as_millisecond()).map_err(|_| wrong())
}
