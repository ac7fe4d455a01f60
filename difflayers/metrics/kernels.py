"""Masks as bits, 64 pixels a word: how much of them overlaps, and how much of one's boundary lies near the other's.

The disk of a radius is a stack of rows, each of some half width. So a boundary dilated by a disk is the union, over the rows
of the disk, of the boundary dilated along its own rows and moved up or down: a few operations for 64 pixels at a time, and
as many for a noisy mask as for a smooth one.
"""

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from difflayers._numba import helper, kernel, take_ticket

_WORD = 64


@intrinsic
def _nonzero_bits(typingctx, pixels, start):
    """A word whose bit i says whether pixels[start + i], of flat uint8, is not 0."""

    def codegen(context, builder, signature, args):
        data = context.make_array(signature.args[0])(context, builder, args[0]).data
        vector = ir.VectorType(ir.IntType(8), _WORD)
        loaded = builder.load(builder.bitcast(builder.gep(data, [args[1]]), vector.as_pointer()))
        loaded.align = 1
        return builder.bitcast(builder.icmp_unsigned("!=", loaded, ir.Constant(vector, None)), ir.IntType(_WORD))

    return types.uint64(pixels, start), codegen


@intrinsic
def _count(typingctx, word):
    """How many bits of a word are set."""

    def codegen(context, builder, signature, args):
        return builder.ctpop(args[0])

    return types.uint64(types.uint64), codegen


@helper
def _last_bits(pixels, start, size):
    """`_nonzero_bits` of fewer than 64 pixels."""
    bits = np.uint64(0)
    for i in range(size):
        bits |= np.uint64(pixels[start + i] != 0) << np.uint64(i)
    return bits


@kernel
def overlap(truth, prediction, void, size, voids, ticket, out):
    """out[b] = J of masks b, `size` pixels each, of flat uint8. `void` holds `voids` masks: one for each, for all, or none."""
    every = ~np.uint64(0)
    while True:
        b = take_ticket(ticket)
        if b >= len(out):
            return
        both = either = np.uint64(0)
        at = (b % voids) * size if voids else 0
        for start in range(0, size - _WORD + 1, _WORD):
            g = _nonzero_bits(truth, b * size + start)
            m = _nonzero_bits(prediction, b * size + start)
            counted = ~_nonzero_bits(void, at + start) if voids else every
            both += _count(g & m & counted)
            either += _count((g | m) & counted)
        rest = size % _WORD
        if rest:
            g = _last_bits(truth, (b + 1) * size - rest, rest)
            m = _last_bits(prediction, (b + 1) * size - rest, rest)
            counted = ~_last_bits(void, at + size - rest, rest) if voids else every
            both += _count(g & m & counted)
            either += _count((g | m) & counted)
        out[b] = both / either if either else 1.0


@kernel
def boundary(truth, prediction, void, height, width, voids, half_widths, ticket, out):
    """out[b] = F of masks b; as `overlap`. half_widths[d]: of the disk, in the rows d above and below its centre."""
    words = (width + _WORD - 1) // _WORD
    # One word of zeros before and behind each row, so that all its words have neighbours.
    shape = (height, words + 2)
    mask, g, m = np.zeros(shape, np.uint64), np.zeros(shape, np.uint64), np.zeros(shape, np.uint64)
    buffers = np.zeros(shape, np.uint64), np.zeros(shape, np.uint64), np.zeros(shape, np.uint64)
    size = height * width
    while True:
        b = take_ticket(ticket)
        if b >= len(out):
            return
        at = (b % voids) * size if voids else 0
        _pack(truth, b * size, void, at, voids, width, mask)
        of_g = _boundary(mask, width, g)
        _pack(prediction, b * size, void, at, voids, width, mask)
        of_m = _boundary(mask, width, m)
        if of_g == 0 or of_m == 0:
            out[b] = 1.0 if of_g == of_m else 0.0
            continue
        precision = _near(m, g, half_widths, buffers) / of_m
        recall = _near(g, m, half_widths, buffers) / of_g
        out[b] = 2 * precision * recall / (precision + recall) if precision + recall > 0 else 0.0


