//! Templates of strangers: whatever they ask for, an error comes within a second, and neither an abort nor gigabytes.

use super::render;
use crate::text::{ChatOptions, Message, TextError};
use std::collections::BTreeMap;
use std::time::Duration;

/// In the product no template may take more than a second. Tests are compiled with fewer optimizations and with checks of overflow,
/// which makes this of it; the slowest template here takes a tenth.
const BOUND: Duration = Duration::from_secs(2);

/// How long this thread has been computing, in steps of 10 ms: what else the machine does meanwhile does not count.
#[cfg(target_os = "linux")]
fn computed() -> Duration {
    let stat = std::fs::read_to_string("/proc/thread-self/stat").unwrap();
    // The name of the thread, in brackets, may have spaces. User and system time are the 14th and 15th field, in hundredths.
    let fields = stat.rsplit_once(')').unwrap().1.split_whitespace();
    let ticks: u64 = fields.skip(11).take(2).map(|ticks| ticks.parse::<u64>().unwrap()).sum();
    Duration::from_millis(10 * ticks)
}

/// Elsewhere the time that passes has to do.
#[cfg(not(target_os = "linux"))]
fn computed() -> Duration {
    static BEGAN: std::sync::LazyLock<std::time::Instant> = std::sync::LazyLock::new(std::time::Instant::now);
    BEGAN.elapsed()
}

fn refused(name: &str, template: &str) {
    let messages = [Message::user("Hi"), Message::assistant("Hello")];
    let work = || {
        let began = computed();
        let rendered = render(template, &BTreeMap::new(), &messages, &ChatOptions::default(), None);
        (rendered, computed() - began)
    };
    // The stack of WebAssembly.
    let (rendered, took) = std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().stack_size(2 << 20).spawn_scoped(scope, work).unwrap();
        thread.join().unwrap()
    });
    println!("{name:.60}: {took:?}");
    assert!(matches!(rendered, Err(TextError::Template { .. })), "{name}: {:.80?}", rendered.map(|text| text.len()));
    assert!(took < BOUND, "{name}: {took:?}");
}

/// The clock of these tests moves while they compute: a bound that nothing can reach would catch nothing.
#[test]
fn computing_takes_time_and_waiting_does_not() {
    let began = computed();
    std::thread::sleep(Duration::from_millis(300));
    if cfg!(target_os = "linux") {
        assert!(computed() - began < Duration::from_millis(100));
    }
    let passed = std::time::Instant::now();
    let mut number = 1_u64;
    while computed() - began < Duration::from_millis(50) {
        number = std::hint::black_box(number).wrapping_mul(3);
        assert!(passed.elapsed() < Duration::from_secs(60), "{number}");
    }
}

#[test]
fn values_nested_or_doubled_without_end_are_refused() {
    let nest =
        "{% set ns = namespace(a=[1], b=[1]) %}{% for i in range(N) %}{% set ns.a = [X] %}{% set ns.b = [Y] %}{% endfor %}";
    for (count, a, b) in [("90000", "ns.a", "ns.b"), ("40", "ns.a, ns.a", "ns.b, ns.b")] {
        let nest = nest.replace('N', count).replace('X', a).replace('Y', b);
        for end in [
            "ns.a == ns.b",
            "ns.a|string",
            "ns.a|tojson",
            "ns.a in [ns.b]",
            "[ns.a, ns.b]|sort",
            "ns.a < ns.b",
            "[ns.a]|unique|list",
        ] {
            refused(end, &format!("{nest}{{{{ {end} }}}}"));
        }
    }
    refused(
        "add",
        "{% set ns = namespace(a=[1, 2]) %}{% for i in range(34) %}{% set ns.a = ns.a + ns.a %}{% endfor %}{{ ns.a|length }}",
    );
    refused(
        "text",
        "{% set ns = namespace(a='ab') %}{% for i in range(40) %}{% set ns.a = ns.a ~ ns.a %}{% endfor %}{{ ns.a|length }}",
    );
    refused("map", "{% set ns = namespace(a={}) %}{% for i in range(9000) %}{% set ns.a = {'a': ns.a} %}{% endfor %}{{ ns.a }}");
    refused(
        "macro",
        "{% macro f(a, n) %}{% if n %}{{ f([[[[[[[[a]]]]]]]], n - 1) }}{% else %}{{ a == a|list }}{% endif %}{% endmacro %}{{ f(1, 200) }}",
    );
    refused(
        "doubling macro",
        "{% macro f(a, n) %}{% if n %}{{ f([a, a], n - 1) }}{% else %}{{ a|string|length }}{% endif %}{% endmacro %}{{ f(1, 60) }}",
    );
    refused("loop", "{% for x in [[1]] recursive %}{{ loop([[[[x]]]]) }}{% endfor %}");
    refused("itself", "{% set ns = namespace() %}{% set ns.a = [ns] %}{% set ns.b = [ns] %}{{ [ns.a, ns.b] }}");
    refused("cycle", "{% set ns = namespace() %}{% set ns.a = ns %}{{ {ns: 1} }}");
    let other = "{% set a = namespace() %}{% set b = namespace(x=a) %}{% set a.y = [{'b': b}] %}";
    refused("cycle of two", &format!("{other}{{{{ {{a: 1}} }}}}"));
    refused(
        "nested keys",
        "{% set ns = namespace(a=[1]) %}{% for i in range(9000) %}{% set ns.a = [ns.a] %}{% endfor %}{{ {ns.a: 1} }}",
    );
    let sets = "{% set x = [[x]] %}".repeat(20_000);
    refused("sets", &format!("{{% set x = [] %}}{sets}{{{{ x }}}}"));
}

