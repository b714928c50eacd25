"""The bodies of the calls; a field that is not listed here is an error."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

CommitId = Annotated[str, Field(pattern="^[0-9a-f]{40}$")]
Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Name = Annotated[str, Field(pattern=r"^(?!.*(--|\.\.))[A-Za-z0-9_]([A-Za-z0-9._-]{0,94}[A-Za-z0-9_])?$")]
PathInRepo = Annotated[str, Field(pattern=r"^[^/]", max_length=1000)]
Size = Annotated[int, Field(ge=0)]


class Body(BaseModel):
    """A body without unknown fields."""

    model_config = ConfigDict(extra="forbid", strict=True, regex_engine="python-re")


class NamedRepository(Body):
    """Of DELETE /api/repos/delete."""

    name: Name
    organization: Name | None = None
    type: Literal["model", "dataset", "space"] = "model"


class NewRepository(NamedRepository):
    """Of POST /api/repos/create."""

    visibility: Literal["public", "private", "protected"] | None = None
    private: bool | None = None
    sdk: Literal["gradio", "docker", "static", "streamlit"] | None = None
    hardware: str | None = None
    sleepTimeSeconds: int | None = None  # noqa: N815 (the Hub's name)
    secrets: list[dict[str, str]] = []
    variables: list[dict[str, str]] = []


class Settings(Body):
    """Of PUT …/settings."""

    visibility: Literal["public", "private", "protected"] | None = None
    private: bool | None = None
    gated: Literal["auto", "manual", False] | None = None


class NewBranch(Body):
    """Of POST …/branch/{branch}."""

    startingPoint: str | None = None  # noqa: N815


class NewTag(Body):
    """Of POST …/tag/{revision}."""

    tag: str
    message: str | None = None


class Card(Body):
    """Of POST /api/validate-yaml."""

    content: str
    repoType: Literal["model", "dataset", "space"]  # noqa: N815


class FileToUpload(Body):
    """One file of a preupload: `sample` is base64 of its first 512 bytes."""

    path: PathInRepo
    size: Size
    sample: str


class Preupload(Body):
    """Of POST …/preupload/{revision}; the Hub takes at most 256 files."""

    files: Annotated[list[FileToUpload], Field(min_length=1, max_length=256)]
    gitIgnore: str | None = None  # noqa: N815


class LargeFile(Body):
    """A large file's name and size."""

    oid: Sha256
    size: Size


class LargeFiles(Body):
    """Of POST ….git/info/lfs/objects/batch."""

    operation: Literal["upload"]
    transfers: list[Literal["basic", "multipart", "xet"]]
    objects: Annotated[list[LargeFile], Field(min_length=1)]
    hash_algo: Literal["sha256"]
    ref: dict[Literal["name"], str] | None = None


class Part(Body):
    """One part of a large file, as its PUT was answered."""

    partNumber: Annotated[int, Field(ge=1)]  # noqa: N815
    etag: str


class Completion(Body):
    """What ends an upload in parts."""

    oid: Sha256
    parts: Annotated[list[Part], Field(min_length=1)]


class CommitHeader(Body):
    """First line of a commit."""

    summary: Annotated[str, Field(min_length=1)]
    description: str = ""
    parentCommit: CommitId | None = None  # noqa: N815


class CommitFile(Body):
    """A regular file of a commit."""

    path: PathInRepo
    content: str
    encoding: Literal["base64", "utf-8"]


class CommitLfsFile(Body):
    """A large file of a commit, uploaded before."""

    path: PathInRepo
    algo: Literal["sha256"]
    oid: Sha256
    size: Size | None = None


class CommitDeletion(Body):
    """A file or folder that a commit deletes."""

    path: PathInRepo


class NewDiscussion(Body):
    """Of POST …/discussions."""

    title: Annotated[str, Field(min_length=3)]
    description: str
    pullRequest: bool  # noqa: N815


class Comment(Body):
    """Of POST …/merge."""

    comment: str | None = None


class NewCollection(Body):
    """Of POST /api/collections."""

    title: Annotated[str, Field(min_length=1, max_length=59)]
    namespace: Name
    private: bool = False
    description: Annotated[str, Field(max_length=149)] = ""


class Item(Body):
    """What a collection refers to."""

    id: str
    type: Literal["model", "dataset", "space", "paper", "collection"]


class NewItem(Body):
    """Of POST /api/collections/{slug}/items."""

    item: Item
    note: Annotated[str, Field(max_length=500)] | None = None


class KeyValue(Body):
    """A variable or secret of a space."""

    key: Annotated[str, Field(pattern="^[A-Za-z][A-Za-z0-9_]*$")]
    value: str
    description: str | None = None


class Key(Body):
    """The variable or secret to delete."""

    key: str


class Hardware(Body):
    """Of POST …/hardware."""

    flavor: str
    sleepTimeSeconds: int | None = None  # noqa: N815


COMMIT_LINES: dict[str, type[Any]] = {
    "file": CommitFile,
    "lfsFile": CommitLfsFile,
    "deletedFile": CommitDeletion,
    "deletedFolder": CommitDeletion,
}
