//! A vector in pages: a change to one entry of a clone copies its page, not the vector.

use std::sync::Arc;

/// A page has 512 entries: for a quarter of a million of them a page and the list of pages are equally long, so that neither
/// dominates what a change copies.
const BITS: u32 = 9;
const PAGE: usize = 1 << BITS;
const MASK: u32 = (1 << BITS) - 1;

/// A vector whose clones share what is the same in them. Entries that were never set are the default.
#[derive(Clone, Debug)]
pub(crate) struct Pages<T>(Arc<[Page<T>]>);

type Page<T> = Arc<[T; PAGE]>;

impl<T> Default for Pages<T> {
    fn default() -> Pages<T> {
        Pages(Arc::from([]))
    }
}

impl<T: Clone + Default> Pages<T> {
    #[inline]
    pub(crate) fn get(&self, index: u32) -> Option<&T> {
        Some(&self.0.get((index >> BITS) as usize)?[(index & MASK) as usize])
    }

    /// Returns the entry for changing, after copying what a clone shares with it.
    pub(crate) fn edit(&mut self, index: u32) -> &mut T {
        let page = (index >> BITS) as usize;
        if self.0.len() <= page {
            let more = (self.0.len()..=page).map(|_| Arc::new(std::array::from_fn(|_| T::default())));
            self.0 = self.0.iter().cloned().chain(more).collect();
        }
        &mut Arc::make_mut(&mut Arc::make_mut(&mut self.0)[page])[(index & MASK) as usize]
    }

    pub(crate) fn set(&mut self, index: u32, value: T) {
        *self.edit(index) = value;
    }

    /// Returns all entries in order, to the end of the last page.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> {
        self.0.iter().flat_map(|page| page.iter())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clone_keeps_what_it_had_and_shares_the_rest() {
        let mut pages = Pages::default();
        for index in 0..2_000 {
            pages.set(index, index + 1);
        }
        let before = pages.clone();
        pages.set(700, 0);
        assert_eq!((before.get(700), pages.get(700), pages.get(701), pages.get(9_999)), (Some(&701), Some(&0), Some(&702), None));
        let shared = before.0.iter().zip(pages.0.iter()).filter(|(a, b)| Arc::ptr_eq(a, b)).count();
        assert_eq!((shared, pages.iter().count()), (3, 2_048));
    }
}
