"""What can go wrong for a user, as sentences with a remedy; only the CLI turns them into an exit code."""

from __future__ import annotations

import signal
from collections.abc import Iterable


class BncheckError(Exception):
    """A sentence for a stranger: what happened, where, and what to do next.

    ``exit_code`` follows the command line's contract: 2 usage or scenario error,
    3 something asked for that is unavailable, or a worker that could not do its job.
    """

    exit_code = 2
    usual = ""  # the remedy where the one who raises it knows none that is nearer

    def __init__(self, message: str, remedy: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy or self.usual

    def __str__(self) -> str:
        return f"{self.message}\n  → {self.remedy}" if self.remedy else self.message


class Stopped(KeyboardInterrupt):
    """Asked to end by a signal other than Ctrl-C's: SIGTERM, or SIGHUP of a terminal that was closed."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


class Interrupted(KeyboardInterrupt):
    """A signal while a run was played: where its finished cells are, and the command that goes on."""

    def __init__(self, run: object, resume: str, number: int = signal.SIGINT) -> None:
        super().__init__(f"{run} keeps what is finished\n  → go on with: {resume}")
        self.number = number


class UsageError(BncheckError):
    """A command line that cannot be carried out."""


class NothingToJudge(BncheckError):
    """A thing of the user's that holds nothing that bncheck looks at."""

    exit_code = 3


class ScenarioError(BncheckError):
    """A scenario file that is wrong; the message lists every fault as file:line, key, what is allowed."""


class TargetError(BncheckError):
    """A target's name that cannot be understood."""


class RunFolderError(BncheckError):
    """A run folder that is missing, damaged, or not one of ours."""

    usual = "Copy the run folder again from where it was made, or run it again."


class CheckpointError(BncheckError):
    """A checkpoint that is missing, damaged, hostile, or of no format that bncheck reads."""

    usual = "save the weights alone, with the framework's own call, and give that file"


class BaselineError(BncheckError):
    """A baseline file that is missing or not one of ours."""


class ConfigurationError(BncheckError):
    """``[tool.bncheck]`` or a waiver file that is wrong; every fault is listed as file:line, key, what is allowed."""


class Refused(BncheckError):
    """The system would not write what a run needs: a full disk, say."""

    exit_code = 3


class EnvironmentFailure(BncheckError):
    """An environment that could not be made: the target becomes *unavailable* with this reason."""

    exit_code = 3


class TargetsUnavailable(BncheckError):
    """A target named by ``--require`` is not among those of the run."""

    exit_code = 3


def nearest(word: object, known: Iterable[str]) -> str:
    """The known word spelt most like ``word``, in any case of letters; an empty string when none is close."""
    from difflib import get_close_matches  # here: a command without a fault starts without it

    by_lower = {item.lower(): item for item in known if item}
    found = get_close_matches(str(word).lower(), by_lower, n=1, cutoff=0.5)
    return by_lower[found[0]] if found else ""
