"""What Flink's Python workers run; only `udfs.flink` knows Flink."""

import sys

# PyFlink's process workers put a method of their own in the place of `print`, and numba refuses
# to load where a builtin is not found in the module it says it is from: let it be found there.
_home = sys.modules.get(print.__module__ or "")
if _home is not None and not hasattr(_home, "print"):
    _home.print = print  # type: ignore[attr-defined]
