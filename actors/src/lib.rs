//! Subscriber actors.
