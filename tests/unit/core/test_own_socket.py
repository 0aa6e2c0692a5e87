"""A socket that other code may close: a number is compared before it is used or closed."""

from __future__ import annotations

import os
import socket
import sys

import pytest
from tests.support import inner

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="a gate needs Linux")


def test_a_socket_is_its_own_until_it_is_closed():
    first, second = socket.socketpair()
    with first, second:
        number = os.dup(first.fileno())
        taken = inner.OwnSocket(number)
        assert taken.is_own
        taken.close()
        taken.close()
        assert not taken.is_own
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(number)


@pytest.mark.parametrize("of", ["socket", "file", "nothing"])
def test_a_number_of_another_file_is_neither_used_nor_closed(of):
    first, second = socket.socketpair()
    with first, second, open(__file__) as file:
        number = os.dup(first.fileno())
        taken = inner.OwnSocket(number)
        if of == "nothing":
            os.close(number)
        else:
            os.dup2(second.fileno() if of == "socket" else file.fileno(), number)
        assert not taken.is_own
        taken.close()
        if of != "nothing":
            os.close(number)
