"""The matching kernels for CPU, compiled by numba: one problem is one thread's, in buffers that fit its L1 cache.

Dykstra's algorithm without Dykstra's matrices. The correction of P2 is one number q_j for each column, that of P3 changes
nothing (rows move in an affine set), and the correction of P1 is what P1 cut off: with t = X + p the input of P1,
its output max(t, 0) and the next p = min(t, 0) sum to t. So a round is t_ij += d_j - r_i, with

    q_j' = max(0, q_j + (sum_i max(t_ij, 0) - 1) / n),   d_j = q_j - q_j',   r_i = (sum_j (max(t_ij, 0) + d_j) - 1) / m,

and its result is X_ij = max(t_ij, 0) + d_j - r_i: one pass over the matrix for all three projections. What the derivative
needs is which t_ij and which q_j' were positive: a bit each. Forwards, `dmm_tangent` is the same loop with these bits for
the comparisons and 0 for the constants; backwards, `dmm_adjoint` is its transpose.

Rows and columns that a problem does not have are left out when it is gathered; other forbidden pairs, and the padding of
rows to whole vectors, hold t = -inf, which no finite shift changes and no sum sees.
"""

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from difflayers._numba import helper, helper_fast, kernel, stopped, take_ticket

LANES = 8  # one byte of bits; LLVM splits or joins what the processor's vectors hold


class _Vectors:
    """LLVM builders for vectors of LANES numbers of one dtype, and their sign bits."""

    def __init__(self, context, builder, dtype, index):
        self.context, self.builder, self.index = context, builder, index
        self.scalar = context.get_data_type(dtype)
        self.type = ir.VectorType(self.scalar, LANES)
        self.itemsize = dtype.bitwidth // 8
        self.zero = ir.Constant(self.type, [0.0] * LANES)

    def start(self, array_type, array, offset):
        """The address of element `offset` of a flat array."""
        data = self.context.make_array(array_type)(self.context, self.builder, array).data
        return self.builder.gep(data, [offset])

    def load(self, start, block):
        at = self.builder.gep(start, [self.builder.mul(block, self.index(LANES))])
        value = self.builder.load(self.builder.bitcast(at, self.type.as_pointer()))
        value.align = self.itemsize
        return value

    def store(self, value, start, block):
        at = self.builder.gep(start, [self.builder.mul(block, self.index(LANES))])
        self.builder.store(value, self.builder.bitcast(at, self.type.as_pointer())).align = self.itemsize

    def broadcast(self, value):
        undefined = ir.Constant(self.type, ir.Undefined)
        one = self.builder.insert_element(undefined, value, ir.IntType(32)(0))
        return self.builder.shuffle_vector(one, undefined, ir.Constant(ir.VectorType(ir.IntType(32), LANES), None))

    def positive(self, value):
        return self.builder.fcmp_ordered(">", value, self.zero)

    def store_bits(self, bits, start, block):
        byte = self.builder.bitcast(bits, ir.IntType(8))
        self.builder.store(byte, self.builder.gep(start, [block]))

    def load_bits(self, start, block):
        byte = self.builder.load(self.builder.gep(start, [block]))
        return self.builder.bitcast(byte, ir.VectorType(ir.IntType(1), LANES))

    def accumulate(self, value, total):
        self.builder.store(self.builder.fadd(self.builder.load(total), value), total)

    def sum(self, total):
        """The sum of a vector's elements, in a fixed order."""
        value = self.builder.load(total)
        parts = [self.builder.extract_element(value, ir.IntType(32)(lane)) for lane in range(LANES)]
        while len(parts) > 1:
            parts = [self.builder.fadd(a, b) for a, b in zip(parts[::2], parts[1::2], strict=True)]
        return parts[0]

    def new_total(self):
        total = cgutils.alloca_once(self.builder, self.type)
        self.builder.store(self.zero, total)
        return total


