// The DMM matching layer on the GPU: one block solves one problem, `dmm` forward and `dmm_adjoint` backward.
//
// Algorithm and names are those of difflayers/matching/kernels.py: a round of Dykstra's projections is t_ij += d_j - r_i.
// Rows belong to warps, in groups of GROUP; lanes are columns. Rows and columns that a problem does not have stay where
// they are: their pairs are forbidden like any others, t = -inf throughout.
//
// Two barriers of the block in each round: after the column sums, and after what columns do with them. Small problems have
// a block of one warp, for which they cost nothing.

#include "common.cuh"

constexpr int GROUP = 4;

// A problem's numbers, in shared memory or, if there is not room enough, in global memory.
struct Arrays {
    T* t;               // n x m: the input of P1, or the gradient with respect to it
    T* c;               // n x m: the cost, or the gradient of X
    T* total;           // n x m
    T* q;               // m
    T* shift;           // m
    T* inverse_columns; // m: 1 / allowed pairs, 0 for none and for the column of `slack`
    T* partial;         // WARPS x m: column sums over a warp's rows
    T* row_shift;       // n
    T* row_sum;         // n
    T* inverse_rows;    // n
    int* cheapest;      // m
};

__device__ inline Arrays make_arrays(T* memory, int n, int m) {
    const long long size = static_cast<long long>(n) * m;
    Arrays a;
    a.t = memory;
    a.c = a.t + size;
    a.total = a.c + size;
    a.q = a.total + size;
    a.shift = a.q + m;
    a.inverse_columns = a.shift + m;
    a.partial = a.inverse_columns + m;
    a.row_shift = a.partial + WARPS * m;
    a.row_sum = a.row_shift + n;
    a.inverse_rows = a.row_sum + n;
    a.cheapest = reinterpret_cast<int*>(a.inverse_rows + n);
    return a;
}

__device__ inline bool allowed(T cost) { return cost < T(INFINITE); }

// Fills the inverse counts of allowed pairs; returns whether all pairs are allowed, the same in all threads.
__device__ inline bool count_pairs(const Arrays& a, const T* cost, int n, int m, bool slack, double* sums) {
    double pairs = 0;
    for (int j = threadIdx.x; j < m; j += THREADS) {
        int count = 0;
        for (int i = 0; i < n; ++i) count += allowed(cost[static_cast<long long>(i) * m + j]);
        a.inverse_columns[j] = count > 0 && !(slack && j == m - 1) ? T(1.0 / count) : T(0);
        pairs += count;
    }
    for (int i = warp_number(); i < n; i += WARPS) {
        int count = 0;
        for (int j = lane_number(); j < m; j += LANES) count += allowed(cost[static_cast<long long>(i) * m + j]);
        count = warp_sum(count);
        if (lane_number() == 0) a.inverse_rows[i] = count > 0 ? T(1.0 / count) : T(0);
    }
    return block_sum(pairs, sums) == double(n) * m;
}

// `oracle.start`, into t.
__device__ inline void start(const Arrays& a, int n, int m, bool slack, double* sums) {
    const int columns = slack ? m - 1 : m;
    const T infinite = INFINITE;
    double most = -infinite;
    for (int j = threadIdx.x; j < columns; j += THREADS) {
        int first = 0;
        T least = a.c[j];
        for (int i = 0; i < n; ++i) {
            const T value = a.c[i * m + j];
            if (value < least) least = value, first = i;
            if (value < infinite) most = larger(most, double(value));
        }
        a.cheapest[j] = first;
    }
    const T highest = T(block_sum<true>(most, sums));  // a barrier, too
    for (int i = warp_number(); i < n; i += WARPS) {
        int best = m;
        T lowest = infinite;
        for (int j = lane_number(); j < m; j += LANES) {
            T value = a.c[i * m + j];
            a.t[i * m + j] = 0;
            if (value < infinite) {
                if (j < columns && a.cheapest[j] != i) value = highest;
                if (best == m || value < lowest) best = j, lowest = value;
            }
        }
        for (int distance = LANES / 2; distance > 0; distance /= 2) {
            const int other = __shfl_xor_sync(ALL, best, distance);
            const T value = __shfl_xor_sync(ALL, lowest, distance);
            if (other < m && (best == m || value < lowest || (value == lowest && other < best))) best = other, lowest = value;
        }
        __syncwarp();
        if (lane_number() == 0 && best < m) a.t[i * m + best] = 1;
    }
    __syncthreads();
}

