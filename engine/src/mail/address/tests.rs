//! Addresses that are taken, and the reason of each that is not.

use super::*;
use proptest::prelude::*;

fn parse(text: impl AsRef<[u8]>) -> Result<String, AddressError> {
    Address::parse(text).map(|address| address.as_str().to_owned())
}

#[test]
fn accepted() {
    let l64 = "a".repeat(64);
    let d = format!(
        "{}.{}.{}.test",
        "b".repeat(63),
        "c".repeat(63),
        "d".repeat(56)
    );
    let longest = format!("{l64}@{d}");
    assert_eq!(longest.len(), 254);
    let table: &[(&str, &str)] = &[
        ("a@b", "a@b"),
        ("user@example.com", "user@example.com"),
        ("User.Name+tag@EXAMPLE.Com", "User.Name+tag@example.com"),
        ("-oQ/tmp@example.com", "-oQ/tmp@example.com"),
        ("!#$%&'*+-/=?^_`{|}~@x.test", "!#$%&'*+-/=?^_`{|}~@x.test"),
        ("a@3com.com", "a@3com.com"),
        ("a@1.2.3.4.example", "a@1.2.3.4.example"),
        ("a@xn--r8jz45g.jp", "a@xn--r8jz45g.jp"),
        ("a@a--b.test", "a@a--b.test"),
        ("\"a..b\"@docomo.ne.jp", "\"a..b\"@docomo.ne.jp"),
        ("\"a@b\"@c.test", "\"a@b\"@c.test"),
        ("\"a\\\"b\\\\\"@C.test", "\"a\\\"b\\\\\"@c.test"),
        ("\"<>\"@c.test", "\"<>\"@c.test"),
        ("a@例え.jp", "a@xn--r8jz45g.jp"),
        ("a@例え。JP", "a@xn--r8jz45g.jp"),
        ("a@BÜCHER.de", "a@xn--bcher-kva.de"),
        ("a@faß.de", "a@xn--fa-hia.de"),
        ("用户@例え.jp", "用户@xn--r8jz45g.jp"),
        ("\"用户\"@x.jp", "\"用户\"@x.jp"),
        (&longest, &longest),
    ];
    for (text, expected) in table {
        assert_eq!(parse(text).as_deref(), Ok(*expected), "{text}");
    }
}

#[test]
fn refused() {
    use AddressError as E;
    let long_domain = |n: usize| format!("a@{}.test", vec!["b".repeat(49); n / 50].join("."));
    let table: Vec<(Vec<u8>, AddressError)> = vec![
        (b"".into(), E::Empty),
        (b"<>".into(), E::Brackets),
        (b"<a@b>".into(), E::Brackets),
        (b"Name<a@b>".into(), E::Brackets),
        (b"a".into(), E::NoDomain),
        (b"a@".into(), E::NoDomain),
        (b"@b".into(), E::LocalEmpty),
        (b"\"\"@b".into(), E::LocalEmpty),
        (b"@a,@b:c@d".into(), E::SourceRoute),
        (b"@a:c@d".into(), E::SourceRoute),
        (b"a@b@c".into(), E::SeveralAts),
        (b"a@b@c.example.com".into(), E::SeveralAts),
        (b".a@b".into(), E::LocalDots),
        (b"a.@docomo.ne.jp".into(), E::LocalDots),
        (b"a..b@docomo.ne.jp".into(), E::LocalDots),
        ("é..b@c.test".into(), E::LocalDots),
        (b"a b@c".into(), E::WhiteSpace(0x20)),
        (b" a@c".into(), E::WhiteSpace(0x20)),
        (b"a@c ".into(), E::WhiteSpace(0x20)),
        (b"\"a b\"@c".into(), E::WhiteSpace(0x20)),
        ("a\u{3000}@c".into(), E::WhiteSpace(0x3000)),
        ("a@c\u{a0}".into(), E::WhiteSpace(0xa0)),
        (b"a\t@c".into(), E::Control(9)),
        (b"a@c\r\nRCPT TO:<x@y>".into(), E::Control(13)),
        (b"a\r@c".into(), E::Control(13)),
        (b"a\n@c".into(), E::Control(10)),
        (b"a@c\0".into(), E::Control(0)),
        (b"a@c\x7f".into(), E::Control(0x7f)),
        ("a\u{85}@c".into(), E::Control(0x85)),
        ("a\u{202e}b@c".into(), E::Control(0x202e)),
        ("\u{feff}a@c".into(), E::Control(0xfeff)),
        (b"a\xff@c".into(), E::NotUtf8),
        (b"a(x)@c".into(), E::LocalCharacter('(')),
        (b"a,b@c".into(), E::LocalCharacter(',')),
        (b"a\"b@c".into(), E::LocalCharacter('"')),
        (b"\"a@b".into(), E::LocalQuoting),
        (b"\"a\\".into(), E::LocalQuoting),
        (b"\"a\"b@c".into(), E::NoDomain),
        (format!("{}@b", "a".repeat(65)).into(), E::LocalTooLong),
        (vec![b'a'; 65536], E::TooLong),
        (format!("{}@b", "a".repeat(500)).into(), E::LocalTooLong),
        (long_domain(300).into(), E::DomainTooLong),
        (long_domain(250).into(), E::TooLong),
        (format!("a@{}.test", "b".repeat(64)).into(), E::DomainLabel),
        (b"a@b.".into(), E::DomainLabel),
        (b"a@.b".into(), E::DomainLabel),
        (b"a@b..c".into(), E::DomainLabel),
        (b"a@-b.c".into(), E::DomainHyphen),
        (b"a@b-.c".into(), E::DomainHyphen),
        (b"a@b.c-".into(), E::DomainHyphen),
        (b"a@b_c.test".into(), E::DomainCharacter('_')),
        (b"a@b/c".into(), E::DomainCharacter('/')),
        (b"a@b>c".into(), E::DomainCharacter('>')),
        (b"a@192.0.2.1".into(), E::DomainNumeric),
        (b"a@[192.0.2.1]".into(), E::LiteralRefused),
        ("a@\u{ff10}\u{ff20}b.jp".into(), E::DomainIdna),
        ("a@é_b.jp".into(), E::DomainIdna),
        (format!("a@{}.jp", "é".repeat(70)).into(), E::DomainIdna),
    ];
    for (text, expected) in table {
        assert_eq!(
            parse(&text),
            Err(expected),
            "{}",
            String::from_utf8_lossy(&text)
        );
    }
}

