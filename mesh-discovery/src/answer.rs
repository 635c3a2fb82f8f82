//! A reply as plain data: for a command line, for a program that embeds the server, for JSON.

use domain::base::iana::Rtype;
use domain::base::{Message, ParsedName};
use domain::rdata::AllRecordData;
use serde::{Deserialize, Serialize};

/// What a reply's message says (RFC 1035 §4.1).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// The name that was asked for, absolute, in the case of the question.
    pub name: String,
    /// The record type that was asked for.
    #[serde(rename = "type")]
    pub rtype: String,
    /// The response code: `NOERROR`, `NXDOMAIN`, `SERVFAIL`, `REFUSED`, …
    pub rcode: String,
    /// The server answered out of its own zones; otherwise it is an upstream's answer.
    pub authoritative: bool,
    /// Records are missing, because they did not fit.
    pub truncated: bool,
    /// The answer section, in the reply's order.
    pub answer: Vec<AnswerRecord>,
    /// The authority section: the zone's SOA where the answer is negative.
    pub authority: Vec<AnswerRecord>,
}

/// A record of a reply.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AnswerRecord {
    /// The owner's name.
    pub name: String,
    /// How long it may be kept, in seconds.
    pub ttl: u32,
    /// The record type.
    #[serde(rename = "type")]
    pub rtype: String,
    /// The data as zone files have it; names end in a dot.
    pub data: String,
}

/// Why a message is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AnswerError {
    /// Cut off, with a name that leads nowhere, or with data that its type does not have.
    #[error("the reply is malformed")]
    Malformed,
    /// It has no question, or several.
    #[error("the reply does not repeat the question")]
    NoQuestion,
}

impl Answer {
    /// Reads a reply's message.
    ///
    /// # Errors
    /// Returns what is wrong with it.
    pub fn read(bytes: &[u8]) -> Result<Answer, AnswerError> {
        let message = Message::from_octets(bytes).map_err(|_| AnswerError::Malformed)?;
        let question = message.sole_question().map_err(|_| AnswerError::NoQuestion)?;
        let (_, answer, authority, _) = message.sections().map_err(|_| AnswerError::Malformed)?;
        Ok(Answer {
            name: absolute(question.qname()),
            rtype: question.qtype().to_string(),
            rcode: message.header().rcode().to_string(),
            authoritative: message.header().aa(),
            truncated: message.header().tc(),
            answer: answer.limit_to::<AllRecordData<_, ParsedName<_>>>().map(record).collect::<Result<_, _>>()?,
            authority: authority.limit_to::<AllRecordData<_, ParsedName<_>>>().map(record).collect::<Result<_, _>>()?,
        })
    }
}

type Parsed<'a> = domain::base::Record<ParsedName<&'a [u8]>, AllRecordData<&'a [u8], ParsedName<&'a [u8]>>>;

fn record(parsed: Result<Parsed<'_>, domain::base::wire::ParseError>) -> Result<AnswerRecord, AnswerError> {
    let record = parsed.map_err(|_| AnswerError::Malformed)?;
    Ok(AnswerRecord {
        name: absolute(record.owner()),
        ttl: record.ttl().as_secs(),
        rtype: record.rtype().to_string(),
        data: data(record.data(), record.rtype()),
    })
}

fn data(data: &AllRecordData<&[u8], ParsedName<&[u8]>>, rtype: Rtype) -> String {
    match data {
        AllRecordData::Cname(data) => absolute(data.cname()),
        AllRecordData::Ptr(data) => absolute(data.ptrdname()),
        AllRecordData::Ns(data) => absolute(data.nsdname()),
        AllRecordData::Mx(data) => format!("{} {}", data.preference(), absolute(data.exchange())),
        AllRecordData::Srv(data) => {
            format!("{} {} {} {}", data.priority(), data.weight(), data.port(), absolute(data.target()))
        }
        AllRecordData::Soa(data) => format!(
            "{} {} {} {} {} {} {}",
            absolute(data.mname()),
            absolute(data.rname()),
            data.serial(),
            data.refresh().as_secs(),
            data.retry().as_secs(),
            data.expire().as_secs(),
            data.minimum().as_secs(),
        ),
        other => {
            let text = other.to_string();
            // Some types write themselves with their name before the data.
            text.strip_prefix(&format!("{rtype} ")).map_or_else(|| text.clone(), str::to_owned)
        }
    }
}

fn absolute(name: &ParsedName<&[u8]>) -> String {
    let text = name.to_string();
    if text.ends_with('.') { text } else { text + "." }
}

#[cfg(test)]
mod tests {
    use domain::base::iana::{Class, Rcode};
    use domain::base::{MessageBuilder, Name};
    use domain::rdata::{A, Cname, Srv, Txt};

    use super::*;

    fn name(text: &str) -> Name<Vec<u8>> {
        text.parse().expect("a name")
    }

    fn reply(push: impl FnOnce(&mut domain::base::message_builder::AnswerBuilder<Vec<u8>>)) -> Vec<u8> {
        let mut query = MessageBuilder::new_vec().question();
        query.push((name("Web.example."), Rtype::A)).expect("room");
        let mut answer = MessageBuilder::new_vec().start_answer(&query.into_message(), Rcode::NOERROR).expect("room");
        answer.header_mut().set_aa(true);
        push(&mut answer);
        answer.finish()
    }

    #[test]
    fn every_record_is_written_as_in_a_zone_file() {
        let bytes = reply(|answer| {
            let mut push = |data: AllRecordData<Vec<u8>, Name<Vec<u8>>>| {
                answer.push((name("web.example"), Class::IN, 5, data)).expect("room");
            };
            push(AllRecordData::Cname(Cname::new(name("to.example"))));
            push(AllRecordData::A(A::from_octets(192, 0, 2, 1)));
            push(AllRecordData::Srv(Srv::new(0, 100, 80, name("to.example"))));
            push(AllRecordData::Txt(Txt::build_from_slice(b"1.0.0").expect("short")));
        });
        let answer = Answer::read(&bytes).expect("a reply");
        assert_eq!((&answer.name[..], &answer.rtype[..], &answer.rcode[..]), ("Web.example.", "A", "NOERROR"));
        assert!(answer.authoritative && !answer.truncated && answer.authority.is_empty());
        let data: Vec<_> = answer.answer.iter().map(|record| format!("{} {}", record.rtype, record.data)).collect();
        assert_eq!(data, ["CNAME to.example.", "A 192.0.2.1", "SRV 0 100 80 to.example.", "TXT \"1.0.0\""]);
        assert!(answer.answer.iter().all(|record| (&record.name[..], record.ttl) == ("web.example.", 5)));
    }

    #[test]
    fn what_is_cut_off_is_malformed() {
        let bytes = reply(|answer| {
            answer.push((name("web.example"), Class::IN, 5, A::from_octets(192, 0, 2, 1))).expect("room");
        });
        for end in 0..bytes.len() {
            assert!(Answer::read(&bytes[..end]).is_err(), "{end} bytes of {}", bytes.len());
        }
        assert_eq!(Answer::read(&[0; 12]), Err(AnswerError::NoQuestion));
    }
}
