/* The collectives: on tensors that lie in the payload, and on ordinary ones that pass through it. */
#include "reduce.h"

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

static size_t half_bytes(const Region *self) { return self->payload / 2 / LINE_BYTES * LINE_BYTES; }

/* Blocks alternate between the halves: who meets for block k + 1 has read what it needed of block k. */
static char *half(const Region *self, int rank, uint64_t block) {
    return payload(self, rank) + (block & 1 ? half_bytes(self) : 0);
}

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