// Algorithm 1 of the paper, `op.dmm`: cost (batch, n, m), +inf where forbidden, to X (batch, n, m) and, if `keep`, bits
// (batch, n_grad n_proj, n + 1, ceil(m / 8)): for each round those of the rows of t, then those of q. A block has
// `bytes` of `workspace`, unless it is `in_shared`.
extern "C" __global__ void __launch_bounds__(THREADS) dmm(
    const T* cost, unsigned char* workspace, T* X, unsigned char* bits, int batch, int n, int m, int n_grad, int n_proj,
    int average, int slack, int keep, int in_shared, int bytes, double step_size
) {
    SHARED_MEMORY(memory);
    double* const sums = reinterpret_cast<double*>(memory);
    unsigned char* const own = in_shared ? memory + 8 * ((WARPS + 1) / 2 * 2) : workspace + blockIdx.x * static_cast<long long>(bytes);
    const Arrays a = make_arrays(reinterpret_cast<T*>(own), n, m);
    const int lane = lane_number(), w = warp_number(), stride = (m + 7) / 8;
    const long long size = static_cast<long long>(n) * m, round_size = static_cast<long long>(n + 1) * stride;
    const T step = T(step_size), share = T(1.0 / n_grad), infinite = INFINITE;
    for (int b = blockIdx.x; b < batch; b += gridDim.x) {
        __syncthreads();
        for (int e = threadIdx.x; e < size; e += THREADS) a.c[e] = cost[b * size + e], a.total[e] = 0;
        __syncthreads();
        const bool dense = count_pairs(a, a.c, n, m, slack, sums);
        start(a, n, m, slack, sums);
        for (int i = 0; i < n_grad; ++i) {
            for (int j = threadIdx.x; j < m; j += THREADS) a.q[j] = a.shift[j] = 0;
            for (int first = GROUP * w; first < n; first += GROUP * WARPS)
                for (int r = first; r < smaller(first + GROUP, n); ++r) {
                    for (int j = lane; j < m; j += LANES) a.t[r * m + j] -= step * a.c[r * m + j];
                    if (lane == 0) a.row_shift[r] = 0;
                }
            __syncthreads();
            for (int turn = 0; turn < n_proj; ++turn) {
                unsigned char* place = keep ? bits + ((static_cast<long long>(b) * n_grad + i) * n_proj + turn) * round_size : nullptr;
                for (int first = GROUP * w; first < n; first += GROUP * WARPS) {
                    T sum[GROUP], back[GROUP];
#pragma unroll
                    for (int r = 0; r < GROUP; ++r) sum[r] = 0, back[r] = first + r < n ? a.row_shift[first + r] : T(0);
                    for (int base = 0; base < m; base += LANES) {
                        const int j = base + lane;
                        const T along = j < m ? a.shift[j] : T(0);
                        T column = j < m && first >= GROUP * WARPS ? a.partial[w * m + j] : T(0);
#pragma unroll
                        for (int r = 0; r < GROUP; ++r)
                            if (first + r < n) {
                                T* const at = a.t + (first + r) * m + j;
                                const T moved = j < m ? *at + (along - back[r]) : -infinite;
                                if (j < m) *at = moved;
                                const bool positive = moved > 0;
                                const T kept = positive ? moved : T(0);
                                column += kept;
                                sum[r] += kept;
                                if (keep) {
                                    const unsigned word = __ballot_sync(ALL, positive);
                                    if (lane < 4 && base / 8 + lane < stride)
                                        place[(first + r) * stride + base / 8 + lane] = (word >> (8 * lane)) & 255;
                                }
                            }
                        if (j < m) a.partial[w * m + j] = column;
                    }
#pragma unroll
                    for (int r = 0; r < GROUP; ++r) {
                        sum[r] = warp_sum(sum[r]);
                        if (lane == 0 && first + r < n) a.row_sum[first + r] = sum[r];
                    }
                }
                __syncthreads();
                for (int base = LANES * w; base < m; base += THREADS) {
                    const int j = base + lane;
                    bool positive = false;
                    if (j < m) {
                        T column = 0;
                        for (int other = 0; other < WARPS; ++other) column += a.partial[other * m + j];
                        const T old = a.q[j], moved = old + (column - T(1)) * a.inverse_columns[j];
                        positive = moved > 0;
                        const T now = positive ? moved : T(0);
                        a.q[j] = now, a.shift[j] = old - now;
                    }
                    if (keep) {
                        const unsigned word = __ballot_sync(ALL, positive);
                        if (lane < 4 && base / 8 + lane < stride)
                            place[n * stride + base / 8 + lane] = (word >> (8 * lane)) & 255;
                    }
                }
                __syncthreads();
                T shifted = 0;
                if (dense) {
                    for (int j = lane; j < m; j += LANES) shifted += a.shift[j];
                    shifted = warp_sum(shifted);
                }
                for (int first = GROUP * w; first < n; first += GROUP * WARPS)
                    for (int r = first; r < smaller(first + GROUP, n); ++r) {
                        if (!dense) {
                            shifted = 0;
                            for (int j = lane; j < m; j += LANES) shifted += allowed(a.c[r * m + j]) ? a.shift[j] : T(0);
                            shifted = warp_sum(shifted);
                        }
                        if (lane == 0) a.row_shift[r] = (a.row_sum[r] + shifted - T(1)) * a.inverse_rows[r];
                    }
                __syncwarp();
            }
            for (int first = GROUP * w; first < n; first += GROUP * WARPS)
                for (int r = first; r < smaller(first + GROUP, n); ++r)
                    for (int j = lane; j < m; j += LANES) {
                        const int e = r * m + j;
                        const T kept = a.t[e] > 0 ? a.t[e] : T(0);
                        a.t[e] = kept + (a.shift[j] - a.row_shift[r]);
                        a.total[e] += a.t[e];
                    }
            __syncthreads();  // shifts have been read
        }
        for (int e = threadIdx.x; e < size; e += THREADS)
            X[b * size + e] = !allowed(a.c[e]) ? T(0) : average ? a.total[e] * share : a.t[e];
    }
}

