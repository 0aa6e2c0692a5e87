"""The cluster: the sessions and windows of all nodes, counted together on each.

    node_trees    what the protocol needs of the native core
    frames        what one node says to the others, as bytes
    window_records, windows   the windows of one node: as bytes, and as one state
    host_series   the series of this host: what is said of them, and where the windows of other nodes are counted
    host_overrides  the overrides of this host: what is said of them, and what is taken of those of other nodes
    sender        what this node says, and when
    replica       the copy of what another node has said, and what is missing of it
    node_state    what is known of another node
    clock_difference  by how much its clock differs from that of this host
    own_name      whether another node has the name of this one
    bounds        what the other nodes may take of this agent
    receiver      what the other nodes say: epochs, leases
    repeating     what is done on a thread of its own
    stand_still   whether this host stood still, so that the others were not heard
    engine        what carries frames between nodes: its calls, its settings, its making by name
    certificates  whether a node's certificate is what other nodes will take
    zenoh_settings, zenoh_engine, redis_engine

The rooms down to the receiver do no input or output and start no threads; the time is passed in. Delivery is trusted
with nothing: frames may be lost, repeated, late, out of order or damaged. Counts are absolute, each frame has a digest
of the state that it leads to, and a snapshot from its origin mends whatever differs. docs/model/cluster.pml is the
model of the protocol.
"""
