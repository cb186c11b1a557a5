/* Element-wise reduction of several buffers into several others, one pass over memory.
 *
 * Buffers are added in the order given, whoever calls: ((s0 + s1) + s2) + ..., in float32 for the 16-bit floats, so that
 * every rank computes the same bits. The plain version in plain.py does the same with torch, and a test holds them
 * together. Sources and targets may be the same buffers: a chunk is read whole before it is written.
 */
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define CHUNK 256 /* elements held in the first-level cache while many sources are added */

/* The compiler makes a version for each vector unit and picks one when the module is loaded. */
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define CLONES __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define CLONES
#endif

enum { F32, F64, BF16, F16, BOOL, U8, I8, I16, I32, I64, U16, U32, U64, DTYPES };
enum { SUM, PRODUCT, MIN, MAX, BAND, BOR, BXOR, OPS };

static const size_t item_bytes[DTYPES] = {4, 8, 2, 2, 1, 1, 1, 2, 4, 8, 2, 4, 8};

typedef void reduce_fn(char *const *src, int sources, char *const *dst, int targets, size_t count, int64_t divisor);

static inline float widen_bf16(uint16_t half) {
    uint32_t bits = (uint32_t)half << 16;
    float wide;
    memcpy(&wide, &bits, 4);
    return wide;
}

/* To nearest, ties to even, as PyTorch. A NaN stays one: made of bfloat16 values, its lower half is zero. */
static inline uint32_t round_bf16(float wide) {
    uint32_t bits;
    memcpy(&bits, &wide, 4);
    return bits + 0x7fffu + ((bits >> 16) & 1u);
}

static inline uint16_t narrow_bf16(float wide) { return (uint16_t)(round_bf16(wide) >> 16); }

#define SAME(x) (x)
#define AS_BOOL(x) ((x) != 0)

#define DO_SUM(a, b) ((a) + (b))
#define DO_PRODUCT(a, b) ((a) * (b))
#define DO_MIN(a, b) ((a) < (b) || (a) != (a) ? (a) : (b)) /* NaN wins, as in torch.minimum */
#define DO_MAX(a, b) ((a) > (b) || (a) != (a) ? (a) : (b))
#define DO_BAND(a, b) ((a) & (b))
#define DO_BOR(a, b) ((a) | (b))
#define DO_BXOR(a, b) ((a) ^ (b))

