"""What can go wrong for a user, as sentences with a remedy; only the CLI turns them into an exit code."""

from __future__ import annotations


class BncheckError(Exception):
    """A sentence for a stranger: what happened, where, and what to do next.

    ``exit_code`` follows the command line's contract: 2 usage or scenario error,
    3 something asked for that is unavailable, or a worker that could not do its job.
    """

    exit_code = 2

    def __init__(self, message: str, remedy: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.message}\n  → {self.remedy}" if self.remedy else self.message


class Interrupted(KeyboardInterrupt):
    """Ctrl-C while a run was played: where its finished cells are, and the command that goes on."""

    def __init__(self, run: object, resume: str) -> None:
        super().__init__(f"{run} keeps what is finished\n  → go on with: {resume}")


class UsageError(BncheckError):
    """A command line that cannot be carried out."""


class ScenarioError(BncheckError):
    """A scenario file that is wrong; the message lists every fault as file:line, key, what is allowed."""


class TargetError(BncheckError):
    """A target's name that cannot be understood."""


class RunFolderError(BncheckError):
    """A run folder that is missing, damaged, or not one of ours."""


class BaselineError(BncheckError):
    """A baseline file that is missing or not one of ours."""


class ConfigurationError(BncheckError):
    """``[tool.bncheck]`` or a waiver file that is wrong; every fault is listed as file:line, key, what is allowed."""


class EnvironmentFailure(BncheckError):
    """An environment that could not be made: the target becomes *unavailable* with this reason."""

    exit_code = 3


class TargetsUnavailable(BncheckError):
    """A target named by ``--require`` is not among those of the run."""

    exit_code = 3
