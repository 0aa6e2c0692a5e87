/* A node of a cluster and one that hears it: epochs, numbers, snapshots, leases, goodbyes, and two nodes of one name.

   Code: sender.py, receiver.py, replica.py, node_state.py and own_name.py in cluster/. A step is one frame that is said, arrives or is lost.

   The node has two hosts with a session each or none, so its sessions are a number of two bits, which is its digest, too.
   It may start once more: with or without the sessions that it has, after the first start has ended or beside it.

   One tree is enough: sessions and windows have a chain of changes, a digest and a snapshot each, and a copy of one of
   them is changed by frames and snapshots of that one alone. What they share is the start that is heard, and the lease:
   a frame of any of them is a sign of life, and a start or an end is one of all.

   Property: after quiet the view is the truth, however frames were lost, repeated and late; and of a node that has ended
   nothing is counted after its lease. Quiet are ROUNDS in which nothing is lost. In each a heartbeat comes from who lives
   and is not silent, and a snapshot where one is wanted; a lease is over when a round has brought nothing new. Copies of
   old frames still arrive in the first three; then no engine has any. */

#ifndef CHANGES
#define CHANGES 1     /* of sessions */
#endif
#ifndef BEATS
#define BEATS 2       /* while frames are lost; quick: -DBEATS=1 -DFAULTS=1 */
#endif
#ifndef FAULTS
#define FAULTS 2      /* leases that are over while the node lives, and damages of the tree */
#endif
#ifndef AIR
#define AIR 1         /* frames that are under way at once */
#endif
#ifdef MUTANT_ANY_ORDER
#define MUTANT_NO_DIGEST
#endif
#define ROUNDS 7
#define LATE_ROUNDS 3
#define NONE 31       /* a number that no change has */
#define DELTA 1
#define BEAT 2
#define GOODBYE 3
#define ANSWER 4      /* a whole snapshot; its seq is that of the last change in it */
#define FIRST 0       /* the node's first start; its epoch is 1 */
#define SECOND 1
#define BIT(i) (1 << (i))
#define SPEAKS(i) (alive[i] && !silent[i])
#define UNSAID(i, host) ((own[i] ^ said[i]) & BIT(host))
#define WHOLE (has != NONE && has >= wanted)

typedef Frame { byte type, epoch, seq, base, host, digest }    /* a delta gives `host` its bit of the digest */

/* The node, by start. */
bool alive[2], silent[2], started;
byte own[2], said[2], content[2], seq[2];
byte rivals;                   /* frames of the second start that the first has heard */

/* Under way, and what is said or arrives now. Type 0: nothing. */
Frame air[AIR], answer, now;

/* Who hears. */
bool heard, fresh, forgotten = true;
byte epoch, last, ended, has, wanted, tree;
Frame waiting;

byte changes, beats, faults, round, lost_rounds, who, host, turn;

inline copy(to, from) {
    to.type = from.type; to.epoch = from.epoch; to.seq = from.seq; to.base = from.base; to.host = from.host;
    to.digest = from.digest
}

inline clear(f) { f.type = 0; f.epoch = 0; f.seq = 0; f.base = 0; f.host = 0; f.digest = 0 }

/* ---- what the node says */

inline speak(kind) {
    if
    :: kind == DELTA -> said[who] = (said[who] & ~BIT(host)) | (own[who] & BIT(host))         /* step: cluster/say */
    :: else                                                                                   /* step: cluster/beat */
    fi;
    seq[who]++;
    now.type = kind; now.epoch = who + 1; now.seq = seq[who]; now.base = content[who]; now.host = host;
    now.digest = said[who];
    if
    :: kind == DELTA -> content[who] = seq[who]
    :: else
    fi
}

/* The frame is under way, or lost where there is no place. */
inline fly() {
    if
    :: air[0].type == 0 -> copy(air[0], now)
    :: air[0].type != 0 && air[AIR - 1].type == 0 -> copy(air[AIR - 1], now)
    :: else
    fi;
    clear(now); who = 0; host = 0
}

inline ask() {                                                      /* step: cluster/ask */
    if
    :: SPEAKS(FIRST) -> who = FIRST
    :: SPEAKS(SECOND) -> who = SECOND
    :: !SPEAKS(FIRST) && !SPEAKS(SECOND) -> who = NONE
    fi;
    if
    :: who != NONE ->                                               /* step: cluster/answer */
        answer.type = ANSWER; answer.epoch = who + 1; answer.seq = content[who]; answer.digest = said[who]
    :: else
    fi;
    who = 0
}

inline end() {
    alive[who] = false; silent[who] = false; rivals = 0;
    if
    :: who == SECOND || started -> own[who] = 0
    :: else                                                         /* the second may take the sessions over */
    fi;
    said[who] = 0; content[who] = 0; seq[who] = 0
}

inline hear_rival() {                                               /* the first start hears a frame of the second */
    rivals++;
    if
    :: rivals >= 2 -> silent[FIRST] = true; rivals = 2              /* step: cluster/yield */
    :: else
    fi
}

