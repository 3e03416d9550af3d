// The innermost loops of llama.cpp's attention and what its threads take of it, products of its matrices and where its threads wait, for x86-64. See installer/compiler.py; docs/lab-notes.md has the figures.
//
// Numbers of half precision are taken sixteen at a time. llama.cpp takes up to 128 together and the rest one by one, through a table: that is all of a head
// of 64 where the processor computes with halves itself (AVX512-FP16), and a part of one of 80 or 96 on others with AVX-512. Results differ in the order of
// sums, and for what was computed one by one in that a factor is rounded to half precision first, as it is in llama.cpp's own wide steps.
// The largest of a row is looked for in all lanes of a register, instead of in one: the same number. With AVX2 alone none of this is in the way of paddock_heads.h,
// which computes attention of few rows by itself.
#pragma once
#if defined(__cplusplus) && defined(__AVX__) && defined(__has_include)
#if __has_include("simd-mappings.h") && __has_include("vec.h")
#include "simd-mappings.h"

#if defined(__AVX512F__) && defined(__AVX512VL__) && defined(GGML_F16_STEP) && defined(GGML_F16_DOT_STEP)
#undef GGML_F16_STEP
#undef GGML_F16_EPR
#undef GGML_F16_VEC
#undef GGML_F16_VEC_SET1
#undef GGML_F16_VEC_LOAD
#undef GGML_F16_VEC_STORE
#undef GGML_F16_VEC_FMA
#undef GGML_F16_VEC_MUL
#define GGML_F16_STEP 16
#define GGML_F16_EPR 16
#if defined(__AVX512FP16__)
#define GGML_F16_VEC __m256h
#define GGML_F16_VEC_SET1(x) _mm256_set1_ph(__extension__(_Float16)(x))
#define GGML_F16_VEC_LOAD(p, i) _mm256_loadu_ph(p)
#define GGML_F16_VEC_STORE(p, r, i) _mm256_storeu_ph(p, (r)[i])
#define GGML_F16_VEC_FMA(a, b, c) _mm256_fmadd_ph(b, c, a)
#define GGML_F16_VEC_MUL _mm256_mul_ph
#else
#define GGML_F16_VEC __m512
#define GGML_F16_VEC_SET1(x) _mm512_set1_ps(x)
#define GGML_F16_VEC_LOAD(p, i) _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(p)))
#define GGML_F16_VEC_STORE(p, r, i) _mm256_storeu_si256((__m256i *)(p), _mm512_cvtps_ph((r)[i], 0))
#define GGML_F16_VEC_FMA(a, b, c) _mm512_fmadd_ps(b, c, a)
#define GGML_F16_VEC_MUL _mm512_mul_ps
#endif

#undef GGML_F16_DOT_STEP
#undef GGML_F16_DOT_EPR
#undef GGML_F16_DOT_ARR
#undef GGML_F16_DOT_VEC
#undef GGML_F16_DOT_VEC_ZERO
#undef GGML_F16_DOT_VEC_LOAD
#undef GGML_F16_DOT_VEC_FMA
#undef GGML_F16_DOT_VEC_REDUCE
#define GGML_F16_DOT_STEP 16
#define GGML_F16_DOT_EPR 16
#define GGML_F16_DOT_ARR 1
#define GGML_F16_DOT_VEC __m512
#define GGML_F16_DOT_VEC_ZERO _mm512_setzero_ps()
#define GGML_F16_DOT_VEC_LOAD(p, i) _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(p)))
#define GGML_F16_DOT_VEC_FMA(a, b, c) _mm512_fmadd_ps(b, c, a)
#define GGML_F16_DOT_VEC_REDUCE(result, sums) (result) = (ggml_float)_mm512_reduce_add_ps((sums)[0])
#endif

#include "vec.h"

