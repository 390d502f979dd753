//! The suppression list: what one check costs, with as many entries as `SUPPRESSED` says (a million when it is not set).

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use hikyaku_spool::suppress::{Entry, Import, Scope, Suppressions};

fn suppress(criterion: &mut Criterion) {
    let tiny = std::env::args().any(|arg| arg == "--test");
    let entries: u64 = match std::env::var("SUPPRESSED").map(|number| number.parse()) {
        Ok(Ok(number)) => number,
        _ if tiny => 1_000,
        _ => 1_000_000,
    };
    let dir = tempfile::tempdir().expect("temporary directory");
    let list = Suppressions::open(dir.path()).expect("a new list");
    let mut import = Import::new(&list, 64 << 20);
    for number in 0..entries {
        import.push(&entry(number)).expect("taken");
    }
    import.finish(|_, _| ()).expect("added");
    let bytes = std::fs::metadata(dir.path().join("data.mdb")).map_or(0, |file| file.len());
    println!(
        "{entries} entries, {} bytes on disk for each",
        bytes / entries.max(1)
    );
    let scopes = [
        Scope::Global,
        Scope::Sender("shop.example"),
        Scope::List("news.shop.example"),
    ];
    let mut group = criterion.benchmark_group("suppress");
    let mut number = 0_u64;
    group.bench_function("check/suppressed", |bencher| {
        bencher.iter(|| {
            number = (number + 7_919) % entries;
            list.check(black_box(&address(number)), &scopes)
                .expect("read")
        });
    });
    group.bench_function("check/not", |bencher| {
        bencher.iter(|| {
            number += 1;
            list.check(black_box(&address(entries + number)), &scopes)
                .expect("read")
        });
    });
    group.finish();
}

fn address(number: u64) -> String {
    format!("recipient-{number}@domain-{}.example", number % 997)
}

fn entry(number: u64) -> Entry {
    Entry {
        address: address(number),
        scope: "sender:shop.example".into(),
        added_wall_ms: 1_795_290_000_000 + number,
        reason: "unsubscribe".into(),
    }
}

criterion_group!(benches, suppress);
criterion_main!(benches);
