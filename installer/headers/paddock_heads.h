// Attention of few rows (a token of each reply, a short prompt), on processors with AVX2. See paddock_loops.h, which reads this.
//
// llama.cpp takes one head after the other and one token behind the next: each time it turns keys and values from half precision into single, asks for one power of e, and
// adds up in half precision. Here the heads that share keys and values are computed together, some tens of tokens at a time, which are turned once, and added up in single
// precision. What is found for a row is the same beside any others, as only its own tokens are counted, in the order in which they lie.
//
// llama.cpp says where a part of the rows begins and ends in 64 bits, and its own function takes 32: so this one is called, and that one from here, for all that is computed there.
// Parts are taken of the rows in another order, in which those that share keys and values stand together.
#pragma once
#if defined(__AVX2__) && defined(__FMA__) && defined(__F16C__) && !defined(__AVX512F__) && !defined(PADDOCK_NO_HEADS)
#define PADDOCK_HEADS
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <immintrin.h>

namespace paddock {

constexpr int64_t MOST_HEADS = 8, WIDEST = 256, ROOM = 2048;  // heads at a time; numbers of a head, and of the keys (and values) of the tokens that are taken together
constexpr int64_t AHEAD = 8;  // tokens whose keys and values are asked for

struct Past {  // the tokens that one row looks at: those whose mask is not minus infinity
    const char *keys, *values;
    int64_t key_stride, value_stride, key_width, value_width;  // bytes from token to token, numbers of one
    const uint16_t *mask;                                      // in half precision; may be none
    float scale, cap;                                          // of products; cap 0 is none
    int64_t begin, end;
};

struct Found {  // for one head: the largest score, the sum of its powers, and that of the values times them
    float largest, sum;
    alignas(32) float values[WIDEST];
};

struct Taken {  // tokens that are taken together
    int64_t count;
    alignas(32) float keys[ROOM], values[ROOM], added[ROOM / 8], scores[ROOM / 8];
};

static inline float single(uint16_t half) { return _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(half))); }

// In single precision; what lies `ahead` bytes behind is asked for
static inline void turn_halves(const char *from, int64_t ahead, float *to, int64_t count) {
    for (int64_t i = 0; i < count; i += 32) _mm_prefetch(from + ahead + 2 * i, _MM_HINT_T0);
    for (int64_t i = 0; i < count; i += 8) _mm256_store_ps(to + i, _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(from + 2 * i))));
}

// The next tokens that are looked at, from `at` on; returns where to go on
static inline int64_t take(const Past &past, int64_t at, Taken *taken) {
    const int64_t most = ROOM / (past.key_width > past.value_width ? past.key_width : past.value_width) / 8 * 8;
    const __m128i none = _mm_set1_epi16((short)0xfc00);  // minus infinity
    for (taken->count = 0; at < past.end && taken->count < most; ++at) {
        if (past.mask) {
            while (at + 8 <= past.end && _mm_movemask_epi8(_mm_cmpeq_epi16(_mm_loadu_si128((const __m128i *)(past.mask + at)), none)) == 0xffff) at += 8;
            if (at >= past.end) break;
            if (past.mask[at] == 0xfc00) continue;
        }
        taken->added[taken->count] = past.mask ? single(past.mask[at]) : 0.0f;
        turn_halves(past.keys + at * past.key_stride, AHEAD * past.key_stride, taken->keys + taken->count * past.key_width, past.key_width);
        turn_halves(past.values + at * past.value_stride, AHEAD * past.value_stride, taken->values + taken->count * past.value_width, past.value_width);
        ++taken->count;
    }
    return at;
}

// The products of a query with the keys of eight tokens
static inline __m256 eight_products(const float *query, const float *keys, int64_t width) {
    __m256 sums[8];
    for (int i = 0; i < 8; ++i) sums[i] = _mm256_setzero_ps();
    for (int64_t at = 0; at < width; at += 8) {
        const __m256 part = _mm256_loadu_ps(query + at);
        for (int i = 0; i < 8; ++i) sums[i] = _mm256_fmadd_ps(part, _mm256_load_ps(keys + i * width + at), sums[i]);
    }
    const __m256 low = _mm256_hadd_ps(_mm256_hadd_ps(sums[0], sums[1]), _mm256_hadd_ps(sums[2], sums[3]));
    const __m256 high = _mm256_hadd_ps(_mm256_hadd_ps(sums[4], sums[5]), _mm256_hadd_ps(sums[6], sums[7]));
    return _mm256_add_ps(_mm256_permute2f128_ps(low, high, 0x20), _mm256_permute2f128_ps(low, high, 0x31));
}

