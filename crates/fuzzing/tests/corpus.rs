//! Every fuzz target on inputs that matter, and on these mangled in a way that is the same each time.

use std::fs;
use std::path::Path;

use outrigger_fuzzing::TARGETS;

/// Inputs by target; `\0` separates texts.
const SEEDS: &[(&str, &[&str])] = &[
    (
        "access_control",
        &[
            "open/x\0/open/*\0spiffe://public/ns/shop/web",
            "/closed/x",
            "x/../open/a",
            "open/../closed/a",
            "..%2fopen/a",
            "%2e%2e/closed/%2e/a",
            "open%2f..%2fclosed/a",
            "OPEN/x",
            "%63losed/x",
            "open/%252e%252e/closed/a",
            "%2563%256cosed%252fx",
            "open%25252f..%25252f..",
            "%63%/x%2",
            "%2525252525252525252563losed/x",
            "//closed//x",
            "closed/\u{212a}",
            "open/\u{130}\0/*/x/*",
            "openx/a",
            "open",
            "closed/./x/..\0/closed/**",
            "a#b",
            "a?b=c",
        ],
    ),
    (
        "bundle",
        &[
            "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n\0a\0b",
            "",
            "\0\0",
        ],
    ),
    (
        "cloud_event",
        &[
            "application/json\0traceid\0a\0{\"specversion\":\"1.0\",\"id\":\"1\",\"source\":\"a\",\"type\":\"t\",\"data\":{\"n\":1e400}}",
            "application/cloudevents+json\0ttlInSeconds\x005\0{\"id\":\"1\",\"expiration\":\"2020-01-01T00:00:00Z\"}",
            "application/octet-stream\0rawPayload\0true\0\u{1}\u{2}",
            "text/plain\0\0\0hello",
            "\0\0\0{\"data_base64\":\"AAE=\",\"datacontenttype\":\"application/octet-stream\"}",
            "\0ce-id\0x\0{\"data_base64\":5}",
            "\0\0\0{\"data\":\"\\ud800<&>\"}",
        ],
    ),
    (
        "csr",
        &[
            "-----BEGIN CERTIFICATE REQUEST-----\nMAA=\n-----END CERTIFICATE REQUEST-----\n",
            "0\u{2}0",
        ],
    ),
    (
        "duration",
        &[
            "1h2m3s",
            "-5s",
            "1.5h",
            "300ms",
            "9223372036854775807ns",
            "-9223372036854775808ns",
            "0",
            "",
            "5",
            "1Ki",
            "2562047h47m16.854775807s",
            ".5s",
            "1µs",
        ],
    ),
    (
        "internal_frames",
        &[
            "\0\0\0\0\u{3}\n\u{1}a",
            "\0\0\0\0\0\0\0\0\0\0",
            "\0\u{7f}\u{7f}\u{7f}\u{7f}",
        ],
    ),
    (
        "json",
        &[
            "{\"a\":[1,2.50,1e3,null,true,\"\\u0041\\ud83d\\ude00\"]}",
            "\"\\ud800\"",
            "[[[[]]]]",
            "1e999",
            "-0",
            "{\"a\":1,\"a\":2}",
            " 1 2",
        ],
    ),
    (
        "placement",
        &[
            "\0\u{14}\n\u{5}a:123\u{1a}\u{1}t*\u{3}app2\u{3}foo\0\0",
            "\u{1}\u{c}\n\u{3}b:1\u{1a}\u{1}t*\u{2}ab\u{9}\0\u{5}\0",
            "\0\u{6}\n\u{4}a:12\u{c}\0\0\u{6}\n\u{4}a:12",
        ],
    ),
    (
        "routing_rule",
        &[
            "event.type == \"a\" && event.data.n > 5\0{\"type\":\"a\",\"data\":{\"n\":7}}",
            "event.data.items.exists(i, i.price > 10.5)\0{\"data\":{\"items\":[{\"price\":11}]}}",
            "event.type.matches(\"^(a+)+$\")\0{\"type\":\"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa!\"}",
            "((((((((((1))))))))))",
            "size(event.data) % 0 == 1\0{\"data\":\"x\"}",
            "[1,2,3].map(x, x * 9223372036854775807)",
            "timestamp(\"2020-01-01T00:00:00Z\") + duration(\"1h\")",
            "'\\x4",
        ],
    ),
    (
        "schedule",
        &[
            "*/5 * * * * *\x0010s\x001h\x003",
            "@every 1s\x002020-01-01T00:00:00Z\0P1Y",
            "R5/PT1H\0\0",
            "0 0 30 2 *",
            "CRON_TZ=Europe/Berlin 30 2 * * *",
            "TZ=Nowhere/At 1 * * * *",
            "@every 999999999h\0-5s\x000s",
            "59 59 23 31 12 ? 2099",
            "@yearly",
            "1-60/0 * * * *",
        ],
    ),
    (
        "spiffe_id",
        &[
            "spiffe://public/ns/shop/web",
            "spiffe://a.b-c/x",
            "spiffe://",
            "spiffe://A/b",
            "spiffe://a//b",
            "spiffe://a/../b",
            "a.b",
        ],
    ),
    (
        "token",
        &[
            "{\"keys\":[{\"kty\":\"oct\",\"k\":\"AA\"}]}\0eyJhbGciOiJub25lIn0.eyJhdWQiOiJhIn0.",
            "{\"keys\":[]}\0a.b.c",
            "\0..",
            "{\"keys\":[{\"kty\":\"RSA\",\"n\":\"AQ\",\"e\":\"AQAB\"}]}\0eyJhbGciOiJSUzI1NiJ9.e30.AA",
        ],
    ),
    (
        "trace_context",
        &[
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\0a=b\0k=v;p=1,x=%20",
            "ff-00000000000000000000000000000000-0000000000000000-00",
            "\0\u{0}\u{1}",
            "\0\0k=v,k=w , =, é=1",
        ],
    ),
];

