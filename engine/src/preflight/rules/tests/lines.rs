//! Octets and lines.

use super::{Case, Change};

const END: &str = "</p>";

pub(super) const CASES: &[Case] = &[
    Case {
        change: Change::Bytes(|good| with(good, &[b' '; 0], 940)),
        breaks: &[],
    },
    Case {
        change: Change::Bytes(|good| with(good, &[b' '; 0], 999)),
        breaks: &["line-length"],
    },
    Case {
        change: Change::Replace(&[(END, "</p>\rx")]),
        breaks: &["bare-cr"],
    },
    Case {
        change: Change::Replace(&[(END, "</p>\nx")]),
        breaks: &["bare-lf"],
    },
    Case {
        change: Change::Replace(&[(END, "</p>\0")]),
        breaks: &["nul"],
    },
    Case {
        change: Change::Replace(&[("us-ascii", "utf-8"), (END, "é</p>")]),
        breaks: &["body-8bit"],
    },
    Case {
        change: Change::Replace(&[(
            "charset=us-ascii\r\n\r\n",
            "charset=us-ascii\r\nContent-Transfer-Encoding: base64\r\n\r\n!!!",
        )]),
        breaks: &["undecodable"],
    },
];

/// A line of so many letters before the end of the HTML.
fn with(good: Vec<u8>, more: &[u8], letters: usize) -> Vec<u8> {
    let text = String::from_utf8(good).expect("ASCII");
    let line = format!("</p>\r\n{}\r\n", "x".repeat(letters));
    let mut bytes = text.replacen(END, &line, 1).into_bytes();
    bytes.extend_from_slice(more);
    bytes
}
