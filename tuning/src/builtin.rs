//! The profiles that the program carries: the very files that an operator reads in `profiles/`.

/// (name, TOML text), in the order of the table in which their values are kept.
pub(crate) const FILES: &[(&str, &str)] = &[
    ("default", include_str!("../profiles/default.toml")),
    ("google", include_str!("../profiles/google.toml")),
    ("yahoo", include_str!("../profiles/yahoo.toml")),
    ("outlook", include_str!("../profiles/outlook.toml")),
    ("office365", include_str!("../profiles/office365.toml")),
    ("apple", include_str!("../profiles/apple.toml")),
    ("comcast", include_str!("../profiles/comcast.toml")),
    ("gmx-webde", include_str!("../profiles/gmx-webde.toml")),
    ("orange", include_str!("../profiles/orange.toml")),
    ("laposte", include_str!("../profiles/laposte.toml")),
    ("free", include_str!("../profiles/free.toml")),
    ("sfr", include_str!("../profiles/sfr.toml")),
    ("mimecast", include_str!("../profiles/mimecast.toml")),
    ("proofpoint", include_str!("../profiles/proofpoint.toml")),
    (
        "proofpoint-essentials",
        include_str!("../profiles/proofpoint-essentials.toml"),
    ),
    ("barracuda", include_str!("../profiles/barracuda.toml")),
    ("cisco", include_str!("../profiles/cisco.toml")),
    ("messagelabs", include_str!("../profiles/messagelabs.toml")),
    ("trendmicro", include_str!("../profiles/trendmicro.toml")),
    ("qq", include_str!("../profiles/qq.toml")),
    ("netease", include_str!("../profiles/netease.toml")),
    ("kpn", include_str!("../profiles/kpn.toml")),
    ("netvigator", include_str!("../profiles/netvigator.toml")),
    ("cox", include_str!("../profiles/cox.toml")),
    ("spectrum", include_str!("../profiles/spectrum.toml")),
    ("docomo", include_str!("../profiles/docomo.toml")),
    ("au", include_str!("../profiles/au.toml")),
    ("softbank", include_str!("../profiles/softbank.toml")),
    ("yahoo-jp", include_str!("../profiles/yahoo-jp.toml")),
    ("nifty", include_str!("../profiles/nifty.toml")),
    ("biglobe", include_str!("../profiles/biglobe.toml")),
    ("ocn", include_str!("../profiles/ocn.toml")),
    ("so-net", include_str!("../profiles/so-net.toml")),
    ("rakuten", include_str!("../profiles/rakuten.toml")),
];

#[cfg(test)]
#[path = "builtin_tests.rs"]
mod tests;
