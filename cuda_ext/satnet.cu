// SATNet on the GPU: one block solves one sample from start to end, forward (`mixing`) and backward (`adjoint`).
//
// The algorithms are those of difflayers/satnet/kernels.py in their Gram form, and so are the names. In short: coordinates
// are updated one after the other, each seeing those before it. For a tile of TILE consecutive free coordinates, the sum
// over the coordinates outside the tile is a small matrix product, whose inner dimension is shared out among warps
// (`tile_product`). What the coordinates of a tile do to each other is then worked out by one warp, whose lanes are the
// columns of the vectors.
//
// Both go on at the same time: while warp 0 works out tile i, the others multiply for tile i + 1 all that does not depend
// on tile i (`multiply`). Then all warps add this up, and what tile i contributes to tile i + 1 (`add_parts`, `add_cross`),
// and so on: two barriers a tile.
//
// C = S S' is read through the lists of free and fixed coordinates, so no block of it is gathered: C is symmetric, and
// row j of C, at the columns of a tile, is a run of memory. COLUMNS is k, padded with zeros; it, TILE (8, 16 or 32) and
// whether tensor cores multiply (TENSOR) are chosen in difflayers/satnet/cuda.py. Rows of vectors are padded with zeros to a
// multiple of DEPTH.
//
// Sums are in SCALAR; the few scalars that decide (objective, decreases, residuals) are double.

#include "common.cuh"
#include "state.cuh"

constexpr double PI = 3.14159265358979323846;
constexpr double LEAST_REFERENCE = 0.5;                            // of oracle.py
constexpr double LEAST_HELD = sizeof(T) == 4 ? 0x1p-46 : 0x1p-104;  // of kernels.py
constexpr int K = COLUMNS;
constexpr int STRIPS = (K + 63) / 64;  // columns are multiplied in strips of at most 64
constexpr int STRIP = K / STRIPS;
constexpr int COLUMNS_OF_LANE = (K + LANES - 1) / LANES;           // in the sequential part
constexpr int TILE_ROWS = TILE / 8, TILE_COLUMNS = STRIP / 4;      // a lane's share of a product: 8 x 4 lanes
constexpr int DEPTH = 8;                                           // rows of C staged at a time
constexpr int LOADS = DEPTH * TILE / LANES;
constexpr int HELPERS = WARPS - 1;                                 // warps that multiply
constexpr int PARTS = HELPERS / STRIPS > 2 ? HELPERS / STRIPS : 2; // of the inner dimension of a product
constexpr int UNITS = PARTS * STRIPS;                              // of work, and of memory for it
static_assert(K % (16 * STRIPS) == 0, "strips are whole groups of 16 columns");
static_assert(TILE % 8 == 0 && LANES % TILE == 0, "lanes load and multiply whole tiles");
static_assert(!TENSOR || (STRIP % 32 == 0 && TILE % 16 == 0 && sizeof(T) == 4), "what the tensor cores' layouts need");
static_assert(STRIP >= 2 * DEPTH, "a warp's share of the product leaves room for two stages");
static_assert(WARPS >= 2, "one warp for the sequential part, others for the products");

// A block's shared memory. Where it is, the compiler knows: functions make their own.
struct Room {
    double* sums;   // WARPS
    int* counts;    // 4
    T* partial;     // UNITS x TILE x STRIP: a unit's staging area, then its share of the product
    T* low;         // TILE x K: sums over the coordinates that are already new; then their share of the objective
    T* high;        // TILE x K: over those that are not, or the right-hand side; then the decrease
    T* pull;        // TILE x K: of the next tile, the pull of the fixed coordinates, or the right-hand side
    T* along;       // 2 x TILE x K: the vectors of this tile and the next, backward
    T* coupling;    // 2 x TILE x TILE: C inside this tile and the next; entry r, d is that between the coordinate that is
                    // updated r-th and the d-th after
    T* cross;       // TILE x TILE: C between the next tile and this
    T* scale;       // 2 x TILE: D^-1/2 of this tile and the next, backward
    T* x;           // as many rows of K as fit
};

__device__ inline Room make_room() {
    SHARED_MEMORY(memory);
    Room room;
    room.sums = reinterpret_cast<double*>(memory);
    room.counts = reinterpret_cast<int*>(room.sums + (WARPS + 1) / 2 * 2);
    room.partial = reinterpret_cast<T*>(room.counts + 4);
    room.low = room.partial + UNITS * TILE * STRIP;
    room.high = room.low + TILE * K;
    room.pull = room.high + TILE * K;
    room.along = room.pull + TILE * K;
    room.coupling = room.along + 2 * TILE * K;
    room.cross = room.coupling + 2 * TILE * TILE;
    room.scale = room.cross + TILE * TILE;
    room.x = room.scale + 2 * TILE;
    return room;
}

// Lists the free and the fixed rows of a sample (row 0, the truth direction, is fixed), in their order.
__device__ inline void split(const bool* given, int n, int N, int* free, int* fixed, int* counts) {
    if (warp_number() == 0) {
        int n_free = 0, n_fixed = 0;
        const unsigned before = (1u << lane_number()) - 1;
        for (int base = 0; base < N; base += LANES) {
            const int i = base + lane_number();
            const bool is_fixed = i < N && (i == 0 || (i <= n && given[i - 1]));
            const bool is_free = i < N && !is_fixed;
            const unsigned free_lanes = __ballot_sync(ALL, is_free), fixed_lanes = __ballot_sync(ALL, is_fixed);
            if (is_free) free[n_free + __popc(free_lanes & before)] = i;
            if (is_fixed) fixed[n_fixed + __popc(fixed_lanes & before)] = i;
            n_free += __popc(free_lanes);
            n_fixed += __popc(fixed_lanes);
        }
        if (lane_number() == 0) counts[0] = n_free, counts[1] = n_fixed;
    }
    __syncthreads();
}

// Where column c of row j of x is, among K. Where tensor cores multiply, groups of four columns change places from row to
// row, so that what the lanes of a quarter of a warp read at once lies in different banks.
__device__ inline int swizzled(int j, int c) { return TENSOR ? c ^ (8 * (j % 4)) : c; }

__device__ inline int padded(int rows) { return (rows + DEPTH - 1) / DEPTH * DEPTH; }

