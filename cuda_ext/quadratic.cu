// Quadratic matching on the GPU: one block solves one problem by the semismooth Newton method of
// difflayers/matching/quadratic/kernels.py, with the same steps, line search, stages and names. Its derivative is
// `quadratic_adjoint`. All arithmetic is double; SCALAR is what matrices come and go in.
//
// Columns belong to threads, rows to warps. Whatever steers the method (residuals, slopes) is the same number in all
// threads, so that they take the same turns.

#include "common.cuh"

constexpr double RIDGE = 1e-3;
constexpr int DIRECT_STEPS = 20;
constexpr double STAGE = 10.0;
constexpr double ROUGH = 1e-2;

// A problem's numbers, in shared memory or, if there is not room enough, in global memory.
struct Newton {
    double* c;         // n x m: the cost
    double* a;         // n x m: the scores
    double* x;         // n x m
    double* H;         // n x n, its lower triangle
    double* alpha;     // n
    double* gradient;  // n
    double* step;      // n
    double* trial;     // n
    double* inverse;   // n: 1 / the diagonal of H's factor
    double* U;         // n: known multipliers of rows
    double* beta;      // m
    double* share;     // m
    double* low;       // m: bounds of beta
    double* V;         // m: known multipliers of columns
    int* rows;         // n
    int* columns;      // m
    double* sums;      // WARPS
    int n, m;          // rows and columns that take part
    bool slack;
};

__device__ inline Newton make_newton(unsigned char* memory, double* sums, int n, int m, bool slack) {
    const long long size = static_cast<long long>(n) * m;
    Newton p;
    p.c = reinterpret_cast<double*>(memory);
    p.a = p.c + size;
    p.x = p.a + size;
    p.H = p.x + size;
    p.alpha = p.H + n * n;
    p.gradient = p.alpha + n;
    p.step = p.gradient + n;
    p.trial = p.step + n;
    p.inverse = p.trial + n;
    p.U = p.inverse + n;
    p.beta = p.U + n;
    p.share = p.beta + m;
    p.low = p.share + m;
    p.V = p.low + m;
    p.rows = reinterpret_cast<int*>(p.V + m);
    p.columns = p.rows + n;
    p.sums = sums;
    p.n = n, p.m = m, p.slack = slack;
    return p;
}

// The dot product of two vectors, the same bits in all threads.
__device__ inline double dot(const double* x, const double* y, int size) {
    double total = 0;
    for (int i = lane_number(); i < size; i += LANES) total += x[i] * y[i];
    return warp_sum(total);
}

// x[:, j] = max(0, a[:, j] - alpha - beta) with the least beta >= low for which it sums to at most 1 (Michelot 1986). Returns by
// how much x breaks what is asked of it: a sum of at most 1, or of 1 where beta > low.
__device__ inline double project_column(const Newton& p, const double* alpha, int j) {
    const double* const a = p.a + j;
    const double low = p.low[j];
    double top = -INFINITE;
    for (int i = 0; i < p.n; ++i) top = larger(top, a[i * p.m] - alpha[i]);
    double beta = larger(low, top - 1);  // below it the sum is at least 1
    int count = p.n + 1;
    while (true) {
        double total = 0;
        int left = 0;
        for (int i = 0; i < p.n; ++i) {
            const double value = a[i * p.m] - alpha[i] - beta;
            if (value > 0) total += value, ++left;
        }
        if (count > p.n && beta <= low && !(total > 1)) break;
        if (left == 0) break;  // rounding: keep the last multiplier
        beta += (total - 1) / left;
        if (left >= count) break;
        count = left;
    }
    beta = larger(beta, low);
    double total = 0;
    for (int i = 0; i < p.n; ++i) {
        const double value = a[i * p.m] - alpha[i] - beta;
        p.x[i * p.m + j] = value > 0 ? value : 0;
        total += value > 0 ? value : 0;
    }
    p.beta[j] = beta;
    return beta > low ? fabs(total - 1) : larger(total - 1, 0.0);
}

