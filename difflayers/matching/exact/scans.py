"""Passes over one row of costs, in vectors of LLVM IR: what the CPU kernel spends its time in.

A reduced cost is h_j = (C_ij + beta_j) - shift in float64, whatever the dtype of C, always in that order of operations: all
comparisons below, and those of the CUDA kernel, see the same bits. Arrays over columns are padded to whole vectors; in the
padding beta is +inf, so that h is, too. LLVM splits a vector into as many registers as the machine needs.
"""

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from difflayers._numba import helper

LANES = 16

_I1, _I32, _I64, _F64 = ir.IntType(1), ir.IntType(32), ir.IntType(64), ir.DoubleType()
_MASK, _INDICES, _NUMBERS = ir.VectorType(_I1, LANES), ir.VectorType(_I64, LANES), ir.VectorType(_F64, LANES)
_INFINITE = ir.Constant(_NUMBERS, [float("inf")] * LANES)
_FIRST = ir.Constant(_INDICES, list(range(LANES)))


@helper
def padded(m):
    """m, rounded up to whole vectors."""
    return -(-m // LANES) * LANES


def _pointer(context, builder, kind, array, offset, pointee):
    data = context.make_array(kind)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [offset]), pointee.as_pointer())


def _load(builder, pointer, align=8):
    value = builder.load(pointer)
    value.align = align
    return value


def _store(builder, value, pointer, align=8):
    builder.store(value, pointer).align = align


def _splat(builder, scalar, vector):
    undefined = ir.Constant(vector, ir.Undefined)
    one = builder.insert_element(undefined, scalar, _I32(0))
    return builder.shuffle_vector(one, undefined, ir.Constant(ir.VectorType(_I32, LANES), [0] * LANES))


def _call(builder, name, result, *args):
    kind = ir.FunctionType(result, [arg.type for arg in args])
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), args)


def _halve(builder, vector, lower):
    """All lanes folded onto one by `lower`."""
    lanes = LANES
    while lanes > 1:
        lanes //= 2
        undefined = ir.Constant(vector.type, ir.Undefined)
        parts = [
            builder.shuffle_vector(
                vector, undefined, ir.Constant(ir.VectorType(_I32, lanes), list(range(start, start + lanes)))
            )
            for start in (0, lanes)
        ]
        vector = lower(builder, *parts)
    return builder.extract_element(vector, _I32(0))


def _lower(builder, a, b):
    return builder.select(builder.fcmp_ordered("<", a, b), a, b)


def _lower_index(builder, a, b):
    return builder.select(builder.icmp_signed("<", a, b), a, b)


def _each_vector(builder, m, body):
    """body(first index, mask of the lanes below m or None for all) for all vectors of m columns."""
    whole = builder.and_(m, _I64(-LANES))
    with cgutils.for_range_slice(builder, _I64(0), whole, _I64(LANES), intp=_I64) as (j, _):
        body(j, None)
    with builder.if_then(builder.icmp_signed("<", whole, m)):
        rest = _splat(builder, builder.sub(m, whole), _INDICES)
        body(whole, builder.icmp_signed("<", _FIRST, rest))


def _costs(builder, pointer, scalar, mask, widen=True):
    """A vector of costs as float64; 0 outside of the mask."""
    vector = ir.VectorType(scalar, LANES)
    size = 4 if isinstance(scalar, ir.FloatType) else 8
    pointer = builder.bitcast(pointer, vector.as_pointer())
    if mask is None:
        costs = _load(builder, pointer, size)
    else:
        name = f"llvm.masked.load.v{LANES}f{8 * size}.p0"
        costs = _call(builder, name, vector, pointer, _I32(size), mask, ir.Constant(vector, [0.0] * LANES))
    return builder.fpext(costs, _NUMBERS) if size == 4 and widen else costs


@intrinsic
def smallest_two(typingctx, cost, offset, beta, m):
    """The smallest h_j = cost[offset + j] + beta[j], the second smallest (as large where two are equal), and the first index
    of the smallest, over j < m."""
    signature = types.Tuple((types.float64, types.float64, types.int64))(cost, offset, beta, m)

    def codegen(context, builder, signature, args):
        cost, offset, beta, m = args
        scalar = context.get_data_type(signature.args[0].dtype)
        row = _pointer(context, builder, signature.args[0], cost, offset, scalar)
        betas = _pointer(context, builder, signature.args[2], beta, _I64(0), _F64)
        least, second = cgutils.alloca_once(builder, _NUMBERS), cgutils.alloca_once(builder, _NUMBERS)
        where = cgutils.alloca_once(builder, _INDICES)
        builder.store(_INFINITE, least)
        builder.store(_INFINITE, second)
        builder.store(_FIRST, where)

        def body(j, mask):
            costs = _costs(builder, builder.gep(row, [j]), scalar, mask)
            h = builder.fadd(costs, _load(builder, builder.bitcast(builder.gep(betas, [j]), _NUMBERS.as_pointer())))
            before = builder.load(least)
            lower = builder.fcmp_ordered("<", h, before)
            larger = builder.select(lower, before, h)
            builder.store(_lower(builder, larger, builder.load(second)), second)
            builder.store(builder.select(lower, h, before), least)
            here = builder.add(_splat(builder, j, _INDICES), _FIRST)
            builder.store(builder.select(lower, here, builder.load(where)), where)

        _each_vector(builder, m, body)
        values, indices = builder.load(least), builder.load(where)
        lowest = _halve(builder, values, _lower)
        winners = builder.fcmp_ordered("==", values, _splat(builder, lowest, _NUMBERS))
        far = ir.Constant(_INDICES, [2**62] * LANES)
        index = _halve(builder, builder.select(winners, indices, far), _lower_index)
        own = builder.icmp_signed("==", indices, _splat(builder, index, _INDICES))
        rest = _lower(builder, builder.load(second), builder.select(own, _INFINITE, values))
        found = [lowest, _halve(builder, rest, _lower), index]
        return context.make_tuple(builder, signature.return_type, found)

    return signature, codegen