#[test]
fn literals_when_allowed() {
    let parse =
        |text: &str| Address::parse_with(text, IpLiterals::Allowed).map(|a| a.domain().to_owned());
    assert_eq!(parse("a@[192.0.2.1]").as_deref(), Ok("[192.0.2.1]"));
    assert_eq!(
        parse("a@[ipv6:2001:DB8::1]").as_deref(),
        Ok("[IPv6:2001:db8::1]")
    );
    for bad in [
        "a@[192.0.2.256]",
        "a@[192.0.2.1",
        "a@[]",
        "a@[IPv6:]",
        "a@[2001:db8::1]",
        "a@[x:y]",
        "a@[é:x]",
    ] {
        assert_eq!(parse(bad), Err(AddressError::LiteralInvalid), "{bad}");
    }
}

#[test]
fn parts() {
    let address = Address::parse("\"a@b\"@C.test").unwrap();
    assert_eq!(
        (address.local_part(), address.domain()),
        ("\"a@b\"", "c.test")
    );
    assert!(!address.needs_smtputf8());
    assert!(Address::parse("é@c.test").unwrap().needs_smtputf8());
    assert!(!Address::parse("a@é.test").unwrap().needs_smtputf8());
}

proptest! {
    #[test]
    fn holds_its_promise(text in prop_oneof![
        "\\PC{0,40}@\\PC{0,40}",
        "[a-zA-Z0-9.\"\\\\@<> \r\n\0_é\u{3000}-]{0,20}@[a-zA-Z0-9.é_\r\n\\[\\]-]{0,20}",
        ".{0,300}",
    ]) {
        for literals in [IpLiterals::Refused, IpLiterals::Allowed] {
            let Ok(address) = Address::parse_with(&text, literals) else { continue };
            prop_assert!(!address.as_str().contains(|c: char| c.is_control() || c.is_whitespace()));
            prop_assert!(address.as_str().len() <= ADDRESS_MAX);
            prop_assert!(address.local_part().len() <= LOCAL_PART_MAX);
            prop_assert!(address.domain().is_ascii());
            prop_assert_eq!(Address::parse_with(address.as_str(), literals), Ok(address.clone()));
            prop_assert_eq!(
                format!("{}@{}", address.local_part(), address.domain()), address.as_str());
        }
    }

    #[test]
    fn any_bytes(text in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = Address::parse(&text);
    }
}
