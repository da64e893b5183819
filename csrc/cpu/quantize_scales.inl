// quantize_scales, quantize_nested: double quantization of block scales, centred on an offset, 256
// to a nested block; and the codes of a weight whose scales were searched, for those that are kept.

inline void quantize_scales(const ScalesTask& task, int num_threads) {
  parallel(threads_for(task.size, num_threads), [&](const Team& team) {
    const Range range = team.share_of(task.size, NESTED_BLOCK);
    for (int64_t first = range.first; first < range.last; first += NESTED_BLOCK) {
      const int64_t count = std::min(NESTED_BLOCK, range.last - first);
      float centred[NESTED_BLOCK];
      for (int64_t i = 0; i < count; ++i) centred[i] = task.absmax[first + i] - task.offset;
      const float nested = float_of(max_magnitude(centred, count));
      const float divisor = nested > 0.0f ? nested : 1.0f;
      for (int64_t i = 0; i < count; ++i) centred[i] /= divisor;
      encode_map(*task.codec, centred, count, 1.0f, task.codes + first);
      task.nested_absmax[first / NESTED_BLOCK] = nested;
    }
  });
}

// Takes the best of the block's 8-bit scale and its neighbours; returns its ratio to absmax.
inline float best_nested_ratio(const NestedTask& task, const ScaleSearch& search,
                               const ScaledBlock& scaled, float absmax, int64_t index) {
  absmax = std::max(absmax, MIN_ABSMAX);
  const float nested = task.nested_absmax[index / NESTED_BLOCK];
  const int nearest = task.scale_codes[index];
  float best = 0.0f, least = 0.0f;
  for (const int step : {0, -1, 1}) {
    const int code = nearest + step;
    if (code < 0 || code >= NUM_CODES8) continue;
    const float scale = decode_scale(task.map, static_cast<uint8_t>(code), nested, task.offset);
    const float ratio = scale / absmax;
    const float error = search.error_of(scaled, ratio);
    if (step == 0 || error < least) {
      least = error;
      best = ratio;
      task.scale_codes[index] = static_cast<uint8_t>(code);
    }
  }
  return best;
}

inline void quantize_nested(const NestedTask& task, int num_threads) {
  const BlocksTask& blocks = task.blocks;
  parallel(threads_for(blocks.size * 4, num_threads), [&](const Team& team) {
    const Range range = team.share_of(blocks.size, blocks.block_size);
    dispatch(blocks.type, [&](auto* tag) {
      encode_by_ratio<std::remove_pointer_t<decltype(tag)>>(
          blocks, range,
          [&](const ScaleSearch& search, const ScaledBlock& scaled, float absmax, int64_t index) {
            return best_nested_ratio(task, search, scaled, absmax, index);
          });
    });
  });
}
