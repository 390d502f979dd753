//! Sizes.

use super::{Case, Change, GOOD};

pub(super) const CASES: &[Case] = &[
    Case {
        change: Change::Bytes(|_| attached(990_000)),
        breaks: &[],
    },
    Case {
        change: Change::Bytes(|_| attached(1_000_000)),
        breaks: &["size-softbank"],
    },
    // Each limit holds the smaller ones; what stands alone is that they come one after another.
    Case {
        change: Change::Bytes(|_| attached(3_000_000)),
        breaks: &["size-softbank", "size-au"],
    },
    Case {
        change: Change::Bytes(|_| attached(25_000_000)),
        breaks: &["size-softbank", "size-au", "size-google"],
    },
    Case {
        change: Change::Bytes(|_| {
            let line = format!("{}\r\n", "x".repeat(70));
            let html = format!("<p>{}", line.repeat(1500));
            GOOD.replacen("<p>", &html, 1).into_bytes()
        }),
        breaks: &["html-clip"],
    },
];

/// With an image of so many bytes.
fn attached(bytes: usize) -> Vec<u8> {
    let line = format!("{}\r\n", "A".repeat(76));
    let part = format!(
        "--b\r\nContent-Type: image/png; name=a.png\r\nContent-Transfer-Encoding: base64\r\n\r\n{}--b--\r\n",
        line.repeat(bytes / line.len())
    );
    GOOD.replacen("--b--\r\n", &part, 1).into_bytes()
}
