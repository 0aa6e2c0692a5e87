"""What each Python process imports first under a sanitizer (`make sanitize` installs it as `sitecustomize`).

A sanitizer opens the file of its report when it has something to say. A process that is confined by then, runs as
another user or in another root directory may open no file; so the file is opened here, and appended to by all.
"""

import ctypes
import os
import re

LOG_PATH = re.search(r"log_path=([^:]+)", os.environ.get("ASAN_OPTIONS", ""))
UNDER_ASAN = "libasan" in os.environ.get("LD_PRELOAD", "")


def keep_report_open() -> None:
    """In a child a sanitizer would open a file of its own again, unless it is told not to."""
    _set(ctypes.c_void_p(_fd))


if UNDER_ASAN and LOG_PATH is not None:
    _set = ctypes.CDLL(None)["__sanitizer_set_report_fd"]
    _set.restype = None
    try:
        _fd = os.open(f"{LOG_PATH[1]}.all", os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
    except OSError:  # another user's process, from its start
        _fd = 2
    keep_report_open()
    os.register_at_fork(after_in_child=keep_report_open)
