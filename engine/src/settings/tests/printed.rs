//! Settings in force, printed, are a settings file.

use super::*;
use crate::cli::TlsChoice;

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
