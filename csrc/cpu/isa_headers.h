// The headers that the bodies need, for inclusion above a target pragma.
#pragma once

#include <cfloat>
#include <algorithm>
#include <atomic>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <numeric>
#include <span>
#include <type_traits>
#include <vector>

#include "../common/state_codec.h"
#include "../common/views.h"
#include "code_blocks.h"
#include "kernels.h"
#include "parallel.h"
#include "workspace.h"
