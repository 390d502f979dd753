//! Date, Message-ID, Subject, and the header as a whole.

use super::{Case, Change, GOOD};

const DATE: &str = "Date: Sat, 21 Nov 2026 20:00:00 +0900\r\n";
const ID: &str = "Message-ID: <1.2026@shop.example>\r\n";
const SUBJECT: &str = "Subject: =?utf-8?b?5LuK6YCx44Gu44GK55+l44KJ44Gb?=\r\n";
const MIME: &str = "MIME-Version: 1.0\r\n";

pub(super) const CASES: &[Case] = &[
    Case {
        change: Change::Replace(&[(DATE, "")]),
        breaks: &["date-missing"],
    },
    Case {
        change: Change::Replace(&[("+0900", "JST")]),
        breaks: &["date-form"],
    },
    Case {
        change: Change::Replace(&[(DATE, "Date: 2026-11-21T20:00:00+09:00\r\n")]),
        breaks: &["date-form"],
    },
    Case {
        change: Change::Replace(&[(DATE, "Date: 21 Nov 2026 11:00 +0000 (UTC)\r\n")]),
        breaks: &[],
    },
    Case {
        change: Change::Replace(&[("20:00:00", "20:20:00")]),
        breaks: &["date-time"],
    },
    Case {
        change: Change::Replace(&[("20:00:00", "20:05:00")]),
        breaks: &[],
    },
    Case {
        change: Change::Replace(&[("21 Nov", "19 Nov")]),
        breaks: &["date-time"],
    },
    Case {
        change: Change::Replace(&[(ID, "")]),
        breaks: &["message-id-missing"],
    },
    Case {
        change: Change::Replace(&[(ID, "Message-ID: \r\n")]),
        breaks: &["message-id-missing"],
    },
    Case {
        change: Change::Replace(&[(ID, "Message-ID: 1.2026\r\n")]),
        breaks: &["message-id-form"],
    },
    Case {
        change: Change::Replace(&[(SUBJECT, "Subject: a\r\nSubject: b\r\n")]),
        breaks: &["duplicate-field"],
    },
    Case {
        change: Change::Replace(&[(MIME, "MIME-Version: 1.0\r\nmime-version: 1.0\r\n")]),
        breaks: &["duplicate-field"],
    },
    Case {
        change: Change::Replace(&[(MIME, "MIME-Version: 1.0\r\nno field\r\n")]),
        breaks: &["header-line"],
    },
    Case {
        change: Change::Replace(&[("From: =", " folded\r\nFrom: =")]),
        breaks: &["header-line"],
    },
    Case {
        change: Change::Replace(&[(SUBJECT, "Subject: 今週\r\n")]),
        breaks: &["header-8bit"],
    },
    Case {
        change: Change::Replace(&[(
            SUBJECT,
            "Subject: =?utf-8?q?aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa?=\r\n",
        )]),
        breaks: &["encoded-word-length"],
    },
    Case {
        change: Change::Bytes(|_| {
            let fields: String = (0..200)
                .map(|number| format!("X-{number}: {}\r\n", "x".repeat(60)))
                .collect();
            format!("{fields}{GOOD}").into_bytes()
        }),
        breaks: &["header-size"],
    },
    Case {
        change: Change::Replace(&[(MIME, "")]),
        breaks: &["mime-version"],
    },
    Case {
        change: Change::Replace(&[(SUBJECT, "")]),
        breaks: &["subject-missing"],
    },
    Case {
        change: Change::Replace(&[(SUBJECT, "Subject: RE: your order\r\n")]),
        breaks: &["subject-fake"],
    },
    Case {
        change: Change::Replace(&[(
            SUBJECT,
            "Subject: Re: your order\r\nIn-Reply-To: <a@b.test>\r\n",
        )]),
        breaks: &[],
    },
    Case {
        change: Change::Replace(&[(MIME, "MIME-Version: 1.0\r\nBcc: a@b.test\r\n")]),
        breaks: &["bcc"],
    },
    Case {
        change: Change::Replace(&[(MIME, "MIME-Version: 1.0\r\nReturn-Path: <a@b.test>\r\n")]),
        breaks: &["return-path"],
    },
    Case {
        change: Change::Replace(&[(MIME, "MIME-Version: 1.0\r\nPrecedence: bulk\r\n")]),
        breaks: &["precedence"],
    },
    Case {
        change: Change::Replace(&[(
            MIME,
            "MIME-Version: 1.0\r\nAuto-Submitted: auto-generated\r\n",
        )]),
        breaks: &["auto-submitted"],
    },
];