// The gradient of <grad, X> with respect to the cost, along the path that the bits remember: `op.dmm_adjoint`.
extern "C" __global__ void __launch_bounds__(THREADS) dmm_adjoint(
    const T* cost, const unsigned char* bits, const T* grad, unsigned char* workspace, T* out, int batch, int n, int m,
    int n_grad, int n_proj, int average, int slack, int in_shared, int bytes, double step_size
) {
    SHARED_MEMORY(memory);
    double* const sums = reinterpret_cast<double*>(memory);
    unsigned char* const own = in_shared ? memory + 8 * ((WARPS + 1) / 2 * 2) : workspace + blockIdx.x * static_cast<long long>(bytes);
    const Arrays a = make_arrays(reinterpret_cast<T*>(own), n, m);
    const int lane = lane_number(), w = warp_number(), stride = (m + 7) / 8;
    const long long size = static_cast<long long>(n) * m, round_size = static_cast<long long>(n + 1) * stride;
    const T share = average ? T(1.0 / n_grad) : T(1);
    for (int b = blockIdx.x; b < batch; b += gridDim.x) {
        const T* own_cost = cost + b * size;
        __syncthreads();
        const bool dense = count_pairs(a, own_cost, n, m, slack, sums);
        for (int e = threadIdx.x; e < size; e += THREADS) {
            a.t[e] = a.c[e] = allowed(own_cost[e]) ? grad[b * size + e] * share : T(0);
            a.total[e] = 0;
        }
        __syncthreads();
        for (int i = n_grad - 1; i >= 0; --i) {
            for (int j = threadIdx.x; j < m; j += THREADS) a.q[j] = 0;
            for (int first = GROUP * w; first < n; first += GROUP * WARPS)
                for (int r = first; r < smaller(first + GROUP, n); ++r) {
                    T sum = 0;
                    for (int j = lane; j < m; j += LANES) {
                        const T value = a.t[r * m + j];
                        sum += value;
                        T* const column = a.partial + w * m + j;
                        *column = (r == GROUP * w ? T(0) : *column) + value;
                    }
                    sum = warp_sum(sum);
                    if (lane == 0) a.row_sum[r] = sum;
                }
            __syncthreads();
            for (int turn = n_proj - 1; turn >= 0; --turn) {
                const unsigned char* place = bits + ((static_cast<long long>(b) * n_grad + i) * n_proj + turn) * round_size;
                T pulled = 0;
                for (int r = lane; r < n; r += LANES) pulled -= a.row_sum[r] * a.inverse_rows[r];
                pulled = warp_sum(pulled);
                for (int j = threadIdx.x; j < m; j += THREADS) {
                    T pull = 0;
                    for (int other = 0; other < WARPS; ++other) pull += a.partial[other * m + j];
                    if (dense)
                        pull += pulled;
                    else
                        for (int r = 0; r < n; ++r)
                            if (allowed(own_cost[static_cast<long long>(r) * m + j])) pull -= a.row_sum[r] * a.inverse_rows[r];
                    const bool positive = (place[n * stride + j / 8] >> (j % 8)) & 1;
                    const T s = positive ? a.q[j] - pull : T(0);
                    a.shift[j] = s * a.inverse_columns[j];
                    a.q[j] = pull + s;
                }
                __syncthreads();
                for (int first = GROUP * w; first < n; first += GROUP * WARPS) {
                    T sum[GROUP], back[GROUP];
#pragma unroll
                    for (int r = 0; r < GROUP; ++r) {
                        sum[r] = 0;
                        back[r] = first + r < n ? -a.row_sum[first + r] * a.inverse_rows[first + r] : T(0);
                    }
                    for (int j = lane; j < m; j += LANES) {
                        const T along = a.shift[j];
                        T column = first >= GROUP * WARPS ? a.partial[w * m + j] : T(0);
#pragma unroll
                        for (int r = 0; r < GROUP; ++r)
                            if (first + r < n) {
                                T* const at = a.t + (first + r) * m + j;
                                const bool positive = (place[(first + r) * stride + j / 8] >> (j % 8)) & 1;
                                const T old = *at;
                                const T now = positive ? old + (back[r] + along) : turn == n_proj - 1 ? T(0) : old;
                                *at = now;
                                column += now;
                                sum[r] += now;
                            }
                        a.partial[w * m + j] = column;
                    }
                    __syncwarp();
#pragma unroll
                    for (int r = 0; r < GROUP; ++r) {
                        sum[r] = warp_sum(sum[r]);
                        if (lane == 0 && first + r < n) a.row_sum[first + r] = sum[r];
                    }
                }
                __syncthreads();
            }
            for (int first = GROUP * w; first < n; first += GROUP * WARPS)
                for (int r = first; r < smaller(first + GROUP, n); ++r)
                    for (int j = lane; j < m; j += LANES) {
                        const int e = r * m + j;
                        a.total[e] -= a.t[e];
                        if (average) a.t[e] += a.c[e];
                    }
            __syncthreads();
        }
        for (int e = threadIdx.x; e < size; e += THREADS) out[b * size + e] = a.total[e] * T(step_size);
    }
}
