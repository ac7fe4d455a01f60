"""Small matrix products with their accumulators in registers, as LLVM IR, and the few vector operations around them.

The kernels of SATNet are written on top of these. All arrays of a call have one dtype, and sums are accumulated in it, always
in the same order: a result depends on no thread and no block size.
"""

import llvmlite.binding as llvm
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from difflayers._numba import helper, helper_fast, kernel, stopped, take_ticket

ROWS = 6  # rows of a register tile: 6 x 2 vectors of accumulators fill a register file of 16
VECTOR_BYTES = 64 if llvm.get_host_cpu_features().get("avx512f", False) else 32

_FUSED = ("contract",)  # lets LLVM fuse multiply and add, and nothing else


def _vector_ops(context, builder, dtype):
    """The LLVM types and the load/store/broadcast builders for one vector of `dtype`."""
    scalar = context.get_data_type(dtype)
    itemsize = dtype.bitwidth // 8
    lanes = VECTOR_BYTES // itemsize
    vector = ir.VectorType(scalar, lanes)

    def address(array_type, array, offset, pointee):
        data = context.make_array(array_type)(context, builder, array).data
        return builder.bitcast(builder.gep(data, [offset]), pointee.as_pointer())

    def load(pointer):
        value = builder.load(pointer)
        value.align = itemsize
        return value

    def store(value, pointer):
        builder.store(value, pointer).align = itemsize

    def broadcast(value):
        undefined = ir.Constant(vector, ir.Undefined)
        one = builder.insert_element(undefined, value, ir.IntType(32)(0))
        return builder.shuffle_vector(one, undefined, ir.Constant(ir.VectorType(ir.IntType(32), lanes), None))

    return scalar, vector, lanes, address, load, store, broadcast


def _make_tile_subtract(vectors):
    """out[r, :] -= sum_{j < count} A[rows[t + r], j0 + j] X[x0 + j, c : c + width] for r < ROWS, width = `vectors` vectors."""

    @intrinsic
    def tile_subtract(typingctx, a, a_cols, rows, t, j0, count, x, x_cols, x0, c, out, out_cols):
        signature = types.void(a, a_cols, rows, t, j0, count, x, x_cols, x0, c, out, out_cols)

        def codegen(context, builder, signature, args):
            a, a_cols, rows, t, j0, count, x, x_cols, x0, c, out, out_cols = args
            a_type, rows_type, x_type, out_type = (signature.args[i] for i in (0, 2, 6, 10))
            scalar, vector, lanes, address, load, store, broadcast = _vector_ops(context, builder, a_type.dtype)
            index = t.type
            a_row = []
            for r in range(ROWS):
                row = builder.load(address(rows_type, rows, builder.add(t, index(r)), index))
                a_row.append(address(a_type, a, builder.add(builder.mul(row, a_cols), j0), scalar))
            x_start = address(x_type, x, builder.add(builder.mul(x0, x_cols), c), scalar)
            out_at = [
                [
                    address(
                        out_type,
                        out,
                        builder.add(builder.mul(index(r), out_cols), builder.add(c, index(v * lanes))),
                        vector,
                    )
                    for v in range(vectors)
                ]
                for r in range(ROWS)
            ]
            total = [[cgutils.alloca_once(builder, vector) for _ in range(vectors)] for _ in range(ROWS)]
            for r in range(ROWS):
                for v in range(vectors):
                    builder.store(load(out_at[r][v]), total[r][v])
            with cgutils.for_range(builder, count) as loop:
                x_row = builder.gep(x_start, [builder.mul(loop.index, x_cols)])
                xs = [
                    load(builder.bitcast(builder.gep(x_row, [index(v * lanes)]), vector.as_pointer()))
                    for v in range(vectors)
                ]
                for r in range(ROWS):
                    factor = broadcast(builder.load(builder.gep(a_row[r], [loop.index])))
                    for v in range(vectors):
                        product = builder.fmul(factor, xs[v], flags=_FUSED)
                        builder.store(builder.fsub(builder.load(total[r][v]), product, flags=_FUSED), total[r][v])
            for r in range(ROWS):
                for v in range(vectors):
                    store(builder.load(total[r][v]), out_at[r][v])
            return context.get_dummy_value()

        return signature, codegen

    return tile_subtract


