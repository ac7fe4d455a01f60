"""Unit propagation and failed-literal probing, compiled by numba.

Clause c has the places literals[offsets[c] : offsets[c + 1]], sorted; literal l is in clauses[starts[l] : starts[l + 1]]. A
state is `true`, which literals are known to be true, `false`, how many literals of each clause are known to be false, and the
true ones in the order in which they were found: trail[: tail]. `false` counts those of trail[: head].
"""

import numpy as np

from difflayers._numba import helper, kernel


@helper
def close(literals, offsets, clauses, starts, true, false, trail, head, tail):
    """Find what follows; returns the new head and tail, and whether no clause is contradicted. Stops at the first that is."""
    n2 = len(true)
    n = n2 // 2
    while head < tail:
        gone = (trail[head] + n) % n2
        head += 1
        fine = not true[gone]
        for e in range(starts[gone], starts[gone + 1]):
            c = clauses[e]
            false[c] += 1
            left = offsets[c + 1] - offsets[c] - false[c]
            if left == 0:
                fine = False
            elif left == 1:
                for j in range(offsets[c], offsets[c + 1]):
                    literal = literals[j]
                    if not true[literal] and not true[(literal + n) % n2]:
                        true[literal] = True
                        trail[tail] = literal
                        tail += 1
                        break
        if not fine:
            return head, tail, False
    return head, tail, True


@helper
def undo(clauses, starts, true, false, trail, head, tail, base):
    """Take back what follows trail[: base]."""
    n2 = len(true)
    for t in range(base, tail):
        true[trail[t]] = False
        if t < head:
            gone = (trail[t] + n2 // 2) % n2
            for e in range(starts[gone], starts[gone + 1]):
                false[clauses[e]] -= 1


@helper
def probe(literals, offsets, clauses, starts, true, false, trail, tail):
    """Assume each unknown literal in turn: where that contradicts the clauses, its negation follows, until no more does."""
    n2 = len(true)
    last, literal = 0, 0
    while True:
        other = (literal + n2 // 2) % n2
        if not true[literal] and not true[other]:
            true[literal] = True
            trail[tail] = literal
            head, end, fine = close(literals, offsets, clauses, starts, true, false, trail, tail, tail + 1)
            undo(clauses, starts, true, false, trail, head, end, tail)
            if not fine:
                true[other] = True
                trail[tail] = other
                head, tail, fine = close(literals, offsets, clauses, starts, true, false, trail, tail, tail + 1)
                if not fine:
                    return False
                last = literal
        literal = (literal + 1) % n2
        if literal == last:
            return True


@kernel
def propagate(literals, offsets, clauses, starts, probing, true, conflict):
    """Close each row of `true`, (B, 2 n), under the clauses; `conflict`, (B,), tells which rows contradict them.

    Rows where `probing`, (B,), is true are closed under failed-literal probing too.
    """
    n2 = true.shape[1]
    count = len(offsets) - 1
    false = np.zeros(count, np.int64)
    trail = np.zeros(n2 + 1, np.int64)
    for b in range(len(true)):
        false[:] = 0
        tail = 0
        for i in range(n2):
            if true[b, i]:
                trail[tail] = i
                tail += 1
        for c in range(count):
            if offsets[c + 1] - offsets[c] == 1 and not true[b, literals[offsets[c]]]:
                true[b, literals[offsets[c]]] = True
                trail[tail] = literals[offsets[c]]
                tail += 1
        _, tail, fine = close(literals, offsets, clauses, starts, true[b], false, trail, 0, tail)
        if fine and probing[b]:
            fine = probe(literals, offsets, clauses, starts, true[b], false, trail, tail)
        conflict[b] = not fine
