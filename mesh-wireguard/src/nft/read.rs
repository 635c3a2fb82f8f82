//! What the kernel has of a table, as far as it tells whether the table is as it was left.

use std::collections::BTreeMap;

use super::table::Table;
use super::{ACK, FAMILY_INET, LIST_ELEMENT, REQUEST, SUBSYSTEM, TABLE_NAME, TABLE_USERDATA};
use crate::netlink::attributes::{Attributes, all, find, push_message};
use crate::netlink::{Netlink, NetlinkError};

const GET_TABLE: u16 = SUBSYSTEM << 8 | 1;
const GET_CHAIN: u16 = SUBSYSTEM << 8 | 4;
const GET_RULE: u16 = SUBSYSTEM << 8 | 7;
const GET_SET: u16 = SUBSYSTEM << 8 | 10;
const GET_ELEMENTS: u16 = SUBSYSTEM << 8 | 13;
const GET_GENERATION: u16 = SUBSYSTEM << 8 | 16;

const DUMP: u16 = REQUEST | libc::NLM_F_DUMP as u16;

/// How many parts each thing of a table has, by its name.
pub(crate) type Census = BTreeMap<String, usize>;

impl Table {
    /// Returns how many rules each chain has.
    pub(crate) fn rules(&self) -> Census {
        self.chains.iter().map(|(name, chain)| (name.to_string(), chain.rules.len())).collect()
    }

    /// Returns how many elements each set has.
    pub(crate) fn elements(&self) -> Census {
        self.sets.iter().map(|(name, set)| (name.to_string(), set.elements.len())).collect()
    }
}

/// Counts the rules of each chain of `table`.
pub(crate) fn rules(netlink: &mut Netlink, table: &str) -> Result<Census, NetlinkError> {
    let mut census: Census = chains(netlink, table)?.into_iter().map(|name| (name, 0)).collect();
    for rule in of_table(netlink, GET_RULE, table)? {
        *census.entry(text(&rule, 2).unwrap_or_default()).or_default() += 1;
    }
    Ok(census)
}

/// Counts the elements of each set of `table`.
pub(crate) fn elements(netlink: &mut Netlink, table: &str) -> Result<Census, NetlinkError> {
    let mut census = Census::new();
    for set in of_table(netlink, GET_SET, table)? {
        let name = text(&set, 2).unwrap_or_default();
        let mut of_set = Attributes::default();
        of_set.text(TABLE_NAME, table).text(2, &name);
        let lists = ask(netlink, GET_ELEMENTS, DUMP, &of_set)?;
        let is_element = |(kind, _): &(u16, &[u8])| *kind == LIST_ELEMENT;
        let count = |list: &Vec<u8>| find(list, 3).map_or(0, |elements| all(elements).filter(is_element).count());
        census.insert(name, lists.iter().map(count).sum());
    }
    Ok(census)
}

/// Returns the names of the chains of `table`.
pub(crate) fn chains(netlink: &mut Netlink, table: &str) -> Result<Vec<String>, NetlinkError> {
    Ok(of_table(netlink, GET_CHAIN, table)?.iter().filter_map(|chain| text(chain, 3)).collect())
}

/// Returns a number that grows with every change of any table of the namespace.
pub(crate) fn generation(netlink: &mut Netlink) -> Result<Option<u32>, NetlinkError> {
    let answers = ask(netlink, GET_GENERATION, REQUEST | ACK, &Attributes::default())?;
    let number = answers.first().and_then(|answer| find(answer, 1)?.try_into().ok());
    Ok(number.map(u32::from_be_bytes))
}

/// Returns the comment of `table`: `None` where there is no table, an inner `None` where it has no comment.
pub(crate) fn comment(netlink: &mut Netlink, table: &str) -> Result<Option<Option<String>>, NetlinkError> {
    let mut name = Attributes::default();
    name.text(TABLE_NAME, table);
    let answers = match ask(netlink, GET_TABLE, REQUEST | ACK, &name) {
        Err(error) if error.errno() == Some(libc::ENOENT) => return Ok(None),
        other => other?,
    };
    Ok(answers.first().map(|table| find(table, TABLE_USERDATA).and_then(read_comment)))
}

/// Returns everything of a kind in `table`, as attributes.
fn of_table(netlink: &mut Netlink, kind: u16, table: &str) -> Result<Vec<Vec<u8>>, NetlinkError> {
    let mut name = Attributes::default();
    name.text(TABLE_NAME, table);
    let mut answers = ask(netlink, kind, DUMP, &name)?;
    answers.retain(|answer| text(answer, TABLE_NAME).as_deref() == Some(table));
    Ok(answers)
}

/// Asks a question; returns the attributes of the answers.
fn ask(netlink: &mut Netlink, kind: u16, flags: u16, attributes: &Attributes) -> Result<Vec<Vec<u8>>, NetlinkError> {
    let mut bytes = Vec::new();
    push_message(&mut bytes, kind, flags, 1, [&[FAMILY_INET, 0, 0, 0], attributes.as_bytes()]);
    let answers = netlink.transact("read nftables", &bytes, 1)?;
    Ok(answers.into_iter().filter_map(|answer| Some(answer.get(4..)?.to_vec())).collect())
}

fn text(attributes: &[u8], kind: u16) -> Option<String> {
    Some(String::from_utf8_lossy(find(attributes, kind)?.strip_suffix(&[0])?).into_owned())
}

fn read_comment(userdata: &[u8]) -> Option<String> {
    let [0, len, rest @ ..] = userdata else { return None };
    let text = rest.get(..usize::from(*len))?.strip_suffix(&[0])?;
    String::from_utf8(text.to_vec()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_round_trip_and_foreign_ones_are_told_apart() {
        assert_eq!(read_comment(&[0, 3, b'h', b'i', 0]), Some("hi".into()));
        for other in [&[][..], &[0], &[1, 2, b'x', 0], &[0, 9, b'x', 0], &[0, 1, b'x']] {
            assert_eq!(read_comment(other), None);
        }
    }
}
