"""Unit propagation, failed-literal probing and partitions of solutions, compiled by numba.

In propagation, clause c has the places literals[offsets[c] : offsets[c + 1]], sorted; literal l is in
clauses[starts[l] : starts[l + 1]]. A state is `true`, which literals are known to be true, `false`, how many literals of each
clause are known to be false, and the true ones in the order in which they were found: trail[: tail]. `false` counts those of
trail[: head].
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


@helper
def meet(support, a, b):
    """Whether there is a solution in which both literals are true."""
    shared = np.uint64(0)
    for word in range(support.shape[1]):
        shared |= support[a, word] & support[b, word]
    return shared != 0


@helper
def add(literal, depth, support, rows, starts, chosen, covered, fits, fitting):
    """Make it the set's literal number `depth`; those that are never true with any of the set fit. Returns how many do."""
    chosen[depth] = literal
    for e in range(starts[literal], starts[literal + 1]):
        covered[depth, rows[e]] = True
    number = 0
    for i in range(fitting):
        if not meet(support, fits[depth, i], literal):
            fits[depth, number] = fits[depth, i]
            number += 1
    return number


@kernel
def partitions(support, rows, starts, count, first, steps, found):
    """The sets of literals, `first` the lowest of them, of which exactly one is true in each solution (Knuth's algorithm X).

    Literal l is true in the solutions rows[starts[l] : starts[l + 1]], of `count`; they are the bits of support[l]. A set is
    grown at the solution that the fewest literals can be added for, by each of these in turn.

    Sets go into `found`, (most sets, 1 + most literals): their size, then their literals. Returns how many there are, and the
    steps left; the search ends early where no step or no place is left.
    """
    n = len(support)
    most, largest = found.shape[0], found.shape[1] - 1
    chosen = np.zeros(largest, np.int64)
    covered = np.zeros((largest, count), np.bool_)
    covering = np.zeros(largest, np.int64)
    fits = np.zeros((largest, n), np.int64)
    fitting = np.zeros(largest, np.int64)
    tried = np.zeros((largest, n), np.int64)
    trying = np.zeros(largest, np.int64)
    options = np.zeros(count, np.int64)
    for i in range(first + 1, n):
        fits[0, i - first - 1] = i
    fitting[0] = add(first, 0, support, rows, starts, chosen, covered, fits, n - first - 1)
    covering[0] = starts[first + 1] - starts[first]
    number, depth, grown = 0, 0, False
    while depth >= 0 and steps > 0 and number < most:
        if not grown:
            options[:] = 0
            for i in range(fitting[depth]):
                literal = fits[depth, i]
                for e in range(starts[literal], starts[literal + 1]):
                    options[rows[e]] += 1
            fewest, least = 0, n + 1
            for row in range(count):
                if not covered[depth, row] and options[row] < least:
                    fewest, least = row, options[row]
            trying[depth] = 0
            if depth + 1 < largest:
                for i in range(fitting[depth]):
                    literal = fits[depth, i]
                    if (support[literal, fewest >> 6] >> np.uint64(fewest & 63)) & np.uint64(1):
                        tried[depth, trying[depth]] = literal
                        trying[depth] += 1
            steps -= 1 + fitting[depth]
            grown = True
        if trying[depth] == 0:
            depth -= 1
            continue
        trying[depth] -= 1
        literal = tried[depth, trying[depth]]
        covering[depth + 1] = covering[depth] + starts[literal + 1] - starts[literal]
        if covering[depth + 1] == count:
            found[number, 0] = depth + 2
            found[number, 1 : depth + 2] = chosen[: depth + 1]
            found[number, depth + 2] = literal
            number += 1
            continue
        fits[depth + 1, : fitting[depth]] = fits[depth, : fitting[depth]]
        covered[depth + 1] = covered[depth]
        fitting[depth + 1] = add(literal, depth + 1, support, rows, starts, chosen, covered, fits, fitting[depth])
        steps -= 1 + fitting[depth]
        depth += 1
        grown = False
    return number, steps
