//! Settings as operators write them, right and wrong. Each refusal is held word for word: the
//! sentence is what an operator gets to see.

use super::*;
use crate::cli::{BatchChoice, ChunkingChoice, PipelineChoice, TlsChoice};
use crate::mail::envelope::OnDoubt;
use std::net::IpAddr;

fn host() -> Host {
    Host {
        cores: 4,
        name: Some("mx1.Example.com".into()),
    }
}

fn with(text: &str, args: &RunArgs) -> Result<Settings, SettingsError> {
    Settings::resolve(Some((Path::new("/etc/h.toml"), text)), args, &host())
}

fn file(text: &str) -> Settings {
    with(text, &RunArgs::default()).unwrap_or_else(|error| panic!("{error}"))
}

fn flags(args: &RunArgs) -> Settings {
    Settings::resolve(None, args, &host()).unwrap_or_else(|error| panic!("{error}"))
}

fn strings(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

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
            mode: TlsMode::Opportunistic,
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

const FULL: &str = r#"
limit = ["*.example.net=10/s", "google=connections=20"]

[engine]
drop = "drop"
spool = "/var/spool/h"
log = "/var/log/h"
profiles = "profiles"
shards = 2
ingest_core = 1
pin = false
port = 2525
connections_max = 1_000
message_size_max = "10MB"
allow_private_targets = true
development = true

[retry]
first = "1m"
max = "1h30m"
expire = "2d"

[tls]
mode = "required"
verify = true
ca_file = "ca.pem"

[dns]
resolvers = ["127.0.0.1", "[::1]:5353", "192.0.2.1:54"]

[signing]
lifetime = "10d"
batch = "auto"
batch_library = "lib/libcrypto_mb.so"

[deadlines]
connect = "30s"
dot = "10m"
quit = "500ms"

[[route]]
pattern = "*.corp.example"
target = "relay.corp.example"

[[route]]
pattern = "Bücher.example"
target = "[2001:db8::1]:26"

[[source]]
ip = "192.0.2.7"
ehlo = "mx7.example.com"
name = "bulk-7"

[[source]]
ip = "2001:db8::7"
ehlo = "[IPv6:2001:db8::7]"

[[dkim]]
domain = "Example.com"
selector = "2026a"
key = "keys/2026a.pem"

[[dkim]]
domain = "example.com"
selector = "ed2026a"
key = "/keys/ed2026a.pem"
subdomains = false
"#;

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
            mode: TlsMode::Required,
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
    assert_eq!(
        settings.routes[0].host,
        RouteHost::Name("relay.corp.example".into())
    );
    assert_eq!(settings.routes[0].port, 25);
    assert_eq!(
        settings.routes[1].pattern,
        RoutePattern::Domain("xn--bcher-kva.example".into())
    );
    assert_eq!(
        settings.routes[1].host,
        RouteHost::Address("2001:db8::1".parse().expect("address"))
    );
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
fn flags_win() {
    let args = RunArgs {
        drop: Some("d".into()),
        spool: Some("s".into()),
        log: Some("l".into()),
        profiles: Some("p".into()),
        shards: Some(4),
        ingest_core: Some(3),
        pin: true,
        port: Some(25),
        connections_max: Some(7),
        message_size_max: Some("1KiB".into()),
        retry_first: Some("2m".into()),
        retry_max: Some("2h".into()),
        expire: Some("3d".into()),
        on_doubt: Some("hold".into()),
        crashes_max: Some(0),
        dkim_batch: Some(BatchChoice::Auto),
        dkim_batch_library: Some("l.so".into()),
        resolver: strings(&["192.0.2.53"]),
        route: strings(&["*.corp.example=127.0.0.1:2525", "*=127.0.0.1:2526"]),
        source: strings(&["192.0.2.9", "192.0.2.8,mx8.example.com"]),
        limit: strings(&["*.Example.net = 1/s", "x.example=2/s"]),
        no_progress: true,
        json: true,
        once: true,
        unsafe_no_sync: true,
        ..RunArgs::default()
    };
    let settings = with(FULL, &args).expect("settings");
    let engine = &settings.engine;
    assert_eq!(
        engine.drop,
        Path::new("d"),
        "relative to the working directory"
    );
    assert_eq!(
        (engine.shards, engine.ingest_core, engine.pin, engine.port),
        (4, 3, true, 25)
    );
    assert_eq!((engine.connections_max, engine.message_size_max), (7, 1024));
    assert!(!engine.progress && engine.json && engine.once && !engine.sync);
    assert_eq!(settings.retry.expire, Duration::from_secs(259_200));
    assert_eq!(settings.delivery.on_doubt, OnDoubt::Hold);
    assert_eq!(settings.delivery.crashes_max, 0);
    assert_eq!(
        settings.resolvers,
        ["192.0.2.53:53".parse().expect("address")]
    );
    let routes: Vec<_> = settings
        .routes
        .iter()
        .map(|route| (route.pattern.to_string(), route.port))
        .collect();
    assert_eq!(
        routes[..2],
        [("*.corp.example".to_owned(), 2525), ("*".to_owned(), 2526)]
    );
    assert_eq!(settings.sources.len(), 2);
    let library = Some("l.so".into());
    assert_eq!(settings.batching, Batching::Auto { library });
    let off = RunArgs {
        dkim_batch: Some(BatchChoice::Off),
        ..RunArgs::default()
    };
    let settings_off = with(FULL, &off).expect("settings");
    assert_eq!(settings_off.batching, Batching::Off);
    assert_eq!(
        settings.sources[0].ehlo,
        Ehlo::Name("mx1.example.com".into())
    );
    let limits: Vec<_> = settings
        .limits
        .iter()
        .map(|limit| (limit.text.as_str(), &limit.origin))
        .collect();
    assert_eq!(limits.len(), 3);
    assert_eq!(limits[0].0, "google=connections=20");
    assert_eq!(limits[1], ("*.Example.net = 1/s", &Origin::Flag("--limit")));
    assert_eq!(*settings.origin("engine.spool"), Origin::Flag("--spool"));
    assert_eq!(
        *settings.origin("tls.mode"),
        file(FULL).origin("tls.mode").clone()
    );
}

#[test]
fn no_pin_wins_over_the_file() {
    let settings = with(
        "[engine]\npin = true",
        &RunArgs {
            no_pin: true,
            ..RunArgs::default()
        },
    )
    .expect("settings");
    assert!(!settings.engine.pin);
}

#[test]
fn limits_may_be_tables() {
    let settings =
        file("[[limit]]\npattern = 'docomo.ne.jp'\nrate = '10/s'\nconnections_start = 2\n");
    assert_eq!(
        settings.limits[0].text,
        "docomo.ne.jp=rate=10/s,connections-start=2"
    );
    assert_eq!(
        settings.limits[0].origin.to_string(),
        "/etc/h.toml:2:11: limit.pattern"
    );
}

#[test]
fn wrong_files_are_refused_in_one_sentence() {
    for (text, expected) in [
        (
            "[engine\n",
            "1:8: not valid TOML: unclosed table, expected `]`",
        ),
        (
            "[engine]\nshards = 2\nshards = 3\n",
            "3:1: not valid TOML: duplicate key",
        ),
        (
            "[engine]\nshard = 2\n",
            "2:1: engine.shard: there is no such key; did you mean `shards`?",
        ),
        (
            "[engin]\nshards = 2\n",
            "1:2: engin: there is no such table; did you mean `engine`?",
        ),
        (
            "[retry]\nfrist = '5m'\n",
            "2:1: retry.frist: there is no such key; did you mean `first`?",
        ),
        (
            "[retry]\nagain = '5m'\n",
            "2:1: retry.again: there is no such key; write one of first, max, expire",
        ),
        (
            "shards = 2\n",
            "1:1: shards: there is no such table; write one of engine, delivery, spool, drop, retry, tls, dns, route, source, limit, dkim, signing, deadlines",
        ),
        (
            "engine = 2\n",
            "1:10: engine: 2 must be a table: write it as [engine]",
        ),
        (
            "[route]\npattern = '*'\n",
            "1:2: route: this table must be an array of tables: write each as [[route]]",
        ),
        (
            "[engine]\nshards = 0\n",
            "2:10: engine.shards: 0 is out of bounds: write 1 to 1024",
        ),
        (
            "[engine]\nshards = -1\n",
            "2:10: engine.shards: -1 is out of bounds: write 1 to 1024",
        ),
        (
            "[engine]\nshards = 99999999999999999999\n",
            "2:10: engine.shards: this number must be a whole number from 1 to 1024",
        ),
        (
            "[engine]\nshards = '2'\n",
            "2:10: engine.shards: \"2\" must be a whole number from 1 to 1024",
        ),
        (
            "[engine]\nshards = 1.5\n",
            "2:10: engine.shards: this float must be a whole number from 1 to 1024",
        ),
        (
            "[engine]\nport = 65536\n",
            "2:8: engine.port: 65536 is out of bounds: write 1 to 65535",
        ),
        (
            "[engine]\npin = 'yes'\n",
            "2:7: engine.pin: \"yes\" must be true or false",
        ),
        (
            "[engine]\nspool = ''\n",
            "2:9: engine.spool: \"\" is empty: name a path",
        ),
        (
            "[engine]\nspool = 7\n",
            "2:9: engine.spool: 7 must be a path in quotes",
        ),
        (
            "[engine]\nconnections_max = 2000000\n",
            "2:19: engine.connections_max: 2000000 is out of bounds: write 1 to 1000000",
        ),
        (
            "[engine]\nmessage_size_max = '2GiB'\n",
            "2:20: engine.message_size_max: \"2GiB\" is out of bounds: write 1KiB to 1GiB",
        ),
        (
            "[engine]\nmessage_size_max = 1048576\n",
            "2:20: engine.message_size_max: 1048576 must be a size in quotes, with its unit, such as \"32MiB\"",
        ),
        (
            "[engine]\nmessage_size_max = 'big'\n",
            "2:20: engine.message_size_max: \"big\" is not a size: write a whole number and a unit, such as 64KiB or 32MiB",
        ),
        (
            "[delivery]\non_doubt = 'wait'\n",
            "2:12: delivery.on_doubt: \"wait\" must be \"retry\" or \"hold\"",
        ),
        (
            "[delivery]\ncrashes_max = 16\n",
            "2:15: delivery.crashes_max: 16 is out of bounds: write 0 to 15",
        ),
        (
            "[retry]\nfirst = '5 minutes'\n",
            "2:9: retry.first: \"5 minutes\" is not a time: write a number and a unit, such as 90s, 5m, 2h, 4d or 1h30m",
        ),
        (
            "[retry]\nfirst = 300\n",
            "2:9: retry.first: 300 must be a time in quotes, with its unit, such as \"5m\"",
        ),
        (
            "[retry]\nfirst = '0s'\n",
            "2:9: retry.first: \"0s\" is out of bounds: write 1s to 1d",
        ),
        (
            "[retry]\nmax = '1m'\n",
            "2:7: retry.max: retry.first is 5m and retry.max is 1m: it must not be longer",
        ),
        (
            "[retry]\nfirst = '2h'\nexpire = '1h'\n",
            "2:9: retry.first: retry.first is 2h and retry.expire is 1h: it must not be longer",
        ),
        (
            "[tls]\nmode = 'maybe'\n",
            "2:8: tls.mode: \"maybe\" is no TLS mode: write \"never\", \"opportunistic\" or \"required\"",
        ),
        (
            "[tls]\nmode = 'required'\nverify = true\n",
            "3:10: tls.verify: verifying needs authorities: name their PEM file as ca_file in [tls]",
        ),
        (
            "[tls]\nca_file = 'ca.pem'\n",
            "2:11: tls.ca_file: authorities are used only to verify: add `verify = true` to [tls]",
        ),
        (
            "[tls]\nverify = true\nca_file = 'ca.pem'\n",
            "2:10: tls.verify: verifying has no effect while mode is opportunistic: set `mode = \"required\"` in [tls]",
        ),
        (
            "[dns]\nresolvers = '127.0.0.1'\n",
            "2:13: dns.resolvers: \"127.0.0.1\" must be a list of addresses, such as [\"127.0.0.1\"]",
        ),
        (
            "[dns]\nresolvers = ['localhost']\n",
            "2:13: dns.resolvers: [\"localhost\"] cannot be used: \"localhost\" is not the address of a resolver: write IP or IP:PORT, IPv6 as [2001:db8::53]:53",
        ),
        (
            "[[route]]\npattern = 'a.test'\n",
            "1:1: route: `target` is missing; write HOST or HOST:PORT",
        ),
        (
            "[[route]]\npattern = 'a b'\ntarget = 'x'\n",
            "2:11: route.pattern: \"a b\" is not a pattern: write a domain, `*.domain` for all below it, or `*`",
        ),
        (
            "[[route]]\npattern = '*'\ntarget = 'a:0'\n",
            "3:10: route.target: \"a:0\" has no port from 1 to 65535 behind its colon",
        ),
        (
            "[[route]]\npattern = '*'\ntarget = '10.1.2'\n",
            "3:10: route.target: \"10.1.2\" is not a host: write HOST, HOST:PORT, an IPv4 address, or an IPv6 address as [2001:db8::1]:PORT",
        ),
        (
            "[[route]]\npattern = '*'\ntarget = 'x'\n[[route]]\npattern = 'a.test'\ntarget = 'y'\n",
            "5:11: route.pattern: a route for a.test never applies behind the one for * (/etc/h.toml:2:11: route.pattern), because the first match counts: put it before",
        ),
        (
            "[[route]]\npattern = '*'\ntarget = 'x'\nprot = 25\n",
            "4:1: route.prot: there is no such key; write one of pattern, target",
        ),
        (
            "[[source]]\nehlo = 'mx.example.com'\n",
            "1:1: source: `ip` is missing; write the local address to send from",
        ),
        (
            "[[source]]\nip = '192.0.2.300'\n",
            "2:6: source.ip: \"192.0.2.300\" is not an IP address: write one of this machine, such as 192.0.2.7 or 2001:db8::7",
        ),
        (
            "[[source]]\nip = '224.0.0.1'\n",
            "2:6: source.ip: \"224.0.0.1\" is no address to send from: write one of this machine",
        ),
        (
            "[[source]]\nip = '192.0.2.7'\nehlo = 'mx'\n",
            "3:8: source.ehlo: \"mx\" is no name for EHLO: write the fully qualified name that 192.0.2.7 points back to, such as mx1.example.com",
        ),
        (
            "[[source]]\nip = '192.0.2.7'\n[[source]]\nip = '192.0.2.7'\n",
            "4:6: source.ip: address 192.0.2.7 is a source already (/etc/h.toml:2:6: source.ip): remove one",
        ),
        (
            "[[source]]\nip = '192.0.2.7'\nname = 'a'\n[[source]]\nip = '192.0.2.8'\nname = 'a'\n",
            "5:6: source.ip: name \"a\" is a source already (/etc/h.toml:2:6: source.ip): choose another",
        ),
        (
            "limit = ['a.test']\n",
            "1:9: limit: \"a.test\" is no limit: write PATTERN=LIMIT, such as '*.example.com=10/s,connections=2'",
        ),
        (
            "[[limit]]\nrate = '1/s'\n",
            "1:1: limit: `pattern` is missing; write the domains it is for, such as \"*.example.com\"",
        ),
        (
            "[[limit]]\npattern = '*'\nrate = true\n",
            "3:8: limit.rate: true is no limit: write a number, or text such as \"10/s\"",
        ),
        (
            "[[dkim]]\ndomain = 'example.com'\nselector = 's'\n",
            "1:1: dkim: `key` is missing; name the PEM file of the private key",
        ),
        (
            "[[dkim]]\ndomain = 'example.com'\nselector = 'a b'\nkey = 'k'\n",
            "3:12: dkim.selector: \"a b\" is no domain name: write letters, digits, hyphens and dots",
        ),
        (
            "[[dkim]]\ndomain = 'a.test'\nselector = 's'\nkey = 'k'\n[[dkim]]\ndomain = 'A.test'\nselector = 's'\nkey = 'l'\n",
            "7:12: dkim.selector: a.test has a key with selector s already: each needs its own",
        ),
        (
            "[signing]\nlifetime = '3d'\n",
            "2:12: signing.lifetime: signatures would end after 3d while a message may wait for 4d: make it longer than retry.expire, because every attempt repeats the signature",
        ),
        (
            "[signing]\nbatch = true\n",
            "2:9: signing.batch: true is no way to sign: write \"auto\" or \"off\"",
        ),
        (
            "[deadlines]\ndot = '2h'\n",
            "2:7: deadlines.dot: \"2h\" is out of bounds: write 1s to 1h",
        ),
        (
            "[deadlines]\nmial = '5m'\n",
            "2:1: deadlines.mial: there is no such key; did you mean `mail`?",
        ),
        (
            "[engine]\ndrop = '/a/'\nspool = '/a'\n",
            "3:9: engine.spool: /a is used as engine.spool and engine.drop: each needs a directory of its own",
        ),
        (
            "[delivery]\npipeline = 'fast'\n",
            "2:12: delivery.pipeline: \"fast\" must be \"none\", \"transaction\" or \"stream\"",
        ),
        (
            "[delivery]\nchunking = 'always'\n",
            "2:12: delivery.chunking: \"always\" must be \"auto\" or \"never\"",
        ),
        (
            "[delivery]\nstream_depth = 1\n",
            "2:16: delivery.stream_depth: 1 is out of bounds: write 2 to 64",
        ),
        (
            "[spool]\ndurability = true\n",
            "2:14: spool.durability: true must be \"relaxed\" or \"strict\"",
        ),
        (
            "[engine]\ningest_core = 4\n",
            "2:15: engine.ingest_core: there is no core 4 on this machine: use 0 to 3, or --no-pin",
        ),
    ] {
        let error = with(text, &RunArgs::default()).expect_err(text);
        assert_eq!(
            error.to_string(),
            format!("/etc/h.toml:{expected}"),
            "{text}"
        );
    }
}

#[test]
fn pipelining_and_durability_come_from_flag_file_or_default() {
    let text = "[delivery]\npipeline = 'stream'\nstream_depth = 4\nstream_auto = 100\n[spool]\ndurability = 'strict'\n";
    let flags = RunArgs {
        pipeline: Some(PipelineChoice::None),
        stream_depth: Some(64),
        stream_auto: Some(0),
        ..RunArgs::default()
    };
    let none = RunArgs::default();
    let (relaxed, strict) = (Durability::Relaxed, Durability::Strict);
    for (text, flags, expected) in [
        (text, &none, (Some(Pipeline::Stream), 4, Some(100), strict)),
        (text, &flags, (Some(Pipeline::None), 64, None, strict)),
        ("", &none, (None, 16, None, relaxed)),
    ] {
        let settings = with(text, flags).expect("good");
        let delivery = settings.delivery;
        let found = (
            delivery.pipeline,
            delivery.stream_depth,
            delivery.stream_auto,
            settings.durability,
        );
        assert_eq!(found, expected);
    }
    let origin = with(text, &flags)
        .expect("good")
        .origin("delivery.pipeline")
        .to_string();
    assert_eq!(origin, "--pipeline");
}

#[test]
fn chunking_comes_from_flag_file_or_default() {
    let text = "[delivery]\nchunking = 'never'\n";
    let auto = RunArgs {
        chunking: Some(ChunkingChoice::Auto),
        ..RunArgs::default()
    };
    for (text, flags, expected, origin) in [
        ("", &RunArgs::default(), None, "default"),
        (
            text,
            &RunArgs::default(),
            Some(Chunking::Never),
            "/etc/h.toml:2:12: delivery.chunking",
        ),
        (text, &auto, Some(Chunking::Auto), "--chunking"),
    ] {
        let settings = with(text, flags).expect("good");
        assert_eq!(settings.delivery.chunking, expected);
        assert_eq!(settings.origin("delivery.chunking").to_string(), origin);
    }
}

#[test]
fn wrong_flags_are_refused_in_one_sentence() {
    type Set = fn(&mut RunArgs);
    let cases: [(Set, &str); 12] = [
        (
            |a| a.shards = Some(0),
            "--shards: 0 is out of bounds: write 1 to 1024",
        ),
        (
            |a| a.retry_first = Some("5".into()),
            "--retry-first: \"5\" is not a time: write a number and a unit, such as 90s, 5m, 2h, 4d or 1h30m",
        ),
        (
            |a| a.retry_max = Some("1s".into()),
            "--retry-max: retry.first is 5m and retry.max is 1s: it must not be longer",
        ),
        (
            |a| a.message_size_max = Some("10".into()),
            "--message-size-max: \"10\" is not a size: write a whole number and a unit, such as 64KiB or 32MiB",
        ),
        (
            |a| a.route = vec!["127.0.0.1:25".into()],
            "--route: \"127.0.0.1:25\" has no `=`: write PATTERN=HOST[:PORT], such as '*=127.0.0.1:2525'",
        ),
        (
            |a| a.route = strings(&["a.test=x", "a.test=y"]),
            "--route: a route for a.test never applies behind the one for a.test (--route), because the first match counts: put it before",
        ),
        (
            |a| a.resolver = vec!["0.0.0.0".into()],
            "--resolver: [\"0.0.0.0\"] cannot be used: \"0.0.0.0\" is not the address of a resolver: write IP or IP:PORT, IPv6 as [2001:db8::53]:53",
        ),
        (
            |a| a.source = vec!["mx1,192.0.2.7".into()],
            "--source: \"mx1\" is not an IP address: write one of this machine, such as 192.0.2.7 or 2001:db8::7",
        ),
        (
            |a| a.source = vec!["0.0.0.0,".into()],
            "--source: \"\" is no name for EHLO: write the fully qualified name that the address points back to, such as mx1.example.com",
        ),
        (
            |a| a.limit = vec!["=10/s".into()],
            "--limit: \"=10/s\" is no limit: write PATTERN=LIMIT, such as '*.example.com=10/s,connections=2'",
        ),
        (
            |a| a.log = Some("spool".into()),
            "--log: spool is used as engine.log and engine.spool: each needs a directory of its own",
        ),
        (
            |a| a.drop = Some("".into()),
            "--drop: \"\" is empty: name a path",
        ),
    ];
    for (set, expected) in cases {
        let mut args = RunArgs::default();
        set(&mut args);
        let error = Settings::resolve(None, &args, &host()).expect_err(expected);
        assert_eq!(error.to_string(), expected);
    }
}

#[test]
fn a_wrong_value_in_the_file_is_refused_even_under_a_flag() {
    let args = RunArgs {
        shards: Some(2),
        ..RunArgs::default()
    };
    assert!(with("[engine]\nshards = 0\n", &args).is_err());
}

#[test]
fn positions_count_characters() {
    let error = with("[retry]\n\"fir\u{e4}t\" = '5m'\n", &RunArgs::default()).expect_err("key");
    assert_eq!(
        error.to_string(),
        "/etc/h.toml:2:1: retry.fir\u{e4}t: there is no such key; did you mean `first`?"
    );
    let error = with(
        "source = [{ name = '\u{e4}\u{e4}', ip = 7 }]\n",
        &RunArgs::default(),
    )
    .expect_err("type");
    assert_eq!(
        error.to_string(),
        "/etc/h.toml:1:31: source.ip: 7 must be text in quotes"
    );
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

/// What is printed is a settings file that means the same.
#[test]
fn printed_settings_can_be_run_again() {
    let args = RunArgs {
        route: strings(&["b.test=[2001:db8::2]:2525"]),
        limit: strings(&["quote\"d=1/s"]),
        tls: Some(TlsChoice::Required),
        ..RunArgs::default()
    };
    for settings in [
        flags(&RunArgs::default()),
        file(FULL),
        with(FULL, &args).expect("settings"),
    ] {
        let printed = settings.to_toml_redacted();
        let again = with(&printed, &RunArgs::default())
            .unwrap_or_else(|error| panic!("{error}\n{printed}"));
        // Everything but where it came from agrees.
        let plain = |text: &str| -> Vec<String> {
            text.lines()
                .map(|line| line.split(" # ").next().unwrap_or(line).to_owned())
                .collect()
        };
        assert_eq!(plain(&again.to_toml_redacted()), plain(&printed));
        assert_eq!(
            (again.retry, &again.tls, &again.dkim, &again.batching),
            (
                settings.retry,
                &settings.tls,
                &settings.dkim,
                &settings.batching
            )
        );
        assert_eq!(
            (&again.resolvers, &again.sources),
            (&settings.resolvers, &settings.sources)
        );
    }
    let printed = with(FULL, &args).expect("settings").to_toml_redacted();
    assert!(
        printed.contains("mode = \"required\" # --tls\n"),
        "{printed}"
    );
    assert!(
        printed.contains("first = \"1m\" # /etc/h.toml:19\n"),
        "{printed}"
    );
}

#[test]
fn routes_match_domains() {
    for (pattern, domain, expected) in [
        ("*", "a.test", true),
        ("*.a.test", "b.a.test", true),
        ("*.a.test", "a.test", false),
        ("*.a.test", "ba.test", false),
        ("A.test", "a.test", true),
        ("a.test", "b.a.test", false),
    ] {
        let pattern = RoutePattern::parse(pattern).expect("pattern");
        assert_eq!(pattern.matches(domain), expected, "{pattern} {domain}");
    }
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

proptest::proptest! {
    #[test]
    fn any_file_is_settings_or_an_error_with_its_place(text in "(\\[|\\]|engine|retry|=|\n|'|\"|[a-z]|[0-9]|\\.|route|ip|\u{e4}){0,40}") {
        if let Err(error) = with(&text, &RunArgs::default()) {
            proptest::prop_assert!(error.to_string().starts_with("/etc/h.toml:"), "{}", error);
        }
    }
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
