/* Owners of a shared audit: they join, find one another, count, and drop who is dead. Any of them dies at any step.

   Code: shared/membership.py, shared/scanner.py, shared/owner_file.py, _ext/listener.pxi. A step is one call to the system
   or one access to shared memory.

   Property: two owners that are ready know each other, so of two that open a session at the same time at least one sees
   both. No owner that lives is dropped, and none that was dead when a scan began is counted after it. The end of a wait by
   time, which a stopped process causes, is not part of this. */

#ifndef OWNERS
#define OWNERS 2      /* quick: -DSCANS=3 */
#endif
#ifndef SCANS
#define SCANS 4       /* of an owner, at most */
#endif
#define BIT(i) (1 << (i))
#define HAS(set, i) (((set) >> (i)) & 1)
#define HAS_SCANNED(i) (!HAS(awaited, i) || scan_count[i] >= until[i] || !HAS(attached[me], i))

byte named, locked;          /* the files that have a name; those whose lock is held: sets of owners */
byte sessions;               /* owners that have a session in their file */
byte scan_count[OWNERS];
byte attached[OWNERS];       /* the files that an owner has mapped */
bool scanning[OWNERS];       /* the lock of the process: a scan is made by one thread at a time */

byte dead, ready, admitted;  /* ghosts: sets of owners */

/* Takes the lowest member `j` out of `todo`. */
inline next() {
    j = 0;
    do
    :: !HAS(todo, j) -> j++
    :: else -> break
    od;
    todo = todo & ~BIT(j)
}

/* One owner's scan, under the process's lock. A lock that was let go is never taken again, so what follows from a look at
   one lock is one step. */
inline scan() {
    atomic { !scanning[me] -> scanning[me] = true;
             scan_count[me]++; gone = dead; todo = attached[me] };         /* step: owners/scan_begins */
    do
    :: atomic { todo != 0 -> next();                                       /* step: owners/has_owner */
           if
           :: HAS(locked, j)
           :: else ->
               assert(HAS(dead, j));
               attached[me] = attached[me] & ~BIT(j);                      /* step: owners/detach */
               named = named & ~BIT(j)                                     /* step: owners/remove_dead */
           fi;
           j = 0 }
    :: atomic { todo == 0 -> todo = named & ~BIT(me) & ~attached[me]; break }      /* step: owners/list */
    od;
    do
    :: atomic { todo != 0 -> next();
           if
           :: HAS(locked, j) -> attached[me] = attached[me] | BIT(j)       /* step: owners/attach */
           :: else ->
               named = named & ~BIT(j);                                    /* step: owners/remove_unowned */
               assert(HAS(dead, j))
           fi;
           j = 0 }
    :: atomic { todo == 0 ->                                               /* step: owners/scan_ends */
           assert((attached[me] & gone) == 0);
           scan_count[me]++; gone = 0; scanning[me] = false; break }
    od
}

/* The thread that scans. */
proctype Scanner(byte me) {
    byte j, todo, gone;
    {
        do
        :: scan_count[me] < 2 * SCANS -> scan()
        :: else -> break
        od
    } unless { HAS(dead, me) };
    atomic { j = 0; todo = 0; gone = 0 }
}

proctype Owner(byte me) {
    byte j, todo, gone, awaited, seen;
    byte until[OWNERS];
    {
        scan();
#ifdef MUTANT_NAME_BEFORE_LOCK
        named = named | BIT(me);
        locked = locked | BIT(me);
#else
        locked = locked | BIT(me);                                         /* step: owners/lock */
        named = named | BIT(me);                                           /* step: owners/publish */
#endif
        scan();
        /* Waits until each owner that is there has begun and ended a scan from now on. */
        atomic {                                                           /* step: owners/await */
            awaited = attached[me];
#ifdef MUTANT_NO_WAIT
            awaited = 0;
#endif
            todo = awaited;
            do
            :: todo != 0 ->
                next();
#ifdef MUTANT_SCAN_UNDER_WAY
                until[j] = scan_count[j] + 1
#else
                until[j] = (scan_count[j] + 1) / 2 * 2 + 2
#endif
            :: else -> j = 0; break
            od
        };
end_of_scans:                                       /* SCANS bounds the model; the code scans on */
        do
        :: scan_count[me] < 2 * SCANS -> scan()                            /* others may wait for us */
        :: atomic { HAS_SCANNED(0) && HAS_SCANNED(1) && HAS_SCANNED(OWNERS - 1) -> break }      /* step: owners/awaited */
        od;
        atomic {                                                           /* step: owners/ready */
            j = 0; awaited = 0; until[0] = 0; until[1] = 0; until[OWNERS - 1] = 0;
            ready = ready | BIT(me);
            /* Whoever lives and is ready knows us, and we know it. */
            assert((ready & ~dead & ~BIT(me) & ~attached[me]) == 0);
            do
            :: j < OWNERS ->
                assert(j == me || !HAS(ready, j) || HAS(dead, j) || HAS(attached[j], me));
                j++
            :: else -> break
            od;
            j = 0
        };
        run Scanner(me);
        /* A session, with a limit of one. */
#ifndef MUTANT_COUNT_FIRST
        sessions = sessions | BIT(me);                                     /* step: owners/open */
#endif
        todo = attached[me];                                               /* step: owners/fence */
        do
        :: atomic { todo != 0 -> next(); seen = seen + HAS(sessions, j); j = 0 }   /* step: owners/count */
        :: todo == 0 -> break
        od;
#ifdef MUTANT_COUNT_FIRST
        sessions = sessions | BIT(me);
#endif
        if
        :: seen == 0 -> atomic { admitted = admitted | BIT(me); assert((admitted & ~dead) == BIT(me)) }
        :: else -> sessions = sessions & ~BIT(me)
        fi;
end_counts:
        false                                       /* it goes on counting */
    } unless { HAS(dead, me) };
    atomic { j = 0; todo = 0; gone = 0; awaited = 0; seen = 0; until[0] = 0; until[1] = 0; until[OWNERS - 1] = 0 }
}

proctype Kill(byte who) {
    atomic { dead = dead | BIT(who); locked = locked & ~BIT(who); scanning[who] = false; attached[who] = 0 }
}

init {
    atomic {
        run Owner(0); run Owner(1); run Kill(0); run Kill(1);
        if
        :: OWNERS > 2 -> run Owner(2)
        :: else
        fi
    }
}
