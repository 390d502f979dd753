//! Signatures that are there already.

use super::{Case, Change};

pub(super) const CASES: &[Case] = &[
    Case {
        change: Change::Replace(&[(
            "To: ",
            "DKIM-Signature: v=1; a=rsa-sha256; d=b.test; s=s; h=From; t=1795250000; x=1795300000; bh=AAAA; b=AAAA\r\nTo: ",
        )]),
        breaks: &[],
    },
    Case {
        change: Change::Replace(&[("To: ", "DKIM-Signature: what is this\r\nTo: ")]),
        breaks: &["signature-form"],
    },
    Case {
        change: Change::Replace(&[(
            "To: ",
            "DKIM-Signature: v=1; a=rsa-sha256; d=b.test; s=s; h=To:Date; bh=AAAA; b=AAAA\r\nTo: ",
        )]),
        breaks: &["signature-from"],
    },
    Case {
        change: Change::Replace(&[(
            "To: ",
            "DKIM-Signature: v=1; a=rsa-sha256; d=b.test; s=s; l=10; h=From; bh=AAAA; b=AAAA\r\nTo: ",
        )]),
        breaks: &["signature-partial"],
    },
    Case {
        change: Change::Replace(&[(
            "To: ",
            "DKIM-Signature: v=1; a=rsa-sha1; d=b.test; s=s; h=From; bh=AAAA; b=AAAA\r\nTo: ",
        )]),
        breaks: &["signature-sha1"],
    },
    Case {
        change: Change::Replace(&[(
            "To: ",
            "DKIM-Signature: v=1; a=rsa-sha256; d=b.test; s=s; h=From; t=1795240000; x=1795250000; bh=AAAA; b=AAAA\r\nTo: ",
        )]),
        breaks: &["signature-expired"],
    },
];