static inline float most_of(__m256 lanes) {
    __m128 half = _mm_max_ps(_mm256_castps256_ps128(lanes), _mm256_extractf128_ps(lanes, 1));
    half = _mm_max_ps(half, _mm_movehl_ps(half, half));
    return _mm_cvtss_f32(_mm_max_ss(half, _mm_movehdup_ps(half)));
}

static inline float sum_of(__m256 lanes) {
    __m128 half = _mm_add_ps(_mm256_castps256_ps128(lanes), _mm256_extractf128_ps(lanes, 1));
    half = _mm_add_ps(half, _mm_movehl_ps(half, half));
    return _mm_cvtss_f32(_mm_add_ss(half, _mm_movehdup_ps(half)));
}

// Eight numbers at a time of each value, times its weight, beside what was found before, times `factor`
template <int REGISTERS> static inline void add_values(const Taken &taken, const float *weights, float factor, int64_t width, int64_t at, float *to) {
    __m256 sums[REGISTERS];
    for (int i = 0; i < REGISTERS; ++i) sums[i] = _mm256_mul_ps(_mm256_load_ps(to + at + 8 * i), _mm256_set1_ps(factor));
    for (int64_t token = 0; token < taken.count; ++token) {
        const __m256 weight = _mm256_set1_ps(weights[token]);
        for (int i = 0; i < REGISTERS; ++i) sums[i] = _mm256_fmadd_ps(weight, _mm256_load_ps(taken.values + token * width + at + 8 * i), sums[i]);
    }
    for (int i = 0; i < REGISTERS; ++i) _mm256_store_ps(to + at + 8 * i, sums[i]);
}

static inline void look_at(const Past &past, Taken *taken, const float *query, Found *found) {
    __m256 most = _mm256_set1_ps(found->largest);
    for (int64_t token = 0; token < taken->count; token += 8) {
        float *scores = taken->scores + token;
        __m256 eight = _mm256_mul_ps(eight_products(query, taken->keys + token * past.key_width, past.key_width), _mm256_set1_ps(past.scale));
        if (past.cap != 0.0f) {
            _mm256_store_ps(scores, eight);
            for (int i = 0; i < 8; ++i) scores[i] = past.cap * tanhf(scores[i]);
            eight = _mm256_load_ps(scores);
        }
        _mm256_store_ps(scores, _mm256_add_ps(eight, _mm256_load_ps(taken->added + token)));
        for (int64_t i = taken->count - token; i < 8; ++i) scores[i] = -INFINITY;  // nobody is there
        most = _mm256_max_ps(most, _mm256_load_ps(scores));
    }
    const float largest = most_of(most), factor = largest > found->largest ? expf(found->largest - largest) : 1.0f;
    if (largest == -INFINITY) return;
    __m256 sum = _mm256_setzero_ps();
    for (int64_t token = 0; token < taken->count; token += 8) {
        const __m256 weights = ggml_v_expf(_mm256_sub_ps(_mm256_load_ps(taken->scores + token), _mm256_set1_ps(largest)));
        _mm256_store_ps(taken->scores + token, weights);
        sum = _mm256_add_ps(sum, weights);
    }
    found->largest = largest;
    found->sum = found->sum * factor + sum_of(sum);
    int64_t at = 0;
    for (; at + 64 <= past.value_width; at += 64) add_values<8>(*taken, taken->scores, factor, past.value_width, at, found->values);
    for (; at + 16 <= past.value_width; at += 16) add_values<2>(*taken, taken->scores, factor, past.value_width, at, found->values);
    for (; at < past.value_width; at += 8) add_values<1>(*taken, taken->scores, factor, past.value_width, at, found->values);
}

// Each query (at most MOST_HEADS) with all of the past
static inline void attend(const Past &past, int64_t heads, const float *const *queries, Found *found) {
    static thread_local Taken taken;
    for (int64_t head = 0; head < heads; ++head) {
        found[head].largest = -INFINITY;
        found[head].sum = 0.0f;
        memset(found[head].values, 0, past.value_width * sizeof(float));
    }
    for (int64_t at = past.begin; at < past.end;) {
        at = take(past, at, &taken);
        for (int64_t head = 0; taken.count && head < heads; ++head) look_at(past, &taken, queries[head], found + head);
    }
}

template <typename Tensor> static inline bool is_taken(const Tensor *dst) {
    const auto *q = dst->src[0], *k = dst->src[1], *v = dst->src[2], *mask = dst->src[3];
    return q->type == GGML_TYPE_F32 && k->type == GGML_TYPE_F16 && v->type == GGML_TYPE_F16 && k->ne[0] % 8 == 0 && v->ne[0] % 8 == 0 && k->ne[0] <= WIDEST && v->ne[0] <= WIDEST
        && k->ne[2] == v->ne[2] && k->ne[3] == v->ne[3] && (!mask || mask->ne[2] == 1);
}

