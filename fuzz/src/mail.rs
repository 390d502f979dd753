//! Addresses at the door, envelopes in the spool.

use hikyaku::dns::wire::normal_name;
use hikyaku::limits::{ADDRESS_MAX, LOCAL_PART_MAX};
use hikyaku::mail::address::{Address, IpLiterals};
use hikyaku::mail::envelope::{Envelope, EnvelopeView, encode_ahead};

/// What passes is fit to stand between `<>`, parses again as itself, and has a domain that DNS can be
/// asked for.
pub fn address(data: &[u8]) {
    let refused = Address::parse(data);
    let allowed = Address::parse_with(data, IpLiterals::Allowed);
    if let Ok(address) = &refused {
        assert_eq!(
            allowed.as_ref(),
            Ok(address),
            "allowing more changes nothing"
        );
        assert_eq!(
            normal_name(address.domain()).as_deref(),
            Ok(address.domain())
        );
    }
    let Ok(address) = allowed else { return };
    let text = address.as_str();
    assert!(!text.contains(|c: char| c.is_control() || c.is_whitespace()));
    assert!(text.len() <= ADDRESS_MAX && address.local_part().len() <= LOCAL_PART_MAX);
    assert!(address.domain().is_ascii());
    assert!(
        !address
            .domain()
            .bytes()
            .any(|byte| byte == b'@' || byte == b'>')
    );
    assert_eq!(
        format!("{}@{}", address.local_part(), address.domain()),
        text
    );
    // A `>` can only stand in quotes, where `split_path` of BSMTP knows it.
    assert!(address.local_part().starts_with('"') || !text.contains(['<', '>', '"', '\\']));
    assert_eq!(
        Address::parse_with(text, IpLiterals::Allowed).as_ref(),
        Ok(&address)
    );
    assert_eq!(address.needs_smtputf8(), !address.local_part().is_ascii());
}

/// Any bytes are an envelope or none; one that can be read can be written and read again.
pub fn envelope(data: &[u8]) {
    let Some(view) = EnvelopeView::parse(data) else {
        return;
    };
    assert!(view.recipients() as usize <= data.len() / 4);
    assert_eq!(view.recipient(view.recipients()), None);
    assert_eq!(view.recipient(u32::MAX), None);
    // A damaged table may lay recipients over each other; the text of all is then more than the bytes.
    let count = view.recipients().min(4096);
    let recipients: Vec<Option<&str>> = (0..count).map(|index| view.recipient(index)).collect();
    if count < view.recipients() {
        return;
    }
    let Some(recipients) = recipients.into_iter().collect::<Option<Vec<_>>>() else {
        return;
    };
    if recipients.iter().map(|text| text.len()).sum::<usize>() > data.len() {
        return;
    }
    let longest = recipients.iter().map(|text| text.len()).max().unwrap_or(0);
    if longest >= usize::from(u16::MAX) {
        return;
    }
    let envelope = Envelope {
        kind: view.kind,
        reverse_path: view.reverse_path.into(),
        recipients: recipients.iter().map(|text| (*text).into()).collect(),
        needs: view.needs,
        job: view.job.map(Into::into),
        envid: view.envid.map(Into::into),
        source: view.source.map(Into::into),
        on_doubt: view.on_doubt,
    };
    let mut bytes = Vec::new();
    encode_ahead(&envelope, view.received, view.ahead, &mut bytes);
    let again = EnvelopeView::parse(&bytes).expect("what was encoded is read");
    assert_eq!(
        (
            again.needs,
            again.received,
            again.reverse_path,
            again.job,
            again.envid,
            again.source
        ),
        (
            view.needs,
            view.received,
            view.reverse_path,
            view.job,
            view.envid,
            view.source
        )
    );
    assert_eq!(again.recipients(), view.recipients());
    for (index, recipient) in (0..).zip(recipients) {
        assert_eq!(again.recipient(index), Some(recipient));
    }
}