def _make_rank_add(vectors):
    """W[j, c : c + width] += sum_{r < ROWS} A[rows[t + r], j] D[r, c : c + width] for j < count."""

    @intrinsic
    def rank_add(typingctx, a, a_cols, rows, t, count, d, d_cols, c, w, w_cols):
        signature = types.void(a, a_cols, rows, t, count, d, d_cols, c, w, w_cols)

        def codegen(context, builder, signature, args):
            a, a_cols, rows, t, count, d, d_cols, c, w, w_cols = args
            a_type, rows_type, d_type, w_type = (signature.args[i] for i in (0, 2, 5, 8))
            scalar, vector, lanes, address, load, store, broadcast = _vector_ops(context, builder, a_type.dtype)
            index = t.type
            a_row = []
            for r in range(ROWS):
                row = builder.load(address(rows_type, rows, builder.add(t, index(r)), index))
                a_row.append(address(a_type, a, builder.mul(row, a_cols), scalar))
            change = [
                [
                    load(
                        address(
                            d_type,
                            d,
                            builder.add(builder.mul(index(r), d_cols), builder.add(c, index(v * lanes))),
                            vector,
                        )
                    )
                    for v in range(vectors)
                ]
                for r in range(ROWS)
            ]
            w_start = address(w_type, w, c, scalar)
            with cgutils.for_range(builder, count) as loop:
                w_row = builder.gep(w_start, [builder.mul(loop.index, w_cols)])
                at = [
                    builder.bitcast(builder.gep(w_row, [index(v * lanes)]), vector.as_pointer()) for v in range(vectors)
                ]
                total = [load(pointer) for pointer in at]
                for r in range(ROWS):
                    factor = broadcast(builder.load(builder.gep(a_row[r], [loop.index])))
                    for v in range(vectors):
                        product = builder.fmul(factor, change[r][v], flags=_FUSED)
                        total[v] = builder.fadd(total[v], product, flags=_FUSED)
                for v in range(vectors):
                    store(total[v], at[v])
            return context.get_dummy_value()

        return signature, codegen

    return rank_add


_tile_subtract_1, _tile_subtract_2 = _make_tile_subtract(1), _make_tile_subtract(2)
_rank_add_1, _rank_add_2 = _make_rank_add(1), _make_rank_add(2)


@helper
def subtract_product(a, a_cols, rows, t, j0, count, x, x0, tile, lanes):
    """tile -= A[rows[t : t + ROWS], j0 : j0 + count] X[x0 : x0 + count], in strips of two vectors and a last one of one."""
    columns = tile.shape[1]
    c = 0
    while c + 2 * lanes <= columns:
        _tile_subtract_2(a, a_cols, rows, t, j0, count, x, columns, x0, c, tile, columns)
        c += 2 * lanes
    if c < columns:
        _tile_subtract_1(a, a_cols, rows, t, j0, count, x, columns, x0, c, tile, columns)


@helper
def add_outer(a, a_cols, rows, t, count, change, w, lanes):
    """W += A[rows[t : t + ROWS], :]' change."""
    columns = change.shape[1]
    c = 0
    while c + 2 * lanes <= columns:
        _rank_add_2(a, a_cols, rows, t, count, change, columns, c, w, columns)
        c += 2 * lanes
    if c < columns:
        _rank_add_1(a, a_cols, rows, t, count, change, columns, c, w, columns)


@helper_fast
def dot_rows(x, i, y, j):
    """x[i] . y[j] for rows of two matrices."""
    total = x.dtype.type(0)
    for c in range(x.shape[1]):
        total += x[i, c] * y[j, c]
    return total


@helper_fast
def add_scaled(factor, x, i, out, j):
    """out[j] += factor x[i] for rows of two matrices."""
    for c in range(x.shape[1]):
        out[j, c] += factor * x[i, c]


@helper
def clear(x, rows):
    for i in range(rows):
        for c in range(x.shape[1]):
            x[i, c] = 0


@kernel
def gram(S, ticket, C):
    """C = S S' (N, N), a ticket for each strip of columns: its rows from the diagonal down, and their mirror."""
    N, m = S.shape
    lanes = VECTOR_BYTES // S.itemsize
    width = 2 * lanes
    strip = np.zeros((m, width), S.dtype)
    tile = np.zeros((ROWS, width), S.dtype)
    rows = np.zeros(N + ROWS, np.int64)
    for a in range(N + ROWS):
        rows[a] = min(a, N - 1)
    flat = S.reshape(-1)
    while not stopped(ticket):
        first = take_ticket(ticket) * width
        if first >= N:
            break
        count = min(width, N - first)
        for c in range(width):
            for j in range(m):
                strip[j, c] = S[first + c, j] if c < count else 0
        for t in range(first // ROWS * ROWS, N, ROWS):
            clear(tile, ROWS)
            subtract_product(flat, m, rows, t, 0, m, strip, 0, tile, lanes)
            for r in range(min(ROWS, N - t)):
                for c in range(min(count, t + r - first + 1)):
                    C[t + r, first + c] = -tile[r, c]
                    C[first + c, t + r] = -tile[r, c]
