//! Typed identifiers of everything a trace names. Responsible for keeping a thread from being taken for a process;
//! not for what the identified things are (see `table`).

macro_rules! id {
    ($(#[$doc:meta])* $name:ident($repr:ty)) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(pub $repr);

        impl $name {
            /// The identifier as an index into its table.
            pub fn index(self) -> usize {
                self.0 as usize
            }
        }

        impl From<usize> for $name {
            fn from(index: usize) -> Self {
                Self(<$repr>::try_from(index).expect("identifier tables stay below their width"))
            }
        }
    };
}

id!(/// One executable, library or anonymous region that code ran from (index into `Tables::modules`).
    ModuleId(u32));
id!(/// One code address: module and offset (index into `Tables::frames`).
    FrameId(u32));
id!(/// One node of the stack tree. 0 is the empty stack; every other id indexes `Tables::stacks`.
    StackId(u32));
id!(/// One process *image*: a fork or an exec begins a new one (index into `Tables::processes`).
    ProcessId(u32));
id!(/// One thread of one process (index into `Tables::threads`).
    ThreadId(u32));
id!(/// One allocator implementation (index into `Tables::domains`).
    DomainId(u32));
id!(/// One allocator entry point of one domain (index into `Tables::entries`).
    EntryId(u32));

/// Position of an event in the trace's total order, from 0. A realloc has two, a lost event has none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Sequence(pub u64);

/// A block's birth number: the how-manieth birth of the trace, from 0, over all processes and domains. A successful
/// alloc is one birth and so is a successful realloc.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct BlockId(pub u64);

impl StackId {
    /// The stack without frames.
    pub const EMPTY: Self = Self(0);
}
