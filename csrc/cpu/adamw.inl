// The update of blocks of 256 elements, each in one pass, in L1.

// What a block works on: the caller's own memory where that is float32, else a buffer.
struct AdamWBlock {
  float *p, *m, *v;
  const float* g;
  int64_t count;  // a multiple of LANES
};

struct AdamWBuffers {
  alignas(64) float p[STATE_BLOCK], g[STATE_BLOCK], m[STATE_BLOCK], v[STATE_BLOCK];
};

// target[0, padded) = source[0, count), then zeros: what lies beyond a short block is harmless.
template <class Source>
inline void read_padded(const Source* source, int64_t count, float* target) {
  convert(target, source, count);
  std::fill(target + count, target + STATE_BLOCK, 0.0f);
}

// The floats of a block: in place, unless the last vector would be short.
inline float* floats_of(float* source, int64_t count, float* buffer) {
  if (count % LANES == 0) return source;
  read_padded(source, count, buffer);
  return buffer;
}

inline void write_back(const float* values, int64_t count, float* target) {
  if (values != target) std::copy(values, values + count, target);
}

// The largest magnitudes of a block's moments, as encode_state takes them.
struct AdamWLargest {
  float m, v;
};

// first(i) and second(i) are vectors of the moments before. The block and the rates are copies:
// others could be what a store changes, and would be read again for every vector. As torch.lerp,
// the first moment starts from the nearer end, where the other differs by rounding.
template <bool FROM_GRADIENT, class First, class Second>
inline AdamWLargest update_from(const AdamWBlock block, const AdamWRates rates,
                                float gradient_scale, const First first, const Second second) {
  const RootDivisor correction(rates.correction);
  const float weight = FROM_GRADIENT ? rates.first - 1.0f : rates.first;
  Words largest_m = broadcast_word(0), largest_v = largest_m;
  for (int64_t i = 0; i < block.count; i += LANES) {
    prefetch_line(block.g, i + STATES_AHEAD);
    const Floats g = load(block.g + i) * gradient_scale, old = first(i);
    const Floats m = multiply_add_exactly(broadcast(weight), g - old, FROM_GRADIENT ? g : old);
    const Floats v = multiply_add_exactly(g * rates.second, g, second(i) * rates.beta2);
    const Floats denominator = correction(square_root(v)) + rates.eps;
    const Floats p = load(block.p + i) * rates.decay;
    store(block.m + i, m);
    store(block.v + i, v);
    store(block.p + i, p + rates.step_size * m / denominator);
    largest_m = larger(magnitude(m), largest_m);
    largest_v = larger(reinterpret_cast<Words>(v), largest_v);
  }
  return {float_of(largest_lane(largest_m)), float_of(largest_lane(largest_v))};
}

template <class First, class Second>
inline AdamWLargest update(const AdamWBlock& block, const AdamWRates& rates, float gradient_scale,
                           const First& first, const Second& second) {
  if (rates.first >= 0.5f) return update_from<true>(block, rates, gradient_scale, first, second);
  return update_from<false>(block, rates, gradient_scale, first, second);
}

inline void step_states32(const AdamWTask& task, const AdamWSegment& segment, Range elements,
                          AdamWBlock& block) {
  const int64_t count = elements.size();
  float* m = static_cast<float*>(segment.exp_avg) + elements.first;
  float* v = static_cast<float*>(segment.exp_avg_sq) + elements.first;
  block.m = floats_of(m, count, block.m);
  block.v = floats_of(v, count, block.v);
  const auto before = [](const float* states) {
    return [states](int64_t i) {
      prefetch_line(states, i + STATES_AHEAD);
      return load(states + i);
    };
  };
  const auto first = [p = block.p, m = before(block.m)](int64_t i) {
    prefetch_line(p, i + STATES_AHEAD);
    return m(i);
  };
  update(block, segment.rates, task.gradient_scale, first, before(block.v));
  write_back(block.m, count, m);
  write_back(block.v, count, v);
}

inline void step_states8(const AdamWTask& task, const AdamWSegment& segment, Range elements,
                         const AdamWBlock& block) {
  const int64_t count = elements.size(), index = elements.first / STATE_BLOCK;
  uint8_t* m = static_cast<uint8_t*>(segment.exp_avg) + elements.first;
  uint8_t* v = static_cast<uint8_t*>(segment.exp_avg_sq) + elements.first;
  float &m_absmax = segment.exp_avg_absmax[index], &v_absmax = segment.exp_avg_sq_absmax[index];
  uint8_t padded_m[STATE_BLOCK], padded_v[STATE_BLOCK];
  const AdamWLargest largest =
      update(block, segment.rates, task.gradient_scale,
             StateReader<true>(*task.first_codec, m, m_absmax, count, padded_m, block.m),
             StateReader<false>(*task.second_codec, v, v_absmax, count, padded_v, block.v));
  // Lines of the parameters are asked for here, half by each: updating asks for gradients'.
  const auto ahead = [](const float* p) {
    return [p](int64_t i) { prefetch(p + i / 2, TOGETHER / 2 * int64_t{sizeof *p}); };
  };
  const float* p = block.p + STATES_AHEAD;
  m_absmax = encode_state(*task.first_codec, block.m, count, largest.m, m, ahead(p));
  v_absmax =
      encode_state(*task.second_codec, block.v, count, largest.v, v, ahead(p + STATE_BLOCK / 2));
}

template <class Parameter, class Gradient>
inline void step_block(const AdamWTask& task, const AdamWSegment& segment, int64_t first,
                       AdamWBuffers& buffers) {
  const int64_t count = std::min(STATE_BLOCK, segment.size() - first);
  auto* parameter = static_cast<Parameter*>(segment.parameter.data) + first;
  const auto* gradient = static_cast<const Gradient*>(segment.gradient.data) + first;
  AdamWBlock block{buffers.p, buffers.m, buffers.v, buffers.g, (count + LANES - 1) / LANES * LANES};
  if (std::is_same_v<Gradient, float> && count % LANES == 0) {
    block.g = reinterpret_cast<const float*>(gradient);
  } else {
    read_padded(gradient, count, buffers.g);
  }
  float* master = segment.master == nullptr ? nullptr : segment.master + first;
  if constexpr (std::is_same_v<Parameter, float>) master = parameter;
  if (master != nullptr) {
    block.p = floats_of(master, count, buffers.p);
  } else {
    read_padded(parameter, count, buffers.p);
  }
  const Range elements{first, first + count};
  if (segment.exp_avg_absmax == nullptr) {
    step_states32(task, segment, elements, block);
  } else {
    step_states8(task, segment, elements, block);
  }
  if (master != nullptr) write_back(block.p, count, master);
  if (!std::is_same_v<Parameter, float>) convert(parameter, block.p, count);
}

inline void step_blocks(const AdamWTask& task, const AdamWSegment& segment, Range blocks) {
  AdamWBuffers buffers;
  dispatch(segment.parameter.type, [&](auto* parameter) {
    dispatch(segment.gradient.type, [&](auto* gradient) {
      for (int64_t block = blocks.first; block < blocks.last; ++block) {
        step_block<std::remove_pointer_t<decltype(parameter)>,
                   std::remove_pointer_t<decltype(gradient)>>(task, segment, block * STATE_BLOCK,
                                                              buffers);
      }
    });
  });
}
