// SATNet on the GPU: one block solves one sample from start to end, forward (`mixing`) and backward (`adjoint`).
//
// The algorithms are those of difflayers/satnet/kernels.py in their Gram form, and so are the names. In short: coordinates
// are updated one after the other, each seeing those before it. For a tile of TILE consecutive free coordinates, the sum
// over the coordinates outside the tile is a small matrix product, whose inner dimension the warps of the block share out
// among themselves (`tile_product`, `add_up`). What the coordinates of a tile do to each other is then worked out by one
// warp, whose lanes are the columns of the vectors.
//
// C = S S' is read through the lists of free and fixed coordinates, so no block of it is gathered: C is symmetric, and
// row j of C, at the columns of a tile, is a run of memory. COLUMNS is k, padded with zeros; it and TILE (8, 16 or 32) are
// chosen in difflayers/satnet/cuda.py.
//
// Sums are in SCALAR; the few scalars that decide (objective, decreases, residuals) are double.

#include "common.cuh"

constexpr double PI = 3.14159265358979323846;
constexpr int K = COLUMNS;
constexpr int STRIPS = (K + 63) / 64;  // columns are multiplied in strips of at most 64
constexpr int STRIP = K / STRIPS;
constexpr int PARTS = (K + LANES - 1) / LANES;                     // columns of a lane in the sequential part
constexpr int TILE_ROWS = TILE / 8, TILE_COLUMNS = STRIP / 4;      // a lane's share of a product: 8 x 4 lanes
constexpr int DEPTH = 8;                                           // rows of C staged at a time
constexpr int LOADS = DEPTH * TILE / LANES;
static_assert(K % (16 * STRIPS) == 0, "strips are whole groups of 16 columns");
static_assert(TILE % 8 == 0 && LANES % TILE == 0, "lanes load and multiply whole tiles");
static_assert(WARPS >= 2, "a tile's sum has a part below and a part above the diagonal");

// A block's shared memory.
struct Room {
    double* sums;   // WARPS + 2
    int* counts;    // 4
    T* partial;     // WARPS x TILE x STRIP: a warp's staging area, then its share of the product
    T* low;         // TILE x K: products over the coordinates that are already new
    T* high;        // TILE x K: over those that are not, or the right-hand side
    T* along;       // TILE x K: the vectors of the tile, backward
    T* coupling;    // TILE x TILE: C inside the tile, entry r, d between the coordinate that is updated r-th and the d-th after
    T* x;           // as many rows of K as fit
};

