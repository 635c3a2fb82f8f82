//! `meshctl dns query`: what the running agent's DNS server answers, zone, cache and upstreams included.

use std::fmt::Write;
use std::net::IpAddr;

use clap::Args;
use mesh_discovery::{Answer, AnswerRecord};

use crate::cli::agent::{Output, Target};
use crate::client::{Client, ClientError};

/// A question to the running agent.
#[derive(Args, Clone, Debug)]
pub struct QueryArgs {
    /// The whole name, as the search list of a pod would complete it; or an address, for its names
    #[arg(value_name = "NAME")]
    pub name: String,
    /// The record type: A, AAAA, SRV, TXT, PTR, CNAME, …  [default: A; PTR for an address]
    #[arg(long = "type", short = 't', value_name = "TYPE")]
    pub rtype: Option<String>,
    /// The same as --output json
    #[arg(long)]
    pub json: bool,
    /// Which agent is asked, and how the answer is printed.
    #[command(flatten)]
    pub target: Target,
}

/// What `--help` adds.
pub const QUERY_HELP: &str = "\
The agent answers as it answers the workloads of its node, from its zones, its cache, or its upstreams. Only root may ask.

  meshctl dns query db.shop.svc.clusterset.local             the clusterset IP, or the ready endpoints of a headless service
  meshctl dns query db.shop.svc.cluster.local                this cluster's own service
  meshctl dns query -t SRV _pg._tcp.db.shop.svc.clusterset.local
  meshctl dns query db-0.east.db.shop.svc.clusterset.local   one endpoint of a headless service, in cluster east
  meshctl dns query 10.2.0.5                                 the names of an address
  meshctl dns query dns-version.clusterset.local -t TXT      the version of the DNS schema

Without an agent, by manifests: meshctl dns check --help

Exit status: 0 NOERROR (also where there is no record of that type), 1 NXDOMAIN or another code, or nobody could be asked.";

/// Asks, and prints the answer; returns whether its code is NOERROR.
pub async fn query(args: &QueryArgs) -> Result<bool, ClientError> {
    let (name, rtype) = match args.name.parse::<IpAddr>() {
        Ok(address) => (reverse(address), args.rtype.as_deref().unwrap_or("PTR")),
        Err(_) => (args.name.clone(), args.rtype.as_deref().unwrap_or("A")),
    };
    let path = format!("/dns?name={}&type={}", encoded(&name), encoded(rtype));
    let answer: Answer = Client::new(&args.target.socket).json(&path).await?;
    if args.json || args.target.output == Output::Json {
        println!("{}", serde_json::to_string_pretty(&answer).expect("an answer is JSON"));
    } else {
        print!("{}", describe(&answer));
    }
    Ok(answer.rcode == "NOERROR")
}

/// Returns the name at which the names of an address are (RFC 1035 §3.5, RFC 3596 §2.5).
fn reverse(address: IpAddr) -> String {
    match address {
        IpAddr::V4(address) => {
            let [a, b, c, d] = address.octets();
            format!("{d}.{c}.{b}.{a}.in-addr.arpa")
        }
        IpAddr::V6(address) => {
            let nibbles = address.octets().into_iter().rev().flat_map(|byte| [byte & 15, byte >> 4]);
            nibbles.map(|nibble| format!("{nibble:x}.")).collect::<String>() + "ip6.arpa"
        }
    }
}

/// Returns `text` as a part of a query string.
fn encoded(text: &str) -> String {
    let mut encoded = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(byte.into());
        } else {
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    encoded
}

/// Writes an answer for a person.
fn describe(answer: &Answer) -> String {
    let by = match answer.rcode.as_str() {
        _ if answer.authoritative => "this node's own answer",
        "REFUSED" => "not the mesh's own name",
        _ => "not the mesh's own name: from an upstream",
    };
    let mut text = format!("{} {}: {} ({by})\n", answer.name, answer.rtype, answer.rcode);
    let records = answer.answer.iter().map(|record| ("", record));
    for (mark, record) in records.chain(answer.authority.iter().map(|record| ("authority: ", record))) {
        let AnswerRecord { name, ttl, rtype, data } = record;
        let _ = writeln!(text, "  {mark}{name} {ttl} {rtype} {data}");
    }
    if let Some(note) = note(answer) {
        let _ = writeln!(text, "  note: {note}");
    }
    text
}

/// Returns what may help where there is no answer.
fn note(answer: &Answer) -> Option<String> {
    let dots = answer.name.trim_end_matches('.').matches('.').count();
    match answer.rcode.as_str() {
        "NOERROR" if answer.answer.is_empty() => Some(format!("the name is there, and has no {} record", answer.rtype)),
        "NXDOMAIN" if answer.authoritative => {
            Some("no such service in this cluster's view, or it has no ready endpoint: see `meshctl state`".into())
        }
        "REFUSED" | "NXDOMAIN" if dots < 2 => {
            let name = answer.name.trim_end_matches('.');
            Some(format!("names are asked as they are, without a pod's search list: {name}.svc.cluster.local?"))
        }
        "REFUSED" => Some("not the mesh's own name, and the agent has no upstreams (`dns.upstreams`)".into()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(name: &str, rcode: &str, authoritative: bool) -> Answer {
        Answer {
            name: name.into(),
            rtype: "A".into(),
            rcode: rcode.into(),
            authoritative,
            truncated: false,
            answer: Vec::new(),
            authority: Vec::new(),
        }
    }

    #[test]
    fn an_address_is_asked_by_its_reverse_name() {
        assert_eq!(reverse("10.2.0.5".parse().expect("an address")), "5.0.2.10.in-addr.arpa");
        let name = reverse("fd00:1::5".parse().expect("an address"));
        assert_eq!(name, "5.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.1.0.0.0.0.0.d.f.ip6.arpa");
    }

    #[test]
    fn nothing_in_a_name_leaves_its_place_in_the_path() {
        assert_eq!(encoded("_pg._tcp.db"), "_pg._tcp.db");
        assert_eq!(encoded("a&type=SRV #ü"), "a%26type%3DSRV%20%23%C3%BC");
    }

    #[test]
    fn an_answer_is_told_with_whose_it_is_and_a_way_out() {
        let mut web = answer("web.shop.svc.cluster.local.", "NOERROR", true);
        let record = AnswerRecord { name: web.name.clone(), ttl: 5, rtype: "A".into(), data: "10.96.0.1".into() };
        web.answer.push(record);
        let text = describe(&web);
        assert_eq!(
            text,
            "web.shop.svc.cluster.local. A: NOERROR (this node's own answer)\n  web.shop.svc.cluster.local. 5 A 10.96.0.1\n"
        );
        assert!(describe(&answer("web.shop.", "NXDOMAIN", false)).contains("web.shop.svc.cluster.local?"));
        assert!(describe(&answer("ghost.shop.svc.cluster.local.", "NXDOMAIN", true)).contains("meshctl state"));
        assert!(describe(&answer("www.example.com.", "REFUSED", false)).contains("dns.upstreams"));
        assert!(describe(&answer("four.shop.svc.cluster.local.", "NOERROR", true)).contains("no A record"));
    }
}
