"""The repository that something is pushed to: made private, gated and with its branch before any file is sent."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from clinsynth.hub.hub_arguments import PushArguments
from clinsynth.hub.hub_errors import TOKEN, explained, patiently


@dataclass(frozen=True)
class Target:
    """Where a push goes.

    Attributes:
        kind: "model", "dataset" or "space".
        sdk: of a space: "gradio" or "static".
        gated: "auto" or "manual"; None leaves it as it is.
    """

    repo_id: str
    kind: str
    public: bool = False
    revision: str | None = None
    create_pr: bool = False
    gated: str | None = None
    sdk: str | None = None

    @classmethod
    def of(cls, args: PushArguments, kind: str, gated: str | None = None, sdk: str | None = None) -> Target:
        return cls(args.repo_id, kind, args.public, args.revision, args.create_pr, gated, sdk)

    @property
    def names(self) -> dict[str, Any]:
        """Repository and kind, as huggingface_hub names them."""
        return {"repo_id": self.repo_id, "repo_type": self.kind}

    @property
    def url(self) -> str:
        from huggingface_hub import constants

        folder = "" if self.kind == "model" else f"{self.kind}s/"
        return f"{constants.ENDPOINT}/{folder}{self.repo_id}"


def prepare(target: Target, api: Any) -> None:
    """Make the repository ready to be committed to; what was there before is not changed.

    Raises:
        ValueError: no or a wrong token, no right to write, or the repository's visibility is not what was asked for.
    """
    with explained(f"logging in to {api.endpoint}"):
        patiently(api.whoami)
    with explained(f"creating {target.repo_id}"):
        patiently(
            lambda: api.create_repo(**target.names, private=not target.public, exist_ok=True, space_sdk=target.sdk)
        )
    with explained(f"looking at {target.repo_id}"):
        check_visibility(target, patiently(lambda: api.repo_info(**target.names)))
        use_xet_where_there_is_some(target, api)
    with explained(f"setting up {target.repo_id}"):
        if target.gated:
            patiently(lambda: api.update_repo_settings(**target.names, gated=target.gated))
        if target.revision not in (None, "main") and not target.create_pr:
            patiently(lambda: api.create_branch(**target.names, branch=target.revision, exist_ok=True))


def check_visibility(target: Target, info: Any) -> None:
    """Raise a ValueError where a repository that was there is public and must not be, or the other way round."""
    if info.private and target.public:
        raise ValueError(
            f"{target.repo_id} is private, and its older files would be public too; make it public in its settings on "
            "the Hub first, or leave --public out"
        )
    if not info.private and not target.public:
        raise ValueError(
            f"{target.repo_id} is public; give --public if everybody may see what is pushed, or make it private in "
            "its settings on the Hub first"
        )


def use_xet_where_there_is_some(target: Target, api: Any) -> None:
    """Turn Xet off for this process where the server has no Xet storage, and say so.

    Raises:
        ValueError: the token may not write.
    """
    from huggingface_hub import constants, get_session
    from huggingface_hub.utils import build_hf_headers, hf_raise_for_status
    from huggingface_hub.utils._runtime import is_xet_available

    if not is_xet_available() or target.create_pr:  # who opens a pull request need not have the right to write
        return
    url = f"{api.endpoint}/api/{target.kind}s/{target.repo_id}/xet-write-token/main"
    answer = get_session().get(url, headers=build_hf_headers())
    if answer.status_code == 404:
        constants.HF_HUB_DISABLE_XET = True
        print(f"{api.endpoint} has no Xet storage; files go there by Git LFS")
    elif answer.status_code == 403:
        raise ValueError(f"the token may not write to {target.repo_id}; {TOKEN} to it")
    else:
        hf_raise_for_status(answer)


def collect(target: Target, title: str, api: Any) -> str:
    """Put the repository into the collection of that title, and return the collection's address."""
    owner = target.repo_id.partition("/")[0]
    state = f"the {target.kind} itself is published: start the same command again to add it to the collection"
    with explained(f"adding {target.repo_id} to the collection {title!r}", state):
        found = patiently(
            lambda: api.create_collection(title, namespace=owner, private=not target.public, exists_ok=True)
        )
        patiently(lambda: api.add_collection_item(found.slug, target.repo_id, target.kind, exists_ok=True))
    return str(found.url)