static inline void paddock_vec_max_f32(const int n, float *result, const float *x) {
    float most = -INFINITY;
    int i = 0;
#if defined(__AVX512F__)
    if (n >= 16) {
        __m512 lanes = _mm512_loadu_ps(x);
        for (i = 16; i + 16 <= n; i += 16) lanes = _mm512_max_ps(lanes, _mm512_loadu_ps(x + i));
        most = _mm512_reduce_max_ps(lanes);
    }
#else
    if (n >= 8) {
        __m256 lanes = _mm256_loadu_ps(x);
        for (i = 8; i + 8 <= n; i += 8) lanes = _mm256_max_ps(lanes, _mm256_loadu_ps(x + i));
        __m128 half = _mm_max_ps(_mm256_castps256_ps128(lanes), _mm256_extractf128_ps(lanes, 1));
        half = _mm_max_ps(half, _mm_movehl_ps(half, half));
        most = _mm_cvtss_f32(_mm_max_ss(half, _mm_movehdup_ps(half)));
    }
#endif
    for (; i < n; ++i) most = most > x[i] ? most : x[i];
    *result = most;
}
#define ggml_vec_max_f32 paddock_vec_max_f32

#include "paddock_attention.h"
#include "paddock_heads.h"
#include "paddock_barrier.h"

// Products of matrices: ours where they are faster, llama.cpp's for all else. What llama.cpp calls is defined in the files of its own, in front of these, which get other names there:
// so one file alone has all the products to compile.
#if defined(GGML_USE_LLAMAFILE) && __has_include("ggml-cpu-impl.h") && __has_include("llamafile/sgemm.h") && __has_include("tiled/tiled.h")
#include "paddock_products.h"
#ifdef PADDOCK_PRODUCTS
#include "ggml-cpu.h"
#include "ggml-cpu-impl.h"
#include "llamafile/sgemm.h"
#include "tiled/tiled.h"
extern "C" {
bool paddock_sgemm_of_llama(const struct ggml_compute_params *params, int64_t m, int64_t n, int64_t k, const void *a, int64_t lda, const void *b, int64_t ldb,
                            void *c, int64_t ldc, int a_type, int b_type, int c_type);
bool paddock_tiled_of_llama(const struct ggml_compute_params *params, struct ggml_tensor *dst);
bool paddock_tiled_id_of_llama(const struct ggml_compute_params *params, struct ggml_tensor *dst, int64_t expert, int64_t n, const int32_t *pairs, char *scratch);
__attribute__((visibility("hidden"))) bool paddock_expert(const struct ggml_compute_params *params, const struct ggml_tensor *dst, int64_t expert, int64_t n, const int32_t *pairs);
}
namespace paddock {
constexpr int64_t MOST_EXPERTS = 512;
static inline bool is_multiplied(const struct ggml_compute_params *params, int64_t m, int64_t n, int64_t k, const void *a, int64_t lda, const void *b, int64_t ldb, void *c, int64_t ldc,
                                 int a_type, int b_type, int c_type) {
    if (c_type != GGML_TYPE_F32) return false;
    // A single row too: then the products of a token are the same alone, beside others and drafted
    if (b_type == GGML_TYPE_F32 && are_few(n, k) && with_kind(a_type, GGML_TYPE_Q8_0, [](auto) {})) {
        // llama.cpp asks first with numbers as they are, and would have all threads put them into eight bits together and wait for each other
        b = in_eight_bits(n, k, (const float *)b, ldb, ggml_get_type_traits_cpu(GGML_TYPE_Q8_0)->from_float);
        ldb = k;
        b_type = GGML_TYPE_Q8_0;
    }
    return with_kind(a_type, b_type, [&](auto kind) { product<decltype(kind)>(m, n, k, a, lda, b, ldb, c, ldc, params->ith, params->nth); });
}
// What chooses the experts of a token is left to llama.cpp's sums of one row after the other: its other way is for several tokens only, and has other last digits.
static inline bool is_router(int64_t m, int a_type, int b_type) { return a_type == GGML_TYPE_F32 && b_type == GGML_TYPE_F32 && m <= MOST_EXPERTS; }
static inline bool is_expert_multiplied(const struct ggml_compute_params *params, const struct ggml_tensor *dst, int64_t expert, int64_t n, const int32_t *pairs) {
    const bool is_usual = !params->use_ref && dst->src[1]->type == GGML_TYPE_F32 && dst->type == GGML_TYPE_F32;
    const int other = ggml_get_type_traits_cpu(dst->src[0]->type)->vec_dot_type;
    return is_usual && product_of_expert(dst, expert, n, pairs, params->wdata, other, params->ith, params->nth);
}
}  // namespace paddock
#if !defined(__AVX512F__)
// Weights in Q4_0, IQ4_NL, MXFP4 and Q4_K stay in the order of their file; for its own products llama.cpp puts them into another one. It asks with a tensor that may be written to,
// and its own function takes any: so this one is called, and that one from here.
namespace ggml::cpu {
class tensor_traits;
}
template <typename Tensor>
static inline typename std::enable_if<!std::is_const<Tensor>::value, const ggml::cpu::tensor_traits *>::type ggml_repack_get_optimal_repack_type(Tensor *tensor) {
    const int other = ggml_get_type_traits_cpu(tensor->type)->vec_dot_type;
    return paddock::with_kind(tensor->type, other, [](auto) {}) ? nullptr : ggml_repack_get_optimal_repack_type((const Tensor *)tensor);
}
#endif
#define llamafile_sgemm(...)                                                                                                                                                    \
    paddock_has_products(void);                                                                                                                                               \
    bool llamafile_sgemm(const struct ggml_compute_params *params, int64_t m, int64_t n, int64_t k, const void *a, int64_t lda, const void *b, int64_t ldb, void *c, int64_t ldc, \
                         int a_type, int b_type, int c_type) {                                                                                                                \
        return paddock::is_multiplied(params, m, n, k, a, lda, b, ldb, c, ldc, a_type, b_type, c_type)                                                                        \
            || (!paddock::is_router(m, a_type, b_type) && paddock_sgemm_of_llama(params, m, n, k, a, lda, b, ldb, c, ldc, a_type, b_type, c_type));                           \
    }                                                                                                                                                                         \
    bool paddock_expert(const struct ggml_compute_params *params, const struct ggml_tensor *dst, int64_t expert, int64_t n, const int32_t *pairs) {                           \
        return paddock::is_expert_multiplied(params, dst, expert, n, pairs);                                                                                                  \
    }                                                                                                                                                                         \
    bool paddock_sgemm_of_llama(__VA_ARGS__)
