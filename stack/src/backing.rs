//! Where memory comes from: address space and descriptors, both from baton-alloc, both for ever.

use crate::{StackError, pool::Pool, reservation::Desc};
use baton_alloc::{ArenaKind, Fixalloc, PAGE, mheap};

static DESCS: Fixalloc<Desc> = Fixalloc::new();
static POOLS: Fixalloc<Pool> = Fixalloc::new();

/// The address of a manual span of at least `bytes`: readable, writable, zero at first touch, never a huge page.
pub(crate) fn span(bytes: usize) -> Option<usize> {
    let span = mheap::alloc_manual(bytes.div_ceil(PAGE), 1, ArenaKind::Stack)?;
    Some(span.as_ptr().expose_provenance())
}

/// Puts `desc` where it stays for ever.
pub(crate) fn desc(desc: Desc) -> Result<&'static Desc, StackError> {
    persist(&DESCS, desc)
}

/// Puts `pool` where it stays for ever.
pub(crate) fn pool(pool: Pool) -> Result<&'static Pool, StackError> {
    persist(&POOLS, pool)
}

fn persist<T>(records: &'static Fixalloc<T>, value: T) -> Result<&'static T, StackError> {
    let record = records.alloc().ok_or(StackError::Metadata)?;
    // SAFETY: the record is ours, large enough and aligned for a `T`.
    unsafe { record.write(value) };
    // SAFETY: it was written just now, and it is never freed.
    Ok(unsafe { record.as_ref() })
}
