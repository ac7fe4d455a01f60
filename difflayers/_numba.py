"""What all CPU kernels are compiled with, and where the compiled code is kept."""

import functools
import warnings
from pathlib import Path

from llvmlite import ir
from numba import config, njit, types
from numba.core.caching import FunctionCache
from numba.extending import intrinsic

# Helpers are only called from compiled code; they compile sooner without wrappers for callers from Python and C. LLVM
# inlines each of them into its kernel. A call would go to the helper's own machine code in the process that compiles, and
# to the kernel's copy of it in one that loads the kernel from disk: these two may sum in different orders.
_OPTIONS = {
    "nogil": True,
    "error_model": "numpy",
    "no_cpython_wrapper": True,
    "no_cfunc_wrapper": True,
    "forceinline": True,
}

helper = njit(**_OPTIONS)
# Products may join their sums; all else is as written.
helper_contract = njit(fastmath={"contract"}, **_OPTIONS)
# Sums may be vectorised; inf and NaN keep their meaning.
helper_fast = njit(fastmath={"contract", "reassoc", "nsz"}, **_OPTIONS)

STOP = 2**62
"""A ticket counter that shows at least this says: stop at once, not after the samples in work."""


def kernel(function):
    """Compile at the first call, and keep the code on disk for the next process where that can be done.

    Nothing is compiled or written before the first call.
    """
    if config.DISABLE_JIT:
        return _refuse(function)
    dispatcher = njit(nogil=True, error_model="numpy", no_cfunc_wrapper=True)(function)
    dispatcher._cache = _Cache(function)
    return dispatcher


def _refuse(function):
    """The kernels are no Python: pointers and atomics have no meaning there."""

    @functools.wraps(function)
    def refuse(*args, **options):
        raise RuntimeError(
            "the kernels of difflayers must be compiled, but NUMBA_DISABLE_JIT=1 is set: unset it to run them, or use the "
            "plain loops in the oracle modules (difflayers.satnet.oracle) for debugging"
        )

    return refuse


class _Cache:
    """numba's cache of one function, but a cache that cannot be used is no error: the function is compiled anew.

    numba makes the folder as soon as a function is declared, raises where no folder can be written, and passes on whatever
    unpickling a damaged file or writing to a full disk raises. It also looks at the function's own file only: the stamp here
    is that of all files of its folder and of this one, as kernels call helpers there.
    """

    def __init__(self, function):
        self._function = function
        self._opened = False
        self._cache = None

    def _open(self):
        if not self._opened:
            self._opened = True
            try:
                self._cache = FunctionCache(self._function)
                index = self._cache._cache_file
                index._source_stamp = (index._source_stamp, _stamp(Path(self._function.__code__.co_filename).parent))
            except Exception as error:
                _warn_once(error)
        return self._cache

    @property
    def cache_path(self):
        return self._cache and self._cache.cache_path

    def load_overload(self, signature, context):
        """The compiled function, or None."""
        cache = self._open()
        if cache is None:
            return None
        try:
            return cache.load_overload(signature, context)
        except Exception as error:  # whatever a damaged pickle raises
            _warn_once(error)
            self.flush()
            return None

    def save_overload(self, signature, data):
        """Keep what was compiled, if the disk takes it."""
        cache = self._open()
        if cache is None:
            return
        try:
            cache.save_overload(signature, data)
        except Exception as error:
            _warn_once(error)

    def flush(self):
        """Forget what is on disk."""
        try:
            if self._cache is not None:
                self._cache.flush()
        except OSError as error:
            _warn_once(error)

    def enable(self):
        pass

    def disable(self):
        self._opened, self._cache = True, None


@functools.cache
def _stamp(folder):
    """Changes when a helper does that the kernels of a folder may call."""
    stats = ((path, path.stat()) for path in (Path(__file__), *sorted(folder.glob("*.py"))))
    return tuple((path.name, stat.st_mtime_ns, stat.st_size) for path, stat in stats)


@functools.cache
def _warn(message: str) -> None:
    warnings.warn(message, RuntimeWarning, stacklevel=6)


def _warn_once(error: Exception) -> None:
    _warn(
        "difflayers keeps no compiled kernels on disk, so that each process compiles them anew (seconds): set NUMBA_CACHE_DIR "
        f"to a folder that can be written and has room. The reason: {type(error).__name__} in numba's cache"
    )


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


@intrinsic
def stopped(typingctx, counter):
    """Whether counter[0] says that the caller was interrupted: asked between sweeps, so that a long solve can be."""

    def codegen(context, builder, signature, args):
        data = context.make_array(signature.args[0])(context, builder, args[0]).data
        now = builder.load_atomic(data, "monotonic", 8)
        return builder.icmp_signed(">=", now, ir.IntType(64)(STOP))

    return types.boolean(counter), codegen
