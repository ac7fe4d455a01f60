// Entropic matching on the GPU: one block solves one problem by the sweeps and Newton steps of
// difflayers/matching/entropic/kernels.py, with the same steps, line search, stages and names. Its derivative is
// `entropic_centre`. All arithmetic is double; SCALAR is what matrices come and go in.
//
// Columns belong to threads, rows to warps. Newton's system is always that of the rows. Rows and columns that are not there
// stay in their place: all their pairs are forbidden. Whatever steers the method (residuals, slopes) is the same number in
// all threads, so that they take the same turns.

#include "common.cuh"

constexpr double STAGE = 4.0;
constexpr double SMOOTH = 8.0;
constexpr double ROUGH = 0.1;
constexpr double SWEEP = 0.5;
constexpr double REACH = 6.0;
constexpr int SEARCH = 8;
constexpr int KINKS = 6;
constexpr int WARM = 30;
constexpr double TINY = 1e-300;
constexpr double HIGHEST = 709.0;

// A problem's numbers, in shared memory or, if there is not room enough, in global memory.
struct Entropic {
    double* a;        // n x m: -cost / epsilon, row minima of the cost taken off
    double* x;        // n x m
    double* H;        // n x n, its upper triangle
    double* r;        // n: the sum of a row, 0 if it is not there
    double* lowest;   // n
    double* f;        // n
    double* old;      // n
    double* rows;     // n: row sums of x
    double* d;        // n
    double* excess;   // n
    double* inverse;  // n: of the pivots
    double* g;        // m
    double* columns;  // m: column sums of x
    double* limit;    // m: the sum of a column, inf if it is free
    int* holds;       // m
    int* equal;       // m: whether the sum is an equality
    double* sums;     // WARPS
    int n, n_all, m;  // rows with a sum, all rows, columns
};

__device__ inline Entropic make_entropic(unsigned char* memory, double* sums, int n, int m, bool free_row) {
    const long long size = static_cast<long long>(n) * m;
    Entropic p;
    p.a = reinterpret_cast<double*>(memory);
    p.x = p.a + size;
    p.H = p.x + size;
    p.r = p.H + n * n;
    p.lowest = p.r + n;
    p.f = p.lowest + n;
    p.old = p.f + n;
    p.rows = p.old + n;
    p.d = p.rows + n;
    p.excess = p.d + n;
    p.inverse = p.excess + n;
    p.g = p.inverse + n;
    p.columns = p.g + m;
    p.limit = p.columns + m;
    p.holds = reinterpret_cast<int*>(p.limit + m);
    p.equal = p.holds + m;
    p.sums = sums;
    p.n = n - free_row, p.n_all = n, p.m = m;
    return p;
}

__device__ inline double bounded_exp(double value) { return exp(value < HIGHEST ? value : HIGHEST); }

// max |X 1 - r| / r.
__device__ inline double row_residual(const Entropic& p) {
    double worst = 0;
    for (int i = threadIdx.x; i < p.n; i += THREADS) {
        const double off = p.r[i] > 0 ? fabs(p.rows[i] / p.r[i] - 1) : 0.0;
        if (!(off <= worst)) worst = off == off ? off : INFINITE;
    }
    return block_sum<true>(worst, p.sums);
}

// x = exp(t a + f + g) with the best g for this f, row and column sums, and which columns hold. Returns the residual.
__device__ __noinline__ double evaluate(const Entropic& p, double t) {
    __syncthreads();  // f is there
    for (int j = threadIdx.x; j < p.m; j += THREADS) {
        double highest = -1e300, total = TINY;
        for (int i = 0; i < p.n_all; ++i) highest = larger(highest, t * p.a[i * p.m + j] + p.f[i]);
        for (int i = 0; i < p.n_all; ++i) {
            const double value = exp(t * p.a[i * p.m + j] + p.f[i] - highest);
            p.x[i * p.m + j] = value;
            total += value;
        }
        const double free = bounded_exp(highest), full = p.limit[j] / total;
        const bool hold = (p.equal[j] || free > full) && full < INFINITE;
        const double factor = hold ? full : free;
        p.holds[j] = hold && full > 0;
        p.g[j] = p.holds[j] ? log(full) - highest : 0.0;
        if (!p.equal[j] && p.g[j] > 0) p.g[j] = 0;
        p.columns[j] = factor * total;
        for (int i = 0; i < p.n_all; ++i) p.x[i * p.m + j] *= factor;
    }
    __syncthreads();
    for (int i = warp_number(); i < p.n_all; i += WARPS) {
        double total = 0;
        for (int j = lane_number(); j < p.m; j += LANES) total += p.x[i * p.m + j];
        total = warp_sum(total);
        if (lane_number() == 0) p.rows[i] = total;
    }
    __syncthreads();
    return row_residual(p);
}

