/* Collectives among the ranks of one node over memory they share, by plain loads and stores.
 *
 * Every rank has a segment: a header of one page, then `payload` bytes. A rank announces itself by counting up `arrived`
 * in its own header and waits for the others' counts; nothing is ever locked, nothing is written by two ranks. What it
 * is about to do stands beside the count, so that ranks that do different things find out instead of mixing data.
 *
 * plain.py is the same in Python, for machines without a compiler; shared.py documents both.
 */
#define Py_LIMITED_API 0x030A0000
#define PY_SSIZE_T_CLEAN
#define _GNU_SOURCE
#include <Python.h>

#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <time.h>

#include "reduce.h"

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
    int64_t *pid;
} Region;

enum { OK, LATE, DEAD, GAVE_UP, MISMATCH, INTERRUPTED };
static const char *const reasons[] = {"", "late", "dead", "gave up", "mismatch", "interrupted"};

typedef struct {
    int reason, peer;
} Outcome;

static PyObject *PeerError;

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

/* --- who does what --------------------------------------------------------------------------------------------- */

typedef struct {
    size_t begin, count;
} Slice;

/* Slice `rank` of `count` elements: equal parts, rounded up to whole cache lines. */
static Slice slice_of(size_t count, size_t item, int rank, int size) {
    size_t line = LINE_BYTES / item, lines = (count + line - 1) / line;
    size_t part = (lines + size - 1) / size * line, begin = part * rank;
    if (begin > count) begin = count;
    return (Slice){begin, count - begin < part ? count - begin : part};
}

typedef struct { /* a reduction as the caller names it */
    int dtype, op;
    int64_t divisor;
} How;

static void add_up(Region *self, How how, int targets, size_t count) {
    if (count) reductions[how.dtype][how.op](self->sources, self->size, self->targets, targets, count, how.divisor);
}

static uint64_t kind_of(int what, How how) { return (uint64_t)what | how.dtype << 8 | how.op << 16 | how.divisor << 24; }

enum { BARRIER = 1, ALL_REDUCE, REDUCE_SCATTER, ALL_GATHER, BROADCAST, STAGED = 16, STAGED_ALL_TO_ALL = STAGED + 8 };

/* --- tensors that lie in the payload, at the same offset on all ranks --------------------------------------------- */

static Outcome all_reduce(Region *self, size_t offset, size_t count, How how, PyThreadState **gil) {
    size_t item = item_bytes[how.dtype];
    Slice mine = slice_of(count, item, self->rank, self->size);
    MEET_FOR(kind_of(ALL_REDUCE, how), count, offset);
    for (int r = 0; r < self->size; r++)
        self->sources[r] = self->targets[r] = payload(self, r) + offset + mine.begin * item;
    add_up(self, how, self->size, mine.count);
    MEET();
    return (Outcome){OK, 0};
}

static Outcome reduce_scatter(Region *self, size_t offset, size_t count, How how, PyThreadState **gil) {
    size_t item = item_bytes[how.dtype];
    Slice mine = slice_of(count, item, self->rank, self->size);
    MEET_FOR(kind_of(REDUCE_SCATTER, how), count, offset);
    for (int r = 0; r < self->size; r++) self->sources[r] = payload(self, r) + offset + mine.begin * item;
    self->targets[0] = self->sources[self->rank];
    add_up(self, how, 1, mine.count);
    MEET();
    return (Outcome){OK, 0};
}

/* Slice r of rank r to everyone, written by its owner: on its own NUMA domain where the arena was placed. */
static Outcome all_gather(Region *self, size_t offset, size_t count, size_t item, PyThreadState **gil) {
    Slice mine = slice_of(count, item, self->rank, self->size);
    size_t at = offset + mine.begin * item, bytes = mine.count * item;
    MEET_FOR(ALL_GATHER | item << 8, count, offset);
    for (int r = 0; r < self->size; r++)
        if (r != self->rank && bytes) memcpy(payload(self, r) + at, payload(self, self->rank) + at, bytes);
    MEET();
    return (Outcome){OK, 0};
}

/* Every rank carries its slice from the root to all the others: one read, however many ranks. */
static Outcome broadcast(Region *self, size_t offset, size_t bytes, size_t root, PyThreadState **gil) {
    Slice mine = slice_of(bytes, 1, self->rank, self->size);
    size_t at = offset + mine.begin;
    MEET_FOR(BROADCAST | root << 8, bytes, offset);
    for (int r = 0; r < self->size; r++)
        if (r != (int)root && mine.count) memcpy(payload(self, r) + at, payload(self, (int)root) + at, mine.count);
    MEET();
    return (Outcome){OK, 0};
}

