// Exact matching by shortest augmenting paths; one block a problem. The algorithm, and the order of its additions in double,
// are those of difflayers/matching/exact/oracle.py, so that results are the same bits as on the CPU. All threads take the same
// decisions: the columns of a row are shared out among them, what was found is brought together, and thread 0 writes it down.

#include "common.cuh"

constexpr int BIDS = 2, ROUNDS = 4;
constexpr int SOLVED = 0, WRONG_VALUE = 1, INFEASIBLE = 2, WRONG_START = 3;
constexpr int NOWHERE = 0x7fffffff;

struct Exact {
    const T* cost;  // (n, width)
    int m, width, slack;
    double *beta, *distance, *level, *kept;  // of columns; of those of the tree, in its order
    int *pred, *owner, *tree;                // of columns; the tree's columns
    int *column, *rows;                      // of rows; the list of rows that wait
    double* pays;                            // of rows
    double *least, *second;                  // a number for each warp
    int* where;                              // two for each warp
    int* counts;

    __device__ double own(int i) const { return slack ? double(cost[static_cast<long long>(i) * width + m]) : INFINITE; }
    __device__ const T* row(int i) const { return cost + static_cast<long long>(i) * width; }
};

// Of the entries seen: the least, the second least (as large where two are equal), the first index of the least, and how
// many are equal to it.
struct Found {
    double least, second;
    int where, count;
};

__device__ inline void join(Found& a, double least, double second, int where, int count) {
    const double most = larger(a.least, least);
    const double next = a.second < second ? a.second : second;
    a.second = most < next ? most : next;
    if (least < a.least)
        a.where = where, a.count = count;
    else if (least == a.least)
        a.where = smaller(a.where, where), a.count += count;
    a.least = least < a.least ? least : a.least;
}

// What all threads have found, in all threads.
__device__ inline Found bring_together(const Exact& p, Found own) {
    for (int distance = LANES / 2; distance > 0; distance /= 2) {
        const double least = __shfl_xor_sync(ALL, own.least, distance), second = __shfl_xor_sync(ALL, own.second, distance);
        const int where = __shfl_xor_sync(ALL, own.where, distance), count = __shfl_xor_sync(ALL, own.count, distance);
        join(own, least, second, where, count);
    }
    __syncthreads();  // the last result has been read
    if (lane_number() == 0) {
        p.least[warp_number()] = own.least, p.second[warp_number()] = own.second;
        p.where[2 * warp_number()] = own.where, p.where[2 * warp_number() + 1] = own.count;
    }
    __syncthreads();
    Found all = {p.least[0], p.second[0], p.where[0], p.where[1]};
    for (int w = 1; w < WARPS; ++w) join(all, p.least[w], p.second[w], p.where[2 * w], p.where[2 * w + 1]);
    return all;
}

// Of C_ij + beta_j.
__device__ inline Found smallest_two(const Exact& p, int i) {
    Found own = {INFINITE, INFINITE, NOWHERE, 0};
    const T* const row = p.row(i);
    for (int j = threadIdx.x; j < p.m; j += THREADS) join(own, double(row[j]) + p.beta[j], INFINITE, j, 1);
    return bring_together(p, own);
}

// distance_j = min(distance_j, (C_ij + beta_j) - shift), pred_j = i where that lowers it; the least distance.
__device__ inline Found relax(const Exact& p, int i, double shift) {
    Found own = {INFINITE, INFINITE, NOWHERE, 0};
    const T* const row = p.row(i);
    for (int j = threadIdx.x; j < p.m; j += THREADS) {
        const double h = (double(row[j]) + p.beta[j]) - shift;
        double distance = p.distance[j];
        if (h < distance) p.distance[j] = distance = h, p.pred[j] = i;
        join(own, distance, INFINITE, j, 1);
    }
    return bring_together(p, own);
}

// Whether all costs of the rows are allowed values.
__device__ inline bool check(const Exact& p, int count) {
    bool wrong = false;
    for (int r = 0; r < count; ++r) {
        const T* const row = p.row(p.rows[r]);
        for (int j = threadIdx.x; j < p.m; j += THREADS) {
            const double value = double(row[j]);
            wrong |= !(value > -INFINITE);
            if (sizeof(T) == 8) wrong |= !(value > -1e300) || (!(value < 1e300) && value != INFINITE);
        }
        if (p.slack) wrong |= !(fabs(p.own(p.rows[r])) <= 1e300);
    }
    return block_sum<true>(wrong ? 1 : 0, p.least) == 0;
}

