//! Flags win over the file, and the file over defaults.

use super::*;
use crate::cli::{BatchChoice, ChunkingChoice, PipelineChoice};

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
        .map(|route| (route.pattern.to_string(), route.target.port))
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
fn a_flag_takes_the_place_of_the_routes_of_the_file() {
    let file = "[[route]]\npattern = \"a.test\"\ntarget = \"relay.a.test\"\n\
                [[route]]\npattern = \"*\"\ntarget = \"smart.test\"\n";
    let args = RunArgs {
        route: vec!["*=127.0.0.1:2525".into()],
        ..RunArgs::default()
    };
    let settings = with(file, &args).expect("settings");
    let config = crate::engine::shard_config(&settings).expect("config");
    for domain in ["a.test", "b.test"] {
        let target = config.routes.lookup(domain).map(ToString::to_string);
        assert_eq!(target.as_deref(), Some("127.0.0.1:2525"), "{domain}");
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
