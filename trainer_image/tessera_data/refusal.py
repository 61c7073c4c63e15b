"""Refusal: a build that cannot be done because of what was asked or given. Trying again does not help."""

from __future__ import annotations


class Refused(Exception):
    """A user's mistake. The message is one sentence for people: where, what was found, and the remedy."""

    def __init__(self, where: str, problem: str, remedy: str) -> None:
        super().__init__(f"{where}: {problem}; {remedy}")
        self.where, self.problem, self.remedy = where, problem, remedy
