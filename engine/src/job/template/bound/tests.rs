//! What a text may do, and what is refused because it could take any memory.

use super::check;

fn refusal(source: &str) -> Option<String> {
    check(source)
        .err()
        .map(|(line, what)| format!("line {}: {what}", line.unwrap_or(0)))
}

#[test]
fn what_people_write_is_let_through() {
    for source in [
        "Dear {{ name|default('customer')|title }},",
        "{% if plan == 'gold' and points|int > 100 %}{{ points|int * 2 }}{% elif plan %}x{% else %}y{% endif %}",
        "{% for item in items|split(';') %}{{ loop.index }}. {{ item|trim|upper }}{% if not loop.last %}, {% endif %}{% endfor %}",
        "{% for line in items|split(';') %}{% set parts = line|split(',') %}<td>{{ parts[0] }}</td><td>{{ parts|last|int * 108 // 100 }}</td>{% endfor %}",
        "{{ tags|split(',')|map('trim')|unique|sort|join(', ') }}",
        "{% set greeting = 'Dear ' ~ title ~ ' ' ~ name %}{{ greeting }}! {{ greeting|replace(' ', '&nbsp;')|safe }}",
        "{{ text|escape|replace('\\n', '<br>\\n')|safe }}",
        "{% set box %}<b>{{ name }}</b>{% endset %}{{ box }}{{ box }}",
        "{% with a = name, b = code %}{{ a ~ b }}{% endwith %}",
        "{% set shown = false %}{% for c in code %}{% if c == 'x' %}{% set shown = true %}{% endif %}{% endfor %}",
        "{% for n in range(10) %}{{ loop.cycle('odd', 'even') }} {{ '-' * 20 }}{% endfor %}",
        "{% filter upper %}{{ name }}{% endfilter %}",
        "{{ {'gold': 'Gold', 'free': 'Free'}[plan] }} {{ [1, 2, 3]|sum }} {{ ['a', 'b']|last }}",
        "{% raw %}{% set x = x ~ x %}{% endraw %} {# {{ #}",
        "{{ not closed",
    ] {
        assert_eq!(refusal(source), None, "{source}");
    }
    let table = "<tr><td>{{ name|upper }}</td><td>{{ code|replace('-', ' ')|title }}</td></tr>\n";
    assert_eq!(refusal(&table.repeat(5_000)), None);
    let sets: String = (0..200)
        .map(|n| format!("{{% set v{n} = name ~ '{n}' %}}\n"))
        .collect();
    assert_eq!(refusal(&sets), None);
}

#[test]
fn what_could_take_any_memory_is_refused_with_its_line() {
    let doubling = "\n{% set x = name %}\n".to_owned() + &"{% set x = x ~ x %}\n".repeat(40);
    let lists = "{% set x = [name, name] %}".to_owned() + &"{% set x = [x, x] %}\n".repeat(40);
    let captures = "{% set x %}{{ name }}{% endset %}".to_owned()
        + &"{% set x %}{{ x }}{{ x }}{% endset %}\n".repeat(30);
    let withs = "{% with a = name %}".to_owned()
        + &"{% with a = a ~ a ~ a %}".repeat(20)
        + &"{% endwith %}".repeat(21);
    let loops = "{% for a in range(9) %}".repeat(60) + &"{% endfor %}".repeat(60);
    let terms = format!("{{{{ {} }}}}", "name ~ ".repeat(600) + "name");
    let branches = format!(
        "{{% if name %}}{}{{% endif %}}",
        "{% elif code %}".repeat(2_000)
    );
    for (source, said) in [
        (&*doubling, "line 13: may take more than 64 MiB"),
        (&lists, "may take more than 64 MiB"),
        (&captures, "may take more than 64 MiB"),
        (&withs, "may take more than 64 MiB"),
        (&loops, "nested too deeply"),
        (&terms, "a tag has more than 1000 words"),
        (&branches, "an if has more than 1000 branches"),
        (
            "{% for n in range(99) %}\n{% set x = (x|default(name)) ~ name %}{% endfor %}",
            "line 1: x grows with each turn",
        ),
        (
            "{% set ns = namespace(x=name) %}{% for n in range(99) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
            "a namespace may grow",
        ),
        ("{% set x.y = name %}", "only variables can be set"),
        (
            "{% set x %}{% for n in range(100000) %}{{ name }}{% endfor %}{% endset %}",
            "may take more",
        ),
        (
            "{% filter upper %}{% for n in name %}{{ name }}{% endfor %}{% endfilter %}",
            "may take more",
        ),
        (
            "{% for n in name recursive %}{{ loop(name) }}{% endfor %}",
            "a recursive loop",
        ),
        ("{{ name|replace('a', code)|length }}", "may take more"),
        (
            "{{ name|replace(code, 'a long replacement' * 9000)|length }}",
            "may take more",
        ),
        ("{{ name|join(name) }}", "may take more"),
        ("{{ range(100000)|join(name) }}", "may take more"),
        (
            "{{ range(100000)|map('replace', '1', name)|list|length }}",
            "map() takes one of these",
        ),
        (
            "{{ name|batch(1000000000, 'x') }}",
            "the filter batch may take any memory",
        ),
        ("{{ 'x' * 100000000 }}", "may take more"),
        ("{{ name * code|int }}", "as often as a value says"),
        ("{{ name * 2000 }}", "may take more"),
        ("{{ [name] * 100000 }}", "may take more"),
        ("{{ name.upper() }}", "upper() is not known"),
    ] {
        let refusal = refusal(source).unwrap_or_default();
        assert!(refusal.contains(said), "{source}: {refusal}");
    }
}