#define ggml_compute_forward_mul_mat_tiled(...)                                                                         \
    paddock_has_tiled(void);                                                                                            \
    bool ggml_compute_forward_mul_mat_tiled(const struct ggml_compute_params *params, struct ggml_tensor *dst) {        \
        return !paddock::with_kind(dst->src[0]->type, GGML_TYPE_Q8_K, [](auto) {}) && paddock_tiled_of_llama(params, dst); \
    }                                                                                                                   \
    bool paddock_tiled_of_llama(__VA_ARGS__)
#define ggml_compute_forward_mul_mat_id_tiled(...)                                                                                                                                   \
    paddock_has_tiled_id(void);                                                                                                                                                      \
    bool ggml_compute_forward_mul_mat_id_tiled(const struct ggml_compute_params *params, struct ggml_tensor *dst, int64_t expert, int64_t n, const int32_t *pairs, char *scratch) { \
        return paddock_expert(params, dst, expert, n, pairs) || paddock_tiled_id_of_llama(params, dst, expert, n, pairs, scratch);                                                  \
    }                                                                                                                                                                                \
    bool paddock_tiled_id_of_llama(__VA_ARGS__)
#endif
#endif

// By this a compiled library is known to have them (installer/compiler.py: mark)
#define PADDOCK_TEXT_OF(name) #name
#define PADDOCK_TEXT(name) PADDOCK_TEXT_OF(name)
#ifdef PADDOCK_NO_BARRIER
#define PADDOCK_LACKS_BARRIER " NO_BARRIER"
#else
#define PADDOCK_LACKS_BARRIER
#endif
#ifdef PADDOCK_NO_HEADS
#define PADDOCK_LACKS_HEADS " NO_HEADS"
#else
#define PADDOCK_LACKS_HEADS
#endif
#ifdef PADDOCK_NO_PRODUCTS
#define PADDOCK_LACKS_PRODUCTS " NO_PRODUCTS"
#else
#define PADDOCK_LACKS_PRODUCTS
#endif
__attribute__((used)) static const char paddock_loops[] =
    "paddock loops " PADDOCK_TEXT(PADDOCK_LOOPS) PADDOCK_LACKS_BARRIER PADDOCK_LACKS_HEADS PADDOCK_LACKS_PRODUCTS ";";
#endif
#endif
