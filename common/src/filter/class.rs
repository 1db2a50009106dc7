//! Capacity classes (protocol §5.2): the published size of a filter says only its class.

use std::f64::consts::LN_2;
use std::fmt;

use super::{InvalidParams, PAGE_BITS};

/// A capacity class, 0 to 60.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Class(u8);

impl Class {
    /// The largest class: 652,530,447 tags.
    pub const MAX: Self = Self(60);

    /// Checks that the number is at most 60.
    ///
    /// # Errors
    /// [`InvalidParams::Class`] for a larger one.
    pub const fn new(number: u8) -> Result<Self, InvalidParams> {
        if number <= Self::MAX.0 {
            Ok(Self(number))
        } else {
            Err(InvalidParams::Class)
        }
    }

    /// The number.
    pub const fn get(self) -> u8 {
        self.0
    }

    /// The smallest class that holds `tags` distinct tags, canaries included; `None` if no class
    /// does.
    pub fn smallest_for(tags: u64) -> Option<Self> {
        (0..=Self::MAX.0)
            .map(Self)
            .find(|class| class.capacity() >= tags)
    }

    /// `n_c`: how many tags the class holds.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "whole, positive and below 2^30"
    )]
    pub fn capacity(self) -> u64 {
        // protocol §5.2: by repeated multiplication, not by a power function.
        let capacity = (0..self.0).fold(1000.0_f64, |capacity, _| capacity * 1.25);
        capacity.ceil() as u64
    }

    /// `B_c`: how many pages the class has at `k` positions a tag.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "the capacity is below 2^30, the pages below 2^22"
    )]
    pub(super) fn pages(self, k: u8) -> u32 {
        // protocol §5.2: n_c · k first, divided by the product. The protocol's digits are LN_2's.
        let positions = self.capacity() as f64 * f64::from(k);
        let pages = positions / (LN_2 * f64::from(PAGE_BITS));
        2.max(pages.ceil() as u32)
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ln_2_is_the_number_that_the_protocol_writes() {
        assert_eq!(LN_2.to_string(), "0.6931471805599453");
    }

    #[test]
    fn the_smallest_class_holds_the_tags_and_the_one_below_does_not() {
        assert_eq!(Class::smallest_for(0), Some(Class(0)));
        assert_eq!(Class::smallest_for(1000), Some(Class(0)));
        for number in 1..=60 {
            let class = Class::new(number).unwrap();
            assert_eq!(Class::smallest_for(class.capacity()), Some(class));
            let below = Class::new(number - 1).unwrap();
            assert_eq!(Class::smallest_for(below.capacity() + 1), Some(class));
        }
        assert_eq!(Class::smallest_for(Class::MAX.capacity() + 1), None);
    }

    #[test]
    fn there_are_sixty_one_classes() {
        assert!(Class::new(60).is_ok());
        assert_eq!(Class::new(61), Err(InvalidParams::Class));
    }
}