inline resume() {
#ifdef MUTANT_SILENT_FOR_EVER
    skip
#else
    silent[FIRST] = false; rivals = 0                               /* step: cluster/resume */
#endif
}

/* ---- what the other makes of it */

inline lose() {
    heard = false; tree = 0; has = NONE; clear(waiting); lost_rounds = 0;
#ifdef MUTANT_FORGETS_AT_ONCE
    forgotten = true
#endif
}

inline begin() {                                                    /* step: cluster/begin */
    if
    :: epoch != 0 -> ended = ended | BIT(epoch)
    :: else
    fi;
    epoch = now.epoch; last = 0; wanted = 0; clear(waiting); forgotten = false;
    has = (tree == 0 -> 0 : NONE)
}

inline make(f) {
    tree = (tree & ~BIT(f.host)) | (f.digest & BIT(f.host));        /* step: cluster/change */
    has = f.seq;
#ifndef MUTANT_NO_DIGEST
    if
    :: tree != f.digest -> has = NONE
    :: else
    fi
#endif
}

inline change() {
    if
    :: has != NONE && now.seq <= has                                /* it is in the tree */
    :: else ->
        wanted = (now.seq > wanted -> now.seq : wanted);
        if
#ifdef MUTANT_ANY_ORDER
        :: true -> make(now); wanted = has
#else
        :: now.base == has -> make(now)
        :: now.base != has -> copy(waiting, now)                    /* step: cluster/wait */
#endif
        fi
    fi
}

inline compare() {
    if
#ifdef MUTANT_DUMB_BEAT
    :: true
#endif
    :: has != NONE && now.base < has                                /* it is late */
    :: else ->
        wanted = (now.base > wanted -> now.base : wanted);
        if
#ifdef MUTANT_NO_DIGEST
        :: false
#else
        :: tree == now.digest -> has = now.base                     /* step: cluster/agree */
        :: tree != now.digest && now.base == has -> has = NONE
#endif
        :: else
        fi
    fi
}

inline swap() {
    if
    :: heard && now.epoch == epoch && (has == NONE || now.seq >= has) ->
        tree = now.digest; has = now.seq;                           /* step: cluster/swap */
        wanted = (waiting.type != 0 && waiting.seq > now.seq -> waiting.seq : now.seq)
    :: else
    fi
}

/* What has waited is made, or is in the tree already. */
inline make_waiting() {
    if
    :: waiting.type != 0 && has != NONE && waiting.base == has -> make(waiting); clear(waiting)
    :: waiting.type != 0 && has != NONE && waiting.base != has && waiting.seq <= has -> clear(waiting)
    :: else
    fi
}

/* Whether the frame is one of the start that is heard, after `begin` if that is another than before. A start that has
   ended begins again once the other one is lost, if its frames come at the pace at which they are said: no network
   delivers those of a dead one so. */
#ifdef MUTANT_ENDED_BEGINS_AGAIN
#define PACED(start) (start > 0)
#else
#define PACED(start) (start > 0 && SPEAKS(start - 1))
#endif

inline find_start() {
    if
    :: forgotten -> begin()
    :: !forgotten && now.epoch == epoch
    :: !forgotten && now.epoch != epoch && !(ended & BIT(now.epoch)) -> begin()    /* a late frame seems newer than it is */
    :: !forgotten && now.epoch != epoch && ((ended & BIT(now.epoch)) || now.epoch < epoch) ->
        ended = ended | BIT(now.epoch); clear(now)                  /* step: cluster/ended */
    :: !forgotten && !heard && now.epoch != epoch && PACED(now.epoch) -> begin()    /* step: cluster/lives */
    fi
}

inline take() {
    if
    :: now.type != ANSWER -> find_start()
    :: else
    fi;
    if
    :: now.type == ANSWER -> swap()
    :: now.type != ANSWER && now.type != 0 && now.seq > last ->
        fresh = true; heard = true; last = now.seq                  /* step: cluster/hear */
    :: now.type != 0 && now.type != ANSWER && now.seq <= last ->    /* step: cluster/late */
#ifdef MUTANT_COPY_IS_LIFE
        fresh = true;
#endif
        if
        :: now.type == DELTA && heard
        :: else -> clear(now)
        fi
    :: now.type == 0
    fi;
    if
    :: now.type == DELTA -> change()
    :: now.type == BEAT -> compare()
    :: now.type == GOODBYE -> lose()                                /* step: cluster/leave */
    :: else
    fi;
    make_waiting();
    clear(now)
}

/* ---- quiet: rounds of ten turns */

