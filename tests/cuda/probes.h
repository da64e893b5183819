#pragma once

#include <cstdint>
#include <map>
#include <string>

// Runs the kernel of this name over 257 integers, a block of 256 threads.
void probe(const std::string& name, uintptr_t address);

// Runs thread blocks that wait for each other over 257 integers.
void probe_grid(unsigned blocks, bool is_cooperative, uintptr_t address);
