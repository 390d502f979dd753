//! What is refused, word for word: the sentence is what an operator gets to see.

use super::*;

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

proptest::proptest! {
    #[test]
    fn any_file_is_settings_or_an_error_with_its_place(text in "(\\[|\\]|engine|retry|=|\n|'|\"|[a-z]|[0-9]|\\.|route|ip|\u{e4}){0,40}") {
        if let Err(error) = with(&text, &RunArgs::default()) {
            proptest::prop_assert!(error.to_string().starts_with("/etc/h.toml:"), "{}", error);
        }
    }
}
