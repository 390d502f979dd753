//! Any file, however it is cut.

use proptest::prelude::*;

use super::*;

/// Pieces of files, so that random sequences of them reach deep.
fn piece() -> impl Strategy<Value = Vec<u8>> {
    let words: &[&[u8]] = &[
        b"\r\n",
        b"\n",
        b"\r",
        b"\0",
        b".",
        b"..",
        b"\r\n.\r\n",
        b"\n.\n",
        b"hello",
        b" ",
        b":",
        b"\xc3\xa9",
        b"\xff",
        b"x-sender: a@b\r\n",
        b"x-receiver: c@d\r\n",
        b"x-job: j\n",
        b"From: a\r\n",
        b"Subject: x\n",
        b"\r\n\r\n",
        b"MAIL FROM:<a@b>\r\n",
        b"RCPT TO:<c@d>\r\n",
        b"DATA\r\n",
        b"QUIT\r\n",
        b"RSET\r\n",
        b"MAIL FROM:<>\n",
        b"RCPT TO:<c@d>\n",
        b"DATA\n",
        b"From: a\n\n",
    ];
    prop_oneof![
        8 => prop::sample::select(words).prop_map(<[u8]>::to_vec),
        1 => prop::collection::vec(any::<u8>(), 0..8),
        1 => (990..1005usize).prop_map(|n| vec![b'y'; n]),
    ]
}

fn file() -> impl Strategy<Value = Vec<u8>> {
    let prefix: &[&[u8]] = &[
        b"",
        ENVELOPE,
        b"x-sender: s@out.test\nx-receiver: a@mx.test\nFrom: a\n\n",
        b"MAIL FROM:<s@o>\r\nRCPT TO:<a@m>\r\nDATA\r\nFrom: a\r\n\r\n",
        b"MAIL FROM:<s@o>\nRCPT TO:<a@m>\nDATA\nFrom: a\n\n",
    ];
    (
        prop::sample::select(prefix),
        prop::collection::vec(piece(), 0..12),
    )
        .prop_map(|(prefix, pieces)| [prefix.to_vec(), pieces.concat()].concat())
}

proptest! {
    /// Any octets end in messages that keep the promises or in one refusal, however they are cut.
    #[test]
    fn any_file_any_cut(file in file(), cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..6)) {
        for format in [Format::Eml, Format::Bsmtp] {
            let limits = Limits { message_bytes_max: 4000, ..Limits::default() };
            let whole = run(format, &limits, &[&file]);
            let mut at: Vec<usize> = cuts.iter().map(|cut| cut.index(file.len() + 1)).collect();
            at.extend([0, file.len()]);
            at.sort_unstable();
            let chunks: Vec<&[u8]> = at.windows(2).map(|pair| &file[pair[0]..pair[1]]).collect();
            prop_assert_eq!(&run(format, &limits, &chunks), &whole);
            match whole {
                Ok((messages, summary)) => check_promises(&messages, summary, file.len()),
                Err(refusal) => {
                    prop_assert!(refusal.offset <= file.len() as u64);
                    prop_assert!(!refusal.detail.contains(char::is_control));
                }
            }
        }
    }
}
