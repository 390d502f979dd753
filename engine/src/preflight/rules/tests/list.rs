//! Unsubscribing.

use super::{Case, Change};

const LIST: &str =
    "List-Unsubscribe: <https://shop.example/u?t=abc>, <mailto:stop@shop.example?subject=abc>\r\n";
const POST: &str = "List-Unsubscribe-Post: List-Unsubscribe=One-Click\r\n";
const SIGNED: &str = "DKIM-Signature: v=1; a=rsa-sha256; d=shop.example; s=s; h=From:List-Unsubscribe; bh=AAAA; b=AAAA\r\nTo: ";

pub(super) const CASES: &[Case] = &[
    Case {
        change: Change::Replace(&[(LIST, "")]),
        breaks: &["list-unsubscribe-missing"],
    },
    Case {
        change: Change::Replace(&[(LIST, "List-Unsubscribe:\r\n")]),
        breaks: &["list-unsubscribe-missing"],
    },
    Case {
        change: Change::Replace(&[("<https://shop.example/u?t=abc>, ", "")]),
        breaks: &["list-unsubscribe-https"],
    },
    Case {
        change: Change::Replace(&[("<https://shop", "<http://shop")]),
        breaks: &["list-unsubscribe-https"],
    },
    Case {
        change: Change::Replace(&[(
            "<mailto:stop@shop.example?subject=abc>",
            "<https://b.test/>",
        )]),
        breaks: &["list-unsubscribe-https"],
    },
    Case {
        change: Change::Replace(&[("t=abc>, <", "t=abc> or <")]),
        breaks: &["list-unsubscribe-form"],
    },
    Case {
        change: Change::Replace(&[(
            POST,
            "List-Unsubscribe-Post: List-Unsubscribe=One-Click\r\nList-Unsubscribe-Post: List-Unsubscribe=One-Click\r\n",
        )]),
        breaks: &["list-unsubscribe-count"],
    },
    Case {
        change: Change::Replace(&[(POST, "")]),
        breaks: &["list-unsubscribe-post"],
    },
    Case {
        change: Change::Replace(&[("=One-Click", "=one-click")]),
        breaks: &["list-unsubscribe-post"],
    },
    Case {
        change: Change::Both(&[("To: ", SIGNED)], |profile| profile.will_sign = false),
        breaks: &["list-unsubscribe-signed"],
    },
    // Our own signature covers the rest.
    Case {
        change: Change::Replace(&[("To: ", SIGNED)]),
        breaks: &[],
    },
    Case {
        change: Change::Both(
            &[
                ("To: ", SIGNED),
                ("h=From:", "h=From:List-Unsubscribe-Post:"),
            ],
            |profile| profile.will_sign = false,
        ),
        breaks: &[],
    },
    Case {
        change: Change::Both(
            &[
                (
                    "5qCq5byP5Lya56S+6aOb6ISaCumFjeS/oeWBnOatojogaHR0cHM6Ly9zaG9wLmV4YW1wbGUvdT90PWFiYwrpgYvllrY6IGh0dHBzOi8v\r\nc2hvcC5leGFtcGxlL2Fib3V0Cg==",
                    "SGVsbG8=",
                ),
                (
                    "<a href=\"https://shop.example/u?t=abc\">unsubscribe</a>",
                    "<a href=\"https://shop.example/\">shop</a>",
                ),
            ],
            |profile| {
                profile.law = crate::preflight::Law {
                    sender_name: None,
                    opt_out: Vec::new(),
                    contact: None,
                }
            },
        ),
        breaks: &["opt-out-visible"],
    },
    Case {
        change: Change::Replace(&[("List-Id: News <news.shop.example>\r\n", "")]),
        breaks: &["list-id"],
    },
    Case {
        change: Change::Replace(&[("List-Id: News <news.shop.example>", "List-Id: news")]),
        breaks: &["list-id"],
    },
    Case {
        change: Change::Replace(&[("Feedback-ID: week47:shop:news:hikyaku\r\n", "")]),
        breaks: &["feedback-id"],
    },
    Case {
        change: Change::Replace(&[("news:hikyaku", "news:a-name-that-is-too-long")]),
        breaks: &["feedback-id"],
    },
    Case {
        change: Change::Both(
            &[
                (
                    "5qCq5byP5Lya56S+6aOb6ISaCumFjeS/oeWBnOatojogaHR0cHM6Ly9zaG9wLmV4YW1wbGUvdT90PWFiYwrpgYvllrY6IGh0dHBzOi8v\r\nc2hvcC5leGFtcGxlL2Fib3V0Cg==",
                    "SGVsbG8=",
                ),
                (
                    "https://shop.example/u?t=abc\">",
                    "mailto:stop@shop.example\">",
                ),
            ],
            |profile| {
                profile.law = crate::preflight::Law {
                    sender_name: None,
                    opt_out: Vec::new(),
                    contact: None,
                }
            },
        ),
        breaks: &["opt-out-mailto-only"],
    },
    // Transactional mail needs none of it.
    Case {
        change: Change::Both(
            &[
                (LIST, ""),
                (POST, ""),
                ("List-Id: News <news.shop.example>\r\n", ""),
                ("Feedback-ID: week47:shop:news:hikyaku\r\n", ""),
            ],
            |profile| profile.bulk = false,
        ),
        breaks: &[],
    },
];