// X and beta for given alpha, and the gradient of psi, 1 - X 1. Returns by how much rows and columns are off at most.
__device__ __noinline__ double evaluate(const Newton& p, const double* alpha) {
    __syncthreads();  // alpha is there
    double residual = 0;
    for (int j = threadIdx.x; j < p.m; j += THREADS) {
        if (p.slack && j == p.m - 1) {
            p.beta[j] = 0;
            for (int i = 0; i < p.n; ++i) {
                const double value = p.a[i * p.m + j] - alpha[i];
                p.x[i * p.m + j] = value > 0 ? value : 0;
            }
        } else {
            residual = larger(residual, project_column(p, alpha, j));
        }
    }
    __syncthreads();
    for (int i = warp_number(); i < p.n; i += WARPS) {
        double total = 0;
        for (int j = lane_number(); j < p.m; j += LANES) total += p.x[i * p.m + j];
        total = 1 - warp_sum(total);
        if (lane_number() == 0) p.gradient[i] = total;
        residual = larger(residual, fabs(total));
    }
    return block_sum<true>(residual, p.sums);
}

// The lower triangle of sum_j D_j - [full_j] d_j d_j' / |d_j|^2 in H, for the supports d_j of x's columns.
template <class Number, class Full>
__device__ inline void hessian(const Newton& p, const Number* x, Full full) {
    for (int j = threadIdx.x; j < p.m; j += THREADS) {
        int count = 0;
        for (int i = 0; i < p.n; ++i) count += x[static_cast<long long>(i) * p.m + j] > 0;
        p.share[j] = full(j) && count > 0 ? 1.0 / count : 0.0;
    }
    __syncthreads();
    for (int e = threadIdx.x; e < p.n * p.n; e += THREADS) {
        const int i = e / p.n, q = e % p.n;
        if (q > i) continue;
        double total = 0;
        for (int j = 0; j < p.m; ++j) {
            const bool both = x[static_cast<long long>(i) * p.m + j] > 0 && x[static_cast<long long>(q) * p.m + j] > 0;
            if (both) total += (i == q ? 1.0 : 0.0) - p.share[j];
        }
        p.H[e] = total;
    }
    __syncthreads();
}

// b = H^-1 b by Cholesky's factorisation in place. The unknown of a pivot below `threshold` times its diagonal entry is 0.
__device__ __noinline__ void cholesky_solve(const Newton& p, double threshold, double* b) {
    const int n = p.n;
    double* const H = p.H;
    for (int j = 0; j < n; ++j) {
        double pivot = H[j * n + j];
        const double diagonal = pivot;
        pivot -= dot(H + j * n, H + j * n, j);
        const double inverse = pivot > threshold * diagonal ? 1 / sqrt(pivot) : 0;
        if (threadIdx.x == 0) p.inverse[j] = inverse;
        for (int i = j + 1 + threadIdx.x; i < n; i += THREADS) {
            double total = 0;
            for (int q = 0; q < j; ++q) total += H[i * n + q] * H[j * n + q];
            H[i * n + j] = (H[i * n + j] - total) * inverse;
        }
        __syncthreads();
    }
    if (warp_number() == 0) {
        for (int i = 0; i < n; ++i) {
            const double value = (b[i] - dot(H + i * n, b, i)) * p.inverse[i];
            __syncwarp();
            if (lane_number() == 0) b[i] = value;
            __syncwarp();
        }
        for (int i = n - 1; i >= 0; --i) {
            double total = 0;
            for (int q = i + 1 + lane_number(); q < n; q += LANES) total += H[q * n + i] * b[q];
            const double value = (b[i] - warp_sum(total)) * p.inverse[i];
            __syncwarp();
            if (lane_number() == 0) b[i] = value;
            __syncwarp();
        }
    }
    __syncthreads();
}

// trial = alpha + t step, with a slope of psi there between slope / 2 and (almost) 0. Returns the residual.
__device__ inline double line_search(const Newton& p, double slope) {
    double before = 0, at_before = slope, after = INFINITE, at_after = 0, t = 1, residual = 0;
    for (int turn = 0; turn < 60; ++turn) {
        __syncthreads();
        for (int i = threadIdx.x; i < p.n; i += THREADS) p.trial[i] = p.alpha[i] + t * p.step[i];
        residual = evaluate(p, p.trial);
        const double here = dot(p.gradient, p.step, p.n);
        if (0.5 * slope <= here && here <= -1e-3 * slope) break;
        if (here < 0)
            before = t, at_before = here;
        else
            after = t, at_after = here;
        if (after == INFINITE)
            t = 2 * t;
        else if (turn % 3 == 2)
            t = 0.5 * (before + after);
        else
            t = before + (after - before) * at_before / (at_before - at_after);
    }
    return residual;
}

