//! The table of `docs/adversaries.md`.

#![allow(clippy::disallowed_methods, reason = "the docs are files")]

use std::fmt::Write as _;
use std::fs;

use super::{authority, claims, floods, history, restarts};
use crate::adversary::Lie;

const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/adversaries.md");

/// The lies that are told to somebody else than a state: what is done, what becomes of it, where, and the test.
const ELSEWHERE: &[(&str, &str, &str, &str)] = &[
    (
        "a node announces itself as another node, or as one of another cluster",
        "counted as a mismatch",
        "mesh-source/tests/inbox.rs",
        "a_file_speaks_for_its_own_node_only",
    ),
    (
        "a store offers a mirror records of clusters that are not its own",
        "not copied",
        "mesh-source/tests/store.rs",
        "a_mirror_copies_what_it_is_told_and_nothing_else",
    ),
];

fn table() -> String {
    let mut text = String::from(
        "# Ways to lie, and what becomes of them\n\n\
         Each row is a test. Those of mesh-core are told to one victim (`mesh-core/tests/trust/adversary.rs`) that knows honest facts\n\
         of two other clusters. After the lie it believes what it believed before (all facts, who is behind each address, how fresh\n\
         each cluster is), each refusal has been counted and told with its reason, and what is kept of it stays under the limits\n\
         (`mesh_core::state::Limits`). Verdicts and plans are functions of what is believed. A reason of `-` means that nothing is\n\
         refused, because nothing new is said. `MESH_WRITE_DOCS=1 cargo test -p mesh-core --test trust docs` writes this file.\n",
    );
    let parts: [(&str, &[Lie]); 5] = [
        ("A cluster that says more than its grant lets it", claims::LIES),
        ("Somebody without a say, or whose say is over", authority::LIES),
        ("Old, changed, reordered, missing, and two-faced", history::LIES),
        ("Floods", floods::LIES),
        ("Between two lives of the victim", restarts::LIES),
    ];
    for (title, lies) in parts {
        let _ = write!(text, "\n## {title}\n\n| the liar | refused as | test |\n| --- | --- | --- |\n");
        for lie in lies {
            let reasons: Vec<String> = lie.reasons.iter().map(|reason| format!("`{}`", reason.as_str())).collect();
            let reasons = if reasons.is_empty() { "-".into() } else { reasons.join(", ") };
            let _ = writeln!(text, "| {} | {reasons} | `{}` |", lie.did, lie.name);
        }
    }
    text.push_str("\n## Told to somebody else\n\n| the lie | becomes | test |\n| --- | --- | --- |\n");
    for (did, becomes, file, test) in ELSEWHERE {
        let _ = writeln!(text, "| {did} | {becomes} | `{file}`: `{test}` |");
    }
    text
}

#[test]
fn the_table_of_lies_is_the_one_in_the_docs() {
    let table = table();
    if std::env::var_os("MESH_WRITE_DOCS").is_some() {
        fs::write(FILE, &table).expect("written");
    }
    assert_eq!(fs::read_to_string(FILE).expect("docs/adversaries.md"), table, "MESH_WRITE_DOCS=1 writes it anew");
    for (_, _, file, test) in ELSEWHERE {
        let path = format!("{}/../{file}", env!("CARGO_MANIFEST_DIR"));
        assert!(fs::read_to_string(&path).expect("a file").contains(&format!("fn {test}(")), "{file} has no test {test}");
    }
    assert!(table.matches("\n| ").count() > 45);
}
