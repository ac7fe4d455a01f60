// What the kernels of SATNet leave each other in three numbers, zero at first: the bits of the largest |S| as a double,
// whether a value was wrong (`survey`), and the next sample to solve.

__device__ inline int* ticket_of(long long* state) { return reinterpret_cast<int*>(state + 2); }

// The exponent of the scaling of S, `common.scaling`: S is divided by two to its power.
template <class Number>
__device__ inline int exponent_of(const long long* state) {
    int exponent;
    frexp(__longlong_as_double(state[0]), &exponent);
    return smaller(exponent, sizeof(Number) == 4 ? 127 : 1023);
}
