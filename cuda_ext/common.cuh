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
