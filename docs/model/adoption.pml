/* Adoption of snapshots: heirs that take over what processes that have ended had saved, with kills between all steps.

   Code: persist/persisted_series.py, persist/claims.py, persist/locks.py, persist/snapshots.py. Counts are sets of origins:
   a process that ended before (0 and 1) or an heir's own (2, 3, 4). Each heir adopts, saves and releases again and again,
   without an end.

   A step is one call to the system. What a process computes from it alone until its next call belongs to the step. So do
   these calls, which no other process can come between with an effect:
   - that a file is gone, and the next list: what is gone does not come back;
   - a lock and the check that its file has a name: only the holder of the lock removes the name;
   - removing the name of a lock file and releasing the lock: without a name no other process can have it.

   The ids have an order in the code. It is another one each time, so here each set is gone through in any order.

   Property: a count that was saved is in the memory of at most one process that lives, and is never lost: when all others
   are dead, the last process has each of them once, and no file of another is left. Nothing waits for a dead process.

   checker: -DNOREDUCE (a kill is a handshake, which the reduction of orders does not allow for) */

#ifndef HEIRS
#define HEIRS 3       /* quick: -DHEIRS=2 */
#endif
#define FIRST 2
#define LAST  (FIRST + HEIRS - 1)
#define IDS   (FIRST + HEIRS)
#define BIT(id) (1 << (id))
#define HAS(set, id) (((set) >> (id)) & 1)

/* The state directory: snapshots, and lock files. */
byte saved;           /* the ids that have a snapshot */
byte content[IDS];
byte list[IDS];       /* the ids whose counts are in this snapshot, as far as they have one: theirs count nothing */
byte lock_files;      /* the ids whose lock file has a name */

/* Of a process. */
byte held[IDS];       /* the ids whose lock it has, of files that have a name */
byte opened[IDS];     /* the lock file that it has open and not locked: 1 + id, or NAMELESS if the name was removed */
byte memory[IDS];     /* what it counts */
#define NAMELESS (IDS + 1)

byte begun, dead, ever_saved;       /* ghosts */
chan kill[IDS] = [0] of { bit };

#if HEIRS > 2
#define HELD (held[2] | held[3] | held[4])
#else
#define HELD (held[2] | held[3])
#endif

/* Any member of a set. */
inline pick(set) {
    if
    :: HAS(set, 0) -> i = 0
    :: HAS(set, 1) -> i = 1
    :: HAS(set, 2) -> i = 2
    :: HAS(set, 3) -> i = 3
#if HEIRS > 2
    :: HAS(set, 4) -> i = 4
#endif
    fi
}

inline open_lock_file(id) {
    lock_files = lock_files | BIT(id);
    opened[me] = id + 1
}

inline lock_opened(id) {
    if
    :: opened[me] == id + 1 && !HAS(HELD, id) -> held[me] = held[me] | BIT(id)
    :: else
    fi;
    opened[me] = 0
}

/* It never comes back, so that other snapshots list it means nothing any more. */
inline remove_snapshot(id) {
    saved = saved & ~BIT(id); content[id] = 0; list[id] = 0;
    p = 0;
    do
    :: p < IDS -> list[p] = list[p] & ~BIT(id); p++
    :: else -> p = 0; break
    od
}

inline remove_lock_file(id) {
    lock_files = lock_files & ~BIT(id);
    p = FIRST;
    do
    :: p <= LAST ->
        if
        :: opened[p] == id + 1 -> opened[p] = NAMELESS
        :: else
        fi;
        p++
    :: else -> p = 0; break
    od
}

inline restore(id) {
    if
    :: !HAS(saved, id)
    :: else ->
        p = FIRST;
        do
        :: p <= LAST -> assert((memory[p] & content[id]) == 0); p++      /* what is dead has no memory */
        :: else -> p = 0; break
        od;
        memory[me] = memory[me] | content[id];
        absorbed = absorbed | BIT(id) | list[id]
    fi
}

/* The ids that other snapshots list. */
inline read_lists() {
    do
    :: atomic { todo != 0 -> pick(todo);
           if
           :: HAS(saved, i) -> superfluous = superfluous | list[i]; todo = todo & ~BIT(i)        /* step: adoption/read_list */
#ifdef MUTANT_NO_SECOND_READ
           :: else -> todo = todo & ~BIT(i)
#else
           :: else -> superfluous = absorbed; todo = saved                          /* step: adoption/read_again */
#endif
           fi;
           i = 0;
           if
           :: todo == 0 -> break
           :: else
           fi }
    :: todo == 0 -> break
    od
}

inline adopt() {
    atomic { found = saved & ~absorbed & ~BIT(me); todo = found & ~held[me] };   /* step: adoption/list_ids */
#ifdef MUTANT_LISTS_BEFORE_LOCKS
    atomic { early = todo; todo = saved; superfluous = absorbed };
    read_lists();
    atomic { todo = early; early = 0 };
#endif
    do
    :: atomic { todo != 0 -> pick(todo); open_lock_file(i) };                    /* step: adoption/open_lock */
       atomic { lock_opened(i);                                                  /* step: adoption/take */
           found = found & (held[me] | ~BIT(i)); todo = todo & ~BIT(i); i = 0 }
    :: atomic { todo == 0 ->
#ifndef MUTANT_LISTS_BEFORE_LOCKS
           if
           :: found != 0 -> todo = saved; superfluous = absorbed                 /* step: adoption/list_files */
           :: else
           fi;
#endif
           break }
    od;
    if
    :: found == 0
    :: else ->
#ifndef MUTANT_LISTS_BEFORE_LOCKS
        read_lists();
#endif
        do
        :: atomic { found != 0 -> pick(found); found = found & ~BIT(i);
               if
               :: HAS(superfluous, i) -> remove_snapshot(i)                      /* step: adoption/remove_superfluous */
               :: else -> restore(i)                                             /* step: adoption/restore */
               fi;
               superfluous = superfluous & found; i = 0;
               if
               :: found == 0 -> break
               :: else
               fi }
        od
    fi;
#ifdef MUTANT_LISTS_BEFORE_LOCKS
    superfluous = 0
#endif
}