// f_i = log r_i - log sum_j exp(t a_ij + g_j), for one row by one thread.
__device__ inline double row_multiplier(const Entropic& p, double t, int i, bool with_g) {
    double top = -INFINITE, total = 0;
    for (int j = 0; j < p.m; ++j) top = larger(top, t * p.a[i * p.m + j] + (with_g ? p.g[j] : 0.0));
    for (int j = 0; j < p.m; ++j) total += exp(t * p.a[i * p.m + j] + (with_g ? p.g[j] : 0.0) - top);
    return log(p.r[i] / total) - top;
}

__device__ inline void sweep(const Entropic& p, double t) {
    for (int i = threadIdx.x; i < p.n; i += THREADS) {
        if (!(p.r[i] > 0)) continue;
        if (p.rows[i] > TINY && p.rows[i] < INFINITE)
            p.f[i] += log(p.r[i] / p.rows[i]);
        else
            p.f[i] = row_multiplier(p, t, i, true);
    }
}

__device__ inline bool counts(const Entropic& p, int j) { return p.holds[j] && p.columns[j] > TINY; }

// H_ik = sum_j x_ij x_kj / columns_j over the columns that hold, i < k < n, and excess_i, what x_i has elsewhere.
__device__ inline void laplacian(const Entropic& p) {
    for (int e = threadIdx.x; e < p.n * p.n; e += THREADS) {
        const int i = e / p.n, k = e % p.n;
        if (k < i) continue;
        double total = 0;
        for (int j = 0; j < p.m; ++j) {
            if (counts(p, j)) {
                double other = p.x[k * p.m + j];
                if (k == i) {
                    other = 0;
                    for (int q = p.n; q < p.n_all; ++q) other += p.x[q * p.m + j];
                }
                total += p.x[i * p.m + j] * (other / p.columns[j]);
            } else if (k == i) {
                total += p.x[i * p.m + j];
            }
        }
        if (k == i)
            p.excess[i] = total;
        else
            p.H[e] = total;
    }
    __syncthreads();
}

// d = L^-1 d for the Laplacian of H and excess, without a subtraction; see kernels._solve_laplacian.
__device__ __noinline__ void solve_laplacian(const Entropic& p) {
    for (int k = 0; k < p.n; ++k) {
        const double* const row = p.H + k * p.n;
        double pivot = 0;
        for (int q = k + 1 + lane_number(); q < p.n; q += LANES) pivot += row[q];
        pivot = warp_sum(pivot) + p.excess[k];
        const double inverse = pivot > TINY ? 1 / pivot : 0.0;
        if (threadIdx.x == 0) p.inverse[k] = inverse;
        for (int i = k + 1 + warp_number(); i < p.n; i += WARPS) {
            const double w = row[i] * inverse;
            if (lane_number() == 0) {
                p.excess[i] += w * p.excess[k];
                p.d[i] += w * p.d[k];
            }
            for (int q = i + 1 + lane_number(); q < p.n; q += LANES) p.H[i * p.n + q] += w * row[q];
        }
        __syncthreads();
    }
    if (warp_number() == 0) {
        for (int k = p.n - 1; k >= 0; --k) {
            double total = 0;
            for (int q = k + 1 + lane_number(); q < p.n; q += LANES) total += p.H[k * p.n + q] * p.d[q];
            const double value = (p.d[k] + warp_sum(total)) * p.inverse[k];
            __syncwarp();
            if (lane_number() == 0) p.d[k] = value;
            __syncwarp();
        }
    }
    __syncthreads();
}

