// loss    = sum over rows of  log(sum exp(l)) - (1 - e) l[label] - e mean(l),    l = hidden head^T
// dhidden = (softmax(l) - (1 - e) onehot(label) - e / v) head
//
// The head passes once per row block, a segment of its rows at a time, which the threads pack
// together, as it lies and transposed. Then each takes its strips, TILE_COLUMNS rows of hidden:
// their logits fill a panel in L1 with one row of hidden in each column, so that softmax runs down
// the lanes, and this panel is what dhidden^T += head^T exp(l)^T multiplies with next. Logits exist
// nowhere else. Sums are rescaled when a larger logit comes, as in flash attention (arXiv
// 2205.14135).

constexpr int64_t SEGMENT = 192;  // Its panel of logits leaves room in L1 for tiles.

// e^x for x <= 0, to an ulp; what would be subnormal is some 1e-38 instead. By Cephes' expf.
inline Floats exponential(Floats x) {
  const Floats least = broadcast(-86.0f), whole = broadcast(0x1.8p23f);
  x = x < least ? least : x;
  const Floats shifted = fused_multiply_add(x, broadcast(1.44269504f), whole);
  const Floats power = shifted - whole;  // x / ln 2, rounded
  Floats rest = fused_multiply_add(power, broadcast(-0.693359375f), x);
  rest = fused_multiply_add(power, broadcast(2.12194440e-4f), rest);
  Floats series = broadcast(1.9875691500e-4f);
  series = fused_multiply_add(series, rest, broadcast(1.3981999507e-3f));
  series = fused_multiply_add(series, rest, broadcast(8.3334519073e-3f));
  series = fused_multiply_add(series, rest, broadcast(4.1665795894e-2f));
  series = fused_multiply_add(series, rest, broadcast(1.6666665459e-1f));
  series = fused_multiply_add(series, rest, broadcast(5.0000001201e-1f));
  const Floats fraction = fused_multiply_add(series, rest * rest, rest) + broadcast(1.0f);
  // The lowest bits of `shifted` are the power of two: into the exponent.
  return reinterpret_cast<Floats>(reinterpret_cast<Words>(fraction) +
                                  (reinterpret_cast<Words>(shifted) << 23));
}

// Panels that are packed already, one behind the other.
struct PackedPanels {
  const float* data;

  void pack(int64_t first, int64_t depth, int64_t, float* panel) const {
    std::copy(data + first * TILE_COLUMNS, data + (first + depth) * TILE_COLUMNS, panel);
  }
};

// What is known of the rows of a strip after some segments; sums are relative to exp(largest).
struct SoftmaxState {
  float largest[TILE_COLUMNS], label_logit[TILE_COLUMNS];
  double exponentials[TILE_COLUMNS], logits[TILE_COLUMNS];
};

// TILE_COLUMNS rows of hidden (or fewer), as panels; their sums of exp(l) head, transposed.
struct LossStrip {
  int64_t first_row, num_rows;
  const float* hidden;  // [k, TILE_COLUMNS]
  float* sums;          // [k, TILE_COLUMNS]
  SoftmaxState* state;
};

// Rows of head: packed as it lies for the logits, transposed for the gradient.
struct HeadSegment {
  int64_t first;
  float* rows;  // fp32, [size, k]
  LeftTiles tiles, transposed;

  int64_t size() const { return tiles.rows; }
};

inline void pack_segment(const MatrixView& head, const HeadSegment& segment, bool transposes,
                         const Team& team) {
  const int64_t k = head.columns;
  const Range own = team.share_of(segment.size(), TILE_ROWS);
  const DenseRows source{head, segment.first};
  pack_left(source, own, segment.tiles);
  if (!transposes) return;
  for (int64_t row = own.first; row < own.last; ++row) {
    source.read(row, 0, k, segment.rows + row * k);
  }
  pack_left_transposed(segment.rows, own, segment.transposed);
}

inline void keep_label_logits(const CrossEntropyTask& task, const HeadSegment& segment,
                              const LossStrip& strip, const float* logits) {
  for (int64_t c = 0; c < strip.num_rows; ++c) {
    const int64_t row = task.labels[strip.first_row + c] - segment.first;
    if (row < 0 || row >= segment.size()) continue;
    strip.state->label_logit[c] = logits[row * TILE_COLUMNS + c];
  }
}

