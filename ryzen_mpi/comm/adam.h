/* Adam and AdamW over flat vectors, one pass over memory: gradient, weights and moments are read once, and with the new
 * ones the rounded copy is written that the model computes with.
 *
 * Kingma & Ba 2015, algorithm 1; Loshchilov & Hutter 2019, algorithm 2. The order of operations is that of PyTorch's
 * fused kernel (FusedAdamKernel.cpp), which a test compares it with. Differences in the last bits: nothing is fused into
 * one rounding here, so that every vector unit gives the same bits, and the square root is multiplied by 1 / root2.
 */
typedef struct {
    double factor;           /* the gradient is multiplied by it: clipping */
    double rate;             /* learning rate */
    double beta1, beta2;     /* of the running means */
    double epsilon;
    double decay;            /* of the weights before `decayed` */
    double correction, root; /* 1 - beta1 ** updates, sqrt(1 - beta2 ** updates) */
    int coupled;             /* the decay is added to the gradient (Adam), else taken off the weights (AdamW) */
    int64_t decayed;
} Adam;

/* A weight's copies lie in `part` elements each, whose beginnings lie `stride` elements apart; copy NULL: nowhere. */
typedef struct {
    char *copy;
    int64_t part, stride;
} Published;

/* Unlike sums of bfloat16, weights may be a NaN that has its bits below those that are kept. */
static inline uint16_t narrow_weight(float wide) { return wide != wide ? 0x7fc0u : narrow_bf16(wide); }

#define ADAM_STEP(NAME, TYPE, ROOT, OUT, STORE)                                                                        \
    static inline __attribute__((always_inline)) void NAME##_loop(                                                     \
        TYPE *restrict weights, const TYPE *restrict gradients, TYPE *restrict firsts, TYPE *restrict seconds,         \
        OUT *restrict copy, size_t count, const Adam *how, double decay, const int coupled, const int publish) {       \
        const TYPE factor = how->factor, coupling = decay, kept = 1 - how->rate * decay, far = 1 - how->beta1,         \
                   beta2 = how->beta2, rest2 = 1 - how->beta2, root = 1 / how->root, epsilon = how->epsilon,           \
                   step = -(how->rate / how->correction);                                                              \
        const int near = far < (TYPE)0.5; /* the end of the interpolation that it starts from, as torch.lerp */        \
        const TYPE weight_of_new = near ? far : far - 1;                                                               \
        _Pragma("GCC ivdep") for (size_t i = 0; i < count; i++) {                                                      \
            TYPE gradient = gradients[i] * factor, weight = weights[i], first = firsts[i];                             \
            if (coupled) gradient += weight * coupling;                                                                \
            else weight *= kept;                                                                                       \
            first = (near ? first : gradient) + weight_of_new * (gradient - first);                                    \
            TYPE second = seconds[i] * beta2 + rest2 * gradient * gradient;                                            \
            weight += step * first / (ROOT(second) * root + epsilon);                                                  \
            firsts[i] = first, seconds[i] = second, weights[i] = weight;                                               \
            if (publish) copy[i] = STORE(weight);                                                                      \
        }                                                                                                              \
    }                                                                                                                  \
    CLONES static void NAME(char *weights, const char *gradients, char *firsts, char *seconds, char *copy,             \
                            size_t count, const Adam *how, double decay) {                                             \
        TYPE *w = (TYPE *)weights, *m = (TYPE *)firsts, *v = (TYPE *)seconds;                                          \
        const TYPE *g = (const TYPE *)gradients;                                                                       \
        const int coupled = how->coupled && decay != 0;                                                                \
        if (copy && coupled) NAME##_loop(w, g, m, v, (OUT *)copy, count, how, decay, 1, 1);                            \
        else if (copy) NAME##_loop(w, g, m, v, (OUT *)copy, count, how, decay, 0, 1);                                  \
        else if (coupled) NAME##_loop(w, g, m, v, NULL, count, how, decay, 1, 0);                                      \
        else NAME##_loop(w, g, m, v, NULL, count, how, decay, 0, 0);                                                   \
    }

ADAM_STEP(adam_f32, float, __builtin_sqrtf, float, SAME)
ADAM_STEP(adam_f32_bf16, float, __builtin_sqrtf, uint16_t, narrow_weight)
ADAM_STEP(adam_f64, double, __builtin_sqrt, double, SAME)

typedef void adam_fn(char *, const char *, char *, char *, char *, size_t, const Adam *, double);

/* The elements from `begin` to `end`, of vectors of `wide` whose copies are of `narrow`. */
static void adam(char *const *vectors, int64_t begin, int64_t end, int wide, int narrow, const Adam *how,
                 Published to) {
    adam_fn *step = wide == F64 ? adam_f64 : narrow == BF16 ? adam_f32_bf16 : adam_f32;
    for (int64_t at = begin, next; at < end; at = next) {
        next = at < how->decayed && how->decayed < end ? how->decayed : end;
        char *copy = NULL;
        if (to.copy) {
            int64_t inside = at % to.part, rest = to.part - inside;
            if (rest < next - at) next = at + rest;
            copy = to.copy + (at / to.part * to.stride + inside) * item_bytes[narrow];
        }
        int64_t offset = at * item_bytes[wide];
        step(vectors[0] + offset, vectors[1] + offset, vectors[2] + offset, vectors[3] + offset, copy, next - at, how,
             at < how->decayed ? how->decay : 0);
    }
}
