// The DMM matching layer on the GPU: one block solves one problem, `dmm` forward, `dmm_adjoint` and `dmm_tangent` its derivative.
//
// Algorithm and names are those of difflayers/matching/dmm/kernels.py: a round of Dykstra's projections is t_ij += d_j - r_i.
// Rows belong to warps, in groups of GROUP; lanes are columns. Rows are padded to whole groups for all warps and columns to
// whole lanes: padding is forbidden like any pair that a problem does not have, t = -inf throughout, and no loop asks for it.
//
// Two barriers of the block in each round: after the column sums, and after what columns do with them. Small problems have
// a block of one warp, for which they cost next to nothing. IN_SHARED says whether a problem's numbers are in shared memory.

#include "common.cuh"

constexpr int GROUP = 4;

// A problem's numbers, in shared memory or, if there is not room enough, in global memory. Its size, padded: rows x pitch.
struct Arrays {
    int n, m, rows, pitch;
    T* t;               // rows x pitch: the input of P1, or the gradient with respect to it
    T* c;               // rows x pitch: the cost, or the gradient of X
    T* total;           // rows x pitch
    T* q;               // pitch
    T* shift;           // pitch
    T* inverse_columns; // pitch: 1 / allowed pairs, 0 for none and for the column of `slack`
    T* partial;         // WARPS x pitch: column sums over a warp's rows
    T* row_shift;       // rows
    T* row_sum;         // rows
    T* inverse_rows;    // rows
    int* cheapest;      // pitch
    double* sums;       // WARPS
};

__device__ inline Arrays make_arrays(unsigned char* workspace, int n, int m, int bytes) {
    SHARED_MEMORY(memory);
    constexpr int BEFORE = 8 * ((WARPS + 1) / 2 * 2);
    Arrays a;
    a.n = n, a.m = m;
    a.rows = (n + GROUP * WARPS - 1) / (GROUP * WARPS) * (GROUP * WARPS), a.pitch = (m + LANES - 1) / LANES * LANES;
    a.sums = reinterpret_cast<double*>(memory);
    a.t = reinterpret_cast<T*>(IN_SHARED ? memory + BEFORE : workspace + blockIdx.x * static_cast<long long>(bytes));
    const int size = a.rows * a.pitch;
    a.c = a.t + size;
    a.total = a.c + size;
    a.q = a.total + size;
    a.shift = a.q + a.pitch;
    a.inverse_columns = a.shift + a.pitch;
    a.partial = a.inverse_columns + a.pitch;
    a.row_shift = a.partial + WARPS * a.pitch;
    a.row_sum = a.row_shift + a.rows;
    a.inverse_rows = a.row_sum + a.rows;
    a.cheapest = reinterpret_cast<int*>(a.inverse_rows + a.rows);
    return a;
}

// A barrier of the block.
__device__ inline void meet() {
    if (WARPS == 1)
        __syncwarp();
    else
        __syncthreads();
}

__device__ inline bool allowed(T cost) { return cost < T(INFINITE); }

// The cost with its padding, in `to`; fills the inverse counts of allowed pairs, and returns whether all pairs are allowed, the
// same in all threads.
__device__ inline bool load_cost(const Arrays& a, const T* cost, bool slack, T* to) {
    for (int r = warp_number(); r < a.rows; r += WARPS) {
        int count = 0;
        for (int j = lane_number(); j < a.pitch; j += LANES) {
            const T value = r < a.n && j < a.m ? cost[static_cast<long long>(r) * a.m + j] : T(INFINITE);
            to[r * a.pitch + j] = value;
            count += allowed(value);
        }
        count = warp_sum(count);
        if (lane_number() == 0) a.inverse_rows[r] = count > 0 ? T(1.0 / count) : T(0);
    }
    meet();
    double pairs = 0;
    for (int j = threadIdx.x; j < a.pitch; j += THREADS) {
        int count = 0;
        for (int r = 0; r < a.n; ++r) count += allowed(to[r * a.pitch + j]);
        a.inverse_columns[j] = count > 0 && !(slack && j == a.m - 1) ? T(1.0 / count) : T(0);
        pairs += count;
    }
    return block_sum(pairs, a.sums) == double(a.n) * a.m;
}

