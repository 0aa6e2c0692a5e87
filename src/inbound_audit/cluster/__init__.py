"""The cluster: the sessions of all nodes, counted together on each.

    node_trees    what a tree of a node can do: the seam to the native core
    frames        what one node says to the others, as bytes
    sender        what this node says, and when
    replica       the copy of another node's tree, and what is missing of it
    receiver      what the other nodes say: epochs, leases, bounds
    engine        what carries frames between nodes: its calls, its settings, its making by name
    certificates  whether a node's certificate is what other nodes will take
    zenoh_settings, zenoh_engine, redis_engine

The rooms down to the receiver do no input or output and start no threads; the time is passed in. Delivery is trusted
with nothing: frames may be lost, repeated, late, out of order or damaged. Counts are absolute, each frame has a digest
of the state that it leads to, and a snapshot from its origin mends whatever differs. docs/model/cluster.pml is the
model of the protocol.
"""