// values = exp(values - largest), for LANES columns of a segment's logits; returns by what earlier
// sums are to be multiplied.
inline Floats exponentiate(float* values, int64_t num_values, SoftmaxState& state, int lane) {
  const Floats before = load(state.largest + lane);
  Floats largest = before, total = zeros(), sum = zeros();
  float* const end = values + num_values * TILE_COLUMNS;
  for (const float* value = values; value < end; value += TILE_COLUMNS) {
    const Floats logit = load(value);
    largest = logit > largest ? logit : largest;
    total += logit;
  }
  for (float* value = values; value < end; value += TILE_COLUMNS) {
    const Floats weight = exponential(load(value) - largest);
    store(value, weight);
    sum += weight;
  }
  const Floats correction = exponential(before - largest);
  store(state.largest + lane, largest);
  for (int i = 0; i < LANES; ++i) {
    double& exponentials = state.exponentials[lane + i];
    exponentials = exponentials * static_cast<double>(correction[i]) + static_cast<double>(sum[i]);
    state.logits[lane + i] += static_cast<double>(total[i]);
  }
  return correction;
}

// sums[.][c] *= correction[c]
inline void rescale(float* sums, int64_t k, const Floats* corrections) {
  for (int64_t i = 0; i < k; ++i, sums += TILE_COLUMNS) {
    store(sums, load(sums) * corrections[0]);
    store(sums + LANES, load(sums + LANES) * corrections[1]);
  }
}

// One segment for one strip: logits, their exponentials, and the gradient's sums.
inline void add_segment(const CrossEntropyTask& task, const HeadSegment& segment,
                        const LossStrip& strip, float* memory) {
  const Range columns{0, TILE_COLUMNS};
  const Strip scratch(memory, segment.size(), columns);
  float* const logits = scratch.sums;
  begin_strip(scratch);
  add_product(scratch, segment.tiles, PackedPanels{strip.hidden});
  keep_label_logits(task, segment, strip, logits);
  Floats corrections[2];
  bool is_larger = false;
  for (int half = 0; half < 2; ++half) {
    const int lane = half * LANES;
    corrections[half] = exponentiate(logits + lane, segment.size(), *strip.state, lane);
    for (int i = 0; i < LANES; ++i) is_larger |= corrections[half][i] != 1.0f;
  }
  if (!is_needed(task.dhidden)) return;
  const int64_t k = task.head.columns;
  if (is_larger) rescale(strip.sums, k, corrections);
  Strip gradient(memory, k, columns);
  gradient.sums = strip.sums;
  add_product(gradient, segment.transposed, PackedPanels{logits});
}

// dhidden of one row, from its sums and from the column sums of the head.
inline void store_gradient(const CrossEntropyTask& task, const LossStrip& strip, int64_t c,
                           const double* head_sums) {
  const int64_t k = task.head.columns, row = strip.first_row + c;
  const double smoothing = task.label_smoothing, v = static_cast<double>(task.head.rows);
  const double factor = 1 / strip.state->exponentials[c];
  float values[DEPTH];
  for (int64_t first = 0; first < k; first += DEPTH) {
    const int64_t count = std::min(DEPTH, k - first);
    DenseRows{task.head}.read(task.labels[row], first, count, values);
    for (int64_t i = 0; i < count; ++i) {
      double value = factor * static_cast<double>(strip.sums[(first + i) * TILE_COLUMNS + c]);
      value -= (1 - smoothing) * static_cast<double>(values[i]);
      if (smoothing > 0) value -= smoothing / v * head_sums[first + i];
      values[i] = static_cast<float>(value);
    }
    dispatch(task.dhidden.type, [&](auto* tag) {
      convert(static_cast<decltype(tag)>(task.dhidden.data) + row * k + first, values, count);
    });
  }
}

inline void finish_strip(const CrossEntropyTask& task, const LossStrip& strip,
                         const double* head_sums, double* losses) {
  const SoftmaxState& state = *strip.state;
  const double smoothing = task.label_smoothing, v = static_cast<double>(task.head.rows);
  for (int64_t c = 0; c < strip.num_rows; ++c) {
    losses[strip.first_row + c] = static_cast<double>(state.largest[c]) +
                                  std::log(state.exponentials[c]) -
                                  (1 - smoothing) * static_cast<double>(state.label_logit[c]) -
                                  smoothing * state.logits[c] / v;
    if (is_needed(task.dhidden)) store_gradient(task, strip, c, head_sums);
  }
}

// Rows of hidden for which the head passes once: they and their sums stay in the last-level cache.
inline int64_t rows_per_pass(int64_t m, int64_t k) {
  const int64_t rows = std::clamp<int64_t>((int64_t{1} << 21) / std::max<int64_t>(k, 1), 128, 1024);
  return (std::min(m, rows) + TILE_COLUMNS - 1) / TILE_COLUMNS * TILE_COLUMNS;
}

// The memory that the threads share in a pass.
struct LossScratch {
  float *hidden, *sums;              // [strips, k, TILE_COLUMNS]
  float *rows, *tiles, *transposed;  // [SEGMENT, k]
  SoftmaxState* states;              // [strips]
  double *head_sums, *losses;        // [k], [m]

