// A CUDA block on the host, for tests: each thread is a fiber, and a fiber runs until its next barrier.
//
// Warp operations are barriers of 32 fibers. Lanes of a warp that wait at different kinds of barriers, a write past the
// end of shared memory, and an argument that differs from lane to lane where it must not, are reported. `order` turns
// around the order in which warps and lanes run between barriers: what depends on it lacks a barrier.

#pragma once
#define HOST_SHIM
#include <csetjmp>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <ucontext.h>
#include <vector>

#define __global__
#define __device__
#define __noinline__ __attribute__((noinline))
#define __launch_bounds__(...)
#define SHARED_MEMORY(name) unsigned char* const name = host::shared_memory

using std::atan2; using std::exp; using std::fabs; using std::fma; using std::frexp; using std::isfinite; using std::ldexp; using std::log; using std::sin; using std::sqrt;

struct alignas(8) float2 { float x, y; };
struct alignas(16) float4 { float x, y, z, w; };
struct alignas(16) double2 { double x, y; };

namespace host {
struct Index { unsigned x; };
enum State { RUN, AT_WARP, AT_BLOCK, DONE };
struct Fiber {
    ucontext_t context;
    jmp_buf point;
    bool started = false;
    State state = RUN;
    char* stack = nullptr;
};
static constexpr int STACK = 1 << 18, LANE_COUNT = 32, GUARD = 256;
static std::vector<Fiber> fibers;
static std::function<void()> body;
static jmp_buf scheduler;
static ucontext_t scheduler_context;
static unsigned char* shared_memory;
static int current, failure;
static unsigned long long exchange[1024];
}  // namespace host

static host::Index threadIdx, blockIdx, blockDim, gridDim;

namespace host {
static void pause(State state) {
    Fiber& fiber = fibers[current];
    fiber.state = state;
    if (!_setjmp(fiber.point)) _longjmp(scheduler, 1);
}
static void entry() {
    body();
    fibers[current].state = DONE;
    _longjmp(scheduler, 1);
}
static void resume(int f) {
    current = f;
    threadIdx.x = f;
    if (_setjmp(scheduler)) return;
    Fiber& fiber = fibers[f];
    if (fiber.started) _longjmp(fiber.point, 1);
    fiber.started = true;
    setcontext(&fiber.context);
}
static bool all_of(int first, int last, State state) {
    for (int f = first; f < last; ++f)
        if (fibers[f].state != state && fibers[f].state != DONE) return false;
    return true;
}
// Runs a warp until its lanes are done or at a barrier of the block.
static bool run_warp(int first, bool backwards) {
    while (true) {
        for (int l = 0; l < LANE_COUNT; ++l) {
            const int f = first + (backwards ? LANE_COUNT - 1 - l : l);
            if (fibers[f].state == RUN) resume(f);
        }
        if (all_of(first, first + LANE_COUNT, AT_BLOCK)) return true;
        if (!all_of(first, first + LANE_COUNT, AT_WARP)) return false;
        for (int f = first; f < first + LANE_COUNT; ++f)
            if (fibers[f].state == AT_WARP) fibers[f].state = RUN;
    }
}
static int run_block(int threads, int order) {
    while (!all_of(0, threads, DONE)) {
        for (int w = 0; w < threads / LANE_COUNT; ++w) {
            const int warp = order & 1 ? threads / LANE_COUNT - 1 - w : w;
            if (!run_warp(warp * LANE_COUNT, order & 2)) return 1;
        }
        for (auto& fiber : fibers)
            if (fiber.state == AT_BLOCK) fiber.state = RUN;
    }
    return 0;
}
static int launch(int grid, int threads, int shared, int order, std::function<void()> kernel) {
    body = kernel;
    blockDim.x = threads, gridDim.x = grid, failure = 0;
    if (static_cast<int>(fibers.size()) != threads) {
        for (auto& fiber : fibers) free(fiber.stack);
        fibers = std::vector<Fiber>(threads);
        for (auto& fiber : fibers) fiber.stack = static_cast<char*>(malloc(STACK));
    }
    std::vector<unsigned char> memory(shared + GUARD + 16);
    shared_memory = memory.data() + (16 - reinterpret_cast<size_t>(memory.data()) % 16) % 16;
    for (int block = 0; block < grid; ++block) {
        blockIdx.x = block;
        memset(shared_memory, 0xff, shared);  // NaN
        memset(shared_memory + shared, 0xa5, GUARD);
        for (auto& fiber : fibers) {
            getcontext(&fiber.context);
            fiber.context.uc_stack.ss_sp = fiber.stack;
            fiber.context.uc_stack.ss_size = STACK;
            fiber.context.uc_link = nullptr;
            makecontext(&fiber.context, entry, 0);
            fiber.started = false, fiber.state = RUN;
        }
        if (run_block(threads, order)) return 1;
        for (int i = 0; i < GUARD; ++i)
            if (shared_memory[shared + i] != 0xa5) return 2;
        if (failure) return failure;
    }
    return 0;
}
template <class Value>
static Value exchange_with(Value value, int partner) {
    static_assert(sizeof(Value) <= 8, "");
    const int first = current / LANE_COUNT * LANE_COUNT;
    memcpy(&exchange[current], &value, sizeof value);
    pause(AT_WARP);
    Value other;
    memcpy(&other, &exchange[first + partner], sizeof other);
    pause(AT_WARP);
    return other;
}
}  // namespace host