class _Tile(_Vectors):
    """Rows first .. first + height - 1 of a matrix and of its bits, a number for each row and one for each column, and the
    sums of both kinds: what a pass over a tile of rows reads and writes."""

    def __init__(self, context, builder, signature, args, height):
        matrix, first, blocks, row_term, row_sums, column_term, column_sums, bits = args[:8]
        types_, index = signature.args, first.type
        super().__init__(context, builder, types_[0].dtype, index)
        rows = [builder.add(first, index(r)) for r in range(height)]
        width = builder.mul(blocks, index(LANES))
        self.rows_at = [self.start(types_[0], matrix, builder.mul(row, width)) for row in rows]
        self.bits_at = [self.start(types_[7], bits, builder.mul(row, blocks)) for row in rows]
        self.row_terms = [self.broadcast(builder.load(self.start(types_[3], row_term, row))) for row in rows]
        self.row_sums_at = [self.start(types_[4], row_sums, row) for row in rows]
        self.totals = [self.new_total() for _ in rows]
        self.column_term_at = self.start(types_[5], column_term, index(0))
        self.column_sums_at = self.start(types_[6], column_sums, index(0))

    def store_row_sums(self):
        for total, at in zip(self.totals, self.row_sums_at, strict=True):
            self.builder.store(self.sum(total), at)


def _make_project_rows(height, replay):
    """For rows i < height from `first` on: t[i] += column_shift - row_shift_i, row_sums_i = sum_j max(t_ij, 0).

    Adds max(t[i], 0) to column_sums and writes the bits t[i] > 0. Tiles of rows, for fewer trips of column_sums to memory.
    With `replay` the bits are read, and say what is kept instead of the sign.
    """

    @intrinsic
    def project_rows(typingctx, t, first, blocks, row_shift, row_sums, column_shift, column_sums, bits):
        signature = types.void(t, first, blocks, row_shift, row_sums, column_shift, column_sums, bits)

        def codegen(context, builder, signature, args):
            tile = _Tile(context, builder, signature, args, height)
            with cgutils.for_range(builder, args[2]) as loop:
                b = loop.index
                along, column_sum = tile.load(tile.column_term_at, b), tile.load(tile.column_sums_at, b)
                for r in range(height):
                    moved = builder.fadd(tile.load(tile.rows_at[r], b), builder.fsub(along, tile.row_terms[r]))
                    tile.store(moved, tile.rows_at[r], b)
                    positive = tile.load_bits(tile.bits_at[r], b) if replay else tile.positive(moved)
                    kept = builder.select(positive, moved, tile.zero)
                    column_sum = builder.fadd(column_sum, kept)
                    tile.accumulate(kept, tile.totals[r])
                    if not replay:
                        tile.store_bits(positive, tile.bits_at[r], b)
                tile.store(column_sum, tile.column_sums_at, b)
            tile.store_row_sums()
            return context.get_dummy_value()

        return signature, codegen

    return project_rows


_project_4, _project_2, _project_1 = (_make_project_rows(height, False) for height in (4, 2, 1))
_replay_4, _replay_2, _replay_1 = (_make_project_rows(height, True) for height in (4, 2, 1))


@helper
def _project_rows(t, n_rows, blocks, row_shift, row_sums, column_shift, column_sums, bits):
    """All rows, in tiles."""
    a = 0
    while a + 4 <= n_rows:
        _project_4(t, a, blocks, row_shift, row_sums, column_shift, column_sums, bits)
        a += 4
    if a + 2 <= n_rows:
        _project_2(t, a, blocks, row_shift, row_sums, column_shift, column_sums, bits)
        a += 2
    if a < n_rows:
        _project_1(t, a, blocks, row_shift, row_sums, column_shift, column_sums, bits)


@helper
def _replay_rows(t, n_rows, blocks, row_shift, row_sums, column_shift, column_sums, bits):
    a = 0
    while a + 4 <= n_rows:
        _replay_4(t, a, blocks, row_shift, row_sums, column_shift, column_sums, bits)
        a += 4
    if a + 2 <= n_rows:
        _replay_2(t, a, blocks, row_shift, row_sums, column_shift, column_sums, bits)
        a += 2
    if a < n_rows:
        _replay_1(t, a, blocks, row_shift, row_sums, column_shift, column_sums, bits)


