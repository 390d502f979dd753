//! The built-in profiles say what the table says, all of them, with their sources.

use std::path::Path;

use super::*;
use crate::limits::TlsPolicy;
use crate::profile::{DEFAULT, Profile, Profiles};

/// What `profiles/*.toml` must say, from the table that their values were taken from:
/// (profile, connections, messages per connection, recipients, TLS required, an MX host of it).
const TABLE: &[(&str, u32, u32, u32, bool, &str)] = &[
    ("google", 5, 50, 50, true, "aspmx.l.google.com"),
    ("yahoo", 5, 20, 1, false, "mta7.am0.yahoodns.net"),
    (
        "outlook",
        5,
        50,
        10,
        false,
        "hotmail-com.olc.protection.outlook.com",
    ),
    (
        "office365",
        5,
        50,
        100,
        false,
        "example-com.mail.protection.outlook.com",
    ),
    ("apple", 10, 5, 1, false, "mx01.mail.icloud.com"),
    ("comcast", 25, 1000, 100, true, "mx1.comcast.net"),
    ("gmx-webde", 4, 20, 10, true, "mx-ha02.web.de"),
    ("orange", 2, 100, 10, true, "smtp-in.orange.fr"),
    ("laposte", 2, 50, 10, false, "smtpz4.laposte.net"),
    ("free", 2, 50, 10, false, "mx1.free.fr"),
    ("sfr", 2, 50, 10, false, "mx.sfr.fr"),
    (
        "mimecast",
        10,
        100,
        50,
        false,
        "eu-smtp-inbound-1.mimecast.com",
    ),
    ("proofpoint", 5, 50, 50, false, "mxa-001.pphosted.com"),
    (
        "proofpoint-essentials",
        5,
        50,
        10,
        false,
        "mx1-us1.ppe-hosted.com",
    ),
    (
        "barracuda",
        10,
        15,
        10,
        true,
        "d1.ess.barracudanetworks.com",
    ),
    ("cisco", 5, 50, 50, false, "mx1.hc1.iphmx.com"),
    (
        "messagelabs",
        5,
        50,
        10,
        false,
        "cluster5.eu.messagelabs.com",
    ),
    ("trendmicro", 5, 50, 10, false, "in.tmes.trendmicro.eu"),
    ("qq", 4, 8, 1, true, "mx1.qq.com"),
    ("netease", 4, 7, 1, true, "163mx01.mxmail.netease.com"),
    ("kpn", 10, 10, 10, true, "mx.kpnmail.nl"),
    ("netvigator", 5, 10, 10, true, "mx.netvigator.com"),
    ("cox", 5, 100, 10, false, "cxr.mx.a.cox.net"),
    (
        "spectrum",
        3,
        50,
        10,
        false,
        "pkvw-mx.msg.pkvw.co.charter.net",
    ),
    ("docomo", 2, 10, 1, false, "mfsmax.docomo.ne.jp"),
    ("au", 2, 10, 1, false, "msmx.au.com"),
    ("softbank", 2, 10, 1, false, "mx.softbank.ne.jp"),
    ("yahoo-jp", 2, 20, 1, false, "mx1.mail.yahoo.co.jp"),
    ("nifty", 2, 20, 10, false, "mx.nifty.com"),
    ("biglobe", 2, 20, 10, false, "mx.biglobe.ne.jp"),
    ("ocn", 2, 20, 10, false, "mx.ocn.ad.jp"),
    ("so-net", 2, 20, 10, false, "mx.so-net.ne.jp"),
    ("rakuten", 2, 20, 10, false, "mx.rakuten.co.jp"),
];

#[test]
fn the_built_in_profiles_say_what_the_table_says() {
    let profiles = Profiles::builtin();
    for &(name, connections, messages, recipients, required, host) in TABLE {
        let profile = profiles.for_site(name);
        let limits = profile.limits();
        assert_eq!(profile.name(), name);
        assert_eq!(
            (
                limits.connections_max,
                limits.messages_per_connection_max,
                limits.recipients_per_transaction_max
            ),
            (connections, messages, recipients),
            "{name}"
        );
        assert_eq!(limits.tls == TlsPolicy::Required, required, "{name}");
        assert_eq!(
            profiles.by_mx(host).map(Profile::name),
            Some(name),
            "{host}"
        );
        let first = profiles
            .mx_rules()
            .into_iter()
            .find(|(suffix, _)| host.ends_with(suffix.as_str()));
        assert_eq!(first.map(|(_, name)| name).as_deref(), Some(name), "{host}");
    }
    assert_eq!(
        profiles.iter().count(),
        TABLE.len() + 1,
        "a profile is missing from the table"
    );
    assert_eq!(FILES.len(), TABLE.len() + 1);
}

#[test]
fn every_file_of_the_folder_is_built_in() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("profiles");
    let mut names: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| {
            entry
                .unwrap()
                .path()
                .file_stem()
                .unwrap()
                .to_str()
                .unwrap()
                .to_owned()
        })
        .collect();
    let mut built_in: Vec<_> = FILES.iter().map(|(name, _)| (*name).to_owned()).collect();
    names.sort();
    built_in.sort();
    assert_eq!(names, built_in);
}

#[test]
fn every_value_names_its_source() {
    for (name, text) in FILES.iter().filter(|(name, _)| *name != DEFAULT) {
        let values = text.lines().filter(|line| {
            line.contains(" = ") && !line.starts_with('#') && !line.starts_with("match")
        });
        for line in values.filter(|line| *line != "tls = \"may\"") {
            let comment = line
                .split_once('#')
                .map_or("", |(_, comment)| comment.trim());
            assert!(
                comment.starts_with(['P', 'K', 'F', 'U', 'O']),
                "{name}: `{line}` does not say where it comes from"
            );
        }
    }
}
