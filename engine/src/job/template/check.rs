//! What would break every message of a job, found before the first is made.

use super::plan::{Compiler, in_toml};
use crate::job::mime::header;
use crate::job::token::{TOKEN_LEN, VERP_PREFIX_MAX};
use crate::job::{JobError, List, Mailbox, ReversePath, Tracking};
use crate::limits::LOCAL_PART_MAX;
use crate::mail::envelope::domain_of;

impl Compiler<'_> {
    /// What would break every message. [`crate::job::Job::parse`] has a word on most of it, with its line; here
    /// is what the header of a message relies on.
    pub(super) fn check(&self) -> Result<(), JobError> {
        let job = self.job;
        if let ReversePath::Verp { prefix, .. } = &job.reverse_path
            && prefix.len() > VERP_PREFIX_MAX
        {
            return Err(in_toml(format_args!(
                "reverse_path: {} characters before the token are too many, {VERP_PREFIX_MAX} fit into a local part",
                prefix.len()
            )));
        }
        for mailbox in std::iter::once(&job.from).chain(&job.reply_to) {
            let Mailbox { name, address } = mailbox;
            if domain_of(address).is_empty()
                || !address.is_ascii()
                || header::check(address).is_err()
            {
                return Err(in_toml(format_args!("{address:?} is no address")));
            }
            if let Some(name) = name {
                header::check(name)
                    .map_err(|error| in_toml(format_args!("a display name {error}")))?;
            }
        }
        if let Some(list) = &job.list {
            check_list(list)?;
        }
        if let Some(Tracking { url, .. }) = &job.tracking
            && !is_https(url)
        {
            return Err(in_toml("tracking.url: must be an https:// address"));
        }
        for (name, _) in &job.headers {
            if !header::is_field_name(name) {
                return Err(in_toml(format_args!(
                    "headers: {name:?} cannot name a field"
                )));
            }
            if is_ours(name) {
                return Err(in_toml(format_args!(
                    "headers: {name} is made from other settings, leave it out"
                )));
            }
        }
        Ok(())
    }
}

/// Fields that come from somewhere else than `[headers]`, in lower case.
const OURS: [&str; 22] = [
    "bcc",
    "date",
    "delivered-to",
    "dkim-signature",
    "feedback-id",
    "from",
    "list-id",
    "list-unsubscribe",
    "list-unsubscribe-post",
    "message-id",
    "mime-version",
    "received",
    "reply-to",
    "resent-from",
    "return-path",
    "sender",
    "subject",
    "to",
    "x-job",
    "x-receiver",
    "x-sender",
    "x-virtual-mta",
];

fn is_ours(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    name.starts_with("content-") || OURS.contains(&&*name)
}

fn check_list(list: &List) -> Result<(), JobError> {
    // With its token it is at most 41 octets longer, and alone on a line.
    let uri_max = 900;
    if !is_uri(&list.id) || list.id.is_empty() {
        return Err(in_toml(format_args!(
            "list.id: {:?} is no identifier",
            list.id
        )));
    }
    if let Some(label) = &list.label {
        header::check(label).map_err(|error| in_toml(format_args!("list.label {error}")))?;
    }
    if let Some(url) = &list.unsubscribe {
        if !is_https(url) || url.len() > uri_max {
            return Err(in_toml(
                "list.unsubscribe: must be an https:// address (RFC 8058 §3.1)",
            ));
        }
        if url.matches("{token}").count() != 1 {
            return Err(in_toml("list.unsubscribe: must hold {token} once"));
        }
    }
    if let Some(address) = &list.unsubscribe_mailto {
        let local = address
            .rsplit_once('@')
            .map_or(&**address, |(local, _)| local);
        let length = local.replace("{token}", &"t".repeat(TOKEN_LEN)).len();
        if !is_uri(address) || address.len() > uri_max || length > LOCAL_PART_MAX {
            return Err(in_toml(
                "list.unsubscribe_mailto: must be an address; with its token the local part may have 64 characters",
            ));
        }
    }
    Ok(())
}

fn is_https(text: &str) -> bool {
    let scheme = text.get(..8).unwrap_or_default();
    scheme.eq_ignore_ascii_case("https://") && is_uri(text)
}

/// Printable ASCII without blanks, quotes and angle brackets: what stands whole within such brackets
/// in a header field.
pub(super) fn is_uri(text: &str) -> bool {
    text.bytes()
        .all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'<' | b'>' | b'"'))
}
