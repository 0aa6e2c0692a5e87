# Forks, and files that are kept locked.

import _imp  # the lock of imports: Python itself asks for it by this module

cdef extern from "Python.h":
    void PyOS_AfterFork_Child()

fork_handler = None
cdef bint python_forks = False      # Python knows of the fork that is made now, or made this process
if fork.watch_forks() != 0:
    raise MemoryError


def set_fork_handler(handler):
    """What is called, once, in a process that finds itself the child of a fork: before anything is counted there."""
    global fork_handler
    fork_handler = handler


def handle_fork():
    """Handles a fork that made this process, if that was not done. Raises what the handler raises; the next call tries
    again. Other threads wait meanwhile."""
    if fork.is_child():
        handle_the_fork()


def fork_is_pending():
    """Whether a fork made this process and was not handled: what is open is the parent's."""
    return bool(fork.is_child()) and not fork.is_handling()


def announce_fork(bint made):
    """Python is about to fork (True), or has forked: what it does itself in the child is not done once more."""
    global python_forks
    python_forks = made


cdef bint take_import_lock():
    """Whether this thread, the only one, holds the lock of imports once more: as after a fork that Python makes. False
    if a thread of the parent held it, which does not exist here: since Python 3.13 such a lock can't be given back."""
    if _imp.lock_held():
        try:
            _imp.release_lock()
        except RuntimeError:
            return False
        _imp.acquire_lock()  # this thread forked in the middle of an import
    _imp.acquire_lock()
    return True


cdef int handle_the_fork() except -1:
    """A fork that bypassed Python leaves its lock for threads broken in the child: a second thread hangs. So Python
    learns of it first, while there is no second one."""
    global python_forks
    cdef bint done = False
    if not python_forks and fork.is_alone() and take_import_lock():
        python_forks = True
        PyOS_AfterFork_Child()  # gives the lock of imports back, and runs the handlers, ours among them
        python_forks = False
    while fork.is_child() and not fork.is_handling():  # model: fork/is_child
        if not fork.begin_handling():  # model: fork/begin_handling
            with nogil:
                seqlock.sched_yield()  # model: fork/wait_for_handler
            continue
        try:
            if fork_handler is not None:
                fork_handler()
            done = True
        finally:
            fork.end_handling(done)  # model: fork/end_handling
    return 0


@cython.final
cdef class HeldFile:
    """Keeps the file of a descriptor, and the OFD locks on it, until `release`, whatever happens to the descriptor.

    A child of a fork does not inherit it: the locks go when this process ends. Raises OSError.
    """

    cdef void *at
    cdef u64 generation

    def __cinit__(self, int fd):
        self.generation = fork.generation
        self.at = fork.hold_file(fd)
        if self.at == NULL:
            PyErr_SetFromErrno(OSError)

    def release(self):
        """Idempotent."""
        if self.at != NULL and not (fork.is_child() and not fork.is_handling()) and self.generation == fork.generation:
            fork.drop_file(self.at)
        self.at = NULL

    def __dealloc__(self):
        self.release()
