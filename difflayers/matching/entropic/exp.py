"""exp in float64 for loops that LLVM vectorises: numba's math.exp is a call for each number."""

import math

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from difflayers._numba import helper_contract

_SHIFT = 1.5 * 2.0**52  # x + _SHIFT has the nearest integer of x in its last bits
_LOG2E = 1 / math.log(2)
_LN2_HIGH = float.fromhex("0x1.62e42fefa0000p-1")  # times any exponent exact
_LN2_LOW = float.fromhex("0x1.cf79abc9e3b3ap-40")
LOWEST = -708.0  # below, the result is 0 (it would be subnormal)
HIGHEST = 709.0  # above, it stays that of HIGHEST, finite


@intrinsic
def _as_bits(typingctx, x):
    def codegen(context, builder, signature, args):
        return builder.bitcast(args[0], ir.IntType(64))

    return types.int64(types.float64), codegen


@intrinsic
def _as_float(typingctx, bits):
    def codegen(context, builder, signature, args):
        return builder.bitcast(args[0], ir.DoubleType())

    return types.float64(types.int64), codegen


# Sums must be as written (the shift rounds), but a product may join its sum.
@helper_contract
def exp(x):
    """exp(x) to 2 units in the last place: x = k log 2 + r, a polynomial of degree 11 in r, 2^k by its bits.

    0 below LOWEST, -inf included; NaN stays. The polynomial is the Chebyshev fit of (exp(r) - 1 - r) / r^2 on
    |r| <= log(2) / 2, which is off by 1.3e-17 of exp(r).
    """
    y = LOWEST if x < LOWEST else x
    y = HIGHEST if y > HIGHEST else y
    shifted = y * _LOG2E + _SHIFT
    k = shifted - _SHIFT
    r = (y - k * _LN2_HIGH) - k * _LN2_LOW
    r2 = r * r
    r4 = r2 * r2
    low = (0.5000000000000001 + 0.16666666666666669 * r) + r2 * (0.041666666666623824 + 0.008333333333330039 * r)
    high = (0.0013888888917367081 + 0.00019841269863171557 * r) + r2 * (
        2.4801521057868204e-05 + 2.7557268276905696e-06 * r
    )
    top = 2.7620201591031547e-07 + 2.5100472505694996e-08 * r
    z = 1.0 + (r + r2 * (low + r4 * (high + r4 * top)))
    z = _as_float(_as_bits(z) + (_as_bits(shifted) << 52))
    return 0.0 if x < LOWEST else z