/* --- ordinary tensors, carried through the payload in blocks that stay in the cache -------------------------------- */

/* Blocks alternate between the halves: who meets for block k + 1 has read what it needed of block k. */
static char *half(Region *self, int rank, uint64_t block) {
    return payload(self, rank) + (block & 1 ? self->payload / 2 / LINE_BYTES * LINE_BYTES : 0);
}

static size_t half_bytes(const Region *self) { return self->payload / 2 / LINE_BYTES * LINE_BYTES; }

static Outcome staged_small(Region *self, char *from, char *to, size_t count, How how, PyThreadState **gil) {
    uint64_t block = self->blocks++;
    memcpy(half(self, self->rank, block), from, count * item_bytes[how.dtype]);
    MEET_FOR(kind_of(STAGED + ALL_REDUCE, how), count, 0);
    for (int r = 0; r < self->size; r++) self->sources[r] = r == self->rank ? from : half(self, r, block);
    self->targets[0] = to;
    add_up(self, how, 1, count);
    return (Outcome){OK, 0};
}

static Outcome staged_all_reduce(Region *self, char *from, char *to, size_t count, How how, PyThreadState **gil) {
    size_t item = item_bytes[how.dtype], whole = half_bytes(self) / item;
    if (count <= whole && count * item * self->size <= FLAT_BYTES) return staged_small(self, from, to, count, how, gil);
    for (size_t at = 0; at < count; at += whole) {
        size_t n = count - at < whole ? count - at : whole;
        Slice mine = slice_of(n, item, self->rank, self->size);
        uint64_t block = self->blocks++;
        char *in = from + at * item, *out = to + at * item, *own = half(self, self->rank, block);
        size_t begin = mine.begin * item, end = begin + mine.count * item;
        memcpy(own, in, begin); /* all but our slice: that one we read from where it is */
        memcpy(own + end, in + end, n * item - end);
        if (at) MEET();
        else MEET_FOR(kind_of(STAGED + ALL_REDUCE, how), count, 0);
        for (int r = 0; r < self->size; r++) self->sources[r] = r == self->rank ? in + begin : half(self, r, block) + begin;
        self->targets[0] = out + begin, self->targets[1] = own + begin;
        add_up(self, how, 2, mine.count);
        MEET();
        for (int step = 1; step < self->size; step++) {
            int r = (self->rank + step) % self->size;
            Slice theirs = slice_of(n, item, r, self->size);
            size_t there = theirs.begin * item;
            if (theirs.count) memcpy(out + there, half(self, r, block) + there, theirs.count * item);
        }
    }
    return (Outcome){OK, 0};
}

/* `to` is [size, count]: every rank's `from`. */
static Outcome staged_all_gather(Region *self, const char *from, char *to, size_t bytes, PyThreadState **gil) {
    size_t whole = half_bytes(self);
    for (size_t at = 0; at < bytes; at += whole) {
        size_t n = bytes - at < whole ? bytes - at : whole;
        uint64_t block = self->blocks++;
        memcpy(half(self, self->rank, block), from + at, n);
        if (at) MEET();
        else MEET_FOR(STAGED + ALL_GATHER, bytes, 0);
        for (int step = 0; step < self->size; step++) {
            int r = (self->rank + step) % self->size;
            const char *source = step ? half(self, r, block) : from + at;
            if (source != to + r * bytes + at) memcpy(to + r * bytes + at, source, n);
        }
    }
    return (Outcome){OK, 0};
}

/* `from` is [size, count]; `to` gets the sum over ranks of their part number `rank`. */
static Outcome staged_reduce_scatter(Region *self, char *from, char *to, size_t count, How how, PyThreadState **gil) {
    size_t item = item_bytes[how.dtype], whole = half_bytes(self) / self->size / LINE_BYTES * LINE_BYTES / item;
    for (size_t at = 0; at < count; at += whole) {
        size_t n = count - at < whole ? count - at : whole;
        uint64_t block = self->blocks++;
        for (int r = 0; r < self->size; r++)
            if (r != self->rank)
                memcpy(half(self, self->rank, block) + r * whole * item, from + (r * count + at) * item, n * item);
        if (at) MEET();
        else MEET_FOR(kind_of(STAGED + REDUCE_SCATTER, how), count, 0);
        for (int r = 0; r < self->size; r++)
            self->sources[r] = r == self->rank ? from + (r * count + at) * item
                                               : half(self, r, block) + self->rank * whole * item;
        self->targets[0] = to + at * item;
        add_up(self, how, 1, n);
    }
    return (Outcome){OK, 0};
}

