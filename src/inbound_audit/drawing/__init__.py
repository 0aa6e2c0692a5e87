"""Pictures as plain shapes, and shapes as files.

hilbert     where an IPv4 prefix lies on the map
"""
