"""Which tests one worker runs, where two do: those of a file, and those that share an engine."""

from pathlib import PurePosixPath

from xdist.scheduler import LoadScopeScheduling

_ENGINES = PurePosixPath("tests/end_to_end")
# Of that folder, but with engines of their own.
_OWN = {"test_cannot_start.py", "test_same_tokens_when_disturbed.py", "test_up.py"}


class ByWhatTheyShare(LoadScopeScheduling):  # type: ignore[misc]  # published without types
    """Hands out units of work, each to one worker."""

    def _split_scope(self, nodeid: str) -> str:
        file = PurePosixPath(nodeid.partition("::")[0])
        if file.parent == _ENGINES and file.name not in _OWN:
            return str(_ENGINES)
        return str(file)