// Zeros in the rows after the last.
__device__ inline void pad(T* x, int rows) {
    for (int e = rows * K + threadIdx.x; e < padded(rows) * K; e += THREADS) x[e] = 0;
}

// A tile: the coordinates rows[t] .. rows[t + height - 1].
struct Tile {
    const int* rows;
    int t, height;
};

__device__ inline Tile make_tile(const int* rows, int t, int n_rows) {
    return {rows, t, smaller(TILE, n_rows - t)};
}

// A share of a tile's product: partial[unit][r, c] = sum over begin <= j < end of C[others[j], rows[t + r]] x[j, c].
// `above`: only over j > t + r. Columns are those of one strip. `begin` is a multiple of DEPTH, and so is `end` unless it is
// the number of rows of x. Rows r that the tile does not have get the values of another, which nobody uses.
#if TENSOR
// On tensor cores, each number in two parts of 11 bits, big + small, and three products of these: as precise as float, but
// for what small x small would add, 2^-22 of a product. C comes straight from global memory, in the layout of `multiply_add`:
// a lane has rows lane / 4 + 8 i of the tile, and of every eight j the two that are lane % 4 modulo 4. Columns go to products
// of eight, in turn, so that a lane reads four of them at once.
template <bool IN_SHARED>
__device__ __noinline__ void tile_product(
    const T* C, int N, const int* others, int begin, int end, Tile tile, bool above, const T* x, int strip, int unit
) {
    constexpr int GROUPS = TILE / 8;
    const Room room = make_room();
    const int lane = lane_number(), group = lane / 4, member = lane % 4;
    const unsigned char* const entries = reinterpret_cast<const unsigned char*>(C);
    const unsigned pitch = N * sizeof(T);
    unsigned columns[GROUPS];  // bytes from the start of a row of C
#pragma unroll
    for (int i = 0; i < GROUPS; ++i) {
        const int r = 8 * i + group;
        columns[i] = tile.rows[tile.t + (r < tile.height ? r : 0)] * sizeof(T);
    }
    T sum[TILE / 16][STRIP / 8][4], next[2][GROUPS];
    unsigned row[2];
#pragma unroll
    for (int i = 0; i < TILE / 16; ++i)
#pragma unroll
        for (int c = 0; c < STRIP / 8; ++c)
#pragma unroll
            for (int d = 0; d < 4; ++d) sum[i][c][d] = 0;
    auto list = [&](int from) {
#pragma unroll
        for (int h = 0; h < 2; ++h) row[h] = others[smaller(from + member + 4 * h, end - 1)] * pitch;
    };
    auto fetch = [&](int from) {
        const bool all = from + DEPTH <= end && !(above && from < tile.t + TILE);
        if (all) {
#pragma unroll
            for (int h = 0; h < 2; ++h)
#pragma unroll
                for (int i = 0; i < GROUPS; ++i) next[h][i] = *reinterpret_cast<const T*>(entries + (row[h] + columns[i]));
        } else {
#pragma unroll
            for (int h = 0; h < 2; ++h)
#pragma unroll
                for (int i = 0; i < GROUPS; ++i) {
                    const int j = from + member + 4 * h;
                    const bool wanted = j < end && (!above || j > tile.t + 8 * i + group);
                    next[h][i] = wanted ? *reinterpret_cast<const T*>(entries + (row[h] + columns[i])) : T(0);
                }
        }
    };
    if (begin < end) {
        list(begin);
        fetch(begin);
        list(begin + DEPTH);
    }
#pragma unroll 1
    for (int j = begin; j < end; j += DEPTH) {
        Parts C_parts[2][GROUPS];
#pragma unroll
        for (int h = 0; h < 2; ++h)
#pragma unroll
            for (int i = 0; i < GROUPS; ++i) C_parts[h][i] = in_parts(next[h][i]);
        fetch(j + DEPTH);
        list(j + 2 * DEPTH);
        const T* const vectors = (IN_SHARED ? room.x : x) + (j + member) * K + swizzled(member, strip * STRIP + 4 * group);
#pragma unroll
        for (int s = 0; s < STRIP / 32; ++s) {
            T upper[4], lower[4];
            load4(vectors + 32 * s, upper);
            load4(vectors + 4 * K + 32 * s, lower);
#pragma unroll
            for (int c = 0; c < 4; ++c) {
                const Parts first = in_parts(upper[c]), second = in_parts(lower[c]);
#pragma unroll
                for (int i = 0; i < TILE / 16; ++i) {
                    T(&d)[4] = sum[i][4 * s + c];
                    const Parts(&a)[GROUPS] = C_parts[0];
                    const Parts(&b)[GROUPS] = C_parts[1];
                    multiply_add(d, a[2 * i].small, a[2 * i + 1].small, b[2 * i].small, b[2 * i + 1].small, first.big, second.big);
                    multiply_add(d, a[2 * i].big, a[2 * i + 1].big, b[2 * i].big, b[2 * i + 1].big, first.small, second.small);
                    multiply_add(d, a[2 * i].big, a[2 * i + 1].big, b[2 * i].big, b[2 * i + 1].big, first.big, second.big);
                }
            }
        }
    }
    // of product c the lane has columns 2 member and 2 member + 1, which are 4 (2 member) + c and the fourth after that
#pragma unroll
    for (int i = 0; i < TILE / 16; ++i)
#pragma unroll
        for (int s = 0; s < STRIP / 32; ++s)
#pragma unroll
            for (int d = 0; d < 4; ++d) {
                const T run[4] = {sum[i][4 * s][d], sum[i][4 * s + 1][d], sum[i][4 * s + 2][d], sum[i][4 * s + 3][d]};
                const int r = 16 * i + group + 8 * (d / 2), c = 32 * s + 4 * (2 * member + d % 2);
                store4(room.partial + (unit * TILE + r) * STRIP + c, run);
            }
}
#else
// A lane has TILE_ROWS x TILE_COLUMNS of the sums.
template <bool IN_SHARED>
__device__ __noinline__ void tile_product(
    const T* C, int N, const int* others, int begin, int end, Tile tile, bool above, const T* x, int strip, int unit
) {
    const Room room = make_room();
    T* const mine = room.partial + unit * TILE * STRIP;
    const int lane = lane_number(), r = lane % TILE, first = lane / TILE, group = lane / 4, offset = 4 * (lane % 4);
    // bytes
    const unsigned pitch = N * sizeof(T), column = tile.rows[tile.t + (r < tile.height ? r : 0)] * sizeof(T);
    const unsigned char* const entries = reinterpret_cast<const unsigned char*>(C);
    T sum[TILE_ROWS][TILE_COLUMNS], next[LOADS];
    int row[LOADS];
#pragma unroll
    for (int i = 0; i < TILE_ROWS; ++i)
#pragma unroll
        for (int c = 0; c < TILE_COLUMNS; ++c) sum[i][c] = 0;
    auto list = [&](int from) {
#pragma unroll
        for (int i = 0; i < LOADS; ++i) row[i] = others[smaller(from + first + i * (LANES / TILE), end - 1)];
    };
    auto fetch = [&](int from) {
        const bool all = from + DEPTH <= end && !(above && from < tile.t + TILE);
        if (all) {
#pragma unroll
            for (int i = 0; i < LOADS; ++i) next[i] = *reinterpret_cast<const T*>(entries + (row[i] * pitch + column));
        } else {
#pragma unroll
            for (int i = 0; i < LOADS; ++i) {
                const int j = from + first + i * (LANES / TILE);
                const bool wanted = j < end && (!above || j > tile.t + r);
                next[i] = wanted ? *reinterpret_cast<const T*>(entries + (row[i] * pitch + column)) : T(0);
            }
        }
    };
    if (begin < end) {
        list(begin);
        fetch(begin);
        list(begin + DEPTH);
    }
    int place = 0;
#pragma unroll 1
    for (int j = begin; j < end; j += DEPTH) {
        T* const stage = mine + place;
        place = DEPTH * TILE - place;
#pragma unroll
        for (int i = 0; i < LOADS; ++i) stage[(first + i * (LANES / TILE)) * TILE + r] = next[i];
        __syncwarp();
        fetch(j + DEPTH);
        list(j + 2 * DEPTH);
        const T* const vectors = (IN_SHARED ? room.x : x) + j * K + strip * STRIP + offset;
#pragma unroll
        for (int d = 0; d < DEPTH; ++d) {
            T value[TILE_COLUMNS], factor[TILE_ROWS];
#pragma unroll
            for (int c = 0; c < TILE_COLUMNS; c += 4) load4(vectors + d * K + 4 * c, value + c);
            load_run(stage + d * TILE + group * TILE_ROWS, factor);
#pragma unroll
            for (int i = 0; i < TILE_ROWS; ++i)
#pragma unroll
                for (int c = 0; c < TILE_COLUMNS; ++c) sum[i][c] += factor[i] * value[c];
        }
    }
    __syncwarp();
#pragma unroll
    for (int i = 0; i < TILE_ROWS; ++i)
#pragma unroll
        for (int c = 0; c < TILE_COLUMNS; c += 4)
            store4(mine + (group * TILE_ROWS + i) * STRIP + 4 * c + offset, sum[i] + c);
}
#endif

