//! Tables that clones share: a set and its successor have everything in common that did not change.

pub(crate) use self::interner::Interner;
pub(crate) use self::pages::Pages;
pub(crate) use self::ranges::Ranges;
pub(crate) use self::shards::Shards;

mod interner;
mod pages;
mod ranges;
mod shards;
