"""Uploading an export to the Hugging Face Hub, when asked to."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi

_NAME = re.compile(r"[\w.-]+")


class UploadError(OSError):
    """An export was not uploaded; it is on the disk."""


@dataclass(frozen=True)
class HubTarget:
    """Where on the Hub an export goes; the token is what ``hf auth login`` or HF_TOKEN gives.

    Args:
        repo: ``owner/name``; ``{role}`` is filled in.
        private: Whether a repository that is made for it is private; one that is there and public is rejected then.

    Raises:
        ValueError: It is no ``owner/name``.
    """

    repo: str
    private: bool = True

    def __post_init__(self) -> None:
        """Reject what is no name of a repository."""
        owner, _, name = self.name("role").partition("/")
        if not _NAME.fullmatch(owner) or not _NAME.fullmatch(name):
            raise ValueError(f"repo: must be owner/name, with no other field than {{role}}, got {self.repo!r}")

    def name(self, role: str) -> str:
        """The repository of a role."""
        return self.repo.replace("{role}", role)


def push_to_hub(directory: Path, target: HubTarget, role: str, message: str, api: Any = None) -> str:
    """Upload an export; a repository that is not there is made.

    Args:
        directory: The export.
        target: Where it goes.
        role: Whose policy it is.
        message: Of the commit.
        api: A client of the Hub; None makes one.

    Returns:
        The repository's name.

    Raises:
        UploadError: The Hub rejects or is not reached, or the repository is there and public where a private one is
            asked for.
    """
    api = HfApi() if api is None else api
    repo = target.name(role)
    try:
        api.create_repo(repo, private=target.private, exist_ok=True)
        is_private = api.repo_info(repo).private
        if is_private or not target.private:
            api.upload_folder(repo_id=repo, folder_path=str(directory), commit_message=message)
    except Exception as error:  # whatever the network or the Hub does, the export is on the disk
        raise UploadError(f"{str(directory)!r} is complete, and was not uploaded to {repo}: {error}") from error
    if target.private and not is_private:
        raise UploadError(
            f"{str(directory)!r} was not uploaded: {repo} is there and public; make it private, or ask for a public one"
        )
    return repo