// Part `part` of `parts` of the rows begin .. end - 1, in whole stages.
__device__ inline int part_of(int begin, int end, int part, int parts) {
    const long long stages = (end - begin + DEPTH - 1) / DEPTH;
    return smaller(end, begin + DEPTH * static_cast<int>(stages * part / parts));
}

// The parts of a tile's product, by the helpers: parts below `split` over rows 0 .. below - 1, the others over above .. end - 1.
template <bool IN_SHARED>
__device__ inline void multiply(
    const T* C, int N, const int* others, int below, int above, int end, int split, Tile tile, bool masked, const T* x, int w
) {
    for (int unit = w - 1; unit < UNITS; unit += HELPERS) {
        const int strip = unit % STRIPS, part = unit / STRIPS;
        const bool is_above = part >= split;
        const int from = is_above ? above : 0, to = is_above ? end : below;
        const int number = is_above ? part - split : part, parts = is_above ? PARTS - split : split;
        tile_product<IN_SHARED>(
            C, N, others, part_of(from, to, number, parts), part_of(from, to, number + 1, parts), tile,
            masked && is_above, x, strip, unit
        );
    }
}

// The sums of what parts 0 .. split - 1 have of entry r, c of a tile's product, and of what the others have.
struct Sums {
    T low, high;
};

__device__ inline Sums add_parts(const Room& room, int split, int r, int c) {
    Sums sums = {0, 0};
#pragma unroll
    for (int part = 0; part < PARTS; ++part) {
        const T value = room.partial[((part * STRIPS + c / STRIP) * TILE + r) * STRIP + c % STRIP];
        (part < split ? sums.low : sums.high) += value;
    }
    return sums;
}

// Copies to shared memory that arrive while the helpers multiply, and are there after `arrived` and a barrier.
__device__ inline void copy(T* to, const T* from) {
#if defined(HOST_SHIM) || __CUDA_ARCH__ < 800
    *to = *from;
#else
    const unsigned address = static_cast<unsigned>(__cvta_generic_to_shared(to));
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2;" ::"r"(address), "l"(from), "n"(sizeof(T)) : "memory");
#endif
}

__device__ inline void arrived() {
#if !defined(HOST_SHIM) && __CUDA_ARCH__ >= 800
    asm volatile("cp.async.wait_all;" ::: "memory");
#endif
}

// C inside the tile, and between it and the one before, by the helpers. Coordinates are updated upwards, or (`UPPER`) from
// the last of the tile down.
template <bool UPPER>
__device__ inline void load_couplings(const T* C, int N, Tile tile, Tile last, int parity) {
    const Room room = make_room();
    T* const coupling = room.coupling + parity * TILE * TILE;
    const int lane = lane_number(), q = lane % TILE;
    // a lane has one row of each tile, for all
    const int own = tile.rows[tile.t + smaller(q, tile.height - 1)];
    const int own_last = last.height > 0 ? last.rows[last.t + smaller(q, last.height - 1)] : 0;
    for (int e = threadIdx.x - LANES; e < TILE * TILE; e += THREADS - LANES) {
        const int turn = e / TILE, other = turn + 1 + q;
        const int r = UPPER ? tile.height - 1 - turn : turn, behind = UPPER ? tile.height - 1 - other : other;
        const int row = __shfl_sync(ALL, own, larger(r, 0)), column = __shfl_sync(ALL, own, larger(smaller(behind, LANES - 1), 0));
        const int cross_row = __shfl_sync(ALL, own, turn);
        if (other < tile.height)
            copy(coupling + e, C + (row * N + column));
        else
            coupling[e] = 0;
        if (turn < tile.height && q < last.height)
            copy(room.cross + e, C + (cross_row * N + own_last));
        else
            room.cross[e] = 0;
    }
}

