// For instruction sets that do not transpose rows in registers: tiles are packed element by
// element.

template <class Element>
inline bool pack_whole_tile(const Element*, int64_t, int64_t, bool, float*) {
  return false;
}
