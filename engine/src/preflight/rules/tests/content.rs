//! Links, files, parts.

use super::{Case, Change, GOOD};

pub(super) const CASES: &[Case] = &[
    Case {
        change: Change::Replace(&[("<p>", "<a href='http://bit.ly/x'>x</a><p>")]),
        breaks: &["link-shortener"],
    },
    Case {
        change: Change::Replace(&[("<p>", "<a href='http://192.0.2.1/x'>x</a><p>")]),
        breaks: &["link-address"],
    },
    Case {
        change: Change::Bytes(|_| attached("application/octet-stream", "Setup.EXE", "AAAA")),
        breaks: &["attachment-type"],
    },
    Case {
        change: Change::Bytes(|_| attached("application/zip", "a.zip", "UEsDBBQAAQAIAAAA")),
        breaks: &["attachment-encrypted"],
    },
    Case {
        change: Change::Bytes(|_| attached("application/zip", "a.zip", "UEsDBBQAAAAIAAAA")),
        breaks: &[],
    },
    Case {
        change: Change::Bytes(|_| {
            let (head, rest) = GOOD.split_once("--b\r\n").expect("a part");
            let (_, html) = rest.split_once("--b\r\n").expect("a second part");
            let html = html.replacen(
                "<p>Hello",
                "<p>&#26666;&#24335;&#20250;&#31038;&#x98db;&#x811a; <a href=\"https://shop.example/about\">x</a>",
                1,
            );
            format!("{head}--b\r\n{html}").into_bytes()
        }),
        breaks: &["text-missing"],
    },
    Case {
        change: Change::Both(&[], |profile| {
            profile.law = crate::preflight::Law::default()
        }),
        breaks: &[],
    },
    Case {
        change: Change::Both(
            &[
                (
                    "5qCq5byP5Lya56S+6aOb6ISaCumFjeS/oeWBnOatojogaHR0cHM6Ly9zaG9wLmV4YW1wbGUvdT90PWFiYwrpgYvllrY6IGh0dHBzOi8v\r\nc2hvcC5leGFtcGxlL2Fib3V0Cg==",
                    "",
                ),
                ("text/html", "text/plain"),
                (
                    "<p>Hello</p> <a href=\"https://shop.example/u?t=abc\">unsubscribe</a>",
                    "",
                ),
            ],
            |profile| {
                profile.law = crate::preflight::Law::default();
                profile.bulk = false;
            },
        ),
        breaks: &["body-empty"],
    },
];

/// With a file.
fn attached(kind: &str, name: &str, base64: &str) -> Vec<u8> {
    let part = format!(
        "--b\r\nContent-Type: {kind}\r\nContent-Disposition: attachment; filename={name}\r\n\
         Content-Transfer-Encoding: base64\r\n\r\n{base64}\r\n--b--\r\n"
    );
    GOOD.replacen("--b--\r\n", &part, 1).into_bytes()
}