#[test]
fn texts_that_multiply_are_refused() {
    refused("indent", "{{ {'a': [[[1]]]}|tojson(indent='a' * 1000000) }}");
    refused("separators", "{{ [1, 2]|tojson(separators=['a' * 1000000, 'b']) }}");
    for template in [
        "'{:>4000000000}'.format(1)",
        "'{:.400000000f}'.format(1.5)",
        "'%4000000000d' % 1",
        "'%.400000000f' % 1.5",
        "'%4000000000d'|format(1)",
        "('y' * 100000).join(['a'] * 100000)|length",
        "(['a'] * 100000)|join('y' * 100000)|length",
        "('x' * 60000000).split('x')|length",
        "('x ' * 30000000).split()|length",
        "('x\n' * 30000000).splitlines()|length",
        "('x' * 30000)|replace('x', 'y' * 30000)|length",
        "('x' * 30000).replace('x', 'y' * 30000)|length",
        "('x' * 30000).replace('', 'y' * 30000)|length",
        "'a'|indent(4000000000)|length",
        "('a\n' * 100000)|indent(100000)|length",
        "'a'.center(4000000000)|length",
        "'\t'.expandtabs(4000000000)|length",
        "('a' * 100000)|wordwrap(1, wrapstring='y' * 100000)|length",
        "[('x' * 1000000)] * 10000000",
        "range(100000)|map('string')|join('y' * 10000)",
        "(('x' * 1000000).translate({120: 'y' * 10000}))|length",
        "2 ** 100000000",
    ] {
        refused(template, &format!("{{{{ {template} }}}}"));
    }
}

#[test]
fn looking_for_ever_is_refused() {
    for template in [
        "'zz' in s",
        "s == t",
        "s is in t",
        "s.count('b')",
        "s|upper|length",
        "[s, t]|sort|length",
        "[s, t]|unique|list|length",
        "[s]|select('in', [t])|list|length",
        "s ~ t",
        "s.find('q')",
        "[s]|select('equalto', t)|list|length",
    ] {
        let twice = "{% set s = 'x' * 4000000 %}{% set t = 'x' * 4000000 ~ '' %}";
        refused(template, &format!("{twice}{{% for i in range(100000) %}}{{% if {template} %}}{{% endif %}}{{% endfor %}}"));
    }
}

#[test]
fn expressions_without_end_are_refused() {
    let many = 100_000;
    for template in [
        format!("{{{{ {}1 }}}}", "not ".repeat(many)),
        format!("{{{{ 1{} }}}}", "+1".repeat(many)),
        format!("{{{{ 'x'{} }}}}", "|upper".repeat(many)),
        format!("{{{{ {}1 }}}}", "-".repeat(many)),
        format!("{{{{ 1{} }}}}", "~1".repeat(many)),
        format!("{{{{ 1{} }}}}", " is none".repeat(many)),
        format!("{{{{ 1{} }}}}", " if 1 else 1".repeat(many)),
        format!("{{{{ 1{} }}}}", " and 1".repeat(many)),
        format!("{{{{ 1{} }}}}", " == 1".repeat(many)),
        format!("{{{{ x{} }}}}", ".x".repeat(many)),
        format!("{{{{ x{} }}}}", "[0]".repeat(many)),
        format!("{{{{ x{} }}}}", "()".repeat(many)),
        format!("{{{{ 1{} }}}}", "**1".repeat(many)),
        format!("{{{{ {}1{} }}}}", "(".repeat(many), ")".repeat(many)),
        format!("{{{{ {}1{} }}}}", "[".repeat(many), "]".repeat(many)),
        format!("{}{}", "{% if 1 %}".repeat(many), "{% endif %}".repeat(many)),
        format!("{{% if 0 %}}{}{{% endif %}}", "{% elif 0 %}".repeat(many)),
        format!("{}{}", "{% for i in [1] %}".repeat(many), "{% endfor %}".repeat(many)),
    ] {
        refused(&template[..30], &template);
    }
}
