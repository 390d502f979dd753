//! What the peer offered in EHLO. Only flags and numbers are kept, so its size does not depend on the peer.

use std::str;

/// The extensions of one EHLO answer. All off after HELO; built anew after STARTTLS (RFC 3207 §4.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Extensions {
    /// RFC 2920.
    pub pipelining: bool,
    /// RFC 1870: `None` not offered, `Some(0)` offered without a fixed limit.
    pub size: Option<u64>,
    /// RFC 6152.
    pub eight_bit: bool,
    /// RFC 6531.
    pub smtputf8: bool,
    /// RFC 3207.
    pub starttls: bool,
    /// RFC 3030.
    pub chunking: bool,
    /// RFC 3030.
    pub binary: bool,
    /// RFC 2034.
    pub enhanced: bool,
    /// RFC 3461.
    pub dsn: bool,
    /// RFC 8689.
    pub require_tls: bool,
    /// RFC 4954, the PLAIN mechanism.
    pub auth_plain: bool,
    /// The LOGIN mechanism, never standardised, still what some smart hosts want.
    pub auth_login: bool,
    /// RFC 9422: most recipients of one transaction.
    pub recipients_max: Option<u32>,
    /// RFC 9422: most transactions of one session.
    pub transactions_max: Option<u32>,
}

impl Extensions {
    /// Takes in one line of the answer, without its code. The first line is the peer's name and
    /// greeting and must not be passed. Unknown keywords and unreadable parameters are skipped.
    pub fn offer(&mut self, line: &[u8]) {
        let mut words = line
            .split(|&byte| byte == b' ' || byte == b'\t')
            .filter(|word| !word.is_empty());
        let Some(keyword) = words.next() else { return };
        let is = |name: &str| keyword.eq_ignore_ascii_case(name.as_bytes());
        if is("PIPELINING") {
            self.pipelining = true;
        } else if is("SIZE") {
            // Unreadable (negative, beyond 64 bits) or contradictory: the peer then says itself what
            // is too big. Refusing here for a limit that was not meant would bounce good mail.
            let limit = words.next().and_then(number).unwrap_or(0);
            self.size = Some(match self.size {
                None => limit,
                Some(0) => 0,
                Some(earlier) => {
                    if limit == 0 {
                        0
                    } else {
                        limit.max(earlier)
                    }
                }
            });
        } else if is("8BITMIME") {
            self.eight_bit = true;
        } else if is("SMTPUTF8") {
            self.smtputf8 = true;
        } else if is("STARTTLS") {
            self.starttls = true;
        } else if is("CHUNKING") {
            self.chunking = true;
        } else if is("BINARYMIME") {
            self.binary = true;
        } else if is("ENHANCEDSTATUSCODES") {
            self.enhanced = true;
        } else if is("DSN") {
            self.dsn = true;
        } else if is("REQUIRETLS") {
            self.require_tls = true;
        } else if is("AUTH") {
            words.for_each(|word| self.offer_mechanism(word));
        } else if keyword.len() > 5 && keyword[..5].eq_ignore_ascii_case(b"AUTH=") {
            // The form of the drafts before RFC 2554, still announced beside the right one.
            self.offer_mechanism(&keyword[5..]);
            words.for_each(|word| self.offer_mechanism(word));
        } else if is("LIMITS") {
            words.for_each(|word| self.offer_limit(word));
        }
    }

    fn offer_mechanism(&mut self, word: &[u8]) {
        self.auth_plain |= word.eq_ignore_ascii_case(b"PLAIN");
        self.auth_login |= word.eq_ignore_ascii_case(b"LOGIN");
    }

    fn offer_limit(&mut self, word: &[u8]) {
        let Some(equals) = word.iter().position(|&byte| byte == b'=') else {
            return;
        };
        let limit = number(&word[equals + 1..])
            .and_then(|limit| u32::try_from(limit).ok())
            .filter(|&limit| limit > 0);
        if word[..equals].eq_ignore_ascii_case(b"RCPTMAX") {
            self.recipients_max = limit;
        } else if word[..equals].eq_ignore_ascii_case(b"MAILMAX") {
            self.transactions_max = limit;
        }
    }
}

fn number(word: &[u8]) -> Option<u64> {
    // `parse` would take a plus sign, which RFC 1870 does not have.
    word.iter()
        .all(u8::is_ascii_digit)
        .then(|| str::from_utf8(word).ok()?.parse().ok())
        .flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(lines: &[&str], want: Extensions) {
        let mut got = Extensions::default();
        lines.iter().for_each(|line| got.offer(line.as_bytes()));
        assert_eq!(got, want, "{lines:?}");
    }

    #[test]
    fn size_never_invents_a_limit() {
        let size = |size| Extensions {
            size,
            ..Extensions::default()
        };
        check(&["SIZE"], size(Some(0)));
        check(&["SIZE 0"], size(Some(0)));
        check(&["size 35882577"], size(Some(35_882_577)));
        check(&["SIZE -1"], size(Some(0)));
        check(&["SIZE +1"], size(Some(0)));
        check(&["SIZE 18446744073709551615"], size(Some(u64::MAX)));
        check(&["SIZE 18446744073709551616"], size(Some(0)));
        check(&["SIZE 10", "SIZE 20"], size(Some(20)));
        check(&["SIZE 20", "SIZE 10"], size(Some(20)));
        check(&["SIZE 20", "SIZE"], size(Some(0)));
        check(&["SIZE", "SIZE 20"], size(Some(0)));
        check(&["SIZES 20"], size(None));
    }

    #[test]
    fn keywords_are_case_insensitive_and_unknown_ones_are_skipped() {
        check(
            &[
                "pipelining",
                "8bitMIME",
                "StartTLS",
                "X-UNKNOWN a b",
                "",
                " ",
                "\0\u{ff}",
                "SMTPUTF8",
                "CHUNKING",
                "DSN",
            ],
            Extensions {
                pipelining: true,
                eight_bit: true,
                starttls: true,
                smtputf8: true,
                chunking: true,
                dsn: true,
                ..Extensions::default()
            },
        );
    }

    #[test]
    fn auth_and_limits() {
        check(
            &[
                "AUTH CRAM-MD5 plain",
                "AUTH=LOGIN",
                "LIMITS RCPTMAX=50 MAILMAX=0 MAILMAX x=y RCPTDOMAINMAX=1",
            ],
            Extensions {
                auth_plain: true,
                auth_login: true,
                recipients_max: Some(50),
                ..Extensions::default()
            },
        );
    }
}
