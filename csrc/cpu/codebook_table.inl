// The values of four vectors of consecutive codes.
struct CodebookTable {
  Table16 table;

  explicit CodebookTable(const float* values) : table(values) {}

  void operator()(const uint8_t* codes, Floats (&values)[4]) const {
    for (int i = 0; i < 4; ++i) values[i] = table[consecutive_nibbles(codes + i * LANES / 2)];
  }
};
