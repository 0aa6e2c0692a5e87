/* The sequence counter: one writer that may stop or die at any step, and readers with bounded tries.

   Code: _core/seqlock.pxd, _core/trie.pxd, _core/arena.pxd, _core/sums.pxd. A step of the model has its name in a comment
   "step: seqlock/NAME"; the code has "model: seqlock/NAME" where it does that.

   The tree: a root entry (a word with a block and the total), and blocks with the counts of two hosts X and Y. A walk reads
   the root, then the block's words. Sessions of X and Y are opened and closed, a session moves from X to Y, and the block
   is replaced by a new one; a retired block is overwritten and used again.

   Weak memory: the stores of one update, and the loads of one walk, are made in each order that the fences allow.

   Property: a result that a reader accepts was true at a moment of its walk. If a writer was beside it, the result lacks
   at most that one update, or shows a session that moves twice, or (a difference of two prefixes) is off by that one
   session. No reader waits for the writer. */

#ifndef UPDATES
#define UPDATES 2
#endif
#ifndef READERS
#define READERS 2     /* quick: -DREADERS=1 */
#endif
#define TRIES   3     /* READ_TRIES */
#define SPINS   1     /* READ_SPINS */
#define BLOCKS  3
#define GARBAGE 9     /* what lies in a free block */
#define MOST    2     /* sessions of a host */

#define X  0
#define Y  1
#define XY 2          /* a prefix over both hosts */
#define BUT_X 3       /* a difference: the total without X, as a limit asks */

byte seq;
byte root_block;
byte root_count = 1;
byte word[6];         /* word[2 * block + host] */
bool is_free[BLOCKS];
byte stalled = 255;   /* of the process of the readers */
bool dead;
byte question;        /* of both readers: they share no more than `stalled` */

/* What a reader may say now: from `least` to `most` for each question. */
short least[4];
short most[4];

inline allow_update(host, up) {
    if
    :: up -> most[host]++; most[XY]++
    :: else -> least[host]--; least[XY]--
    fi;
    /* BUT_X is the total minus X: a walk may see the update in one of the two. */
    most[BUT_X]++; least[BUT_X]--
}

inline allow_truth() {
    least[X] = word[2 * root_block + X]; most[X] = least[X];
    least[Y] = word[2 * root_block + Y]; most[Y] = least[Y];
    least[XY] = least[X] + least[Y]; most[XY] = least[XY];
    least[BUT_X] = least[Y]; most[BUT_X] = least[Y]
}

/* Both words that an update of one host stores, in either order: relaxed stores in one window. */
inline store_counts(host, by) {
    if
    :: root_count = root_count + by;                                       /* step: seqlock/store */
       word[2 * root_block + host] = word[2 * root_block + host] + by
    :: word[2 * root_block + host] = word[2 * root_block + host] + by;
       root_count = root_count + by
    fi
}

inline pick_free(b) {
    if
    :: is_free[0] -> b = 0
    :: is_free[1] -> b = 1
    :: is_free[2] -> b = 2
    fi
}

