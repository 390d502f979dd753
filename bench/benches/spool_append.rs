//! The spool's part in a message: append, its share of a commit, the read before it is sent, the
//! mark. Batches go to a real file with `pwrite`; fdatasync is left out, since it measures the disk.

use std::fs::OpenOptions;
use std::hint::black_box;
use std::os::unix::fs::FileExt;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use hikyaku_bench::workload::Workload;
use hikyaku_spool::{Log, Mark, MessageRef, Options, Spool, Verdict};

const MESSAGES: usize = 64;

fn commit(log: &mut Log) {
    while let Some(batch) = log.take_batch(0) {
        let file = OpenOptions::new()
            .write(true)
            .open(&*batch.path)
            .expect("segment");
        file.write_all_at(&batch.bytes, batch.offset)
            .expect("written");
        log.committed(batch);
    }
    log.reclaim();
}

fn spool(c: &mut Criterion) {
    let work = Workload::canonical(1);
    println!("workload {:016x}", work.checksum());
    let dir = tempfile::tempdir().expect("directory");
    let options = Options {
        allow_any_filesystem: true,
        ..Options::default()
    };
    let spool = Spool::open(dir.path(), &options).expect("spool");
    let (mut log, _) = spool.open_log(0, 0).expect("log");
    let (envelope, content) = ([7_u8; 80], vec![b'x'; work.size]);
    let mut group = c.benchmark_group("spool");
    group.throughput(Throughput::Elements(MESSAGES as u64));
    group.bench_function(
        "64 messages of 4 KiB: append, commit, read, mark, commit",
        |b| {
            let mut appended: Vec<MessageRef> = Vec::with_capacity(MESSAGES);
            b.iter(|| {
                for _ in 0..MESSAGES {
                    // The background thread that makes spares may be behind for a moment.
                    loop {
                        match log.append_message(1, 1, &envelope, &[&content]) {
                            Ok(at) => break appended.push(at),
                            Err(_) => std::thread::yield_now(),
                        }
                        log.reclaim();
                    }
                }
                commit(&mut log);
                for message in appended.drain(..) {
                    black_box(log.message(message).expect("readable").content.len());
                    let verdict = Verdict::Delivered;
                    log.append_mark(Mark {
                        message,
                        recipient: 0,
                        attempts: 1,
                        verdict,
                        code: 250,
                    });
                }
                commit(&mut log);
            });
        },
    );
    group.finish();
}

criterion_group!(benches, spool);
criterion_main!(benches);
