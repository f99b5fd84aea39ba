@0xd3b1f6a4c27e9058;
# The heaptape trace format, version 1 (`.htape`).
#
# This file is the specification: whoever reads it, and RFC 8878 (zstd) and the Cap'n Proto encoding, can read a trace.
# All numbers outside of Cap'n Proto messages are little endian. Offsets and lengths are bytes.
#
# == File layout =======================================================================================================
#
#   mark       16   magic 89 48 54 41 50 45 0D 0A ("\x89HTAPE\r\n") · version u16 · reserved u16 (0) ·
#                   low half of xxh3-64 over the 12 bytes before, u32
#   envelope   header     (kind 1), once
#   envelope   tables     (kind 3), any number  ┐ in turns: rows come before the first event that refers to them;
#   envelope   chunk      (kind 2), any number  ┘ other kinds may stand between
#   envelope   symbols    (kind 4), any number  ┐ written when the recording ends
#   envelope   tail       (kind 5), once        │
#   footer     32   magic "HTAPEEND" · offset of the tail's envelope u64 · size of the whole file u64 ·
#                   xxh3-64 over the 24 bytes before, u64
#
# The version rises only if an older reader would misread a file. A reader refuses newer versions in words.
#
# == Envelope ==========================================================================================================
#
#    0   4   magic "HTCK"
#    4   1   kind: 1 header, 2 chunk, 3 tables, 4 symbols, 5 tail. A reader skips other kinds without complaint.
#    5   1   flags: 0. A reader cannot read an envelope of a known kind whose flags it does not know.
#    6   2   reserved, 0; readers ignore it
#    8   4   length of the payload
#   12   4   length of the payload once uncompressed; at most 64 MiB (67108864)
#   16   8   xxh3-64 of the payload
#   24   8   xxh3-64 of the 24 bytes before
#   32   …   payload: one zstd frame holding one Cap'n Proto message in the standard (unpacked) stream framing.
#            Its root is the struct named like the kind (`tables`: Dictionary).
#
# A reader that finds no envelope where one should begin searches for the next magic whose header checksum holds.
#
# == Order, ids, what a missing chunk does =============================================================================
#
# Events have sequence numbers from 0 in the trace's total order, blocks have birth numbers from 0: the n-th event that
# is a birth (codes alloc, allocAligned, reallocEnd, reallocEndSame) bears block n. Each chunk says its first of both, so
# it decodes alone; chunks may be decoded in parallel, and a lost one shifts nothing. Sequence numbers between two chunks
# that no chunk holds are lost events. All state of the encodings below begins anew with each chunk.
#
# Ids are indices of tables and grow without gaps. Tables bring every row that is new since the tables before, with the id
# of the first; a chunk says in its dictionary how many rows came before it, so that lost rows leave a gap of known size.
# An event refers only to rows that stand before its chunk, or in its chunk's dictionary: early recorders put new rows there,
# and all of them once more into tables at the end. A reader without a tail takes rows from both. Stack 0 is the empty stack
# and is never written.
#
# == Columns ===========================================================================================================
#
# varint: LEB128, least group first, at most 10 bytes. zigzag: 0, -1, 1, -2, … as 0, 1, 2, 3, …; differences wrap at 64
# bits. A column holds one value for each event *that has one*; the shape of an event (see `shapes`) tells which it has.
# A reader skips columns of a kind it does not know, and cannot decode a chunk in which a column that it needs is
# missing, too short, or has an encoding that it does not know.

struct Header {
  # First envelope; repeated in the tail.
  recorder @0 :Text;               # heaptape version that recorded
  kernel @1 :Text;                 # uname -r
  machine @2 :Text;                # uname -m
  cpuCount @3 :UInt32;             # processors online
  startUnixNs @4 :UInt64;          # wall clock at start
  startMonotonicNs @5 :UInt64;     # CLOCK_MONOTONIC at start: the zero of all times
  tickNs @6 :UInt32;               # precision of event times
  command @7 :List(Text);          # launched, or empty
  attachedPid @8 :UInt32;          # or 0
  options @9 :List(Text);          # name=value; `addresses=false` says that chunks bear no addresses of blocks
}

