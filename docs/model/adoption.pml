/* Adoption of snapshots: heirs that take over what processes that have ended had saved, with kills between all steps.

   Code: persist/persisted_series.py, persist/claims.py, persist/locks.py, persist/snapshots.py. A step is one call to the
   system. Counts are sets of origins: a process that ended before (0 and 1) or an heir's own (2, 3, 4).

   Property: a count that was saved is in the memory of at most one process that lives, and is never lost: when all others
   are dead, the last process has each of them once, and no file of another is left. Nothing waits for a dead process. */

#ifndef HEIRS
#define HEIRS 2       /* 3 is possible; it was not run to its end */
#endif
#define FIRST 2
#define LAST  (FIRST + HEIRS - 1)
#define IDS   5
#define BIT(id) (1 << (id))
#define HAS(set, id) (((set) >> (id)) & 1)

/* The state directory: snapshots, and lock files. `inode` grows when a lock file is removed: who has the earlier one open
   may lock it, and finds that it has no name. */
bool is_saved[IDS];
byte content[IDS];
byte list[IDS];       /* ids whose counts are in this snapshot: theirs count nothing */
byte locks_named;     /* sets of ids */
byte inode[IDS];
byte holder[IDS];     /* of the lock of the file that has a name; 0: free */

byte memory[IDS];     /* what each process counts */
bool dead[IDS];
byte ever_saved;

inline files(set) {
    d_step { set = (is_saved[0] << 0) | (is_saved[1] << 1) | (is_saved[2] << 2) | (is_saved[3] << 3) | (is_saved[4] << 4) }
}

/* Clears `got` if the lock of `id` can't be had. */
inline take(id, got) {
    got = HAS(taken, id);
    if
    :: got || id == me -> skip
    :: else ->
        atomic { locks_named = locks_named | BIT(id); opened = inode[id] };      /* step: adoption/open_lock */
        atomic {                                                                 /* step: adoption/take */
            if
            :: opened == inode[id] && holder[id] == 0 ->
                holder[id] = me; got = true; taken = taken | BIT(id)
            :: else
            fi;
            opened = 0
        }
    fi
}

/* The ids that other snapshots list. */
inline read_lists(set) {
    set = 0;
    files(left);                                                                 /* step: adoption/list_files */
    i = 0;
    do
    :: i < IDS && HAS(left, i) ->
        if
        :: atomic { is_saved[i] -> set = set | list[i]; i++ }                    /* step: adoption/read_list */
#ifdef MUTANT_NO_SECOND_READ
        :: atomic { !is_saved[i] -> i++ }
#else
        :: atomic { !is_saved[i] -> set = 0; i = 0 }; files(left)                /* step: adoption/read_again */
#endif
        fi
    :: i < IDS && !HAS(left, i) -> i++
    :: i == IDS -> i = 0; left = 0; break
    od
}

inline restore(id) {
    atomic {                                                                     /* step: adoption/restore */
        if
        :: !is_saved[id]
        :: else ->
            assert((memory[me] & content[id]) == 0);
            assert(me == 2 || (memory[2] & content[id]) == 0);           /* what is dead has no memory */
            assert(me == 3 || (memory[3] & content[id]) == 0);
            assert(me == 4 || (memory[4] & content[id]) == 0);
            memory[me] = memory[me] | content[id];
            absorbed = absorbed | BIT(id) | list[id]
        fi
    }
}

inline adopt() {
    files(found);                                                                /* step: adoption/list_ids */
    found = found & ~absorbed;
#ifdef MUTANT_LISTS_BEFORE_LOCKS
    read_lists(superfluous);
#endif
    i = 0;
    do
    :: i < IDS ->
        if
        :: HAS(found, i) ->
            take(i, got);
            if
            :: !got -> found = found & ~BIT(i)
            :: else
            fi
        :: else
        fi;
        i++
    :: else -> got = false; break
    od;
    if
    :: found == 0
    :: else ->
#ifndef MUTANT_LISTS_BEFORE_LOCKS
        read_lists(superfluous);
#endif
        superfluous = superfluous | absorbed;
        i = 0;
        do
        :: i < IDS ->
            if
            :: HAS(found, i) && HAS(superfluous, i) -> is_saved[i] = false       /* step: adoption/remove_superfluous */
            :: HAS(found, i) && !HAS(superfluous, i) -> restore(i)
            :: else
            fi;
            i++
        :: else -> break
        od;
        atomic { found = 0; superfluous = 0; i = 0 }
    fi
}