inline save() {
    /* Our lock file: made, then locked. A process that removes unused lock files may come between. */
    do
    :: atomic { !HAS(held[me], me) -> open_lock_file(me) };                      /* step: adoption/make_lock */
       atomic {                                                                  /* step: adoption/hold */
#ifdef MUTANT_LOCK_WITHOUT_NAME
           if
           :: opened[me] == NAMELESS -> opened[me] = 0; break   /* no other process finds the file */
           :: else
           fi;
#endif
           lock_opened(me) }                 /* if not, the code draws another id; here it is the same one again */
    :: atomic { HAS(held[me], me) -> break }
    od;
#ifdef MUTANT_REMOVE_FIRST
    atomic { absorbed = absorbed & saved; todo = absorbed };
    remove_absorbed();
#endif
    atomic {                                                                     /* step: adoption/rename */
        saved = saved | BIT(me); content[me] = memory[me]; ever_saved = ever_saved | BIT(me);
        absorbed = absorbed & saved;
#ifndef MUTANT_NO_LIST
        list[me] = absorbed;
#endif
        todo = absorbed
    };
    remove_absorbed()
}

/* Our file has their counts. */
inline remove_absorbed() {
    do
    :: atomic { todo != 0 && opened[me] == 0 -> pick(todo);
           if
           :: HAS(saved, i) && !HAS(held[me], i) -> open_lock_file(i)
           :: else ->
               if
               :: HAS(saved, i) -> remove_snapshot(i)                            /* step: adoption/remove */
               :: else
               fi;
               absorbed = absorbed & ~BIT(i); todo = todo & ~BIT(i); i = 0
           fi }
    :: atomic { opened[me] != 0 -> lock_opened(i);
           if
           :: HAS(held[me], i)
           :: else -> todo = todo & ~BIT(i)         /* another process reads it, and finds that it counts nothing */
           fi;
           i = 0 }
    :: todo == 0 -> break
    od
}

inline release_unused() {
    atomic { found = saved; todo = lock_files & ~saved & ~held[me] & ~BIT(me) }; /* step: adoption/list_unused */
    do
    :: atomic { todo != 0 -> pick(todo); open_lock_file(i) };
       atomic { lock_opened(i); todo = todo & ~BIT(i); i = 0 }
    :: atomic { todo == 0 -> todo = held[me] & ~absorbed & ~BIT(me); break }
    od;
    do
    :: atomic { todo != 0 -> pick(todo); todo = todo & ~BIT(i);
           if
           :: !HAS(found, i) -> remove_lock_file(i)                              /* step: adoption/remove_lock */
           :: else
           fi;
           held[me] = held[me] & ~BIT(i);                                        /* step: adoption/release */
           i = 0 }
    :: atomic { todo == 0 -> found = 0; break }
    od
}

proctype Heir(byte me) {
    byte absorbed, found, superfluous, todo, early, i, p;
    {
        /* Both heirs do the same, so that one begins after the other is no loss. */
        atomic { me == FIRST || HAS(begun, me - 1) -> begun = begun | BIT(me); memory[me] = BIT(me) };
        do
        :: adopt(); save(); release_unused()
        od
    } unless { atomic { kill[me]?_ ->
        dead = dead | BIT(me); memory[me] = 0; held[me] = 0; opened[me] = 0;
        absorbed = 0; found = 0; superfluous = 0; todo = 0; early = 0; i = 0; p = 0 } }
}

proctype Death() {
end_of_deaths:
    do
    :: kill[2]!0
#if HEIRS > 2
    :: kill[3]!0
#endif
    od
}

#define ALL_OTHERS (BIT(LAST) - BIT(FIRST))

/* The heir that lives on: as often as it likes beside others, and twice after them. */
proctype Last() {
    byte absorbed, found, superfluous, todo, early, i, p, rounds, me = LAST;
    do
    :: atomic { rounds < 3 ->
           if
           :: rounds == 0
           :: rounds > 0 || dead == ALL_OTHERS -> rounds++
           fi };
       adopt(); save(); release_unused();
       assert(rounds == 0 || (ever_saved & ~memory[LAST]) == 0)
    :: atomic { rounds == 3 -> break }
    od;
    assert(saved == BIT(LAST));
    assert(lock_files == BIT(LAST))
}

init {
    atomic {
        saved = BIT(0) | BIT(1); content[0] = BIT(0);
        lock_files = BIT(0) | BIT(1); ever_saved = BIT(0) | BIT(1);
        if
        :: content[1] = BIT(0) | BIT(1); list[1] = BIT(0)    /* 1 was killed after it had adopted 0 */
        :: content[1] = BIT(0) | BIT(1); saved = BIT(1); content[0] = 0
        :: content[1] = BIT(1)
        fi;
        memory[LAST] = BIT(LAST);
        run Heir(2);
#if HEIRS > 2
        run Heir(3);
#endif
        run Last(); run Death()
    }
}
