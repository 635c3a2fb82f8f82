//! A matrix for people, as a table where it fits and as a list where it does not; and as JSON.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Serialize, Serializer};

use super::{Cell, Group, Matrix};
use crate::Ports;

/// A table is no wider than this.
const MAX_WIDTH: usize = 130;

/// The cells to show: those of which one group, at least, is chosen.
pub struct Page<'a> {
    matrix: &'a Matrix,
    chosen: Vec<bool>,
}

impl Matrix {
    /// Chooses what to show: every cell with one of the groups that `choose` wants on one of its sides.
    pub fn page(&self, choose: impl Fn(&Group) -> bool) -> Page<'_> {
        Page { matrix: self, chosen: self.groups.iter().map(choose).collect() }
    }
}

impl Page<'_> {
    fn cell(&self, source: usize, destination: usize) -> Option<&Cell> {
        let is_chosen = self.chosen[source] || self.chosen[destination];
        self.matrix.cell(source, destination).filter(|_| is_chosen)
    }

    /// Returns the groups that have a cell in that role.
    fn shown(&self, is_source: bool) -> Vec<usize> {
        let all = 0..self.matrix.groups.len();
        let has = |one: &usize| {
            all.clone().any(|other| if is_source { self.cell(*one, other) } else { self.cell(other, *one) }.is_some())
        };
        all.clone().filter(has).collect()
    }

    fn table(&self) -> Option<Vec<Vec<String>>> {
        let name = |group: &usize| self.matrix.groups[*group].name.clone();
        let (rows, columns) = (self.shown(true), self.shown(false));
        if columns.len() > MAX_WIDTH / 4 {
            return None;
        }
        let mut table = vec![["FROM \\ TO".into()].into_iter().chain(columns.iter().map(name)).collect::<Vec<String>>()];
        for row in rows {
            let cell = |column: &usize| self.cell(row, *column).map_or("-".into(), ToString::to_string);
            table.push([name(&row)].into_iter().chain(columns.iter().map(cell)).collect());
        }
        let width: usize = widths(&table).iter().map(|width| width + 2).sum();
        (width <= MAX_WIDTH).then_some(table)
    }
}

fn widths(table: &[Vec<String>]) -> Vec<usize> {
    let columns = table.first().map_or(0, Vec::len);
    (0..columns).map(|column| table.iter().map(|row| row[column].chars().count()).max().unwrap_or(0)).collect()
}

/// Writes `TCP 5432`, `none`, `some: TCP 5432` where not all pairs may, `TCP 80; some: TCP 443` where they may that in addition.
impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_uniform() {
            return self.every.fmt(f);
        }
        let more = match self.some.is_all() {
            true => Ports::all(),
            false => self.some.without(&self.every),
        };
        match self.every.is_none() {
            true => write!(f, "some: {more}"),
            false => write!(f, "{}; some: {more}", self.every),
        }
    }
}

impl fmt::Display for Page<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(table) = self.table() else { return self.list(f) };
        let widths = widths(&table);
        for row in &table {
            let mut line = String::new();
            for (text, width) in row.iter().zip(&widths) {
                line += &format!("{text:<width$}  ");
            }
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

impl Page<'_> {
    /// Writes for each source what it may, and to whom.
    fn list(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for source in self.shown(true) {
            let mut lines: BTreeMap<(bool, String), Vec<usize>> = BTreeMap::new();
            for destination in 0..self.matrix.groups.len() {
                if let Some(cell) = self.cell(source, destination) {
                    lines.entry((cell.some.is_none(), cell.to_string())).or_default().push(destination);
                }
            }
            writeln!(f, "{}", self.matrix.groups[source].members_text())?;
            let width = lines.keys().map(|(_, text)| text.len()).filter(|width| *width <= 30).max().unwrap_or(4);
            let has_others = lines.len() > 1;
            for ((is_none, text), destinations) in lines {
                let who = match (is_none, destinations.len()) {
                    (true, count) if has_others && count > 5 && self.chosen[source] => format!("the {count} others"),
                    _ => destinations.iter().map(|group| self.matrix.groups[*group].name.as_str()).collect::<Vec<_>>().join(", "),
                };
                wrap(f, &format!("    {text:<width$}  > "), &who)?;
            }
        }
        Ok(())
    }
}

/// Writes a list after its beginning, on as many lines as it needs.
fn wrap(f: &mut fmt::Formatter<'_>, begin: &str, list: &str) -> fmt::Result {
    let indent = begin.chars().count().min(48);
    let mut line = begin.to_owned();
    let mut is_first = true;
    for item in list.split(", ") {
        if !is_first && line.chars().count() + item.len() + 2 > MAX_WIDTH {
            writeln!(f, "{line},")?;
            line = " ".repeat(indent);
            is_first = true;
        }
        line += if is_first { "" } else { ", " };
        line += item;
        is_first = false;
    }
    writeln!(f, "{line}")
}

impl Group {
    fn members_text(&self) -> String {
        match self.members.workloads.len() {
            0 => self.name.clone(),
            1 => format!("{} (1 pod)", self.name),
            pods => format!("{} ({pods} pods)", self.name),
        }
    }
}

/// A cell with the places of its groups.
#[derive(Serialize)]
struct Placed<'a> {
    from: usize,
    to: usize,
    #[serde(flatten)]
    cell: &'a Cell,
}

/// Writes the groups, and the cells with the places of their groups among them.
impl Serialize for Page<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Document<'a> {
            groups: &'a [Group],
            cells: Vec<Placed<'a>>,
        }
        let count = self.matrix.groups.len();
        let pairs = (0..count).flat_map(|from| (0..count).map(move |to| (from, to)));
        let placed = |(from, to)| self.cell(from, to).map(|cell| Placed { from, to, cell });
        Document { groups: &self.matrix.groups, cells: pairs.filter_map(placed).collect() }.serialize(serializer)
    }
}