__device__ inline Room make_room(unsigned char* memory) {
    Room room;
    room.sums = reinterpret_cast<double*>(memory);
    room.counts = reinterpret_cast<int*>(room.sums + WARPS + 2);
    room.partial = reinterpret_cast<T*>(room.counts + 4);
    room.low = room.partial + WARPS * TILE * STRIP;
    room.high = room.low + TILE * K;
    room.along = room.high + TILE * K;
    room.coupling = room.along + TILE * K;
    room.x = room.coupling + TILE * TILE;
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

// This warp's share of a tile's product: mine[r, c] = sum over begin <= j < end of C[others[j], rows[t + r]] x[j, c].
// `above`: only over j > t + r. Columns are those of one strip. A lane has TILE_ROWS x TILE_COLUMNS of the sums.
__device__ __noinline__ void tile_product(
    const T* C, int N, const int* others, int begin, int end, const int* rows, int t, int height, bool above,
    const T* x, int strip, T* mine
) {
    const int lane = lane_number(), r = lane % TILE, first = lane / TILE, group = lane / 4, offset = 4 * (lane % 4);
    const T* column = C + (r < height ? rows[t + r] : 0);
    T sum[TILE_ROWS][TILE_COLUMNS], next[LOADS];
#pragma unroll
    for (int i = 0; i < TILE_ROWS; ++i)
#pragma unroll
        for (int c = 0; c < TILE_COLUMNS; ++c) sum[i][c] = 0;
    auto fetch = [&](int from) {
#pragma unroll
        for (int i = 0; i < LOADS; ++i) {
            const int j = from + first + i * (LANES / TILE);
            const bool wanted = j < end && r < height && (!above || j > t + r);
            next[i] = wanted ? column[static_cast<long long>(others[j]) * N] : T(0);
        }
    };
    fetch(begin);
#pragma unroll 1
    for (int j = begin; j < end; j += DEPTH) {
#pragma unroll
        for (int i = 0; i < LOADS; ++i) mine[(first + i * (LANES / TILE)) * TILE + r] = next[i];
        __syncwarp();
        fetch(j + DEPTH);
#pragma unroll
        for (int d = 0; d < DEPTH; ++d) {  // past the end C is 0, and x any row that there is
            const T* vector = x + static_cast<long long>(smaller(j + d, end - 1)) * K + strip * STRIP + offset;
            T value[TILE_COLUMNS];
#pragma unroll
            for (int c = 0; c < TILE_COLUMNS; c += 4) load4(vector + 4 * c, value + c);
#pragma unroll
            for (int i = 0; i < TILE_ROWS; ++i) {
                const T factor = mine[d * TILE + group * TILE_ROWS + i];
#pragma unroll
                for (int c = 0; c < TILE_COLUMNS; ++c) sum[i][c] += factor * value[c];
            }
        }
        __syncwarp();
    }
#pragma unroll
    for (int i = 0; i < TILE_ROWS; ++i)
#pragma unroll
        for (int c = 0; c < TILE_COLUMNS; ++c)
            mine[(group * TILE_ROWS + i) * STRIP + 16 * (c / 4) + offset + c % 4] = sum[i][c];
}

// The sum of what warps first .. last - 1 have of entry e of a tile's product.
__device__ inline T add_up(const T* partial, int first, int last, int e) {
    T total = 0;
    for (int w = first; w < last; ++w) total += partial[w * TILE * STRIP + e];
    return total;
}

// low[r, c] = sum over `count` rows of x, all warps at it.
__device__ __noinline__ void whole_product(
    const Room& room, const T* C, int N, const int* others, int begin, int end, const int* rows, int t, int height,
    const T* x
) {
    const long long count = end - begin;
    const int w = warp_number();
    for (int strip = 0; strip < STRIPS; ++strip) {
        tile_product(
            C, N, others, begin + static_cast<int>(count * w / WARPS), begin + static_cast<int>(count * (w + 1) / WARPS),
            rows, t, height, false, x, strip, room.partial + w * TILE * STRIP
        );
        __syncthreads();
        for (int e = threadIdx.x; e < TILE * STRIP; e += THREADS)
            room.low[e / STRIP * K + strip * STRIP + e % STRIP] = add_up(room.partial, 0, WARPS, e);
        __syncthreads();
    }
}

// Coordinates are updated upwards, or (`UPPER`) from the last of the tile down.
template <bool UPPER>
__device__ inline void load_coupling(const Room& room, const T* C, int N, const int* rows, int t, int height) {
    for (int e = threadIdx.x; e < TILE * TILE; e += THREADS) {
        const int turn = e / TILE, other = turn + 1 + e % TILE;
        const int r = UPPER ? height - 1 - turn : turn, q = UPPER ? height - 1 - other : other;
        room.coupling[e] = other < height ? C[static_cast<long long>(rows[t + r]) * N + rows[t + q]] : T(0);
    }
}

// The sums of a tile's coordinates in registers, that of the coordinate whose turn it is in front: a lane has columns
// lane, lane + 32, ... of each.
struct Waiting {
    T sum[TILE][PARTS];

    template <bool UPPER>
    __device__ inline void load(const T* tile, int height) {
#pragma unroll
        for (int turn = 0; turn < TILE; ++turn)
#pragma unroll
            for (int p = 0; p < PARTS; ++p) {
                const int c = lane_number() + p * LANES, r = UPPER ? height - 1 - turn : turn;
                sum[turn][p] = c < K && turn < height ? tile[r * K + c] : T(0);
            }
    }

    // The front coordinate has become `now`: what that adds to those behind it, which move up by one.
    __device__ inline void advance(const T* coupling, const T (&now)[PARTS]) {
#pragma unroll
        for (int d = 0; d + 1 < TILE; d += 4) {
            T factor[4];
            load4(coupling + d, factor);
#pragma unroll
            for (int i = 0; i < 4 && d + i + 1 < TILE; ++i)
#pragma unroll
                for (int p = 0; p < PARTS; ++p) sum[d + i][p] = sum[d + i + 1][p] + factor[i] * now[p];
        }
    }
};

// One Gauss-Seidel sweep v_i = -g_i / |g_i| over the free coordinates, the rows of x.
//
// Gives the decrease of the objective, right if x came in with rows of length 1, and the objective after the sweep up to a
// constant, f = 2 sum_i x_i . (constant_i + sum_{j < i} C_ij x_j) + const: `low` is the part of g_i that this needs.
__device__ inline void sweep(
    const Room& room, const T* C, int N, const int* free, int n_free, const T* constant, T* x, T* norms,
    double* decrease, double* objective
) {
    const int lane = lane_number(), w = warp_number();
    double lowered = 0, reached = 0;
    for (int t = 0; t < n_free; t += TILE) {
        const int height = smaller(TILE, n_free - t);
        load_coupling<false>(room, C, N, free, t, height);
        // warps below `split` multiply the coordinates before the tile, the others those from it on
        const int below = t == 0 ? 0 : larger(1, smaller(WARPS - 1, (WARPS * t + n_free / 2) / n_free));
        const bool above = w >= below;
        const long long count = above ? n_free - t : t;
        const int part = above ? w - below : w, parts = above ? WARPS - below : below, base = above ? t : 0;
        for (int strip = 0; strip < STRIPS; ++strip) {
            tile_product(
                C, N, free, base + static_cast<int>(count * part / parts),
                base + static_cast<int>(count * (part + 1) / parts), free, t, height, above, x, strip,
                room.partial + w * TILE * STRIP
            );
            __syncthreads();
            for (int e = threadIdx.x; e < TILE * STRIP; e += THREADS) {
                const int r = e / STRIP, c = strip * STRIP + e % STRIP;
                const T pull = r < height ? constant[static_cast<long long>(t + r) * K + c] : T(0);
                room.low[r * K + c] = pull + add_up(room.partial, 0, below, e);
                room.high[r * K + c] = add_up(room.partial, below, WARPS, e);
            }
            __syncthreads();
        }
        if (w == 0) {
            Waiting waiting;
            waiting.load<false>(room.low, height);
#pragma unroll 1
            for (int r = 0; r < height; ++r) {
                T g[PARTS], now[PARTS], square = 0;
#pragma unroll
                for (int p = 0; p < PARTS; ++p) {
                    const int c = lane + p * LANES;
                    g[p] = waiting.sum[0][p] + (c < K ? room.high[r * K + c] : T(0));
                    square += g[p] * g[p];
                }
                const T norm = sqrt(warp_sum(square));
#pragma unroll
                for (int p = 0; p < PARTS; ++p) {
                    const int c = lane + p * LANES;
                    T* const at = x + static_cast<long long>(t + r) * K + c;
                    const T old = c < K ? *at : T(0);
                    now[p] = norm > 0 ? -g[p] / norm : old;  // what nothing pulls at stays where it is
                    if (c < K) *at = now[p];
                    const T moved = now[p] - old;
                    lowered += norm * (moved * moved);
                    reached += waiting.sum[0][p] * now[p];
                }
                waiting.advance(room.coupling + r * TILE, now);
                if (lane == 0) norms[t + r] = norm;
            }
        }
        __syncthreads();
    }
    if (w == 0) {
        lowered = warp_sum(lowered), reached = warp_sum(reached);
        if (lane == 0) room.sums[WARPS] = lowered, room.sums[WARPS + 1] = 2 * reached;
    }
    __syncthreads();
    *decrease = room.sums[WARPS], *objective = room.sums[WARPS + 1];
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

// The forward pass of a batch, `op.mixing`, for S divided by its scaling.
//
// Reads C (N, N), start (N, k), z and given (batch, n). Fills out (batch, n), V (batch, N, k), norms (batch, N) with the
// last |g_i|, sweeps (batch) and decreases (batch), the last sweep's over the first's. A block has 3 rows K + rows numbers
// of `workspace` and 2 N of `lists`. `rows` is N, rounded up to a multiple of 4; rows K is below 2^31. Samples of up to
// `capacity` free coordinates have their vectors in shared memory, others in global memory.
extern "C" __global__ void __launch_bounds__(THREADS) mixing(
    const T* C, const T* start, const T* z, const bool* given, int* ticket, T* workspace, int* lists, T* out, T* V,
    T* norms, long long* sweeps, double* decreases, int batch, int N, int n, int k, int rows, int capacity, int max_iter,
    double eps, double momentum
) {
    SHARED_MEMORY(memory);
    const Room room = make_room(memory);
    const long long size = static_cast<long long>(rows) * K;
    T* const own = workspace + blockIdx.x * (3 * size + rows);
    T* const constant = own;
    T* const previous = own + size;
    T* const norm = own + 3 * size;
    int* const free = lists + blockIdx.x * (2ll * N);
    int* const fixed = free + N;
#pragma unroll 1
    while (true) {
        const int b = next_problem(ticket, room.counts + 3);
        if (b >= batch) break;
        const bool* is_given = given + static_cast<long long>(b) * n;
        const T* inputs = z + static_cast<long long>(b) * n;
        T* const vectors = V + static_cast<long long>(b) * N * k;
        split(is_given, n, N, free, fixed, room.counts);
        const int n_free = room.counts[0], n_fixed = room.counts[1];
        T* const x = n_free <= capacity ? room.x : own + 2 * size;
        const int holds = n_free <= capacity ? capacity : rows;
        for (int i = warp_number(); i < N; i += WARPS) {
            const bool is_fixed = i == 0 || (i <= n && is_given[i - 1]);
            const double value = i == 0 ? 1.0 : is_fixed ? double(inputs[i - 1]) : 0.0;
            place(start + static_cast<long long>(i) * k, !is_fixed, value < 0 ? 0 : value > 1 ? 1 : value, k,
                  vectors + static_cast<long long>(i) * k);
        }
        for (int i = threadIdx.x; i < N; i += THREADS) norms[static_cast<long long>(b) * N + i] = 0;
        __syncthreads();
        // the pull of the fixed vectors, as many at a time as x holds
        for (int from = 0; n_free > 0 && from < n_fixed; from += holds) {
            const int count = smaller(holds, n_fixed - from);
            for (int e = threadIdx.x; e < count * K; e += THREADS) {
                const int c = e % K;
                x[e] = c < k ? vectors[static_cast<long long>(fixed[from + e / K]) * k + c] : T(0);
            }
            __syncthreads();
            for (int t = 0; t < n_free; t += TILE) {
                const int height = smaller(TILE, n_free - t);
                whole_product(room, C, N, fixed + from, 0, count, free, t, height, x);
                for (int e = threadIdx.x; e < height * K; e += THREADS) {
                    T* const at = constant + static_cast<long long>(t) * K + e;
                    *at = (from == 0 ? T(0) : *at) + room.low[e];
                }
            }
            __syncthreads();
        }
        const int used = n_free * K;
        for (int e = threadIdx.x; e < used; e += THREADS) {
            const int c = e % K;
            x[e] = previous[e] = c < k ? start[static_cast<long long>(free[e / K]) * k + c] : T(0);
        }
        __syncthreads();
        double inertia = momentum, weight = 0, first = 0, objective = 0, last = 0;
        int done = 0;
        while (n_free > 0 && done < max_iter) {
            double decrease, after;
            sweep(room, C, N, free, n_free, constant, x, norm, &decrease, &after);
            if (weight > 0) decrease = objective - after;
            ++done;
            if (done == 1) first = decrease;
            if (weight > 0 && decrease <= 0) {  // overshot: back to the last point, and a plain sweep from there
                for (int e = threadIdx.x; e < used; e += THREADS) x[e] = previous[e];
                inertia /= 2, weight = 0;
                __syncthreads();
                continue;
            }
            for (int f = threadIdx.x; f < n_free; f += THREADS)
                norms[static_cast<long long>(b) * N + free[f]] = norm[f];
            objective = after;
            last = first > 0 ? decrease / first : 0;
            if (decrease < eps * first || decrease == 0) break;
            weight = inertia;
            if (done < max_iter) {
                const T factor = T(weight);
                for (int e = threadIdx.x; e < used; e += THREADS) {
                    const T current = x[e];
                    x[e] = current + factor * (current - previous[e]);
                    previous[e] = current;
                }
            }
            __syncthreads();
        }
        for (int e = threadIdx.x; e < used; e += THREADS) {
            const int c = e % K;
            if (c < k) vectors[static_cast<long long>(free[e / K]) * k + c] = x[e];
        }
        if (threadIdx.x == 0) sweeps[b] = done, decreases[b] = last;
        __syncthreads();
        for (int i = warp_number(); i < n; i += WARPS) {
            const T* v = vectors + static_cast<long long>(i + 1) * k;
            double square = 0;
            for (int c = lane_number(); c < k; c += LANES) square += c > 0 ? double(v[c]) * double(v[c]) : 0.0;
            square = warp_sum(square);
            const T solved = T(atan2(sqrt(square), -double(v[0])) / PI);
            if (lane_number() == 0) out[static_cast<long long>(b) * n + i] = is_given[i] ? inputs[i] : solved;
        }
    }
}

// out = (I + L)^-1 (x - shift) and y = D^-1/2 out, one substitution, where L is the part below (`UPPER`: above) the
// diagonal of P D^-1/2 C D^-1/2 P, with P_i = I - v_i v_i' and scale = D^-1/2. `shift` may be nullptr, for 0.
template <bool UPPER>
__device__ __noinline__ void substitute(
    const Room& room, const T* C, int N, const int* free, int n_free, const T* scale, const T* v, const T* x,
    const T* shift, T* y, T* out
) {
    const int lane = lane_number(), last = (n_free - 1) / TILE * TILE;
    for (int step = 0; step < n_free; step += TILE) {
        const int t = UPPER ? last - step : step, height = smaller(TILE, n_free - t);
        load_coupling<UPPER>(room, C, N, free, t, height);
        for (int e = threadIdx.x; e < TILE * K; e += THREADS) {
            const long long at = static_cast<long long>(t) * K + e;
            const bool inside = e < height * K;
            room.high[e] = inside ? (shift ? x[at] - shift[at] : x[at]) : T(0);
            room.along[e] = inside ? v[at] : T(0);
        }
        whole_product(
            room, C, N, free, UPPER ? smaller(t + TILE, n_free) : 0, UPPER ? n_free : t, free, t, height, y
        );
        if (warp_number() == 0) {
            Waiting waiting;
            waiting.load<UPPER>(room.low, height);
#pragma unroll 1
            for (int turn = 0; turn < height; ++turn) {
                const int r = UPPER ? height - 1 - turn : turn;
                const T own = scale[t + r];
                T solved[PARTS], normal[PARTS], now[PARTS], dot = 0;
#pragma unroll
                for (int p = 0; p < PARTS; ++p) {
                    const int c = lane + p * LANES;
                    normal[p] = c < K ? room.along[r * K + c] : T(0);
                    solved[p] = (c < K ? room.high[r * K + c] : T(0)) - own * waiting.sum[0][p];
                    dot += solved[p] * normal[p];
                }
                dot = warp_sum(dot);
#pragma unroll
                for (int p = 0; p < PARTS; ++p) {
                    const int c = lane + p * LANES;
                    solved[p] -= dot * normal[p];
                    now[p] = own * solved[p];
                    const long long at = static_cast<long long>(t + r) * K + c;
                    if (c < K) y[at] = now[p], out[at] = solved[p];
                }
                waiting.advance(room.coupling + turn * TILE, now);
            }
        }
        __syncthreads();
    }
}

// x = - D^-1/2 P dv for one free row, by one warp: P_i dv_i is dz_i / pi times the unit tangent towards v_T.
__device__ inline void output_pull(const T* V, bool is_output, double grad, double scale, int k, T* x) {
    const int lane = lane_number();
    double square = 0;
    for (int c = lane; c < k; c += LANES) square += c > 0 ? double(V[c]) * double(V[c]) : 0.0;
    const double sine = sqrt(warp_sum(square));
    const double pull = is_output && sine > 0 ? -grad / PI * scale : 0.0;
    for (int c = lane; c < K; c += LANES) {
        const double value = c == 0 ? pull * sine : c < k && pull != 0 ? -pull * double(V[0]) * (double(V[c]) / sine) : 0.0;
        x[c] = T(value);
    }
}

// The linear system of the backward pass, `op.adjoint`, by the preconditioned conjugate gradients of kernels.adjoint: the
// same right-hand side, preconditioner (a sweep forwards and a sweep backwards, in Eisenstat's arrangement), stopping rule
// and refusal of directions flatter than 1 / max_iter.
//
// Reads C (N, N) and norms of S divided by `unit` (a device scalar), V (batch, N, k), given and grad (batch, n). Fills
// U (batch, N, k), for S divided by `unit`, 0 in fixed rows, and iterations (batch). A block has 7 rows K + rows numbers
// of `workspace` and 2 N of `lists`.
extern "C" __global__ void __launch_bounds__(THREADS) adjoint(
    const T* C, const T* unit, const T* V, const T* norms, const bool* given, const T* grad, int* ticket, T* workspace,
    int* lists, T* U, long long* iterations, int batch, int N, int n, int k, int rows, int capacity, int max_iter,
    double prox_lam, double tolerance
) {
    SHARED_MEMORY(memory);
    const Room room = make_room(memory);
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
    const double damping = prox_lam / double(*unit) / double(*unit);
#pragma unroll 1
    while (true) {
        const int b = next_problem(ticket, room.counts + 3);
        if (b >= batch) break;
        const long long sample = static_cast<long long>(b) * N;
        for (int e = threadIdx.x; e < N * k; e += THREADS) U[sample * k + e] = 0;
        split(given + static_cast<long long>(b) * n, n, N, free, fixed, room.counts);
        const int n_free = room.counts[0];
        T* const y = n_free <= capacity ? room.x : own + 6 * size;
        int count = 0;
        const int used = n_free * K;
        if (n_free > 0) {
            for (int f = warp_number(); f < n_free; f += WARPS) {
                const int i = free[f];
                const T* vector = V + (sample + i) * k;
                const double held = double(norms[sample + i]) + damping;
                const T own_scale = held > 0 ? T(1 / sqrt(held)) : T(0);
                if (lane_number() == 0) scale[f] = own_scale;
                for (int c = lane_number(); c < K; c += LANES) {
                    v[static_cast<long long>(f) * K + c] = c < k ? vector[c] : T(0);
                    u[static_cast<long long>(f) * K + c] = 0;
                }
                const double pull = i <= n ? double(grad[static_cast<long long>(b) * n + i - 1]) : 0.0;
                output_pull(vector, i <= n, pull, own_scale, k, s + static_cast<long long>(f) * K);
            }
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
            substitute<false>(room, C, N, free, n_free, scale, v, s, nullptr, y, r);
            double residual = 0;
            for (int e = threadIdx.x; e < used; e += THREADS) {
                p[e] = r[e];
                residual += double(r[e]) * double(r[e]);
            }
            residual = block_sum(residual, room.sums);
            double length = residual;
            const double target = tolerance * residual;
            while (residual > target && count < max_iter) {
                substitute<true>(room, C, N, free, n_free, scale, v, p, nullptr, y, s);
                substitute<false>(room, C, N, free, n_free, scale, v, p, s, y, q);
                double curvature = 0;
                for (int e = threadIdx.x; e < used; e += THREADS) {
                    q[e] += s[e];
                    curvature += double(p[e]) * double(q[e]);
                }
                curvature = block_sum(curvature, room.sums);
                const bool flat = curvature * max_iter < length;  // flatter than max_iter sweeps could resolve
                if (flat && count > 0) break;
                // the first direction, if flat, is the sweep itself, as coordinate descent would do it
                const T alpha = flat ? T(1) : T(residual / curvature);
                double left = 0;
                for (int e = threadIdx.x; e < used; e += THREADS) {
                    u[e] += alpha * (scale[e / K] * s[e]);
                    r[e] -= alpha * q[e];
                    left += double(r[e]) * double(r[e]);
                }
                if (flat) break;
                left = block_sum(left, room.sums);
                const T beta = T(left / residual);
                length = 0;
                for (int e = threadIdx.x; e < used; e += THREADS) {
                    p[e] = r[e] + beta * p[e];
                    length += double(p[e]) * double(p[e]);
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

// C (N, N) = S S', exactly symmetric, from S (N, m): one block for each square of 32 x 32 entries.
//
// Its own kernel, because torch.mm may round its factors to TF32, and the solution of the layer is that of C.
extern "C" __global__ void __launch_bounds__(THREADS) gram(const T* S, T* C, int N, int m) {
    SHARED_MEMORY(memory);
    T* const left = reinterpret_cast<T*>(memory);  // 32 x 33 each
    T* const right = left + LANES * (LANES + 1);
    const int squares = (N + LANES - 1) / LANES;
    const int i0 = blockIdx.x / squares * LANES, j0 = blockIdx.x % squares * LANES;
    if (j0 > i0) return;
    constexpr int SHARE = LANES * LANES / THREADS;
    static_assert(SHARE * THREADS == LANES * LANES, "a square is shared out evenly");
    T sum[SHARE];
#pragma unroll
    for (int i = 0; i < SHARE; ++i) sum[i] = 0;
    for (int from = 0; from < m; from += LANES) {
        for (int e = threadIdx.x; e < LANES * LANES; e += THREADS) {
            const int r = e / LANES, c = e % LANES;
            const bool inside = from + c < m;
            left[r * (LANES + 1) + c] = inside && i0 + r < N ? S[static_cast<long long>(i0 + r) * m + from + c] : T(0);
            right[r * (LANES + 1) + c] = inside && j0 + r < N ? S[static_cast<long long>(j0 + r) * m + from + c] : T(0);
        }
        __syncthreads();
#pragma unroll 8
        for (int c = 0; c < LANES; ++c)
#pragma unroll
            for (int i = 0; i < SHARE; ++i) {
                const int e = threadIdx.x + i * THREADS;
                sum[i] += left[e / LANES * (LANES + 1) + c] * right[e % LANES * (LANES + 1) + c];
            }
        __syncthreads();
    }
#pragma unroll
    for (int i = 0; i < SHARE; ++i) {
        const int e = threadIdx.x + i * THREADS, r = i0 + e / LANES, c = j0 + e % LANES;
        if (r < N && c < N) {
            if (i0 != j0 || c <= r) C[static_cast<long long>(r) * N + c] = sum[i];
            if (i0 != j0 || c < r) C[static_cast<long long>(c) * N + r] = sum[i];
        }
    }
}
