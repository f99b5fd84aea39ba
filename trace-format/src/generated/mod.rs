//! Code generated from `schema/trace.capnp` by `schema/generate`. Responsible for nothing of its own; never edited by hand.

#[allow(
    dead_code,
    unreachable_pub,
    unused_qualifications,
    missing_docs,
    clippy::all,
    clippy::pedantic,
    clippy::allow_attributes_without_reason,
    reason = "generated"
)]
#[rustfmt::skip]
pub(crate) mod trace_capnp;