static Outcome staged_broadcast(Region *self, char *data, size_t bytes, int root, PyThreadState **gil) {
    size_t whole = half_bytes(self);
    for (size_t at = 0; at < bytes; at += whole) {
        size_t n = bytes - at < whole ? bytes - at : whole;
        uint64_t block = self->blocks++;
        if (self->rank == root) memcpy(half(self, root, block), data + at, n);
        if (at) MEET();
        else MEET_FOR(STAGED + BROADCAST, bytes, (uint64_t)root);
        if (self->rank != root) memcpy(data + at, half(self, root, block), n);
    }
    return (Outcome){OK, 0};
}

/* Both are [size, bytes]; part r of `to` is what rank r had as part number `rank`. */
static Outcome staged_all_to_all(Region *self, const char *from, char *to, size_t bytes, PyThreadState **gil) {
    size_t whole = half_bytes(self) / self->size / LINE_BYTES * LINE_BYTES;
    for (size_t at = 0; at < bytes; at += whole) {
        size_t n = bytes - at < whole ? bytes - at : whole;
        uint64_t block = self->blocks++;
        for (int r = 0; r < self->size; r++)
            if (r != self->rank) memcpy(half(self, self->rank, block) + r * whole, from + r * bytes + at, n);
        if (at) MEET();
        else MEET_FOR(STAGED_ALL_TO_ALL, bytes, 0);
        for (int r = 0; r < self->size; r++)
            memcpy(to + r * bytes + at, r == self->rank ? from + r * bytes + at : half(self, r, block) + self->rank * whole,
                   n);
    }
    return (Outcome){OK, 0};
}

/* --- what Python sees ---------------------------------------------------------------------------------------------- */

static int read_args(PyObject *const *args, Py_ssize_t given, int64_t *values, Py_ssize_t wanted) {
    if (given != wanted) {
        PyErr_Format(PyExc_TypeError, "%zd arguments expected, not %zd", wanted, given);
        return -1;
    }
    for (Py_ssize_t i = 0; i < wanted; i++) {
        values[i] = PyLong_AsLongLong(args[i]);
        if (values[i] == -1 && PyErr_Occurred()) return -1;
        if (values[i] < 0) {
            PyErr_Format(PyExc_ValueError, "argument %zd is negative: %lld", i, (long long)values[i]);
            return -1;
        }
    }
    return 0;
}

static int read_how(const int64_t *values, How *how) {
    *how = (How){(int)values[0], (int)values[1], values[2]};
    if (values[0] >= DTYPES || values[1] >= OPS || values[2] < 1 || !reductions[values[0]][values[1]] ||
        (values[0] == F16 && !HAS_F16)) {
        PyErr_Format(PyExc_ValueError, "no reduction %lld of dtype %lld", (long long)values[1], (long long)values[0]);
        return -1;
    }
    return 0;
}

static int inside(const Region *self, int64_t offset, int64_t count, int64_t item) {
    if (item > 0 && (uint64_t)offset <= self->payload && (uint64_t)count <= (self->payload - offset) / item) return 1;
    PyErr_Format(PyExc_ValueError, "%lld elements of %lld bytes at %lld do not lie in an arena of %zu bytes",
                 (long long)count, (long long)item, (long long)offset, self->payload);
    return 0;
}

static PyObject *result_of(Region *self, Outcome outcome) {
    if (outcome.reason == OK) Py_RETURN_NONE;
    atomic_store_explicit(&header(self, self->rank)->failed, 1, memory_order_release); /* nobody waits for us now */
    if (outcome.reason == INTERRUPTED) return NULL; /* with what the signal handler raised */
    PyObject *what = Py_BuildValue("(si)", reasons[outcome.reason], outcome.peer);
    if (what) PyErr_SetObject(PeerError, what);
    Py_XDECREF(what);
    return NULL;
}

