//! Probes: a question and what is expected, in one line.

use mesh_policy::check::Query;
use serde_json::{Value, json};

/// `<from> -> <to>:<port>/<protocol> <allow|deny> [egress [<verdict>] <tier> [<rule>] [(<reason>)]] [ingress …]`, or `:icmp` for
/// the port.
///
/// An end is a pod or an address; `@<address>` after it is the connection's own address, and an IPv6 address before the port
/// stands in brackets. A side that is not told is not looked at; its verdict is the whole one where it is not told; a side
/// without a rule is decided by none. The checker's answers have no reason of their own: it is compared where one is told.
#[derive(Clone, Debug)]
pub struct PolicyProbe {
    /// The question.
    pub query: Query,
    /// The question as a line for the checker.
    pub line: String,
    /// The whole verdict.
    pub verdict: String,
    /// What is expected of each side: egress, ingress.
    pub sides: [Option<Value>; 2],
    /// The reason that is expected of each side.
    pub reasons: [Option<String>; 2],
}

impl PolicyProbe {
    /// Reads a probe.
    ///
    /// # Errors
    /// Returns what cannot be read.
    pub fn read(text: &str) -> Result<PolicyProbe, String> {
        let words: Vec<&str> = text.split_whitespace().collect();
        let [from, "->", to, verdict, rest @ ..] = words.as_slice() else {
            return Err(format!("not of the form '<from> -> <to>:<port>/<protocol> <verdict> …': {text}"));
        };
        let (to, port) = to.rsplit_once(':').ok_or_else(|| format!("no port: {text}"))?;
        let (port, protocol) = port.split_once('/').map_or((None, port), |(port, protocol)| (Some(port), protocol));
        let port: Option<u16> = port.map(str::parse).transpose().map_err(|_| format!("not a port: {text}"))?;
        let end = |text: &str| {
            let (who, at) = text.split_once('@').map_or((text, None), |(who, at)| (who, Some(at)));
            let plain = |text: &str| text.trim_matches(['[', ']']).to_owned();
            (plain(who), at.map(plain))
        };
        let ((from, src), (to, dst)) = (end(from), end(to));
        let line = json!({
            "id": text, "from": from, "to": to, "protocol": protocol.to_ascii_uppercase(), "port": port,
            "src_ip": src, "dst_ip": dst,
        });
        let line = line.to_string();
        let query = Query::parse(&line).map_err(|error| format!("{error}: {text}"))?;
        if !matches!(*verdict, "allow" | "deny") {
            return Err(format!("'{verdict}' is no verdict: {text}"));
        }
        let sides = ["egress", "ingress"].map(|name| side(name, verdict, rest));
        let reasons = ["egress", "ingress"].map(|name| reason(name, rest));
        Ok(PolicyProbe { query, line, verdict: (*verdict).to_owned(), sides, reasons })
    }

    /// Returns what differs from `told`: the whole verdict, and the two sides as the checker writes them.
    pub fn compare(&self, told: &Value) -> Result<(), String> {
        let same = |index: usize, name: &str| {
            let (side, reason) = (&told[name], &told[name]["reason"]);
            let fields = |expected: &Value| ["verdict", "tier", "rule"].iter().all(|field| expected[field] == side[field]);
            self.sides[index].as_ref().is_none_or(fields)
                && self.reasons[index].as_ref().is_none_or(|expected| reason.is_null() || *reason == **expected)
        };
        if told["verdict"] == *self.verdict && same(0, "egress") && same(1, "ingress") {
            return Ok(());
        }
        Err(format!("told {told}"))
    }

    /// Tells whether an end's address may be another's than the one who is named: only the checker takes the word for that.
    pub fn claims(&self) -> bool {
        self.query.src_ip.is_some() || self.query.dst_ip.is_some()
    }
}

/// Returns the words about the side `name`.
fn of_side<'a>(name: &str, words: &[&'a str]) -> Option<Vec<&'a str>> {
    let at = words.iter().position(|word| *word == name)?;
    Some(words[at + 1..].iter().copied().take_while(|word| !matches!(*word, "egress" | "ingress")).collect())
}

/// Reads the reason that is expected of the side `name`: the word in brackets.
fn reason(name: &str, words: &[&str]) -> Option<String> {
    let own = of_side(name, words)?;
    own.iter().find_map(|word| word.strip_prefix('(')?.strip_suffix(')')).map(str::to_owned)
}

/// Reads what is expected of the side `name`.
fn side(name: &str, verdict: &str, words: &[&str]) -> Option<Value> {
    let mut own = of_side(name, words)?;
    own.retain(|word| !word.starts_with('('));
    let (verdict, rest) = match own.as_slice() {
        [word @ ("allow" | "deny"), rest @ ..] => (*word, rest),
        rest => (verdict, rest),
    };
    Some(json!({"verdict": verdict, "tier": rest.first(), "rule": rest.get(1)}))
}

/// `<cluster> <name> <type> <rcode> [soa] [<record>, <record> …]`.
#[derive(Clone, Debug)]
pub struct DnsProbe {
    /// The cluster whose workload asks.
    pub cluster: String,
    /// The name.
    pub name: String,
    /// The record type.
    pub rtype: String,
    /// `NOERROR`, `NXDOMAIN`, `FORWARD`, …
    pub rcode: String,
    /// The reply has the zone's SOA record.
    pub soa: bool,
    /// The records, in the order of the text.
    pub answer: Vec<String>,
}

impl DnsProbe {
    /// Reads a probe.
    ///
    /// # Errors
    /// Returns what cannot be read.
    pub fn read(text: &str) -> Result<DnsProbe, String> {
        let words: Vec<&str> = text.split_whitespace().collect();
        let [cluster, name, rtype, rcode, rest @ ..] = words.as_slice() else {
            return Err(format!("not of the form '<cluster> <name> <type> <rcode> …': {text}"));
        };
        let (soa, rest) = match rest {
            ["soa", rest @ ..] => (true, rest),
            rest => (false, rest),
        };
        let rest = rest.join(" ");
        let answer = rest.split(", ").filter(|record| !record.is_empty()).map(str::to_owned).collect();
        let [cluster, name, rtype, rcode] = [cluster, name, rtype, rcode].map(|word| (*word).to_owned());
        Ok(DnsProbe { cluster, name, rtype, rcode, soa, answer })
    }

    /// Returns the question as a line for the checker.
    pub fn line(&self) -> String {
        json!({"id": self.name, "cluster": self.cluster, "name": self.name, "type": self.rtype}).to_string()
    }

    /// Returns the answer that the checker must give, whole.
    pub fn expected(&self) -> Value {
        let mut answer = self.answer.clone();
        answer.sort();
        json!({"id": self.name, "rcode": self.rcode, "answer": answer, "soa": self.soa})
    }
}