struct Chunk {
  firstSequence @0 :UInt64;        # of its first event
  eventCount @1 :UInt32;           # at most 262144; may be 0 (a chunk of new rows only)
  firstBlock @2 :UInt64;           # births before its first event
  blockCount @3 :UInt32;           # births in it
  firstTick @4 :UInt64;            # time of its first event
  tickNs @5 :UInt32;               # ns per tick, at least 1; as in the header, but this one counts: a chunk decodes alone
  withoutAddresses @6 :Bool;       # births have no recall and no address (0); frees of unknown addresses still have
  columns @7 :List(Column);        # at most one of a kind
  dictionary @8 :Dictionary;       # no rows: how many there were before it
}

struct Column {
  kind @0 :UInt16;                 # ColumnKind
  encoding @1 :UInt16;             # ColumnEncoding
  data @2 :Data;
}

# Column kinds. `all`: every event has a value.
const columnShapes :UInt16 = 1;
  # Not per event: the shapes used in this chunk, each three varints: op code (0…255) · entry id, 0 if the code has none ·
  # domain + 1 of the pending call that this one is part of, or 0. Encoding varint.
const columnShape :UInt16 = 2;         # all: index of the event's shape. varint.
const columnThread :UInt16 = 3;        # all: thread id. runs.
const columnTime :UInt16 = 4;          # all: ticks since the event before (the first: since firstTick), zigzag. varint.
const columnStack :UInt16 = 5;         # all: stack id less that of the event before (at first 0), zigzag. varint.
const columnSize :UInt16 = 6;          # bytes requested. varint.
const columnAddress :UInt16 = 7;
  # Address of a birth whose rank is 16, or the address given to a free of an unknown or dead block: rotated right by 4
  # bits (aligned addresses lose their zeros), less the one before in this column (at first 0), zigzag. varint.
const columnLink :UInt16 = 8;
  # Which block dies: births since its own + 2 (the block born last: 2). 0: the address is unknown, 1: its block is dead
  # already; both have an address. varint.
const columnAlignment :UInt16 = 9;     # bytes. varint.
const columnExtra :UInt16 = 10;        # operands of the rare codes, see there. varint.
const columnRecall :UInt16 = 11;
  # Rank of a birth's address in its list of addresses that were freed lately, 0 to 15, or 16 if it is not in it; then the
  # address is in its own column. varint.
  # There are 512 lists of 16 rotated addresses each, all 0 when a chunk begins. The list of a thread and a size is number
  #   (class + thread mod 512 × 61) mod 512,   class = max(2, (size + 23, at most 2^64 - 1) div 16) mod 512.
  # A death of a block that was born in this chunk puts its address in front of the list of the *dying* event's thread and
  # of the size at its birth; the last falls out. A birth with a rank takes the address out of its list; those behind it
  # move up and a 0 comes in at the end.

const columnChange :UInt16 = 12;
  # all: renewed × 2 + moved. varint. Missing: all 0.
  # It says which activations (dynamic instances of functions) of the thread's stack before continue; that is the stack of
  # the thread's latest earlier event whose quality is not 3, in whatever chunk. Both stacks share the outer frames down to
  # the lowest common ancestor of their nodes. All of these continue but the innermost `renewed` ones, whose frame addresses
  # are others. If `moved` is 1, the first frame that does not continue is the activation it was as well: same function, same
  # frame address; only the call it is in is another. If events between the two are missing (their sequence numbers are in
  # no chunk), nothing is known to continue. Runs instead would change traces of cc1plus by -0.5 to +0.2 %.
const columnStackQuality :UInt16 = 13;
  # all: how the stack walk ended: 0 at the thread's root, the stack is complete · 1 at the depth limit · 2 at memory that
  # could not be read · 3 no walk was made, at most the return address of the call is known · 4 at code without unwind
  # information · 5 at code of no mapped file · 6 at unwind information that the recorder cannot express · 7 at somebody
  # else's return probe · 8 no room for a walk. Readers keep other codes, up to 255, and take them as walks that were cut
  # short. runs. Missing: all 3.

# Column encodings.
const encodingVarint :UInt16 = 1;
const encodingRuns :UInt16 = 2;        # pairs of varints: value · how often it follows in a row (at least 1)

