"""The service types that every audit knows (REFERENCE: the page of `ac:inbound_session_count`).

Names are case sensitive. `inbound_cidr` is a view and no service: all SMTP sessions of the cluster.
"""

DEFAULT_SERVICE_TYPE = "SMTP"
DEFAULT_LISTENER_NAME = "default"
SERVICE_TYPES = ("SMTP", "ECStream", "Control", "ECmmove2", "ECCluster", "inbound_cidr")
