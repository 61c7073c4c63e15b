"""Refused: the command will not do what was asked, and says what to change."""

from __future__ import annotations

from tessera_api.exit_codes import ExitCode


class Refused(Exception):
    """Nothing was changed. The text is for people: what is wrong, and what to do; `code` is the command's exit code."""

    def __init__(self, text: str, code: ExitCode = ExitCode.WRONG_INPUT) -> None:
        super().__init__(text)
        self.code = code