// What the tile before contributes to entry r, c of this one.
template <bool IN_SHARED>
__device__ inline T add_cross(const Room& room, const T* x, Tile last, int r, int c) {
    const T* const rows = (IN_SHARED ? room.x : x) + last.t * K;
    T total = 0;
    const auto add = [&](int q) {
        T factor[4];
        load4(room.cross + r * TILE + q, factor);
#pragma unroll
        for (int i = 0; i < 4; ++i) total += factor[i] * rows[(q + i) * K + swizzled(i, c)];
    };
    if (last.height == TILE) {
#pragma unroll
        for (int q = 0; q < TILE; q += 4) add(q);
    } else {
        for (int q = 0; q < last.height; q += 4) add(q);  // rows are padded
    }
    return total;
}

// The sums of a tile's coordinates in registers, that of the coordinate whose turn it is in front: a lane has columns
// lane, lane + 32, ... of each. What the last coordinate does to those behind the front is put off, so that it fills the
// time in which the front waits for its reduction; what is read from shared memory is read a turn before it is needed.
struct Waiting {
    T sum[TILE + 1][COLUMNS_OF_LANE], last[COLUMNS_OF_LANE], factors[TILE], next_factor;

    template <bool UPPER>
    __device__ inline void load(const T* low, const T* coupling, int height) {
#pragma unroll
        for (int turn = 0; turn < TILE; ++turn) {
            factors[turn] = 0;
#pragma unroll
            for (int p = 0; p < COLUMNS_OF_LANE; ++p) {
                const int c = lane_number() + p * LANES, r = UPPER ? height - 1 - turn : turn;
                sum[turn + 1][p] = c < K && turn < height ? low[r * K + c] : T(0);
            }
        }
#pragma unroll
        for (int p = 0; p < COLUMNS_OF_LANE; ++p) last[p] = 0;
        next_factor = coupling[0];
    }

    __device__ inline T front(int p) const { return sum[1][p] + factors[0] * last[p]; }

    // The sum of all lanes' values; meanwhile those behind move up by one, and `row` of the coupling, that of the front, is
    // read.
    __device__ inline T reduce(T value, const T* row, const T* next_row) {
        constexpr int STEPS = 5;
#pragma unroll
        for (int step = 0; step < STEPS; ++step) {
            const T other = __shfl_xor_sync(ALL, value, LANES >> (step + 1));
#pragma unroll
            for (int d = 1 + step * (TILE - 1) / STEPS; d < 1 + (step + 1) * (TILE - 1) / STEPS; ++d)
#pragma unroll
                for (int p = 0; p < COLUMNS_OF_LANE; ++p) sum[d][p] = sum[d + 1][p] + factors[d] * last[p];
            value += other;
        }
        factors[0] = next_factor;
        next_factor = *next_row;
        T first[4];
        load4(row, first);
#pragma unroll
        for (int d = 1; d < 4; ++d) factors[d] = first[d];
#pragma unroll
        for (int d = 4; d < TILE; d += 4) load4(row + d, factors + d);
        return value;
    }

    // `now` is what the front has become.
    __device__ inline void advance(const T (&now)[COLUMNS_OF_LANE]) {
#pragma unroll
        for (int p = 0; p < COLUMNS_OF_LANE; ++p) last[p] = now[p];
    }
};

// A lane's columns of a row, and of the row whose turn comes next, loaded before it is needed.
struct Ahead {
    T here[COLUMNS_OF_LANE], next[COLUMNS_OF_LANE];

    template <bool OF_X>
    __device__ static inline void load(const T* rows, int r, T (&to)[COLUMNS_OF_LANE]) {
#pragma unroll
        for (int p = 0; p < COLUMNS_OF_LANE; ++p) {
            const int c = lane_number() + p * LANES;
            to[p] = c < K ? rows[r * K + (OF_X ? swizzled(r, c) : c)] : T(0);
        }
    }

    template <bool OF_X = false>
    __device__ inline void start(const T* rows, int r, int next_r) {
        load<OF_X>(rows, r, here);
        load<OF_X>(rows, next_r, next);
    }

    template <bool OF_X = false>
    __device__ inline void advance(const T* rows, int r) {
#pragma unroll
        for (int p = 0; p < COLUMNS_OF_LANE; ++p) here[p] = next[p];
        load<OF_X>(rows, r, next);
    }
};

// The coordinates of a tile, one after the other, v_i = -g_i / |g_i|, by one warp. Leaves in low and high the terms of the
// objective and of its decrease.
template <bool IN_SHARED>
__device__ __noinline__ void update(Tile tile, int parity, T* x, T* norms) {
    const Room room = make_room();
    const T* const coupling = room.coupling + parity * TILE * TILE;
    T* const own = (IN_SHARED ? room.x : x) + tile.t * K;
    const int lane = lane_number();
    Waiting waiting;
    waiting.load<false>(room.low, coupling, tile.height);
    Ahead high, old;
    high.start(room.high, 0, 1);
    old.start<true>(own, 0, smaller(1, tile.height - 1));
#pragma unroll 1
    for (int r = 0; r < tile.height; ++r) {
        T front[COLUMNS_OF_LANE], g[COLUMNS_OF_LANE], now[COLUMNS_OF_LANE], square = 0;
#pragma unroll
        for (int p = 0; p < COLUMNS_OF_LANE; ++p) {
            front[p] = waiting.front(p);
            g[p] = front[p] + high.here[p];
            square += g[p] * g[p];
        }
        square = waiting.reduce(square, coupling + r * TILE, coupling + smaller(r + 1, TILE - 1) * TILE);
        const bool pulled = square > 0;  // what nothing pulls at stays where it is
        const T inverse = inverse_root(square), root = square_root(square, inverse), norm = pulled ? root : T(0);
#pragma unroll
        for (int p = 0; p < COLUMNS_OF_LANE; ++p) {
            const int c = lane + p * LANES;
            now[p] = pulled ? quotient(-g[p], root, inverse) : old.here[p];
            const T moved = now[p] - old.here[p];
            if (c < K) {
                own[r * K + swizzled(r, c)] = now[p];
                room.low[r * K + c] = front[p] * now[p];
                room.high[r * K + c] = norm * (moved * moved);
            }
        }
        if (lane == 0) norms[tile.t + r] = norm;
        waiting.advance(now);
        high.advance(room.high, smaller(r + 2, TILE - 1));
        old.advance<true>(own, smaller(r + 2, tile.height - 1));
    }
}