proctype Writer() {
    byte n, fresh, old;
    {
    do
    :: n < UPDATES ->
        n++;
        if
        :: word[2 * root_block + X] < MOST ->
#ifdef MUTANT_LATE_OPEN
            store_counts(X, 1);
#endif
            atomic { seq++; allow_update(X, true) };                       /* step: seqlock/open */
#ifndef MUTANT_LATE_OPEN
            store_counts(X, 1);
#endif
            atomic { seq++; allow_truth() }                                /* step: seqlock/close */
        :: word[2 * root_block + Y] > 0 ->
            atomic { seq++; allow_update(Y, false) };
            store_counts(Y, -1);
            atomic { seq++; allow_truth() }
        :: word[2 * root_block + X] > 0 && word[2 * root_block + Y] < MOST -> /* a session moves from X to Y */
            atomic { seq++; allow_update(Y, true) };
            store_counts(Y, 1);
#ifdef MUTANT_MOVE_IN_ONE_STEP
            atomic { least[X]--; least[BUT_X]--; most[BUT_X]++ };        /* the sum stays as it was, or is one more */
            store_counts(X, -1);
#else
            /* The target has its session: a walk that is accepted from here on has it too. */
            atomic { seq = seq + 2; least[X]--; least[Y]++; least[BUT_X] = least[Y] - 1; most[BUT_X] = least[Y] + 1 };   /* step: seqlock/step */
            store_counts(X, -1);
#endif
            atomic { seq++; allow_truth() }
        :: atomic { pick_free(fresh); is_free[fresh] = false; old = root_block };     /* the block is replaced */
            word[2 * fresh + X] = word[2 * old + X];                       /* step: seqlock/build */
            word[2 * fresh + Y] = word[2 * old + Y];
            seq++;
            root_block = fresh;                                            /* step: seqlock/publish */
#ifdef MUTANT_FREE_EARLY
            word[2 * old] = GARBAGE;
            is_free[old] = true;
            atomic { seq++; allow_truth() }
#else
            atomic { seq++; allow_truth() };
            word[2 * old] = GARBAGE;                                       /* step: seqlock/free */
            atomic { is_free[old] = true; fresh = 0; old = 0 }
#endif
        fi
    :: else -> break
    od
    } unless { dead };
    atomic { n = 0; fresh = 0; old = 0 }
}

/* The writer is killed, or stopped for good, between two of its steps; that it stops for a while is one of the orders in
   which the processes may run. */
proctype Death() {
    if
    :: dead = true
    :: true
    fi
}

inline walk(r) {
    /* The order of the loads is the hardware's, but for those that depend on one another: the root, then its block. */
    if
    :: question == BUT_X ->
        if
        :: r = root_count; b = root_block; r = r - word[2 * b + X]         /* step: seqlock/walk */
        :: atomic { b = root_block }; r = word[2 * b + X]; r = root_count - r
        fi
    :: question == XY ->
        b = root_block;
        if
        :: r = word[2 * b + X]; r = r + word[2 * b + Y]
        :: r = word[2 * b + Y]; r = r + word[2 * b + X]
        fi
    :: else ->
        b = root_block;
        r = word[2 * b + question]
    fi
}

inline check_result(r) {
    assert(r >= least[question] && r <= most[question])
}

proctype Reader() {
    byte began, b, tries;
    short r;
    do
    :: tries < TRIES ->
        began = seq;                                                       /* step: seqlock/begin */
#ifdef MUTANT_WAIT
        (seq % 2 == 0);
        began = seq;
#endif
#ifdef MUTANT_EARLY_CHECK
        if
        :: seq == began -> walk(r); goto accepted
        :: else
        fi;
#endif
        walk(r);
        if
        :: atomic { seq != began -> tries++; r = 0; b = 0 }                /* overtaken */
        :: atomic { seq == began ->                                        /* step: seqlock/stood */
               check_result(r);
               r = 0; b = 0;
               if
               :: began % 2 == 0 -> goto done                              /* step: seqlock/exact */
               :: else
               fi };
           if
           :: stalled == began -> goto done                                /* step: seqlock/stalled */
           :: else ->
               if
               :: tries >= SPINS -> stalled = began; goto done             /* step: seqlock/waited */
               :: else -> tries++                /* step: seqlock/beside */
               fi
           fi
        fi
    :: else -> goto done                                                   /* step: seqlock/give_up */
    od;
#ifdef MUTANT_EARLY_CHECK
accepted:
    check_result(r);
#endif
done:
    atomic { assert(tries <= TRIES); began = 0; b = 0; r = 0; tries = 0 }
}

init {
    atomic {
        select(question : X .. BUT_X);
        word[X] = 1;                            /* one session of X, in block 0 */
        is_free[1] = true; is_free[2] = true;
        word[2] = GARBAGE; word[4] = GARBAGE;
        allow_truth();
        run Writer(); run Reader(); run Death();
        if
        :: READERS > 1 -> run Reader()
        :: else
        fi
    }
}
