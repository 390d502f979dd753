//! 特定電子メール法, in whatever charset the body is.

use super::{Case, Change, GOOD};

/// The text part in ISO-2022-JP: 株式会社飛脚, 配信停止: and the links.
const OLD: &[u8] = b"\x1b$B3t<02q<RHt5S\x1b(B\r\n\x1b$BG[?.Dd;_\x1b(B: https://shop.example/u?t=abc\r\nhttps://shop.example/about\r\n";

pub(super) const CASES: &[Case] = &[
    Case {
        change: Change::Profile(|profile| profile.law.sender_name = Some("別会社".into())),
        breaks: &["law-sender-name"],
    },
    // Broken over lines, letters in another case.
    Case {
        change: Change::Both(&[("Hello", "Shop\r\nINC")], |profile| {
            profile.law.sender_name = Some("shop Inc".into());
        }),
        breaks: &[],
    },
    Case {
        change: Change::Profile(|profile| {
            profile.law.opt_out = vec!["https://other.example/".into()]
        }),
        breaks: &["law-opt-out"],
    },
    Case {
        change: Change::Profile(|profile| {
            profile.law.opt_out = vec![
                "https://other.example/".into(),
                "https://shop.example/u?t=abc".into(),
            ];
        }),
        breaks: &[],
    },
    Case {
        change: Change::Profile(|profile| {
            profile.law.contact = Some("https://shop.example/contact".into())
        }),
        breaks: &["law-contact"],
    },
    Case {
        change: Change::Bytes(|_| old_japanese(OLD)),
        breaks: &[],
    },
    Case {
        // Another name: 会社飛脚.
        change: Change::Bytes(|_| {
            old_japanese(b"\x1b$B2q<RHt5S\x1b(B\r\n\x1b$BG[?.Dd;_\x1b(B: https://shop.example/u?t=abc\r\nhttps://shop.example/about\r\n")
        }),
        breaks: &["law-sender-name"],
    },
    Case {
        change: Change::Bytes(|_| {
            let message = old_japanese(b"\x1b$B3t<02q<RHt5S\x1b(B\r\nhttps://shop.example/u?t=abc\r\nhttps://shop.example/about\r\n");
            let text = String::from_utf8(message).expect("ASCII");
            text.replacen(">unsubscribe<", ">link<", 1).into_bytes()
        }),
        breaks: &["law-opt-out-notice"],
    },
];

/// The good message with this for its text part.
fn old_japanese(text: &[u8]) -> Vec<u8> {
    let (head, rest) = GOOD.split_once("--b\r\n").expect("a part");
    let (_, html) = rest.split_once("--b\r\n").expect("a second part");
    let mut message =
        format!("{head}--b\r\nContent-Type: text/plain; charset=ISO-2022-JP\r\n\r\n").into_bytes();
    message.extend_from_slice(text);
    message.extend_from_slice(b"--b\r\n");
    message.extend_from_slice(html.as_bytes());
    message
}
