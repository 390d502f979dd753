//! Files that operators write: settings and profiles.

use std::path::Path;

use hikyaku::cli::RunArgs;
use hikyaku::settings::{Host, Settings, SettingsError};
use hikyaku_tuning::Profiles;

/// Any TOML is settings, or an error of one line. What `hikyaku check` prints of settings is settings
/// again, and the same ones.
pub fn settings(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else {
        return;
    };
    let settings = match resolve(text) {
        Ok(settings) => settings,
        Err(error) => return check_line(&error.to_string()),
    };
    let printed = settings.to_toml_redacted();
    let again = resolve(&printed).unwrap_or_else(|error| panic!("{error} in\n{printed}"));
    let third = again.to_toml_redacted();
    let last = resolve(&third).unwrap_or_else(|error| panic!("{error} in\n{third}"));
    assert_eq!(last.to_toml_redacted(), third);
    assert_eq!(
        (
            &last.engine,
            &last.retry,
            &last.tls,
            &last.resolvers,
            &last.deadlines,
            &last.dkim,
            &last.batching
        ),
        (
            &again.engine,
            &again.retry,
            &again.tls,
            &again.resolvers,
            &again.deadlines,
            &again.dkim,
            &again.batching
        )
    );
    // Paths become absolute on the first page; nothing else changes.
    assert_eq!(
        (
            &again.retry,
            &again.resolvers,
            &again.deadlines,
            again.signature_lifetime,
            matches!(again.batching, hikyaku::signing::Batching::Off)
        ),
        (
            &settings.retry,
            &settings.resolvers,
            &settings.deadlines,
            settings.signature_lifetime,
            matches!(settings.batching, hikyaku::signing::Batching::Off)
        )
    );
    assert_eq!(
        (again.tls.mode, again.engine.port),
        (settings.tls.mode, settings.engine.port)
    );
    assert_eq!(
        again.engine.message_size_max,
        settings.engine.message_size_max
    );
    assert_eq!(again.routes.len(), settings.routes.len());
    for (again, given) in again.routes.iter().zip(&settings.routes) {
        assert_eq!(
            (&again.pattern, &again.target.host, again.target.port),
            (&given.pattern, &given.target.host, given.target.port)
        );
    }
    assert_eq!(again.sources, settings.sources);
    let limits = |settings: &Settings| -> Vec<String> {
        settings
            .limits
            .iter()
            .map(|limit| limit.text.clone())
            .collect()
    };
    assert_eq!(limits(&again), limits(&settings));
}

fn resolve(text: &str) -> Result<Settings, SettingsError> {
    let host = Host {
        cores: 4,
        name: Some("mx1.example.test".into()),
    };
    Settings::resolve(
        Some((Path::new("/etc/hikyaku.toml"), text)),
        &RunArgs::default(),
        &host,
    )
}

/// Any TOML is a profile, over another one if it likes, or an error of one line. What it says is then
/// what the receivers it names get.
pub fn profile(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else {
        return;
    };
    for name in ["mine", "google"] {
        let profiles = match Profiles::from_texts([(name, text)]) {
            Ok(profiles) => profiles,
            Err(error) => {
                check_line(&error.to_string());
                continue;
            }
        };
        let rules = profiles.mx_rules();
        assert!(
            rules.is_sorted_by(|(a, _), (b, _)| a.len() >= b.len()),
            "longest first"
        );
        let profile = profiles.for_site(name);
        assert_eq!(profile.name(), name);
        for suffix in profile.mx_suffixes() {
            let host = format!("mx1{suffix}");
            let best = profiles.by_mx(&host).expect("matches");
            let first = rules
                .iter()
                .find(|(suffix, _)| host.ends_with(suffix.as_str()));
            assert_eq!(
                first.map(|(_, name)| name.as_str()),
                Some(best.name()),
                "{host}"
            );
            assert!(rules.contains(&(suffix.clone(), name.into())));
        }
        for domain in profile.domains() {
            assert_eq!(
                profiles.by_domain(domain).map(|profile| profile.name()),
                Some(name)
            );
        }
        let limits = profile.limits();
        assert!(limits.connections_max >= 1 && limits.connections_start <= limits.connections_max);
        assert!(limits.retry.delay_min <= limits.retry.delay_max);
    }
}

/// For an operator's terminal: nothing in it moves the cursor.
fn check_line(text: &str) {
    assert!(!text.is_empty() && text.len() < 100_000);
    assert!(!text.contains(['\n', '\r']), "one line: {text:?}");
    assert!(!text.contains(char::is_control), "printable: {text:?}");
}
