//! What is offered for one key, and by whom.

use super::Origin;
use crate::Resource;

/// The offers for one key, in the order in which they count.
///
/// Nearly every fact is offered once: a list of exactly that many weighs a tenth of a tree with room for eleven.
#[derive(Clone, Debug, Default)]
pub(super) struct Offers(Vec<(Origin, Resource)>);

impl Offers {
    /// Makes `resource` what `origin` offers.
    pub(super) fn insert(&mut self, origin: Origin, resource: Resource) {
        match self.place(&origin) {
            Ok(at) => self.0[at].1 = resource,
            Err(at) => {
                self.0.reserve_exact(1);
                self.0.insert(at, (origin, resource));
            }
        }
    }

    /// Takes back what `origin` offers; tells whether it offered something.
    pub(super) fn remove(&mut self, origin: &Origin) -> bool {
        self.place(origin).is_ok_and(|at| {
            self.0.remove(at);
            true
        })
    }

    /// Tells whether `origin` offers something.
    pub(super) fn has(&self, origin: &Origin) -> bool {
        self.place(origin).is_ok()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the offers in the order in which they count.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&Origin, &Resource)> {
        self.into_iter()
    }

    fn place(&self, origin: &Origin) -> Result<usize, usize> {
        self.0.binary_search_by(|(other, _)| other.cmp(origin))
    }
}

impl<'a> IntoIterator for &'a Offers {
    type Item = (&'a Origin, &'a Resource);
    type IntoIter = std::iter::Map<std::slice::Iter<'a, (Origin, Resource)>, fn(&'a (Origin, Resource)) -> Self::Item>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.iter().map(|(origin, resource)| (origin, resource))
    }
}
