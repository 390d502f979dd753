//! What the file says, and the defaults where it says nothing.

use std::net::IpAddr;

use super::*;

#[test]
fn nothing_given_is_a_run() {
    let settings = flags(&RunArgs::default());
    assert_eq!(settings.engine.shards, 3);
    assert_eq!(settings.engine.spool, Path::new("spool"));
    assert_eq!(
        (
            settings.engine.port,
            settings.engine.pin,
            settings.engine.sync
        ),
        (25, true, true)
    );
    assert_eq!(settings.engine.message_size_max, 32 << 20);
    assert_eq!(settings.retry.first, Duration::from_secs(300));
    assert_eq!(settings.delivery.on_doubt, OnDoubt::Retry);
    assert_eq!(settings.delivery.crashes_max, 2);
    assert_eq!(
        settings.tls,
        Tls {
            mode: TlsPolicy::Opportunistic,
            ca_file: None
        }
    );
    assert_eq!(settings.sources.len(), 1);
    assert!(settings.sources[0].is_unspecified());
    assert_eq!(
        settings.sources[0].ehlo,
        Ehlo::Name("mx1.example.com".into())
    );
    assert_eq!(*settings.origin("engine.spool"), Origin::Default);
    let one_core = Settings::resolve(
        None,
        &RunArgs::default(),
        &Host {
            cores: 1,
            name: None,
        },
    )
    .expect("defaults");
    assert_eq!(one_core.engine.shards, 1);
    assert_eq!(one_core.sources[0].ehlo, Ehlo::AddressLiteral);
}

#[test]
fn every_key_is_read() {
    let settings = file(FULL);
    let engine = &settings.engine;
    assert_eq!(engine.drop, Path::new("/etc/drop"), "relative to the file");
    assert_eq!(engine.profiles.as_deref(), Some(Path::new("/etc/profiles")));
    assert_eq!(
        (engine.shards, engine.ingest_core, engine.pin, engine.port),
        (2, 1, false, 2525)
    );
    assert_eq!(
        (engine.connections_max, engine.message_size_max),
        (1000, 10_000_000)
    );
    assert!(engine.allow_private_targets && engine.development);
    assert_eq!(settings.retry.max, Duration::from_secs(5400));
    assert_eq!(
        settings.tls,
        Tls {
            mode: TlsPolicy::Required,
            ca_file: Some("/etc/ca.pem".into())
        }
    );
    let resolvers: Vec<_> = settings.resolvers.iter().map(ToString::to_string).collect();
    assert_eq!(resolvers, ["127.0.0.1:53", "[::1]:5353", "192.0.2.1:54"]);
    assert_eq!(
        settings.signature_lifetime,
        Some(Duration::from_secs(864_000))
    );
    let library = Some("/etc/lib/libcrypto_mb.so".into());
    assert_eq!(settings.batching, Batching::Auto { library });
    assert_eq!(settings.deadlines.quit, Some(Duration::from_millis(500)));
    assert_eq!(settings.deadlines.greeting, None);
    let routes: Vec<_> = settings
        .routes
        .iter()
        .map(|route| (route.pattern.to_string(), route.target.to_string()))
        .collect();
    assert_eq!(routes[0].1, "relay.corp.example:25");
    assert_eq!(routes[1].0, "xn--bcher-kva.example");
    assert!(routes[1].1.starts_with("[2001:db8::1]:"), "{routes:?}");
    assert_eq!(settings.sources[0].name, "bulk-7");
    assert_eq!(settings.sources[1].ehlo, Ehlo::AddressLiteral);
    assert_eq!(settings.sources[1].name, "2001:db8::7");
    assert_eq!(settings.limits[1].text, "google=connections=20");
    assert_eq!(settings.dkim[0].domain, "example.com");
    assert_eq!(settings.dkim[0].key, Path::new("/etc/keys/2026a.pem"));
    assert!(settings.dkim[0].subdomains && !settings.dkim[1].subdomains);
    assert_eq!(
        settings.origin("retry.first").to_string(),
        "/etc/h.toml:19:9: retry.first"
    );
}

#[test]
fn limits_may_be_tables() {
    let settings = file(
        "[[limit]]\npattern = 'docomo.ne.jp'\nrate = '10/s'\nconnections_start = 2\nhours = ['08:00-12:00', '13:00-21:00']\ntime_zone = 'Asia/Tokyo'\n",
    );
    assert_eq!(
        settings.limits[0].text,
        "docomo.ne.jp=rate=10/s,connections-start=2,hours=08:00-12:00 13:00-21:00,time-zone=Asia/Tokyo"
    );
    assert_eq!(
        settings.limits[0].origin.to_string(),
        "/etc/h.toml:2:11: limit.pattern"
    );
}

#[test]
fn the_drop_section() {
    let file = "[drop]\ngroup = \"shop\"\nuids = [\"1000\", \"web\"]\nquarantine_files = 5\nquarantine_size = \"2GiB\"\ntmp_remove = \"7d\"\n";
    let settings = with(file, &RunArgs::default()).expect("settings");
    let drop = &settings.drop;
    assert_eq!(drop.group.as_deref(), Some("shop"));
    assert_eq!(drop.uids, ["1000", "web"]);
    assert_eq!((drop.quarantine_files, drop.quarantine_size), (5, 2 << 30));
    assert_eq!(drop.tmp_remove, Some(Duration::from_secs(7 * 86_400)));
    let again = with(&settings.to_toml_redacted(), &RunArgs::default())
        .expect("what is printed can be read");
    assert_eq!(&again.drop, drop);
}

#[test]
fn ehlo_names() {
    let v4: IpAddr = [192, 0, 2, 7].into();
    let v6: IpAddr = "2001:db8::7".parse().expect("address");
    assert_eq!(Ehlo::AddressLiteral.argument(v4), "[192.0.2.7]");
    assert_eq!(Ehlo::AddressLiteral.argument(v6), "[IPv6:2001:db8::7]");
    assert_eq!(
        Ehlo::AddressLiteral.argument("::ffff:192.0.2.7".parse().expect("address")),
        "[192.0.2.7]"
    );
    let unknown = IpAddr::from([0, 0, 0, 0]);
    assert_eq!(Ehlo::AddressLiteral.argument(unknown), "[127.0.0.1]");
    assert_eq!(
        Ehlo::Name("mx.example.com".into()).argument(v4),
        "mx.example.com"
    );
    for name in [
        "vm",
        "localhost",
        "host.local",
        "host.localdomain",
        "",
        "a..b",
        "192.0.2.7",
        "host_1.example.com",
    ] {
        let host = Host {
            cores: 1,
            name: Some(name.into()),
        };
        let settings = Settings::resolve(None, &RunArgs::default(), &host).expect("settings");
        assert_eq!(settings.sources[0].ehlo, Ehlo::AddressLiteral, "{name:?}");
    }
}

#[test]
fn files_are_loaded_from_disk() {
    let directory = tempfile::tempdir().expect("directory");
    let path = directory.path().join("h.toml");
    std::fs::write(&path, "[engine]\nspool = 'sp'\n").expect("file");
    let args = RunArgs {
        config: Some(path),
        ..RunArgs::default()
    };
    let settings = Settings::load(&args, &host()).expect("settings");
    assert_eq!(settings.engine.spool, directory.path().join("sp"));
    let args = RunArgs {
        config: Some("/nonexistent/h.toml".into()),
        ..RunArgs::default()
    };
    let error = Settings::load(&args, &host())
        .expect_err("missing")
        .to_string();
    assert!(
        error.starts_with("settings file /nonexistent/h.toml cannot be read: "),
        "{error}"
    );
}