// Some heads of one token, the first of them `head`, which share keys and values
template <typename Tensor>
static inline void attend_heads(const Tensor *dst, int64_t head, int64_t heads, int64_t token, int64_t batch, int64_t begin, int64_t end, float *partials, int64_t stride) {
    const auto *q = dst->src[0], *k = dst->src[1], *v = dst->src[2], *mask = dst->src[3], *sinks = dst->src[4];
    const int64_t shared = q->ne[2] / k->ne[2], batches = q->ne[3] / k->ne[3];
    float told[3];  // scale, bias, cap
    memcpy(told, dst->op_params, sizeof(told));
    Past past = {};
    past.keys = (const char *)k->data + head / shared * k->nb[2] + batch / batches * k->nb[3];
    past.values = (const char *)v->data + head / shared * v->nb[2] + batch / batches * v->nb[3];
    past.key_stride = k->nb[1];
    past.value_stride = v->nb[1];
    past.key_width = k->ne[0];
    past.value_width = v->ne[0];
    past.mask = mask ? (const uint16_t *)((const char *)mask->data + token * mask->nb[1] + batch % mask->ne[3] * mask->nb[3]) : nullptr;
    past.scale = told[2] != 0.0f ? told[0] / told[2] : told[0];
    past.cap = told[2];
    past.begin = begin;
    past.end = end;
    const float *queries[MOST_HEADS];
    Found found[MOST_HEADS];
    for (int64_t i = 0; i < heads; ++i) queries[i] = (const float *)((const char *)q->data + token * q->nb[1] + (head + i) * q->nb[2] + batch * q->nb[3]);
    attend(past, heads, queries, found);
    for (int64_t i = 0; i < heads; ++i) {
        Found &one = found[i];
        if (sinks && begin == 0) {
            const float score = ((const float *)sinks->data)[head + i], largest = score > one.largest ? score : one.largest, factor = expf(one.largest - largest);
            for (int64_t at = 0; at < past.value_width; ++at) one.values[at] *= factor;
            one.sum = one.sum * factor + expf(score - largest);
            one.largest = largest;
        }
        if (partials) {
            float *partial = partials + (head + i) * stride;
            partial[0] = one.largest;
            partial[1] = one.sum;
            memcpy(partial + 2, one.values, past.value_width * sizeof(float));
            continue;
        }
        const float factor = one.sum == 0.0f ? 0.0f : 1.0f / one.sum;
        for (int64_t at = 0; at < past.value_width; ++at) one.values[at] *= factor;
        memcpy((char *)dst->data + (batch * dst->ne[2] * dst->ne[1] + head + i + token * dst->ne[1]) * dst->nb[1], one.values, past.value_width * sizeof(float));
    }
}

}  // namespace paddock

template <typename Params, typename Tensor, typename Row, typename Partials>
static inline typename std::enable_if<sizeof(Row) == 8>::type ggml_compute_forward_flash_attn_ext_f16_one_chunk(const Params *params, Tensor *dst, Row begin, Row end, int64_t first,
                                                                                                             int64_t last, Partials partials, int64_t stride) {
    float bias;
    memcpy(&bias, (const char *)dst->op_params + sizeof(float), sizeof(bias));
    if (params->use_ref || bias > 0.0f || !paddock::is_taken(dst)) return ggml_compute_forward_flash_attn_ext_f16_one_chunk(params, dst, (int)begin, (int)end, first, last, partials, stride);
    const int64_t tokens = dst->src[0]->ne[1], heads = dst->src[0]->ne[2], shared = heads / dst->src[1]->ne[2], all = heads * tokens * dst->src[0]->ne[3];
    // In a part of the past each head is asked for alone, and the first of those that share answers for all. Parts of the rows begin and end between bunches of heads that share,
    // of which there is one for each thread at least
    int64_t bunch = shared;
    float *const parts = partials;
    while (!parts && bunch > 1 && (shared % bunch || all / bunch < params->nth)) --bunch;
    const int64_t rounded = parts ? shared - 1 : bunch / 2, from = (begin + rounded) / bunch * bunch, to = (end + rounded) / bunch * bunch;
    for (int64_t row = from; row < to;) {
        const int64_t left = std::min(to - row, shared - row % shared), some = std::min(left, paddock::MOST_HEADS), batch = row / (heads * tokens), in_batch = row % (heads * tokens);
        const int64_t head = in_batch / (shared * tokens) * shared + in_batch % shared, token = in_batch % (shared * tokens) / shared;
        paddock::attend_heads(dst, head, some, token, batch, first, last, parts, stride);
        row += some;
    }
}
#endif
