/* A fork beside threads: a thread that forks, a background thread that may be in the middle of a change, and a thread that
   changes members, stops the background thread and starts it again. The child is a process of its own with two threads.

   Code: process.py, _ext/process.pxi, _core/fork.h. Both ways to fork: by Python, with its hooks, or around them.

   Property: the child of a fork by Python is a copy of a process in which none of our threads is in the middle of a change
   and no lock of ours is held by another thread. A child handles its fork once, before it counts, and counts nothing of
   its parent. The background thread runs again in the parent if it ran before. No thread waits for ever. */

#ifndef FORKS
#define FORKS 2
#endif

#define FREE       0
#define FORKER     1
#define CHANGER    2
#define BACKGROUND 3

byte persist_lock, shared_lock;     /* who holds it */
bool half;                          /* a change is made under shared_lock, and not complete */
bool runs, stops;                   /* the background thread: it exists; it is to end */
bool wanted;                        /* the member that it runs for is there */
bool was_running;
byte sessions = 1;                  /* of this process */

bool at_work;                       /* ghost: the thread is between its start and its end */

#define CHILD    0
#define HERE     1
#define HANDLING 2

byte child_state, child_sessions, child_lock, child_threads;
bool child_exists, child_half, seen;

inline stop_thread() {
    stops = true;                                                          /* step: fork/stop */
    !runs                                                                  /* step: fork/join */
}

inline start_thread() {
    atomic {                                                               /* step: fork/start */
        stops = false;
        if
        :: !runs -> runs = true; run Background()
        :: else
        fi
    }
}

/* The job: under the lock, which it stops waiting for when it is to end. */
proctype Background() {
    at_work = true;
    do
    :: atomic { stops -> runs = false; break }                             /* step: fork/end_of_job */
    :: atomic { shared_lock == FREE && !stops -> shared_lock = BACKGROUND };     /* step: fork/take_or_give_up */
        half = true;
        half = false;
        shared_lock = FREE
#ifdef MUTANT_WAITS_FOR_LOCK
    :: shared_lock != FREE -> atomic { shared_lock == FREE -> shared_lock = BACKGROUND }; shared_lock = FREE
#endif
    od;
    at_work = false
}

/* Another thread of the program. */
proctype Changer() {
    byte n;
    do
    :: n < 2 ->
        n++;
        if
        :: atomic { persist_lock == FREE -> persist_lock = CHANGER };      /* a store, which scans for dead owners */
            atomic { shared_lock == FREE -> shared_lock = CHANGER };
            half = true;
            half = false;
            shared_lock = FREE;
            persist_lock = FREE
        :: atomic { shared_lock == FREE -> shared_lock = CHANGER };        /* a membership ends, and another begins */
            wanted = false;
            stop_thread();
            half = true;
            half = false;
            atomic { wanted = true };
            start_thread();
            shared_lock = FREE
        fi
    :: else -> break
    od
}

inline copy_process(by_python) {
    assert(!by_python || !half);
    assert(!by_python || (persist_lock == FORKER && shared_lock == FORKER));
    assert(!by_python || !at_work || !runs);
    child_exists = true;
    child_half = half;
    child_state = CHILD;
    child_sessions = sessions;
    child_lock = shared_lock;
    child_threads = 0
}

proctype Forker() {
    byte n;
    do
    :: n < FORKS && !child_exists ->
        n++;
        if
        :: /* by Python */
#ifdef MUTANT_STOP_BEFORE_LOCKS
            was_running = runs;
            stop_thread();
#endif
#ifdef MUTANT_SHARED_FIRST
            atomic { shared_lock == FREE -> shared_lock = FORKER };
            atomic { persist_lock == FREE -> persist_lock = FORKER };
#else
            atomic { persist_lock == FREE -> persist_lock = FORKER };      /* step: fork/lock_persist */
            atomic { shared_lock == FREE -> shared_lock = FORKER };        /* step: fork/lock_shared */
#endif
#ifndef MUTANT_STOP_BEFORE_LOCKS
            was_running = runs && !stops;
            stop_thread();
#endif
            atomic { copy_process(true); run Child(true); run Child(true) };     /* step: fork/fork */
            if
            :: was_running -> start_thread()                               /* step: fork/start_again */
            :: else
            fi;
            assert(!was_running || (runs && !stops));
            shared_lock = FREE;                                            /* step: fork/unlock */
            persist_lock = FREE
        :: atomic { copy_process(false); run Child(false); run Child(false) }    /* around Python's hooks */
        fi
    :: else -> break
    od
}

/* A thread of the child: it opens a session. In the child of a fork by Python the first thread handles the fork before
   there is a second one; here both try, which is the harder case. */
proctype Child(bool by_python) {
    do
    :: child_state == HERE -> break                                        /* step: fork/is_child */
    :: else ->
        if
#ifdef MUTANT_TWO_HANDLERS
        :: child_state == CHILD ->
            child_state = HANDLING;
#else
        :: atomic { child_state == CHILD -> child_state = HANDLING };      /* step: fork/begin_handling */
#endif
            assert(child_sessions <= 1 || !seen);
            child_lock = FREE;                                             /* step: fork/renew_locks */
            child_sessions = 0;                                            /* step: fork/forget */
            if
            :: child_state = HERE                                          /* step: fork/end_handling */
            :: !seen -> seen = true; child_state = CHILD                   /* it failed: the next one tries again */
            fi
        :: child_state == HANDLING -> (child_state != HANDLING)            /* step: fork/wait_for_handler */
        :: child_state == HERE -> break
        fi
    od;
    atomic { child_lock == FREE -> child_lock = CHANGER };
    child_half = false;                         /* what another thread left half done is forgotten, or done anew */
    atomic {
        child_sessions++; child_threads++;
        assert(child_sessions == child_threads);
        child_lock = FREE
    };
    atomic { child_threads == 2 -> assert(child_sessions == 2) }
}

init {
    atomic {
        persist_lock = FREE; shared_lock = FREE;
        runs = true; wanted = true;
        run Background(); run Changer(); run Forker()
    }
}