# Op codes. In brackets the columns that the code takes a value from, in this order, beside those that all events have;
# `(e)` the shape names an entry, `(d)` it may name a domain. A reader takes an event of another code as "unknown": it has
# values in the columns of all events and in none of the others of version 1, so that order and time stay whole.
const opAlloc :UInt8 = 1;              # (e)(d) [size, recall, address if rank 16] a block is born; alignment 0
const opAllocAligned :UInt8 = 2;       # (e)(d) [size, recall, address if rank 16, alignment]
const opAllocFailed :UInt8 = 3;        # (e) [size] NULL was returned
const opFree :UInt8 = 4;               # (e) [link, address if link is 0 or 1]
const opReallocBegin :UInt8 = 5;       # (e) [link, address if link is 0 or 1, size] the old block dies
const opReallocEnd :UInt8 = 6;         # (e) [size, recall, address if rank 16] the new block is born
const opReallocEndSame :UInt8 = 7;     # (e) [recall, address if rank 16] as before; size is that of the last reallocBegin in this chunk
const opReallocFailed :UInt8 = 8;      # (e) the old block lives on
const opReallocFreed :UInt8 = 9;       # (e) it was a free
const opMissedFree :UInt8 = 10;        # [link, at least 2]
const opProcessStart :UInt8 = 11;      # [extra: process]
const opProcessEnd :UInt8 = 12;        # [extra: process, 0 exit · 1 exec · 2 detached, wait status zigzag]
const opThreadEnd :UInt8 = 13;
const opLoss :UInt8 = 14;              # [extra: cpu, first ns, last ns, allocs, frees, others]
const opMarker :UInt8 = 15;
  # [extra: marker or 2^32 - 1 for none, kind: 0 point · 1 begin · 2 end, value]. The value is what the marker's row says: 0
  # where it has none, a number, or a row of `texts`; 2^64 - 1 where it could not be read. Early traces have markers of no row.

struct Dictionary {
  # Rows of tables. Each table: the id of the first row, then rows. `first…` is valid even if there are no rows: it then
  # says how many rows earlier chunks brought. Tables of an unknown kind are skipped.
  firstModule @0 :UInt32;
  modules @1 :List(Module);
  firstFrame @2 :UInt32;
  frameCount @3 :UInt32;
  frameModules @4 :Data;           # runs: module id of each frame
  frameAddresses @5 :Data;         # zigzag varint: address less that of the frame before (at first 0)
  firstStack @6 :UInt32;           # at least 1
  stackCount @7 :UInt32;
  stackParents @8 :Data;           # varint: own id less the parent's, at least 1
  stackFrames @9 :Data;            # varint: 0 for the frame after the greatest one so far (at first: of firstFrame - 1), else frame id + 1
  firstProcess @10 :UInt32;
  processes @11 :List(Process);
  firstThread @12 :UInt32;
  threads @13 :List(Thread);
  firstDomain @14 :UInt32;
  domains @15 :List(Domain);
  firstEntry @16 :UInt32;
  entries @17 :List(Entry);
  firstProbe @18 :UInt32;
  probes @19 :List(Probe);
  nestings @20 :List(Nesting);     # have no ids: a row replaces an earlier one of the same pair
  firstMarker @21 :UInt32;
  markers @22 :List(Marker);
  firstText @23 :UInt32;
  texts @24 :List(Text);           # what marker events say, each text once
}

struct Module {
  path @0 :Text;                   # as the process saw it, or [vdso], [anonymous], …
  buildId @1 :Data;                # GNU build id, or empty
  sizeBytes @2 :UInt64;            # of the file, 0 unknown
}

struct Process {
  pid @0 :UInt32;
  parent @1 :UInt32;               # process id (row) + 1, or 0
  origin @2 :UInt8;                # 0 launch, 1 attach, 2 fork, 3 exec; readers take others as launch
  name @3 :Text;
  command @4 :List(Text);
  sharesHeap @5 :Bool;
}

struct Thread {
  tid @0 :UInt32;
  process @1 :UInt32;
  name @2 :Text;
}

struct Domain {
  name @0 :Text;
  module @1 :UInt32;
  layer @2 :UInt32;
}

struct Entry {
  domain @0 :UInt32;
  symbol @1 :Text;
  kind @2 :UInt8;                  # 0 alloc, 1 zeroed alloc, 2 realloc, 3 free; others keep their number
}

