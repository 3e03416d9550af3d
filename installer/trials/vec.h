// What paddock_loops.h finds in llama.cpp's sources, for loops.cpp.
#pragma once
enum { GGML_TYPE_F32, GGML_TYPE_F16, GGML_TYPE_Q4_0, GGML_TYPE_Q5_0, GGML_TYPE_Q8_0, GGML_TYPE_Q3_K, GGML_TYPE_Q4_K, GGML_TYPE_Q5_K, GGML_TYPE_Q6_K, GGML_TYPE_Q8_K, GGML_TYPE_IQ4_NL,
       GGML_TYPE_IQ4_XS, GGML_TYPE_MXFP4 };
#ifdef __AVX__
static inline __m256 ggml_v_expf(__m256 x) {
    float at[8];
    _mm256_storeu_ps(at, x);
    for (float &one : at) one = std::exp(one);
    return _mm256_loadu_ps(at);
}
#endif
