"""The expression language of server filters and macros (execution.md 4 and 5, data.md 2).

    info.os.platform == "linux" && info.cpu.cores >= 4
    files[.size > 1024].filename
    params.mode in ["full", "quick"] ? "yes" : "no"

JavaScript's operators and precedence; literals (text, number, true, false, null, arrays,
objects), paths (`a.b`, `a["b"]`, `a[0]`), filters (`list[.key == 1]`: the elements for which it
is true) and named functions. Reading and evaluating are both bounded in length, depth and work,
whatever text or data comes in. Must not know macros, jobs or servers.

    reader      text -> tree          values      JSON values as truth, number, text, path step
    tree        the nodes             functions   min, bytes, match, ...
    evaluation  tree + data -> value
"""

from domain.expressions.evaluation import Work, evaluate
from domain.expressions.functions import Resolver
from domain.expressions.reader import parse
from domain.expressions.tree import Expression
from domain.expressions.values import ExpressionError, to_json, to_text, truthy

__all__ = [
    "Expression",
    "ExpressionError",
    "Resolver",
    "Work",
    "evaluate",
    "parse",
    "to_json",
    "to_text",
    "truthy",
]
