//! A vector in pages: a change to one entry of a clone copies its page, not the vector.

use std::sync::Arc;

/// A vector whose clones share what is the same in them. Entries that were never set are the default.
///
/// A page has `N` entries, a power of two. With 512, for a quarter of a million entries a page and the list of pages are equally
/// long, so that neither dominates what a change copies; large entries want smaller pages.
#[derive(Clone, Debug)]
pub(crate) struct Pages<T, const N: usize = 512>(Arc<[Arc<[T; N]>]>);

impl<T, const N: usize> Default for Pages<T, N> {
    fn default() -> Pages<T, N> {
        Pages(Arc::default())
    }
}

impl<T: Clone + Default, const N: usize> Pages<T, N> {
    /// The number of the page, and the place in it.
    #[inline]
    fn place(index: u32) -> (usize, usize) {
        const { assert!(N.is_power_of_two()) };
        (index as usize / N, index as usize % N)
    }

    #[inline]
    pub(crate) fn get(&self, index: u32) -> Option<&T> {
        let (page, at) = Pages::<T, N>::place(index);
        Some(&self.0.get(page)?[at])
    }

    /// Returns the entry for changing, after copying what a clone shares with it.
    pub(crate) fn edit(&mut self, index: u32) -> &mut T {
        let (page, at) = Pages::<T, N>::place(index);
        if self.0.len() <= page {
            let more = (self.0.len()..=page).map(|_| Arc::new(std::array::from_fn(|_| T::default())));
            self.0 = self.0.iter().cloned().chain(more).collect();
        }
        &mut Arc::make_mut(&mut Arc::make_mut(&mut self.0)[page])[at]
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
        let mut pages: Pages<u32> = Pages::default();
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