// `oracle.start`, into t.
__device__ inline void start(const Arrays& a, bool slack) {
    const int columns = slack ? a.m - 1 : a.m;
    const T infinite = INFINITE;
    double most = -infinite;
    for (int j = threadIdx.x; j < columns; j += THREADS) {
        int first = 0;
        T least = a.c[j];
        for (int i = 0; i < a.n; ++i) {
            const T value = a.c[i * a.pitch + j];
            if (value < least) least = value, first = i;
            if (value < infinite) most = larger(most, double(value));
        }
        a.cheapest[j] = first;
    }
    const T highest = T(block_sum<true>(most, a.sums));  // a barrier, too
    for (int i = warp_number(); i < a.rows; i += WARPS) {
        int best = a.m;
        T lowest = infinite;
        for (int j = lane_number(); j < a.pitch; j += LANES) {
            T value = a.c[i * a.pitch + j];
            a.t[i * a.pitch + j] = 0;
            if (value < infinite) {
                if (j < columns && a.cheapest[j] != i) value = highest;
                if (best == a.m || value < lowest) best = j, lowest = value;
            }
        }
        for (int distance = LANES / 2; distance > 0; distance /= 2) {
            const int other = __shfl_xor_sync(ALL, best, distance);
            const T value = __shfl_xor_sync(ALL, lowest, distance);
            if (other < a.m && (best == a.m || value < lowest || (value == lowest && other < best))) best = other, lowest = value;
        }
        __syncwarp();
        if (lane_number() == 0 && best < a.m) a.t[i * a.pitch + best] = 1;
    }
    meet();
}

// The sums of a warp's values for a group of rows, to row_sum: each exchange halves what is left to add.
__device__ inline void add_group(const T (&sum)[GROUP], T* row_sum) {
    static_assert(GROUP == 4, "two exchanges of rows, then three of lanes");
    const int lane = lane_number();
    const bool upper = lane & 16, second = lane & 8;
    const T even = (upper ? sum[1] : sum[0]) + __shfl_xor_sync(ALL, upper ? sum[0] : sum[1], 16);
    const T odd = (upper ? sum[3] : sum[2]) + __shfl_xor_sync(ALL, upper ? sum[2] : sum[3], 16);
    T total = (second ? odd : even) + __shfl_xor_sync(ALL, second ? even : odd, 8);
    for (int distance = 4; distance > 0; distance /= 2) total += __shfl_xor_sync(ALL, total, distance);
    if (lane % 8 == 0) row_sum[(upper ? 1 : 0) + (second ? 2 : 0)] = total;
}

// Bits of 32 columns from `base` on, of `rows` rows from `place` on: bit j % 8 of byte j / 8 of a row of `stride` bytes.
template <int ROWS>
__device__ inline void keep_bits(unsigned char* place, int stride, int base, int rows, const unsigned (&words)[ROWS]) {
    const int lane = lane_number(), r = lane / 4, byte = base / 8 + lane % 4;
    unsigned word = words[0];
#pragma unroll
    for (int other = 1; other < ROWS; ++other)
        if (r == other) word = words[other];
    if (r < smaller(ROWS, rows) && byte < stride) place[r * stride + byte] = (word >> (8 * (lane % 4))) & 255;
}

// Bit j of a row of bits.
__device__ inline bool has_bit(const unsigned char* row, int j) { return (row[j / 8] >> (j % 8)) & 1; }

