//! `hikyaku-bench ceiling`: the workload over SMTP without an engine: no spool, no queue, no limits.
//!
//! One thread, one epoll, as few system calls as SMTP allows: what a receiver and loopback leave room
//! for on this machine. It knows the happy path only; any other reply ends it with an error.

mod client;

use std::error::Error;

use hikyaku::sink::{Features, Report, Sink, SinkConfig, SinkHandle};
use serde_json::json;

use crate::cli::{CeilingArgs, seconds};
use crate::report::{self, Figures};
use crate::room::descriptors;
use crate::workload::Workload;

pub use client::{CeilingError, Outcome, deliver, deliver_stamped};

/// Runs all and prints; `Ok(false)` if the sink in this process did not receive all exactly once.
///
/// # Errors
///
/// See [`CeilingError`]; or the sink cannot be started.
pub fn run(args: &CeilingArgs) -> Result<bool, Box<dyn Error>> {
    let work = args.work.workload();
    let checksum = format!("{:016x}", work.checksum());
    let mut runs = Vec::new();
    let mut verified = true;
    // Both ends are in this process.
    descriptors(2 * u64::from(args.connections) + 128)?;
    for _ in 0..args.runs {
        let sink = match args.connect {
            Some(_) => None,
            None => Some(start_sink(&work)?),
        };
        let address = args
            .connect
            .or_else(|| sink.as_ref().map(|sink| sink.addresses()[0]));
        let address = address.ok_or("no address to connect to")?;
        let outcome = deliver(
            &work,
            address,
            args.connections,
            args.pipeline,
            seconds(args.timeout),
        )?;
        let report = sink.map(SinkHandle::stop).transpose()?;
        verified &= report
            .as_ref()
            .is_none_or(|report| is_complete(&work, report));
        runs.push(figures(&work, &outcome, report.as_ref()));
    }
    if args.json {
        let all = json!({
            "work": checksum, "parameters": format!("{work:?}"), "machine": report::machine(),
            "verified": verified, "summary": report::summary_json(&runs),
            "runs": runs.iter().map(Figures::to_json).collect::<Vec<_>>(),
        });
        println!("{all}");
    } else {
        println!("work {checksum}: {work:?}\n{}", report::machine());
        print!("{}", report::table(&runs));
        if !verified {
            println!("NOT VERIFIED: the sink did not receive every recipient exactly once");
        }
    }
    Ok(verified)
}

fn start_sink(work: &Workload) -> Result<SinkHandle, Box<dyn Error>> {
    let config = SinkConfig {
        features: Features {
            starttls: false,
            ..Features::default()
        },
        messages_expected: usize::try_from(work.messages).unwrap_or(0),
        ..SinkConfig::default()
    };
    Ok(Sink::bind(&config)?.spawn()?)
}

fn is_complete(work: &Workload, report: &Report) -> bool {
    let counters = &report.counters;
    counters.recipients == work.messages * u64::from(work.recipients)
        && counters.duplicates == 0
        && counters.protocol_errors == 0
}

fn figures(work: &Workload, outcome: &Outcome, sink: Option<&Report>) -> Figures {
    let messages = work.messages as f64;
    let mut out = Figures::default();
    out.add(
        "messages_per_s",
        messages / outcome.elapsed.as_secs_f64().max(1e-9),
    );
    out.add(
        "client_cpu_us_per_message",
        outcome.cpu.as_secs_f64() * 1e6 / messages,
    );
    if let Some(Report { counters, .. }) = sink {
        out.add(
            "sink_cpu_us_per_message",
            counters.cpu_ns as f64 / 1e3 / messages,
        );
        out.add(
            "sink_switches_voluntary",
            counters.switches_voluntary as f64,
        );
        out.add(
            "sink_switches_involuntary",
            counters.switches_involuntary as f64,
        );
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Pipeline;
    use std::time::Duration;

    /// The smallest size of the benchmark, so that nothing of it rots.
    #[test]
    fn every_grouping_delivers_each_recipient_once() {
        for pipeline in [
            Pipeline::None,
            Pipeline::Transaction,
            Pipeline::Stream,
            Pipeline::Chunking,
        ] {
            for recipients in [1, 3] {
                let work = Workload {
                    messages: 50,
                    recipients,
                    ..Workload::canonical(1)
                };
                let sink = start_sink(&work).unwrap();
                deliver(
                    &work,
                    sink.addresses()[0],
                    8,
                    pipeline,
                    Duration::from_secs(60),
                )
                .unwrap();
                let report = sink.stop().unwrap();
                assert!(is_complete(&work, &report), "{pipeline:?}: {report:?}");
                assert_eq!(report.counters.connections, 8);
                assert_eq!(report.counters.behind_dot > 0, pipeline == Pipeline::Stream);
            }
        }
    }

    #[test]
    fn a_refusal_is_an_error_that_quotes_it() {
        let script = "busy=1".parse().unwrap();
        let sink = Sink::bind(&SinkConfig {
            script,
            ..SinkConfig::default()
        })
        .unwrap()
        .spawn()
        .unwrap();
        let work = Workload {
            messages: 1,
            ..Workload::canonical(1)
        };
        let error = deliver(
            &work,
            sink.addresses()[0],
            1,
            Pipeline::Transaction,
            Duration::from_secs(60),
        );
        assert!(
            error.unwrap_err().to_string().contains("421"),
            "the banner is quoted"
        );
    }
}