// One Gauss-Seidel sweep v_i = -g_i / |g_i| over the free coordinates, the rows of x.
//
// Gives the decrease of the objective, right if x came in with rows of length 1, and the objective after the sweep up to a
// constant, f = 2 sum_i x_i . (constant_i + sum_{j < i} C_ij x_j) + const: `low` is the part of g_i that this needs.
template <bool IN_SHARED>
__device__ __noinline__ void sweep(
    const T* C, int N, const int* free, int n_free, const T* constant, T* x, T* norms, double* decrease, double* objective
) {
    const Room room = make_room();
    const int w = uniform_warp_number();
    double lowered = 0, reached = 0;
    Tile tile = {free, 0, 0};  // there is none yet
    for (int t = 0, parity = 0;; t += TILE, parity ^= 1) {
        const bool more = t < n_free;
        const Tile next = make_tile(free, t, n_free);
        // of the parts, those that multiply the coordinates that are new
        const int parts = tile.t == 0 ? 0 : larger(1, smaller(PARTS - 1, (PARTS * t + n_free / 2) / n_free));
        if (w == 0) {
            if (tile.height > 0) update<IN_SHARED>(tile, parity ^ 1, x, norms);
        } else if (more) {
            load_couplings<false>(C, N, next, tile, parity);
            for (int e = threadIdx.x - LANES; e < next.height * K; e += THREADS - LANES)
                copy(room.pull + e, constant + t * K + e);
            multiply<IN_SHARED>(C, N, free, tile.t, t, n_free, parts, next, true, x, w);
            arrived();
        }
        __syncthreads();
#pragma unroll 2
        for (int e = threadIdx.x; e < TILE * K; e += THREADS) {
            if (tile.height > 0) lowered += room.high[e], reached += room.low[e];
            if (!more) continue;
            const int r = e / K, c = e % K;
            T low = 0, high = 0;
            if (r < next.height) {
                const Sums sums = add_parts(room, parts, r, c);
                low = room.pull[e] + sums.low + add_cross<IN_SHARED>(room, x, tile, r, c);
                high = sums.high;
            }
            room.low[e] = low, room.high[e] = high;
        }
        if (!more) break;
        __syncthreads();
        tile = next;
    }
    *decrease = block_sum(lowered, room.sums);
    *objective = 2 * block_sum(reached, room.sums);
}

// The vector of row i before any sweep, `oracle.relax_inputs`, written to V by one warp. Sine and cosine are exact at
// z = 0, 1/2 and 1.
__device__ inline void place(const T* start, bool is_free, double z, int k, T* V) {
    const int lane = lane_number();
    if (is_free) {
        for (int c = lane; c < k; c += LANES) V[c] = start[c];
        return;
    }
    double square = 0;
    for (int c = lane; c < k; c += LANES) square += c > 0 ? double(start[c]) * double(start[c]) : 0.0;
    square = warp_sum(square);
    const double sine = sin(PI * (z <= 0.5 ? z : 1 - z)), cosine = sin(PI * (0.5 - z));
    const double share = sine > 0 && square > 0 ? sine / sqrt(square) : 0.0;
    for (int c = lane; c < k; c += LANES) V[c] = c == 0 ? T(-cosine) : T(share * start[c]);
}

// constant[f] = sum over `count` fixed coordinates of C_fj x_j, for all free f, added to what is there unless `first`.
template <bool IN_SHARED>
__device__ __noinline__ void pull(
    const T* C, int N, const int* fixed, int count, const int* free, int n_free, const T* x, bool first, T* constant
) {
    const Room room = make_room();
    const int w = uniform_warp_number();
    for (int t = 0; t < n_free; t += TILE) {
        const Tile tile = make_tile(free, t, n_free);
        if (w > 0) multiply<IN_SHARED>(C, N, fixed, count, 0, 0, PARTS, tile, false, x, w);
        __syncthreads();
        for (int e = threadIdx.x; e < tile.height * K; e += THREADS) {
            T* const at = constant + t * K + e;
            *at = (first ? T(0) : *at) + add_parts(room, PARTS, e / K, e % K).low;
        }
        __syncthreads();
    }
}