// Algorithm 1 of the paper, or (`REPLAY`) its derivative along `direction`: the bits that it kept then say what is kept of t and
// q, and the constants are gone.
template <bool REPLAY, class Bits>
__device__ inline void descend(
    const T* cost, const T* direction, unsigned char* workspace, T* X, Bits* bits, int batch, int n, int m, int n_grad,
    int n_proj, int average, int slack, int keep, int bytes, double step_size
) {
    const Arrays a = make_arrays(workspace, n, m, bytes);
    const int lane = lane_number(), w = uniform_warp_number(), stride = (m + 7) / 8, size = a.rows * a.pitch;
    const long long round_size = static_cast<long long>(n + 1) * stride;
    const T step = T(step_size), share = T(1.0 / n_grad), one = REPLAY ? T(0) : T(1);
    for (int b = blockIdx.x; b < batch; b += gridDim.x) {
        const long long sample = static_cast<long long>(b) * n * m;
        meet();
        const T* const own_cost = cost + sample;
        const bool dense = load_cost(a, own_cost, slack, a.c);
        if (REPLAY) {
            for (int r = w; r < a.rows; r += WARPS)
                for (int j = lane; j < a.pitch; j += LANES) {
                    const int e = r * a.pitch + j;
                    a.c[e] = allowed(a.c[e]) ? direction[sample + static_cast<long long>(r) * m + j] : T(0);
                    a.t[e] = 0;
                }
            meet();
        } else {
            start(a, slack);
        }
        for (int e = threadIdx.x; e < size; e += THREADS) a.t[e] -= step * a.c[e], a.total[e] = 0;
        for (int i = 0; i < n_grad; ++i) {
            for (int j = threadIdx.x; j < a.pitch; j += THREADS) a.q[j] = a.shift[j] = 0;
            for (int r = threadIdx.x; r < a.rows; r += THREADS) a.row_shift[r] = 0;
            meet();
            Bits* place = bits + (static_cast<long long>(b) * n_grad + i) * n_proj * round_size;
            for (int turn = 0; turn < n_proj; ++turn, place += round_size) {
                for (int first = GROUP * w; first < a.rows; first += GROUP * WARPS) {
                    T sum[GROUP], back[GROUP];
                    load4(a.row_shift + first, back);
#pragma unroll
                    for (int r = 0; r < GROUP; ++r) sum[r] = 0;
                    T* at = a.t + first * a.pitch + lane;
                    for (int base = 0; base < a.pitch; base += LANES, at += LANES) {
                        const T along = a.shift[base + lane];
                        T* const own = a.partial + w * a.pitch + base + lane;
                        T column = first >= GROUP * WARPS ? *own : T(0);
                        unsigned words[GROUP];
                        const int rows = base + lane < m ? n - first : 0;  // that have bits here
#pragma unroll
                        for (int r = 0; r < GROUP; ++r) {
                            const T moved = at[r * a.pitch] + (along - back[r]);
                            at[r * a.pitch] = moved;
                            const bool positive = REPLAY ? r < rows && has_bit(place + (first + r) * stride, base + lane) : moved > 0;
                            const T kept = positive ? moved : T(0);
                            column += kept;
                            sum[r] += kept;
                            if constexpr (!REPLAY) words[r] = __ballot_sync(ALL, positive);
                        }
                        *own = column;
                        if constexpr (!REPLAY)
                            if (keep) keep_bits(place + first * stride, stride, base, n - first, words);
                    }
                    add_group(sum, a.row_sum + first);
                }
                meet();
                for (int base = LANES * w; base < a.pitch; base += THREADS) {
                    const int j = base + lane;
                    T column = 0;
#pragma unroll
                    for (int other = 0; other < WARPS; ++other) column += a.partial[other * a.pitch + j];
                    const T old = a.q[j], moved = old + (column - one) * a.inverse_columns[j];
                    const bool positive = REPLAY ? j < m && has_bit(place + n * stride, j) : moved > 0;
                    const T now = positive ? moved : T(0);
                    a.q[j] = now, a.shift[j] = old - now;
                    if constexpr (!REPLAY) {
                        const unsigned words[1] = {__ballot_sync(ALL, positive)};
                        if (keep) keep_bits(place + n * stride, stride, base, 1, words);
                    }
                }
                meet();
                if (dense) {
                    T shifted = 0;
                    for (int j = lane; j < a.pitch; j += LANES) shifted += a.shift[j];
                    shifted = warp_sum(shifted);
                    for (int e = lane; e < a.rows / WARPS; e += LANES) {  // of this warp's rows
                        const int r = GROUP * w + e / GROUP * (GROUP * WARPS) + e % GROUP;
                        a.row_shift[r] = (a.row_sum[r] + shifted - one) * a.inverse_rows[r];
                    }
                } else {
                    for (int first = GROUP * w; first < n; first += GROUP * WARPS) {
                        T shifted[GROUP];
#pragma unroll
                        for (int r = 0; r < GROUP; ++r) {
                            const T* const row = own_cost + static_cast<long long>(first + r) * m;
                            shifted[r] = 0;
                            for (int j = lane; j < m; j += LANES) shifted[r] += first + r < n && allowed(row[j]) ? a.shift[j] : T(0);
                            shifted[r] = warp_sum(shifted[r]);
                            if (lane == 0)
                                a.row_shift[first + r] = (a.row_sum[first + r] + shifted[r] - one) * a.inverse_rows[first + r];
                        }
                    }
                }
                __syncwarp();
            }
            const bool last = i == n_grad - 1;
            for (int first = GROUP * w; first < a.rows; first += GROUP * WARPS)
                for (int r = first; r < first + GROUP; ++r) {
                    const T back = a.row_shift[r];
                    for (int j = lane; j < a.pitch; j += LANES) {
                        const int e = r * a.pitch + j;
                        // `place` is one round ahead.
                        const bool positive = REPLAY ? r < n && j < m && has_bit(place - round_size + r * stride, j) : a.t[e] > 0;
                        const T kept = positive ? a.t[e] : T(0), now = kept + (a.shift[j] - back);
                        a.total[e] += now;
                        a.t[e] = last ? now : now - step * a.c[e];
                    }
                }
            meet();  // shifts have been read
        }
        for (int r = w; r < n; r += WARPS)
            for (int j = lane; j < m; j += LANES) {
                const int e = r * a.pitch + j;
                X[sample + static_cast<long long>(r) * m + j] = !allowed(own_cost[static_cast<long long>(r) * m + j]) ? T(0) : average ? a.total[e] * share : a.t[e];
            }
    }
}