// The step d of f that minimises the quadratic model in f and g <= 0: which columns hold is found by trial.
__device__ __noinline__ void newton_step(const Entropic& p) {
    for (int turn = 0; turn < KINKS; ++turn) {
        for (int i = warp_number(); i < p.n; i += WARPS) {
            double total = 0;
            for (int j = lane_number(); j < p.m; j += LANES) {
                if (counts(p, j))
                    total -= p.x[i * p.m + j] * ((p.limit[j] - p.columns[j]) / p.columns[j]);
                else if (!p.holds[j] && p.g[j] < 0)
                    total += p.x[i * p.m + j] * p.g[j];
            }
            total = warp_sum(total) + p.r[i] - p.rows[i];
            if (lane_number() == 0) p.d[i] = total;
        }
        laplacian(p);
        solve_laplacian(p);
        double changed = 0;
        for (int j = threadIdx.x; j < p.m; j += THREADS) {
            if (p.equal[j] || !(p.limit[j] < INFINITE) || !(p.limit[j] > 0)) continue;
            double moved = 0;
            for (int i = 0; i < p.n; ++i) moved += p.x[i * p.m + j] * p.d[i];
            const int hold = p.limit[j] - p.columns[j] - moved < -p.g[j] * p.columns[j];
            if (hold != p.holds[j]) changed = 1;
            p.holds[j] = hold;
        }
        if (block_sum<true>(changed, p.sums) == 0) break;
    }
}

// sum_i (rows_i - r_i) d_i, the same bits in all threads.
__device__ inline double slope_along(const Entropic& p) {
    double total = 0;
    for (int i = lane_number(); i < p.n; i += LANES) total += (p.rows[i] - p.r[i]) * p.d[i];
    return warp_sum(total);
}

// From f on, in place, down to a residual of `goal`. Returns the evaluations.
__device__ __noinline__ int minimise(const Entropic& p, double t, double goal, int budget, double* reached) {
    double residual = evaluate(p, t);
    int used = 1;
    while (!(residual <= goal) && used < budget) {
        if (!(residual <= SWEEP)) {
            sweep(p, t);
            residual = evaluate(p, t);
            ++used;
            if (residual <= goal || used >= budget || !(residual < INFINITE)) continue;
        }
        newton_step(p);
        const double slope = slope_along(p);
        double lowest = INFINITE, uppermost = -INFINITE;
        for (int i = lane_number(); i < p.n; i += LANES)
            lowest = -larger(-lowest, -p.d[i]), uppermost = larger(uppermost, p.d[i]);
        for (int distance = LANES / 2; distance > 0; distance /= 2) {
            lowest = -larger(-lowest, -__shfl_xor_sync(ALL, lowest, distance));
            uppermost = larger(uppermost, __shfl_xor_sync(ALL, uppermost, distance));
        }
        if (!(slope < 0)) {
            evaluate(p, t);  // which columns hold at f, not in Newton's model
            sweep(p, t);
            residual = evaluate(p, t);
            ++used;
            continue;
        }
        for (int i = threadIdx.x; i < p.n; i += THREADS) p.old[i] = p.f[i];
        double step = REACH / larger(uppermost - lowest, TINY);
        if (step > 1) step = 1;
        double low = 0, at_low = slope, high = INFINITE, at_high = 0;
        bool found = false;
        for (int turn = 0; turn < SEARCH; ++turn) {
            __syncthreads();
            for (int i = threadIdx.x; i < p.n; i += THREADS) p.f[i] = p.old[i] + step * p.d[i];
            const double there = evaluate(p, t), here = slope_along(p);
            ++used;
            found = (0.9 * slope <= here && here <= -0.5 * slope) || there <= larger(goal, 0.5 * residual);
            if (found || used >= budget) break;
            if (here < 0)
                low = step, at_low = here;
            else
                high = step, at_high = here;
            if (high == INFINITE)
                step = 2 * step;
            else if (turn % 2 == 0 || !(at_high < INFINITE))
                step = 0.5 * (low + high);
            else
                step = low + (high - low) * at_low / (at_low - at_high);
        }
        if (!found && used < budget) {
            __syncthreads();
            for (int i = threadIdx.x; i < p.n; i += THREADS) p.f[i] = p.old[i] + low * p.d[i];
            evaluate(p, t);
            sweep(p, t);
            evaluate(p, t);
            used += 2;
        }
        residual = row_residual(p);
    }
    *reached = residual;
    return used;
}

