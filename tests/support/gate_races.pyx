"""A gate with two lanes under ThreadSanitizer: no data race, and each connection has one end; no part of the package.

    gate_races STEPS SEED       so many connections of each of two peers

The peers connect and read to the end. A taker takes what was let in, holds some of it, and closes it. An exchanger
exchanges the rules, and stops both lanes now and then, as a fork does. A counter reads without a lock. In the end the
figures are those of the peers, and nothing is counted.
"""

from libc.stdio cimport fprintf, printf, stderr
from libc.stdlib cimport atoll, calloc, exit

cimport inbound_audit._core.gate as gate
cimport inbound_audit._core.gate_connection as gate_connection
cimport inbound_audit._core.gate_lane as gate_lane
cimport inbound_audit._core.gate_model as gate_model
cimport inbound_audit._core.gate_queue as gate_queue
cimport inbound_audit._core.limits as limits
cimport inbound_audit._core.model as model
cimport inbound_audit._core.own_socket as own_socket
cimport inbound_audit._core.reply as reply
cimport inbound_audit._core.seqlock as seqlock
cimport inbound_audit._core.sums as sums
cimport inbound_audit._core.trees as trees
cimport inbound_audit._core.verify as verify
from inbound_audit._core.bits cimport u16, u32, u64, acquire32, fetch_add64, load32, load64, publish32

cdef extern from "gate_peers.h":
    int listen_somewhere "races_listen"(u16 *) noexcept nogil
    int visit "races_visit"(u16, u32, bint) noexcept nogil

cdef enum:
    HOSTS = 5
    MAX_HELD = 6
    BACKLOG = 4
    LANES = 2
    PEERS = 2
    THREADS = 5
    MAX_OPEN = 2            # of a host

cdef gate_model.Gate *it
cdef gate_model.Rules rules[2]
cdef limits.LimitSet set
cdef u16 port
cdef u64 steps
cdef u64 told[3]            # connections that were told nothing, of a limit, that the server is busy
cdef u64 taken
cdef u32 over               # published


cdef void check(bint holds, const char *property) noexcept nogil:
    if not holds:
        fprintf(stderr, "FAILED: %s\n", property)
        exit(1)


cdef void *be_a_peer(void *given) noexcept nogil:
    cdef u64 i, host
    cdef int said
    for i in range(steps):
        host = 1 + (i * 7 + <u64>given) % HOSTS
        said = visit(port, <u32>host, i % 5 == 0)
        check(said >= 0, "a peer connects and reads to the end")
        fetch_add64(&told[0 if said == 0 else 1 if said == 5 else 2], 1)
    return NULL


cdef void end_connection(gate_queue.Connection *c) noexcept nogil:
    own_socket.close_socket(&c.socket)
    gate_connection.take_back(c)
    fetch_add64(&taken, 1)


cdef void *be_the_taker(void *_) noexcept nogil:
    """Holds a few, so that limits are passed and the queue is full at times."""
    cdef gate_queue.Connection held[MAX_HELD]
    cdef int n = 0
    while not acquire32(&over):
        if gate_queue.pop(&it.queue, &held[n]):
            n += 1
        if n == MAX_HELD or (n and load64(&taken) % 3 == 0):
            n -= 1
            end_connection(&held[n])
        elif n:
            own_socket.wait_for(it.queue.reads.fd, 1)
            if load32(&it.queue.size) == 0:
                n -= 1
                end_connection(&held[n])
        else:
            own_socket.wait_for(it.queue.reads.fd, 10)
    while n:
        n -= 1
        end_connection(&held[n])
    return NULL


cdef void *be_the_exchanger(void *_) noexcept nogil:
    cdef u64 turn = 0
    cdef int i
    while not acquire32(&over):
        turn += 1
        for i in range(LANES):
            gate_lane.lock_lane(&it.lane[i])
            it.lane[i].rules = &rules[turn % 2]
            gate_queue.unlock_mutex(&it.lane[i].lock)
        if turn % 4 == 0:
            gate.hold(it)
            gate.hold_descriptors(it)
            check(it.queue.size <= BACKLOG, "the queue has an end")
            for i in range(LANES):
                check(it.lane[i].hand == -1, "no connection is in the middle of a batch")
            gate.let_go_of_descriptors(it)
            gate.let_go(it)
        gate_lane.rest(1)
    return NULL