#define CALL(EXPRESSION)                         \
    do {                                         \
        PyThreadState *thread = PyEval_SaveThread(), **gil = &thread; \
        Outcome outcome = EXPRESSION;            \
        PyEval_RestoreThread(thread);            \
        return result_of(self, outcome);         \
    } while (0)

#define METHOD(NAME, WANTED)                                                               \
    static PyObject *py_##NAME(Region *self, PyObject *const *args, Py_ssize_t given) {    \
        int64_t v[WANTED + 1];                                                             \
        How how;                                                                           \
        (void)how;                                                                         \
        if (read_args(args, given, v, WANTED)) return NULL;

static Outcome barrier(Region *self, PyThreadState **gil) { return meet_for(self, (Call){BARRIER, 0, 0}, gil); }

METHOD(barrier, 0)
    CALL(barrier(self, gil));
}
METHOD(all_reduce, 5)
    if (read_how(v + 2, &how) || !inside(self, v[0], v[1], item_bytes[how.dtype])) return NULL;
    CALL(all_reduce(self, v[0], v[1], how, gil));
}
METHOD(reduce_scatter, 5)
    if (read_how(v + 2, &how) || !inside(self, v[0], v[1], item_bytes[how.dtype])) return NULL;
    CALL(reduce_scatter(self, v[0], v[1], how, gil));
}
METHOD(all_gather, 3)
    if (v[2] > LINE_BYTES || !inside(self, v[0], v[1], v[2])) return NULL;
    CALL(all_gather(self, v[0], v[1], v[2], gil));
}
METHOD(broadcast, 3)
    if (v[2] >= self->size || !inside(self, v[0], v[1], 1)) return NULL;
    CALL(broadcast(self, v[0], v[1], v[2], gil));
}
METHOD(staged_all_reduce, 6)
    if (read_how(v + 3, &how)) return NULL;
    CALL(staged_all_reduce(self, (char *)v[0], (char *)v[1], v[2], how, gil));
}
METHOD(staged_reduce_scatter, 6)
    if (read_how(v + 3, &how)) return NULL;
    CALL(staged_reduce_scatter(self, (char *)v[0], (char *)v[1], v[2], how, gil));
}
METHOD(staged_all_gather, 3)
    CALL(staged_all_gather(self, (char *)v[0], (char *)v[1], v[2], gil));
}
METHOD(staged_broadcast, 3)
    CALL(staged_broadcast(self, (char *)v[0], v[1], (int)v[2], gil));
}
METHOD(staged_all_to_all, 3)
    CALL(staged_all_to_all(self, (char *)v[0], (char *)v[1], v[2], gil));
}

static PyObject *py_set_timeout(Region *self, PyObject *seconds) {
    double value = PyFloat_AsDouble(seconds);
    if (value == -1 && PyErr_Occurred()) return NULL;
    self->timeout_ns = value < 1e9 ? (int64_t)(value * 1e9) : INT64_MAX;
    Py_RETURN_NONE;
}

static PyObject *py_give_up(Region *self, PyObject *unused) {
    (void)unused;
    atomic_store_explicit(&header(self, self->rank)->failed, 1, memory_order_release);
    Py_RETURN_NONE;
}

/* Region(rank, segments, payload, timeout_s, spins, pids): addresses of all ranks' segments, mapped here; pids as this
 * process sees them, or an empty tuple where it does not. */
static PyObject *region_new(PyTypeObject *type, PyObject *args, PyObject *keywords) {
    (void)keywords;
    int rank, spins;
    Py_ssize_t payload_bytes;
    double timeout_s;
    PyObject *segments, *pids;
    if (!PyArg_ParseTuple(args, "iO!ndiO!", &rank, &PyTuple_Type, &segments, &payload_bytes, &timeout_s, &spins,
                          &PyTuple_Type, &pids))
        return NULL;
    Py_ssize_t size = PyTuple_Size(segments);
    if (rank < 0 || rank >= size || payload_bytes < 2 * LINE_BYTES * size) {
        PyErr_SetString(PyExc_ValueError, "rank or payload do not fit the number of segments");
        return NULL;
    }
    allocfunc allocate = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);
    Region *self = (Region *)allocate(type, 0);
    if (!self) return NULL;
    self->rank = rank, self->size = (int)size, self->spins = spins, self->payload = payload_bytes;
    self->timeout_ns = timeout_s < 1e9 ? (int64_t)(timeout_s * 1e9) : INT64_MAX;
    self->watch = PyTuple_Size(pids) == size;
    self->segment = calloc(4 * size + 1, sizeof(char *)); /* segments, sources, targets (two at least), pids */
    if (!self->segment) {
        Py_DECREF(self);
        return PyErr_NoMemory();
    }
    self->sources = self->segment + size, self->targets = self->sources + size;
    self->pid = (int64_t *)(self->targets + size + 1);
    for (Py_ssize_t r = 0; r < size; r++) {
        self->segment[r] = (char *)PyLong_AsVoidPtr(PyTuple_GetItem(segments, r));
        if (self->watch) self->pid[r] = PyLong_AsLongLong(PyTuple_GetItem(pids, r));
    }
    if (PyErr_Occurred()) {
        Py_DECREF(self);
        return NULL;
    }
    return (PyObject *)self;
}