@intrinsic
def _project_columns(typingctx, q, inverse_counts, column_sums, blocks, shift, bits, bits_base):
    """q' = max(0, q + (column_sums - 1) inverse_counts); shift = q - q'; bits = q' > 0. Returns the sum of shift."""
    signature = q.dtype(q, inverse_counts, column_sums, blocks, shift, bits, bits_base)

    def codegen(context, builder, signature, args):
        q, inverse_counts, column_sums, blocks, shift, bits, bits_base = args
        types_ = signature.args
        v = _Vectors(context, builder, types_[0].dtype, bits_base.type)
        first = bits_base.type(0)
        q_at, inverse_at = v.start(types_[0], q, first), v.start(types_[1], inverse_counts, first)
        sums_at, shift_at = v.start(types_[2], column_sums, first), v.start(types_[4], shift, first)
        bits_at, total = v.start(types_[5], bits, bits_base), v.new_total()
        one = ir.Constant(v.type, [1.0] * LANES)
        with cgutils.for_range(builder, blocks) as loop:
            b = loop.index
            old = v.load(q_at, b)
            excess = builder.fmul(builder.fsub(v.load(sums_at, b), one), v.load(inverse_at, b))
            moved = builder.fadd(old, excess)
            positive = v.positive(moved)
            new = builder.select(positive, moved, v.zero)
            change = builder.fsub(old, new)
            v.store(new, q_at, b)
            v.store(change, shift_at, b)
            v.accumulate(change, total)
            v.store_bits(positive, bits_at, b)
        return v.sum(total)

    return signature, codegen


def _make_pull_rows(height):
    """For rows i < height from `first` on, where the bits of row i are set: T[i] += row_pull_i + column_pull.

    Elsewhere T[i] stays, or becomes 0 if `whole`. Sets row_sums_i to the sum of the new T[i], adds T[i] to column_sums.
    """

    @intrinsic
    def pull_rows(typingctx, T, first, blocks, row_pull, row_sums, column_pull, column_sums, bits, whole):
        signature = types.void(T, first, blocks, row_pull, row_sums, column_pull, column_sums, bits, whole)

        def codegen(context, builder, signature, args):
            tile, whole = _Tile(context, builder, signature, args, height), args[8]
            with cgutils.for_range(builder, args[2]) as loop:
                b = loop.index
                down, column_sum = tile.load(tile.column_term_at, b), tile.load(tile.column_sums_at, b)
                for r in range(height):
                    old, positive = tile.load(tile.rows_at[r], b), tile.load_bits(tile.bits_at[r], b)
                    pull = builder.fadd(tile.row_terms[r], down)
                    other = builder.select(whole, tile.zero, old)
                    new = builder.select(positive, builder.fadd(old, pull), other)
                    tile.store(new, tile.rows_at[r], b)
                    column_sum = builder.fadd(column_sum, new)
                    tile.accumulate(new, tile.totals[r])
                tile.store(column_sum, tile.column_sums_at, b)
            tile.store_row_sums()
            return context.get_dummy_value()

        return signature, codegen

    return pull_rows


_pull_4, _pull_2, _pull_1 = (_make_pull_rows(height) for height in (4, 2, 1))


@intrinsic
def _replay_columns(typingctx, q, inverse_counts, column_sums, blocks, shift, bits, bits_base):
    """The derivative of `_project_columns`: q' = q + column_sums inverse_counts where the bits are set, else 0."""
    signature = q.dtype(q, inverse_counts, column_sums, blocks, shift, bits, bits_base)

    def codegen(context, builder, signature, args):
        q, inverse_counts, column_sums, blocks, shift, bits, bits_base = args
        types_ = signature.args
        v = _Vectors(context, builder, types_[0].dtype, bits_base.type)
        first = bits_base.type(0)
        q_at, inverse_at = v.start(types_[0], q, first), v.start(types_[1], inverse_counts, first)
        sums_at, shift_at = v.start(types_[2], column_sums, first), v.start(types_[4], shift, first)
        bits_at, total = v.start(types_[5], bits, bits_base), v.new_total()
        with cgutils.for_range(builder, blocks) as loop:
            b = loop.index
            old = v.load(q_at, b)
            moved = builder.fadd(old, builder.fmul(v.load(sums_at, b), v.load(inverse_at, b)))
            new = builder.select(v.load_bits(bits_at, b), moved, v.zero)
            change = builder.fsub(old, new)
            v.store(new, q_at, b)
            v.store(change, shift_at, b)
            v.accumulate(change, total)
        return v.sum(total)

    return signature, codegen