// The forward pass of a batch, `op.mixing`, for S divided by its scaling.
//
// Reads C (N, N), start (batch or 1, N, k), a sample's `own_rows` rows after the last one's (0: all share one), z and
// given (batch, n). Fills out (batch, n), V (batch, N, k), norms (batch, N) with the last |g_i|, sweeps (batch) and
// decreases (batch), the last sweep's over the reference of `oracle.mixing`. A block has 3 rows K + rows numbers of
// `workspace` and 2 N of `lists`. `rows` is N, rounded up to a multiple of DEPTH; rows K is below 2^31, and the bytes of C
// are fewer than 2^32. Samples of up to `capacity` free coordinates have their vectors in shared memory, others in global
// memory.
extern "C" __global__ void __launch_bounds__(THREADS) mixing(
    const T* C, const T* start, const T* z, const bool* given, long long* state, T* workspace, int* lists, T* out, T* V,
    T* norms, long long* sweeps, double* decreases, int batch, int N, int n, int k, int own_rows, int rows, int capacity,
    int max_iter, double eps, double momentum
) {
    const Room room = make_room();
    const long long size = static_cast<long long>(rows) * K;
    T* const own = workspace + blockIdx.x * (3 * size + rows);
    T* const constant = own;
    T* const previous = own + size;
    T* const norm = own + 3 * size;
    int* const free = lists + blockIdx.x * (2ll * N);
    int* const fixed = free + N;
    double trace = 0, lengths = 0;  // |S|^2 and sum_i |s_i|
    for (int i = threadIdx.x; i < N; i += THREADS) {
        const double square = double(C[static_cast<long long>(i) * N + i]);
        trace += square, lengths += sqrt(square);
    }
    trace = block_sum(trace, room.sums), lengths = block_sum(lengths, room.sums);
    const double unit = (sizeof(T) == 4 ? 0x1p-24 : 0x1p-53) * sqrt(trace);
#pragma unroll 1
    while (true) {
        const int b = next_problem(ticket_of(state), room.counts + 3);
        if (b >= batch) break;
        const bool* is_given = given + static_cast<long long>(b) * n;
        const T* inputs = z + static_cast<long long>(b) * n;
        const T* const first_vectors = start + static_cast<long long>(b) * own_rows * k;
        T* const vectors = V + static_cast<long long>(b) * N * k;
        split(is_given, n, N, free, fixed, room.counts);
        const int n_free = room.counts[0], n_fixed = room.counts[1];
        const bool in_shared = n_free <= capacity;
        T* const x = in_shared ? room.x : own + 2 * size;
        const int holds = in_shared ? capacity : rows;
        for (int i = warp_number(); i < N; i += WARPS) {
            const bool is_fixed = i == 0 || (i <= n && is_given[i - 1]);
            const double value = i == 0 ? 1.0 : is_fixed ? double(inputs[i - 1]) : 0.0;
            place(first_vectors + static_cast<long long>(i) * k, !is_fixed, value < 0 ? 0 : value > 1 ? 1 : value, k,
                  vectors + static_cast<long long>(i) * k);
        }
        for (int i = threadIdx.x; i < N; i += THREADS) norms[static_cast<long long>(b) * N + i] = 0;
        __syncthreads();
        // the pull of the fixed vectors, as many at a time as x holds
        for (int from = 0; n_free > 0 && from < n_fixed; from += holds) {
            const int count = smaller(holds, n_fixed - from);
            for (int e = threadIdx.x; e < count * K; e += THREADS) {
                const int c = e % K;
                x[e - c + swizzled(e / K, c)] = c < k ? vectors[static_cast<long long>(fixed[from + e / K]) * k + c] : T(0);
            }
            pad(x, count);
            __syncthreads();
            if (in_shared)
                pull<true>(C, N, fixed + from, count, free, n_free, x, from == 0, constant);
            else
                pull<false>(C, N, fixed + from, count, free, n_free, x, from == 0, constant);
        }
        const int used = n_free * K;
        for (int e = threadIdx.x; e < used; e += THREADS) {
            const int c = swizzled(e / K, e % K);
            x[e] = previous[e] = c < k ? first_vectors[static_cast<long long>(free[e / K]) * k + c] : T(0);
        }
        pad(x, n_free);
        __syncthreads();
        double inertia = momentum, weight = 0, reference = 0, objective = 0, last = 0;
        int done = 0;
        while (n_free > 0 && done < max_iter) {
            double decrease, after;
            if (in_shared)
                sweep<true>(C, N, free, n_free, constant, x, norm, &decrease, &after);
            else
                sweep<false>(C, N, free, n_free, constant, x, norm, &decrease, &after);
            if (weight > 0) decrease = objective - after;
            ++done;
            if (done == 1) {
                for (int f = threadIdx.x; f < n_free; f += THREADS) reference += norm[f];
                reference = larger(LEAST_REFERENCE * block_sum(reference, room.sums), decrease);
            }
            if (weight > 0 && decrease <= 0) {  // overshot: back to the last point, and a plain sweep from there
                for (int e = threadIdx.x; e < used; e += THREADS) x[e] = previous[e];
                inertia /= 2, weight = 0;
                __syncthreads();
                continue;
            }
            for (int f = threadIdx.x; f < n_free; f += THREADS)
                norms[static_cast<long long>(b) * N + free[f]] = norm[f];
            objective = after;
            if (decrease <= unit * lengths) {  // `oracle.rounding`, which is never more than that
                double rounding = 0;
                for (int f = threadIdx.x; f < n_free; f += THREADS) {
                    const double error = unit * sqrt(double(C[static_cast<long long>(free[f]) * N + free[f]]));
                    if (error > 0 && norm[f] > 0) rounding += error * (error / larger(double(norm[f]), error));
                }
                if (decrease <= block_sum(rounding, room.sums)) decrease = 0;
            }
            last = reference > 0 ? decrease / reference : 0;
            if (decrease < eps * reference || decrease == 0) break;
            weight = inertia;
            if (done < max_iter) {
                const T factor = T(weight);
                for (int e = 4 * threadIdx.x; e < used; e += 4 * THREADS) {
                    T current[4], ahead[4];
                    load4(x + e, current), load4(previous + e, ahead);
#pragma unroll
                    for (int i = 0; i < 4; ++i) ahead[i] = current[i] + factor * (current[i] - ahead[i]);
                    store4(x + e, ahead), store4(previous + e, current);
                }
            }
            __syncthreads();
        }
        for (int e = threadIdx.x; e < used; e += THREADS) {
            const int c = swizzled(e / K, e % K);
            if (c < k) vectors[static_cast<long long>(free[e / K]) * k + c] = x[e];
        }
        if (threadIdx.x == 0) sweeps[b] = done, decreases[b] = last;
        __syncthreads();
        for (int base = warp_number() * LANES; base < n; base += THREADS) {  // a lane has one output of 32
            const int count = smaller(LANES, n - base);
            double sine = 0;
            for (int turn = 0; turn < count; ++turn) {
                if (is_given[base + turn]) continue;
                const T* v = vectors + static_cast<long long>(base + turn + 1) * k;
                double square = 0;
                for (int c = lane_number(); c < k; c += LANES) square += c > 0 ? double(v[c]) * double(v[c]) : 0.0;
                square = warp_sum(square);
                if (lane_number() == turn) sine = sqrt(square);
            }
            const int i = base + lane_number();
            if (i < n) {
                const double cosine = -double(vectors[static_cast<long long>(i + 1) * k]);
                out[static_cast<long long>(b) * n + i] = is_given[i] ? inputs[i] : T(atan2(sine, cosine) / PI);
            }
        }
    }
}