static void region_dealloc(Region *self) {
    PyTypeObject *type = Py_TYPE(self);
    free(self->segment);
    ((freefunc)PyType_GetSlot(type, Py_tp_free))(self);
    Py_DECREF(type);
}

#define FAST(NAME) {#NAME, (PyCFunction)(void (*)(void))py_##NAME, METH_FASTCALL, NULL}
static PyMethodDef region_methods[] = {
    FAST(barrier), FAST(all_reduce), FAST(reduce_scatter), FAST(all_gather), FAST(broadcast), FAST(staged_all_reduce),
    FAST(staged_reduce_scatter), FAST(staged_all_gather), FAST(staged_broadcast), FAST(staged_all_to_all),
    {"set_timeout", (PyCFunction)py_set_timeout, METH_O, NULL},
    {"give_up", (PyCFunction)py_give_up, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot region_slots[] = {
    {Py_tp_new, region_new}, {Py_tp_dealloc, region_dealloc}, {Py_tp_methods, region_methods}, {0, NULL},
};
static PyType_Spec region_spec = {"ryzen_mpi.comm._kernel.Region", sizeof(Region), 0, Py_TPFLAGS_DEFAULT, region_slots};

/* reduce(sources, targets, count, dtype, op, divisor): addresses in tuples; local. */
static PyObject *py_reduce(PyObject *module, PyObject *args) {
    (void)module;
    PyObject *from, *to;
    Py_ssize_t count;
    int dtype, op;
    long long divisor;
    if (!PyArg_ParseTuple(args, "O!O!niiL", &PyTuple_Type, &from, &PyTuple_Type, &to, &count, &dtype, &op, &divisor))
        return NULL;
    How how;
    Py_ssize_t sources = PyTuple_Size(from), targets = PyTuple_Size(to);
    if (sources < 1 || targets < 1 || count < 0 || dtype < 0 || op < 0) {
        PyErr_SetString(PyExc_ValueError, "nothing to reduce");
        return NULL;
    }
    if (read_how((int64_t[]){dtype, op, divisor}, &how)) return NULL;
    char **address = calloc(sources + targets, sizeof(char *));
    if (!address) return PyErr_NoMemory();
    for (Py_ssize_t i = 0; i < sources + targets; i++)
        address[i] = PyLong_AsVoidPtr(i < sources ? PyTuple_GetItem(from, i) : PyTuple_GetItem(to, i - sources));
    if (!PyErr_Occurred()) {
        PyThreadState *gil = PyEval_SaveThread();
        if (count)
            reductions[dtype][op](address, (int)sources, address + sources, (int)targets, count, how.divisor);
        PyEval_RestoreThread(gil);
    }
    free(address);
    if (PyErr_Occurred()) return NULL;
    Py_RETURN_NONE;
}

static PyMethodDef functions[] = {{"reduce", py_reduce, METH_VARARGS, NULL}, {NULL, NULL, 0, NULL}};
static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "_kernel", NULL, -1, functions, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__kernel(void) {
    PyObject *self = PyModule_Create(&module);
    PyObject *type = PyType_FromSpec(&region_spec);
    PeerError = PyErr_NewException("ryzen_mpi.comm._kernel.PeerError", NULL, NULL);
    if (!self || !type || !PeerError) return NULL;
    Py_INCREF(PeerError);
    if (PyModule_AddObject(self, "Region", type) || PyModule_AddObject(self, "PeerError", PeerError) ||
        PyModule_AddIntConstant(self, "HEADER_BYTES", HEADER_BYTES) ||
        PyModule_AddIntConstant(self, "HAS_F16", HAS_F16))
        return NULL;
    return self;
}
