//! One message of a job: 20 KiB of HTML and text with ten fields, from row to finished bytes.

use std::fmt::Write as _;
use std::hint::black_box;
use std::sync::Arc;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use hikyaku::job::rows::encode_field;
use hikyaku::job::template::Template;
use hikyaku::job::token::Secret;
use hikyaku::job::{Bundle, RowView};
use hikyaku::mail::id::SubmissionId;

const COLUMNS: [&str; 11] = [
    "email", "name", "city", "points", "tier", "product", "price", "until", "shop", "phone", "code",
];

const JOB: &str = r#"
name = "spring-sale"
from = "Shop <news@shop.example>"
reverse_path = "bounce+{token}@shop.example"
subject = "{{ name }}, your offer for {{ product }}"
to_name = "{{ name }}"
feedback_id = "spring:{{ tier }}:news:shop"
[list]
id = "news.shop.example"
unsubscribe = "https://shop.example/u/{token}"
[recipients]
file = "recipients.csv"
[content]
html = "body.html"
"#;

/// An HTML part of 15 KiB as newsletters are (tables, styles, links), and what it says as text.
fn html(japanese: bool) -> String {
    let line = if japanese {
        "春の大感謝祭セールを開催中です。お得な商品を多数ご用意してお待ちしております。"
    } else {
        "The spring sale is open: prices that you will like, and delivery without a fee to your door."
    };
    let mut html =
        String::from("<html><head><style>td { color: #333 }</style></head><body><table>\n");
    for column in &COLUMNS[1..] {
        let _ = writeln!(html, "<tr><td class=\"field\">{{{{ {column} }}}}</td></tr>");
    }
    while html.len() < 15 << 10 {
        let number = html.len();
        let _ = writeln!(
            html,
            "<tr><td style=\"padding: 8px 16px; font-size: 14px\"><a href=\"https://shop.example/item/{number}\">{line}</a> &mdash; &yen;{number}</td></tr>"
        );
    }
    html.push_str("<tr><td><a href=\"{{ unsubscribe_url }}\">Unsubscribe</a></td></tr></table></body></html>\n");
    html
}

fn text(japanese: bool) -> String {
    let line = if japanese {
        "春の大感謝祭セールを開催中です。\n"
    } else {
        "The spring sale is open: prices that you will like, and no fee.\n"
    };
    let mut text = String::new();
    for column in &COLUMNS[1..] {
        let _ = writeln!(text, "{{{{ {column} }}}}");
    }
    while text.len() < 5 << 10 {
        text.push_str(line);
    }
    text.push_str("{{ unsubscribe_url }}\n");
    text
}

fn template(japanese: bool, with_text: bool, extra: &str) -> Template {
    let mut job = JOB.to_owned();
    if with_text {
        job.push_str("text = \"body.txt\"\n");
    }
    job.push_str(extra);
    let bundle = Bundle {
        id: SubmissionId(0x9f1c_22e0_8d1b_4a77_90ab_cdef_0123_4567),
        accepted_ms: 1_795_312_800_000,
        columns: COLUMNS.map(Into::into).to_vec(),
        files: vec![
            ("job.toml".into(), Arc::from(job.as_bytes())),
            ("body.html".into(), Arc::from(html(japanese).as_bytes())),
            ("body.txt".into(), Arc::from(text(japanese).as_bytes())),
        ],
    };
    Template::compile(&bundle, &Secret::new(&[7; 32])).expect("a job")
}

fn render(criterion: &mut Criterion) {
    let recipient = "hanako.yamada@mail.receiver.example";
    let values = [
        recipient,
        "Hanako Yamada",
        "Kyoto",
        "12480",
        "gold",
        "A kettle & two cups",
        "4980",
        "2026-12-24",
        "Shijo Kawaramachi",
        "+81-75-000-0000",
        "SPRING-7F3A",
    ];
    let mut fields = Vec::new();
    for value in values {
        encode_field(&mut fields, value, recipient);
    }
    let mut group = criterion.benchmark_group("render");
    let tracking = "[tracking]\nurl = \"https://t.shop.example/r\"\nopens = true\nclicks = true\n";
    for (name, template) in [
        ("latin", template(false, true, "")),
        ("japanese", template(true, true, "")),
        ("text_from_html", template(false, false, "")),
        ("tracked", template(false, true, tracking)),
    ] {
        let mut out = Vec::with_capacity(1 << 17);
        let mut number = 0;
        let mut make = |out: &mut Vec<u8>| {
            number += 1;
            let row = RowView {
                number,
                recipient,
                fields: &fields,
            };
            out.clear();
            template.render(black_box(row), out).expect("a message");
        };
        make(&mut out);
        println!(
            "{name}: {} bytes, xxh3 {:016x}",
            out.len(),
            xxhash_rust::xxh3::xxh3_64(&out)
        );
        group.throughput(Throughput::Bytes(out.len() as u64));
        group.bench_function(name, |bencher| bencher.iter(|| make(&mut out)));
    }
    group.finish();
}

criterion_group!(benches, render);
criterion_main!(benches);
