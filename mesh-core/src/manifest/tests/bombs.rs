//! Little text must not become much work, much memory, or a message that is not one short line. What fuzzing found is here.

use super::*;
use crate::manifest::Checked;

fn load(files: &[(&str, &str)]) -> Result<Checked, Vec<String>> {
    Checked::load(files.iter().copied()).map_err(|errors| errors.iter().map(ToString::to_string).collect())
}

#[test]
fn a_directory_name_with_control_characters_stays_out_of_the_terminal() {
    let errors = load(&[("clusters/ea\u{1b}[2Jst/all.yaml", "")]).expect_err("no cluster's name");
    let message = errors[0].rsplit(": ").nth(1).expect("file: message: form");
    assert!(!message.contains('\u{1b}') && message.contains("'ea [2Jst'"), "{errors:?}");
}

#[test]
fn a_long_key_is_not_told_again_in_every_mistake_below_it() {
    let key = "k".repeat(20_000);
    let values: String = (0..500).map(|index| format!("x{index}: 1, ")).collect();
    let told = |errors: &[ManifestError]| errors.iter().map(|error| error.to_string().len()).sum::<usize>();

    let unknown = parse_fleet("fleet.yaml", &format!("clusters:\n  ? {key}\n  : {{{values}}}\n")).expect_err("no such fields");
    assert!(unknown.len() > 500 && told(&unknown) < 1_000_000, "{} bytes", told(&unknown));

    let twice = read(&format!("? {key}\n: [{{{values}{values}}}]\n")).errors;
    assert!(twice.len() > 500 && told(&twice) < 1_000_000, "{} bytes", told(&twice));

    let number = "1".repeat(20_000);
    let pod =
        read(&format!("{{apiVersion: v1, kind: Pod, metadata: {{name: &n {number}, namespace: *n, labels: {{a: *n, b: *n}}}}}}"));
    assert!(!pod.errors.is_empty() && told(&pod.errors) < 10_000, "{} bytes", told(&pod.errors));
}

#[test]
fn a_long_merged_key_is_shared() {
    let text = format!("base: &b {{? {}\n : 1}}\nuse: [{}]\n", "k".repeat(500_000), "{<<: *b},".repeat(20_000));
    assert_eq!(read(&text).errors.len(), 2, "apiVersion and kind are missing");
}

#[test]
fn a_slice_has_no_more_endpoints_and_ports_than_the_api_allows() {
    let slice = |endpoints: usize, ports: usize| {
        let endpoints = "*e,".repeat(endpoints - 1);
        let ports = "*p,".repeat(ports - 1);
        read(&format!(
            "{{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {{name: a, labels: {{kubernetes.io/service-name: a}}}},
               addressType: IPv4, endpoints: [&e {{addresses: [10.0.0.1]}},{endpoints}], ports: [&p {{port: 1}},{ports}]}}"
        ))
    };
    assert!(slice(1000, 100).errors.is_empty());
    let errors: Vec<_> = slice(20_000, 101).errors.iter().map(|error| format!("{}: {}", error.field, error.message)).collect();
    assert_eq!(errors, ["endpoints: has 20000 items, 1000 are allowed", "ports: has 101 items, 100 are allowed"]);
}

#[test]
fn overlapping_grants_are_told_once_for_each_prefix() {
    let repeat = |count: usize| "*p,".repeat(count);
    let text = format!(
        "clusters: {{a: {{prefixes: [&p 10.0.0.0/8,{}]}}, b: {{prefixes: [{}]}}, c: {{prefixes: [10.1.2.0/24, 11.0.0.0/8, 0.0.0.0/0]}}, d: {{prefixes: ['::/0']}}}}",
        repeat(20_000),
        repeat(20_000)
    );
    let warnings = parse_fleet("fleet.yaml", &text).expect("a fleet").warnings;
    let told: Vec<_> = warnings.iter().map(|warning| warning.message.as_str()).collect();
    assert_eq!(told.len(), 20_002);
    let last = |n: usize| told[told.len() - n];
    assert_eq!(last(2), "10.1.2.0/24 overlaps 10.0.0.0/8 of cluster a: both may speak for the same addresses");
    assert_eq!(last(1), "0.0.0.0/0 overlaps 10.0.0.0/8 of cluster a: both may speak for the same addresses");
}