// What can be moved from beta to alpha: by how much all beta are above 1, or (negative) below -1, if all columns are full.
__device__ inline double drift(const Newton& p) {
    double under = -INFINITE, most = -INFINITE, open = 0;
    for (int j = threadIdx.x; j < p.m; j += THREADS) {
        under = larger(under, -p.beta[j]), most = larger(most, p.beta[j]);
        if (!(p.beta[j] > p.low[j])) open = 1;
    }
    under = block_sum<true>(under, p.sums), most = block_sum<true>(most, p.sums);
    if (block_sum<true>(open, p.sums) > 0) return 0;
    return larger(-under - 1, 0.0) - larger(-most - 1, 0.0);
}

// Newton steps from alpha on, in place, down to a residual of `tolerance`. Returns their number.
__device__ __noinline__ int newton(const Newton& p, double tolerance, int steps, double* reached) {
    double residual = evaluate(p, p.alpha);
    int count = 0;
    for (; count < steps && residual > tolerance; ++count) {
        hessian(p, p.x, [&](int j) { return p.beta[j] > p.low[j]; });
        for (int i = threadIdx.x; i < p.n; i += THREADS) {
            p.H[i * p.n + i] += RIDGE * (residual < 1 ? residual : 1.0);
            p.step[i] = -p.gradient[i];
        }
        __syncthreads();
        cholesky_solve(p, 0, p.step);
        const double slope = dot(p.gradient, p.step, p.n);
        residual = line_search(p, slope);
        const double shift = drift(p);
        for (int i = threadIdx.x; i < p.n; i += THREADS) p.alpha[i] = p.trial[i] + shift;
        if (shift != 0) residual = evaluate(p, p.alpha);
    }
    *reached = residual;
    return count;
}

// alpha for rows alone: each row of max(a - alpha, 0) sums to 1, as if columns had no bound.
__device__ inline void rows_alone(const Newton& p) {
    for (int i = warp_number(); i < p.n; i += WARPS) {
        const double* const a = p.a + i * p.m;
        double highest = -INFINITE;
        for (int j = lane_number(); j < p.m; j += LANES) highest = larger(highest, a[j]);
        for (int distance = LANES / 2; distance > 0; distance /= 2)
            highest = larger(highest, __shfl_xor_sync(ALL, highest, distance));
        double alpha = highest - 1;  // at most this much below the largest entry
        int count = p.m + 1;
        while (true) {
            double total = 0;
            int left = 0;
            for (int j = lane_number(); j < p.m; j += LANES)
                if (a[j] > alpha) total += a[j] - alpha, ++left;
            total = warp_sum(total), left = warp_sum(left);
            if (left >= count || left == 0) break;
            count = left;
            alpha += (total - 1) / left;
        }
        if (lane_number() == 0) p.alpha[i] = alpha;
    }
    __syncthreads();
}

// The rows and columns that take part, in p.c; p.n and p.m are their numbers.
__device__ inline void gather(Newton& p, const T* cost, const bool* templates, int n, int m, int* counts) {
    if (warp_number() == 0) {
        const int lane = lane_number();
        const unsigned before = (1u << lane) - 1;
        int n_rows = 0, n_columns = 0;
        for (int base = 0; base < n; base += LANES) {
            const bool used = base + lane < n && templates[base + lane];
            const unsigned word = __ballot_sync(ALL, used);
            if (used) p.rows[n_rows + __popc(word & before)] = base + lane;
            n_rows += __popc(word);
        }
        __syncwarp();
        for (int base = 0; base < m; base += LANES) {
            const int j = base + lane;
            bool used = j < m && p.slack && j == m - 1;
            for (int r = 0; j < m && !used && r < n_rows; ++r)
                used = double(cost[static_cast<long long>(p.rows[r]) * m + j]) < INFINITE;
            const unsigned word = __ballot_sync(ALL, used);
            if (used) p.columns[n_columns + __popc(word & before)] = j;
            n_columns += __popc(word);
        }
        if (lane == 0) counts[0] = n_rows, counts[1] = n_columns;
    }
    __syncthreads();
    p.n = counts[0], p.m = counts[1];
    for (int e = threadIdx.x; e < p.n * p.m; e += THREADS)
        p.c[e] = double(cost[static_cast<long long>(p.rows[e / p.m]) * m + p.columns[e % p.m]]);
    __syncthreads();
}

