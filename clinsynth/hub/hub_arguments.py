"""Arguments that every push has."""

from __future__ import annotations

import re
from dataclasses import dataclass

REPO_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


@dataclass
class PushArguments:
    """What every push to the Hub has in common."""

    folder: str = ""
    """what is pushed; the word after the command, or --folder"""
    repo_id: str = ""
    """where to, owner/name; is created where it is not there"""
    public: bool = False
    """let everybody see it; without this flag the repository is private"""
    revision: str | None = None
    """branch to push to, created where it is not there; default: main"""
    create_pr: bool = False
    """open a pull request instead of changing the branch"""
    collection: str | None = None
    """title of a collection of yours, created where it is not there, that the repository is put into"""
    verify: bool = False
    """afterwards load what was pushed, from the Hub and in a fresh process"""
    dry_run: bool = False
    """print exactly the files that would leave this machine, and stop"""

    def __post_init__(self) -> None:
        if not self.folder:
            raise ValueError("what to push is missing; name its folder after the command")
        if not REPO_ID.fullmatch(self.repo_id):
            raise ValueError(f"--repo_id must be owner/name, as me/retina, got {self.repo_id!r}")


@dataclass
class TermsArguments:
    """What the user says of the real data and of the licence."""

    data_name: str = ""
    """name of the real data, where the card does not know it"""
    data_url: str = ""
    """where the real data are published"""
    data_license: str = ""
    """licence of the real data, as cc-by-nc-4.0"""
    license: str = ""
    """licence of what is pushed; default: that of the real data"""
    license_override: str = ""
    """why it may be published under --license, although the real data's licence is non-commercial; is printed"""

    def terms(self) -> dict[str, str]:
        """The arguments as the cards take them."""
        names = ("data_name", "data_url", "data_license", "license", "license_override")
        return {name: getattr(self, name) for name in names}
