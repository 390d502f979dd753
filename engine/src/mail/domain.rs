//! What a domain name may consist of, wherever an operator or a message writes one.

/// Whether this is a name of letters, digits, hyphens and underscores in labels of at most 63.
#[must_use]
pub fn is_domain_name(name: &str) -> bool {
    name.len() <= crate::limits::DOMAIN_MAX
        && name.split('.').all(|label| {
            (1..=63).contains(&label.len())
                && label
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
        })
}