// The coordinates of a tile of a substitution, one after the other, by one warp.
template <bool UPPER, bool IN_SHARED>
__device__ __noinline__ void solve(Tile tile, int parity, T* y, T* out) {
    const Room room = make_room();
    const T* const coupling = room.coupling + parity * TILE * TILE;
    const T* const along = room.along + parity * TILE * K;
    const T* const scale = room.scale + parity * TILE;
    T* const own = (IN_SHARED ? room.x : y) + tile.t * K;
    const int lane = lane_number();
    Waiting waiting;
    waiting.load<UPPER>(room.low, coupling, tile.height);
    const auto row = [&](int turn) { return UPPER ? larger(tile.height - 1 - turn, 0) : smaller(turn, tile.height - 1); };
    Ahead high, normal;
    high.start(room.high, row(0), row(1));
    normal.start(along, row(0), row(1));
    T factor = scale[row(0)], next_factor = scale[row(1)];
#pragma unroll 1
    for (int turn = 0; turn < tile.height; ++turn) {
        T solved[COLUMNS_OF_LANE], now[COLUMNS_OF_LANE], dot = 0;
#pragma unroll
        for (int p = 0; p < COLUMNS_OF_LANE; ++p) {
            solved[p] = high.here[p] - factor * waiting.front(p);
            dot += solved[p] * normal.here[p];
        }
        dot = waiting.reduce(dot, coupling + turn * TILE, coupling + smaller(turn + 1, TILE - 1) * TILE);
#pragma unroll
        for (int p = 0; p < COLUMNS_OF_LANE; ++p) {
            const int c = lane + p * LANES;
            solved[p] -= dot * normal.here[p];
            now[p] = factor * solved[p];
            if (c < K) own[row(turn) * K + swizzled(row(turn), c)] = now[p], out[(tile.t + row(turn)) * K + c] = solved[p];
        }
        waiting.advance(now);
        high.advance(room.high, row(turn + 2));
        normal.advance(along, row(turn + 2));
        factor = next_factor, next_factor = scale[row(turn + 2)];
    }
}

// out = (I + L)^-1 x and y = D^-1/2 out, one substitution, where L is the part below (`UPPER`: above) the diagonal of
// P D^-1/2 C D^-1/2 P, with P_i = I - v_i v_i' and scale = D^-1/2. `out` may be x.
template <bool UPPER, bool IN_SHARED>
__device__ __noinline__ void substitute(
    const T* C, int N, const int* free, int n_free, const T* scale, const T* v, const T* x, T* y, T* out
) {
    const Room room = make_room();
    const int w = uniform_warp_number(), final = (n_free - 1) / TILE * TILE;
    Tile tile = {free, 0, 0};  // there is none yet
    for (int step = 0, parity = 0;; step += TILE, parity ^= 1) {
        const bool more = step < n_free;
        const Tile next = make_tile(free, UPPER ? final - step : step, n_free);
        if (w == 0) {
            if (tile.height > 0) solve<UPPER, IN_SHARED>(tile, parity ^ 1, y, out);
        } else if (more) {
            load_couplings<UPPER>(C, N, next, tile, parity);
            for (int e = threadIdx.x - LANES; e < TILE * K; e += THREADS - LANES) {
                const int at = next.t * K + e;
                T* const along = room.along + parity * TILE * K + e;
                if (e < next.height * K) {
                    copy(along, v + at);
                    copy(room.pull + e, x + at);
                    if (e < next.height) copy(room.scale + parity * TILE + e, scale + next.t + e);
                } else {
                    *along = room.pull[e] = 0;
                }
            }
            if (tile.height > 0) {
                const int solved = UPPER ? tile.t + tile.height : tile.t;  // those beyond the last tile, or below it
                multiply<IN_SHARED>(C, N, free, solved, solved, n_free, UPPER ? 0 : PARTS, next, false, y, w);
            }
            arrived();
        }
        __syncthreads();
        if (!more) break;
#pragma unroll 2
        for (int e = threadIdx.x; e < TILE * K; e += THREADS) {
            const int r = e / K, c = e % K;
            T low = 0;
            if (tile.height > 0) low = add_parts(room, PARTS, r, c).low + add_cross<IN_SHARED>(room, y, tile, r, c);
            room.low[e] = low, room.high[e] = room.pull[e];
        }
        __syncthreads();
        tile = next;
    }
}

// x = - D^-1/2 P pull, the right-hand side, for one free row, by one warp.
__device__ inline void right_side(const T* V, const T* pull, double scale, int k, T* x) {
    const int lane = lane_number();
    double along = 0;
    for (int c = lane; c < k; c += LANES) along += double(V[c]) * double(pull[c]);
    along = warp_sum(along);
    for (int c = lane; c < K; c += LANES)
        x[c] = c < k ? T(-scale * (double(pull[c]) - along * double(V[c]))) : T(0);
}

__device__ inline double square_of(const T (&x)[4]) {
    double total = 0;
#pragma unroll
    for (int i = 0; i < 4; ++i) total += double(x[i]) * double(x[i]);
    return total;
}

