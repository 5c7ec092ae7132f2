//! The slots in start order: what each should be.
