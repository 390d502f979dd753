//! From, Sender, Reply-To, To.

use super::{Case, Change};

const FROM: &str = "From: =?utf-8?b?6aOb6ISa44OL44Ol44O844K5?= <news@shop.example>\r\n";
const TO: &str = "To: taro@example.ne.jp\r\n";

pub(super) const CASES: &[Case] = &[
    Case {
        change: Change::Replace(&[(FROM, "")]),
        breaks: &["from-count"],
    },
    Case {
        change: Change::Replace(&[(
            FROM,
            "From: N <a@shop.example>\r\nFrom: N <a@shop.example>\r\n",
        )]),
        breaks: &["from-count"],
    },
    Case {
        change: Change::Replace(&[(
            "<news@shop.example>",
            "<news@shop.example>, N <b@shop.example>",
        )]),
        breaks: &["from-count"],
    },
    Case {
        change: Change::Replace(&[(FROM, "From:\r\n")]),
        breaks: &["from-count"],
    },
    Case {
        change: Change::Replace(&[("<news@shop.example>", "<news@localhost>")]),
        breaks: &["from-address"],
    },
    Case {
        change: Change::Replace(&[("<news@shop.example>", "<news shop.example>")]),
        breaks: &["from-address"],
    },
    // Old carrier addresses.
    Case {
        change: Change::Replace(&[("<news@shop.example>", "<a..b.@shop.example>")]),
        breaks: &[],
    },
    Case {
        change: Change::Replace(&[("<news@shop.example>", "<news@gmail.com>")]),
        breaks: &["from-freemail"],
    },
    Case {
        change: Change::Replace(&[("<news@shop.example>", "<news@yahoo.co.jp>")]),
        breaks: &["from-freemail"],
    },
    Case {
        change: Change::Replace(&[(FROM, "From: news@shop.example\r\n")]),
        breaks: &["from-name"],
    },
    Case {
        change: Change::Replace(&[(FROM, "From: \"help@bank.example\" <news@shop.example>\r\n")]),
        breaks: &["from-name-address"],
    },
    Case {
        change: Change::Replace(&[(
            TO,
            "To: taro@example.ne.jp\r\nSender: a@b.test, c@d.test\r\n",
        )]),
        breaks: &["sender-syntax"],
    },
    Case {
        change: Change::Replace(&[(TO, "To: taro@example.ne.jp\r\nReply-To: nobody\r\n")]),
        breaks: &["sender-syntax"],
    },
    Case {
        change: Change::Replace(&[(
            TO,
            "To: taro@example.ne.jp\r\nReply-To: A <a@b.test>, c@d.test\r\n",
        )]),
        breaks: &[],
    },
    Case {
        change: Change::Replace(&[(TO, "")]),
        breaks: &["to-missing"],
    },
    Case {
        change: Change::Replace(&[(TO, "Cc: taro@example.ne.jp\r\n")]),
        breaks: &[],
    },
    Case {
        change: Change::Replace(&[(TO, "To: taro\r\n")]),
        breaks: &["to-address"],
    },
    Case {
        change: Change::Replace(&[(TO, "To: <=?utf-8?q?taro?=@example.ne.jp>\r\n")]),
        breaks: &["encoded-address"],
    },
    Case {
        change: Change::Profile(|profile| profile.reverse_path = Some(String::new())),
        breaks: &["reverse-path-null"],
    },
    Case {
        change: Change::Profile(|profile| profile.reverse_path = None),
        breaks: &[],
    },
];