inline save() {
    /* Our lock file: made, then locked. A process that removes unused lock files may come between. */
    do
    :: atomic { holder[me] == me -> break }
    :: atomic { holder[me] != me -> locks_named = locks_named | BIT(me); opened = inode[me] };    /* step: adoption/make_lock */
        atomic {                                                                 /* step: adoption/hold */
            if
            :: opened == inode[me] && holder[me] == 0 -> holder[me] = me
#ifdef MUTANT_LOCK_WITHOUT_NAME
            :: opened != inode[me] -> opened = 0; break      /* the lock is that of a file which no other process finds */
#endif
            :: else              /* the code draws another id; here it is the same one again */
            fi;
            opened = 0
        }
    od;
#ifdef MUTANT_REMOVE_FIRST
    remove_absorbed();
#endif
    atomic {                                                                     /* step: adoption/rename */
        is_saved[me] = true; content[me] = memory[me]; ever_saved = ever_saved | BIT(me);
#ifndef MUTANT_NO_LIST
        list[me] = absorbed
#endif
    };
    remove_absorbed()
}

inline remove_absorbed() {
    gone = 0;
    i = 0;
    do
    :: i < IDS ->
        if
        :: HAS(absorbed, i) && is_saved[i] ->
            take(i, got);
            if
            :: got -> is_saved[i] = false; gone = gone | BIT(i)                  /* step: adoption/remove */
            :: else
            fi
        :: HAS(absorbed, i) && !is_saved[i] -> gone = gone | BIT(i)
        :: else
        fi;
        i++
    :: else -> break
    od;
    atomic { absorbed = absorbed & ~gone; gone = 0; i = 0; got = false }
}

inline release_unused() {
    d_step { left = (is_saved[0] << 0) | (is_saved[1] << 1) | (is_saved[2] << 2) | (is_saved[3] << 3) | (is_saved[4] << 4);
             found = locks_named };                                              /* step: adoption/list_unused */
    i = 0;
    do
    :: i < IDS ->
        if
        :: HAS(found, i) && !HAS(left, i) -> take(i, got)
        :: else
        fi;
        i++
    :: else -> break
    od;
    i = 0;
    do
    :: i < IDS ->
        if
        :: HAS(taken, i) && !HAS(absorbed, i) ->
            atomic {
                if
                :: !HAS(left, i) -> locks_named = locks_named & ~BIT(i); inode[i]++   /* step: adoption/remove_lock */
                :: else
                fi;
                holder[i] = 0; taken = taken & ~BIT(i)                           /* step: adoption/release */
            }
        :: else
        fi;
        i++
    :: else -> break
    od;
    atomic { left = 0; found = 0; i = 0; got = false }
}

inline end_of_process() {
    dead[me] = true; memory[me] = 0;
    i = 0;
    do
    :: i < IDS -> 
        if
        :: holder[i] == me -> holder[i] = 0
        :: else
        fi;
        i++
    :: else -> break
    od;
    absorbed = 0; taken = 0; found = 0; superfluous = 0; left = 0; gone = 0; i = 0; opened = 0; got = false
}

bool killed[IDS];

proctype Heir(byte me) {
    byte absorbed, taken, found, superfluous, left, gone, i, opened;
    bool got;
    {
        adopt();
        save();
        release_unused();
end_counts:
        false           /* it goes on counting */
    } unless { killed[me] };
    atomic { end_of_process() }
}

proctype Kill(byte who) {
    killed[who] = true
}

proctype Last() {
    byte absorbed, taken, found, superfluous, left, gone, i, opened, rounds, me = LAST;
    bool got;
    do
    :: rounds < 4 ->
        if
        :: rounds == 2 -> dead[2] && dead[3] && dead[4]
        :: else
        fi;
        adopt(); save(); release_unused();
        assert(rounds < 2 || (ever_saved & ~memory[LAST]) == 0);
        rounds++
    :: else -> break
    od;
    d_step {
        files(left);
        assert(left == BIT(LAST));
        assert(locks_named == BIT(LAST));
        left = 0
    }
}

init {
    atomic {
        is_saved[0] = true; content[0] = BIT(0);
        is_saved[1] = true; content[1] = BIT(1);
        locks_named = BIT(0) | BIT(1); ever_saved = BIT(0) | BIT(1);
        if
        :: content[1] = BIT(0) | BIT(1); list[1] = BIT(0)    /* 1 was killed after it had adopted 0 */
        :: content[1] = BIT(0) | BIT(1); list[1] = BIT(0); is_saved[0] = false
        :: skip
        fi;
        dead[LAST] = true;                       /* the last one waits for all others */
        dead[4] = true;
        memory[2] = BIT(2);
        if
        :: HEIRS > 2 -> memory[3] = BIT(3)
        :: else
        fi;
        memory[LAST] = BIT(LAST);
        run Heir(2); run Kill(2);
        if
        :: HEIRS > 2 -> run Heir(3); run Kill(3)
        :: else
        fi;
        run Last()
    }
}
