"""What a trained SATNet layer knows, for any problem whose variables have finitely many values.

`Domains` writes such variables as bits. `search` completes partial assignments, `acceptance_limit` says up to which learnt
objective an answer can be trusted, and whether it can at all.
"""

from difflayers.inference.domains import Domains
from difflayers.inference.evidence import decode
from difflayers.inference.exact import ExactAnswers, solve_exactly
from difflayers.inference.extraction import extract_rules
from difflayers.inference.objective import AcceptanceLimit, Answers, acceptance_limit, learnt_objective
from difflayers.inference.rounding import round_best
from difflayers.inference.rules import Rule, Rules
from difflayers.inference.search import SearchRound, search

__all__ = [
    "AcceptanceLimit",
    "Answers",
    "Domains",
    "ExactAnswers",
    "Rule",
    "Rules",
    "SearchRound",
    "acceptance_limit",
    "decode",
    "extract_rules",
    "learnt_objective",
    "round_best",
    "search",
    "solve_exactly",
]
