"""What all CPU kernels are compiled with."""

from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

# Helpers are only called from compiled code; they compile sooner without wrappers for callers from Python and C.
_OPTIONS = {"nogil": True, "error_model": "numpy", "no_cpython_wrapper": True, "no_cfunc_wrapper": True}

helper = njit(**_OPTIONS)
# Sums may be vectorised; inf and NaN keep their meaning.
helper_fast = njit(fastmath={"contract", "reassoc", "nsz"}, **_OPTIONS)
kernel = njit(nogil=True, error_model="numpy", no_cfunc_wrapper=True, cache=True)


@helper_fast
def dot(x, y, size):
    """The sum of x[i] y[i] over i < size, in their dtype."""
    total = x.dtype.type(0)
    for i in range(size):
        total += x[i] * y[i]
    return total


@intrinsic
def take_ticket(typingctx, counter):
    """Atomically read and increase counter[0]: how threads share out the problems of a batch."""

    def codegen(context, builder, signature, args):
        data = context.make_array(signature.args[0])(context, builder, args[0]).data
        return builder.atomic_rmw("add", data, ir.IntType(64)(1), "monotonic")

    return types.int64(counter), codegen