@intrinsic
def relax(typingctx, cost, offset, beta, shift, row, m, distance, pred):
    """distance[j] = min(distance[j], (cost[offset + j] + beta[j]) - shift) and pred[j] = row where that lowers it, j < m.

    Returns the least distance."""
    signature = types.float64(cost, offset, beta, shift, row, m, distance, pred)

    def codegen(context, builder, signature, args):
        cost, offset, beta, shift, row, m, distance, pred = args
        scalar = context.get_data_type(signature.args[0].dtype)
        costs_at = _pointer(context, builder, signature.args[0], cost, offset, scalar)
        betas = _pointer(context, builder, signature.args[2], beta, _I64(0), _F64)
        distances = _pointer(context, builder, signature.args[6], distance, _I64(0), _F64)
        preds = _pointer(context, builder, signature.args[7], pred, _I64(0), _I32)
        least = cgutils.alloca_once(builder, _NUMBERS)
        builder.store(_INFINITE, least)
        shifts = _splat(builder, shift, _NUMBERS)
        rows = _splat(builder, builder.trunc(row, _I32), ir.VectorType(_I32, LANES))

        def body(j, mask):
            costs = _costs(builder, builder.gep(costs_at, [j]), scalar, mask)
            h = builder.fadd(costs, _load(builder, builder.bitcast(builder.gep(betas, [j]), _NUMBERS.as_pointer())))
            h = builder.fsub(h, shifts)
            at = builder.bitcast(builder.gep(distances, [j]), _NUMBERS.as_pointer())
            before = _load(builder, at)
            lower = builder.fcmp_ordered("<", h, before)
            after = builder.select(lower, h, before)
            _store(builder, after, at)
            pred_at = builder.bitcast(builder.gep(preds, [j]), rows.type.as_pointer())
            _store(builder, builder.select(lower, rows, _load(builder, pred_at, 4)), pred_at, 4)
            builder.store(_lower(builder, after, builder.load(least)), least)

        _each_vector(builder, m, body)
        return _halve(builder, builder.load(least), _lower)

    return signature, codegen


@intrinsic
def within(typingctx, cost, offset, m, limit):
    """Whether all cost[offset + j], j < m, are allowed: +inf, or finite and, of float64, at most `limit`."""
    signature = types.boolean(cost, offset, m, limit)

    def codegen(context, builder, signature, args):
        cost, offset, m, limit = args
        scalar = context.get_data_type(signature.args[0].dtype)
        row = _pointer(context, builder, signature.args[0], cost, offset, scalar)
        wide = isinstance(scalar, ir.DoubleType)
        vector = ir.VectorType(scalar, LANES)
        infinite = ir.Constant(vector, [float("inf")] * LANES)
        good = cgutils.alloca_once(builder, _MASK)
        builder.store(ir.Constant(_MASK, [1] * LANES), good)
        limits = _splat(builder, limit, _NUMBERS) if wide else infinite

        def body(j, mask):
            costs = _costs(builder, builder.gep(row, [j]), scalar, mask, widen=False)
            fine = builder.fcmp_ordered(">", costs, builder.fneg(limits))
            if wide:
                below = builder.fcmp_ordered("<", costs, limits)
                fine = builder.and_(fine, builder.or_(below, builder.fcmp_ordered("==", costs, infinite)))
            builder.store(builder.and_(fine, builder.load(good)), good)

        _each_vector(builder, m, body)
        bits = ir.IntType(LANES)
        return builder.icmp_unsigned("==", builder.bitcast(builder.load(good), bits), bits(2**LANES - 1))

    return signature, codegen


@intrinsic
def next_equal(typingctx, values, start, m, value):
    """The first j >= start with values[j] == value, or m (or more) if there is none."""
    signature = types.int64(values, start, m, value)

    def codegen(context, builder, signature, args):
        values, start, m, value = args
        data = _pointer(context, builder, signature.args[0], values, _I64(0), _F64)
        wanted = _splat(builder, value, _NUMBERS)
        function = builder.function
        head, body, found, done = (function.append_basic_block(name) for name in ("head", "body", "found", "done"))
        bits_type = ir.IntType(LANES)
        base = builder.and_(start, _I64(-LANES))
        # lanes before start do not count
        keep = builder.icmp_signed(">=", _FIRST, _splat(builder, builder.sub(start, base), _INDICES))
        entry = builder.block
        builder.branch(head)
        builder.position_at_end(head)
        j, mask = builder.phi(_I64), builder.phi(_MASK)
        j.add_incoming(base, entry)
        mask.add_incoming(keep, entry)
        builder.cbranch(builder.icmp_signed("<", j, m), body, done)
        builder.position_at_end(body)
        here = _load(builder, builder.bitcast(builder.gep(data, [j]), _NUMBERS.as_pointer()))
        equal = builder.and_(builder.fcmp_ordered("==", here, wanted), mask)
        bits = builder.bitcast(equal, bits_type)
        following = builder.add(j, _I64(LANES))
        j.add_incoming(following, body)
        mask.add_incoming(ir.Constant(_MASK, [1] * LANES), body)
        builder.cbranch(builder.icmp_unsigned("!=", bits, bits_type(0)), found, head)
        builder.position_at_end(found)
        lane = builder.zext(builder.cttz(bits, _I1(1)), _I64)
        index = builder.add(j, lane)
        builder.branch(done)
        builder.position_at_end(done)
        result = builder.phi(_I64)
        result.add_incoming(m, head)
        result.add_incoming(index, found)
        return result

    return signature, codegen
