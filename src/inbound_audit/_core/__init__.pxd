# The rooms of the core, read from the ground up; each may cimport only from those before it:
#
#   bits            atomic words, bit counting, the sixteen-byte match
#   codes           what a core function returns when it fails: one number and one sentence each
#   address         an address as left-aligned bits
#   address_text    addresses from text and to text
#   prefix          the grammar of the `cidr` argument
#   monitor         the grammar of durations and monitors
#   clock           the time, and the numbers of windows
#   seqlock         one writer, readers without a lock
#   mapping         address ranges: reserved, mapped from a file, covered
#   sigbus          guards: what happens when another process cuts a mapped file short
#   fork            forks that Python does not know of; locks that no child inherits
#   kept_file       files that are held open, and opened again when their descriptor is lost
#   watch           a descriptor that reports changes of a directory
#   layout          the bytes of a tree: its header, its label, its units
#   backing         where an arena's memory comes from: the system, or a file that grows
#   arena           blocks of an arena: size classes, free lists
#   coalesce        merges free blocks that lie side by side
#   node            the layout of a node, and how to search one
#   path            the path to a host
#   trie            counts of prefixes: add, remove, move, count
#   seek            hosts in address order
#   ranges          longest-prefix match over a list of networks that never changes
#   overrides       prefixes that are let in or refused whatever the limits say, and notes for more of them
#   model           the structures: owner, service, tree, series, ring, session
#   trees           the lists of trees: services, their listeners' trees
#   sums            sums over trees
#   lengths         counts of one address at several prefix lengths, in one walk
#   records         hosts with absolute counts, as nodes of a cluster send them; the digest of a tree
#   hosts           all hosts of a tree, or of several, in address order
#   node_tree       the tree of one node of a cluster, and the sum over all nodes
#   difference      what trees hold and another tree does not
#   session         a session in its listener's tree
#   query           what a session, a listener or an audit asks about open sessions
#   window          windows of time: a ring of trees that rotates
#   sliding         sliding sums over the last seconds, of two windows
#   owner_files     files of other owners: attached, refreshed, detached
#   fold            gives up detail, so that a window stays within its memory
#   cluster_window  a window over a cluster: in all rings of this host, and in the ring of the other nodes
#   strings         texts as addresses
#   change_log      the change log of a series
#   series_query    counts of a series over windows and owners
#   series_change   records in a series: adds, subtracts, moves, removes
#   walk            long walks: rows of the compressed tree, the largest prefixes
#   picture         the heaviest prefixes of any length, down to a number of rows
#   verify          the checker: each block in one place, each count the sum below it
#   decision        what an override decides about a session; the denials that limits ask for
#   limits          limits that are checked at accept, and which sessions count in which
#   fullest         how full a limit is: its prefixes by what it counts in them
#   reply           what a refused peer is sent
#   own_socket      a socket of ours that other code may close
#   gate_queue      the connections that a gate has let in and Python has not taken
#   gate_decisions  what a gate has refused, until it is written to the decision log
#   gate_model      the structures of a gate, and its bounds
#   gate_drain      refused connections whose socket is not closed yet
#   gate_connection  one connection of a gate: counted, asked about, refused or put into the queue
#   gate_sockets    what a lane of a gate waits on: made anew when other code has closed it
#   gate_lane       a thread of a gate: accepts in batches, and waits
#   gate            all threads of a gate, from its beginning to its end, and forks
#   forward_model   the structures of a forwarder, and its bounds
#   forward_pipe    pipes that bytes go through from one socket to another
#   forward_header  the PROXY header that a back end gets first
#   forward_flow    one flow of a forwarder: a client, a back end, and the bytes between them
#   forward         all threads of a forwarder, from its beginning to its end, and forks
#
# Everything here is `noexcept nogil`: it returns codes, uses no Python object and can't raise.