  LossStrip strip(const CrossEntropyTask& task, int64_t first_row, int64_t index) const {
    const int64_t at = index * TILE_COLUMNS, size = task.head.columns * TILE_COLUMNS;
    return {first_row + at, std::min(TILE_COLUMNS, task.hidden.rows - first_row - at),
            hidden + index * size, sums + index * size, states + index};
  }
  void begin(const CrossEntropyTask& task, int64_t first_row, int64_t index) const {
    const int64_t k = task.head.columns, size = k * TILE_COLUMNS;
    const TransposedDensePanels rows_of_hidden{{task.hidden}};
    for (int64_t first = 0; first < k; first += DEPTH) {
      rows_of_hidden.pack(first, std::min(DEPTH, k - first), first_row + index * TILE_COLUMNS,
                          hidden + index * size + first * TILE_COLUMNS);
    }
    std::fill_n(sums + index * size, size, 0.0f);
    states[index] = {};
    std::fill_n(states[index].largest, TILE_COLUMNS, -FLT_MAX);
  }
  HeadSegment segment(const CrossEntropyTask& task, int64_t first) const {
    const int64_t size = std::min(SEGMENT, task.head.rows - first), k = task.head.columns;
    const bool paired = are_paired(task.head.type) && are_paired(task.hidden.type);
    return {first, rows, {tiles, size, k, paired}, {transposed, k, size, paired}};
  }
};

// Rows [first_row, first_row + num_rows), as one thread of a team sees it.
inline void pass(const CrossEntropyTask& task, Range rows, const LossScratch& shared,
                 float* scratch, const Team& team) {
  const int64_t num_strips = (rows.size() + TILE_COLUMNS - 1) / TILE_COLUMNS;
  const Range own = team.share_of(num_strips, 1);
  for (int64_t i = own.first; i < own.last; ++i) shared.begin(task, rows.first, i);
  for (int64_t first = 0; first < task.head.rows; first += SEGMENT) {
    const HeadSegment segment = shared.segment(task, first);
    pack_segment(task.head, segment, is_needed(task.dhidden), team);
    team.wait();
    for (int64_t i = own.first; i < own.last; ++i) {
      add_segment(task, segment, shared.strip(task, rows.first, i), scratch);
    }
    team.wait();
  }
  for (int64_t i = own.first; i < own.last; ++i) {
    finish_strip(task, shared.strip(task, rows.first, i), shared.head_sums, shared.losses);
  }
}

inline void linear_cross_entropy(const CrossEntropyTask& task, int num_threads) {
  const int64_t m = task.hidden.rows, v = task.head.rows, k = task.head.columns;
  const int threads = threads_for_product(m, v, k, num_threads);
  const int64_t rows_each = rows_per_pass(m, k);
  const int64_t pass_size = Workspace::padded(rows_each * k);
  const int64_t segment_size = Workspace::padded(SEGMENT * k);
  const int64_t strip_size = Workspace::padded(Strip::size(SEGMENT, TILE_COLUMNS));
  const auto floats = [](int64_t count, size_t bytes) {
    return Workspace::padded(count * static_cast<int64_t>(bytes / sizeof(float)));
  };
  const int64_t states_size = floats(rows_each / TILE_COLUMNS, sizeof(SoftmaxState));
  const int64_t head_sums_size = floats(k, sizeof(double)), losses_size = floats(m, sizeof(double));
  Workspace workspace(2 * pass_size + 3 * segment_size + states_size + head_sums_size +
                      losses_size + threads * strip_size);
  const LossScratch shared{workspace.take(pass_size),
                           workspace.take(pass_size),
                           workspace.take(segment_size),
                           workspace.take(segment_size),
                           workspace.take(segment_size),
                           reinterpret_cast<SoftmaxState*>(workspace.take(states_size)),
                           reinterpret_cast<double*>(workspace.take(head_sums_size)),
                           reinterpret_cast<double*>(workspace.take(losses_size))};
  float* strips = workspace.take(threads * strip_size);
  parallel(threads, [&](const Team& team) {
    float* const scratch = strips + team.thread * strip_size;
    if (is_needed(task.dhidden) && task.label_smoothing > 0) {
      const Range columns = team.share_of(k, TILE_COLUMNS);
      std::fill(shared.head_sums + columns.first, shared.head_sums + columns.last, 0.0);
      add_column_sums(DenseRows{task.head}, {}, v, columns, shared.head_sums);
      team.wait();
    }
    for (int64_t first = 0; first < m; first += rows_each) {
      pass(task, {first, std::min(first + rows_each, m)}, shared, scratch, team);
    }
  });
  double loss = 0;
  for (int64_t row = 0; row < m; ++row) loss += shared.losses[row];
  *task.loss = static_cast<float>(loss);
}
