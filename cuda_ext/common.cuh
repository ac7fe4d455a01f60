// What all kernels share: lanes and warps, sums over them, and shared memory. No header of torch or of the C library.
//
// SCALAR (float or double) and WARPS (of a block) are given on the compiler's command line. The file is also compiled as
// C++ for the host, where tests/gpu/host.hpp stands in for what the CUDA compiler knows by itself.
//
// Nothing here depends on the order in which threads happen to run: sums go over a fixed tree, and the only atomic
// operation deals out the numbers of problems.

#ifndef HOST_SHIM
#define SHARED_MEMORY(name) extern __shared__ __align__(16) unsigned char name[]
#endif

typedef SCALAR T;

constexpr int LANES = 32;
constexpr int THREADS = WARPS * LANES;
constexpr unsigned ALL = 0xffffffffu;
#define INFINITE __longlong_as_double(0x7ff0000000000000ll)

__device__ inline int lane_number() { return threadIdx.x % LANES; }
__device__ inline int warp_number() { return threadIdx.x / LANES; }

// The same, known to the compiler to be that of all lanes. All lanes of a warp call it together.
__device__ inline int uniform_warp_number() { return __shfl_sync(ALL, warp_number(), 0); }

__device__ inline int smaller(int a, int b) { return a < b ? a : b; }
__device__ inline int larger(int a, int b) { return a > b ? a : b; }
__device__ inline double larger(double a, double b) { return a > b ? a : b; }

// The sum of a warp's values, the same bits in all lanes.
template <class Number>
__device__ inline Number warp_sum(Number value) {
    for (int distance = LANES / 2; distance > 0; distance /= 2) value += __shfl_xor_sync(ALL, value, distance);
    return value;
}

// The sum of a block's values, or (`MAXIMUM`) the largest of them, in all threads. `room` holds WARPS numbers.
template <bool MAXIMUM = false>
__device__ inline double block_sum(double value, double* room) {
    for (int distance = LANES / 2; distance > 0; distance /= 2) {
        const double other = __shfl_xor_sync(ALL, value, distance);
        value = MAXIMUM ? larger(value, other) : value + other;
    }
    __syncthreads();  // the last result has been read
    if (lane_number() == 0) room[warp_number()] = value;
    __syncthreads();
    double total = room[0];
    for (int w = 1; w < WARPS; ++w) total = MAXIMUM ? larger(total, room[w]) : total + room[w];
    return total;
}

// The number of the next problem, the same in all threads; `room` holds an int. At least `batch`: there is none left.
__device__ inline int next_problem(int* ticket, int* room) {
    __syncthreads();
    if (threadIdx.x == 0) *room = atomicAdd(ticket, 1);
    __syncthreads();
    return *room;
}

__device__ inline void load4(const float* from, float* to) {
    const float4 v = *reinterpret_cast<const float4*>(from);
    to[0] = v.x, to[1] = v.y, to[2] = v.z, to[3] = v.w;
}

__device__ inline void load4(const double* from, double* to) {
    const double2 a = *reinterpret_cast<const double2*>(from), b = *reinterpret_cast<const double2*>(from + 2);
    to[0] = a.x, to[1] = a.y, to[2] = b.x, to[3] = b.y;
}

__device__ inline void load2(const float* from, float* to) {
    const float2 v = *reinterpret_cast<const float2*>(from);
    to[0] = v.x, to[1] = v.y;
}

__device__ inline void load2(const double* from, double* to) {
    const double2 v = *reinterpret_cast<const double2*>(from);
    to[0] = v.x, to[1] = v.y;
}

// 1, 2 or 4 numbers in a run.
__device__ inline void load_run(const T* from, T (&to)[1]) { to[0] = *from; }
__device__ inline void load_run(const T* from, T (&to)[2]) { load2(from, to); }
__device__ inline void load_run(const T* from, T (&to)[4]) { load4(from, to); }

__device__ inline void store4(float* to, const float* from) {
    *reinterpret_cast<float4*>(to) = float4{from[0], from[1], from[2], from[3]};
}

__device__ inline void store4(double* to, const double* from) {
    *reinterpret_cast<double2*>(to) = double2{from[0], from[1]};
    *reinterpret_cast<double2*>(to + 2) = double2{from[2], from[3]};
}

__device__ inline float inverse_root(float value) { return rsqrtf(value); }
__device__ inline double inverse_root(double value) { return rsqrt(value); }

// The square root of a positive value and a / b, as precise as those of the processor almost always, but without branches:
// from the inverse of the root by one step of Newton's each.
__device__ inline T square_root(T value, T inverse) {
    const T root = value * inverse;
    return fma(fma(-root, root, value), T(0.5) * inverse, root);
}

__device__ inline T quotient(T a, T b, T inverse) {
    const T first = a * inverse;
    return fma(fma(-first, b, a), inverse, first);
}

// A number in two parts of 11 significant bits, as tensor cores take them; they ignore the other 13 bits of `small`.
struct Parts {
    unsigned big, small;
};

__device__ inline Parts in_parts(float value) {
    const unsigned big = (__float_as_uint(value) + 0x1000) & 0xffffe000;
    return {big, __float_as_uint(value - __uint_as_float(big)) + 0x1000};
}

// d += a b on tensor cores, a of 16 x 8 and b of 8 x 8 numbers: a lane has of a rows g and g + 8 of column m (a0, a1), and of
// column m + 4 (a2, a3), for g = lane / 4 and m = lane % 4; of b rows m and m + 4 of column g; of d rows g (the first two)
// and g + 8 of columns 2 m and 2 m + 1.
#ifndef HOST_SHIM
__device__ inline void multiply_add(
    float (&d)[4], unsigned a0, unsigned a1, unsigned a2, unsigned a3, unsigned b0, unsigned b1
) {
#if __CUDA_ARCH__ >= 800
    asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
#endif
}
#endif
