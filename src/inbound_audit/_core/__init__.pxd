# The rooms of the core, read from the ground up; each may cimport only from those before it:
#
#   bits      atomic words, bit counting, the sixteen-byte match
#   codes     what a core function answers when it cannot: one number and one sentence each
#   address   an address as left-aligned bits, from text and to text
#   cidr      the grammar of the `cidr` argument
#   monitor   durations and monitors, as a user writes them
#   clock     the time, and numbers of windows of time
#   seqlock   one writer, readers without a lock
#   mapping   address ranges: reserved, mapped from a file, covered
#   sigbus    guards: what happens when a mapped file is cut short
#   watch     a descriptor that reports changes of a directory
#   arena     memory that never moves: 32-bit handles, size classes, free lists
#   coalesce  free blocks that lie side by side become larger ones
#   node      the layout of a node and what can be asked of one
#   trie      counts of prefixes: add, remove, count, seek
#   owner     services, their listeners' trees, and sums over them
#   window    windows of time: a ring of trees that turns
#   foreign   the files of other processes: their trees among ours, and what is no longer there
#   fold      giving up detail, so that a window stays within its memory
#   strings   texts as addresses
#   change_log  the change log of a series
#   series    series of windows: what is added, and sums over the rings of all processes
#   walk      long walks: rows of the compressed tree, the largest prefixes
#   verify    the checker: every block accounted for once, every count the sum below it
#   ranges    longest-prefix match over a list of networks that never changes
#
# Everything here is `noexcept nogil`: it returns codes, touches no Python object and can't raise.