// `op.dmm`: cost (batch, n, m), +inf where forbidden, to X (batch, n, m) and, if `keep`, bits (batch, n_grad n_proj, n + 1,
// ceil(m / 8)): for each round those of the rows of t, then those of q. A block has `bytes` of `workspace`, unless it is
// IN_SHARED.
extern "C" __global__ void __launch_bounds__(THREADS) dmm(
    const T* cost, unsigned char* workspace, T* X, unsigned char* bits, int batch, int n, int m, int n_grad, int n_proj,
    int average, int slack, int keep, int bytes, double step_size
) {
    descend<false>(cost, cost, workspace, X, bits, batch, n, m, n_grad, n_proj, average, slack, keep, bytes, step_size);
}

// `op.dmm_tangent`: the derivative `out` of X along a direction of the cost.
extern "C" __global__ void __launch_bounds__(THREADS) dmm_tangent(
    const T* cost, const T* direction, unsigned char* workspace, T* out, const unsigned char* bits, int batch, int n, int m,
    int n_grad, int n_proj, int average, int slack, int bytes, double step_size
) {
    descend<true>(cost, direction, workspace, out, bits, batch, n, m, n_grad, n_proj, average, slack, false, bytes, step_size);
}

// The gradient of <grad, X> with respect to the cost, along the path that the bits remember: `op.dmm_adjoint`.
extern "C" __global__ void __launch_bounds__(THREADS) dmm_adjoint(
    const T* cost, const unsigned char* bits, const T* grad, unsigned char* workspace, T* out, int batch, int n, int m,
    int n_grad, int n_proj, int average, int slack, int bytes, double step_size
) {
    const Arrays a = make_arrays(workspace, n, m, bytes);
    const int lane = lane_number(), w = uniform_warp_number(), stride = (m + 7) / 8;
    const long long round_size = static_cast<long long>(n + 1) * stride;
    const T share = average ? T(1.0 / n_grad) : T(1);
    for (int b = blockIdx.x; b < batch; b += gridDim.x) {
        const long long sample = static_cast<long long>(b) * n * m;
        const T* const own_cost = cost + sample;
        meet();
        const bool dense = load_cost(a, own_cost, slack, a.c);
        for (int r = w; r < a.rows; r += WARPS)
            for (int j = lane; j < a.pitch; j += LANES) {
                const int e = r * a.pitch + j;
                a.t[e] = a.c[e] = allowed(a.c[e]) ? grad[sample + static_cast<long long>(r) * m + j] * share : T(0);
                a.total[e] = 0;
            }
        meet();
        for (int i = n_grad - 1; i >= 0; --i) {
            for (int j = threadIdx.x; j < a.pitch; j += THREADS) a.q[j] = 0;
            for (int first = GROUP * w; first < a.rows; first += GROUP * WARPS) {
                T sum[GROUP];
#pragma unroll
                for (int r = 0; r < GROUP; ++r) sum[r] = 0;
                for (int base = 0; base < a.pitch; base += LANES) {
                    T* const own = a.partial + w * a.pitch + base + lane;
                    T column = first >= GROUP * WARPS ? *own : T(0);
#pragma unroll
                    for (int r = 0; r < GROUP; ++r) {
                        const T value = a.t[(first + r) * a.pitch + base + lane];
                        column += value;
                        sum[r] += value;
                    }
                    *own = column;
                }
                add_group(sum, a.row_sum + first);
            }
            meet();
            for (int turn = n_proj - 1; turn >= 0; --turn) {
                const unsigned char* place = bits + ((static_cast<long long>(b) * n_grad + i) * n_proj + turn) * round_size;
                T pulled = 0;
                for (int r = lane; r < n; r += LANES) pulled -= a.row_sum[r] * a.inverse_rows[r];
                pulled = warp_sum(pulled);
                for (int j = threadIdx.x; j < a.pitch; j += THREADS) {
                    T pull = 0;
#pragma unroll
                    for (int other = 0; other < WARPS; ++other) pull += a.partial[other * a.pitch + j];
                    if (dense)
                        pull += pulled;
                    else
                        for (int r = 0; r < n; ++r)
                            if (j < m && allowed(own_cost[static_cast<long long>(r) * m + j])) pull -= a.row_sum[r] * a.inverse_rows[r];
                    const bool positive = j < m && (place[n * stride + j / 8] >> (j % 8)) & 1;
                    const T s = positive ? a.q[j] - pull : T(0);
                    a.shift[j] = s * a.inverse_columns[j];
                    a.q[j] = pull + s;
                }
                meet();
                const bool first_turn = turn == n_proj - 1;
                for (int first = GROUP * w; first < a.rows; first += GROUP * WARPS) {
                    T sum[GROUP], back[GROUP], inverse[GROUP];
                    load4(a.row_sum + first, back), load4(a.inverse_rows + first, inverse);
#pragma unroll
                    for (int r = 0; r < GROUP; ++r) sum[r] = 0, back[r] *= -inverse[r];
                    __syncwarp();  // they have been read
                    T* at = a.t + first * a.pitch + lane;
                    const unsigned char* byte = place + first * stride + lane / 8;
                    for (int base = 0; base < a.pitch; base += LANES, at += LANES, byte += LANES / 8) {
                        const T along = a.shift[base + lane];
                        T* const own = a.partial + w * a.pitch + base + lane;
                        T column = first >= GROUP * WARPS ? *own : T(0);
                        const int rows = base + lane < m ? n - first : 0;
#pragma unroll
                        for (int r = 0; r < GROUP; ++r) {
                            const bool positive = r < rows && (byte[r * stride] >> (lane % 8)) & 1;
                            const T old = at[r * a.pitch];
                            const T now = positive ? old + (back[r] + along) : first_turn ? T(0) : old;
                            at[r * a.pitch] = now;
                            column += now;
                            sum[r] += now;
                        }
                        *own = column;
                    }
                    add_group(sum, a.row_sum + first);
                }
                meet();
            }
            for (int first = GROUP * w; first < a.rows; first += GROUP * WARPS)
                for (int r = first; r < first + GROUP; ++r)
                    for (int j = lane; j < a.pitch; j += LANES) {
                        const int e = r * a.pitch + j;
                        a.total[e] -= a.t[e];
                        if (average) a.t[e] += a.c[e];
                    }
            meet();
        }
        for (int r = w; r < n; r += WARPS)
            for (int j = lane; j < m; j += LANES)
                out[sample + static_cast<long long>(r) * m + j] = a.total[r * a.pitch + j] * T(step_size);
    }
}