@intrinsic
def _pull_columns(typingctx, Q, inverse_counts, pull, blocks, column, bits, bits_base):
    """The adjoint of `_project_columns`, with s = Q - pull where the bits are set, else 0: column = s inverse_counts,
    Q = pull + s."""
    signature = types.void(Q, inverse_counts, pull, blocks, column, bits, bits_base)

    def codegen(context, builder, signature, args):
        Q, inverse_counts, pull, blocks, column, bits, bits_base = args
        types_ = signature.args
        v = _Vectors(context, builder, types_[0].dtype, bits_base.type)
        first = bits_base.type(0)
        Q_at, inverse_at = v.start(types_[0], Q, first), v.start(types_[1], inverse_counts, first)
        pull_at, column_at = v.start(types_[2], pull, first), v.start(types_[4], column, first)
        bits_at = v.start(types_[5], bits, bits_base)
        with cgutils.for_range(builder, blocks) as loop:
            b = loop.index
            pulled = v.load(pull_at, b)
            s = builder.select(v.load_bits(bits_at, b), builder.fsub(v.load(Q_at, b), pulled), v.zero)
            v.store(builder.fmul(s, v.load(inverse_at, b)), column_at, b)
            v.store(builder.fadd(pulled, s), Q_at, b)
        return context.get_dummy_value()

    return signature, codegen


@helper
def _finish_row(t, a, width, row_shift, column_shift, x, total):
    """x[a] = max(t[a], 0) + column_shift - row_shift, and total[a] += x[a]."""
    row = slice(a * width, (a + 1) * width)
    t_row, x_row, total_row = t[row], x[row], total[row]
    for e in range(width):
        kept = t_row[e] if t_row[e] > 0 else t.dtype.type(0)
        x_row[e] = kept + (column_shift[e] - row_shift)
        total_row[e] += x_row[e]


@helper
def _sum_allowed(costs, columns, n_columns, x):
    """The sum of x over the columns that a row allows."""
    total = x.dtype.type(0)
    for e in range(n_columns):
        if costs[columns[e]] < np.inf:
            total += x[e]
    return total


@helper_fast
def _sum_row(T, a, width, column_sums):
    """Adds T[a] to column_sums; returns its sum."""
    row = T[a * width : (a + 1) * width]
    total = T.dtype.type(0)
    for e in range(width):
        total += row[e]
        column_sums[e] += row[e]
    return total


@helper
def _members(cost, slack, rows, columns, row_counts, column_counts):
    """Fill `rows` and `columns` with the numbers of those that allow a pair, the column of `slack` last in any case.

    The counts are those of allowed pairs. Returns both numbers, and whether every pair of members is allowed.
    """
    n, m = cost.shape
    n_rows, n_columns, pairs = 0, 0, 0
    for j in range(m):
        column_counts[j] = 0
    for i in range(n):
        count = 0
        for j in range(m):
            if cost[i, j] < np.inf:
                count += 1
                column_counts[j] += 1
        if count > 0:
            rows[n_rows], row_counts[n_rows] = i, count
            n_rows += 1
            pairs += count
    for j in range(m):
        if column_counts[j] > 0 or (slack and j == m - 1):
            columns[n_columns], column_counts[n_columns] = j, column_counts[j]
            n_columns += 1
    return n_rows, n_columns, pairs == n_rows * n_columns


