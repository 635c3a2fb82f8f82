//! Rows: step functions from protocol and port to a verdict, each distinct one stored once.

use hashbrown::HashMap;
use mesh_core::{Protocol, Verdict};

/// A row under construction: each key from which on a verdict holds, ascending, the first of them 0.
pub(crate) type Row = Vec<(u32, Verdict)>;

/// Returns the place of a protocol and port in a row; protocols without ports have one place each.
pub(crate) fn key(protocol: Protocol, port: u16) -> u32 {
    match protocol {
        Protocol::Tcp => u32::from(port),
        Protocol::Udp => 1 << 16 | u32::from(port),
        Protocol::Sctp => 2 << 16 | u32::from(port),
        Protocol::Other(number) => (3 + u32::from(number)) << 16,
    }
}

/// Returns the places of every port of `protocol`, the second one excluded.
pub(crate) fn span_of_protocol(protocol: Protocol) -> (u32, u32) {
    let first = key(protocol, 0);
    (first, first + (1 << 16))
}

/// Every distinct row, by a dense number.
#[derive(Clone, Debug, Default)]
pub(crate) struct Rows {
    spans: Vec<(u32, u32)>,
    starts: Vec<u32>,
    verdicts: Vec<Verdict>,
}

impl Rows {
    /// Returns the verdict of `row` for a key made by [`key`].
    pub(crate) fn verdict(&self, row: u32, key: u32) -> Verdict {
        let (first, end) = self.spans[row as usize];
        let starts = &self.starts[first as usize..end as usize];
        let at = starts.partition_point(|start| *start <= key);
        // The first start is 0, so at least one is not after the key.
        self.verdicts[first as usize + at - 1]
    }

    /// Returns every start with its verdict, row by row, for the fingerprint.
    pub(crate) fn content(&self) -> (&[(u32, u32)], &[u32], &[Verdict]) {
        (&self.spans, &self.starts, &self.verdicts)
    }
}

/// Collects rows; equal ones get one number.
#[derive(Debug, Default)]
pub(crate) struct RowsBuilder {
    ids: HashMap<Row, u32>,
    rows: Rows,
}

impl RowsBuilder {
    pub(crate) fn intern(&mut self, row: Row) -> u32 {
        if let Some(id) = self.ids.get(&row) {
            return *id;
        }
        let count = |len: usize| u32::try_from(len).expect("fewer intervals than a u32 counts");
        let id = count(self.rows.spans.len());
        let first = count(self.rows.starts.len());
        self.rows.starts.extend(row.iter().map(|(start, _)| *start));
        self.rows.verdicts.extend(row.iter().map(|(_, verdict)| *verdict));
        self.rows.spans.push((first, count(self.rows.starts.len())));
        self.ids.insert(row, id);
        id
    }

    pub(crate) fn finish(self) -> Rows {
        self.rows
    }
}