// beta_j = -min_i C_ij. False if a column has no entry.
__device__ inline bool reduce_columns(const Exact& p, int count) {
    bool wrong = false;
    for (int j = threadIdx.x; j < p.m; j += THREADS) {
        double least = INFINITE;
        for (int r = 0; r < count; ++r) {
            const double value = double(p.row(p.rows[r])[j]);
            if (value < least) least = value;
        }
        wrong |= least == INFINITE;
        p.beta[j] = -least;
    }
    return block_sum<true>(wrong ? 1 : 0, p.least) == 0;
}

// The rows left over come to stand first in p.rows. Returns their number, -1 if a row has no column.
__device__ __noinline__ int bid(const Exact& p, int count, int limit, int* scans) {
    int left = 0, k = 0, bids = 0, i = -1;
    while (k < count || i >= 0) {
        if (i < 0) i = p.rows[k++];
        ++bids;
        const Found found = smallest_two(p, i);
        const double own = p.own(i);
        if (found.least == INFINITE && own == INFINITE) {
            left = -1;
            break;
        }
        const int j = found.where;
        const int other = found.least < INFINITE ? p.owner[j] : -1;
        if (own < found.least || (own == found.least && other >= 0)) {
            if (threadIdx.x == 0) p.column[i] = p.m;
            i = -1;
            continue;
        }
        const double before = p.beta[j];
        double raised = before + ((found.second < own ? found.second : own) - found.least);
        if (raised == INFINITE) raised = before;
        __syncthreads();  // all have read
        if (other >= 0 && !(raised > before && bids <= limit)) {
            if (threadIdx.x == 0) p.rows[left] = i;
            ++left;
            i = -1;
            continue;
        }
        if (threadIdx.x == 0) {
            p.beta[j] = raised, p.owner[j] = i, p.column[i] = j;
            if (other >= 0) p.column[other] = -1;
        }
        __syncthreads();
        i = other;
    }
    *scans += bids;
    __syncthreads();
    return left;
}

// The columns at distance `least`, in order, into the tree, up to the first that is free: its index, or -1. By warp 0.
__device__ inline int collect(const Exact& p, double least, double reached, int* size) {
    if (warp_number() == 0) {
        const int lane = lane_number();
        int end = -1, filled = *size;
        for (int base = 0; base < p.m && end < 0; base += LANES) {
            const int j = base + lane;
            const bool equal = j < p.m && p.distance[j] == least;
            unsigned word = __ballot_sync(ALL, equal);
            const unsigned free = __ballot_sync(ALL, equal && p.owner[j] < 0);
            if (free) {
                const unsigned first = free & (~free + 1u);
                word &= first - 1u;
                end = base + __popc(first - 1u);
            }
            if (word >> lane & 1u) {
                const int at = filled + __popc(word & ((1u << lane) - 1u));
                p.tree[at] = j, p.level[at] = reached, p.kept[at] = p.beta[j];
                p.beta[j] = p.distance[j] = INFINITE;
            }
            filled += __popc(word);
        }
        if (lane == 0) p.counts[1] = end, p.counts[2] = filled;
    }
    __syncthreads();
    *size = p.counts[2];
    return p.counts[1];
}

