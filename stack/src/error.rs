//! Why there is no stack, and what to do about it.

use crate::{reservation::MAX_RESERVATION, sys::process};
use core::{error::Error, ffi::c_int, fmt};

/// Why a stack could not be made. Displayed, it says what to change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum StackError {
    /// More was asked for than the largest stack there is.
    TooLarge {
        /// The bytes asked for.
        asked: usize,
    },
    /// The address space for another reservation could not be had.
    AddressSpace {
        /// The bytes of the reservation.
        reservation: usize,
    },
    /// The kernel has no more mappings for this process. Only where guards cost a mapping each.
    MapCount,
    /// The kernel refuses to guard a stack.
    Guard {
        /// What it says.
        errno: c_int,
    },
    /// No memory for the description of another stack.
    Metadata,
    /// This machine's pages are not of the size that stacks are laid out for.
    PageSize {
        /// Their size.
        size: usize,
    },
    /// The fault handler or its alternate stack could not be installed.
    Signal {
        /// What the kernel says.
        errno: c_int,
    },
}

impl fmt::Display for StackError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::TooLarge { asked } => write!(
                f,
                "a stack of {asked} bytes was asked for, the largest is {MAX_RESERVATION}; cure: ask for less \
                 (max_stack, BATON_MAX_STACK)"
            ),
            Self::AddressSpace { reservation } => {
                write!(f, "no address space for another stack of {reservation} bytes")?;
                if let Some((limit, name)) = process::mapping_limit() {
                    write!(
                        f,
                        ": the limit is {limit} bytes ({name}); cure: raise that limit, or make stacks smaller \
                         (max_stack, BATON_MAX_STACK)"
                    )
                } else {
                    write!(
                        f,
                        "; cure: run fewer goroutines at a time, or make stacks smaller (max_stack, BATON_MAX_STACK); where \
                         vm.overcommit_memory is 2, which charges a stack as if all of it was used, set that to 0 or raise \
                         vm.overcommit_ratio; raise vm.max_map_count if the system sets it low"
                    )
                }
            }
            Self::MapCount => write!(
                f,
                "no more memory mappings: each stack's guard costs one, because this kernel is older than Linux 6.13 \
                 or BATON_GUARD=mprotect is set; cure: raise vm.max_map_count \
                 (sysctl -w vm.max_map_count=1048576), or run fewer goroutines at a time"
            ),
            Self::Guard { errno } => write!(
                f,
                "the kernel refuses to guard a stack (errno {errno}); cure: allow madvise and mprotect in this \
                 process's seccomp filter, or set BATON_GUARD=mprotect if only madvise is refused"
            ),
            Self::Metadata => {
                write!(
                    f,
                    "no memory for the description of another stack; cure: raise the memory limit"
                )
            }
            Self::PageSize { size } => write!(
                f,
                "stacks are laid out for pages of {} bytes, this machine has {size}; cure: boot a kernel with {0}-byte pages",
                process::PAGE
            ),
            Self::Signal { errno } => write!(
                f,
                "the fault handler could not be installed (errno {errno}); cure: allow sigaction, sigaltstack and mmap \
                 in this process's seccomp filter, and raise the memory limit if there is one"
            ),
        }
    }
}

impl Error for StackError {}
