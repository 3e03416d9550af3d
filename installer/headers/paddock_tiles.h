// The instruction that loads the table of tiles, told that it reads all 64 bytes. See installer/compiler.py.
#pragma once
#if defined(__AMX_TILE__) && defined(__GNUC__) && !defined(__clang__)
#include <immintrin.h>
static inline __attribute__((always_inline)) void paddock_tile_loadconfig(const void *table) {
    __asm__ volatile("ldtilecfg %0" : : "m"(*(const char(*)[64])table));
}
#define _tile_loadconfig paddock_tile_loadconfig
#endif