// Match one row more. False: there is no path.
__device__ __noinline__ bool augment(const Exact& p, int root, int* scans) {
    for (int j = threadIdx.x; j < p.m; j += THREADS) p.distance[j] = INFINITE;
    int i = root, own_row = -1, end = -1, size = 0, done = 0;
    double shift = 0, own = INFINITE, reached = -INFINITE;
    while (true) {
        const Found found = relax(p, i, shift);
        if (p.own(i) - shift < own) own = p.own(i) - shift, own_row = i;
        if (done == size) {
            if (own < found.least || found.least == INFINITE) {
                reached = own;
                break;
            }
            reached = larger(reached, found.least);
        }
        if (found.least <= reached) {
            if (found.count == 1) {
                const int j = found.where;
                if (p.owner[j] < 0) {
                    end = j;
                } else {
                    if (threadIdx.x == 0) {
                        p.tree[size] = j, p.level[size] = reached, p.kept[size] = p.beta[j];
                        p.beta[j] = p.distance[j] = INFINITE;
                    }
                    ++size;
                }
                __syncthreads();
            } else {
                end = collect(p, found.least, reached, &size);
            }
            if (end >= 0) break;
        }
        if (own <= reached) break;
        const int j = p.tree[done];
        i = p.owner[j];
        shift = (double(p.row(i)[j]) + p.kept[done]) - reached;
        ++done;
    }
    *scans += done + 1;
    __syncthreads();
    if (reached == INFINITE) return false;
    for (int k = threadIdx.x; k < size; k += THREADS) p.beta[p.tree[k]] = p.kept[k] + (reached - p.level[k]);
    if (threadIdx.x == 0) {
        if (end < 0) end = p.column[own_row], p.column[own_row] = p.m;
        while (end >= 0) {
            const int r = p.pred[end], next = p.column[r];
            p.owner[end] = r, p.column[r] = end;
            end = next;
        }
    }
    __syncthreads();
    return true;
}

// Rows to their cheapest columns under a given beta; those that find theirs taken come to stand first in p.rows.
__device__ __noinline__ int resume(const Exact& p, int count, bool square, int* scans) {
    for (int turn = 0; turn <= ROUNDS; ++turn) {
        for (int j = threadIdx.x; j < p.m; j += THREADS) {
            p.owner[j] = -1;
            if (turn == ROUNDS) p.beta[j] = 0;
        }
        for (int r = 0; r < count; ++r) {
            const int i = p.rows[r];
            const Found found = smallest_two(p, i);
            if (threadIdx.x == 0) {
                p.column[i] = -1;
                if (p.own(i) < found.least)
                    p.column[i] = p.m;
                else if (found.least < INFINITE && p.owner[found.where] < 0)
                    p.owner[found.where] = i, p.column[i] = found.where;
            }
        }
        *scans += count;
        __syncthreads();
        bool stale = false;
        for (int j = threadIdx.x; !square && j < p.m; j += THREADS)
            if (p.owner[j] < 0 && p.beta[j] > 0) p.beta[j] = 0, stale = true;
        if (block_sum<true>(stale ? 1 : 0, p.least) == 0) break;
    }
    int left = 0;
    for (int r = 0; r < count; ++r) {
        const int i = p.rows[r];
        const bool waits = p.column[i] < 0;
        __syncthreads();
        if (threadIdx.x == 0 && waits) p.rows[left] = i;
        left += waits;
    }
    __syncthreads();
    return left;
}

// The rows that take part, in p.rows. Returns their number.
__device__ inline int list(const Exact& p, const bool* templates, int n) {
    __syncthreads();
    if (warp_number() == 0) {
        const int lane = lane_number();
        int count = 0;
        for (int base = 0; base < n; base += LANES) {
            const bool used = base + lane < n && templates[base + lane];
            const unsigned word = __ballot_sync(ALL, used);
            if (used) p.rows[count + __popc(word & ((1u << lane) - 1u))] = base + lane;
            count += __popc(word);
        }
        if (lane == 0) p.counts[3] = count;
    }
    __syncthreads();
    return p.counts[3];
}

// Lower each price by half of what no other row would pay for the column.
__device__ __noinline__ void center(const Exact& p, int count, bool square) {
    for (int r = threadIdx.x; r < count; r += THREADS) {
        const int i = p.rows[r], j = p.column[i];
        p.pays[i] = j == p.m ? p.own(i) : double(p.row(i)[j]) + p.beta[j];
    }
    __syncthreads();
    for (int j = threadIdx.x; j < p.m; j += THREADS) {
        double least = INFINITE;
        for (int r = 0; r < count; ++r) {
            const int i = p.rows[r];
            const double h = (double(p.row(i)[j]) + p.beta[j]) - p.pays[i];
            if (p.column[i] != j && h < least) least = h;
        }
        double excess = 0.5 * least;
        if (square)
            excess = excess == INFINITE ? 0 : excess;
        else
            excess = excess < p.beta[j] ? excess : p.beta[j];
        p.distance[j] = p.owner[j] >= 0 ? larger(excess, 0.0) : 0.0;
    }
    __syncthreads();
    for (int j = threadIdx.x; j < p.m; j += THREADS) p.beta[j] -= p.distance[j];
    __syncthreads();
}

