"""The floor: what it costs to call any method of a compiled class that takes what `inbound_session_count` takes."""

cimport cython


@cython.final
cdef class Floor:
    def inbound_session_count(self, cidr=None, service_type=None):
        return None
