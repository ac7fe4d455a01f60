"""The passes over a matrix in a round of Dykstra's projections, forwards, replayed and backwards, in LLVM's vectors."""

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from difflayers._numba import helper

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


def _in_tiles(replay):
    """All rows, in tiles of four, then two, then one."""
    four, two, one = (_make_project_rows(height, replay) for height in (4, 2, 1))

    @helper
    def rows(t, n_rows, blocks, row_shift, row_sums, column_shift, column_sums, bits):
        a = 0
        while a + 4 <= n_rows:
            four(t, a, blocks, row_shift, row_sums, column_shift, column_sums, bits)
            a += 4
        if a + 2 <= n_rows:
            two(t, a, blocks, row_shift, row_sums, column_shift, column_sums, bits)
            a += 2
        if a < n_rows:
            one(t, a, blocks, row_shift, row_sums, column_shift, column_sums, bits)

    return rows


project_rows, replay_rows = _in_tiles(replay=False), _in_tiles(replay=True)


@intrinsic
def project_columns(typingctx, q, inverse_counts, column_sums, blocks, shift, bits, bits_base):
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


pull_4, pull_2, pull_1 = (_make_pull_rows(height) for height in (4, 2, 1))


@intrinsic
def replay_columns(typingctx, q, inverse_counts, column_sums, blocks, shift, bits, bits_base):
    """The derivative of `project_columns`: q' = q + column_sums inverse_counts where the bits are set, else 0."""
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
def pull_columns(typingctx, Q, inverse_counts, pull, blocks, column, bits, bits_base):
    """The adjoint of `project_columns`, with s = Q - pull where the bits are set, else 0: column = s inverse_counts,
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
