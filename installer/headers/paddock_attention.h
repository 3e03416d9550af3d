// Which rows of attention a thread takes at a time. See paddock_loops.h, which reads this.
//
// llama.cpp computes attention of many rows in tiles of 64 rows of one head, and a tile with fewer rows takes as long. For its threads it cuts the rows of all heads
// into equal parts, wherever a head ends: of nine heads with 64 rows each a part has 72, of two heads, so there are 16 tiles instead of nine. Here a part begins and
// ends where the nearest tile does, so no tile is divided, and all rows are computed once and as before.
//
// llama.cpp says where a part begins and ends in 64 bits, and its own function takes 32: so this one is called, and that one from here. Only a file that has llama.cpp's
// function, and says it so, gets any of this.
#pragma once
#include <cstdint>
#include <type_traits>

namespace paddock {
constexpr int64_t ATTENTION_TILE = 64;

// The nearest place where a tile begins or ends; `rows` are those of a head.
static inline int64_t nearest_border(int64_t row, int64_t rows) {
    const int64_t in_head = row % rows, begin = in_head - in_head % ATTENTION_TILE;
    const int64_t end = begin + ATTENTION_TILE < rows ? begin + ATTENTION_TILE : rows;
    return row - in_head + (2 * (in_head - begin) >= end - begin ? end : begin);
}
}  // namespace paddock

template <typename Params, typename Tensor, typename Row>
static inline typename std::enable_if<sizeof(Row) == 8>::type ggml_compute_forward_flash_attn_ext_tiled(const Params *params, Tensor *dst, Row begin, Row end) {
    const int64_t rows = dst->src[0]->ne[1];
    ggml_compute_forward_flash_attn_ext_tiled(params, dst, (int)paddock::nearest_border(begin, rows), (int)paddock::nearest_border(end, rows));
}
