// The Euclidean projection onto the assignment polytope on the GPU: one block solves one problem by the semismooth Newton
// method of difflayers/matching/quadratic/kernels.py, with the same steps, line search, stages and names. Its derivative is
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
    double* a;         // n x m, row maxima subtracted
    double* scaled;    // n x m
    double* x;         // n x m
    double* H;         // n x n, its lower triangle
    double* alpha;     // n
    double* gradient;  // n
    double* step;      // n
    double* trial;     // n
    double* inverse;   // n: 1 / the diagonal of H's factor
    double* offset;    // n: the row maxima
    double* beta;      // m
    double* share;     // m
    int* rows;         // n
    int* columns;      // m
    double* sums;      // WARPS
    int n, m;          // rows and columns that take part
    bool slack;
};

__device__ inline Newton make_newton(unsigned char* memory, double* sums, int n, int m, bool slack) {
    const long long size = static_cast<long long>(n) * m;
    Newton p;
    p.a = reinterpret_cast<double*>(memory);
    p.scaled = p.a + size;
    p.x = p.scaled + size;
    p.H = p.x + size;
    p.alpha = p.H + n * n;
    p.gradient = p.alpha + n;
    p.step = p.gradient + n;
    p.trial = p.step + n;
    p.inverse = p.trial + n;
    p.offset = p.inverse + n;
    p.beta = p.offset + n;
    p.share = p.beta + m;
    p.rows = reinterpret_cast<int*>(p.share + m);
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

// x[:, j] = the projection of a[:, j] - alpha onto {x >= 0, sum x <= 1}; returns its multiplier (Michelot 1986).
__device__ inline double project_column(const double* a, const double* alpha, int j, int n, int m, double* x) {
    double total = 0, beta = 0;
    int count = 0;
    for (int i = 0; i < n; ++i) {
        const double value = a[i * m + j] - alpha[i];
        if (value > 0) total += value, ++count;
    }
    if (total > 1) {
        beta = (total - 1) / count;
        while (true) {
            int left = 0;
            total = 0;
            for (int i = 0; i < n; ++i) {
                // Sums of what is left above beta, of order 1, round less than sums of entries as large as the costs.
                const double value = a[i * m + j] - alpha[i] - beta;
                if (value > 0) total += value, ++left;
            }
            if (left == 0) break;  // rounding: keep the last multiplier
            beta += (total - 1) / left;
            if (left >= count) break;
            count = left;
        }
        beta = larger(beta, 0.0);
    }
    for (int i = 0; i < n; ++i) {
        const double value = a[i * m + j] - alpha[i] - beta;
        x[i * m + j] = value > 0 ? value : 0;
    }
    return beta;
}

// X and beta for given alpha, and the gradient of psi, 1 - X 1. Returns its largest entry in absolute value.
__device__ __noinline__ double evaluate(const Newton& p, const double* a, const double* alpha) {
    __syncthreads();  // alpha is there
    for (int j = threadIdx.x; j < p.m; j += THREADS) {
        if (p.slack && j == p.m - 1) {
            p.beta[j] = 0;
            for (int i = 0; i < p.n; ++i) {
                const double value = a[i * p.m + j] - alpha[i];
                p.x[i * p.m + j] = value > 0 ? value : 0;
            }
        } else {
            p.beta[j] = project_column(a, alpha, j, p.n, p.m, p.x);
        }
    }
    __syncthreads();
    double residual = 0;
    for (int i = warp_number(); i < p.n; i += WARPS) {
        double total = 0;
        for (int j = lane_number(); j < p.m; j += LANES) total += p.x[i * p.m + j];
        total = 1 - warp_sum(total);
        if (lane_number() == 0) p.gradient[i] = total;
        residual = larger(residual, fabs(total));
    }
    return block_sum<true>(residual, p.sums);
}

// The lower triangle of sum_j D_j - [beta_j > 0] d_j d_j' / |d_j|^2 in H, for the supports d_j of x's columns.
template <class Number>
__device__ inline void hessian(const Newton& p, const Number* x, const double* beta) {
    for (int j = threadIdx.x; j < p.m; j += THREADS) {
        int count = 0;
        for (int i = 0; i < p.n; ++i) count += x[static_cast<long long>(i) * p.m + j] > 0;
        p.share[j] = beta[j] > 0 && count > 0 ? 1.0 / count : 0.0;
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
__device__ inline double line_search(const Newton& p, const double* a, double slope) {
    double low = 0, at_low = slope, high = INFINITE, at_high = 0, t = 1, residual = 0;
    for (int turn = 0; turn < 60; ++turn) {
        __syncthreads();
        for (int i = threadIdx.x; i < p.n; i += THREADS) p.trial[i] = p.alpha[i] + t * p.step[i];
        residual = evaluate(p, a, p.trial);
        const double here = dot(p.gradient, p.step, p.n);
        if (0.5 * slope <= here && here <= -1e-3 * slope) break;
        if (here < 0)
            low = t, at_low = here;
        else
            high = t, at_high = here;
        if (high == INFINITE)
            t = 2 * t;
        else if (turn % 3 == 2)
            t = 0.5 * (low + high);
        else
            t = low + (high - low) * at_low / (at_low - at_high);
    }
    return residual;
}

// Newton steps from alpha on, in place, down to a residual of `tolerance`. Returns their number.
__device__ __noinline__ int newton(const Newton& p, const double* a, double tolerance, int steps, double* reached) {
    double residual = evaluate(p, a, p.alpha);
    int count = 0;
    for (; count < steps && residual > tolerance; ++count) {
        hessian(p, p.x, p.beta);
        for (int i = threadIdx.x; i < p.n; i += THREADS) {
            p.H[i * p.n + i] += RIDGE * (residual < 1 ? residual : 1.0);
            p.step[i] = -p.gradient[i];
        }
        __syncthreads();
        cholesky_solve(p, 0, p.step);
        const double slope = dot(p.gradient, p.step, p.n);
        residual = line_search(p, a, slope);
        double least = -INFINITE;  // of the multipliers of columns, negative
        for (int j = threadIdx.x; j < p.m; j += THREADS) least = larger(least, -p.beta[j]);
        const double shift = larger(-block_sum<true>(least, p.sums) - 1, 0.0);
        for (int i = threadIdx.x; i < p.n; i += THREADS) p.alpha[i] = p.trial[i] + shift;
        if (shift > 0) residual = evaluate(p, a, p.alpha);
    }
    *reached = residual;
    return count;
}

// alpha for rows alone: each row of max(a - alpha, 0) sums to 1, as if columns had no bound.
__device__ inline void start(const Newton& p, const double* a) {
    for (int i = warp_number(); i < p.n; i += WARPS) {
        double highest = -INFINITE;
        for (int j = lane_number(); j < p.m; j += LANES) highest = larger(highest, a[i * p.m + j]);
        for (int distance = LANES / 2; distance > 0; distance /= 2)
            highest = larger(highest, __shfl_xor_sync(ALL, highest, distance));
        double alpha = highest - 1;  // at most this much below the largest entry
        int count = 0;
        while (true) {
            double total = 0;
            int left = 0;
            for (int j = lane_number(); j < p.m; j += LANES)
                if (a[i * p.m + j] > alpha) total += a[i * p.m + j] - alpha, ++left;
            total = warp_sum(total), left = warp_sum(left);
            if (left == count || left == 0) break;
            count = left;
            alpha += (total - 1) / left;
        }
        if (lane_number() == 0) p.alpha[i] = alpha;
    }
    __syncthreads();
}

// The rows and columns that take part, row maxima subtracted, in p.a; p.n and p.m are their numbers. Returns the range of
// the entries.
__device__ inline double gather(Newton& p, const T* A, const bool* templates, int n, int m, int* counts) {
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
                used = double(A[static_cast<long long>(p.rows[r]) * m + j]) > -INFINITE;
            const unsigned word = __ballot_sync(ALL, used);
            if (used) p.columns[n_columns + __popc(word & before)] = j;
            n_columns += __popc(word);
        }
        if (lane == 0) counts[0] = n_rows, counts[1] = n_columns;
    }
    __syncthreads();
    p.n = counts[0], p.m = counts[1];
    double spread = 0;
    for (int r = warp_number(); r < p.n; r += WARPS) {
        const T* row = A + static_cast<long long>(p.rows[r]) * m;
        double highest = -INFINITE;
        for (int q = lane_number(); q < p.m; q += LANES) highest = larger(highest, double(row[p.columns[q]]));
        for (int distance = LANES / 2; distance > 0; distance /= 2)
            highest = larger(highest, __shfl_xor_sync(ALL, highest, distance));
        if (lane_number() == 0) p.offset[r] = highest;
        for (int q = lane_number(); q < p.m; q += LANES) {
            const double value = double(row[p.columns[q]]) - highest;
            p.a[r * p.m + q] = value;
            if (value > -INFINITE) spread = larger(spread, -value);
        }
    }
    return block_sum<true>(spread, p.sums);
}

// `op.quadratic`: A (batch, n, m), -inf where forbidden, and templates (batch, n) to X (batch, n, m), the multipliers alpha
// (batch, n) of its rows and beta (batch, m) of its columns, the Newton steps (batch) and max |1 - X 1| (batch). A block has
// `bytes` of `workspace`, unless it is IN_SHARED.
extern "C" __global__ void __launch_bounds__(THREADS) quadratic(
    const T* A, const bool* templates, int* ticket, unsigned char* workspace, T* X, double* alpha, double* beta,
    long long* steps, double* residuals, int batch, int n, int m, int slack, int max_iter, int bytes, double tolerance
) {
    SHARED_MEMORY(memory);
    double* const sums = reinterpret_cast<double*>(memory);
    int* const counts = reinterpret_cast<int*>(sums + (WARPS + 1) / 2 * 2);
    unsigned char* const own = IN_SHARED ? reinterpret_cast<unsigned char*>(counts + 4) : workspace + blockIdx.x * static_cast<long long>(bytes);
    while (true) {
        const int b = next_problem(ticket, counts + 3);
        if (b >= batch) break;
        const long long size = static_cast<long long>(n) * m;
        Newton p = make_newton(own, sums, n, m, slack);
        const double spread = gather(p, A + b * size, templates + static_cast<long long>(b) * n, n, m, counts);
        start(p, p.a);
        double residual;
        int used = newton(p, p.a, tolerance, smaller(DIRECT_STEPS, max_iter), &residual);
        if (residual > tolerance && used < max_iter) {
            double s = 1;
            while (s * STAGE < spread) s *= STAGE;
            bool first = true;
            while (true) {
                __syncthreads();
                for (int e = threadIdx.x; e < p.n * p.m; e += THREADS) p.scaled[e] = p.a[e] / s;
                __syncthreads();
                if (first) start(p, p.scaled);
                first = false;
                used += newton(p, p.scaled, s > 1 ? ROUGH : tolerance, max_iter - used, &residual);
                if (s == 1) break;
                const double ratio = s < STAGE ? s : STAGE;
                s /= ratio;
                __syncthreads();
                for (int i = threadIdx.x; i < p.n; i += THREADS) p.alpha[i] *= ratio;
            }
        }
        for (int e = threadIdx.x; e < size; e += THREADS) X[b * size + e] = 0;
        for (int i = threadIdx.x; i < n; i += THREADS) alpha[static_cast<long long>(b) * n + i] = 0;
        for (int j = threadIdx.x; j < m; j += THREADS) beta[static_cast<long long>(b) * m + j] = 0;
        __syncthreads();
        for (int e = threadIdx.x; e < p.n * p.m; e += THREADS)
            X[b * size + static_cast<long long>(p.rows[e / p.m]) * m + p.columns[e % p.m]] = T(p.x[e]);
        for (int i = threadIdx.x; i < p.n; i += THREADS)
            alpha[static_cast<long long>(b) * n + p.rows[i]] = p.alpha[i] + p.offset[i];
        for (int j = threadIdx.x; j < p.m; j += THREADS) beta[static_cast<long long>(b) * m + p.columns[j]] = p.beta[j];
        if (threadIdx.x == 0) steps[b] = used, residuals[b] = residual;
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
        hessian(p, x, multipliers);
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