@helper
def _inverse_counts(counts, size, width, skip_last, out):
    for j in range(width):
        out[j] = 0
    for j in range(size - 1 if skip_last else size):
        out[j] = 1 / counts[j]


@helper
def _start(c, n_rows, n_columns, width, slack, cheapest, x):
    """`oracle.start` on a gathered problem."""
    columns = n_columns - 1 if slack else n_columns
    highest = -np.inf
    for j in range(columns):
        cheapest[j] = 0
        for i in range(n_rows):
            value = c[i * width + j]
            if value < c[cheapest[j] * width + j]:
                cheapest[j] = i
            if value < np.inf and value > highest:
                highest = value
    for i in range(n_rows):
        best, lowest = -1, np.inf
        for j in range(n_columns):
            value = c[i * width + j]
            x[i * width + j] = 0
            if value < np.inf:
                if j < columns and cheapest[j] != i:
                    value = highest
                if best < 0 or value < lowest:
                    best, lowest = j, value
        for j in range(n_columns, width):
            x[i * width + j] = 0
        x[i * width + best] = 1


@kernel
def dmm(cost, n_grad, n_proj, step_size, average, slack, ticket, X, bits):
    """Algorithm 1 of the paper (`oracle.dmm`) for the problems of a batch whose tickets are drawn.

    Reads cost (B, n, m), +inf where forbidden. Fills X (B, n, m), and bits (B, n_grad * n_proj, size) of uint8, or (B, 0,
    size) where no gradient is wanted: for each round the bits of the rows of t, then those of q.
    """
    n, m = cost.shape[1], cost.shape[2]
    dtype = X.dtype.type
    padded = (m + LANES - 1) // LANES * LANES
    rows, columns = np.zeros(n, np.int64), np.zeros(m, np.int64)
    row_counts, column_counts = np.zeros(n, np.int64), np.zeros(m, np.int64)
    cheapest = np.zeros(m, np.int64)
    c, x = np.zeros(n * padded, X.dtype), np.zeros(n * padded, X.dtype)
    t, total = np.zeros(n * padded, X.dtype), np.zeros(n * padded, X.dtype)
    q, inverse_columns = np.zeros(padded, X.dtype), np.zeros(padded, X.dtype)
    column_sums, column_shift = np.zeros(padded, X.dtype), np.zeros(padded, X.dtype)
    row_shift, row_sums, inverse_rows = np.zeros(n, X.dtype), np.zeros(n, X.dtype), np.zeros(n, X.dtype)
    scratch = np.zeros(bits.shape[2], np.uint8)
    keep = bits.shape[1] > 0
    while True:
        b = take_ticket(ticket)
        if b >= cost.shape[0]:
            break
        n_rows, n_columns, dense = _members(cost[b], slack, rows, columns, row_counts, column_counts)
        blocks = (n_columns + LANES - 1) // LANES
        width = blocks * LANES
        _inverse_counts(column_counts, n_columns, width, slack, inverse_columns)
        _inverse_counts(row_counts, n_rows, n_rows, False, inverse_rows)
        for a in range(n_rows):
            for e in range(n_columns):
                c[a * width + e] = cost[b, rows[a], columns[e]]
            for e in range(n_columns, width):
                c[a * width + e] = np.inf
        _start(c, n_rows, n_columns, width, slack, cheapest, x)
        for e in range(n_rows * width):
            total[e] = 0
        for step in range(n_grad):
            if stopped(ticket):
                break
            for e in range(n_rows * width):
                t[e] = x[e] - dtype(step_size) * c[e]
            for e in range(width):
                q[e], column_shift[e] = 0, 0
            for a in range(n_rows):
                row_shift[a] = 0
            for turn in range(n_proj):
                place = bits[b, step * n_proj + turn] if keep else scratch
                for e in range((n_rows + 1) * blocks, place.size):  # of rows and columns that were left out
                    place[e] = 0
                for e in range(width):
                    column_sums[e] = 0
                _project_rows(t, n_rows, blocks, row_shift, row_sums, column_shift, column_sums, place)
                shifted = _project_columns(
                    q, inverse_columns, column_sums, blocks, column_shift, place, n_rows * blocks
                )
                for a in range(n_rows):
                    if not dense:
                        shifted = _sum_allowed(cost[b, rows[a]], columns, n_columns, column_shift)
                    row_shift[a] = (row_sums[a] + shifted - dtype(1)) * inverse_rows[a]
            for a in range(n_rows):
                _finish_row(t, a, width, row_shift[a], column_shift, x, total)
        share = dtype(1 / n_grad)
        for i in range(n):
            for j in range(m):
                X[b, i, j] = 0
        for a in range(n_rows):
            for e in range(n_columns):
                if c[a * width + e] < np.inf:
                    X[b, rows[a], columns[e]] = total[a * width + e] * share if average else x[a * width + e]