@helper
def _pack(pixels, start, void, void_start, voids, width, mask):
    words, rest = width // _WORD, width % _WORD
    for y in range(len(mask)):
        at, void_at = start + y * width, void_start + y * width
        for w in range(words):
            bits = _nonzero_bits(pixels, at + w * _WORD)
            mask[y, w + 1] = bits & ~_nonzero_bits(void, void_at + w * _WORD) if voids else bits
        if rest:
            bits = _last_bits(pixels, at + words * _WORD, rest)
            mask[y, words + 1] = bits & ~_last_bits(void, void_at + words * _WORD, rest) if voids else bits


@helper
def _boundary(mask, width, boundary):
    """The pixels that differ from a neighbour to the right, below, or both, and how many there are.

    At the border of the picture a pixel is its own neighbour.
    """
    height, words = len(mask), mask.shape[1] - 2
    last, beyond = np.uint64((width - 1) % _WORD), np.uint64(width % _WORD)
    inside = (np.uint64(2) << last) - np.uint64(1)  # of the last word; 2 << 63 is 0
    for y in range(height):  # the last pixel once more behind it
        mask[y, words + 1] = 0
        mask[y, width // _WORD + 1] |= ((mask[y, words] >> last) & np.uint64(1)) << beyond
    total = np.uint64(0)
    for y in range(height):
        below = min(y + 1, height - 1)
        for w in range(1, words + 1):
            here, under = mask[y, w], mask[below, w]
            right = here >> np.uint64(1) | mask[y, w + 1] << np.uint64(63)
            under_right = under >> np.uint64(1) | mask[below, w + 1] << np.uint64(63)
            boundary[y, w] = (here ^ right) | (here ^ under) | (here ^ under_right)
        boundary[y, words] &= inside
        for w in range(1, words + 1):
            total += _count(boundary[y, w])
    return total


@helper
def _near(some, others, half_widths, buffers):
    """How many of `some` boundary pixels have one of the `others` within the disk."""
    height, words = len(some), some.shape[1] - 2
    spread, wider, within = buffers
    top, bottom = height, 0
    for y in range(height):
        any_here = np.uint64(0)
        for w in range(words + 2):
            spread[y, w] = others[y, w]
            within[y, w] = 0
            any_here |= others[y, w]
        if any_here:
            top, bottom = min(top, y), y + 1
    half = 0
    for row in range(len(half_widths) - 1, -1, -1):  # the narrowest first
        while half < half_widths[row]:
            _widen(spread[top:bottom], wider[top:bottom])
            spread, wider = wider, spread
            half += 1
        up, down = max(top, row), min(bottom, height - row)
        if up < bottom:
            _add(within[up - row : bottom - row], spread[up:bottom])
        if row > 0 and top < down:
            _add(within[top + row : down + row], spread[top:down])
    near = np.uint64(0)
    for y in range(height):
        for w in range(1, words + 1):
            near += _count(some[y, w] & within[y, w])
    return near


@helper
def _widen(bits, wider):
    """Each row dilated by one pixel to either side."""
    here, out = bits.ravel(), wider.ravel()
    before, after = here[:-2], here[2:]
    for i in range(len(before)):
        middle = here[i + 1]
        left = middle << np.uint64(1) | before[i] >> np.uint64(63)
        right = middle >> np.uint64(1) | after[i] << np.uint64(63)
        out[i + 1] = middle | left | right
    for y in range(len(bits)):
        wider[y, 0] = wider[y, -1] = 0


@helper
def _add(total, bits):
    """Unite the second into the first."""
    a, b = total.ravel(), bits.ravel()
    for i in range(len(b)):
        a[i] |= b[i]
