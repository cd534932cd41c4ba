//! Classes: how much of a stack is resident and charged.
//!
//! A class is a power of two from 2 KiB to 1 GiB. Classes up to 16 KiB live in `stackpool`, the others in `stackLarge`.

use core::fmt;

/// The number of classes: 2 KiB, 4 KiB, … 1 GiB.
pub const CLASSES: usize = 20;

/// log2 of the smallest class.
const SHIFT: u32 = 11;

/// A power of two of bytes, from 2 KiB to 1 GiB.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Class(u8);

impl Class {
    /// 2 KiB: what a goroutine starts in.
    pub const MIN: Self = Self(0);
    /// 16 KiB: the largest class of `stackpool`, and what a stack keeps when its deep pages are given back.
    pub const LARGEST_SMALL: Self = Self(3);
    /// 1 GiB.
    pub const MAX: Self = Self(CLASSES as u8 - 1);

    /// The smallest class that holds `bytes`, or the largest class there is.
    #[inline]
    #[must_use]
    pub const fn holding(bytes: usize) -> Self {
        if bytes <= 1 << SHIFT {
            return Self::MIN;
        }
        let log2 = usize::BITS - (bytes - 1).leading_zeros();
        let class = log2 - SHIFT;
        if class >= Self::MAX.0 as u32 {
            Self::MAX
        } else {
            Self(class as u8)
        }
    }

    /// The bytes that this class stands for.
    #[inline]
    #[must_use]
    pub const fn bytes(self) -> usize {
        1 << (SHIFT + self.0 as u32)
    }

    /// 0 for 2 KiB, 1 for 4 KiB and so on.
    #[inline]
    #[must_use]
    pub const fn index(self) -> usize {
        self.0 as usize
    }

    /// Whether stacks of this class are kept in `stackpool`.
    #[inline]
    #[must_use]
    pub const fn is_small(self) -> bool {
        self.0 <= Self::LARGEST_SMALL.0
    }

    /// Whether a stack of this class serves as well as one of the other: they are the same, or both small.
    #[inline]
    #[must_use]
    pub fn is_like(self, other: Self) -> bool {
        self == other || (self.is_small() && other.is_small())
    }

    /// The class of this [`index`](Self::index), or the largest.
    #[inline]
    #[must_use]
    pub const fn from_index(index: u8) -> Self {
        if index < Self::MAX.0 { Self(index) } else { Self::MAX }
    }
}

impl fmt::Debug for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} KiB", self.bytes() / 1024)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_class_holds_what_it_says_and_no_smaller_one_does() {
        for bytes in (0..4096).chain([16384, 16385, 65536, 65537, 1 << 20, (1 << 20) + 1, 1 << 30]) {
            let class = Class::holding(bytes);
            assert!(class.bytes() >= bytes, "{bytes} in {class:?}");
            assert!(class == Class::MIN || class.bytes() / 2 < bytes, "{bytes} in {class:?}");
        }
        assert_eq!(Class::holding(usize::MAX), Class::MAX);
        assert_eq!(Class::MAX.bytes(), 1 << 30);
        assert_eq!(Class::LARGEST_SMALL.bytes(), 16 << 10);
    }
}
