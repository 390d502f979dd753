//! Open and click tracking: links of the HTML part lead over the tracking host.
//!
//! ```text
//! https://example.com/page      → URL?c=TOKEN&u=https%3A%2F%2Fexample.com%2Fpage
//! one pixel before </body>      → URL?o=TOKEN
//! ```
//!
//! The token of a link covers its target, so the host redirects only to what this job sent. The link
//! for unsubscribing stays as it is: nobody is counted for wanting to leave.

use crate::job::Tracking;
use crate::job::mime::html::{Piece, Pieces, escape, unescape};
use crate::job::mime::parameter::percent;
use crate::job::token::{Purpose, Token};

/// What is tracked, and where.
#[derive(Debug)]
pub(super) struct Track {
    /// Address with `?` or `&` at its end, escaped for an attribute.
    url: Box<str>,
    opens: bool,
    clicks: bool,
}

impl Track {
    pub(super) fn new(tracking: &Tracking) -> Option<Self> {
        if !tracking.opens && !tracking.clicks {
            return None;
        }
        let mut url = String::new();
        escape(&tracking.url, |piece| url.push_str(piece));
        url.push_str(if tracking.url.contains('?') {
            "&amp;"
        } else {
            "?"
        });
        Some(Self {
            url: url.into(),
            opens: tracking.opens,
            clicks: tracking.clicks,
        })
    }

    /// Appends `html` with its links led over the host. `keep` is the address that is left alone;
    /// `sign` makes the token for a target.
    pub(super) fn apply(
        &self,
        html: &str,
        keep: &str,
        sign: impl Fn(Purpose, &str) -> Token,
        out: &mut String,
    ) {
        let mut copied = 0;
        let mut end_of_body = None;
        let mut target = String::new();
        for piece in Pieces::new(html) {
            let Piece::Tag(tag) = piece else {
                continue;
            };
            if tag.is_end && tag.is("body") {
                end_of_body = Some(tag.at);
            }
            if !self.clicks || tag.is_end || !(tag.is("a") || tag.is("area")) {
                continue;
            }
            let Some((href, at)) = tag.attribute("href") else {
                continue;
            };
            target.clear();
            unescape(href.trim(), &mut target);
            let scheme = target.get(..8).unwrap_or(&target).to_ascii_lowercase();
            let leads_to_web = scheme.starts_with("http://") || scheme.starts_with("https://");
            if !leads_to_web || target == keep {
                continue;
            }
            let unquoted = !html[..at].ends_with(['"', '\'']);
            let quote = if unquoted { "\"" } else { "" };
            let token = sign(Purpose::Click, &target);
            for text in [
                &html[copied..at],
                quote,
                &self.url,
                "c=",
                token.as_str(),
                "&amp;u=",
            ] {
                out.push_str(text);
            }
            out.push_str(&percent(&target));
            out.push_str(quote);
            copied = at + href.len();
        }
        if self.opens {
            let at = end_of_body.unwrap_or(html.len()).max(copied);
            out.push_str(&html[copied..at]);
            let token = sign(Purpose::Open, "");
            for text in [
                "<img src=\"",
                &self.url,
                "o=",
                token.as_str(),
                "\" width=\"1\" height=\"1\" alt=\"\">",
            ] {
                out.push_str(text);
            }
            copied = at;
        }
        out.push_str(&html[copied..]);
    }
}
