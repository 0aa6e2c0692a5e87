/* Owners of a shared audit: they join, find one another, count, and drop who is dead. Any of them dies at any step.

   Code: shared/membership.py, shared/scanner.py, shared/owner_file.py, _ext/listener.pxi. A step is one call to the system
   or one access to shared memory; what an owner computes from it alone until the next belongs to the step. Owners scan
   again and again, without an end. A scan goes through files in any order.

   An owner counts its scans without an end too, and others wait until that number has grown by two or three. So the model
   has, for each owner that waits and each that it waits for, how much is left.

   Property: two owners that are ready know each other, so of two that open a session at the same time at least one sees
   both. No owner that lives is dropped, and none that was dead when a scan began is counted after it. The end of a wait by
   time, which a stopped process causes, is not part of this.

   checker: -DNOREDUCE (a death is a handshake, which the reduction of orders does not allow for) */

#ifndef OWNERS
#define OWNERS 3      /* quick: -DOWNERS=2 */
#endif
#define BIT(i) (1 << (i))
#define HAS(set, i) (((set) >> (i)) & 1)

byte named, locked;          /* the files that have a name; those whose lock is held: sets of owners */
byte sessions;               /* owners that have a session in their file */
byte scanning;               /* owners whose number of scans is odd */
byte attached[OWNERS];       /* the files that an owner has mapped */
byte awaited[OWNERS];        /* by how much the numbers of others have to grow: two bits for each of them */
#define LEFT(waiter, i) ((awaited[waiter] >> (2 * (i))) & 3)
#define SET_LEFT(waiter, i, n) awaited[waiter] = (awaited[waiter] & ~(3 << (2 * (i)))) | ((n) << (2 * (i)))

byte begun, dead, ready, admitted;  /* ghosts: sets of owners; of those that live, the last two */
chan kill[OWNERS] = [0] of { bit };
chan kill_session[OWNERS] = [0] of { bit };

/* Takes any member `j` out of `todo`. */
inline next() {
    if
    :: HAS(todo, 0) -> j = 0
    :: HAS(todo, 1) -> j = 1
#if OWNERS > 2
    :: HAS(todo, 2) -> j = 2
#endif
    fi;
    todo = todo & ~BIT(j)
}

inline grow_number() {
    scanning = scanning ^ BIT(me);
    j = 0;
    do
    :: j < OWNERS ->
        if
        :: LEFT(j, me) > 0 -> SET_LEFT(j, me, LEFT(j, me) - 1)
        :: else
        fi;
        j++
    :: else -> j = 0; break
    od
}

/* One owner's scan. It makes them one after another. A lock that was let go is never taken again, so what follows from
   a look at one lock is one step. */
inline scan() {
    atomic { grow_number(); todo = attached[me];                           /* step: owners/scan_begins */
             gone = dead & (attached[me] | named) };
    do
    :: atomic { todo != 0 -> next();                                       /* step: owners/has_owner */
           if
           :: HAS(locked, j)
           :: else ->
               assert(HAS(dead, j));
               attached[me] = attached[me] & ~BIT(j); SET_LEFT(me, j, 0);  /* step: owners/detach */
               named = named & ~BIT(j);                                    /* step: owners/remove_dead */
               gone = gone & ~BIT(j)
           fi;
           j = 0 }
    :: atomic { todo == 0 -> todo = named & ~BIT(me) & ~attached[me];      /* step: owners/list */
           gone = gone & (attached[me] | todo);                            /* no others can be attached now */
           break }
    od;
    do
    :: atomic { todo != 0 -> next();
           if
           :: HAS(locked, j) -> attached[me] = attached[me] | BIT(j)       /* step: owners/attach */
           :: else ->
               assert(HAS(dead, j));
               named = named & ~BIT(j);                                    /* step: owners/remove_unowned */
               gone = gone & ~BIT(j)
           fi;
           j = 0 }
    :: atomic { todo == 0 ->                                               /* step: owners/scan_ends */
           assert((attached[me] & gone) == 0);
           gone = 0; grow_number(); break }
    od
}

proctype Owner(byte me) {
    byte j, todo, gone;
    {
        /* All owners do the same, so that one begins after the other is no loss. */
        atomic { me == 0 || HAS(begun, me - 1) -> begun = begun | BIT(me) };
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
#ifndef MUTANT_NO_WAIT
            todo = attached[me];
#endif
            do
            :: todo != 0 ->
                next();
#ifdef MUTANT_SCAN_UNDER_WAY
                SET_LEFT(me, j, 1)
#else
                SET_LEFT(me, j, 2 + HAS(scanning, j))
#endif
            :: else -> j = 0; break
            od
        };
        do
        :: scan()                                                          /* others may wait for us */
        :: atomic { awaited[me] == 0 -> break }                            /* step: owners/awaited */
        od;
        atomic {                                                           /* step: owners/ready */
            ready = ready | BIT(me);
            /* Whoever lives and is ready knows us, and we know it. */
            assert((ready & ~BIT(me) & ~attached[me]) == 0);
            do
            :: j < OWNERS -> assert(j == me || !HAS(ready, j) || HAS(attached[j], me)); j++
            :: else -> j = 0; break
            od
        };
        do
        :: scan()
        od
    } unless { atomic { kill[me]?_ ->
        dead = dead | BIT(me); locked = locked & ~BIT(me); scanning = scanning & ~BIT(me);
        ready = ready & ~BIT(me); admitted = admitted & ~BIT(me);
        attached[me] = 0; awaited[me] = 0; j = 0; todo = 0; gone = 0;
        kill_session[me]!0 } }
}

/* Another thread of the same process opens a session, with a limit of one. */
proctype Session(byte me) {
    byte j, todo;
    bit seen;
    {
        HAS(ready, me);
#ifndef MUTANT_COUNT_FIRST
        sessions = sessions | BIT(me);                                     /* step: owners/open */
#endif
        todo = attached[me];                                               /* step: owners/fence */
        do
        :: atomic { todo != 0 -> next(); seen = seen | HAS(sessions, j); j = 0 }       /* step: owners/count */
        :: todo == 0 -> break
        od;
#ifdef MUTANT_COUNT_FIRST
        sessions = sessions | BIT(me);
#endif
        if
        :: seen -> atomic { sessions = sessions & ~BIT(me); seen = 0 }
        :: else -> atomic { admitted = admitted | BIT(me); assert(admitted == BIT(me)) }
        fi;
end_counts:
        false                                       /* it goes on counting */
    } unless { atomic { kill_session[me]?_ -> j = 0; todo = 0; seen = 0 } }
}

/* All but one: whatever the last one does then, there is no other that it may miss or miscount. */
proctype Death() {
    byte deaths;
end_of_deaths:
    do
    :: atomic { deaths < OWNERS - 1 && HAS(begun & ~dead, 0) -> deaths++; kill[0]!0 }
    :: atomic { deaths < OWNERS - 1 && HAS(begun & ~dead, 1) -> deaths++; kill[1]!0 }
#if OWNERS > 2
    :: atomic { deaths < OWNERS - 1 && HAS(begun & ~dead, 2) -> deaths++; kill[2]!0 }
#endif
    od
}

init {
    atomic {
        run Owner(0); run Session(0); run Owner(1); run Session(1);
#if OWNERS > 2
        run Owner(2); run Session(2);
#endif
        run Death()
    }
}