// a, r, limit and the rest of a problem from what is given. Returns the range of a; *square: see kernels._gather.
__device__ inline double gather(
    const Entropic& p, const T* cost, double epsilon, const double* row_sums, const double* column_sums, bool equal,
    bool* square
) {
    double total = 0, room = 0, spread = 0;
    for (int i = threadIdx.x; i < p.n_all; i += THREADS) {
        p.r[i] = row_sums[i];
        p.f[i] = 0;
        if (row_sums[i] == INFINITE) room = INFINITE; else total += row_sums[i];
    }
    for (int j = threadIdx.x; j < p.m; j += THREADS) {
        bool used = false;
        for (int i = 0; i < p.n_all; ++i)
            used = used || (row_sums[i] > 0 && double(cost[static_cast<long long>(i) * p.m + j]) < INFINITE);
        p.limit[j] = used ? column_sums[j] : 0.0;
        p.equal[j] = equal && p.limit[j] > 0 && p.limit[j] < INFINITE;
        room += p.limit[j];
    }
    total = block_sum(total, p.sums), room = block_sum(room, p.sums);
    *square = !equal && room == total;
    if (*square)
        for (int j = threadIdx.x; j < p.m; j += THREADS) p.equal[j] = p.limit[j] > 0;
    __syncthreads();
    for (int i = warp_number(); i < p.n_all; i += WARPS) {
        const T* const row = cost + static_cast<long long>(i) * p.m;
        double low = -INFINITE;
        for (int j = lane_number(); j < p.m; j += LANES)
            if (p.limit[j] > 0) low = larger(low, -double(row[j]));
        for (int distance = LANES / 2; distance > 0; distance /= 2)
            low = larger(low, __shfl_xor_sync(ALL, low, distance));
        low = i < p.n && low > -INFINITE ? -low : 0.0;
        if (lane_number() == 0) p.lowest[i] = low;
        for (int j = lane_number(); j < p.m; j += LANES) {
            const bool there = p.limit[j] > 0 && p.r[i] > 0;
            const double value = there ? -(double(row[j]) - low) / epsilon : -INFINITE;
            p.a[i * p.m + j] = value;
            if (value > -INFINITE) spread = larger(spread, fabs(value));
        }
    }
    return block_sum<true>(spread, p.sums);
}

__device__ inline void start_rows(const Entropic& p, double t) {
    for (int i = threadIdx.x; i < p.n; i += THREADS) p.f[i] = p.r[i] > 0 ? row_multiplier(p, t, i, false) : 0.0;
}

// `op.entropic`; see kernels.entropic. A block has `bytes` of `workspace`, unless it is IN_SHARED.
extern "C" __global__ void __launch_bounds__(THREADS) entropic(
    const T* cost, const double* epsilon, const double* row_sums, const double* column_sums, const double* start, int* ticket,
    unsigned char* workspace, T* X, double* alpha, double* beta, bool* tight, long long* iterations, double* residuals,
    int batch, int n, int m, int equal, int free_row, int gauge, int given, int max_iter, int bytes, double tolerance
) {
    SHARED_MEMORY(memory);
    double* const sums = reinterpret_cast<double*>(memory);
    int* const number = reinterpret_cast<int*>(sums + (WARPS + 1) / 2 * 2);
    unsigned char* const own = IN_SHARED ? reinterpret_cast<unsigned char*>(number + 4) : workspace + blockIdx.x * static_cast<long long>(bytes);
    while (true) {
        const int b = next_problem(ticket, number);
        if (b >= batch) break;
        const long long size = static_cast<long long>(n) * m, first_row = static_cast<long long>(b) * n;
        const long long first_column = static_cast<long long>(b) * m;
        const Entropic p = make_entropic(own, sums, n, m, free_row);
        bool square;
        const double spread =
            gather(p, cost + b * size, epsilon[b], row_sums + first_row, column_sums + first_column, equal, &square);
        double residual = 0, s = 1;
        int used = 0;
        bool done = false;
        if (given) {
            for (int i = threadIdx.x; i < p.n; i += THREADS)
                p.f[i] = p.r[i] > 0 ? -(start[first_row + i] + p.lowest[i]) / epsilon[b] : 0.0;
            used = minimise(p, 1, tolerance, smaller(WARM, max_iter), &residual);
            done = residual <= tolerance || used >= max_iter;
        }
        if (!done) {
            while (s * SMOOTH < spread) s *= STAGE;
            __syncthreads();
            start_rows(p, 1 / s);
        }
        while (!done) {
            used += minimise(p, 1 / s, s > 1 ? ROUGH : tolerance, larger(1, max_iter - used), &residual);
            done = s == 1;
            const double ratio = s < STAGE ? s : STAGE;
            s /= ratio;
            __syncthreads();
            for (int i = threadIdx.x; i < p.n; i += THREADS) p.f[i] *= ratio;
        }
        __syncthreads();
        double worst = 0, highest = -INFINITE, there = 0;
        for (int i = threadIdx.x; i < p.n_all; i += THREADS) there += p.r[i] > 0;
        const bool empty = block_sum(there, p.sums) == 0;
        for (int j = threadIdx.x; j < p.m; j += THREADS) {
            if (!(p.limit[j] > 0)) continue;
            double total = 0;
            for (int i = 0; i < p.n_all; ++i) total += p.x[i * p.m + j];
            double off = total / p.limit[j] - 1;
            if (p.equal[j]) off = fabs(off);
            if (!(off <= worst)) worst = off == off ? off : INFINITE;
            highest = larger(highest, p.g[j]);
        }
        worst = empty ? 0.0 : larger(block_sum<true>(worst, p.sums), residual);
        highest = block_sum<true>(highest, p.sums);
        double shift = square && highest > -INFINITE ? highest : 0.0;
        if (gauge && p.r[n - 1] > 0) shift = -p.f[n - 1] - p.lowest[n - 1] / epsilon[b];
        for (int i = threadIdx.x; i < n; i += THREADS)
            alpha[first_row + i] = i < p.n && p.r[i] > 0 ? -epsilon[b] * (p.f[i] + shift) - p.lowest[i] : 0.0;
        for (int j = threadIdx.x; j < m; j += THREADS) {
            beta[first_column + j] = p.limit[j] > 0 && !empty ? epsilon[b] * (shift - p.g[j]) : 0.0;
            tight[first_column + j] = p.holds[j] && !empty;
        }
        for (int e = threadIdx.x; e < size; e += THREADS) X[b * size + e] = T(p.x[e]);
        if (threadIdx.x == 0) iterations[b] = empty ? 0 : used, residuals[b] = worst;
    }
}

