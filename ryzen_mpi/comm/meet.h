/* The shared memory of a node's ranks, and how they wait for one another in it.
 *
 * Every rank has a segment: a header of one page, then `payload` bytes. A rank announces itself by counting up `arrived`
 * in its own header and waits for the others' counts; nothing is ever locked, nothing is written by two ranks. What it
 * is about to do stands beside the count, so that ranks that do different things find out instead of mixing data.
 */

#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <time.h>


#define HEADER_BYTES 4096
#define LINE_BYTES 64          /* slices start on a cache line: no two ranks write to one */
#define YIELDS_A_LOOK 64       /* times a waiting rank yields before it looks at the clock */
#define LOOK_NS 20000000       /* signals and the health of the others are looked at this often */
#define DOZE_AFTER_NS 10000000 /* a wait this long is for more than the others' pace: sleep between looks */
#define DOZE_NS 50000
#define FLAT_BYTES 65536 /* up to this many bytes over all ranks, everyone adds up everything: one meeting, not two */

#if defined(__x86_64__) || defined(__i386__)
#define PAUSE() __builtin_ia32_pause()
#elif defined(__aarch64__)
#define PAUSE() __asm__ __volatile__("yield")
#else
#define PAUSE() ((void)0)
#endif

typedef struct {
    uint64_t kind, count, place; /* which collective, of what, where: the same on all ranks */
} Call;

typedef struct { /* the first bytes of a segment; a cache line written by its owner alone */
    _Atomic uint64_t arrived;
    Call call[2]; /* of calls with even and odd numbers: a rank is at most one call ahead of the slowest */
    _Atomic uint64_t failed;
} Header;

typedef struct {
    PyObject_HEAD
    int rank, size, spins, watch;
    size_t payload;
    int64_t timeout_ns;
    uint64_t arrived, calls, blocks;
    char **segment;
    char **sources, **targets; /* scratch for one reduction */
    int64_t *pid, *name; /* name: what the caller calls each rank, for errors */
} Region;

enum { OK, LATE, DEAD, GAVE_UP, MISMATCH, INTERRUPTED };
static const char *const reasons[] = {"", "late", "dead", "gave up", "mismatch", "interrupted"};

typedef struct {
    int reason, peer;
} Outcome;

static Header *header(const Region *self, int rank) { return (Header *)self->segment[rank]; }

static char *payload(const Region *self, int rank) { return self->segment[rank] + HEADER_BYTES; }

static int64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

/* --- waiting -------------------------------------------------------------------------------------------------- */

static int python_wants_out(PyThreadState **gil) {
    PyEval_RestoreThread(*gil);
    int raised = PyErr_CheckSignals();
    *gil = PyEval_SaveThread();
    return raised;
}

/* Why `peer` will not come, or OK. */
static int health(const Region *self, int peer) {
    if (atomic_load_explicit(&header(self, peer)->failed, memory_order_acquire)) return GAVE_UP;
    if (self->watch && kill((pid_t)self->pid[peer], 0) != 0 && errno == ESRCH) return DEAD;
    return OK;
}

static Outcome wait_long(Region *self, int peer, uint64_t number, PyThreadState **gil) {
    int64_t began = now_ns(), looked = began;
    for (unsigned yields = 1;; yields++) {
        if (atomic_load_explicit(&header(self, peer)->arrived, memory_order_acquire) >= number) return (Outcome){OK, 0};
        sched_yield();
        if (yields % YIELDS_A_LOOK) continue;
        int64_t now = now_ns();
        if (now - began > DOZE_AFTER_NS) {
            yields--; /* each doze is followed by a look at the clock */
            nanosleep(&(struct timespec){0, DOZE_NS}, NULL);
        }
        if (now - looked < LOOK_NS) continue;
        looked = now;
        if (python_wants_out(gil)) return (Outcome){INTERRUPTED, peer};
        int reason = health(self, peer);
        if (!reason && now - began > self->timeout_ns) reason = LATE;
        /* it may have arrived and ended, in this order, since we looked */
        if (reason && atomic_load_explicit(&header(self, peer)->arrived, memory_order_acquire) < number)
            return (Outcome){reason, peer};
    }
}

/* Everyone is here, and everything they wrote before can be read. */
static Outcome meet(Region *self, PyThreadState **gil) {
    uint64_t number = ++self->arrived;
    atomic_store_explicit(&header(self, self->rank)->arrived, number, memory_order_release);
    for (int step = 1; step < self->size; step++) {
        int peer = (self->rank + step) % self->size;
        int spins = self->spins;
        while (atomic_load_explicit(&header(self, peer)->arrived, memory_order_acquire) < number) {
            if (spins-- > 0) {
                PAUSE();
                continue;
            }
            Outcome outcome = wait_long(self, peer, number, gil);
            if (outcome.reason) return outcome;
        }
    }
    return (Outcome){OK, 0};
}

/* The first meeting of a call: all must be doing the same. */
static Outcome meet_for(Region *self, Call mine, PyThreadState **gil) {
    int parity = self->calls++ & 1;
    header(self, self->rank)->call[parity] = mine;
    Outcome outcome = meet(self, gil);
    for (int peer = 0; !outcome.reason && peer < self->size; peer++)
        if (memcmp(&header(self, peer)->call[parity], &mine, sizeof mine)) outcome = (Outcome){MISMATCH, peer};
    return outcome;
}

#define MEET() do { Outcome met = meet(self, gil); if (met.reason) return met; } while (0)
#define MEET_FOR(...) do { Outcome met = meet_for(self, (Call){__VA_ARGS__}, gil); if (met.reason) return met; } while (0)