/* Few sources are added in registers: 1.5 to 2 times as fast as through a buffer, however small and near. */
#define FUSED(NAME, TYPE, WIDE, LOAD, STORE, DO)                                                                   \
    static inline __attribute__((always_inline)) void NAME##_fused(                                                \
        char *const *src, const int sources, char *const *dst, const int targets, size_t count) {                  \
        const TYPE *s[4];                                                                                          \
        TYPE *d[4];                                                                                                \
        for (int k = 0; k < sources; k++) s[k] = (const TYPE *)src[k];                                             \
        for (int k = 0; k < targets; k++) d[k] = (TYPE *)dst[k];                                                   \
        _Pragma("GCC ivdep") for (size_t i = 0; i < count; i++) {                                                  \
            WIDE sum = LOAD(s[0][i]), next;                                                                        \
            if (sources > 1) next = LOAD(s[1][i]), sum = DO(sum, next);                                            \
            if (sources > 2) next = LOAD(s[2][i]), sum = DO(sum, next);                                            \
            if (sources > 3) next = LOAD(s[3][i]), sum = DO(sum, next);                                            \
            TYPE result = STORE(sum);                                                                              \
            d[0][i] = result;                                                                                      \
            if (targets > 1) d[1][i] = result;                                                                     \
            if (targets > 2) d[2][i] = result;                                                                     \
            if (targets > 3) d[3][i] = result;                                                                     \
        }                                                                                                          \
    }                                                                                                              \
    REDUCE(NAME##_many, TYPE, WIDE, LOAD, STORE, DO)                                                               \
    CLONES static void NAME(char *const *src, int sources, char *const *dst, int targets, size_t count,            \
                            int64_t divisor) {                                                                     \
        if (divisor != 1) NAME##_many(src, sources, dst, targets, count, divisor);                                 \
        else if (sources == 2 && targets == 1) NAME##_fused(src, 2, dst, 1, count);                                \
        else if (sources == 2 && targets == 2) NAME##_fused(src, 2, dst, 2, count);                                \
        else if (sources == 3 && targets == 1) NAME##_fused(src, 3, dst, 1, count);                                \
        else if (sources == 3 && targets == 2) NAME##_fused(src, 3, dst, 2, count);                                \
        else if (sources == 3 && targets == 3) NAME##_fused(src, 3, dst, 3, count);                                \
        else if (sources == 4 && targets == 1) NAME##_fused(src, 4, dst, 1, count);                                \
        else if (sources == 4 && targets == 2) NAME##_fused(src, 4, dst, 2, count);                                \
        else if (sources == 4 && targets == 4) NAME##_fused(src, 4, dst, 4, count);                                \
        else NAME##_many(src, sources, dst, targets, count, divisor);                                              \
    }

#define REDUCE(NAME, TYPE, WIDE, LOAD, STORE, DO)                                                                  \
    CLONES static void NAME(char *const *src, int sources, char *const *dst, int targets, size_t count,            \
                            int64_t divisor) {                                                                     \
        WIDE sum[CHUNK] __attribute__((aligned(64)));                                                              \
        for (size_t at = 0; at < count; at += CHUNK) {                                                             \
            size_t n = count - at < CHUNK ? count - at : CHUNK;                                                    \
            const TYPE *first = (const TYPE *)src[0] + at;                                                         \
            if (sources == 1) {                                                                                    \
                for (size_t i = 0; i < n; i++) sum[i] = LOAD(first[i]);                                            \
            } else {                                                                                               \
                const TYPE *second = (const TYPE *)src[1] + at;                                                    \
                for (size_t i = 0; i < n; i++) { WIDE a = LOAD(first[i]), b = LOAD(second[i]); sum[i] = DO(a, b); } \
            }                                                                                                      \
            for (int s = 2; s < sources; s++) {                                                                    \
                const TYPE *next = (const TYPE *)src[s] + at;                                                      \
                for (size_t i = 0; i < n; i++) { WIDE a = sum[i], b = LOAD(next[i]); sum[i] = DO(a, b); }          \
            }                                                                                                      \
            if (divisor != 1)                                                                                      \
                for (size_t i = 0; i < n; i++) sum[i] = (WIDE)(sum[i] / divisor);                                   \
            TYPE *to = (TYPE *)dst[0] + at;                                                                        \
            for (size_t i = 0; i < n; i++) to[i] = STORE(sum[i]);                                                  \
            for (int d = 1; d < targets; d++) memcpy((TYPE *)dst[d] + at, to, n * sizeof(TYPE));                   \
        }                                                                                                          \
    }

#define ARITHMETIC(NAME, TYPE, WIDE, LOAD, STORE)                      \
    FUSED(NAME##_sum, TYPE, WIDE, LOAD, STORE, DO_SUM)                 \
    REDUCE(NAME##_product, TYPE, WIDE, LOAD, STORE, DO_PRODUCT)        \
    REDUCE(NAME##_min, TYPE, WIDE, LOAD, STORE, DO_MIN)                \
    REDUCE(NAME##_max, TYPE, WIDE, LOAD, STORE, DO_MAX)

#define BITWISE(NAME, TYPE)                                            \
    REDUCE(NAME##_band, TYPE, TYPE, SAME, SAME, DO_BAND)               \
    REDUCE(NAME##_bor, TYPE, TYPE, SAME, SAME, DO_BOR)                 \
    REDUCE(NAME##_bxor, TYPE, TYPE, SAME, SAME, DO_BXOR)

ARITHMETIC(f32, float, float, SAME, SAME)
ARITHMETIC(f64, double, double, SAME, SAME)
ARITHMETIC(bf16, uint16_t, float, widen_bf16, narrow_bf16)
ARITHMETIC(i8, int8_t, int8_t, SAME, SAME)
ARITHMETIC(i16, int16_t, int16_t, SAME, SAME)
ARITHMETIC(i32, int32_t, int32_t, SAME, SAME)
ARITHMETIC(i64, int64_t, int64_t, SAME, SAME)
ARITHMETIC(u8, uint8_t, uint8_t, SAME, SAME)
ARITHMETIC(u16, uint16_t, uint16_t, SAME, SAME)
ARITHMETIC(u32, uint32_t, uint32_t, SAME, SAME)
ARITHMETIC(u64, uint64_t, uint64_t, SAME, SAME)
BITWISE(i8, int8_t)
BITWISE(i16, int16_t)
BITWISE(i32, int32_t)
BITWISE(i64, int64_t)

/* Sums of bfloat16 two at a time, as halves of a 32-bit word: nothing to unpack and pack, twice as fast. */
typedef uint32_t __attribute__((aligned(2), may_alias)) Pair;

static inline float as_float(uint32_t bits) {
    float value;
    memcpy(&value, &bits, 4);
    return value;
}

static inline __attribute__((always_inline)) void bf16_pairs(char *const *src, const int sources, char *const *dst,
                                                             const int targets, size_t pairs) {
    const Pair *s[4];
    Pair *d[4];
    for (int k = 0; k < sources; k++) s[k] = (const Pair *)src[k];
    for (int k = 0; k < targets; k++) d[k] = (Pair *)dst[k];
    _Pragma("GCC ivdep") for (size_t i = 0; i < pairs; i++) {
        float low = as_float(s[0][i] << 16), high = as_float(s[0][i] & 0xffff0000u);
        if (sources > 1) low += as_float(s[1][i] << 16), high += as_float(s[1][i] & 0xffff0000u);
        if (sources > 2) low += as_float(s[2][i] << 16), high += as_float(s[2][i] & 0xffff0000u);
        if (sources > 3) low += as_float(s[3][i] << 16), high += as_float(s[3][i] & 0xffff0000u);
        uint32_t result = round_bf16(low) >> 16 | (round_bf16(high) & 0xffff0000u);
        d[0][i] = result;
        if (targets > 1) d[1][i] = result;
        if (targets > 2) d[2][i] = result;
        if (targets > 3) d[3][i] = result;
    }
}

CLONES static void bf16_add(char *const *src, int sources, char *const *dst, int targets, size_t count,
                            int64_t divisor) {
    size_t pairs = divisor == 1 ? count / 2 : 0, done = 2 * pairs;
    if (sources == 2 && targets == 1) bf16_pairs(src, 2, dst, 1, pairs);
    else if (sources == 2 && targets == 2) bf16_pairs(src, 2, dst, 2, pairs);
    else if (sources == 3 && targets == 1) bf16_pairs(src, 3, dst, 1, pairs);
    else if (sources == 3 && targets == 2) bf16_pairs(src, 3, dst, 2, pairs);
    else if (sources == 3 && targets == 3) bf16_pairs(src, 3, dst, 3, pairs);
    else if (sources == 4 && targets == 1) bf16_pairs(src, 4, dst, 1, pairs);
    else if (sources == 4 && targets == 2) bf16_pairs(src, 4, dst, 2, pairs);
    else if (sources == 4 && targets == 4) bf16_pairs(src, 4, dst, 4, pairs);
    else done = 0;
    if (done == count) return;
    if (!done) { bf16_sum(src, sources, dst, targets, count, divisor); return; }
    char *last_src[4], *last_dst[4];
    for (int k = 0; k < sources; k++) last_src[k] = src[k] + 2 * done;
    for (int k = 0; k < targets; k++) last_dst[k] = dst[k] + 2 * done;
    bf16_sum(last_src, sources, last_dst, targets, count - done, divisor);
}

/* Sums of bfloat16 that stay wide: `to` is, or grows by, ((s0 + s1) + s2) + ... */
static inline __attribute__((always_inline)) void widen_few(char *const *src, const int sources, float *to, size_t count,
                                                            const int add) {
    const uint16_t *s[4];
    for (int k = 0; k < sources; k++) s[k] = (const uint16_t *)src[k];
    _Pragma("GCC ivdep") for (size_t i = 0; i < count; i++) {
        float sum = widen_bf16(s[0][i]);
        if (sources > 1) sum += widen_bf16(s[1][i]);
        if (sources > 2) sum += widen_bf16(s[2][i]);
        if (sources > 3) sum += widen_bf16(s[3][i]);
        to[i] = add ? to[i] + sum : sum;
    }
}

CLONES static void widen_many(char *const *src, int sources, float *to, size_t count, int add) {
    float sum[CHUNK] __attribute__((aligned(64)));
    for (size_t at = 0; at < count; at += CHUNK) {
        size_t n = count - at < CHUNK ? count - at : CHUNK;
        for (size_t i = 0; i < n; i++) sum[i] = widen_bf16(((const uint16_t *)src[0])[at + i]);
        for (int k = 1; k < sources; k++)
            for (size_t i = 0; i < n; i++) sum[i] += widen_bf16(((const uint16_t *)src[k])[at + i]);
        for (size_t i = 0; i < n; i++) to[at + i] = add ? to[at + i] + sum[i] : sum[i];
    }
}

CLONES static void widen_sum(char *const *src, int sources, float *to, size_t count, int add) {
    if (sources == 1 && add) widen_few(src, 1, to, count, 1);
    else if (sources == 1) widen_few(src, 1, to, count, 0);
    else if (sources == 2 && add) widen_few(src, 2, to, count, 1);
    else if (sources == 2) widen_few(src, 2, to, count, 0);
    else if (sources == 4 && add) widen_few(src, 4, to, count, 1);
    else if (sources == 4) widen_few(src, 4, to, count, 0);
    else widen_many(src, sources, to, count, add);
}

/* float16 a block at a time: compilers cannot yet vectorise its conversion, the processor's instruction does eight. */
#if defined(__x86_64__)
#include <immintrin.h>
__attribute__((target("avx,f16c"))) static void widen_f16(const uint16_t *from, float *to, size_t count) {
    size_t i = 0;
    for (; i + 8 <= count; i += 8) _mm256_storeu_ps(to + i, _mm256_cvtph_ps(_mm_loadu_si128((const void *)(from + i))));
    for (; i < count; i++) to[i] = _cvtsh_ss(from[i]);
}
__attribute__((target("avx,f16c"))) static void narrow_f16(const float *from, uint16_t *to, size_t count) {
    size_t i = 0;
    for (; i + 8 <= count; i += 8)
        _mm_storeu_si128((void *)(to + i), _mm256_cvtps_ph(_mm256_loadu_ps(from + i), _MM_FROUND_TO_NEAREST_INT));
    for (; i < count; i++) to[i] = _cvtss_sh(from[i], _MM_FROUND_TO_NEAREST_INT);
}
#define HAS_F16 __builtin_cpu_supports("f16c")
#elif defined(__aarch64__)
static void widen_f16(const uint16_t *from, float *to, size_t count) {
    for (size_t i = 0; i < count; i++) to[i] = ((const __fp16 *)from)[i];
}
static void narrow_f16(const float *from, uint16_t *to, size_t count) {
    for (size_t i = 0; i < count; i++) ((__fp16 *)to)[i] = (__fp16)from[i];
}
#define HAS_F16 1
#else
static void widen_f16(const uint16_t *from, float *to, size_t count) { (void)from, (void)to, (void)count; }
static void narrow_f16(const float *from, uint16_t *to, size_t count) { (void)from, (void)to, (void)count; }
#define HAS_F16 0
#endif

static void f16(reduce_fn *add, char *const *src, int sources, char *const *dst, int targets, size_t count,
                int64_t divisor) {
    float sum[CHUNK], next[CHUNK];
    for (size_t at = 0; at < count; at += CHUNK) {
        size_t n = count - at < CHUNK ? count - at : CHUNK;
        widen_f16((const uint16_t *)src[0] + at, sum, n);
        for (int s = 1; s < sources; s++) {
            widen_f16((const uint16_t *)src[s] + at, next, n);
            add((char *[]){(char *)sum, (char *)next}, 2, (char *[]){(char *)sum}, 1, n, 1);
        }
        if (divisor != 1) add((char *[]){(char *)sum}, 1, (char *[]){(char *)sum}, 1, n, divisor);
        for (int d = 0; d < targets; d++) narrow_f16(sum, (uint16_t *)dst[d] + at, n);
    }
}

#define F16_REDUCE(OP)                                                                                             \
    static void f16_##OP(char *const *src, int sources, char *const *dst, int targets, size_t count,               \
                         int64_t divisor) {                                                                        \
        f16(f32_##OP, src, sources, dst, targets, count, divisor);                                                 \
    }
F16_REDUCE(sum)
F16_REDUCE(product)
F16_REDUCE(min)
F16_REDUCE(max)

/* of truth values: any, all, and an odd number */
REDUCE(bool_or, uint8_t, uint8_t, AS_BOOL, SAME, DO_BOR)
REDUCE(bool_and, uint8_t, uint8_t, AS_BOOL, SAME, DO_BAND)
REDUCE(bool_xor, uint8_t, uint8_t, AS_BOOL, SAME, DO_BXOR)

#define FLOATS(NAME) {NAME##_sum, NAME##_product, NAME##_min, NAME##_max, NULL, NULL, NULL}
#define WHOLE(NAME, BITS) \
    {NAME##_sum, NAME##_product, NAME##_min, NAME##_max, BITS##_band, BITS##_bor, BITS##_bxor}

static reduce_fn *const reductions[DTYPES][OPS] = {
    [F32] = FLOATS(f32),
    [F64] = FLOATS(f64),
    [BF16] = {bf16_add, bf16_product, bf16_min, bf16_max, NULL, NULL, NULL},
    [F16] = FLOATS(f16),
    [BOOL] = {bool_or, bool_and, bool_and, bool_or, bool_and, bool_or, bool_xor},
    [U8] = WHOLE(u8, i8),
    [I8] = WHOLE(i8, i8),
    [I16] = WHOLE(i16, i16),
    [I32] = WHOLE(i32, i32),
    [I64] = WHOLE(i64, i64),
    [U16] = WHOLE(u16, i16),
    [U32] = WHOLE(u32, i32),
    [U64] = WHOLE(u64, i64),
};
