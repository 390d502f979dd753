//! Messages of jobs, rendered and signed, are the same bytes as ever: every attempt repeats them, also
//! an attempt by a later version. A change of a checksum here is a change of what receivers get.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use hikyaku::job::rows::encode_field;
use hikyaku::job::template::Template;
use hikyaku::job::token::Secret;
use hikyaku::job::{Bundle, RowView};
use hikyaku::mail::id::SubmissionId;
use hikyaku::signing::{DkimKey, Signer};
use xxhash_rust::xxh3::Xxh3;

const COLUMNS: [&str; 4] = ["email", "name", "city", "code"];

/// Values that meet every rule of the encodings somewhere.
const VALUES: [[&str; 3]; 8] = [
    ["Ann", "Edo", "c1"],
    ["花子", "Kyōto", "=3D"],
    ["Dora \"D\" Quint", "大阪市, 北区", "."],
    ["<b>Eve</b> & co", "two\nlines", " blank at the end "],
    ["tab\there", "", "\t"],
    ["", "carriage\rreturn", "crlf\r\nbehind"],
    [
        "a name that is so long that the line it stands on has to be wrapped, whatever it was before it came",
        "Łódź",
        "{{ code }}",
    ],
    ["Chloé", "Nagoya", "."],
];

fn job(name: &str) -> Bundle {
    let filler = |line: &str, count: usize| -> String {
        (0..count)
            .map(|number| format!("{line} {number}\n"))
            .collect()
    };
    let long = "a line of an HTML document that was never wrapped, as tools like to write them; "
        .repeat(40);
    let text = format!(
        "Dear {{{{ name }}}} of {{{{ city }}}},\n\nCode {{{{ code }}}}\n\n{}\n    indented  twice\t \n.\n..dots\n{{% if city %}}{}{{% endif %}}\r\nLeave: {{{{ unsubscribe_url }}}}\n",
        filler("couriers ran Edo's post on foot", 40),
        filler("in relays, over five roads = five ways ", 20),
    );
    let html = format!(
        "<html><body>\n<p>Dear {{{{ name }}}}</p>\n{}{long}{{{{ code }}}}{long}\n{}<a href=\"https://shop.example/?a=1&amp;b=2\">shop</a> <a href=\"{{{{ unsubscribe_url }}}}\">Leave</a></body></html>",
        filler("    <p style=\"margin:0\">on foot</p>", 60),
        filler("<td>\tcafé  crème</td> ", 30),
    );
    let japanese = format!(
        "{{{{ name }}}}様\n\n{}{{{{ city }}}}\n{}{{{{ unsubscribe_url }}}}\n",
        filler("春の大感謝祭セールを開催中です。", 30),
        filler("お得な商品を多数ご用意してお待ちしております。", 20),
    );
    let plain = format!(
        "{{{{ name }}}}\n{}{{{{ code }}}}\n",
        filler("short and plain", 50)
    );
    let (content, extra) = match name {
        "both" => ("text = \"t.txt\"\nhtml = \"h.html\"\n", ""),
        "html" => ("html = \"h.html\"\n", ""),
        "tracked" => (
            "text = \"t.txt\"\nhtml = \"h.html\"\n",
            "[tracking]\nurl = \"https://t.shop.example/r\"\nopens = true\nclicks = true\n",
        ),
        "japanese" => ("text = \"j.txt\"\n", ""),
        "plain" => ("text = \"p.txt\"\n", ""),
        _ => ("text = \"c.txt\"\n", ""),
    };
    let toml = format!(
        "name = \"golden\"\nfrom = \"Shop <news@shop.example>\"\nreverse_path = \"bounce+{{token}}@shop.example\"\nsubject = \"News for you\"\n\
         [recipients]\nfile = \"r.csv\"\n[list]\nid = \"news.shop.example\"\nunsubscribe = \"https://shop.example/u/{{token}}\"\n{extra}[content]\n{content}"
    );
    let file = |name: &str, content: &str| (name.into(), Arc::from(content.as_bytes()));
    Bundle {
        id: SubmissionId(0x9f1c_22e0_8d1b_4a77_90ab_cdef_0123_4567),
        accepted_ms: 1_795_312_800_000,
        columns: COLUMNS.map(Into::into).to_vec(),
        files: vec![
            file("job.toml", &toml),
            file("t.txt", &text),
            file("h.html", &html),
            file("j.txt", &japanese),
            file("p.txt", &plain),
            file("c.txt", "the same for all\n\n  but for its header\n"),
        ],
    }
}

fn signer(directory: &Path) -> Signer {
    let keys = ["rsa2048-pkcs8.pem", "ed25519.pem"].map(|file| {
        let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/dkim-keys");
        let key = directory.join(file);
        std::fs::copy(from.join(file), &key).expect("a key of the tests");
        std::fs::set_permissions(&key, PermissionsExt::from_mode(0o600)).expect("mode");
        DkimKey {
            domain: "shop.example".into(),
            selector: file.split('.').next().unwrap_or(file).into(),
            key,
            subdomains: false,
        }
    });
    Signer::load(&keys).expect("keys")
}

#[test]
fn rendered_and_signed_bytes_stay() {
    let directory = tempfile::tempdir().expect("directory");
    let signer = signer(directory.path());
    for (name, expected) in [
        ("both", 0xcbf0_a838_36d0_d6a4),
        ("html", 0x3920_5e20_6fd1_003a),
        ("tracked", 0xdbf4_6821_a319_0eec),
        ("japanese", 0x902b_83cb_46b0_42da),
        ("plain", 0x035c_0fdf_185c_3f29),
        ("constant", 0x0377_ccc2_8531_7d03),
    ] {
        let template = Template::compile(&job(name), &Secret::new(&[7; 32])).expect("a job");
        let mut all = Xxh3::new();
        // Twice, because what a template remembers of a row must not be seen in the next one.
        for number in 0..2 * VALUES.len() as u64 {
            let recipient = format!("r{number}@receiver.example");
            let mut fields = Vec::new();
            encode_field(&mut fields, &recipient, &recipient);
            for value in VALUES[number as usize % VALUES.len()] {
                encode_field(&mut fields, value, &recipient);
            }
            let row = RowView {
                number,
                recipient: &recipient,
                fields: &fields,
            };
            let (mut content, mut signed) = (Vec::new(), Vec::new());
            template.render(row, &mut content).expect("a message");
            let made = signer.sign(&content, 1_795_312_800, &mut signed);
            assert_eq!(made.expect("a From"), 2);
            all.update(&signed);
            all.update(&content);
        }
        assert_eq!(all.digest(), expected, "{name}: {:#018x}", all.digest());
    }
}
