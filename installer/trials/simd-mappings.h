// What paddock_loops.h finds in llama.cpp's sources, for loops.cpp.
#pragma once
#include <cmath>
#include <immintrin.h>
typedef double ggml_float;
#define GGML_F16_STEP 128
#define GGML_F16_DOT_STEP 64