// U for which the largest score of each row is 0.
__device__ inline void centre(const Newton& p) {
    for (int i = warp_number(); i < p.n; i += WARPS) {
        double highest = -INFINITE;
        for (int j = lane_number(); j < p.m; j += LANES) highest = larger(highest, -(p.c[i * p.m + j] + p.V[j]));
        for (int distance = LANES / 2; distance > 0; distance /= 2)
            highest = larger(highest, __shfl_xor_sync(ALL, highest, distance));
        if (lane_number() == 0) p.U[i] = highest;
    }
    __syncthreads();
}

// The scores for the weight s gamma, and the bounds of beta. Returns the range of the scores.
__device__ __noinline__ double scores(const Newton& p, double weight) {
    __syncthreads();
    double spread = 0;
    for (int j = threadIdx.x; j < p.m; j += THREADS) p.low[j] = -p.V[j] / weight;
    for (int e = threadIdx.x; e < p.n * p.m; e += THREADS) {
        // U + V first: where both are large they cancel, and exactly so.
        const double score = -(p.c[e] + (p.U[e / p.m] + p.V[e % p.m])) / weight;
        p.a[e] = score;
        if (score > -INFINITE) spread = larger(spread, -score);
    }
    return block_sum<true>(spread, p.sums);
}

// The multipliers found, added to those known.
__device__ inline void absorb(const Newton& p, double weight) {
    __syncthreads();
    for (int i = threadIdx.x; i < p.n; i += THREADS) p.U[i] += weight * p.alpha[i], p.alpha[i] = 0;
    for (int j = threadIdx.x; j < p.m; j += THREADS)
        p.V[j] = p.beta[j] > p.low[j] ? larger(p.V[j] + weight * p.beta[j], 0.0) : 0.0;
    __syncthreads();
}

