"""Unit propagation, compiled by numba."""

import numpy as np

from difflayers._numba import kernel


@kernel
def propagate(literals, offsets, clauses, starts, true, conflict):
    """Close each row of `true`, (B, 2 n), under the clauses; `conflict`, (B,), tells which rows contradict them.

    Clause c has the places literals[offsets[c] : offsets[c + 1]], sorted; literal l is in clauses[starts[l] : starts[l + 1]].
    """
    n2 = true.shape[1]
    n = n2 // 2
    count = len(offsets) - 1
    false = np.zeros(count, np.int64)
    queue = np.zeros(n2, np.int64)
    for b in range(len(true)):
        false[:] = 0
        tail, head = 0, 0
        for i in range(n2):
            if true[b, i]:
                queue[tail] = i
                tail += 1
        for c in range(count):
            if offsets[c + 1] - offsets[c] == 1 and not true[b, literals[offsets[c]]]:
                true[b, literals[offsets[c]]] = True
                queue[tail] = literals[offsets[c]]
                tail += 1
        while head < tail:
            gone = (queue[head] + n) % n2
            head += 1
            if true[b, gone]:
                conflict[b] = True
            for e in range(starts[gone], starts[gone + 1]):
                c = clauses[e]
                false[c] += 1
                length = offsets[c + 1] - offsets[c]
                if false[c] == length:
                    conflict[b] = True
                elif false[c] == length - 1:
                    for j in range(offsets[c], offsets[c + 1]):
                        left = literals[j]
                        other = (left + n) % n2
                        if not true[b, left] and not true[b, other]:
                            true[b, left] = True
                            queue[tail] = left
                            tail += 1
                            break