/// Changed copies of an input: cut, bytes flipped, doubled, spliced with another.
fn mangled(input: &[u8], other: &[u8], round: u64) -> Vec<u8> {
    // xorshift: the same in each run.
    let mut state = 0x9e37_79b9_7f4a_7c15 ^ (round + 1).wrapping_mul(0x2545_f491_4f6c_dd1d);
    let mut next = |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state % (below.max(1) as u64)).unwrap_or_default()
    };
    let mut out = input.to_vec();
    for _ in 0..=next(3) {
        let at = next(out.len());
        match next(5) {
            0 => out.truncate(at),
            1 if !out.is_empty() => out[at] = u8::try_from(next(256)).unwrap_or_default(),
            2 => out.extend_from_slice(&other[..next(other.len() + 1)]),
            3 => out.insert(at, b"/.%\0{}\"0-*"[next(10)]),
            _ => {
                let piece = out[at..].to_vec();
                out.splice(at..at, piece);
                out.truncate(4096);
            }
        }
    }
    out
}

#[test]
fn every_target_holds_on_what_matters_and_on_mangled_copies_of_it() {
    for (name, target) in TARGETS {
        let seeds = SEEDS.iter().find(|(of, _)| of == name).map(|(_, seeds)| *seeds);
        let seeds = seeds.unwrap_or_else(|| panic!("{name} has no inputs here"));
        target(b"");
        target(&[0xff; 64]);
        for (number, seed) in seeds.iter().enumerate() {
            target(seed.as_bytes());
            let other = seeds[(number + 1) % seeds.len()];
            for round in 0..150 {
                target(&mangled(seed.as_bytes(), other.as_bytes(), round));
            }
        }
    }
}

#[test]
fn the_fuzzer_has_a_file_and_a_row_for_each_target_and_no_other() {
    let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz");
    let mut files: Vec<String> = fs::read_dir(fuzz.join("fuzz_targets"))
        .expect("the folder of the targets")
        .map(|file| {
            file.expect("its entry")
                .file_name()
                .to_string_lossy()
                .into_owned()
        })
        .collect();
    files.sort();
    let names = TARGETS.iter().map(|(name, _)| *name);
    assert_eq!(
        files,
        names.clone().map(|name| format!("{name}.rs")).collect::<Vec<_>>()
    );
    let manifest = fs::read_to_string(fuzz.join("Cargo.toml")).expect("its manifest");
    for name in names {
        assert!(
            manifest.contains(&format!("path = \"fuzz_targets/{name}.rs\"")),
            "{name} has no row in fuzz/Cargo.toml"
        );
        let source = fs::read_to_string(fuzz.join(format!("fuzz_targets/{name}.rs"))).expect("the target");
        assert!(source.contains(&format!("run(\"{name}\", input)")), "{source}");
    }
}