// The linear system of the backward pass, `op.adjoint`, by the preconditioned conjugate gradients of kernels.adjoint: the
// same right-hand side, preconditioner (a sweep forwards and a sweep backwards, in Eisenstat's arrangement), stopping rule
// and refusal of directions flatter than 1 / max_iter.
//
// Reads C (N, N) and norms of S divided by its scaling, V and pull (batch, N, k), given (batch, n). Fills
// U (batch, N, k), for S divided by its scaling, 0 in fixed rows, and iterations (batch). A block has 7 rows K + rows numbers
// of `workspace` and 2 N of `lists`.
extern "C" __global__ void __launch_bounds__(THREADS) adjoint(
    const T* C, const T* V, const T* norms, const bool* given, const T* pull, long long* state, T* workspace, int* lists,
    T* U, long long* iterations, int batch, int N, int n, int k, int rows, int capacity, int max_iter,
    double prox_lam, double tolerance
) {
    const Room room = make_room();
    const long long size = static_cast<long long>(rows) * K;
    T* const own = workspace + blockIdx.x * (7 * size + rows);
    T* const v = own;
    T* const u = own + size;
    T* const p = own + 2 * size;
    T* const q = own + 3 * size;
    T* const r = own + 4 * size;
    T* const s = own + 5 * size;
    T* const scale = own + 7 * size;
    int* const free = lists + blockIdx.x * (2ll * N);
    int* const fixed = free + N;
    const double unit = ldexp(1.0, exponent_of<T>(state)), damping = prox_lam / unit / unit;
#pragma unroll 1
    while (true) {
        const int b = next_problem(ticket_of(state), room.counts + 3);
        if (b >= batch) break;
        const long long sample = static_cast<long long>(b) * N;
        for (int e = threadIdx.x; e < N * k; e += THREADS) U[sample * k + e] = 0;
        split(given + static_cast<long long>(b) * n, n, N, free, fixed, room.counts);
        const int n_free = room.counts[0];
        const bool in_shared = n_free <= capacity;
        T* const y = in_shared ? room.x : own + 6 * size;
        const auto forwards = [&](const T* from, T* to) {
            if (in_shared)
                substitute<false, true>(C, N, free, n_free, scale, v, from, y, to);
            else
                substitute<false, false>(C, N, free, n_free, scale, v, from, y, to);
        };
        const auto backwards = [&](const T* from, T* to) {
            if (in_shared)
                substitute<true, true>(C, N, free, n_free, scale, v, from, y, to);
            else
                substitute<true, false>(C, N, free, n_free, scale, v, from, y, to);
        };
        int count = 0;
        const int used = n_free * K;
        if (n_free > 0) {
            for (int f = warp_number(); f < n_free; f += WARPS) {
                const int i = free[f];
                const T* vector = V + (sample + i) * k;
                const double held = double(norms[sample + i]) + damping;
                const T own_scale = held > LEAST_HELD ? T(1 / sqrt(held)) : T(0);
                if (lane_number() == 0) scale[f] = own_scale;
                for (int c = lane_number(); c < K; c += LANES) {
                    v[static_cast<long long>(f) * K + c] = c < k ? vector[c] : T(0);
                    u[static_cast<long long>(f) * K + c] = 0;
                }
                right_side(vector, pull + (sample + i) * k, own_scale, k, s + static_cast<long long>(f) * K);
            }
            pad(y, n_free);
            __syncthreads();
            // a power of two that brings the largest entry near 1: whatever the scale of the loss, squares neither vanish
            // nor overflow
            double largest = 0;
            for (int e = threadIdx.x; e < used; e += THREADS) largest = larger(largest, fabs(double(s[e])));
            largest = block_sum<true>(largest, room.sums);
            T size_of_loss = 1;
            if (largest > 0 && isfinite(largest)) {
                int exponent;
                frexp(largest, &exponent);
                const T power = T(ldexp(1.0, exponent));
                if (isfinite(power)) size_of_loss = power;
            }
            for (int e = threadIdx.x; e < used; e += THREADS) s[e] /= size_of_loss;
            __syncthreads();
            forwards(s, r);
            double residual = 0;
            for (int e = 4 * threadIdx.x; e < used; e += 4 * THREADS) {
                T old[4];
                load4(r + e, old);
                store4(p + e, old);
                residual += square_of(old);
            }
            residual = block_sum(residual, room.sums);
            double length = residual;
            const double target = tolerance * residual;
            while (residual > target && count < max_iter) {
                backwards(p, s);
                for (int e = 4 * threadIdx.x; e < used; e += 4 * THREADS) {
                    T direction[4], solved[4];
                    load4(p + e, direction), load4(s + e, solved);
#pragma unroll
                    for (int i = 0; i < 4; ++i) direction[i] -= solved[i];
                    store4(q + e, direction);
                }
                __syncthreads();
                forwards(q, q);
                double curvature = 0;
                for (int e = 4 * threadIdx.x; e < used; e += 4 * THREADS) {
                    T direction[4], solved[4], image[4];
                    load4(p + e, direction), load4(s + e, solved), load4(q + e, image);
#pragma unroll
                    for (int i = 0; i < 4; ++i) {
                        image[i] += solved[i];
                        curvature += double(direction[i]) * double(image[i]);
                    }
                    store4(q + e, image);
                }
                curvature = block_sum(curvature, room.sums);
                const bool flat = curvature * max_iter < length;  // flatter than max_iter sweeps could resolve
                if (flat && count > 0) break;
                // the first direction, if flat, is the sweep itself, as coordinate descent would do it
                const T alpha = flat ? T(1) : T(residual / curvature);
                double left = 0;
                for (int e = 4 * threadIdx.x; e < used; e += 4 * THREADS) {
                    const T own_scale = scale[e / K];
                    T solved[4], image[4], solution[4], rest[4];
                    load4(s + e, solved), load4(q + e, image), load4(u + e, solution), load4(r + e, rest);
#pragma unroll
                    for (int i = 0; i < 4; ++i) {
                        solution[i] += alpha * (own_scale * solved[i]);
                        rest[i] -= alpha * image[i];
                    }
                    store4(u + e, solution), store4(r + e, rest);
                    left += square_of(rest);
                }
                if (flat) break;
                left = block_sum(left, room.sums);
                const T beta = T(left / residual);
                length = 0;
                for (int e = 4 * threadIdx.x; e < used; e += 4 * THREADS) {
                    T direction[4], rest[4];
                    load4(p + e, direction), load4(r + e, rest);
#pragma unroll
                    for (int i = 0; i < 4; ++i) direction[i] = rest[i] + beta * direction[i];
                    store4(p + e, direction);
                    length += square_of(direction);
                }
                length = block_sum(length, room.sums);
                residual = left;
                ++count;
            }
            __syncthreads();
            for (int e = threadIdx.x; e < used; e += THREADS) {
                const int c = e % K;
                if (c < k) U[(sample + free[e / K]) * k + c] = u[e] * size_of_loss;
            }
        }
        if (threadIdx.x == 0) iterations[b] = count;
    }
}