cdef void *be_the_counter(void *_) noexcept nogil:
    cdef u64 before = 0
    while not acquire32(&over):
        check(gate_lane.news_of(it) >= before, "figures never decrease")
        before = gate_lane.news_of(it)
        check(sums.tree_total(it.tree) >= 0, "a count is none below zero")
        seqlock.sched_yield()
    return NULL


cdef void make_reply(reply.Reply *r, const char *text, u32 size) noexcept nogil:
    r.part[0].words.text, r.part[0].words.size, r.parts = text, size, 1


cdef void set_up(gate_model.Gate *g) noexcept nogil:
    global it
    cdef model.Owner *owner = <model.Owner *>calloc(1, sizeof(model.Owner))
    cdef int listening = listen_somewhere(&port), i
    check(owner != NULL and g != NULL and listening >= 0, "there is an owner, a gate and a socket")
    trees.add_known_services(owner)
    g.tree = trees.add_tree(owner, model.SMTP, 1, 1 << 20)
    check(g.tree != NULL and gate.make_lanes(g, &rules[0], 1, LANES) == 0, "there is room")
    trees.link_tree(owner, g.tree)
    set.limit = <limits.Limit *>calloc(1, sizeof(limits.Limit))
    set.table = <limits.Table *>calloc(1, sizeof(limits.Table))
    set.tables, set.table.end, set.limit.length[0], set.limit.maximum = 1, 1, 32, MAX_OPEN
    for i in range(2):
        rules[i].limits = &set
        rules[i].networks = <gate_model.Ranges *>calloc(2, sizeof(gate_model.Ranges))
        rules[i].names = <reply.Words *>calloc(1, sizeof(reply.Words))
        make_reply(&rules[i].refusal, "over\n", 5)
        make_reply(&rules[i].busy, "busy!\n", 6)
        rules[i].number = i + 1
    g.linger = gate_model.DRAIN  # peers that have spoken read their reply
    check(gate.open_gate(g, BACKLOG, &listening) == 0, "a gate begins")
    it = g


cdef void check_all() noexcept nogil:
    cdef u64 opened = 0, refused = 0, queue_full = 0
    cdef int i
    for i in range(LANES):
        opened += it.lane[i].opened
        refused += it.lane[i].refused
        queue_full += it.lane[i].queue_full
    check(opened == PEERS * steps, "each connection was opened")
    check(opened == it.queue.accepted + refused + queue_full, "each connection has one outcome")
    check(refused == told[1] and queue_full == told[2], "peers were told what the figures say")
    check(it.queue.accepted == taken == told[0], "each connection that was let in was taken once")
    check(set.limit.passed == refused, "a limit was passed as often as it refused")
    check(sums.tree_total(it.tree) == 0, "nothing is counted in the end")
    check(verify.verify(&it.tree.arena) == NULL, "the checker finds no fault in the tree")


cdef public int main(int count, char **word) noexcept nogil:
    global steps
    cdef void *(*job[THREADS])(void *) noexcept nogil
    cdef gate_model.Thread thread[THREADS]
    cdef int i
    check(count == 3, "usage: gate_races STEPS SEED")
    steps = <u64>atoll(word[1])
    job[0], job[1], job[2], job[3], job[4] = be_a_peer, be_a_peer, be_the_taker, be_the_exchanger, be_the_counter
    set_up(<gate_model.Gate *>calloc(1, sizeof(gate_model.Gate)))
    for i in range(THREADS):
        check(gate_lane.start_thread(&thread[i], job[i], <void *><u64>(i + atoll(word[2]))) == 0, "a thread is started")
    for i in range(PEERS):
        gate.join_thread(thread[i], NULL)
    publish32(&over, 1)
    for i in range(PEERS, THREADS):
        gate.join_thread(thread[i], NULL)
    gate.end_gate(it)
    gate_queue.close_queue(&it.queue)
    check_all()
    printf("%lld connections, each has one end; every count is the sum of the tallies\n", <long long>(PEERS * steps))
    return 0
