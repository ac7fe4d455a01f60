// What a batch of SATNet shares: whether its values can be worked with and the scaling of S (`survey`), and C = S S' (`gram`).

#include "common.cuh"
#include "state.cuh"

// Looks at all of S and z: the largest |S|, and whether an entry of S is not finite or one of z is out of [0, 1] by more than
// `slack`, go to `state`.
extern "C" __global__ void __launch_bounds__(THREADS) survey(
    const T* S, const T* z, long long* state, int S_size, int z_size, double slack
) {
    SHARED_MEMORY(memory);
    double* const sums = reinterpret_cast<double*>(memory);
    double largest = 0, wrong = 0;
    const int first = blockIdx.x * THREADS + threadIdx.x, step = gridDim.x * THREADS;
    for (long long e = first; e < S_size; e += step) {
        const double value = fabs(double(S[e]));
        if (isfinite(value))
            largest = larger(largest, value);
        else
            wrong = 1;
    }
    for (long long e = first; e < z_size; e += step) {
        const double value = double(z[e]);
        if (!(value >= -slack && value <= 1 + slack)) wrong = 1;  // NaN, too
    }
    largest = block_sum<true>(largest, sums);
    wrong = block_sum<true>(wrong, sums);
    if (threadIdx.x == 0) {
        atomicMax(state, __double_as_longlong(largest));
        if (wrong > 0) atomicMax(state + 1, 1ll);
    }
}

constexpr int SIDE = 2 * LANES, SHARE = SIDE / WARPS, DEPTH = LANES, PITCH = DEPTH + 4;  // rows begin at 16 bytes

constexpr int EACH = SIDE * DEPTH / THREADS;  // of the numbers of a stage, a thread's

// SIDE x DEPTH numbers of S from row, column on, zeros where there are none.
__device__ inline void fetch(const T* S, int N, int m, int row, int column, T (&to)[EACH]) {
#pragma unroll
    for (int i = 0; i < EACH; ++i) {
        const int e = threadIdx.x + i * THREADS, r = e / DEPTH, c = e % DEPTH;
        const bool inside = row + r < N && column + c < m;
        to[i] = inside ? S[static_cast<long long>(row + r) * m + column + c] : T(0);
    }
}

// C (N, N) = S S' for S (N, m) divided by its scaling, exactly symmetric: one block for each square of SIDE x SIDE entries.
//
// Its own kernel, because torch.mm may round its factors to TF32, and the solution of the layer is that of C.
extern "C" __global__ void __launch_bounds__(THREADS) gram(const T* S, const long long* state, T* C, int N, int m) {
    SHARED_MEMORY(memory);
    T* const left = reinterpret_cast<T*>(memory);
    T* const right = left + SIDE * PITCH;
    const int squares = (N + SIDE - 1) / SIDE, lane = lane_number(), w = warp_number();
    const int i0 = blockIdx.x / squares * SIDE, j0 = blockIdx.x % squares * SIDE;
    if (j0 > i0) return;
    // the inverse of the scaling need not be representable; by two factors it is, and both are exact
    const int exponent = exponent_of<T>(state);
    const T half = T(ldexp(1.0, -(exponent / 2))), other_half = T(ldexp(1.0, exponent / 2 - exponent));
    T sum[SHARE][2], next_left[EACH], next_right[EACH];
#pragma unroll
    for (int i = 0; i < SHARE; ++i) sum[i][0] = sum[i][1] = 0;
    fetch(S, N, m, i0, 0, next_left);
    fetch(S, N, m, j0, 0, next_right);
    for (int from = 0; from < m; from += DEPTH) {
#pragma unroll
        for (int i = 0; i < EACH; ++i) {
            const int e = threadIdx.x + i * THREADS, at = e / DEPTH * PITCH + e % DEPTH;
            left[at] = next_left[i] * half * other_half;
            right[at] = next_right[i] * half * other_half;
        }
        __syncthreads();
        fetch(S, N, m, i0, from + DEPTH, next_left);
        fetch(S, N, m, j0, from + DEPTH, next_right);
#pragma unroll
        for (int c = 0; c < DEPTH; c += 4) {
            T one[2][4];
            load4(right + lane * PITCH + c, one[0]);
            load4(right + (lane + LANES) * PITCH + c, one[1]);
#pragma unroll
            for (int i = 0; i < SHARE; ++i) {
                T other[4];
                load4(left + (w + i * WARPS) * PITCH + c, other);
#pragma unroll
                for (int d = 0; d < 4; ++d) sum[i][0] += other[d] * one[0][d], sum[i][1] += other[d] * one[1][d];
            }
        }
        __syncthreads();
    }
#pragma unroll
    for (int i = 0; i < SHARE; ++i)
#pragma unroll
        for (int h = 0; h < 2; ++h) {
            const int r = i0 + w + i * WARPS, c = j0 + lane + h * LANES;
            if (r < N && c < N) {
                if (i0 != j0 || c <= r) C[static_cast<long long>(r) * N + c] = sum[i][h];
                if (i0 != j0 || c < r) C[static_cast<long long>(c) * N + r] = sum[i][h];
            }
        }
}
