"""The service types that every audit knows (REFERENCE: the page of `ac:inbound_session_count`).

Names are case sensitive. `inbound_cidr` is a view and no service: the SMTP sessions of all nodes of the cluster. Those
are the sessions of this host, and of each other node whose tree this host's agent keeps; without an agent, this host's.
"""

DEFAULT_SERVICE_TYPE = "SMTP"
DEFAULT_LISTENER_NAME = "default"
SERVICE_TYPES = ("SMTP", "ECStream", "Control", "ECmmove2", "ECCluster", "inbound_cidr")