// `op.entropic_centre`; see kernels.entropic_centre.
extern "C" __global__ void __launch_bounds__(THREADS) entropic_centre(
    const T* X, const bool* tight, const T* G, unsigned char* workspace, T* Y, double* a, double* b, int batch, int n, int m,
    int free_row, int bytes
) {
    SHARED_MEMORY(memory);
    double* const sums = reinterpret_cast<double*>(memory);
    unsigned char* const own = IN_SHARED ? memory + 8 * ((WARPS + 1) / 2 * 2) + 16 : workspace + blockIdx.x * static_cast<long long>(bytes);
    const Entropic p = make_entropic(own, sums, n, m, free_row);
    double* const centred = p.a;
    for (int k = blockIdx.x; k < batch; k += gridDim.x) {
        const long long size = static_cast<long long>(n) * m;
        __syncthreads();
        for (int j = threadIdx.x; j < m; j += THREADS) {
            double total = 0, mean = 0;
            for (int i = 0; i < n; ++i) {
                const double x = double(X[k * size + i * m + j]), value = x > 0 ? double(G[k * size + i * m + j]) : 0.0;
                p.x[i * m + j] = x, centred[i * m + j] = value;
                total += x, mean += x * value;
            }
            p.columns[j] = total;
            p.holds[j] = tight[static_cast<long long>(k) * m + j];
            mean = counts(p, j) ? mean / total : 0.0;
            p.g[j] = mean;
            for (int i = 0; i < n; ++i) centred[i * m + j] -= mean;
        }
        __syncthreads();
        for (int i = warp_number(); i < p.n; i += WARPS) {
            double total = 0;
            for (int j = lane_number(); j < m; j += LANES) total += p.x[i * m + j] * centred[i * m + j];
            total = warp_sum(total);
            if (lane_number() == 0) p.d[i] = total;
        }
        laplacian(p);
        solve_laplacian(p);
        for (int j = threadIdx.x; j < m; j += THREADS) {
            double moved = 0;
            for (int i = 0; i < p.n; ++i) moved += p.x[i * m + j] * p.d[i];
            const double h = counts(p, j) ? -moved / p.columns[j] : 0.0;
            b[static_cast<long long>(k) * m + j] = p.g[j] + h;
            for (int i = 0; i < n; ++i) {
                const double row = i < p.n ? p.d[i] : 0.0;
                Y[k * size + i * m + j] = p.x[i * m + j] > 0 ? T(p.x[i * m + j] * (centred[i * m + j] - row - h)) : T(0);
            }
        }
        for (int i = threadIdx.x; i < n; i += THREADS) a[static_cast<long long>(k) * n + i] = i < p.n ? p.d[i] : 0.0;
    }
}
