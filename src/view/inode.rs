//! Inode numbers of a mounted repository: one number space for all restore points.
//!
//! A number is a slot (24 bits) above the number inside the slot (40 bits). Slot 0 holds the virtual
//! directories. Every other slot is one directory in which a restore point appears, so a point under
//! `snapshots/` and the same point under `hosts/` have different numbers: a directory must not have two
//! names, or `cp -a` and the kernel's dentry cache go wrong. Numbers are computed, never remembered per
//! file: the mount needs no inode table.
//!
//! | highest bits | what the rest is |
//! |---|---|
//! | 0 | 23 bits of slot of the layout, 40 of inode; slot 0 are the virtual directories that are listed |
//! | 10 | 22 bits of slot of a point found by an expression (`at/`, `@GMT`, `diff/`), 40 of inode |
//! | 11 | 62 bits of hash: a directory that is computed when it is asked for (`versions/`, `deleted/`, `diff/`, `at/`) |

use repo_format::ROOT_INO;

const TREE_BITS: u32 = 40;
/// The highest number inside a slot.
pub const MAX_TREE_INO: u64 = (1 << TREE_BITS) - 1;
/// The highest slot.
pub const MAX_SLOT: u32 = (3 << 22) - 1;
/// The highest slot of the layout.
pub const MAX_LAYOUT_SLOT: u32 = (1 << 23) - 1;
/// The first slot of points that are found by an expression; the last is [`MAX_SLOT`].
pub const FIRST_FOUND_SLOT: u32 = 1 << 23;
const COMPUTED: u64 = 3 << 62;

/// An inode number as the kernel sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ino(pub u64);

impl Ino {
    /// The mount's root directory.
    pub const ROOT: Self = Self(1);

    /// Inode `tree` of slot `slot`; None when the tree's number has more than 40 bits.
    #[must_use]
    pub const fn in_slot(slot: u32, tree: u64) -> Option<Self> {
        if tree > MAX_TREE_INO || slot > MAX_SLOT { None } else { Some(Self((slot as u64) << TREE_BITS | tree)) }
    }

    /// The slot; 0 for virtual directories.
    #[must_use]
    pub const fn slot(self) -> u32 {
        (self.0 >> TREE_BITS) as u32
    }

    /// The number inside the slot.
    #[must_use]
    pub const fn tree(self) -> u64 {
        self.0 & MAX_TREE_INO
    }

    /// The computed directory of this hash.
    #[must_use]
    pub const fn computed(hash: u64) -> Self {
        Self(hash | COMPUTED)
    }

    /// Whether this is a directory that is computed when it is asked for.
    #[must_use]
    pub const fn is_computed(self) -> bool {
        self.0 >= COMPUTED
    }

    /// Whether this is a directory, link or file of ours, not of a restore point.
    #[must_use]
    pub const fn is_virtual(self) -> bool {
        self.slot() == 0 || self.is_computed()
    }

    /// Whether this is the root directory of a restore point.
    #[must_use]
    pub const fn is_point_root(self) -> bool {
        !self.is_virtual() && self.tree() == ROOT_INO
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_and_numbers_come_back() {
        for (slot, tree) in [(0, 1), (1, 1), (MAX_SLOT, MAX_TREE_INO), (77, 1 << 39)] {
            let ino = Ino::in_slot(slot, tree).unwrap();
            assert_eq!((ino.slot(), ino.tree()), (slot, tree));
        }
        assert_eq!(Ino::in_slot(0, 1), Some(Ino::ROOT));
        assert_eq!(Ino::in_slot(1, MAX_TREE_INO + 1), None);
        assert_eq!(Ino::in_slot(MAX_SLOT + 1, 1), None);
        let last = Ino::in_slot(MAX_SLOT, MAX_TREE_INO).unwrap();
        assert!(!last.is_computed() && !last.is_virtual() && Ino(last.0 + 1).is_computed());
        assert!(Ino::computed(5).is_virtual() && Ino::computed(5).is_computed() && !Ino(5).is_computed());
    }
}