// `op.quadratic`: cost (batch, n, m), inf where forbidden, gamma (batch), templates (batch, n) and start (batch, m) to X (batch,
// n, m), the multipliers (batch, n) of its rows and (batch, m) of its columns, the Newton steps (batch) and by how much rows and
// columns are off at most (batch). A block has `bytes` of `workspace`, unless it is IN_SHARED.
extern "C" __global__ void __launch_bounds__(THREADS) quadratic(
    const T* cost, const double* gamma, const bool* templates, const double* start, int* ticket, unsigned char* workspace,
    T* X, double* row_multipliers, double* column_multipliers, long long* steps, double* residuals, int batch, int n, int m,
    int slack, int max_iter, int bytes, double tolerance
) {
    SHARED_MEMORY(memory);
    double* const sums = reinterpret_cast<double*>(memory);
    int* const counts = reinterpret_cast<int*>(sums + (WARPS + 1) / 2 * 2);
    unsigned char* const own = IN_SHARED ? reinterpret_cast<unsigned char*>(counts + 4) : workspace + blockIdx.x * static_cast<long long>(bytes);
    while (true) {
        const int b = next_problem(ticket, counts + 3);
        if (b >= batch) break;
        const long long size = static_cast<long long>(n) * m;
        const double* const known = start + static_cast<long long>(b) * m;
        Newton p = make_newton(own, sums, n, m, slack);
        gather(p, cost + b * size, templates + static_cast<long long>(b) * n, n, m, counts);
        for (int j = threadIdx.x; j < p.m; j += THREADS) {
            const int column = p.columns[j];
            p.V[j] = known[column] > 0 && !(slack && column == m - 1) ? known[column] : 0.0;
        }
        __syncthreads();
        centre(p);
        scores(p, gamma[b]);
        rows_alone(p);
        double residual, s = 1;
        int used = newton(p, tolerance, smaller(DIRECT_STEPS, max_iter), &residual);
        if (!(residual <= tolerance) && used < max_iter) {
            __syncthreads();
            for (int j = threadIdx.x; j < p.m; j += THREADS) p.V[j] = 0;
            __syncthreads();
            centre(p);
            const double spread = scores(p, gamma[b]);
            while (s * STAGE < spread) s *= STAGE;
            scores(p, s * gamma[b]);
            rows_alone(p);
            while (true) {
                used += newton(p, s > 1 ? ROUGH : tolerance, max_iter - used, &residual);
                if (s == 1) break;
                absorb(p, s * gamma[b]);
                s = s > STAGE ? s / STAGE : 1;
                scores(p, s * gamma[b]);
            }
        }
        absorb(p, gamma[b]);
        double* const rows = row_multipliers + static_cast<long long>(b) * n;
        double* const columns = column_multipliers + static_cast<long long>(b) * m;
        for (int e = threadIdx.x; e < size; e += THREADS) X[b * size + e] = 0;
        for (int i = threadIdx.x; i < n; i += THREADS) rows[i] = 0;
        for (int j = threadIdx.x; j < m; j += THREADS) columns[j] = 0;
        __syncthreads();
        double whole = 0;
        for (int e = threadIdx.x; e < p.n * p.m; e += THREADS) {
            X[b * size + static_cast<long long>(p.rows[e / p.m]) * m + p.columns[e % p.m]] = T(p.x[e]);
            whole += p.x[e];
        }
        for (int i = threadIdx.x; i < p.n; i += THREADS) rows[p.rows[i]] = p.U[i];
        for (int j = threadIdx.x; j < p.m; j += THREADS) columns[p.columns[j]] = p.V[j];
        whole = block_sum(whole, p.sums);
        if (threadIdx.x == 0) steps[b] = used, residuals[b] = whole < INFINITE ? residual : INFINITE;
    }
}

// `op.quadratic_adjoint`: out = J grad for the generalised Jacobian J at X; see kernels.quadratic_adjoint.
extern "C" __global__ void __launch_bounds__(THREADS) quadratic_adjoint(
    const T* X, const double* beta, const T* grad, unsigned char* workspace, T* out, int batch, int n, int m, int bytes
) {
    SHARED_MEMORY(memory);
    double* const sums = reinterpret_cast<double*>(memory);
    unsigned char* const own = IN_SHARED ? memory + 8 * ((WARPS + 1) / 2 * 2) + 16 : workspace + blockIdx.x * static_cast<long long>(bytes);
    const Newton p = make_newton(own, sums, n, m, false);
    for (int b = blockIdx.x; b < batch; b += gridDim.x) {
        const long long size = static_cast<long long>(n) * m;
        const T* const x = X + b * size;
        const T* const g = grad + b * size;
        const double* const multipliers = beta + static_cast<long long>(b) * m;
        __syncthreads();
        hessian(p, x, [&](int j) { return multipliers[j] > 0; });
        for (int turn = 0; turn < 2; ++turn) {  // the right-hand side, then the result
            for (int j = threadIdx.x; j < m; j += THREADS) {
                double total = 0;
                int count = 0;
                for (int i = 0; i < n; ++i)
                    if (x[i * m + j] > 0) total += double(g[i * m + j]) - (turn ? p.alpha[i] : 0.0), ++count;
                p.share[j] = multipliers[j] > 0 && count > 0 ? total / count : 0.0;
            }
            __syncthreads();
            for (int i = warp_number(); i < n; i += WARPS) {
                double total = 0;
                for (int j = lane_number(); j < m; j += LANES) {
                    const bool inside = x[i * m + j] > 0;
                    const double value = inside ? double(g[i * m + j]) - (turn ? p.alpha[i] : 0.0) - p.share[j] : 0.0;
                    if (turn) out[b * size + i * m + j] = T(value);
                    total += value;
                }
                total = warp_sum(total);
                if (!turn && lane_number() == 0) p.alpha[i] = total;
            }
            __syncthreads();
            if (!turn) cholesky_solve(p, 1e-9, p.alpha);
        }
    }
}