@kernel
def dmm_adjoint(cost, bits, grad, n_grad, n_proj, step_size, average, slack, ticket, out):
    """out (B, n, m): the gradient of <grad, X> with respect to the cost, along the path that the bits remember."""
    n, m = cost.shape[1], cost.shape[2]
    dtype = out.dtype.type
    padded = (m + LANES - 1) // LANES * LANES
    rows, columns = np.zeros(n, np.int64), np.zeros(m, np.int64)
    row_counts, column_counts = np.zeros(n, np.int64), np.zeros(m, np.int64)
    g, T, total = np.zeros(n * padded, out.dtype), np.zeros(n * padded, out.dtype), np.zeros(n * padded, out.dtype)
    Q, inverse_columns = np.zeros(padded, out.dtype), np.zeros(padded, out.dtype)
    column_sums, column_pull = np.zeros(padded, out.dtype), np.zeros(padded, out.dtype)
    row_pull, row_sums, inverse_rows = np.zeros(n, out.dtype), np.zeros(n, out.dtype), np.zeros(n, out.dtype)
    while True:
        b = take_ticket(ticket)
        if b >= cost.shape[0]:
            break
        n_rows, n_columns, dense = _members(cost[b], slack, rows, columns, row_counts, column_counts)
        blocks = (n_columns + LANES - 1) // LANES
        width = blocks * LANES
        _inverse_counts(column_counts, n_columns, width, slack, inverse_columns)
        _inverse_counts(row_counts, n_rows, n_rows, False, inverse_rows)
        share = dtype(1 / n_grad) if average else dtype(1)
        for e in range(n_rows * width):
            g[e], total[e] = 0, 0
        for a in range(n_rows):
            for e in range(n_columns):
                if cost[b, rows[a], columns[e]] < np.inf:
                    g[a * width + e] = grad[b, rows[a], columns[e]] * share
        for e in range(n_rows * width):
            T[e] = g[e]
        for step in range(n_grad - 1, -1, -1):
            if stopped(ticket):
                break
            for e in range(width):
                Q[e], column_sums[e] = 0, 0
            for a in range(n_rows):
                row_sums[a] = _sum_row(T, a, width, column_sums)
            for turn in range(n_proj - 1, -1, -1):
                place = bits[b, step * n_proj + turn]
                pulled = dtype(0)
                for a in range(n_rows):
                    row_pull[a] = -row_sums[a] * inverse_rows[a]
                    pulled += row_pull[a]
                if dense:
                    for e in range(width):
                        column_sums[e] += pulled
                else:
                    for a in range(n_rows):
                        for e in range(n_columns):
                            if cost[b, rows[a], columns[e]] < np.inf:
                                column_sums[e] += row_pull[a]
                _pull_columns(Q, inverse_columns, column_sums, blocks, column_pull, place, n_rows * blocks)
                for e in range(width):
                    column_sums[e] = 0
                a, whole = 0, turn == n_proj - 1
                while a + 4 <= n_rows:
                    _pull_4(T, a, blocks, row_pull, row_sums, column_pull, column_sums, place, whole)
                    a += 4
                if a + 2 <= n_rows:
                    _pull_2(T, a, blocks, row_pull, row_sums, column_pull, column_sums, place, whole)
                    a += 2
                if a < n_rows:
                    _pull_1(T, a, blocks, row_pull, row_sums, column_pull, column_sums, place, whole)
            for e in range(n_rows * width):
                total[e] -= T[e]
                if average:
                    T[e] += g[e]
        for i in range(n):
            for j in range(m):
                out[b, i, j] = 0
        for a in range(n_rows):
            for e in range(n_columns):
                out[b, rows[a], columns[e]] = total[a * width + e] * dtype(step_size)


