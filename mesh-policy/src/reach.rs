//! What both sides of connections allow, by classes of ends: [`matrix`](crate::matrix) asks it of one policy set,
//! [`diff`](crate::diff) of two at once.
//!
//! ```text
//!   set A ─┐                                   rows of each side ─> both sides ─> ports that both allow
//!          ├─> ends: workloads, nodes, outside ─> classes ┘
//!   set B ─┘   (joined: who is in both)
//! ```

mod decide;
mod ends;
mod names;
mod ports;
mod situation;
mod special;

pub(crate) use self::decide::{Both, Deciding, Flags};
pub(crate) use self::ends::{Ends, Owner, Region};
pub(crate) use self::names::Names;
pub use self::names::Party;
pub use self::ports::Ports;
pub(crate) use self::situation::{Situation, Situations};
pub(crate) use self::special::specials;

use std::hash::Hash;
use std::sync::Arc;

use hashbrown::HashMap;

/// Values by numbers, each once.
#[derive(Clone, Debug)]
pub(crate) struct Table<T> {
    numbers: HashMap<Arc<T>, u32, foldhash::fast::RandomState>,
    values: Vec<Arc<T>>,
}

impl<T> Default for Table<T> {
    fn default() -> Table<T> {
        Table { numbers: HashMap::default(), values: Vec::new() }
    }
}

impl<T: Hash + Eq> Table<T> {
    /// Returns the number of `value`.
    pub(crate) fn number(&mut self, value: T) -> u32 {
        if let Some(known) = self.numbers.get(&value) {
            return *known;
        }
        let number = u32::try_from(self.values.len()).expect("fewer values than a u32 counts");
        let value = Arc::new(value);
        self.values.push(value.clone());
        self.numbers.insert(value, number);
        number
    }

    pub(crate) fn get(&self, number: u32) -> &Arc<T> {
        &self.values[number as usize]
    }

    pub(crate) fn len(&self) -> usize {
        self.values.len()
    }

    /// Returns the values in the order of their numbers.
    pub(crate) fn iter(&self) -> impl ExactSizeIterator<Item = &T> {
        self.values.iter().map(AsRef::as_ref)
    }
}
