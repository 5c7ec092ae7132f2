//! What the kernel tells about memory: of one process, of a control group, of the machine. Reads, and judges nothing.
//!
//! Everything here may be unknown, and unknown is never zero: a file that is not there, not readable or not understood is
//! `None`.

pub(crate) mod group;
pub(crate) mod process;