struct Probe {
  process @0 :UInt32;
  module @1 :UInt32;
  symbol @2 :Text;
  functionOffset @3 :UInt64;
  instructionOffset @4 :UInt32;
  instruction @5 :Text;
  emulated @6 :Bool;
  result @7 :UInt8;                # 0 none, 1 return probe, 2 probes on ret instructions; readers take others as none
  reason @8 :Text;
  placed @9 :Bool;
}

struct Marker {
  # A probed function, or a place in one, that tells of phases. Begins and ends of one phase are events of several markers of
  # one name, on one thread; they nest.
  name @0 :Text;                   # of the rule that asked for it: the phase's name, unless its value says it
  symbol @1 :Text;                 # linkage name of the function, or provider:name of a static probe
  value @2 :UInt8;                 # 0 none, 1 number, 2 text; readers take others as numbers
  endsBy @3 :UInt8;                # what it begins ends: 0 by an end event, 1 with the activation of the function; readers take others as 0
}

struct Nesting {
  outer @0 :UInt32;
  inner @1 :UInt32;
  count @2 :UInt64;
  bytes @3 :UInt64;
  outerCount @4 :UInt64;
  outerBytes @5 :UInt64;
}

struct Symbols {
  # Symbols of a run of frames. Strings are numbered from 1 in the order of `stringLengths`; 0 is the empty one.
  firstFrame @0 :UInt32;
  frameCount @1 :UInt32;
  stringLengths @2 :Data;          # varint each
  stringBytes @3 :Data;            # UTF-8, end to end
  functionCounts @4 :Data;         # varint per frame: functions at its address, innermost inlined one first
  names @5 :Data;                  # varint per function: string
  linkageNames @6 :Data;           # varint per function: string
  files @7 :Data;                  # varint per function: string
  lines @8 :Data;                  # varint per function: line, 0 unknown
}

struct Tail {
  # Written last: a file with a readable tail was ended by its recorder (or by `heaptape salvage`).
  header @0 :Header;
  stats @1 :Stats;
  chunks @2 :List(ChunkEntry);     # in file order
  eventCount @3 :UInt64;           # of all chunks
  blockCount @4 :UInt64;           # births of the whole trace, lost ones included
  tableOffsets @5 :List(UInt64);   # envelopes of kind tables, in file order; together they hold all rows of all tables
  symbolOffsets @6 :List(UInt64);  # envelopes of kind symbols
  salvaged @7 :Bool;               # made by `heaptape salvage`: the recording may lack its end
  sequenceEnd @8 :UInt64;          # number after the last event, lost ones included
}

struct ChunkEntry {
  offset @0 :UInt64;               # of its envelope
  firstSequence @1 :UInt64;
  eventCount @2 :UInt32;
  firstTimeNs @3 :UInt64;
  firstBlock @4 :UInt64;           # births before its first event
}

struct Stats {
  # What the recorder counted; units in names.
  ringFailureCount @0 :UInt64;
  missedRunCount @1 :UInt64;
  callBeginCount @2 :UInt64;
  callReturnCount @3 :UInt64;
  callAbandonedCount @4 :UInt64;
  callPendingCount @5 :UInt64;
  returnWithoutBeginCount @6 :UInt64;
  nestedCallCount @7 :UInt64;
  backpressureStopCount @8 :UInt64;
  backpressureNs @9 :UInt64;
  impossibleCount @10 :UInt64;
  recorderCpuNs @11 :UInt64;
  targetCpuNs @12 :UInt64;
  programNs @13 :UInt64;
  programRunCount @14 :UInt64;
  wallNs @15 :UInt64;
  end @16 :Text;
  warnings @17 :List(Text);
  allocStacks @18 :StackSummary;   # of births and failed allocs
  freeStacks @19 :StackSummary;    # of frees and begins of reallocs
  unwindSampleCount @20 :UInt64;   # stack walks that the recorder timed
  unwindSampleNs @21 :UInt64;      # their time
  unwindTableCount @22 :UInt64;    # modules with an unwind table
  unwindRowCount @23 :UInt64;      # rows of these tables
  unwindKernelBytes @24 :UInt64;   # kernel memory for unwinding
  unwindBuildNs @25 :UInt64;       # time spent on making and loading tables; targets waited for it
}

struct StackSummary {
  eventCount @0 :UInt64;
  depthSum @1 :UInt64;             # frames
  endCounts @2 :List(UInt64);      # events by quality code (columnStackQuality); trailing zeros are left out
}
