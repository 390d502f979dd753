//! The settings of the shard that is measured: those of a run under `hikyaku-bench load`.

use std::error::Error;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use hikyaku::dns::{Pattern, Routes};
use hikyaku::mail::envelope::OnDoubt;
use hikyaku::outcome::Classifier;
use hikyaku::queue::retry::{RetryPolicy, SiteBackoff};
use hikyaku::settings::Deadlines;
use hikyaku::shard::{ConnectionCap, DoubtPolicy, EgressSource, ShardConfig, SiteLimits};
use hikyaku::smtp::{StreamDepth, TlsPolicy};
use hikyaku_tuning::{LimitRules, Profiles};

use super::{Pipeline, TurnArgs};

/// As `hikyaku run` has it by default, with the limits of `hikyaku-bench load`.
pub(super) fn config(args: &TurnArgs) -> Result<ShardConfig, Box<dyn Error>> {
    let profiles = Profiles::builtin();
    let (pipeline, depth) = match args.pipeline {
        Pipeline::Transaction => ("transaction", 1),
        Pipeline::Stream(depth) => ("stream", depth),
    };
    let limit = format!(
        "*=connections={},connection-rate=unlimited,messages-per-connection=1000000,pipeline={pipeline}",
        args.connections
    );
    let rules = LimitRules::new(vec![limit.parse()?], &profiles)?;
    let peer = SocketAddr::from(([127, 0, 0, 1], 2525)).into();
    Ok(ShardConfig {
        sources: vec![EgressSource {
            name: "0.0.0.0".into(),
            address: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            ehlo: "out.test".into(),
        }],
        port: 25,
        routes: Routes::new([(&Pattern::All, &peer)]),
        sites: SiteLimits { profiles, rules },
        retry: RetryPolicy::default(),
        doubt: DoubtPolicy {
            on_doubt: OnDoubt::Retry,
            crashes_max: 0,
        },
        backoff: SiteBackoff::default(),
        tls: TlsPolicy::Never,
        deadlines: Deadlines::default(),
        signer: None,
        suppressed: None,
        stream_depth: StreamDepth::new(depth),
        stream_auto: None,
        strict: false,
        classifier: Classifier::builtin(),
        connections: ConnectionCap::new(args.connections.saturating_mul(2)),
        log_attempts: true,
    })
}