static void __syncthreads() { host::pause(host::AT_BLOCK); }
static void __syncwarp() { host::pause(host::AT_WARP); }
static double __longlong_as_double(long long bits) { double value; memcpy(&value, &bits, sizeof value); return value; }
static float rsqrtf(float value) { return 1 / std::sqrt(value); }
static double rsqrt(double value) { return 1 / std::sqrt(value); }
static unsigned __float_as_uint(float value) { unsigned bits; memcpy(&bits, &value, sizeof bits); return bits; }
static float __uint_as_float(unsigned bits) { float value; memcpy(&value, &bits, sizeof value); return value; }
static long long __double_as_longlong(double value) { long long bits; memcpy(&bits, &value, sizeof bits); return bits; }
static int __popc(unsigned bits) { return __builtin_popcount(bits); }
static int atomicAdd(int* at, int value) { const int old = *at; *at += value; return old; }
static long long atomicMax(long long* at, long long value) { const long long old = *at; if (value > old) *at = value; return old; }
template <class Value>
static Value __shfl_xor_sync(unsigned, Value value, int distance) {
    return host::exchange_with(value, (threadIdx.x % 32) ^ distance);
}
template <class Value>
static Value __shfl_sync(unsigned, Value value, int from) { return host::exchange_with(value, from); }
static unsigned __ballot_sync(unsigned, bool vote) {
    const int first = host::current / 32 * 32;
    host::exchange[host::current] = vote;
    host::pause(host::AT_WARP);
    unsigned bits = 0;
    for (int lane = 0; lane < 32; ++lane) bits |= static_cast<unsigned>(host::exchange[first + lane]) << lane;
    host::pause(host::AT_WARP);
    return bits;
}
// mma.m16n8k8 on TF32 numbers, which have no more than the first 19 bits.
static void multiply_add(float (&d)[4], unsigned a0, unsigned a1, unsigned a2, unsigned a3, unsigned b0, unsigned b1) {
    static float a[1024][4], b[1024][2];
    const unsigned as[4] = {a0, a1, a2, a3}, bs[2] = {b0, b1};
    for (int q = 0; q < 4; ++q) a[host::current][q] = __uint_as_float(as[q] & 0xffffe000u);
    for (int q = 0; q < 2; ++q) b[host::current][q] = __uint_as_float(bs[q] & 0xffffe000u);
    host::pause(host::AT_WARP);
    const int first = host::current / 32 * 32, group = host::current % 32 / 4, member = host::current % 4;
    for (int k = 0; k < 8; ++k)
        for (int q = 0; q < 4; ++q)
            d[q] += a[first + 4 * group + k % 4][2 * (k / 4) + q / 2] * b[first + 4 * (2 * member + q % 2) + k % 4][k / 4];
    host::pause(host::AT_WARP);
}