@helper
def _bit(bits, row, blocks, e):
    return (bits[row * blocks + e // LANES] >> (e % LANES)) & 1


@kernel
def dmm_tangent(cost, bits, direction, n_grad, n_proj, step_size, average, slack, ticket, out):
    """out (B, n, m): the derivative of X along `direction` of the cost, on the path that the bits remember."""
    n, m = cost.shape[1], cost.shape[2]
    dtype = out.dtype.type
    padded = (m + LANES - 1) // LANES * LANES
    rows, columns = np.zeros(n, np.int64), np.zeros(m, np.int64)
    row_counts, column_counts = np.zeros(n, np.int64), np.zeros(m, np.int64)
    c, x = np.zeros(n * padded, out.dtype), np.zeros(n * padded, out.dtype)
    t, total = np.zeros(n * padded, out.dtype), np.zeros(n * padded, out.dtype)
    q, inverse_columns = np.zeros(padded, out.dtype), np.zeros(padded, out.dtype)
    column_sums, column_shift = np.zeros(padded, out.dtype), np.zeros(padded, out.dtype)
    row_shift, row_sums, inverse_rows = np.zeros(n, out.dtype), np.zeros(n, out.dtype), np.zeros(n, out.dtype)
    while True:
        b = take_ticket(ticket)
        if b >= cost.shape[0]:
            break
        n_rows, n_columns, dense = _members(cost[b], slack, rows, columns, row_counts, column_counts)
        blocks = (n_columns + LANES - 1) // LANES
        width = blocks * LANES
        _inverse_counts(column_counts, n_columns, width, slack, inverse_columns)
        _inverse_counts(row_counts, n_rows, n_rows, False, inverse_rows)
        for e in range(n_rows * width):
            c[e], x[e], total[e] = 0, 0, 0
        for a in range(n_rows):
            for e in range(n_columns):
                if cost[b, rows[a], columns[e]] < np.inf:
                    c[a * width + e] = dtype(step_size) * direction[b, rows[a], columns[e]]
        for step in range(n_grad):
            if stopped(ticket):
                break
            for e in range(n_rows * width):
                t[e] = x[e] - c[e]
            for e in range(width):
                q[e], column_shift[e] = 0, 0
            for a in range(n_rows):
                row_shift[a] = 0
            for turn in range(n_proj):
                place = bits[b, step * n_proj + turn]
                for e in range(width):
                    column_sums[e] = 0
                _replay_rows(t, n_rows, blocks, row_shift, row_sums, column_shift, column_sums, place)
                shifted = _replay_columns(q, inverse_columns, column_sums, blocks, column_shift, place, n_rows * blocks)
                for a in range(n_rows):
                    if not dense:
                        shifted = _sum_allowed(cost[b, rows[a]], columns, n_columns, column_shift)
                    row_shift[a] = (row_sums[a] + shifted) * inverse_rows[a]
            place = bits[b, step * n_proj + n_proj - 1]
            for a in range(n_rows):
                for e in range(n_columns):
                    kept = t[a * width + e] if _bit(place, a, blocks, e) else dtype(0)
                    x[a * width + e] = kept + (column_shift[e] - row_shift[a])
                    total[a * width + e] += x[a * width + e]
        share = dtype(1 / n_grad)
        for i in range(n):
            for j in range(m):
                out[b, i, j] = 0
        for a in range(n_rows):
            for e in range(n_columns):
                if cost[b, rows[a], columns[e]] < np.inf:
                    out[b, rows[a], columns[e]] = total[a * width + e] * share if average else x[a * width + e]