inline quiet_turn() {
    if
    :: turn == 0 && (round == 0 || round < LATE_ROUNDS) -> copy(now, air[0])
    :: turn == 1 && AIR > 1 && (round == 0 || round < LATE_ROUNDS) -> copy(now, air[AIR - 1])
    :: turn < 2 && round > 0                                        /* it does not come again */
    :: turn == 1 && AIR == 1
    :: turn == 2 && round == 0 -> copy(now, answer)
    :: turn == 2 && round > 0 && !heard && round > LATE_ROUNDS && lost_rounds > 0 -> forgotten = true
    :: turn == 2 && round > 0 && !(!heard && round > LATE_ROUNDS && lost_rounds > 0)
    :: turn >= 3 && turn < 9 ->
        who = (turn - 3) / 3; host = turn % 3;
        if
        :: host == 2 && SPEAKS(who) -> host = 0; speak(BEAT)
        :: host < 2 && SPEAKS(who) && UNSAID(who, host) -> speak(DELTA)
        :: else
        fi;
        who = 0; host = 0
    :: turn == 9 ->
        if
        :: alive[FIRST] && alive[SECOND] -> hear_rival()
        :: silent[FIRST] && alive[FIRST] && !alive[SECOND] -> resume()
        :: else
        fi;
        if
        :: heard && !WHOLE -> clear(answer); ask(); copy(now, answer)
        :: else
        fi
    fi
}

inline end_round() {
    if
    :: heard && !fresh -> lose()
    :: !heard -> lost_rounds++
    :: else
    fi;
    fresh = false; turn = 0; round++;
    assert(round == 1 || alive[FIRST] || alive[SECOND] || tree == 0)
}

/* A second start counts before a first. */
#define TRUTH (alive[SECOND] -> own[SECOND] : (alive[FIRST] -> own[FIRST] : 0))

inline choose_living() {
    if
    :: alive[FIRST] -> who = FIRST
    :: alive[SECOND] -> who = SECOND
    fi
}

inline choose_speaker() {
    if
    :: SPEAKS(FIRST) -> who = FIRST
    :: SPEAKS(SECOND) -> who = SECOND
    fi
}

inline choose_unsaid() {
    if
    :: SPEAKS(FIRST) && UNSAID(FIRST, 0) -> who = FIRST; host = 0
    :: SPEAKS(FIRST) && UNSAID(FIRST, 1) -> who = FIRST; host = 1
    :: SPEAKS(SECOND) && UNSAID(SECOND, 0) -> who = SECOND; host = 0
    :: SPEAKS(SECOND) && UNSAID(SECOND, 1) -> who = SECOND; host = 1
    fi
}

active proctype Cluster() {
    atomic { alive[FIRST] = true };
    do
    :: atomic { changes < CHANGES && (alive[FIRST] || alive[SECOND]) -> choose_living(); changes++;
                if
                :: own[who] = own[who] ^ 1
                :: own[who] = own[who] ^ 2
                fi;
                who = 0 }
    :: atomic { choose_unsaid(); speak(DELTA); fly() }
    :: atomic { beats < BEATS && (SPEAKS(FIRST) || SPEAKS(SECOND)) -> choose_speaker(); beats++; speak(BEAT); fly() }
    :: atomic { choose_speaker(); speak(GOODBYE); end(); fly() }                       /* step: cluster/goodbye */
    :: atomic { choose_living(); end(); who = 0 }
    :: atomic { !started -> started = true; alive[SECOND] = true;
                if
                :: own[SECOND] = own[FIRST]
                :: own[SECOND] = 0
                fi }
    :: atomic { alive[FIRST] && alive[SECOND] && !silent[FIRST] && seq[SECOND] -> hear_rival() }
    :: atomic { silent[FIRST] && !alive[SECOND] -> resume() }
    /* A frame arrives and perhaps comes again, or is lost. */
    :: atomic { if
                :: air[0].type -> copy(now, air[0])
                :: AIR > 1 && air[AIR - 1].type -> copy(now, air[AIR - 1])
                :: answer.type -> copy(now, answer); clear(answer)
                fi;
                take() }
    :: atomic { air[0].type -> clear(air[0]) }
    :: atomic { AIR > 1 && air[AIR - 1].type -> clear(air[AIR - 1]) }
    :: atomic { answer.type -> clear(answer) }
    :: atomic { heard && !WHOLE && !answer.type -> ask() }
    :: atomic { faults < FAULTS && heard -> faults++; lose() }                         /* step: cluster/lease */
    :: atomic { !heard && !forgotten && !air[0].type && !air[AIR - 1].type -> forgotten = true }     /* step: cluster/forget */
    :: atomic { faults < FAULTS && heard -> faults++; tree = tree ^ 1 }
    :: atomic { changes = 0; beats = 0; faults = 0; started = false; fresh = false; break }
    od;
    do
    :: atomic { round < ROUNDS ->
           do
           :: turn < 10 ->
               quiet_turn();
               if
               :: now.type -> take()
               :: else
               fi;
               turn++
           :: else -> break
           od;
           end_round() }
    :: else -> break
    od;
    assert(tree == TRUTH);
    assert(heard == (alive[FIRST] || alive[SECOND]));
    assert(silent[FIRST] == (alive[FIRST] && alive[SECOND]))
}
