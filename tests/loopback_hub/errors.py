"""The answers of the Hub that are errors: status, `X-Error-Code` and words as `huggingface_hub` reads them."""


class HubError(Exception):
    """An error that the Hub answers with and that a correct client can meet.

    Args:
        status: HTTP status.
        message: what went wrong; sent as `X-Error-Message` and as `error` of the body.
        code: `X-Error-Code`, from which `huggingface_hub` chooses its exception.
        more: further fields of the body.
    """

    def __init__(self, status: int, message: str, code: str | None = None, **more: object) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.more = status, message, code, more


class MalformedCallError(HubError):
    """A call that no correct client makes: unknown, or with a body or a parameter that the Hub does not take."""

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(status, message)


def unauthenticated() -> HubError:
    """No token where one is needed."""
    return HubError(401, "Invalid username or password.")


def wrong_token() -> HubError:
    """A token that belongs to nobody; the words are those by which `huggingface_hub` knows the case."""
    return HubError(401, "Invalid credentials in Authorization header")


def forbidden(what: str) -> HubError:
    """A known user who may not do this."""
    return HubError(403, f"You don't have the rights to {what}")


def repository_not_found() -> HubError:
    """No such repository, or a private one of somebody else: the answer does not tell which."""
    return HubError(404, "Repository not found", "RepoNotFound")


def revision_not_found(revision: str) -> HubError:
    """Neither branch nor tag nor commit."""
    return HubError(404, f"Invalid rev id: {revision}", "RevisionNotFound")


def entry_not_found(path: str) -> HubError:
    """No such file or folder in this revision."""
    return HubError(404, f"{path} does not exist on this revision", "EntryNotFound")


def gated(repo: str, anonymous: bool) -> HubError:
    """A file of a gated repository, for somebody whom the owner has not let in."""
    if anonymous:
        return HubError(401, f"Access to {repo} is restricted. You must be authenticated to access it.", "GatedRepo")
    return HubError(403, f"Access to {repo} is restricted and you are not in the authorized list.", "GatedRepo")
