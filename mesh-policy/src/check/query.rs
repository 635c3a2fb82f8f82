//! A question as JSON.

use std::net::IpAddr;

use mesh_core::{Protocol, WorkloadId};
use serde_json::{Map, Value};

use super::QueryError;

/// A question about one connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Query {
    /// Any JSON value, echoed in the answer.
    pub id: Value,
    /// Who opens the connection.
    pub from: Party,
    /// To whom.
    pub to: Party,
    /// The protocol; TCP where the question has none.
    pub protocol: Protocol,
    /// The destination port; 0 for protocols without ports.
    pub port: u16,
    /// The source address, where it is not the first of the common family.
    pub src_ip: Option<IpAddr>,
    /// The destination address, likewise.
    pub dst_ip: Option<IpAddr>,
}

/// One end of a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Party {
    /// `cluster/namespace/pod`.
    Workload(WorkloadId),
    /// An address, whose owner is who the state says.
    Address(IpAddr),
}

impl Query {
    /// Reads a question from one line of JSON. Fields that it does not have are ignored; null is as good as missing.
    pub fn parse(line: &str) -> Result<Query, QueryError> {
        let value: Value =
            serde_json::from_str(line).map_err(|error| QueryError { id: Value::Null, error: format!("not JSON: {error}") })?;
        let Value::Object(fields) = value else {
            return Err(QueryError { id: Value::Null, error: "not a JSON object".into() });
        };
        let id = fields.get("id").cloned().unwrap_or(Value::Null);
        Query::read(&fields, id.clone()).map_err(|error| QueryError { id, error })
    }

    fn read(fields: &Map<String, Value>, id: Value) -> Result<Query, String> {
        let party = |name| text(fields, name)?.ok_or_else(|| format!("field '{name}' is missing")).and_then(read_party);
        let address = |name| {
            text(fields, name)?
                .map(|text| text.parse().map_err(|_| format!("'{text}' in '{name}' is not an IP address")))
                .transpose()
        };
        let protocol = match text(fields, "protocol")? {
            None => Protocol::Tcp,
            Some(text) => Protocol::try_from(text.to_owned())?,
        };
        let port = match fields.get("port") {
            _ if !protocol.has_ports() => 0,
            None | Some(Value::Null) => return Err(format!("field 'port' is missing, which {protocol} has")),
            Some(value) => match value.as_u64().and_then(|port| u16::try_from(port).ok()) {
                Some(port) if port != 0 => port,
                _ => return Err(format!("{value} in 'port' is not a number from 1 to 65535")),
            },
        };
        Ok(Query {
            id,
            from: party("from")?,
            to: party("to")?,
            protocol,
            port,
            src_ip: address("src_ip")?,
            dst_ip: address("dst_ip")?,
        })
    }
}

fn text<'a>(fields: &'a Map<String, Value>, name: &str) -> Result<Option<&'a str>, String> {
    match fields.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(other) => Err(format!("{other} in '{name}' is not a string")),
    }
}

fn read_party(text: &str) -> Result<Party, String> {
    if let Ok(address) = text.parse() {
        return Ok(Party::Address(address));
    }
    match text.parse() {
        Ok(id) => Ok(Party::Workload(id)),
        Err(error) => Err(format!("{error}, nor an IP address")),
    }
}