// What becomes of a problem.
__device__ inline int solve(const Exact& p, const bool* templates, int n, bool centered, bool warm, int* scans) {
    int count = list(p, templates, n);
    if (!check(p, count)) return WRONG_VALUE;
    const bool square = count == p.m && !p.slack;
    int left = count;
    if (warm) {
        bool wrong = false;
        for (int j = threadIdx.x; j < p.m; j += THREADS) wrong |= !(p.beta[j] >= 0 && p.beta[j] < INFINITE);
        if (block_sum<true>(wrong ? 1 : 0, p.least) != 0) return WRONG_START;
        left = resume(p, count, square, scans);
    } else if (square) {
        if (!reduce_columns(p, count)) return INFEASIBLE;
    }
    for (int round = 0; round < 2; ++round) {
        left = bid(p, left, BIDS * count, scans);
        if (left < 0) return INFEASIBLE;
    }
    for (int r = 0; r < left; ++r)
        if (!augment(p, p.rows[r], scans)) return INFEASIBLE;
    if (centered) {
        count = list(p, templates, n);
        center(p, count, square);
        *scans += count;
    }
    if (square) {
        double most = -INFINITE;
        for (int j = threadIdx.x; j < p.m; j += THREADS) most = larger(most, -p.beta[j]);
        const double least = -block_sum<true>(most, p.least);
        for (int j = threadIdx.x; j < p.m; j += THREADS) p.beta[j] -= least;
        __syncthreads();
    }
    return SOLVED;
}

// `op.exact`: cost (batch, n, m, and one column more with `slack`), templates (batch, n) and, if `warm`, prices (batch, m) to
// columns (batch, n), alpha (batch, n), beta (batch, m), rows looked at (batch) and what became of each problem (batch). A
// block has `bytes` of `workspace`, unless it is IN_SHARED.
extern "C" __global__ void __launch_bounds__(THREADS) exact(
    const T* cost, const bool* templates, const double* prices, int* ticket, unsigned char* workspace, long long* columns,
    double* alpha, double* beta, long long* iterations, long long* status, int batch, int n, int m, int slack, int centered,
    int warm, int bytes
) {
    SHARED_MEMORY(memory);
    Exact p;
    p.m = m, p.width = m + (slack ? 1 : 0), p.slack = slack;
    p.least = reinterpret_cast<double*>(memory);
    p.second = p.least + (WARPS + 1) / 2 * 2;
    p.where = reinterpret_cast<int*>(p.second + WARPS);
    p.counts = p.where + 2 * WARPS;
    unsigned char* const own =
        IN_SHARED ? reinterpret_cast<unsigned char*>(p.counts + 8) : workspace + blockIdx.x * static_cast<long long>(bytes);
    p.beta = reinterpret_cast<double*>(own), p.distance = p.beta + m, p.level = p.distance + m, p.kept = p.level + m;
    p.pays = p.kept + m;
    p.pred = reinterpret_cast<int*>(p.pays + n), p.owner = p.pred + m, p.tree = p.owner + m;
    p.column = p.tree + m, p.rows = p.column + n;
    while (true) {
        const int b = next_problem(ticket, p.counts);
        if (b >= batch) break;
        p.cost = cost + static_cast<long long>(b) * n * p.width;
        const bool* const there = templates + static_cast<long long>(b) * n;
        for (int i = threadIdx.x; i < n; i += THREADS) p.column[i] = -1;
        for (int j = threadIdx.x; j < m; j += THREADS) {
            p.owner[j] = -1;
            p.beta[j] = warm ? prices[static_cast<long long>(b) * m + j] : 0.0;
        }
        __syncthreads();
        int scans = 0;
        const int result = solve(p, there, n, centered, warm, &scans);
        __syncthreads();
        for (int i = threadIdx.x; i < n; i += THREADS) {
            const int j = p.column[i];
            const long long at = static_cast<long long>(b) * n + i;
            columns[at] = j < m ? j : -1;
            alpha[at] = j >= 0 ? -(double(p.row(i)[j]) + (j < m ? p.beta[j] : 0.0)) : 0.0;
        }
        for (int j = threadIdx.x; j < m; j += THREADS) beta[static_cast<long long>(b) * m + j] = p.beta[j];
        if (threadIdx.x == 0) iterations[b] = scans, status[b] = result;
    }
}
